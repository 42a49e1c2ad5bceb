"""The stages of a forward pass: which there are, what counts to each, and what they cost at least."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pointcept.engines.benchmark import kernels, stages
from pointcept.engines.benchmark.command import argument_parser, benchmark_main
from pointcept.engines.benchmark.flops import count_flops
from pointcept.engines.benchmark.kernels import split_by_range
from pointcept.engines.benchmark.plan import Settings
from pointcept.engines.benchmark.stages import least_bytes, measure_stages
from pointcept.engines.inference import Precision
from pointcept.models import MODELS
from pointcept.ops import api as ops
from pointcept.utils.errors import ConfigError
from tests.paths import CONFIGS

FLOAT, HALF = Precision(), Precision(True, torch.bfloat16)
PTV3 = ["pyramid", "embedding", "enc0", "enc1", "dec0", "head"]


def transformer() -> nn.Module:
    backbone = {
        "type": "PT-v3m1", "in_channels": 4, "order": ("z", "hilbert"), "stride": (2,), "enc_depths": (1, 2),
        "enc_channels": (8, 16), "enc_num_head": (1, 2), "enc_patch_size": (4, 4), "dec_depths": (1,),
        "dec_channels": (8,), "dec_num_head": (1,), "dec_patch_size": (4,), "mlp_ratio": 2,
    }  # fmt: skip
    return MODELS.build(
        {"type": "DefaultSegmentorV2", "num_classes": 3, "backbone_out_channels": 8, "backbone": backbone}
    ).eval()


def unet() -> nn.Module:
    backbone = {"type": "SpUNet-v1m1", "in_channels": 4, "num_classes": 3, "base_channels": 8}
    return MODELS.build(
        {"type": "DefaultSegmentor", "backbone": {**backbone, "channels": (16, 32, 16, 8), "layers": (1, 2, 1, 1)}}
    ).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Two rows of voxels along x, nine and seven."""
    row = torch.arange(9)[:, None] * torch.tensor([[1, 0, 0]])
    coord = torch.cat([row, row[:7]])
    return {
        "grid_coord": coord,
        "feat": torch.rand(16, 4),
        "offset": torch.tensor([9, 16]),
        "segment": torch.zeros(16, dtype=torch.long),
    }


def by_name(found: tuple[stages.StageCost, ...]) -> dict[str, stages.StageCost]:
    return {stage.name: stage for stage in found}


@pytest.mark.parametrize("make", [transformer, unet])
def test_stages_are_the_whole_pass_in_its_order(make: Callable[[], nn.Module], batch: dict[str, torch.Tensor]) -> None:
    model = make()
    found = measure_stages(model, batch, FLOAT, Settings(iterations=3))
    between = ["enc0", "enc1", "dec0"] if make is transformer else ["enc0", "enc1", "dec1", "dec0"]
    assert [stage.name for stage in found] == ["pyramid", "embedding", *between, "head"]
    for stage in found:
        assert stage.us is not None
        assert stage.us > 0
        assert stage.kernels is None
        assert stage.bytes is not None
        assert stage.bytes > 0
    flops = [stage.flops or 0 for stage in found]
    assert flops[0] == 0
    assert min(flops[1:]) > 0
    assert sum(flops) == count_flops(model, batch, FLOAT)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_floors_are_operations_and_bytes_at_the_peaks(batch: dict[str, torch.Tensor]) -> None:
    settings = Settings(iterations=1, peak_tflops=2.0, peak_gbs=50.0)
    head = by_name(measure_stages(transformer(), batch, FLOAT, settings))["head"]
    assert (head.flops, head.bytes) == (2 * 16 * 8 * 3, 4 * (16 * (8 + 3) + 8 * 3 + 3))
    assert head.arithmetic_us == pytest.approx(head.flops / 2e12 * 1e6)
    assert head.bandwidth_us == pytest.approx(head.bytes / 50e9 * 1e6)
    assert (Settings().peak_tflops, Settings().peak_gbs) == (989, 3350)


