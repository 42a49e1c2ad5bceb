"""Figures of the benchmark, and earlier results that they are drawn from."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pointcept.engines.benchmark.command import argument_parser, benchmark_main
from pointcept.engines.benchmark.kernels import KernelTime
from pointcept.engines.benchmark.measure import Row
from pointcept.engines.benchmark.plan import Settings
from pointcept.engines.benchmark.plot import check_plot, draw_growth, growth_figure
from pointcept.engines.benchmark.result import Result, read_result, write_result
from pointcept.engines.benchmark.stages import StageCost
from pointcept.utils.errors import ConfigError, DataError
from tests.paths import CONFIGS

STUDENT = str(CONFIGS / "semantic_kitti" / "small_student.py")
SIZES = (10_000, 100_000, 1_000_000)
drawing = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib: pip install '.[plot]'"
)


def row(voxels: int, **changes: Any) -> Row:
    numbers = {"median_ms": 20 + voxels / 1e4, "busy_ms": voxels / 1e4, "peak_bytes": 100 * voxels, **changes}
    return replace(
        Row("a/b", f"synthetic-{voxels}", "infer", "auto", "fp16", 1, points=voxels, voxels=voxels), **numbers
    )


ROWS = [row(n, config=name, median_ms=factor * n) for name, factor in (("s", 1e-4), ("t", 3e-4)) for n in SIZES]
RESULT = Result(
    environment={"torch": "2.6", "git": {"commit": None, "dirty": False}, "torch_threads": 2},
    settings=Settings(iterations=3, stages=True),
    rows=[
        row(n, top=(KernelTime("k", 2.0, 0.5),), stages=(StageCost("head", 1.0, 2.0, 3, 4, 5.0, 6.0),)) for n in SIZES
    ],
)


def benchmark(*words: str) -> int:
    return benchmark_main(argument_parser().parse_args(list(words)))


# --- the figure ---


@drawing
def test_the_figure_shows_what_was_measured() -> None:
    figure = growth_figure([*ROWS, row(5, config="once"), row(7, points=0), row(9, median_ms=None, error="failed")])
    time, memory = figure.axes
    assert {(axis.get_xscale(), axis.get_yscale()) for axis in figure.axes} == {("log", "log")}
    assert (time.get_ylabel(), memory.get_ylabel()) == ("ms per call", "peak GiB")
    assert [line.get_linestyle() for line in time.lines] == ["-", "--", "-", "--"]
    assert time.lines[2].get_xdata().tolist() == list(SIZES)
    assert time.lines[2].get_ydata() == pytest.approx([3, 30, 300])
    assert memory.lines[0].get_ydata() == pytest.approx([100 * n / 2**30 for n in SIZES])
    assert time.lines[0].get_color() == time.lines[1].get_color() == memory.lines[0].get_color()
    assert time.lines[0].get_color() != time.lines[2].get_color()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [
        f"{name} infer fp16 auto: time 1.00 (1.00), GPU busy 1.00 (1.00), memory 1.00 (1.00)" for name in "st"
    ]


@drawing
def test_what_is_unknown_is_left_out() -> None:
    on_the_cpu = [row(n, busy_ms=None, peak_bytes=None, scans=4) for n in SIZES]
    figure = growth_figure(on_the_cpu)
    (axis,) = figure.axes
    assert len(axis.lines) == 1
    (text,) = figure.legends[0].get_texts()
    assert text.get_text() == "a/b x 4 infer fp16 auto: time 0.38 (0.60)"


@drawing
def test_many_networks_can_be_told_apart() -> None:
    figure = growth_figure([replace(r, config=f"{r.config}{i}") for i in range(8) for r in ROWS])
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[1].lines}
    assert len(looks) == 16


@drawing
def test_a_file_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "a.svg", tmp_path / "b.svg"
    draw_growth(ROWS, first)
    draw_growth(ROWS, second)
    text = first.read_text()
    assert text == second.read_text()
    assert "peak GiB" in text, "text that can be searched"
    draw_growth(ROWS, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    with pytest.raises(ConfigError, match=r"--plot needs matplotlib .*: pip install '\.\[plot\]'"):
        benchmark("--config", STUDENT, "--points", "400", "800", "--plot", "a.svg")


@drawing
@pytest.mark.parametrize("name", ["a", "a.sgv", "a.json"])
def test_a_format_that_is_unknown(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"--plot {name}: .*svg"):
        check_plot(Path(name))
    check_plot(Path("a.SVG"))


# --- results ---


def test_a_result_comes_back(tmp_path: Path) -> None:
    write_result(tmp_path / "a.json", RESULT)
    assert read_result(tmp_path / "a.json") == RESULT
    saved = json.loads((tmp_path / "a.json").read_text())
    assert saved["growth"][0]["voxels"] == [SIZES[0], SIZES[-1]]
    for key in ("stages", "peak_tflops", "peak_gbs"):
        del saved["settings"][key]
    for entry in saved["rows"]:
        del entry["stages"]
    (tmp_path / "old.json").write_text(json.dumps(saved))
    old = read_result(tmp_path / "old.json")
    assert (old.settings, old.rows[0].stages) == (Settings(iterations=3), ())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"rows": [{}]}', '{"rows": [{"top": [], "colour": 1}]}'])
def test_another_file_is_no_result(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: no result of tools/benchmark\.py"):
        read_result(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"b\.json: no result .* FileNotFoundError"):
        read_result(tmp_path / "b.json")


# --- the command ---


@drawing
def test_a_figure_of_what_is_measured_and_of_an_earlier_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured, again, out = tmp_path / "a.svg", tmp_path / "b.svg", str(tmp_path / "result.json")
    quick = ("--iterations", "1", "--warmup", "0", "--out", out)
    assert benchmark("--config", STUDENT, "--points", "300", "900", *quick, "--plot", str(measured)) == 0
    table = capsys.readouterr().out.partition("config  ")[2]
    assert "small_student infer fp32 auto: time" in measured.read_text()
    assert benchmark("--from", out, "--plot", str(again)) == 0
    assert capsys.readouterr().out.partition("config  ")[2] == table
    assert again.read_text() == measured.read_text()


@drawing
def test_nothing_to_draw(tmp_path: Path) -> None:
    write_result(tmp_path / "a.json", replace(RESULT, rows=RESULT.rows[:1]))
    assert benchmark("--from", str(tmp_path / "a.json")) == 0
    with pytest.raises(DataError, match="no network was measured on two or more sizes"):
        benchmark("--from", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.svg"))


def test_rows_that_failed_earlier_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = row(10, median_ms=None, error="out of memory")
    write_result(tmp_path / "a.json", replace(RESULT, rows=[*RESULT.rows, failed]))
    assert benchmark("--from", str(tmp_path / "a.json")) == 0, "nothing has failed now"
    text = capsys.readouterr().out
    assert "CPU, 2 thread(s), torch 2.6, commit unknown, 3 iterations after 5, seed 0, floors at 989 TFLOP/s" in text
    assert "failed:\n  a/b synthetic-10 x 1, infer fp16 auto: out of memory" in text
    assert "stages of a/b synthetic-10000 x 1, infer fp16 auto" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a --config FILE to measure, or an earlier result --from FILE"),
        (("--from", "a.json", "--config", STUDENT, "--out", "b"), "leave out --config, --out, or --from"),
        (("--from", "a.json", "--stages"), "leave out --stages, or --from"),
        pytest.param(("--config", STUDENT, "--plot", "a.svg"), "two or more sizes: --points", marks=drawing),
        pytest.param(
            ("--config", STUDENT, "--points", "9", "9", "--plot", "a.svg"), "two or more sizes", marks=drawing
        ),
    ],
)
def test_mistakes_are_said_before_anything_runs(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark(*words)
