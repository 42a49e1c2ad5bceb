from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pointcept.topology import Diagram, chamfer, diagram_distance, persistence, sliced_wasserstein, wasserstein
from pointcept.topology.distances import _nearest_in_plane


def diagram(seed: int, n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    birth = torch.rand(n, generator=g, dtype=dtype)
    return torch.stack([birth, birth + 0.05 + torch.rand(n, generator=g, dtype=dtype)], dim=1)


def deaths(*values: float) -> torch.Tensor:
    return torch.tensor([[0.0, v] for v in values], dtype=torch.float64).reshape(-1, 2)


EMPTY = deaths()
ALL = {
    "chamfer H0": lambda a, b: chamfer(a, b, dim=0),
    "chamfer H1": chamfer,
    "wasserstein H0": lambda a, b: wasserstein(a, b, dim=0),
    "wasserstein H1": wasserstein,
    "wasserstein H1 p=1": lambda a, b: wasserstein(a, b, p=1, reduction="sum"),
    "sliced wasserstein": sliced_wasserstein,
    "sliced wasserstein p=2": lambda a, b: sliced_wasserstein(a, b, p=2, reduction="mean"),
}
each = pytest.mark.parametrize("distance", ALL.values(), ids=ALL.keys())


def on_ray(t: torch.Tensor) -> torch.Tensor:
    """H0: the births are no variables, so that finite differences stay on the ray."""
    return torch.stack([torch.zeros_like(t), t], dim=1)


@each
def test_gradients_against_finite_differences(distance):
    a, b = diagram(1, 6).requires_grad_(), diagram(2, 9).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, q: distance(on_ray(p[:, 1]), on_ray(q[:, 1])), (a, b))


@pytest.mark.parametrize("distance", [v for k, v in ALL.items() if "H0" not in k])
def test_gradients_in_the_plane(distance):
    a, b = diagram(1, 6).requires_grad_(), diagram(2, 9).requires_grad_()
    assert torch.autograd.gradcheck(distance, (a, b))
    assert torch.autograd.gradcheck(lambda p: distance(p, EMPTY), a)


@each
def test_symmetric_and_zero_only_between_equals(distance):
    a, b = on_ray(diagram(3, 7)[:, 1]), on_ray(diagram(4, 5)[:, 1])
    assert distance(a, b).item() == pytest.approx(distance(b, a).item(), rel=1e-12)
    assert distance(a, b).item() > 0
    assert distance(a, a.flip(0)).item() == pytest.approx(0, abs=1e-14)


@each
def test_empty_diagrams(distance):
    empty = EMPTY.clone().requires_grad_()
    zero = distance(empty, EMPTY)
    assert zero.item() == 0
    zero.backward()
    full = deaths(1.0, 2.0).requires_grad_()
    value = distance(full, EMPTY)
    assert value.item() > 0
    value.backward()
    assert (full.grad[:, 1] > 0).all()


@pytest.mark.parametrize("dim", [0, 1])
def test_chamfer_by_hand(dim):
    a, b = deaths(1.0, 2.0, 6.0), deaths(1.5, 5.0)
    expected = (0.25 + 0.25 + 1.0) / 3 + (0.25 + 1.0) / 2
    assert chamfer(a, b, dim=dim).item() == pytest.approx(expected, rel=1e-15)
    assert chamfer(deaths(2.0, 4.0), EMPTY, dim=dim).item() == pytest.approx((2.0 + 8.0) / 2)


def test_chamfer_of_loops_sees_their_births():
    """By hand; of the first point of each side another one is nearest than its death alone would say."""
    a = torch.tensor([[1.0, 4.0], [3.0, 4.1], [0.0, 9.0]], dtype=torch.float64)
    b = torch.tensor([[3.5, 4.0], [1.0, 4.5], [2.0, 7.0]], dtype=torch.float64)
    to_b = [0.5**2, 0.5**2 + 0.1**2, 2.0**2 + 2.0**2]
    to_a = [0.5**2 + 0.1**2, 0.5**2, 2.0**2 + 2.0**2]
    assert chamfer(a, b).item() == pytest.approx(sum(to_b) / 3 + sum(to_a) / 3, rel=1e-14)
    assert chamfer(b, a).item() == pytest.approx(chamfer(a, b).item(), rel=1e-14)
    # to the diagonal the birth counts as much as the death
    assert chamfer(a, EMPTY).item() == pytest.approx((3.0**2 + 1.1**2 + 9.0**2) / 2 / 3, rel=1e-14)


def test_chamfer_does_not_see_multiplicity_and_wasserstein_does():
    a, b = deaths(1.0, 1.0, 5.0), deaths(1.0, 5.0)
    assert chamfer(a, b, dim=0).item() == 0
    assert wasserstein(a, b, dim=0, reduction="sum").item() == pytest.approx(1.0)  # {0, 1, 5} against {1, 1, 5}
    assert wasserstein(a, b, dim=1, reduction="sum").item() == pytest.approx(0.5)  # one point to the diagonal


@pytest.mark.parametrize("ties", [False, True])
def test_chamfer_on_the_line_equals_the_plane(ties):
    g = torch.Generator().manual_seed(5)
    a, b = (torch.rand(n, generator=g, dtype=torch.float64) for n in (300, 217))
    if ties:
        a, b = (a * 10).round(), (b * 10).round()
    a, b = on_ray(a), on_ray(b)
    torch.testing.assert_close(chamfer(a, b, dim=0), chamfer(a, b, dim=1), rtol=1e-14, atol=0)