def test_least_bytes_of_a_hand_count(batch: dict[str, torch.Tensor]) -> None:
    batch = {key: batch[key] for key in ("grid_coord", "feat", "offset")}
    fine, coarse = 16, 5 + 4
    # weights and running statistics of the embedding, of a block with C channels, of pooling and unpooling
    embedding = 8 * 125 * 4 + 4 * 8

    def block(c: int) -> int:
        return (c * 27 * c + c) + (c * c + c) + 2 * c + 2 * c + (4 * c * c + 4 * c) + 2 * c + (4 * c * c + 3 * c)

    pooling, unpooling = 8 * 16 + 16 + 4 * 16, (16 * 8 + 8 + 4 * 8) + (8 * 8 + 8 + 4 * 8)
    slots = {fine: 4 * (3 + 2), coarse: 4 * (2 + 1)}  # patches of four, the last ones completed
    numbers = {  # weights, features
        "embedding": embedding + fine * (4 + 8),
        "enc0": block(8) + fine * (8 + 8),
        "enc1": pooling + fine * 8 + coarse * 16 + 2 * (block(16) + coarse * (16 + 16)),
        "dec0": unpooling + coarse * 16 + fine * (8 + 8 + 8) + block(8) + fine * (8 + 8 + 8),
        "head": 8 * 3 + 3 + fine * (8 + 3),
    }
    tables = {  # int32 neighbours, int64 slots, clusters
        "embedding": fine * 125 * 4,
        "enc0": fine * 27 * 4 + slots[fine] * 8,
        "enc1": fine * 8 + 2 * (coarse * 27 * 4) + 2 * slots[coarse] * 8,
        "dec0": fine * 8 + fine * 27 * 4 + slots[fine] * 8,
        "head": 0,
    }
    for precision, size in ((FLOAT, 4), (HALF, 2)):
        found = least_bytes(transformer(), batch, precision)
        assert list(found) == PTV3
        assert {name: found[name] for name in numbers} == {n: numbers[n] * size + tables[n] for n in numbers}
    at_least = 16 * 3 * 8 + 2 * 8 + fine * (125 + 27) * 4 + coarse * 27 * 4 + 2 * fine * 2 * 8
    assert at_least < found["pyramid"] < 4 * at_least, "coordinates, neighbours, codes and orders, and little more"


