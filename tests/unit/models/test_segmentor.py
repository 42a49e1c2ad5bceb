"""Segmentors: what they return, permutations, determinism, duplicates, extremes, errors."""

import pytest
import torch

from pointcept.models import build_model
from pointcept.utils.errors import ConfigError
from tests.unit.models.conftest import make_batch


@pytest.fixture(params=["small_segmentor", "small_unet"])
def config(request):
    """Every kind of network."""
    return request.getfixturevalue(request.param)


def test_training_returns_a_loss_that_falls(config, batch, device):
    torch.manual_seed(0)
    batch = {key: value.to(device) for key, value in batch.items()}
    model = build_model(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    values = []
    for _ in range(15):
        result = model(batch)
        assert set(result) == {"loss", "losses"}
        assert set(result["losses"]) == {"CrossEntropyLoss", "LovaszLoss"}
        optimizer.zero_grad()
        result["loss"].backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        values.append(result["loss"].item())
    assert values[-1] < 0.8 * values[0]


def test_evaluation_returns_logits_and_a_loss_where_there_are_labels(config, batch):
    model = build_model(config).eval()
    result = model(batch)
    assert result["seg_logits"].shape == (len(batch["feat"]), 5)
    assert "loss" in result
    del batch["segment"]
    assert set(model(batch)) == {"seg_logits"}


def test_evaluation_is_deterministic(config, batch):
    model = build_model(config).eval()
    with torch.no_grad():
        assert torch.equal(model(batch)["seg_logits"], model(batch)["seg_logits"])


def test_rows_may_come_in_any_order(config, batch):
    model = build_model(config).eval().double()
    batch["feat"] = batch["feat"].double()
    first, generator = int(batch["offset"][0]), torch.Generator().manual_seed(3)
    rows = torch.cat([torch.randperm(first, generator=generator), torch.arange(first, len(batch["feat"]))])
    moved = {key: batch[key][rows] for key in ("feat", "grid_coord", "coord")} | {"offset": batch["offset"]}
    with torch.no_grad():
        torch.testing.assert_close(model(moved)["seg_logits"], model(batch)["seg_logits"][rows])


def test_scans_of_a_batch_do_not_see_each_other(config):
    """The finest grid's depth differs between the two calls, so the orders' codes do, but nothing else may."""
    batch = make_batch((150, 90), extent=14)
    model = build_model(config).eval().double()
    first = int(batch["offset"][0])
    alone = {key: batch[key][:first] for key in ("feat", "grid_coord")} | {"offset": batch["offset"][:1]}
    alone["feat"] = alone["feat"].double()
    with torch.no_grad():
        both = model.network({**batch, "feat": batch["feat"].double()}).logits[:first]
        torch.testing.assert_close(model.network(alone).logits, both)


def test_a_scan_of_one_point_and_scans_of_very_different_sizes(config, device):
    model = build_model(config).to(device).train()
    for sizes in ((1,), (1, 1), (3000, 1, 40)):
        batch = {key: value.to(device) for key, value in make_batch(sizes, extent=40).items()}
        result = model(batch)
        result["loss"].backward()
        assert torch.isfinite(result["loss"])
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_an_ignored_scan_gives_no_gradient(config, batch):
    batch["segment"].fill_(-1)
    model = build_model(config).train()
    loss = model(batch)["loss"]
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in model.parameters())


def test_voxels_that_occur_twice(config, device):
    """Mix3D lays two scans over each other: both copies get logits, and gradients flow."""
    batch = make_batch((200,), extent=8)
    batch = {k: torch.cat([v, v]) if k != "offset" else 2 * v for k, v in batch.items()}
    batch["feat"][200:] += 1.0
    batch = {key: value.to(device) for key, value in batch.items()}
    model = build_model(config).to(device).train()
    model(batch)["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    with torch.no_grad():
        assert model.eval()(batch)["seg_logits"].shape == (len(batch["feat"]), 5)


def test_the_gradient_equals_finite_differences(config):
    """Along one random direction of all weights, in float64, duplicates included."""
    batch = make_batch((60, 30), extent=5, distinct=False)
    batch["feat"] = batch["feat"].double()
    config["criteria"] = [{"type": "CrossEntropyLoss"}]
    if "drop_path" in config["backbone"]:
        config["backbone"].update(drop_path=0.0, shuffle_orders=False)
    model = build_model(config).double().train()
    generator = torch.Generator().manual_seed(1)
    parameters = list(model.parameters())
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().std() for p in parameters]
    grads = torch.autograd.grad(model(batch)["loss"], parameters)
    slope = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
    step, values = 1e-6, []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * step * d
            values.append(model(batch)["loss"])
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-4, atol=1e-7)


