"""The benchmark: what is counted, what is timed, what the table says, and that one bad row does not end it."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointcept.datasets import collate_fn
from pointcept.engines.benchmark import kernels, measure, workloads
from pointcept.engines.benchmark.command import argument_parser, benchmark_main
from pointcept.engines.benchmark.flops import count_flops, parameter_count
from pointcept.engines.benchmark.inputs import Input, _square_spiral, make_batch, synthetic_scan
from pointcept.engines.benchmark.kernels import covered, profile_device, summarise
from pointcept.engines.benchmark.measure import Row, describe, wall_times
from pointcept.engines.benchmark.plan import Settings, plan_cases, read_configs
from pointcept.engines.benchmark.table import add_ratios, exponent, format_rows, growth
from pointcept.engines.benchmark.workloads import DTYPES, Workload, build_workload, float32_products
from pointcept.engines.inference import Precision
from pointcept.engines.launch import exit_code
from pointcept.models import MODELS, build_model
from pointcept.ops import api as ops
from pointcept.utils.errors import ConfigError, DataError
from tests.paths import CONFIGS

SMALL = CONFIGS / "semantic_kitti"
STUDENT, TEACHER = str(SMALL / "small_student.py"), str(SMALL / "small_teacher.py")
DISTILL = str(SMALL / "small_distill_full.py")


def arguments(*more: str, config: str = STUDENT) -> Any:
    quick = ["--iterations", "2", "--warmup", "0", "--profiled", "1"]
    points = [] if {"--points", "--scan"} & set(more) else ["--points", "400"]
    return argument_parser().parse_args(["--config", config, *quick, *points, *more])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A SemanticKITTI scan of 500 points."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 4, (500, 4)).astype(np.float32)
    points[:, 3] = rng.random(500)
    points.tofile(tmp_path / "000000.bin")
    return tmp_path / "000000.bin"


# --- the command ---


def test_the_paper_rows_come_out_of_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "result.json"
    failed = benchmark_main(arguments("--config", TEACHER, "--mode", "infer", "train", "--out", str(out)))
    assert failed == 0
    text, saved = capsys.readouterr().out, json.loads(out.read_text())
    rows = [Row(**{**row, "top": ()}) for row in saved["rows"]]
    assert [(row.config, row.mode) for row in rows] == [
        (f"semantic_kitti/small_{name}", mode) for name in ("student", "teacher") for mode in ("infer", "train")
    ]
    assert text.endswith(format_rows(rows)), "the JSON file holds all that the table shows"
    for row in rows:
        assert row.median_ms is not None
        assert row.p99_ms is not None
        assert 0 < row.median_ms <= row.p99_ms
        assert row.fps == pytest.approx(1000 / row.median_ms)
        assert (row.launches, row.busy_ms, row.peak_bytes, row.error) == (None, None, None, None)
    assert [round((row.parameters or 0) / 1e6, 2) for row in rows] == [0.19, 0.19, 1.25, 1.25]
    assert (rows[0].flops, rows[0].voxels) == (rows[1].flops, rows[1].voxels)
    assert "student  synthetic-400  infer  fp32   auto         1" in text
    facts = saved["environment"]
    assert {"torch", "git", "command", "device", "packages"} <= facts.keys()
    assert (facts["seed"], saved["settings"]["iterations"]) == (0, 2)


def test_labels_are_compared_with_those_of_the_plain_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "result.json"
    command = arguments("--mode", "infer", "engine", "train", "--dtype", "fp32", "bf16", "--out", str(out))
    assert benchmark_main(command) == 0
    found = {(row["mode"], row["dtype"]): row["agreement"] for row in json.loads(out.read_text())["rows"]}
    assert found["infer", "fp32"] == 1
    assert found["engine", "fp32"] > 0.999
    assert 0.9 < found["infer", "bf16"] <= 1
    assert 0.9 < found["engine", "bf16"] <= 1
    assert found["train", "fp32"] is found["train", "bf16"] is None
    assert "100.000" in capsys.readouterr().out

    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(workloads, "_labels", no_memory)
    assert benchmark_main(command) == 0
    assert all(row["agreement"] is None for row in json.loads(out.read_text())["rows"])


@pytest.mark.parametrize("mode", ["infer", "engine"])
def test_scores_that_are_not_finite_make_a_row_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Both would answer with the same class, so that the row would say 100 %."""
    loaded = workloads._loaded

    def spoiled(*given: Any) -> Any:
        model = loaded(*given)
        model.seg_head.bias.data[3] = math.nan  # type: ignore[union-attr, operator, index]
        return model

    monkeypatch.setattr(workloads, "_loaded", spoiled)
    out = tmp_path / "result.json"
    assert benchmark_main(arguments("--mode", mode, "--out", str(out))) == 1
    (row,) = json.loads(out.read_text())["rows"]
    assert "NaN" in row["error"]
    assert row["agreement"] is row["median_ms"] is None