def test_tables_count_to_the_pyramid_and_work_to_its_stage(
    batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, find = transformer(), ops.submanifold_map

    def slow_map(*args: Any) -> torch.Tensor:
        time.sleep(0.05)
        return find(*args)

    monkeypatch.setattr(ops, "submanifold_map", slow_map)
    block = model.get_submodule("backbone.enc.enc1.block1.mlp")
    block.register_forward_hook(lambda *_: time.sleep(0.06))
    found = by_name(measure_stages(model, batch, FLOAT, Settings(iterations=3)))
    assert (found["pyramid"].us or 0) > 2 * 50_000, (
        "kernels 5 and 3 of the fine grid share a search, the coarse has one"
    )
    assert (found["embedding"].us or 0) < 50_000
    assert 60_000 < (found["enc1"].us or 0) < 110_000
    assert (found["dec0"].us or 0) < 50_000


def test_a_network_without_known_stages(batch: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="PT-v3m1 or SpUNet-v1m1, not Linear"):
        measure_stages(nn.Linear(2, 2), batch, FLOAT, Settings())


def test_without_memory_to_count_flops_the_rest_is_there(
    batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def hungry(_model: nn.Module) -> Iterator[Callable[[], int]]:
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr(stages, "counted", hungry)
    found = measure_stages(transformer(), batch, FLOAT, Settings(iterations=1))
    assert all((stage.flops, stage.arithmetic_us) == (None, None) and stage.us and stage.bytes for stage in found)
    assert "no memory to count the FLOPs of the stages" in caplog.text


# --- the device's trace ---


def event(category: str, name: str, begin: float, duration: float, **args: int) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "ts": begin, "dur": duration, "args": args}


TRACE = [
    event("user_annotation", "stage a", 0, 10),
    event("user_annotation", "stage b", 11, 10),
    event("user_annotation", "another", 0, 100),
    event("gpu_user_annotation", "stage b", 500, 100),
    event("cpu_op", "aten::mm", 9, 3, **{"External id": 5}),
    event("cuda_runtime", "cudaLaunchKernel", 11.5, 1, correlation=1, **{"External id": 5}),
    event("kernel", "gemm", 500, 100, correlation=1, **{"External id": 5}),  # the operation began in a
    event("cuda_driver", "cuLaunchKernelEx", 12, 1, correlation=2, **{"External id": 3}),
    event("kernel", "triton", 600, 20, correlation=2, **{"External id": 3}),  # 3 is no operation
    event("gpu_memcpy", "Memcpy DtoH", 620, 5, correlation=2),
    event("cuda_runtime", "cudaLaunchKernel", 25, 1, correlation=3),
    event("kernel", "late", 700, 7, correlation=3),
    event("kernel", "unknown", 710, 3),
    event("gpu_memset", "Memset", 720, 1, correlation=9),
]


def test_kernels_belong_to_the_range_of_their_operation_or_launch() -> None:
    found = split_by_range(TRACE, "stage ")
    assert {name: [e["name"] for e in part] for name, part in found.items()} == {
        "a": ["gemm"],
        "b": ["triton", "Memcpy DtoH"],
        "": ["late", "unknown", "Memset"],
    }
    assert split_by_range([], "stage ") == {}
    assert list(split_by_range(TRACE[4:], "stage ")) == [""]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_costs_from_a_trace(batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every operation of the pass starts one kernel of 1 µs here; in front of it is one of nobody's."""

    def trace(call: Callable[[], Any], iterations: int, host: bool) -> list[Mapping[str, Any]]:
        assert (iterations, host) == (2, True)
        for _ in range(iterations):
            events = kernels._trace(call, 1, host)
        numbers = [e["args"]["External id"] for e in events if e.get("cat") == "cpu_op"]
        made = [event("kernel", "k", 10.0 * n, 1, **{"External id": n}) for n in numbers]
        return [*events, *made, event("kernel", "nobody's", 0, 4)]

    model = transformer()
    with monkeypatch.context() as patched:
        patched.setattr(stages, "trace_device", trace)
        patched.setattr(stages.device, "device_count", lambda: 1)
        patched.setattr(kernels.device, "synchronize", lambda: None)
        found = measure_stages(model, batch, FLOAT, Settings(profiled=2))
    assert [stage.name for stage in found] == [*PTV3, "elsewhere"]
    for stage in found[:-1]:
        assert stage.kernels is not None
        assert stage.kernels > 1
        assert stage.us == pytest.approx(stage.kernels)
    pyramid, head = found[0], found[-2]
    assert (pyramid.kernels or 0) > 50 > (head.kernels or 0)
    nobody = found[-1]
    assert (nobody.us, nobody.kernels, nobody.flops, nobody.bytes) == (2, 0.5, None, None)


def test_a_device_that_cannot_be_profiled(batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "trace_device", lambda *_, **__: None)
    monkeypatch.setattr(stages.device, "device_count", lambda: 1)
    found = measure_stages(transformer(), batch, FLOAT, Settings())
    assert [(stage.name, stage.us, stage.kernels) for stage in found] == [(name, None, None) for name in PTV3]
    assert all(stage.bytes and stage.flops is not None for stage in found)


# --- the command ---


def arguments(*more: str) -> Any:
    config = str(CONFIGS / "semantic_kitti" / "small_student.py")
    quick = ["--points", "400", "--iterations", "2", "--warmup", "0"]
    return argument_parser().parse_args(["--config", config, *quick, *more])


def test_stages_of_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    options = ("--stages", "--peak-tflops", "1", "--peak-gbs", "100", "--out", str(out))
    assert benchmark_main(arguments("--mode", "engine", "infer", *options)) == 0
    engine, infer = json.loads(out.read_text())["rows"]
    assert engine["stages"] == []
    names = [stage["name"] for stage in infer["stages"]]
    assert names == ["pyramid", "embedding", "enc0", "enc1", "enc2", "dec1", "dec0", "head"]
    assert sum(stage["flops"] for stage in infer["stages"]) == infer["flops"]
    text = capsys.readouterr().out
    assert "floors at 1 TFLOP/s and 100 GB/s" in text
    lines = text[text.index("stages of semantic_kitti/small_student synthetic-400 x 1, infer fp32 auto") :].splitlines()
    assert lines[1].split("  ")[0] == "stage"
    assert [line.split()[0] for line in lines[3:12]] == [*names, "total"]
    total = lines[11].split()
    assert total[2] == "-"
    assert float(total[3]) == pytest.approx(infer["flops"] / 1e6, abs=0.01)
    assert float(total[5]) == pytest.approx(infer["flops"] / 1e6, abs=0.01), "at 10^12 per second"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--stages", "--mode", "engine"), "--stages measures the mode infer, got --mode engine"),
        (("--stages", "--peak-tflops", "0"), "peaks are more than 0"),
        (("--peak-gbs", "-1"), "peaks are more than 0"),
    ],
)
def test_mistakes(more: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark_main(arguments(*more))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POINTCEPT_DEVICE", "cuda")
    out = tmp_path / "result.json"
    options = ("--stages", "--dtype", "fp16", "--backend", "auto", "torch", "--warmup", "3", "--out", str(out))
    assert benchmark_main(arguments(*options)) == 0
    for row in json.loads(out.read_text())["rows"]:
        found = {stage["name"]: stage for stage in row["stages"]}
        lost = found.pop("elsewhere", {"kernels": 0})
        assert lost["kernels"] < 0.02 * row["kernels"], "nearly every kernel has its stage"
        assert all(stage["us"] > 0 and stage["kernels"] >= 1 for stage in found.values())
        assert sum(stage["kernels"] for stage in found.values()) == pytest.approx(row["kernels"], rel=0.05)
        assert sum(stage["us"] for stage in found.values()) == pytest.approx(1000 * row["busy_ms"], rel=0.3)
        assert sum(stage["flops"] for stage in found.values()) == row["flops"]
