"""Networks on a pyramid of fixed shapes compute what they compute on the ordinary one, whatever padding holds."""

from __future__ import annotations

import copy

import pytest
import torch

from pointcept.engines.defaults import load_config
from pointcept.models import MODELS, build_inference_model
from pointcept.ops.api import ORDERS
from pointcept.structures import Capacities
from tests.fixed import NoWaiting, lay_out, padded_rows, poison, random_scans, real_scans
from tests.paths import CONFIGS


def by_voxel(grid):
    """The rows of a grid sorted by scan and voxel; equal voxels stay in their order."""
    key = grid.batch
    for axis in grid.grid_coord.unbind(1):
        key = key << 16 | axis
    return key.argsort(stable=True)


def results(model, logits, features):
    """A random projection of logits and features: all of them, the gradients of the weights, and the statistics."""
    generator = torch.Generator().manual_seed(3)
    total = 0.0
    for x in (logits, *features):
        total = total + (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum()
    model.zero_grad()
    total.backward()
    named = {f"features {i}": x.detach() for i, x in enumerate(features)}
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return {"logits": logits.detach(), **named, **gradients, **dict(model.named_buffers())}


def ordinary(model, batch, level_orders=None):
    model = copy.deepcopy(model)
    backbone = model.backbone
    if level_orders is not None:
        backbone._level_orders = lambda: level_orders
    pyramid = backbone.build_pyramid(batch["grid_coord"], batch["offset"])
    encoded = backbone.encode(batch["feat"], pyramid)
    logits = model.head(backbone.decode(encoded, pyramid))
    grids = backbone.stage_grids(pyramid)
    return results(model, logits, [x[by_voxel(grid)] for x, grid in zip(encoded.features, grids, strict=True)])


def fixed(model, batch, choice=None, capacities=None, rows=None):
    model = copy.deepcopy(model)
    backbone, n = model.backbone, len(batch["feat"])
    pyramid, sizes = lay_out(batch["grid_coord"], batch["offset"], backbone.orders, backbone.strides, capacities)
    view = pyramid.view(choice, rows)
    feat = padded_rows(batch["feat"], pyramid.capacities.rows[0])[pyramid.source]
    with NoWaiting():
        encoded = backbone.encode(feat, view)
        logits = model.head(backbone.decode(encoded, view))
    assert logits.isfinite().all()
    grids = pyramid.stage_grids(sizes, distinct=backbone.stage_grids(view) is not view.levels)
    features = [x[: len(grid)][by_voxel(grid)] for x, grid in zip(encoded.features, grids, strict=True)]
    return results(model, logits[pyramid.position][:n], features)


def same(found, expected, rounding=1e-9):
    assert found.keys() == expected.keys()
    # biases before a batch norm have no gradient but rounding, so it is measured against the others
    gradients = [g for name, g in expected.items() if name.startswith("gradient") and g is not None]
    largest = max(g.abs().max().item() for g in gradients)
    for name, wanted in expected.items():
        if wanted is None or not wanted.is_floating_point():
            assert found[name] is wanted or torch.equal(found[name], wanted), name
            continue
        scale = largest if name.startswith("gradient") else wanted.abs().max().item()
        atol = rounding * scale
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def make(cfg, training):
    torch.manual_seed(0)
    model = MODELS.build(cfg).double().train(training)
    for name, value in model.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
    return model


@pytest.fixture(params=[True, False], ids=["training", "evaluation"])
def training(request) -> bool:
    return request.param


@pytest.fixture
def transformer(small_segmentor, training):
    backbone = {
        **small_segmentor["backbone"],
        "stride": (2, 4),
        "enc_depths": (2, 2, 2),
        "enc_channels": (16, 16, 32),
        "enc_num_head": (1, 2, 2),
        "enc_patch_size": (32, 32, 16),
        "dec_depths": (1, 1),
        "dec_channels": (16, 16),
        "dec_num_head": (2, 2),
        "dec_patch_size": (32, 16),
        "drop_path": 0.0,
        "shuffle_orders": False,
    }
    return make({**small_segmentor, "backbone": backbone}, training)


SCANS = [(200,), (32, 150), (90, 20, 32), (5, 3, 2)]


@pytest.mark.parametrize("sizes", SCANS)
@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "copies"])
def test_transformer(transformer, sizes, distinct):
    batch = random_scans(sizes, 9, distinct=distinct)
    same(fixed(transformer, batch), ordinary(transformer, batch))


