"""Padded octrees against the grids of the models, and the kernels against their twins."""

from itertools import accumulate

import pytest
import torch

from pointcept.ops import padded
from pointcept.ops.api import ORDERS
from pointcept.ops.backend import override
from pointcept.structures import GridPyramid

STRIDES = (2, 4, 2)
SHIFTS = (0, 1, 3, 4)
CAPACITY = 320


def scans(largest: int, counts=(150, 90), seed=0):
    """Distinct voxels in clusters, in random order, and the ends of the scans."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for count in counts:
        centre = torch.randint(0, largest + 1, (count // 8 + 1, 1, 3), generator=generator)
        near = centre + torch.randint(-2, 3, (1, 24, 3), generator=generator)
        grid = near.clamp(0, largest).view(-1, 3).unique(dim=0)
        parts.append(grid[torch.randperm(len(grid), generator=generator)][:count])
    ends = torch.tensor([len(part) for part in parts]).cumsum(0)
    return torch.cat(parts), ends


def build(grid, ends, device):
    """Keys, sorted batch and levels as the inference engine builds them."""
    from pointcept.structures.octree_plan import build_levels, survey

    room = torch.randint(0, 1000, (CAPACITY, 3), generator=torch.Generator().manual_seed(1))
    room[: len(grid)] = grid
    batch = survey(room.to(device), torch.zeros(CAPACITY, 1, device=device), ends.int().to(device), ORDERS, SHIFTS)
    return batch, build_levels(batch, SHIFTS, (CAPACITY, CAPACITY, 256, 256))


@pytest.mark.parametrize("largest", [3, 40, 700, 65534])
def test_levels_are_those_of_the_models(largest, device):
    grid, ends = scans(largest)
    pyramid = GridPyramid(grid, ends, ORDERS, STRIDES)
    batch, levels = build(grid, ends, device)
    for i, (expected, level) in enumerate(zip(pyramid.levels, levels, strict=True)):
        n = len(expected)
        assert level.count.item() == n
        assert level.ends.tolist() == list(accumulate(expected.counts))
        # rows of the models follow the first order at coarse levels and the input at the finest
        rows = expected.permutations["z"]
        octree = level.octree._replace(**{k: v.cpu() for k, v in level.octree._asdict().items()})
        for number, order in enumerate(ORDERS):
            place = torch.empty_like(rows)
            place[rows] = torch.arange(n)
            torch.testing.assert_close(octree.permutation[number, :n].long(), place[expected.permutations[order]])
            torch.testing.assert_close(
                octree.inverse[number, octree.permutation[number, :n].long()].long(), place.sort()[0]
            )
        if i:
            pooling, finer = pyramid.poolings[i - 1], pyramid.levels[i - 1]
            cluster = pooling.cluster[finer.permutations["z"]]
            torch.testing.assert_close(octree.parent[: len(finer)].long(), cluster)
            begin = pooling.lengths.cumsum(0) - pooling.lengths
            torch.testing.assert_close(octree.begin[:n].long(), begin)
    torch.testing.assert_close(batch.position[: len(grid)].cpu(), pyramid.levels[0].inverse("z"))


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("largest", [3, 700, 65534])
def test_neighbours_are_those_of_the_models(kernel_size, largest, device):
    from pointcept.structures.octree_plan import neighbour_maps

    grid, ends = scans(largest)
    pyramid = GridPyramid(grid, ends, ORDERS, STRIDES)
    levels = build(grid, ends, device)[1]
    maps = neighbour_maps(levels)
    for i, (expected, level) in enumerate(zip(pyramid.levels, levels, strict=True)):
        n, rows = len(expected), expected.permutations["z"]
        place = torch.empty(n + 1, dtype=torch.int64)
        place[rows] = torch.arange(n)
        place[n] = len(level.octree.keys)
        wanted = place[expected.neighbours(kernel_size)[rows].long()]
        coarse = (levels[i + 1], maps[i + 1]) if i + 1 < len(levels) else ()
        for found in (level.neighbours(kernel_size), level.neighbours(kernel_size, *coarse)):
            torch.testing.assert_close(found[:, :n].t().long().cpu(), wanted)
            assert (found[:, n:] == len(level.octree.keys)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("counts", [(240,), (100, 1, 120)])
def test_kernels_equal_their_twins(counts):
    grid, ends = scans(5000, counts)
    batch, levels = build(grid, ends, torch.device("cuda"))
    with override("torch"):
        twin, expected = build(grid, ends, torch.device("cuda"))
    assert torch.equal(batch.keys, twin.keys)
    assert torch.equal(batch.source, twin.source)
    for level, other in zip(levels, expected, strict=True):
        n = int(level.count)
        assert torch.equal(level.octree.keys[:n], other.octree.keys[:n])
        assert torch.equal(level.octree.permutation[:, :n], other.octree.permutation[:, :n])
    assert padded.octree_keys(grid.cuda(), ends.int().cuda(), grid.max().view(1).cuda(), ("z",)).shape == (1, len(grid))
