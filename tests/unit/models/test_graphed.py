"""Networks on batches of fixed shapes, on a GPU as CUDA graphs: the same losses, gradients and statistics."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from pointcept.models import build_model, fixed_batch, graphed, use_graphs
from pointcept.ops import backend

from .conftest import make_batch

SIZES = ((150, 90), (160, 80), (60, 200), (300, 310), (150, 90))


@pytest.fixture(autouse=True)
def on_any_device(monkeypatch):
    """Let the CPU do the same work without graphs."""
    plain = graphed.why_not_graphed

    def why_not(segmentor, where):
        reason = plain(segmentor, where)
        return None if reason is not None and "need a GPU" in reason else reason

    monkeypatch.setattr("pointcept.models.segmentor.why_not_graphed", why_not)


def without_chance(config: dict) -> dict:
    """No drop path: its draws depend on the number of rows."""
    config = copy.deepcopy(config)
    for name in ("teacher", "student"):
        if name in config:
            config[name] = without_chance(config[name])
    if config.get("backbone", {}).get("type") == "PT-v3m1":
        config["backbone"]["drop_path"] = 0.0
    return config


def pair(config: dict, device: torch.device) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same model twice, the second one with graphs."""
    torch.manual_seed(0)
    plain = build_model(without_chance(config)).train()
    torch.manual_seed(0)
    model = build_model(without_chance(config)).train()
    model.load_state_dict(plain.state_dict())
    if hasattr(plain, "teacher"):
        model.teacher.load_state_dict(plain.teacher.state_dict())
    plain, model = plain.to(device), model.to(device)
    assert use_graphs(model, device)
    return plain, model


def step(model, batch, seed=5, dtype=None):
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    device = batch["feat"].device.type
    with torch.autocast(device, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        result = model(batch)
    result["loss"].backward()
    return result


def on(device, **options):
    return {key: value.to(device) for key, value in make_batch(**options).items()}


def close(model, plain, tolerance):
    ours, theirs = dict(model.named_parameters()), dict(plain.named_parameters())
    for name, parameter in ours.items():
        expected = theirs[name].grad
        bound = tolerance * (expected.abs().max() + 1e-3)
        assert (parameter.grad - expected).abs().max() <= bound, name
    for buffer, expected in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("kind", ["ptv3", "ptv3 with linear layers computed again", "ptv3 as published", "unet"])
def test_losses_gradients_and_statistics(small_segmentor, small_unet, device, kind, distinct):
    if kind == "ptv3 with linear layers computed again":
        small_segmentor["backbone"]["recompute"] = "linear"
    if kind == "ptv3 as published":
        small_segmentor["backbone"].update(cpe_input="mlp_branch", recompute="linear")
    plain, model = pair(small_unet if kind == "unet" else small_segmentor, device)
    for seed, sizes in enumerate(SIZES):
        batch = on(device, sizes=sizes, seed=seed, distinct=distinct)
        expected, found = step(plain, batch), step(model, batch)
        torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-4, atol=1e-5)
        assert found["losses"].keys() == expected["losses"].keys()
        close(model, plain, 1e-3)


@pytest.mark.parametrize("kind", ["ptv3", "unet"])
def test_batches_of_different_density(small_segmentor, small_unet, device, kind, monkeypatch):
    """Some need fewer rows of the coarser level than others, and get a capture of their own."""
    monkeypatch.setattr(fixed_batch, "_OBSERVED", 3)
    plain, model = pair(small_unet if kind == "unet" else small_segmentor, device)
    rows = []
    for seed, extent in enumerate((60, 14, 14, 60, 14)):
        batch = on(device, sizes=(400, 390), extent=extent, seed=seed)
        rows.append(model._graphed.layouts.lay_out(batch).rows)
        expected, found = step(plain, batch), step(model, batch)
        torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-4, atol=1e-5)
        close(model, plain, 1e-3)
    assert rows[2] == rows[4] != rows[3] == rows[0]


def test_the_log_keeps_its_losses(small_segmentor, device):
    _, model = pair(small_segmentor, device)
    first = step(model, on(device, seed=0))
    kept = first["loss"].item(), first["losses"]["LovaszLoss"].item()
    step(model, on(device, seed=1))
    assert kept == (first["loss"].item(), first["losses"]["LovaszLoss"].item())


LOSSES = [{"type": "KLDLoss"}, {"type": "GradGuidedLoss"}, {"type": "TopoLoss", "max_points": 16}]


