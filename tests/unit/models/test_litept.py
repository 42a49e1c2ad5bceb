"""LitePT: what its rotations do, what it refuses, and that it trains; test_golden.py compares it with the reference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pointcept.models import build_model
from pointcept.models.litept.backbone import RotaryAttention
from pointcept.models.point_transformer_v3.layers import BlockOptions
from pointcept.structures import GridPyramid
from pointcept.utils.errors import ConfigError

SMALL = {
    "type": "LitePT-v1",
    "stride": (2,),
    "enc_depths": (1, 2),
    "enc_channels": (8, 12),
    "enc_num_head": (1, 2),
    "enc_patch_size": (32, 32),
    "enc_conv": (True, False),
    "enc_attn": (False, True),
    "enc_rope_freq": (100.0, 100.0),
    "dec_depths": (0,),
    "dec_channels": (8,),
}


def segmentor(**backbone: Any) -> dict[str, Any]:
    return {
        "type": "DefaultSegmentorV2",
        "num_classes": 5,
        "backbone_out_channels": 8,
        "backbone": {**SMALL, **backbone},
        "criteria": [{"type": "CrossEntropyLoss"}],
    }


def test_attention_depends_on_differences_of_positions_alone(batch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    options = BlockOptions(4, True, None, 0.0, 0.0, True, False, False, None, "residual")
    attention = RotaryAttention(12, 2, 32, 100.0, options).double()
    x = torch.randn(len(batch["grid_coord"]), 12, dtype=torch.float64)
    found = []
    for shift in (0, 96):  # by whole octants, so that the order of the voxels stays
        pyramid = GridPyramid(batch["grid_coord"], batch["offset"], ("z",), ())
        grid = copy.copy(pyramid.levels[0])
        grid.grid_coord = grid.grid_coord + torch.tensor([shift, 2 * shift, 3 * shift])
        found.append(attention(x, grid, "z"))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    grid.grid_coord = grid.grid_coord * 2
    assert not torch.allclose(attention(x, grid, "z"), found[0], atol=1e-3)


def test_every_weight_learns_and_dropped_orders_are_drawn(batch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = build_model(segmentor(drop_path=0.0)).train()
    model(batch)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    model.eval()
    assert torch.equal(model(batch)["seg_logits"], model(batch)["seg_logits"])


def test_a_block_without_convolution_replaces_its_input_by_the_norm() -> None:
    names = build_model(segmentor()).state_dict().keys()
    assert {name.split(".")[4] for name in names if ".enc0.block0." in name} == {"conv"}
    assert {name.split(".")[4] for name in names if ".enc1.block1." in name} == {
        "norm0",
        "norm1",
        "attn",
        "norm2",
        "mlp",
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"enc_channels": (8, 16)}, "16 channels for 2 heads in stage 1: a head that is rotated has a multiple of 6"),
        ({"enc_attn": (False, False)}, "stage 1 has neither convolution nor attention"),
        ({"dec_depths": (1,)}, "dec_depths: got .*: the decoder of LitePT-v1 has no blocks"),
        ({"enc_conv": (True,)}, "enc_conv: got .* 2 values"),
        ({"dec_channels": (8, 8)}, "dec_channels: got .* 1 values"),
        ({"pre_norm": False}, "pre_norm=False"),
        ({"enc_mode": True}, "enc_mode=True asks for an encoder without decoder"),
        ({"order": ("peano",)}, "order: got 'peano'"),
        ({"enc_rope_freq": (100.0, 0.0)}, "enc_rope_freq.1: got 0.0"),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model(segmentor(**changes))


def test_a_litept_learns_from_a_point_transformer(small_segmentor: Any, batch: dict[str, torch.Tensor]) -> None:
    losses = {
        "kld": {"type": "KLDLoss"},
        "grad": {"type": "GradGuidedLoss"},
        "topo": {"type": "TopoLoss", "max_points": 16},
    }
    config = {"type": "Distiller", "teacher": small_segmentor, "student": segmentor(), "teacher_weight": "random"}
    found = build_model({**config, "losses": losses}).train()(batch)
    found["loss"].backward()
    assert all(found["losses"][name].isfinite() for name in losses)