def test_distillation_and_steps(capsys: pytest.CaptureFixture[str]) -> None:
    modes = ("--mode", "infer", "engine", "distill", "step")
    assert benchmark_main(arguments("--config", DISTILL, *modes, "--batch", "2")) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("semantic_kitti/")]
    assert [line[0].split("small_")[1] + " " + line[2] for line in lines] == [
        "student infer",
        "student engine",
        "student step",
        "distill_full infer",
        "distill_full engine",
        "distill_full distill",
        "distill_full step",
    ]
    flops = [float(line[8]) for line in lines]
    assert len({*flops[:5]}) == 1
    assert flops[4] < flops[5] == flops[6], "a distiller runs both networks"


def test_a_backend_that_cannot_run_is_a_row_and_not_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scan: Path
) -> None:
    out = tmp_path / "result.json"
    backends = ("--backend", "torch", "sparse_convolution=triton", "auto")
    code: list[int] = []
    args = arguments("--scan", str(scan), *backends, "--out", str(out))
    assert exit_code(lambda: code.append(benchmark_main(args))) == 0
    assert code == [1]
    first, bad, last = json.loads(out.read_text())["rows"]
    reason = "ConfigError: sparse_convolution: the backend 'triton' was asked for by --backend, but it runs on cuda"
    assert bad["error"].startswith(reason)
    assert bad["median_ms"] is None
    assert bad["voxels"] == first["voxels"] == last["voxels"]
    assert (first["speedup"], bad["speedup"]) == (1.0, None)
    assert last["speedup"] == pytest.approx(first["median_ms"] / last["median_ms"])
    text = capsys.readouterr().out
    assert "failed:\n  semantic_kitti/small_student 000000.bin x 1, infer fp32 sparse_convolution=triton: Conf" in text
    assert "speed-up" in text


