"""Layers that the backbones share."""

import pytest
import torch
from torch import nn

from pointcept.models.modules import BatchNorm, DropPath, SubmanifoldConv, activation_name, norm_act
from pointcept.structures import GridPyramid


def test_one_row_is_normalised_by_the_running_statistics():
    norm = BatchNorm(3).train()
    norm.running_mean.fill_(1.0)
    x = torch.randn(1, 3)
    torch.testing.assert_close(norm(x), norm.eval()(x))
    torch.testing.assert_close(norm.running_mean, torch.ones(3))


@pytest.mark.parametrize("momentum", [0.01, None])
@pytest.mark.parametrize("act", [nn.GELU(), nn.ReLU()])
def test_batch_norm_and_activation_train_as_those_of_pytorch(act, momentum):
    torch.manual_seed(0)
    ours, theirs = BatchNorm(3, eps=1e-3, momentum=momentum), nn.BatchNorm1d(3, eps=1e-3, momentum=momentum)
    for _ in range(3):
        x = torch.randn(10, 3)
        torch.testing.assert_close(norm_act(ours, x, activation_name(act)), act(theirs(x)))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(norm_act(ours.eval(), x, activation_name(act)), act(theirs.eval()(x)))


def test_rows_of_padding_leave_no_trace_in_a_batch_norm():
    torch.manual_seed(0)
    padded, plain, x = BatchNorm(3), BatchNorm(3), torch.randn(10, 3)
    expected = norm_act(plain, x[:6], "gelu")
    found = norm_act(padded, x, "gelu", torch.tensor([6], dtype=torch.int32))
    torch.testing.assert_close(found[:6], expected)
    torch.testing.assert_close(padded.state_dict(), plain.state_dict())


def test_norms_that_replace_ours_work_without_padding():
    norm, x, real = BatchNorm(3).eval(), torch.randn(4, 3), torch.tensor([2], dtype=torch.int32)
    replaced = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    assert isinstance(replaced, nn.SyncBatchNorm)
    torch.testing.assert_close(norm_act(replaced, x, "relu"), norm_act(norm, x, "relu"))
    with pytest.raises(AssertionError, match="SyncBatchNorm takes no padded rows"):
        norm_act(replaced, x, "relu", real)
    assert torch.equal(norm_act(nn.Identity(), x, "relu", real), x.relu())


def test_drop_path_drops_rows_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(20000, 2)
    y = DropPath(0.25).train()(x)
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (y[:, 0] == y[:, 1]).all()
    assert abs(y.mean() - 1) < 0.02
    assert DropPath(0.25).eval()(x) is x


def test_a_kernel_of_size_one_reads_its_memory_as_in_by_out():
    conv = SubmanifoldConv(3, 2, 1, bias=True)
    x = torch.randn(4, 3)
    grid = GridPyramid(torch.arange(12).view(4, 3), torch.tensor([4]), ("z",), ()).levels[0]
    expected = x @ conv.weight.flatten().view(3, 2) + conv.bias
    torch.testing.assert_close(conv(x, grid), expected)


def test_copies_of_a_voxel_see_themselves_in_the_centre():
    grid = torch.tensor([[1, 1, 1], [1, 1, 2], [1, 1, 1]])
    level = GridPyramid(grid, torch.tensor([3]), ("z",), ()).levels[0]
    conv = SubmanifoldConv(1, 1, 3, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 1, 1, 1] = 1.0
        conv.weight[0, 1, 1, 2] = 10.0
        conv.weight[0, 1, 1, 0] = 100.0
    y = conv(torch.tensor([[1.0], [2.0], [3.0]]), level).flatten().tolist()
    assert y[0] == 1 + 20
    assert y[2] == 3 + 20
    assert y[1] in (2 + 100, 2 + 300)  # one of the copies


def test_distinct_and_duplicated_grids_agree_where_nothing_is_duplicated():
    torch.manual_seed(0)
    grid = torch.randint(0, 6, (80, 3)).unique(dim=0)
    conv = SubmanifoldConv(4, 5, 3, bias=True)
    x = torch.randn(len(grid), 4)
    plain = conv(x, GridPyramid(grid, torch.tensor([len(grid)]), ("z",), ()).levels[0])
    far = torch.tensor([[50, 50, 50], [50, 50, 50]])
    longer = GridPyramid(torch.cat([grid, far]), torch.tensor([len(grid) + 2]), ("z",), ()).levels[0]
    torch.testing.assert_close(conv(torch.cat([x, torch.randn(2, 4)]), longer)[: len(grid)], plain)