@pytest.mark.parametrize("kind", ["ptv3", "unet", "own grids", "linear layers computed again", "teacher as published"])
def test_distillation(small_segmentor, small_unet, device, kind):
    teacher = copy.deepcopy(small_segmentor)
    teacher["backbone"].update(enc_depths=(2, 2))
    student = small_unet if kind == "unet" else copy.deepcopy(small_segmentor)
    losses = copy.deepcopy(LOSSES)
    if kind == "own grids":
        student["backbone"]["stride"] = (4,)
    if kind == "linear layers computed again":
        student["backbone"]["recompute"] = "linear"
    if kind == "teacher as published":
        teacher["backbone"]["cpe_input"] = "mlp_branch"
    config = {
        "type": "Distiller", "teacher": teacher, "student": student, "teacher_weight": "random", "losses": losses
    }  # fmt: skip
    plain, model = pair(config, device)
    for seed in range(3):
        batch = on(device, sizes=(150 + seed, 90), seed=seed)
        expected, found = step(plain, batch), step(model, batch)
        torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-3, atol=1e-4)
        close(model, plain, 5e-3)


@pytest.mark.parametrize("labelled", [0, 1, 2])
def test_scans_without_labels(small_segmentor, device, labelled):
    """Of two scans the first ones are labelled; the same buffers serve all kinds of batches."""
    losses = [
        {"type": "KLDLoss", "temperature": 2.0, "sure": 0.2, "balanced": True},
        {"type": "DKDLoss", "right": True, "standardise": True},
        *LOSSES[1:],
    ]
    plain, model = pair(distiller_of(small_segmentor, copy.deepcopy(small_segmentor), losses), device)
    step(plain, on(device, seed=9))
    step(model, on(device, seed=9))
    batch = on(device, seed=labelled)
    first = 0 if labelled == 0 else int(batch["offset"][labelled - 1])
    batch["segment"][first:] = -1
    expected, found = step(plain, batch), step(model, batch)
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-3, atol=1e-4)
    close(model, plain, 5e-3)
    assert (found["losses"]["GradGuidedLoss"] == 0) == (labelled == 0)
    assert (found["losses"]["CrossEntropyLoss"] == 0) == (labelled == 0)


def test_a_look_at_the_gradients_runs_without_graphs_in_between(small_segmentor, device):
    """Its rows hold what leads through the decoder, too; the steps around it go on with graphs."""
    growing = [{"type": "KLDLoss", "loss_weight": {"start": 0.0, "end": 2.0}}, *LOSSES[1:]]
    config = {**distiller_of(small_segmentor, copy.deepcopy(small_segmentor), growing), "gradients_every": 2}
    plain, model = pair(config, device)
    for done in range(4):
        batch = on(device, sizes=(150 + done, 90), seed=done)
        runs = model.student._graphed.runs
        for network in (plain, model):
            network.set_progress(done, 4)
        expected, found = step(plain, batch), step(model, batch)
        assert model.student._graphed.runs == runs + done % 2
        assert found["losses"].keys() == expected["losses"].keys()
        torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-3, atol=1e-4)
        close(model, plain, 5e-3)
        assert ("grad/KLDLoss/stage1" in found["losses"]) == (done % 2 == 0)


def test_several_teachers(small_segmentor, device):
    config = distiller_of(small_segmentor, copy.deepcopy(small_segmentor), LOSSES)
    plain, model = pair({**config, "teacher_weight": ["random", "random"]}, device)
    for mine, theirs in zip(model._teachers, plain._teachers, strict=True):
        mine.load_state_dict(theirs.state_dict())
    for seed in range(2):
        batch = on(device, sizes=(150 + seed, 90), seed=seed)
        expected, found = step(plain, batch), step(model, batch)
        torch.testing.assert_close(found["losses"]["KLDLoss"], expected["losses"]["KLDLoss"], rtol=1e-3, atol=1e-5)
        close(model, plain, 5e-3)
    assert [teacher._graphed.runs for teacher in model._teachers] == [2, 2]


def test_gradients_add_up_over_batches(small_segmentor, device):
    plain, model = pair(small_segmentor, device)
    for network in (plain, model):
        torch.manual_seed(3)
        for seed in range(2):
            network(on(device, seed=seed))["loss"].backward()
    close(model, plain, 1e-3)