@pytest.mark.parametrize("sizes", SCANS)
@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "copies"])
def test_unet(small_unet, training, sizes, distinct):
    batch = random_scans(sizes, 9, distinct=distinct)
    model = make(small_unet, training)
    same(fixed(model, batch), ordinary(model, batch))


def test_a_choice_of_tables_is_a_permutation_of_the_orders(transformer):
    batch = random_scans((90, 20, 32), 9, distinct=False)
    generator = torch.Generator().manual_seed(1)
    choice = torch.stack([torch.randperm(4, generator=generator) for _ in range(3)])
    level_orders = [[ORDERS[i] for i in row] for row in choice.tolist()]
    same(fixed(transformer, batch, choice), ordinary(transformer, batch, level_orders))


@pytest.mark.parametrize("order", [("hilbert", "z"), ("hilbert-trans",)])
def test_orders_that_do_not_begin_with_z(small_segmentor, training, order):
    backbone = {**small_segmentor["backbone"], "order": order, "shuffle_orders": False, "drop_path": 0.0}
    model = make({**small_segmentor, "backbone": backbone}, training)
    batch = random_scans((150, 32), 9)
    same(fixed(model, batch), ordinary(model, batch))


@pytest.mark.parametrize(
    "options", [{"enable_rpe": True, "enable_flash": False}, {"recompute": "linear"}, {"recompute": "block"}]
)
def test_options_of_the_transformer(small_segmentor, training, options):
    backbone = {**small_segmentor["backbone"], "shuffle_orders": False, "drop_path": 0.0, **options}
    model = make({**small_segmentor, "backbone": backbone}, training)
    batch = random_scans((90, 20, 32), 9)
    # without fused kernels, attention is computed in float32
    same(fixed(model, batch), ordinary(model, batch), 1e-7 if "enable_flash" in options else 1e-9)


@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "copies"])
def test_room_for_copies_need_not_be_used(transformer, small_unet, training, distinct):
    batch = random_scans((90, 20, 32), 9, distinct=distinct)
    capacities = Capacities((640, 400, 200), 128, 320)
    same(fixed(transformer, batch, capacities=capacities), ordinary(transformer, batch))
    model = make(small_unet, training)
    same(fixed(model, batch, capacities=capacities), ordinary(model, batch))


@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "copies"])
@pytest.mark.parametrize("room", [(640, 900, 700), (640, 300, 640)])
def test_fewer_rows_of_the_coarser_levels(transformer, small_unet, training, distinct, room):
    batch = random_scans((90, 20, 32), 9, distinct=distinct)
    for model in (transformer, make(small_unet, training)):
        strides = model.backbone.strides
        *_, sizes = lay_out(batch["grid_coord"], batch["offset"], ORDERS, strides)
        copies = (0, 0) if distinct else (128, 320)
        capacities = Capacities((room * 2)[: len(sizes.rows)], *copies)
        rows = (640, *(n + 1 for n in sizes.rows[1:]))
        assert capacities.fits(sizes)
        same(fixed(model, batch, capacities=capacities, rows=rows), ordinary(model, batch))


@pytest.mark.parametrize("radii", [(5.0,), (3.0, 4.5), (2.0, 3.5, 2.5)])
@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
def test_the_published_student_on_a_real_sweep(shared_dir, training, radii, mixed):
    cfg = load_config(CONFIGS / "nuscenes/student.py").to_dict()["model"]
    cfg["backbone"].update(
        shuffle_orders=False, drop_path=0.0, enc_patch_size=(128,) * 5, dec_patch_size=(128,) * 4, bn_momentum=0.1
    )
    torch.manual_seed(0)
    model = build_inference_model(cfg).double().train(training)
    batch = real_scans(shared_dir, radii, mixed)
    same(fixed(model, batch), ordinary(model, batch))


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
def test_the_sparse_student_on_a_real_sweep(shared_dir, training, mixed):
    cfg = load_config(CONFIGS / "nuscenes/distill_full_spunet.py").to_dict()["model"]["student"]
    torch.manual_seed(0)
    model = MODELS.build({**cfg, "criteria": None}).double().train(training)
    batch = real_scans(shared_dir, (4.0, 3.0), mixed)
    same(fixed(model, batch), ordinary(model, batch))


@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "copies"])
def test_what_memory_held_before_does_not_matter(transformer, small_unet, training, distinct, monkeypatch):
    batch = random_scans((90, 20, 32), 9, distinct=distinct)
    models = transformer, make(small_unet, training)
    expected = [ordinary(model, batch) for model in models]
    poison(monkeypatch)
    for model, wanted in zip(models, expected, strict=True):
        same(fixed(model, batch), wanted)
