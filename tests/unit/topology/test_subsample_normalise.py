from __future__ import annotations

import pytest
import torch

from pointcept.topology import farthest_points, normalise, random_points, rms_scale, subsample_rows
from pointcept.topology.mst import EdgeWeights


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_farthest_points_equal_the_greedy_definition():
    x = normal(1, 80, 3) + torch.tensor([9.0, 0.0, -4.0])
    d = torch.cdist(x, x)
    chosen = [int((x - x.mean(dim=0)).norm(dim=1).argmax())]
    while len(chosen) < 25:
        chosen.append(int(d[:, chosen].amin(dim=1).argmax()))
    assert farthest_points(x, 25).tolist() == chosen


def test_autocast_does_not_change_the_farthest_points():
    x = normal(11, 120, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = farthest_points(x, 40)  # by products: no matrix of the distances is stored
    assert torch.equal(rows, farthest_points(x, 40))
    assert torch.equal(rows, farthest_points(x, 40, weights=EdgeWeights(x)))


def test_farthest_points_cover_better_than_random_ones():
    x = torch.cat([normal(2, 195, 3) * 0.01, normal(3, 5, 3) * 3])

    def gap(rows: torch.Tensor) -> float:
        return torch.cdist(x, x[rows]).amin(dim=1).max().item()

    assert gap(farthest_points(x, 12)) < 0.5 * gap(random_points(len(x), 12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_farthest_points_of_duplicates_are_distinct_rows(dtype):
    x = normal(4, 5, 3, dtype=dtype).repeat(6, 1)
    rows = farthest_points(x, 20)
    assert len(set(rows.tolist())) == 20
    assert len(torch.unique(x[rows[:5]], dim=0)) == 5
    assert farthest_points(x, 99).sort().values.tolist() == list(range(30))


def test_random_points_are_distinct_and_ascending():
    rows = random_points(50, 20, torch.Generator().manual_seed(5))
    assert len(set(rows.tolist())) == 20
    assert rows.tolist() == sorted(rows.tolist())
    assert random_points(4, 20).tolist() == [0, 1, 2, 3]
    assert torch.equal(random_points(50, 20), random_points(50, 20, torch.Generator().manual_seed(0)))


def test_all_points_when_nothing_is_left_out():
    assert subsample_rows(normal(6, 10, 2), None) is None
    assert subsample_rows(normal(6, 10, 2), 10, "random") is None
    with pytest.raises(ValueError, match="unknown subsample method 'farthes'; did you mean 'farthest'"):
        subsample_rows(normal(6, 10, 2), 5, "farthes")


def test_rms_scale_is_the_root_mean_square_distance():
    x = normal(7, 30, 4) * 3 + 100
    assert rms_scale(x).item() == pytest.approx(torch.cdist(x, x).square().mean().sqrt().item(), rel=1e-12)


def test_normalised_cloud_forgets_position_and_scale():
    x = normal(8, 40, 6)
    torch.testing.assert_close(normalise(x * 17 - 4), normalise(x), rtol=1e-12, atol=1e-13)
    assert rms_scale(normalise(x)).item() == pytest.approx(1, rel=1e-12)


def test_normalise_is_differentiable():
    x = normal(9, 7, 3).requires_grad_()
    assert torch.autograd.gradcheck(normalise, x)


@pytest.mark.parametrize("x", [torch.full((5, 3), 2.0), torch.full((1, 3), 2.0)])
def test_equal_points_become_zeros_with_finite_gradient(x):
    x = x.clone().requires_grad_()
    y = normalise(x)
    assert y.abs().max() == 0
    y.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_half_precision_is_normalised_in_float32():
    x = normal(10, 50, 8, dtype=torch.float32).half() * 100
    assert normalise(x).dtype == torch.float32
    torch.testing.assert_close(normalise(x), normalise(x.float()))