def test_evaluation_is_as_without(small_segmentor, device):
    plain, model = pair(small_segmentor, device)
    batch = on(device, seed=0)
    step(plain, batch)
    step(model, batch)
    with torch.no_grad():
        found, expected = model.eval()(batch)["seg_logits"], plain.eval()(batch)["seg_logits"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_captured(small_segmentor, device):
    for options, message in (({"recompute": "block"}, "recompute='block'"), ({"enable_rpe": True}, "enable_rpe")):
        backbone = {**small_segmentor["backbone"], "enable_flash": False, **options}
        model = build_model({**small_segmentor, "backbone": backbone})
        assert message in model.use_graphs(device)
        assert not use_graphs(model, device)
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(build_model(small_segmentor))
    assert "sync_bn" in synchronised.use_graphs(device)


def test_losses_that_ignore_different_labels(small_segmentor, device):
    config = copy.deepcopy(small_segmentor)
    config["criteria"] = [{"type": "CrossEntropyLoss"}, {"type": "LovaszLoss", "ignore_index": 0}]
    assert "ignore_index" in build_model(config).use_graphs(device)


def distiller_of(student, teacher, losses=({"type": "KLDLoss"},)):
    parts = {"teacher": teacher, "student": student, "teacher_weight": "random"}
    return {"type": "Distiller", "losses": list(losses), **parts}


def test_a_distillation_has_graphs_for_both_or_none(small_segmentor, device):
    whole_blocks = copy.deepcopy(small_segmentor)
    whole_blocks["backbone"]["recompute"] = "block"
    for networks in ((whole_blocks, small_segmentor), (small_segmentor, whole_blocks)):
        model = build_model(distiller_of(*networks)).train().to(device)
        assert "recompute='block'" in model.use_graphs(device)
        assert model.student._graphed is None
        assert model.teacher._graphed is None
        step(model, on(device))


def test_labels_that_teacher_and_student_ignore(small_segmentor, device):
    student = {**small_segmentor, "criteria": [{"type": "CrossEntropyLoss", "ignore_index": 0}]}
    plain, model = pair(distiller_of(student, small_segmentor), device)  # of the teacher no loss is asked
    batch = on(device)
    batch["segment"].clamp_(min=0)
    torch.testing.assert_close(step(model, batch)["loss"], step(plain, batch)["loss"], rtol=1e-4, atol=1e-5)
    differing = build_model(distiller_of(student, small_segmentor, [{"type": "GradGuidedLoss"}]))
    assert "different ignore_index" in differing.use_graphs(device)


@pytest.mark.parametrize("kind", ["segmentor", "distiller"])
def test_copies_and_files_have_no_graphs(small_segmentor, device, kind):
    config = small_segmentor if kind == "segmentor" else distiller_of(small_segmentor, small_segmentor)
    _, model = pair(config, device)
    expected = step(model, on(device))["loss"]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert all(getattr(module, "_graphed", None) is None for module in other.modules())
        torch.testing.assert_close(step(other, on(device))["loss"], expected, rtol=1e-3, atol=1e-4)


def test_weights_that_move_are_followed(small_segmentor, device):
    """Freezing, thawing, and tensors in other places."""
    plain, model = pair(small_segmentor, device)
    for turn in range(4):
        for network in (plain, model):
            network.backbone.embedding.requires_grad_(turn != 1)
            for parameter in network.parameters():
                parameter.data = parameter.data * 1.5 if turn > 1 else parameter.data
            if turn == 3:
                network.load_state_dict({k: v.clone() for k, v in plain.state_dict().items()}, assign=True)
        batch = on(device, seed=turn)
        torch.testing.assert_close(step(model, batch)["loss"], step(plain, batch)["loss"], rtol=1e-3, atol=1e-4)
        for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None), name
            if theirs.grad is not None:
                assert (ours.grad - theirs.grad).abs().max() <= 1e-3 * (theirs.grad.abs().max() + 1e-3), name


def test_what_a_capture_takes_for_granted(small_segmentor, device):
    _, model = pair(small_segmentor, device)
    graphs, weight = model._graphed, model.seg_head.weight
    batch = graphs.layouts.lay_out(on(device))
    modes, places = [graphs._mode(batch)], [graphs._places]
    weight.requires_grad_(False)
    modes.append(graphs._mode(batch))
    model.backbone.eval()
    modes.append(graphs._mode(batch))
    with torch.no_grad():
        modes.append(graphs._mode(batch))
    assert len(set(modes)) == 4
    assert [mode.gradients for mode in modes] == [True, True, True, False]
    for change in (lambda: setattr(weight, "data", weight.data.clone()), lambda: setattr(model, "criteria", None)):
        change()
        graphs._mode(batch)
        places.append(graphs._places)
    assert len(set(places)) == 3


