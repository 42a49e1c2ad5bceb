"""Recomputation in the backward pass of PTv3: the same gradients, less kept in memory."""

import gc
import weakref

import pytest
import torch

from pointcept.models import build_model
from pointcept.models.point_transformer_v3 import layers
from pointcept.models.point_transformer_v3.recompute import Recomputation
from pointcept.utils.errors import ConfigError


def _gradients(config: dict, batch: dict, backwards: int = 1) -> tuple[list[torch.Tensor], int]:
    """Gradients of all weights in training, with drop path and shuffled orders, and the bytes kept for them."""
    torch.manual_seed(0)
    model = build_model(config).train()
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = model(batch)["loss"]
    for _ in range(backwards):
        model.zero_grad()
        loss.backward(retain_graph=True)
    return [p.grad for p in model.parameters()], sum(kept.values())


def _with(config: dict, recompute: str | None) -> dict:
    return {**config, "backbone": {**config["backbone"], "recompute": recompute, "drop_path": 0.4}}


@pytest.mark.parametrize("backwards", [1, 2])
@pytest.mark.parametrize("recompute", ["mlp", "block"])
def test_gradients_are_equal_and_less_is_kept(recompute, backwards, small_segmentor, batch):
    plain, kept = _gradients(_with(small_segmentor, None), batch)
    found, less = _gradients(_with(small_segmentor, recompute), batch, backwards)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert less < 0.9 * kept


@pytest.mark.parametrize(("recompute", "kept"), [("mlp", True), ("linear", False)])
def test_normalised_rows_are_kept_or_not(recompute, kept, small_segmentor, batch, monkeypatch):
    rows = []

    def noting(function):
        def run(*args, **kwargs):
            x, normal = function(*args, **kwargs)
            rows.append(weakref.ref(normal))
            return x, normal

        return run

    for name in ("norm_add_norm", "add_layer_norm"):
        monkeypatch.setattr(layers.ops, name, noting(getattr(layers.ops, name)))
    loss = build_model(_with(small_segmentor, recompute)).train()(batch)["loss"]
    gc.collect()
    assert rows
    assert all((ref() is not None) == kept for ref in rows)
    loss.backward()


@pytest.mark.parametrize("backwards", [1, 2])
def test_gradients_with_linear_layers_computed_again(backwards, small_segmentor, batch):
    plain, _ = _gradients(_with(small_segmentor, None), batch)
    found, _ = _gradients(_with(small_segmentor, "linear"), batch, backwards)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


def _squares(x: torch.Tensor, forget: bool, calls: list[int]) -> tuple[torch.Tensor, weakref.ref]:
    """Sum of (2 x[1:])² · (2 x), whose factor 2 x is saved twice, once as a view."""
    held = x.detach()

    def again() -> list[torch.Tensor]:
        calls.append(1)
        return [2 * held]

    with Recomputation("cpu") as saved:
        double = 2 * x
        out = (double[1:] * double[1:]).sum() * double.sum() + (double * double).sum()
        if forget:
            saved.forget([double], again)
    return out, weakref.ref(double)


@pytest.mark.parametrize("backwards", [1, 3])
def test_forgotten_tensors_are_computed_once_for_all_that_ask(backwards):
    x, calls = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), []
    (expected,) = torch.autograd.grad(_squares(x, False, calls)[0], x)
    assert not calls
    out, double = _squares(x, True, calls)
    assert double() is None
    for _ in range(backwards):
        (found,) = torch.autograd.grad(out, x, retain_graph=True)
        torch.testing.assert_close(found, expected)
    assert len(calls) == backwards


def test_forgotten_tensors_have_no_second_derivative():
    x = torch.randn(5, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative; set recompute=None"):
        torch.autograd.grad(_squares(x, True, [])[0], x, create_graph=True)


def test_another_name_is_an_error(small_segmentor):
    with pytest.raises(ConfigError, match="did you mean 'block'"):
        build_model(_with(small_segmentor, "blocks"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("recompute", ["mlp", "linear", "block"])
def test_gradients_are_equal_on_the_gpu_under_autocast(recompute, small_segmentor, batch):
    batch = {key: value.cuda() for key, value in batch.items()}
    results = []
    for choice in (None, recompute):
        torch.manual_seed(0)
        model = build_model(_with(small_segmentor, choice)).cuda().train()
        torch.manual_seed(1)
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(batch)["loss"]
        (1024 * loss).backward()
        results.append([p.grad for p in model.parameters()])
    for plain, found in zip(*results, strict=True):
        assert (plain - found).norm() <= 2e-2 * plain.norm() + 1e-6