def test_blocks_of_the_plane_search(monkeypatch):
    a, b = diagram(6, 50), diagram(7, 30)
    whole = _nearest_in_plane(a, b)
    monkeypatch.setattr("pointcept.topology.distances._BLOCK_ELEMENTS", 100)
    assert torch.equal(_nearest_in_plane(a, b), whole)


def test_dimensions_are_not_mixed():
    a = Diagram({0: deaths(3.0), 1: torch.tensor([[1.0, 2.0]], dtype=torch.float64)})
    b = Diagram({0: deaths(4.0), 1: torch.tensor([[0.0, 3.0]], dtype=torch.float64)})
    terms = diagram_distance(a, b)
    assert terms[0].item() == pytest.approx(2.0)  # 1 each way, although the H1 point (0, 3) equals the H0 point
    assert terms[1].item() == pytest.approx(4.0)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_wasserstein_equals_hera(gudhi, p):
    from gudhi.hera import wasserstein_distance

    for seed in range(4):
        a, b = diagram(10 + seed, 12), diagram(20 + seed, 9 + 3 * (seed % 2))
        expected = wasserstein_distance(a.numpy(), b.numpy(), order=p, internal_p=2.0, delta=1e-8) ** p
        assert wasserstein(a, b, p=p, reduction="sum").item() == pytest.approx(expected, rel=1e-6)


def test_sorted_wasserstein_equals_hera_for_equally_many_similar_deaths(gudhi):
    from gudhi.hera import wasserstein_distance

    g = torch.Generator().manual_seed(6)
    a, b = (on_ray(1 + torch.rand(40, generator=g, dtype=torch.float64)) for _ in range(2))
    expected = wasserstein_distance(a.numpy(), b.numpy(), order=2.0, internal_p=2.0, delta=1e-8) ** 2
    assert wasserstein(a, b, dim=0, reduction="sum").item() == pytest.approx(expected, rel=1e-6)
    assert wasserstein(a, b, dim=0).item() == pytest.approx(expected / 40, rel=1e-6)


def test_sorted_wasserstein_equals_the_one_dimensional_transport():
    from scipy.stats import wasserstein_distance

    a, b = diagram(30, 50)[:, 1], diagram(31, 50)[:, 1]
    expected = wasserstein_distance(a.numpy(), b.numpy())
    assert wasserstein(on_ray(a), on_ray(b), dim=0, p=1).item() == pytest.approx(expected, rel=1e-12)


def test_sliced_wasserstein_of_one_point_and_nothing():
    # |<p - projection, line>| integrates to (2 / pi) (d - b) / sqrt(2) over the half circle.
    point = torch.tensor([[0.3, 1.7]], dtype=torch.float64)
    expected = 2 / math.pi * 1.4 / 2**0.5
    assert sliced_wasserstein(point, EMPTY, directions=4000).item() == pytest.approx(expected, rel=1e-6)
    assert sliced_wasserstein(point, EMPTY, 4000, reduction="mean").item() == pytest.approx(expected, rel=1e-6)


def test_sliced_wasserstein_equals_an_independent_sum():
    from scipy.stats import wasserstein_distance

    a, b = diagram(40, 8).numpy(), diagram(41, 5).numpy()
    on_diagonal = [np.repeat(t.mean(axis=1, keepdims=True), 2, axis=1) for t in (a, b)]
    first, second = np.concatenate([a, on_diagonal[1]]), np.concatenate([b, on_diagonal[0]])
    total = 0.0
    for k in range(20):
        angle = -math.pi / 2 + math.pi * k / 20
        line = np.array([math.cos(angle), math.sin(angle)])
        total += 13 * wasserstein_distance(first @ line, second @ line) / 20
    found = sliced_wasserstein(torch.from_numpy(a), torch.from_numpy(b), directions=20)
    assert found.item() == pytest.approx(total, rel=1e-12)


def test_distances_of_real_diagrams_have_finite_gradient_at_equality():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64, requires_grad=True)
    for kind in ("chamfer", "wasserstein", "sliced_wasserstein"):
        first, second = persistence(x), persistence(x.detach())
        (grad,) = torch.autograd.grad(sum(diagram_distance(second, first, kind).values()), x)
        assert torch.isfinite(grad).all()


def test_wrong_arguments_are_refused():
    a, b = Diagram({0: deaths(1.0)}), Diagram({0: deaths(1.0), 1: EMPTY})
    with pytest.raises(ValueError, match="unknown diagram distance 'chamfr'; did you mean 'chamfer'"):
        diagram_distance(a, a, "chamfr")
    with pytest.raises(ValueError, match=r"different dimensions, \(0,\) and \(0, 1\)"):
        diagram_distance(a, b)
    assert set(diagram_distance(a, b, dims=(0,))) == set(diagram_distance(b, b, dims=(0,))) == {0}
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        wasserstein(EMPTY, EMPTY, p=0.5)
    with pytest.raises(ValueError, match="'mean' or 'sum', got 'max'"):
        wasserstein(EMPTY, EMPTY, reduction="max")
    with pytest.raises(ValueError, match="directions and p"):
        sliced_wasserstein(EMPTY, EMPTY, directions=0)
