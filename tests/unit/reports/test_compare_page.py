"""Several runs and studies side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import write_run

from pointcept.reports import compare_command
from pointcept.reports.study import read_study
from pointcept.utils.errors import ConfigError, DataError
from tests.paths import REPO

STUDY = REPO / "docs" / "studies" / "semantic_kitti"


def compare(*arguments: str) -> None:
    compare_command.main(compare_command.argument_parser().parse_args(list(arguments)))


def test_runs_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, right in (("a", 0.9), ("b", 0.6)):
        write_run(tmp_path / name, right)
    page = tmp_path / "page.html"
    compare(f"teacher={tmp_path / 'a'}", f"student={tmp_path / 'b'}", "--out", str(page))
    out, html = capsys.readouterr().out, page.read_text()
    assert "mIoU, 3 classes" in out
    assert out.endswith(f"{page}\n")
    results = [json.loads((tmp_path / name / "result" / "miou_precise.json").read_text()) for name in "ab"]
    one, other = (100 * result["classes"][1]["iou_precise"] for result in results)
    assert f"<td>{one:.2f}</td><td>{other:.2f}</td>" in html
    assert f"{other - one:+.2f}</span>" in html
    assert "differences are those from teacher" in html
    with pytest.raises(ConfigError, match=r"expected a file that ends in \.html"):
        compare(str(tmp_path / "a"), "--out", str(tmp_path / "page.pdf"))
    with pytest.raises(ConfigError, match="two runs are called"):
        compare(str(tmp_path / "a"), str(tmp_path / "a"))


def test_the_kept_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(f"kitti={STUDY}", "--out", str(tmp_path / "page.html"))
    assert "seg" in capsys.readouterr().out
    html = (tmp_path / "page.html").read_text()
    assert "Study kitti" in html
    assert "traffic-sign" in html


def test_a_study_counts_whole_seeds_alone(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for fold, seed in ((0, 0), (1, 0), (0, 1)):
        counts = [[[8, 2], [0, 10]]] if fold == 0 else [[[10, 0], [5, 5]]]
        entry = {"row": "r", "fold": fold, "seed": seed, "names": ["x", "y"], "matrices": {"s": counts}}
        (tmp_path / "results" / f"r.fold{fold}.seed{seed}.json").write_text(json.dumps(entry))
    (row,) = read_study(tmp_path)
    assert row.values == (pytest.approx((18 / 25 + 15 / 22) / 2),)
    assert row.iou["x"] == pytest.approx(18 / 25)
    assert row.spread is None
    assert "1 seeds lack folds" in row.note
    (tmp_path / "results" / "r.fold2.seed0.json").write_text("{}")
    with pytest.raises(DataError, match=r"r\.fold2\.seed0\.json is damaged"):
        read_study(tmp_path)


def test_an_ablation(tmp_path: Path) -> None:
    runs = {"0": {"precise": 0.5}, "1": {"precise": 0.7}}
    rows = {"kld": {"losses": ["KLDLoss"], "runs": runs, "precise": {"n": 2, "mean": 0.6, "std": 0.1}}}
    (tmp_path / "ablation.json").write_text(json.dumps({"rows": rows}))
    (row,) = read_study(tmp_path)
    assert (row.mean, row.spread) == (pytest.approx(0.6), pytest.approx(0.1414, abs=1e-3))
    (tmp_path / "ablation.json").write_text(json.dumps({"rows": {"kld": {}}}))
    with pytest.raises(DataError, match="damaged or of another version"):
        read_study(tmp_path)
