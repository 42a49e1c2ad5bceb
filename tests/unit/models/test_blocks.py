"""A block of PTv3 against its formula, with norms before and after, drop path, dropout and position bias."""

import pytest
import torch

from pointcept.models.point_transformer_v3.layers import Block, BlockOptions
from pointcept.structures import GridPyramid
from pointcept.utils.errors import ConfigError


def _block(drop_path: float = 0.0, **options) -> Block:
    torch.manual_seed(0)
    defaults = {"mlp_ratio": 2.0, "qkv_bias": True, "qk_scale": None, "attn_drop": 0.0, "proj_drop": 0.0}
    flags = {"pre_norm": True, "enable_rpe": False, "upcast_attention": False, "recompute": None}
    options = {**defaults, **flags, "cpe_input": "residual", **options}
    block = Block(8, 2, 16, drop_path, 0, BlockOptions(**options)).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return block


@pytest.fixture
def level():
    """Voxels of two scans, some of them twice."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.randint(0, 5, (70, 3), generator=generator)
    return GridPyramid(grid, torch.tensor([40, 70]), ("z",), ()).levels[0]


def _formula(block: Block, x: torch.Tensor, level, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    conv, linear, norm = block.cpe
    x = x + norm(linear(conv(position, level)))
    mlp, drop = block.mlp[0], block.drop_path

    def wide(rows):
        return mlp.drop(mlp.fc2(mlp.drop(mlp.act(mlp.fc1(rows)))))

    if block.pre_norm:
        x = x + drop(block.attn(block.norm1(x), level, "z"))
        branch = drop(wide(block.norm2(x)))
        return x + branch, branch if block.feeds_branch else x + branch
    x = block.norm1(x + drop(block.attn(x, level, "z")))
    x = block.norm2(x + drop(wide(x)))
    return x, x


@pytest.mark.parametrize("scale", [0, -0.25])
def test_scores_are_not_multiplied_by_zero_or_less(scale):
    with pytest.raises(ConfigError, match=f"qk_scale: got {scale}, allowed: a finite number above 0"):
        _block(qk_scale=scale)


def test_another_input_of_the_position_encoding_is_an_error():
    with pytest.raises(
        ConfigError, match=r"cpe_input: got 'branch': did you mean 'mlp_branch'\? Allowed: mlp_branch, residual"
    ):
        _block(cpe_input="branch")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pre_norm": False},
        {"enable_rpe": True, "upcast_attention": False},
        {"drop_path": 0.5},
        {"proj_drop": 0.3, "drop_path": 0.2},
        {"attn_drop": 0.3},
        {"recompute": "mlp", "drop_path": 0.5},
        {"recompute": "linear", "drop_path": 0.5},
        {"recompute": "linear", "proj_drop": 0.3},
        {"recompute": "linear", "attn_drop": 0.3},
        {"recompute": "linear", "pre_norm": False},
        {"recompute": "block", "drop_path": 0.5},
        {"recompute": "block", "proj_drop": 0.3},
        {"cpe_input": "mlp_branch"},
        {"cpe_input": "mlp_branch", "pre_norm": False},
        {"cpe_input": "mlp_branch", "drop_path": 0.5, "proj_drop": 0.3},
        {"cpe_input": "mlp_branch", "recompute": "mlp", "drop_path": 0.5},
        {"cpe_input": "mlp_branch", "recompute": "linear", "drop_path": 0.5},
        {"cpe_input": "mlp_branch", "recompute": "linear", "proj_drop": 0.3},
        {"cpe_input": "mlp_branch", "recompute": "block", "drop_path": 0.5},
    ],
)
def test_values_and_gradients_equal_the_formula(options, level):
    block = _block(**options).train()
    generator = torch.Generator().manual_seed(2)
    x, position, direction, another = torch.randn(4, len(level), 8, generator=generator, dtype=torch.float64)
    results = []
    for run in (lambda *t: block(t[0], level, ["z"], t[1]), lambda *t: _formula(block, t[0], level, t[1])):
        block.zero_grad()
        inputs = x.clone().requires_grad_(), position.clone().requires_grad_()
        torch.manual_seed(5)
        out, following = run(*inputs)
        (out * direction + following * another).sum().backward()
        gradients = [t.grad for t in (*inputs, *block.parameters())]
        results.append([out.detach(), following.detach(), *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