def test_frozen_backbone_and_frozen_network(small_segmentor, device):
    plain, model = pair({**small_segmentor, "freeze_backbone": True}, device)
    batch = on(device)
    expected, found = step(plain, batch), step(model, batch)
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-4, atol=1e-5)
    ours, theirs = model.seg_head.weight.grad, plain.seg_head.weight.grad
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert model.backbone.embedding.stem.conv.weight.grad is None
    losses = []
    for network in (plain, model):
        torch.manual_seed(5)
        losses.append(network.requires_grad_(False)(batch)["loss"])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    assert not losses[1].requires_grad


def test_double_precision(small_segmentor):
    plain, model = pair(small_segmentor, torch.device("cpu"))
    batch = on(torch.device("cpu"))
    step(model, batch)
    batch["feat"] = batch["feat"].double()
    expected, found = step(plain.double(), batch), step(model.double(), batch)
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-10, atol=1e-10)


def test_data_parallel(small_segmentor, device, tmp_path):
    """Gradients of two batches, of which the last one is shared."""
    plain, model = pair(small_segmentor, device)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        torch.manual_seed(3)
        with wrapped.no_sync():
            wrapped(on(device, seed=0))["loss"].backward()
        wrapped(on(device, seed=1))["loss"].backward()
        del wrapped
    finally:
        torch.distributed.destroy_process_group()
    torch.manual_seed(3)
    for seed in range(2):
        plain(on(device, seed=seed))["loss"].backward()
    close(model, plain, 1e-3)


def test_the_buffers_of_a_batch_are_guarded(small_segmentor, device):
    _, model = pair(small_segmentor, device)
    first = model.lay_out(on(device, seed=0))
    model.lay_out(on(device, seed=1))
    with pytest.raises(RuntimeError, match="overwritten by a later batch"):
        model.network({}, first)


def test_orders_are_drawn_as_without_graphs(small_segmentor):
    backbone = build_model(small_segmentor).train().backbone
    torch.manual_seed(2)
    names = backbone._level_orders()
    torch.manual_seed(2)
    tables = ("z", "hilbert", "z-trans", "hilbert-trans")
    drawn = backbone.draw_tables(tables)
    for level, row in zip(names, drawn.tolist(), strict=True):
        assert [tables[row[tables.index(name)]] for name in backbone.orders] == level
    assert backbone.eval().draw_tables(tables) is None


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("dtype", [pytest.param(torch.float16, marks=gpu), pytest.param(torch.bfloat16, marks=gpu)])
@pytest.mark.parametrize("kind", ["ptv3", "unet"])
def test_half_precision_is_as_good_as_without_graphs(small_segmentor, small_unet, kind, dtype):
    """Against float32: both have the rounding of their number format, and graphs no more."""
    cuda = torch.device("cuda")
    plain, model = pair(small_segmentor if kind == "ptv3" else small_unet, cuda)
    exact = copy.deepcopy(plain)
    for seed in range(3):
        batch = on(cuda, sizes=(900, 700), extent=40, seed=seed)
        with backend.override("torch"):
            expected = step(exact, batch)["loss"]
        losses = [step(network, batch, dtype=dtype)["loss"] for network in (plain, model)]
        assert (losses[1] - expected).abs() <= 2 * (losses[0] - expected).abs() + 1e-2 * expected.abs()
        errors = [
            sum((p.grad - q.grad).square().sum() for p, q in zip(n.parameters(), exact.parameters(), strict=True))
            for n in (plain, model)
        ]
        assert errors[1] <= 1.5 * errors[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_one_backward_pass_and_none_after_the_next_batch(small_segmentor):
    cuda = torch.device("cuda")
    _, model = pair(small_segmentor, cuda)
    batch = on(cuda, seed=0)
    loss = model(batch)["loss"]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="runs once"):
        loss.backward()
    loss = model(batch)["loss"]
    model(batch)
    with pytest.raises(RuntimeError, match=r"overwritten by a later batch|runs once"):
        loss.backward()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_training_goes_the_same_way(small_segmentor):
    """Weights that an optimizer changes, and statistics, are what the graphs read."""
    cuda = torch.device("cuda")
    plain, model = pair(small_segmentor, cuda)
    losses = []
    for network in (plain, model):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        losses.append([])
        for seed in range(8):
            losses[-1].append(step(network, on(cuda, sizes=(400, 350), seed=seed % 2))["loss"].item())
            optimizer.step()
    torch.testing.assert_close(losses[0], losses[1], rtol=2e-2, atol=1e-3)
    assert losses[1][-1] < losses[1][0]
