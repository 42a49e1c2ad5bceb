"""The same diagrams on a CUDA device as on the CPU."""

from __future__ import annotations

import pytest
import torch

from pointcept.topology import (
    diagram_distance,
    farthest_points,
    minimum_spanning_tree,
    persistence,
    published_diagram,
    rtd_lite,
    submit_persistence,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_diagram_and_gradient_equal_the_cpu(cloud, dtype):
    index = torch.arange(0, len(cloud), 2)
    results = []
    for device in ("cpu", "cuda"):
        x = cloud.to(dtype).to(device, copy=True).requires_grad_()
        diagram = persistence(x, (0, 1), index=index.to(device))
        points = [diagram[d][diagram.deaths(d).argsort()].detach().cpu() for d in (0, 1)]
        total = diagram.total_persistence()
        total.backward()
        results.append((points, (x.grad * x).sum().item(), total.item()))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for d in (0, 1):
        deaths = [r[0][d][:, 1] for r in results]
        torch.testing.assert_close(deaths[0], deaths[1], rtol=tolerance, atol=tolerance)
    assert results[1][1] == pytest.approx(results[1][2], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_blocks_on_the_device_equal_the_stored_matrix(precision):
    x = torch.randn(5000, 128, generator=torch.Generator().manual_seed(1)).cuda()
    before = torch.get_float32_matmul_precision()
    stored = minimum_spanning_tree(x, precision=precision)
    assert torch.equal(stored, minimum_spanning_tree(x, precision=precision, memory_limit=0))
    assert torch.get_float32_matmul_precision() == before


def test_latents_of_a_distillation_step():
    g = torch.Generator().manual_seed(2)
    teacher = torch.randn(1500, 512, generator=g).cuda()
    student = torch.randn(1500, 128, generator=g).cuda().requires_grad_()
    with torch.autocast("cuda", dtype=torch.float16):
        first = submit_persistence(teacher, max_points=128)
        second = submit_persistence(student, max_points=128, index=first.index)
        a, b = first.result(), second.result()
        for kind in ("chamfer", "wasserstein", "sliced_wasserstein"):
            terms = diagram_distance(a, b, kind)
            assert all(t.is_cuda and t.item() > 0 for t in terms.values())
            (grad,) = torch.autograd.grad(sum(terms.values()), student, retain_graph=True)
            assert torch.isfinite(grad).all()
            assert grad.abs().max() > 0
    on_cpu = persistence(teacher.cpu(), max_points=128, index=first.index.cpu())
    for d in (0, 1):
        torch.testing.assert_close(a.deaths(d).sort().values.cpu(), on_cpu.deaths(d).sort().values)


def test_helpers_on_the_device():
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(3)).cuda()
    rows = farthest_points(x, 50, torch.Generator().manual_seed(4))
    assert rows.is_cuda
    assert len(rows.unique()) == 50
    torch.testing.assert_close(rtd_lite(x, x.flip(1) * 2).cpu(), rtd_lite(x.cpu(), x.cpu().flip(1) * 2))
    found, expected = (published_diagram(t * 0.1)[0][:, 1].sort().values.cpu() for t in (x, x.cpu()))
    torch.testing.assert_close(found, expected)
