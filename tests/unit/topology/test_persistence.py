from __future__ import annotations

import numpy as np
import pytest
import torch

from pointcept.topology import (
    Diagram,
    batch_persistence,
    persistence,
    split_clouds,
    submit_batch_persistence,
    submit_persistence,
)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def noisy_ring(seed: int, n: int = 24) -> torch.Tensor:
    angle = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), 1.3 * angle.sin(), 0.2 * (3 * angle).sin()], dim=1) + 0.05 * normal(seed, n, 3)


def test_gradient_of_h0_deaths():
    x = normal(0, 14, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: persistence(t, (0,)).deaths(0).sort().values, x)


@pytest.mark.parametrize("max_points", [None, 16])
def test_gradient_of_h1_births_and_deaths(max_points):
    x = noisy_ring(1).requires_grad_()
    index = None if max_points is None else torch.arange(0, 24, 24 // max_points + 1)
    diagram = persistence(x, (1,), index=index)
    assert len(diagram[1]) >= 1
    assert torch.autograd.gradcheck(lambda t: persistence(t, (1,), index=index)[1].sort(dim=0).values, x)


def test_gradient_of_h2():
    x = torch.cat([torch.eye(3), -torch.eye(3)]).double() + 0.1 * normal(2, 6, 3)
    x = x.requires_grad_()
    assert len(persistence(x, (2,))[2]) == 1
    assert torch.autograd.gradcheck(lambda t: persistence(t, (2,))[2], x)


def test_edges_measure_births_and_deaths():
    x = normal(3, 80, 4)
    diagram = persistence(x, (0, 1), max_points=40)
    births, deaths = ((x[diagram.edges[1][:, i]] - x[diagram.edges[1][:, i + 1]]).norm(dim=1) for i in (0, 2))
    torch.testing.assert_close(diagram.births(1), births)
    torch.testing.assert_close(diagram.deaths(1), deaths)
    assert (deaths > births).all()
    assert set(diagram.edges[1].flatten().tolist()) <= set(diagram.index.tolist())
    assert diagram.edges[0].shape == (79, 2)


def test_duplicates_have_finite_gradient():
    x = torch.cat([normal(4, 20, 3)] * 2).requires_grad_()
    persistence(x).total_persistence().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0


def test_batch_equals_single_clouds():
    x = normal(5, 130, 6).requires_grad_()
    offset = torch.tensor([50, 53, 54, 130])
    together = batch_persistence(x, offset, (0, 1), max_points=30)
    for diagram, cloud in zip(together, split_clouds(x, offset), strict=True):
        alone = persistence(cloud, (0, 1), max_points=30)
        for dim in (0, 1):
            assert torch.equal(diagram[dim], alone[dim])
            assert torch.equal(diagram.edges[dim], alone.edges[dim])
    assert [d.dims for d in batch_persistence(x, offset, (0,))] == [(0,)] * 4
    together[3].total_persistence().backward()
    assert x.grad[:54].abs().max() == 0
    assert x.grad[54:].abs().max() > 0


def test_student_uses_the_rows_of_the_teacher():
    teacher = submit_batch_persistence(normal(6, 90, 8), torch.tensor([40, 90]), max_points=20, subsample="random")
    rows = [pending.index for pending in teacher]
    student = submit_batch_persistence(normal(7, 90, 4), torch.tensor([40, 90]), max_points=20, index=rows)
    assert [len(r) for r in rows] == [20, 20]
    assert all(s.index is r for s, r in zip(student, rows, strict=True))
    with pytest.raises(ValueError, match="each of the 2 clouds, got 1"):
        submit_batch_persistence(normal(7, 90, 4), torch.tensor([40, 90]), index=rows[:1])


def test_one_point_has_empty_diagrams():
    diagram = persistence(torch.zeros(1, 5), (0, 1, 2))
    assert {d: diagram[d].shape for d in diagram.dims} == {0: (0, 2), 1: (0, 2), 2: (0, 2)}
    assert diagram.total_persistence().item() == 0


def test_no_points_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="no points"):
        persistence(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"\(N, C\), got \(4,\)"):
        persistence(torch.zeros(4))
    with pytest.raises(ValueError, match="int64"):
        persistence(torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="max_points must be at least 1"):
        persistence(torch.zeros(4, 2), max_points=0)
    for dims in ((), (3,), (-1, 0)):
        with pytest.raises(ValueError, match="dims must be one or more of 0, 1, 2"):
            persistence(torch.zeros(4, 2), dims)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_counted_and_refused(value):
    x = normal(8, 100, 4)
    x[3, 1] = x[3, 2] = x[60, 0] = value
    with pytest.raises(ValueError, match="2 of 100 rows of x hold NaN or infinite"):
        persistence(x)


@pytest.mark.parametrize("ends", [[50, 50, 100], [50, 90], [60, 40, 100], [100, 101]])
def test_offsets_that_do_not_fit_are_refused(ends):
    with pytest.raises(ValueError, match="offset must rise strictly to the 100 rows"):
        split_clouds(torch.zeros(100, 2), torch.tensor(ends))


@pytest.mark.parametrize("subsample", ["farthest", "random"])
def test_generator_is_the_only_randomness(subsample):
    x = normal(9, 100, 4)
    state = torch.get_rng_state()
    np_state = np.random.get_state()[1].copy()
    g = torch.Generator().manual_seed(1)
    first = submit_persistence(x, max_points=20, subsample=subsample, generator=g).index
    second = submit_persistence(x, max_points=20, subsample=subsample, generator=g).index
    g.manual_seed(1)
    again = submit_persistence(x, max_points=20, subsample=subsample, generator=g).index
    fixed = [submit_persistence(x, max_points=20, subsample=subsample).index for _ in range(2)]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(fixed[0], fixed[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == np_state).all()


def test_half_precision_features_under_autocast_equal_float32():
    x = normal(10, 60, 16, dtype=torch.float32).to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = persistence(x)
        inside.total_persistence().backward()
    outside = persistence(x.detach().float())
    for dim in (0, 1):
        assert inside[dim].dtype == torch.float32
        assert torch.equal(inside[dim], outside[dim])
    assert x.grad.dtype == torch.bfloat16
    assert torch.isfinite(x.grad).all()


def test_result_can_be_asked_for_twice():
    pending = submit_persistence(normal(11, 30, 3))
    assert torch.equal(pending.result()[1], pending.result()[1])


def test_diagram_names_its_dimensions():
    diagram = Diagram({1: torch.tensor([[1.0, 3.0]]), 0: torch.tensor([[0.0, 2.0], [0.0, 4.0]], requires_grad=True)})
    assert diagram.dims == (0, 1)
    assert diagram.total_persistence().item() == 8
    assert diagram.total_persistence((1,)).item() == 2
    assert diagram.births(1).tolist() == [1]
    assert not diagram.detach()[0].requires_grad
    kept = Diagram(diagram.points, {0: torch.tensor([[0, 1]])}, torch.tensor([3, 1])).detach()
    assert (kept.index.tolist(), kept.edges[0].tolist()) == ([3, 1], [[0, 1]])
    with pytest.raises(KeyError, match=r"dimensions \(0, 1\), not 2"):
        diagram[2]
