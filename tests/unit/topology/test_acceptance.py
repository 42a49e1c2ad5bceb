"""The acceptance values of ../shared/topology.md, one test for each row of its table."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pointcept.topology import diagram_distance, normalise, persistence


def ngon(n: int) -> torch.Tensor:
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def icosahedron() -> torch.Tensor:
    phi = (1 + 5**0.5) / 2
    corners = [(0.0, s, t * phi) for s in (-1, 1) for t in (-1, 1)]
    points = torch.tensor([c[i:] + c[:i] for c in corners for i in range(3)], dtype=torch.float64)
    return points / points.norm(dim=1, keepdim=True)


def fibonacci_sphere(n: int) -> torch.Tensor:
    k = torch.arange(n, dtype=torch.float64)
    z = 1 - (2 * k + 1) / n
    angle = k * math.pi * (3 - 5**0.5)
    radius = (1 - z**2).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=1)


def clifford_torus(side: int) -> torch.Tensor:
    circle = ngon(side)
    return torch.cat([circle.repeat_interleave(side, 0), circle.repeat(side, 1)], dim=1)


def longest(points: torch.Tensor, count: int) -> list[list[float]]:
    order = (points[:, 1] - points[:, 0]).argsort(descending=True)
    return points[order[:count]].tolist()


BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.mark.parametrize("n", [4, 6, 12, 50, 99, 100, 101])
def test_regular_polygon_has_one_loop(n):
    diagram = persistence(ngon(n), dims=(1,))
    expected = [2 * math.sin(math.pi / n), 2 * math.sin(math.pi * math.ceil(n / 3) / n)]
    assert diagram[1].shape == (1, 2)
    np.testing.assert_allclose(diagram[1][0].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "expected"), [(99, (0.063456, 1.732051)), (100, (0.062822, 1.752613))])
@BOTH
def test_polygon_values_of_the_table(n, expected, dtype):
    found = persistence(ngon(n).to(dtype), dims=(1,))[1]
    np.testing.assert_allclose(longest(found, 1)[0], expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-6)


@BOTH
def test_unit_square(dtype):
    square = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=dtype)
    diagram = persistence(square)
    assert diagram.deaths(0).tolist() == [1, 1, 1]
    np.testing.assert_allclose(diagram[1].numpy(), [[1, 2**0.5]], rtol=1e-6)


@BOTH
def test_five_basis_vectors(dtype):
    diagram = persistence(torch.eye(5, dtype=dtype))
    np.testing.assert_allclose(diagram.deaths(0).numpy(), [2**0.5] * 4, rtol=1e-6)
    assert len(diagram[1]) == 0


@pytest.mark.parametrize("engine", ["redzed", "gudhi"])
def test_octahedron_and_icosahedron_enclose_one_void(engine, gudhi):
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)])
    np.testing.assert_allclose(persistence(octahedron, (2,), engine=engine)[2].numpy(), [[2**0.5, 2]], rtol=1e-6)
    found = persistence(icosahedron(), (2,), engine=engine)[2].numpy()
    np.testing.assert_allclose(found, [[1.051462, 1.701302]], rtol=0, atol=1e-6)


def test_clifford_torus_has_two_equal_loops():
    found = persistence(clifford_torus(12), (1,))[1]
    np.testing.assert_allclose(longest(found, 2), [[0.517638, 1.732051]] * 2, rtol=0, atol=1e-6)
    # Each of the 144 unit squares of the grid closes a short loop; together they bound, so 143 are independent.
    short = [p for p in found.tolist() if p[1] < 1]
    assert len(found) == 145
    np.testing.assert_allclose(short, [[0.517638, 0.732051]] * 143, rtol=0, atol=1e-6)


def test_fibonacci_sphere_encloses_one_void():
    found = persistence(fibonacci_sphere(200), (2,))[2]
    assert found.shape == (1, 2)
    np.testing.assert_allclose(found[0].numpy(), [0.368504, 1.648740], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2])
@BOTH
def test_higher_dimensions_equal_gudhi(cloud, reference_diagram, gudhi, dim, dtype):
    x = cloud.to(dtype)[: 60 if dim == 1 else 36]
    found = persistence(x, (dim,))[dim].numpy()
    assert gudhi.bottleneck_distance(found, reference_diagram(x, dim)) <= 1e-5


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_noise_moves_the_diagram_by_at_most_twice_its_size(gudhi, epsilon):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(70, 3, generator=g, dtype=torch.float64)
    noise = torch.randn(70, 3, generator=g, dtype=torch.float64)
    moved = x + epsilon * noise / noise.norm(dim=1, keepdim=True)
    a, b = persistence(x), persistence(moved)
    for dim in (0, 1):
        distance = gudhi.bottleneck_distance(a[dim].numpy(), b[dim].numpy())
        assert 0 < distance <= 2 * epsilon


@pytest.mark.parametrize("kind", ["chamfer", "wasserstein"])
@BOTH
def test_padded_and_rotated_cloud_has_no_loss(kind, dtype):
    g = torch.Generator().manual_seed(2)
    x = torch.randn(120, 128, generator=g, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(512, 512, generator=g, dtype=torch.float64)).Q
    teacher = normalise((torch.nn.functional.pad(x, (0, 384)) @ rotation).to(dtype))
    student = normalise(x.to(dtype))
    terms = diagram_distance(persistence(teacher), persistence(student), kind)
    assert set(terms) == {0, 1}
    assert sum(terms.values()).item() <= 1e-10


def test_total_persistence_is_homogeneous_and_translation_invariant():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    for dims in ((0,), (1,), (0, 1)):
        total = persistence(x, dims).total_persistence()
        (grad,) = torch.autograd.grad(total, x)
        assert total.item() > 0
        assert (x * grad).sum().item() == pytest.approx(total.item(), rel=1e-12)
        assert grad.sum(dim=0).abs().max().item() < 1e-12


@pytest.mark.parametrize("kind", ["chamfer", "wasserstein", "sliced_wasserstein"])
def test_teacher_of_other_width_gives_a_loss_and_only_the_student_learns(kind):
    g = torch.Generator().manual_seed(4)
    teacher = torch.randn(300, 512, generator=g, requires_grad=True)
    student = torch.randn(300, 128, generator=g, requires_grad=True)
    state = torch.get_rng_state()
    a = persistence(normalise(teacher), max_points=64)
    b = persistence(normalise(student), max_points=64, index=a.index)
    terms = diagram_distance(a.detach(), b, kind)
    assert all(term.item() > 0 for term in terms.values())
    sum(terms.values()).backward()
    assert teacher.grad is None
    assert student.grad.abs().max().item() > 0
    assert torch.equal(torch.get_rng_state(), state)