def test_running_out_of_memory_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hungry(_cfg: Any, _precision: Precision) -> Workload:
        def call(_batch: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 TiB " + "x" * 1000)

        return Workload([], call)

    monkeypatch.setitem(workloads.MODES, "train", hungry)
    out = tmp_path / "result.json"
    assert benchmark_main(arguments("--mode", "train", "infer", "--out", str(out))) == 1
    rows = json.loads(out.read_text())["rows"]
    assert rows[0]["error"].startswith("out of memory: CUDA out of memory. Tried to allocate 2 TiB")
    assert len(rows[0]["error"]) < 330
    assert rows[1]["error"] is None
    assert describe(AssertionError()) == "AssertionError"


def test_memory_counts_from_the_warm_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """There CUDA graphs are captured; what only prepares the batch comes before."""
    order: list[str] = []

    def workload(_cfg: Any, _precision: Precision) -> Workload:
        return Workload(
            [], lambda _: order.append("call"), lambda batch: order.append(f"prepare {len(batch['offset'])}")
        )

    monkeypatch.setitem(workloads.MODES, "infer", workload)
    monkeypatch.setattr(measure.device, "reset_peak_memory", lambda: order.append("reset"))
    monkeypatch.setattr(measure.device, "peak_memory", lambda: order.append("peak") or 5)
    assert benchmark_main(arguments("--warmup", "3", "--iterations", "2")) == 0
    assert order == ["prepare 1", "reset", *["call"] * 5, "peak"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--backend", "tritn"), "--backend: unknown backend 'tritn': did you mean 'triton'"),
        (("--baseline", "torch"), "--baseline torch: Allowed: auto"),
        (("--batch", "0"), "a batch has at least one scan"),
        (("--iterations", "0"), "iterations and profiled must be at least 1"),
        (("--mode", "distill"), "mode distill applies to none of semantic_kitti/small_student"),
        (("--points", "0"), "a cloud of 0 points"),
        (("--out", "/proc/x.json"), "--out: cannot write in /proc"),
        (("--out", "/tmp"), "--out: /tmp is a folder, expected a file"),
    ],
)
def test_mistakes_are_said_before_anything_runs(more: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark_main(arguments(*more))


def test_a_missing_scan(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no scan file or folder"):
        benchmark_main(arguments("--scan", str(tmp_path / "no.bin")))


def test_weights_are_loaded_and_otherwise_seeded(tmp_path: Path) -> None:
    cfg = read_configs([STUDENT], {})["semantic_kitti/small_student"]
    model = MODELS.build(cfg.model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weight.pth")
    loaded = build_workload("infer", read_configs([STUDENT], {"weight": str(tmp_path / "weight.pth")})[
        "semantic_kitti/small_student"
    ], Precision())  # fmt: skip
    assert torch.equal(loaded.networks[0].state_dict()["seg_head.weight"], model.state_dict()["seg_head.weight"])


def test_plan(scan: Path, tmp_path: Path) -> None:
    configs = read_configs([STUDENT, DISTILL], {})
    assert configs["semantic_kitti/small_distill_full"].model.teacher_weight == "random"
    wanted = read_configs([DISTILL], {"model.teacher_weight": "a.pth"})
    assert wanted["semantic_kitti/small_distill_full"].model.teacher_weight == "a.pth"
    other = tmp_path / "b" / "000000.bin"
    other.parent.mkdir()
    other.write_bytes(scan.read_bytes())
    scans = [scan, other, other.parent]
    cases = plan_cases(configs, scans, [10], ["infer", "distill"], ["auto", "torch"], ["fp32", "bf16"], [1, 4])
    assert len(cases) == 4 * (1 + 2) * 2 * 2 * 2
    assert list(dict.fromkeys(case.source.name for case in cases)) == [str(scan), str(other), "b", "synthetic-10"]
    assert [(case.dtype, case.backend) for case in cases[:4]] == [
        ("fp32", "auto"), ("fp32", "torch"), ("bf16", "auto"), ("bf16", "torch"),
    ]  # fmt: skip


def test_every_dtype_runs_where_the_cpu_has_it() -> None:
    cfg = read_configs([STUDENT], {})["semantic_kitti/small_student"]
    batch = make_batch(cfg, Input("a", points=600), 1)
    logits = {}
    for name in ("fp32", "tf32", "bf16"):
        precision, tf32 = DTYPES[name]
        torch.manual_seed(0)
        with float32_products(tf32):
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
            logits[name] = build_workload("infer", cfg, precision).call(batch)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.equal(logits["fp32"], logits["tf32"])
    assert logits["bf16"].dtype == torch.bfloat16


def test_training_modes_compute_gradients_and_step_moves_weights() -> None:
    cfg = read_configs([DISTILL], {})["semantic_kitti/small_distill_full"]
    batch = make_batch(cfg, Input("a", points=600), 2)
    for mode, moves in (("train", False), ("distill", False), ("step", True)):
        workload = build_workload(mode, cfg, Precision())
        student = workload.networks[0]
        before = [parameter.detach().clone() for parameter in student.parameters()]
        assert math.isfinite(float(workload.call(batch)))
        assert all(parameter.grad is not None for parameter in student.parameters())
        same = [torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True)]
        assert any(same) != moves


def test_losses_alone_are_those_of_the_distillation() -> None:
    cfg = read_configs([DISTILL], {})["semantic_kitti/small_distill_full"]
    batch = make_batch(cfg, Input("a", points=600), 2)
    torch.manual_seed(0)
    workload = build_workload("losses", cfg, Precision())
    assert workload.before_timing is not None
    workload.before_timing(batch)
    call = workload.call
    first = call(batch)
    assert math.isfinite(first)
    assert torch.equal(call(batch), first)
    torch.manual_seed(0)
    model = build_model(cfg.model).train()
    losses = model(batch)["losses"]
    expected = losses["KLDLoss"] + losses["GradGuidedLoss"] + losses["TopoLoss"]
    torch.testing.assert_close(first, expected)


# --- inputs ---


def test_a_batch_is_what_the_transforms_of_the_config_make(scan: Path, tmp_path: Path) -> None:
    cfg = read_configs([STUDENT], {})["semantic_kitti/small_student"]
    (tmp_path / "000001.bin").write_bytes(scan.read_bytes()[: 400 * 16])
    files = (scan, tmp_path / "000001.bin")
    batch = make_batch(cfg, Input("folder", files), 3)
    ends = batch["offset"].tolist()
    assert len(ends) == 3
    assert ends[0] == ends[2] - ends[1] > ends[1] - ends[0], "after the last scan the first comes again"
    voxels = np.unique(np.floor(np.fromfile(scan, np.float32).reshape(-1, 4)[:, :3] / 0.4), axis=0)
    assert ends[0] == len(voxels)
    assert batch["feat"].shape == (ends[2], 4)
    assert len(batch["segment"].unique()) == 19
    again = make_batch(cfg, Input("folder", files), 3)
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    cfg.data.val.transform = cfg.data.val.transform[:-1]
    with pytest.raises(ConfigError, match="gives no tensor feat"):
        make_batch(cfg, Input("a", files), 1)


@pytest.mark.parametrize("points", [1, 700, 60_000])
def test_a_street_of_any_size(points: int) -> None:
    scan = synthetic_scan(points)
    assert scan["coord"].shape == (points, 3)
    assert scan["strength"].shape == (points, 1)
    assert scan["coord"].dtype == scan["strength"].dtype == np.float32
    cells = np.floor(scan["coord"] / np.float32(0.05))
    assert len(np.unique(cells, axis=0)) == points, "one point in each cell"
    assert 0 <= scan["strength"].min() <= scan["strength"].max() <= 1
    synthetic_scan.cache_clear()
    assert np.array_equal(scan["coord"], synthetic_scan(points)["coord"])
    assert not np.array_equal(scan["coord"], synthetic_scan(points, 1)["coord"])


def test_voxels_of_a_street_have_as_many_neighbours_at_any_size() -> None:
    def neighbours(points: int) -> float:
        cells = torch.from_numpy(np.floor(synthetic_scan(points)["coord"] / np.float32(0.05)).astype(np.int64))
        found = ops.submanifold_map(cells - cells.amin(0), torch.zeros(points, dtype=torch.long), 3)
        return float((found < points).sum()) / points

    small, large = neighbours(10_000), neighbours(100_000)
    assert 2 < large < 4, "a real sweep of nuScenes has 2.4, a scan of SemanticKITTI 3.8"
    assert small == pytest.approx(large, rel=0.1)


def test_places_fill_a_square() -> None:
    for edge in (1, 2, 5):
        places = {_square_spiral(number) for number in range(edge**2)}
        assert places == {(x, y) for x in range(edge) for y in range(edge)}


# --- FLOPs ---


def coordinates(*scans: Any) -> dict[str, torch.Tensor]:
    samples = [{"coord": torch.zeros(len(s), 3), "grid_coord": torch.tensor(s)} for s in scans]
    batch = collate_fn(samples)
    return {**batch, "feat": torch.rand(len(batch["grid_coord"]), 4)}


TINY = {
    "type": "DefaultSegmentorV2",
    "num_classes": 3,
    "backbone_out_channels": 8,
    "backbone": {
        "type": "PT-v3m1", "in_channels": 4, "order": ("z",), "stride": (2,), "enc_depths": (1, 1),
        "enc_channels": (8, 16), "enc_num_head": (1, 2), "enc_patch_size": (4, 4), "dec_depths": (1,),
        "dec_channels": (8,), "dec_num_head": (1,), "dec_patch_size": (4,), "mlp_ratio": 2,
    },
}  # fmt: skip


def block(rows: int, hits: int, pairs: int, c: int) -> int:
    """Multiplications of a PTv3 block: position encoding, projections, attention over ``pairs``, MLP of ratio 2."""
    return hits * c * c + rows * c * c + rows * 4 * c * c + 2 * pairs * c + 2 * rows * c * 2 * c


def test_flops_of_a_tiny_network_are_those_of_a_hand_count() -> None:
    # Six voxels in a row along x, and a scan of three: fine neighbours 6 + 2·5 and 3 + 2·2 with kernel 3,
    # 6 + 2·5 + 2·4 and 3 + 2·2 + 2·1 with kernel 5; coarse rows of three and two.
    batch = coordinates([[x, 0, 0] for x in range(6)], [[x, 0, 0] for x in range(3)])
    k3, k5, coarse = 16 + 7, 24 + 9, (3 + 2 * 2) + (2 + 2 * 1)
    fine_pairs = 2 * 4**2 + 3**2  # six voxels are two patches of four, three are one of their own
    coarse_pairs = 3**2 + 2**2
    products = (
        k5 * 4 * 8  # stem
        + block(9, k3, fine_pairs, 8)
        + 9 * 8 * 16  # pooling
        + block(5, coarse, coarse_pairs, 16)
        + 5 * 16 * 8  # unpooling
        + 9 * 8 * 8
        + block(9, k3, fine_pairs, 8)
        + 9 * 8 * 3  # head
    )
    model = MODELS.build(TINY).train()
    assert count_flops(model, batch, Precision()) == 2 * products
    assert count_flops(model, batch, Precision(True, torch.bfloat16)) == 2 * products
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_flops_of_a_sparse_unet() -> None:
    backbone = {"type": "SpUNet-v1m1", "in_channels": 4, "num_classes": 3, "base_channels": 8}
    model = MODELS.build({"type": "DefaultSegmentor", "backbone": {**backbone, "channels": (16, 8), "layers": (1, 1)}})
    batch = coordinates([[x, 0, 0] for x in range(6)])
    products = 0
    convolutions = [m for m in model.modules() if type(m).__name__ in ("SubmanifoldConv", "StridedConv", "InverseConv")]
    for layer in convolutions:
        coarse = layer in list(model.backbone.enc.modules())
        hits = {5: 24, 3: 7 if coarse else 16, 2: 6, 1: 3 if coarse else 6}[layer.kernel_size]
        products += hits * layer.in_channels * layer.out_channels
    assert count_flops(model, batch, Precision()) == 2 * products


def test_parameters_of_the_paper() -> None:
    cfg = read_configs([str(CONFIGS / "nuscenes" / "student.py")], {})["nuscenes/student"]
    assert parameter_count(MODELS.build(cfg.model)) / 1e6 == pytest.approx(2.78, abs=0.005)


# --- time, ratios, growth ---


def row(**changes: Any) -> Row:
    base = Row("a", "synthetic-10", "infer", "auto", "fp32", 1, points=10, voxels=10, median_ms=4.0, p99_ms=5.0)
    return replace(base, **changes)


def test_wall_times() -> None:
    calls: list[int] = []
    times = wall_times(lambda: calls.append(1), 7)
    assert times.shape == (7,)
    assert len(calls) == 7
    assert (times >= 0).all()


def test_ratios_compare_rows_that_differ_in_the_backend_alone() -> None:
    rows = [
        row(backend="torch", median_ms=8.0, peak_bytes=2**30),
        row(median_ms=2.0, peak_bytes=2**29),
        row(dtype="fp16"),
        row(scans=2),
    ]
    found = add_ratios(rows, "torch")
    assert [(r.speedup, r.memory_ratio) for r in found] == [(1.0, 1.0), (4.0, 0.5), (None, None), (None, None)]
    assert add_ratios(rows, None) == rows


def test_growth_of_known_laws() -> None:
    assert exponent([10, 100, 1000], [3.0, 30.0, 300.0]) == pytest.approx(1)
    assert exponent([10, 100], [1.0, 100.0]) == pytest.approx(2)
    assert exponent([10, 10], [1.0, 100.0]) is None
    assert exponent([10, 20], [1.0, None]) is None
    sizes = [10_000, 100_000, 1_000_000]
    rows = [row(points=n, voxels=n, median_ms=20 + n / 1e4, busy_ms=n / 1e4, peak_bytes=100 * n) for n in sizes]
    rows += [row(points=0, voxels=5), row(points=7, median_ms=None, error="out of memory")]
    (found,) = growth(rows)
    assert found.voxels == (10_000, 1_000_000)
    assert (found.busy, found.busy_end) == (pytest.approx(1), pytest.approx(1))
    assert found.memory == pytest.approx(1)
    assert found.time is not None
    assert found.time_end is not None
    assert found.time < found.time_end < 1, "fixed costs hide the growth at small sizes"
    assert "10000-1000000" in format_rows(rows)


# --- the device's trace ---


def event(category: str, name: str, begin: float, duration: float, correlation: int | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"ph": "X", "cat": category, "name": name, "ts": begin, "dur": duration}
    return entry if correlation is None else {**entry, "args": {"correlation": correlation, "stream": 7}}


TRACE = [
    {"ph": "M", "name": "process_name"},
    event("cuda_runtime", "cudaLaunchKernel", 0, 3, 1),
    event("kernel", "gemm", 10, 100, 1),
    event("kernel", "gemm", 200, 100, 2),
    event("kernel", "add", 250, 100, 3),  # on another stream
    event("kernel", "graphed", 400, 10, 4),
    event("kernel", "graphed", 410, 10, 4),
    event("gpu_memcpy", "Memcpy HtoD", 500, 20, 5),
    event("gpu_memset", "Memset (Device)", 600, 10, 6),
    event("cpu_op", "aten::mm", 0, 1000),
]


def test_a_trace_is_added_up_per_iteration() -> None:
    found = summarise(TRACE, iterations=2, top=2)
    assert found is not None
    assert (found.launches, found.kernels, found.copies) == (2.0, 2.5, 1.0)
    assert found.busy_ms == pytest.approx((100 + 150 + 20 + 20 + 10) / 1000 / 2)
    assert [(k.name, k.count, k.ms) for k in found.top] == [("gemm", 1.0, 0.1), ("add", 0.5, 0.05)]
    assert summarise(TRACE[:2], 1) is None
    without = [event("kernel", "gemm", 0, 1), event("kernel", "gemm", 2, 1)]
    assert summarise(without, 1).launches == 2  # type: ignore[union-attr]


def test_covered_time_counts_overlaps_once() -> None:
    assert covered([]) == 0
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4


def test_the_table_lists_expensive_kernels() -> None:
    found = summarise(TRACE, iterations=1, top=1)
    assert found is not None
    text = format_rows([row(busy_ms=found.busy_ms, top=found.top)])
    assert "kernels of a synthetic-10 x 1, infer fp32 auto  per call     ms  of busy" in text
    assert text.splitlines()[-1].split() == ["gemm", "2.0", "0.200", "66.7%"]
    assert json.loads(json.dumps(asdict(row(top=found.top))))["top"][0]["name"] == "gemm"


def test_a_profiler_that_fails_costs_two_columns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert profile_device(lambda: None, 1) is None, "there is no GPU"
    monkeypatch.setattr(kernels.device, "device_count", lambda: 1)

    def fail(*_: Any) -> Any:
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")

    with caplog.at_level(logging.WARNING, logger="pointcept"):
        monkeypatch.setattr(kernels, "_trace", fail)
        assert profile_device(lambda: None, 1) is None
        monkeypatch.setattr(kernels, "_trace", lambda *_: TRACE[:2])
        assert profile_device(lambda: None, 1) is None
    assert "INSUFFICIENT_PRIVILEGES" in caplog.messages[0]
    assert "saw no kernel" in caplog.messages[1]


def test_settings() -> None:
    assert Settings().iterations == 20
    with pytest.raises(ConfigError, match="warmup and top at least 0"):
        Settings(warmup=-1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POINTCEPT_DEVICE", "cuda")
    out = tmp_path / "result.json"
    args = arguments(
        "--mode", "infer", "train", "--dtype", "fp16", "--backend", "auto", "torch", "--top", "3", "--out", str(out)
    )
    assert benchmark_main(args) == 0
    rows = json.loads(out.read_text())["rows"]
    assert len({found["flops"] for found in rows}) == 1, "counted on one backend, whichever is timed"
    for found in rows:
        assert found["kernels"] > 50
        graphed = found["mode"] == "train"
        assert found["launches"] < 50 if graphed else found["launches"] > 50
        assert 0 < found["busy_ms"] < 1.5 * found["p99_ms"]
        assert 1e6 < found["peak_bytes"] <= found["reserved_bytes"]
        assert len(found["top"]) == 3
        assert found["memory_ratio"] is not None
