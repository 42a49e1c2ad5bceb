"""Column sums: against sums in float64, and the same bits in every run."""

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SHAPES = [(1, 16), (1, 6), (77, 13), (5000, 16), (1000, 300), (300, 2048), (200_000, 64), (1_000_000, 16)]


def _matrix(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cuda()


@pytest.mark.parametrize(("n", "channels"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_column_sum_stays_near_float64(dtype: torch.dtype, n: int, channels: int) -> None:
    from pointops.reduction import column_sum

    x = _matrix(n, channels).to(dtype)
    found, exact = column_sum(x), x.double().sum(0)
    assert found.dtype is torch.float32
    assert (found - exact).norm() < 1e-5 * exact.norm()
    assert torch.equal(found, column_sum(x))
    assert torch.equal(column_sum(x, dtype), found.to(dtype))


def test_columns_that_do_not_lie_in_rows() -> None:
    from pointops.reduction import column_sum

    x = _matrix(40, 3000).float().t()
    torch.testing.assert_close(column_sum(x), x.double().sum(0).float(), rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(column_sum(x[:1].expand(7, -1)), 7 * x[0])


def test_no_row_gives_zeros() -> None:
    from pointops.reduction import column_sum

    assert torch.equal(column_sum(torch.empty(0, 5, device="cuda")), torch.zeros(5, device="cuda"))


@pytest.mark.parametrize("shape", [(1, 7), (2, 100_000), (3, 5, 7, 11), (37, 512, 27, 48), (600, 16), (1024, 2, 48)])
def test_partial_sums(shape: tuple[int, ...]) -> None:
    from pointops.reduction import sum_parts

    partial = _matrix(*shape).float()
    found = sum_parts(partial)
    torch.testing.assert_close(found, partial.double().sum(0).float(), rtol=1e-5, atol=1e-4)
    assert torch.equal(found, sum_parts(partial))
    assert torch.equal(sum_parts(partial, torch.float16), found.half())
