"""The scores of every program are those of the plain network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pointcept.engines.deploy.preprocessing import Preprocessing
from pointcept.export.agreement import TIE, compare, compare_labels, plain_scores
from pointcept.export.compiled import REPORT, PointProgram, VoxelProgram, label_points, traced
from pointcept.export.graph import Graph, cells_per_product
from pointcept.export.networks import describe
from pointcept.export.onnx_program import OPSET, onnx_program
from pointcept.export.padded_tables import level_capacities
from pointcept.export.torch_program import TableNetwork
from pointcept.utils.errors import ConfigError, DataError
from pointcept_runtime.tables import Octree

from .conftest import grid_of, street

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NETWORKS = {
    "student": ("ptv3", {}),
    "published form": ("ptv3", {"cpe_input": "mlp_branch", "enc_depths": (2, 1, 2), "dec_depths": (2, 1)}),
    "norm behind": (
        "ptv3",
        {"pre_norm": False, "stride": (4, 1), "enc_patch_size": (64, 32, 16), "order": ("hilbert", "z-trans")},
    ),
    "without flash": ("ptv3", {"enable_flash": False, "qkv_bias": False, "order": "hilbert-trans"}),
    "spunet": ("spunet", {}),
}
SIZES = (1, 63, 64, 65, 700)


def scores_of(program: Callable[..., np.ndarray], model: nn.Module, graph: Graph, voxels: int) -> None:
    grid = grid_of(street(3 * voxels), 0.1)[:voxels]
    feat = np.random.default_rng(2).random((len(grid), 4), np.float32)
    tables = Octree(grid, graph.orders, graph.strides).tables(tuple(graph.tables))
    found = compare(program(feat, tables), plain_scores(model, grid, feat))
    assert found.holds, str(found)
    assert found.difference < 2e-5, str(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx(make: Callable[..., Any], name: str) -> None:
    kind, backbone = NETWORKS[name]
    _, model, graph = make(kind, **backbone)
    for attention in ("patchwise", "batched") if name == "student" else ("patchwise",):
        data = onnx_program(graph, attention)
        proto = onnx.load_from_string(data)
        assert {entry.domain: entry.version for entry in proto.opset_import} == {"": OPSET}
        assert {node.domain for node in proto.graph.node} == {""}, "standard operators alone"
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

        def run(feat: np.ndarray, tables: dict[str, np.ndarray], session: Any = session) -> np.ndarray:
            return session.run(None, {"feat": feat, **tables})[0]

        for voxels in SIZES:
            scores_of(run, model, graph, voxels)


@pytest.mark.parametrize("name", ["student", "spunet"])
def test_tables_in_torch(make: Callable[..., Any], name: str) -> None:
    kind, backbone = NETWORKS[name]
    _, model, graph = make(kind, **backbone)
    network = TableNetwork(graph)

    def run(feat: np.ndarray, tables: dict[str, np.ndarray]) -> np.ndarray:
        return network(torch.from_numpy(feat), {k: torch.from_numpy(v) for k, v in tables.items()}).numpy()

    for voxels in (1, 300):
        scores_of(run, model, graph, voxels)


@pytest.mark.parametrize("name", ["norm behind", "student", "spunet"])
def test_programs_of_fixed_capacity(make: Callable[..., Any], name: str) -> None:
    kind, backbone = NETWORKS[name]
    _, model, graph = make(kind, **backbone)
    rows = level_capacities(1200, graph.strides)
    program = VoxelProgram(graph, rows)
    for voxels in (1, 200, 256, 700):
        grid = grid_of(street(3 * voxels), 0.1)[:voxels]
        feat = np.random.default_rng(2).random((len(grid), 4), np.float32)
        padded_grid, padded_feat = np.full((rows[0], 3), -7), np.full((rows[0], 4), np.nan, np.float32)
        padded_grid[: len(grid)], padded_feat[: len(grid)] = grid, feat
        inputs = torch.from_numpy(padded_grid), torch.from_numpy(padded_feat), torch.tensor([len(grid)])
        logits, report = program(*inputs)
        found = compare(logits[: len(grid)].numpy(), plain_scores(model, grid, feat))
        assert found.holds, str(found)
        assert found.difference < 2e-5, str(found)
        levels = [len(level) for level in Octree(grid, graph.orders, graph.strides).levels]
        assert report.tolist() == [*levels, *[0] * len(REPORT), *rows]


CLIP = [-9.0, -9.0, -1.0, 9.0, 9.0, 2.5]
FEATURES = {"keys": ["coord", "strength"], "strength_range": [0.0, 1.0]}


def point_programs(graph: Graph, clip: list[float] | None) -> list[tuple[int, PointProgram]]:
    voxels = {"grid_size": [0.3] * 3, "clip": clip}
    return [(n, PointProgram(graph, level_capacities(n, graph.strides), voxels, FEATURES)) for n in (1200, 4000)]


@pytest.mark.parametrize("clip", [CLIP, None])
def test_points_to_labels(make: Callable[..., Any], clip: list[float] | None) -> None:
    _, model, graph = make("ptv3")
    preprocessing = Preprocessing(0.3, clip=clip, strength_range=(0.0, 1.0))
    programs = point_programs(graph, clip)
    for points in (street(1), street(40), street(1000), street(1000) * np.float32([20, 20, 1, 1]), street(3000)):
        voxels = preprocessing(torch.from_numpy(points))
        plain = plain_scores(model, voxels.grid_coord.numpy(), voxels.feat.numpy())[voxels.inverse.numpy()]
        found = compare_labels(label_points(programs, points), plain)
        assert found.holds, str(found)


def test_scans_that_fit_into_no_program(make: Callable[..., Any]) -> None:
    _, _, graph = make("ptv3")
    programs = point_programs(graph, None)
    wide = street(1000) * np.float32([20, 20, 1, 1])  # hardly two points in a voxel, at all levels
    with pytest.raises(DataError, match="1000 points fit into none of the programs, for 1200 points"):
        label_points(programs[:1], wide)
    with pytest.raises(DataError, match="5000 points fit into none of the programs, for 1200, 4000 points"):
        label_points(programs, street(5000))
    spoiled = street(1000)
    spoiled[3, 0], spoiled[[5, 8], 3] = np.nan, 7.0
    with pytest.raises(DataError, match="1 points are not finite, 2 have a strength"):
        label_points(programs, spoiled)
    spoiled = street(1000)
    spoiled[0, 0] = 1e6
    with pytest.raises(DataError, match=r"span .* voxels, at most 65535"):
        label_points(programs, spoiled)


def test_a_program_of_fixed_capacity_can_be_exported(make: Callable[..., Any]) -> None:
    _, _, graph = make("ptv3")
    program = VoxelProgram(graph, level_capacities(400, graph.strides)).eval()
    rows = program.capacities[0]
    grid = np.zeros((rows, 3), np.int64)
    grid[:200] = grid_of(street(600), 0.1)[:200]
    inputs = torch.from_numpy(grid), torch.rand(rows, 4), torch.tensor([200])
    exported = traced(program, inputs)
    called = {str(node.target) for node in exported.graph.nodes}
    assert "aten._local_scalar_dense.default" not in called, "no value reaches the host"
    for found, expected in zip(exported.module()(*inputs), program(*inputs), strict=True):
        torch.testing.assert_close(found, expected)


def test_networks_that_cannot_be_exported(make: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="enable_rpe=False only"):
        make("ptv3", enable_rpe=True, enable_flash=False)
    with pytest.raises(ConfigError, match=r"export takes DefaultSegmentorV2 .* got Linear"):
        describe(nn.Linear(2, 2))


def test_convolutions_gather_at_once_what_fits() -> None:
    assert [cells_per_product(27, channels) for channels in (1, 16, 44, 64, 128, 256, 2000)] == [27, 27, 27, 9, 9, 3, 1]
    assert [cells_per_product(125, channels) for channels in (4, 32, 300)] == [125, 25, 1]


def test_near_ties() -> None:
    plain = np.array([[1.0, 2.0], [10.0, 10.0 - 5 * TIE], [3.0, 1.0]], np.float32)
    found = compare(plain[:, ::-1][:, [1, 0]].copy(), plain)
    assert (found.equal, found.ties, found.holds) == (3, 0, True)
    other = plain.copy()
    other[1, 1] = 11.0
    found = compare(other, plain)
    assert (found.equal, found.ties, found.holds) == (2, 1, True)
    other[2, 1] = 4.0
    assert not compare(other, plain).holds