def test_shuffled_orders_stay_out_of_evaluation(small_segmentor, batch):
    model = build_model(small_segmentor)
    levels = {tuple(map(tuple, model.train().backbone._level_orders())) for _ in range(20)}
    assert len(levels) > 1
    levels = {tuple(map(tuple, model.eval().backbone._level_orders())) for _ in range(5)}
    assert levels == {(("z", "z-trans", "hilbert", "hilbert-trans"),) * 2}
    small_segmentor["backbone"]["shuffle_orders"] = False
    levels = {tuple(map(tuple, build_model(small_segmentor).train().backbone._level_orders())) for _ in range(5)}
    assert len(levels) == 1


@pytest.mark.parametrize(
    "option", [{"pre_norm": False}, {"enable_rpe": True, "enable_flash": False}, {"qk_scale": 0.1}]
)
def test_options_of_the_blocks_change_the_output(option, small_segmentor, batch):
    torch.manual_seed(0)
    plain = build_model(small_segmentor).eval()
    small_segmentor["backbone"].update(option)
    changed = build_model(small_segmentor).eval()
    changed.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        assert not torch.allclose(plain(batch)["seg_logits"], changed(batch)["seg_logits"])


def test_freeze_backbone_trains_the_head_alone(small_segmentor, batch):
    model = build_model({**small_segmentor, "freeze_backbone": True})
    model(batch)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["seg_head.weight", "seg_head.bias"]


def test_wrong_configs_are_explained(small_segmentor, small_unet, batch):
    def expect(message, config):
        with pytest.raises(ValueError, match=message):
            build_model(config)(batch)

    backbone = small_segmentor["backbone"]
    expect("did you mean 'PT-v3m1'", {**small_segmentor, "backbone": {**backbone, "type": "PT-v3"}})
    expect("did you mean 'enc_depths'", {**small_segmentor, "backbone": {**backbone, "enc_depth": (1, 1)}})
    expect(
        r"model.backbone.enc_channels: got \(16,\), allowed: 2 values",
        {**small_segmentor, "backbone": {**backbone, "enc_channels": (16,)}},
    )
    expect(
        "enc_num_head: got 3 heads, which do not divide 16",
        {**small_segmentor, "backbone": {**backbone, "enc_num_head": (3, 2)}},
    )
    expect("did you mean 'hilbert'", {**small_segmentor, "backbone": {**backbone, "order": ("hilber",)}})
    expect("enable_flash=False", {**small_segmentor, "backbone": {**backbone, "enable_rpe": True}})
    expect("pdnorm_bn=True", {**small_segmentor, "backbone": {**backbone, "pdnorm_bn": True}})
    expect("returns 16 channels", {**small_segmentor, "backbone_out_channels": 32})
    expect("in_channels=6", {**small_segmentor, "backbone": {**backbone, "in_channels": 6}})
    expect("use DefaultSegmentorV2", {"type": "DefaultSegmentor", "backbone": backbone})
    expect("channels: got .*even number", {**small_unet, "backbone": {**small_unet["backbone"], "layers": (1, 1, 1)}})


def test_the_two_names_of_the_encoder_alone(small_segmentor, small_unet):
    for config in (small_segmentor, small_unet):
        backbone = config["backbone"]
        for options in ({"cls_mode": False}, {"enc_mode": False}, {"cls_mode": False, "enc_mode": False}):
            build_model({**config, "backbone": {**backbone, **options}})
        for options, message in (
            ({"cls_mode": True}, "cls_mode=True asks for an encoder without decoder"),
            ({"enc_mode": True}, "enc_mode=True asks for an encoder without decoder"),
            ({"cls_mode": False, "enc_mode": True}, "cls_mode=False and enc_mode=True are two names of one option"),
        ):
            with pytest.raises(ConfigError, match=f"{backbone['type']}: {message}"):
                build_model({**config, "backbone": {**backbone, **options}})


def test_training_without_labels_is_explained(config, batch):
    del batch["segment"]
    with pytest.raises(ValueError, match="labels and criteria"):
        build_model(config).train()(batch)


@pytest.mark.parametrize("key", ["feat", "grid_coord", "offset"])
def test_a_batch_without_a_key_says_what_the_transforms_need(config, batch, key):
    del batch[key]
    with pytest.raises(ConfigError, match=rf"the batch has no {key}, only .*segment.*: .*Collect"):
        build_model(config)(batch)
