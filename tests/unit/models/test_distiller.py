"""The distiller: a frozen teacher, checkpoints of the student alone, losses that add up, errors."""

import copy
import re

import pytest
import torch

from pointcept.models import build_inference_model, build_model, deployable
from pointcept.models.losses import DISTILL_LOSSES, KLDLoss
from pointcept.models.losses.distill.base import OwnGenerator
from pointcept.models.output import Output
from pointcept.structures import GridPyramid
from pointcept.utils.config import Config
from pointcept.utils.errors import CheckpointError
from tests.paths import CONFIGS


@pytest.fixture
def config(small_segmentor) -> dict:
    """A distiller with an untrained teacher."""
    teacher = copy.deepcopy(small_segmentor)
    teacher["backbone"].update(enc_depths=(2, 2), shuffle_orders=True)
    return {
        "type": "Distiller",
        "teacher": teacher,
        "student": small_segmentor,
        "teacher_weight": "random",
        "losses": [{"type": "KLDLoss", "loss_weight": 0.3}],
    }


def test_the_teacher_is_frozen_and_no_part_of_the_checkpoint(config, batch):
    model = build_model(config).train()
    before = copy.deepcopy(model.teacher.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(batch)["loss"].backward()
    optimizer.step()
    assert not model.teacher.training
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.teacher.state_dict().items())
    assert all(p.grad is not None for p in model.student.parameters())
    assert {name.split(".")[0] for name in model.state_dict()} == {"student"}


def test_the_deployable_network_is_the_student(config, batch):
    model = build_model(config)
    assert deployable(model) is model.student
    student = build_inference_model(config)
    student.load_state_dict(deployable(model).state_dict())
    with torch.no_grad():
        logits = student.eval()(batch)["seg_logits"]
        assert torch.equal(logits, model.eval()(batch)["seg_logits"])


def test_terms_add_up_and_are_named(config, batch):
    config["losses"] *= 2
    result = build_model(config).train()(batch)
    terms = result["losses"]
    assert set(terms) == {
        "CrossEntropyLoss", "LovaszLoss", "KLDLoss", "KLDLoss/raw", "KLDLoss/ms", "KLDLoss_2", "KLDLoss_2/raw",
        "KLDLoss_2/ms"
    }  # fmt: skip
    torch.testing.assert_close(terms["KLDLoss"], 0.3 * terms["KLDLoss/raw"])
    total = sum(value for name, value in terms.items() if "/" not in name)
    torch.testing.assert_close(result["loss"].detach(), total)


FULL = [
    {"type": "KLDLoss"},
    {"type": "GradGuidedLoss"},
    {"type": "TopoLoss", "max_points": 16},
    {"type": "FeatureMatchingLoss"},
    {"type": "AttentionTransferLoss"},
    {"type": "SimilarityLoss", "max_points": 32},
    {"type": "AffinityLoss"},
    {"type": "RTDLiteLoss"},
]


SCORES = [
    {"type": "DKDLoss"},
    {"type": "KLDLoss", "sure": 0.1, "right": True, "balanced": True, "standardise": True},
]


@pytest.mark.parametrize("kind", ["ptv3", "unet", "own grids"])
def test_every_loss_together(config, small_unet, batch, kind):
    config["losses"] = FULL
    if kind == "unet":
        config["student"] = small_unet
    if kind == "own grids":
        config["student"] = copy.deepcopy(config["student"])
        config["student"]["backbone"]["stride"] = (4,)
    model = build_model(config).train()
    result = model(batch)
    result["loss"].backward()
    terms = result["losses"]
    torch.testing.assert_close(result["loss"].detach(), sum(value for name, value in terms.items() if "/" not in name))
    assert {n for n in terms if n.startswith("TopoLoss")} == {
        "TopoLoss", *(f"TopoLoss/{fact}" for fact in ("raw", "matched", "points_h0", "points_h1", "ms"))
    }  # fmt: skip
    assert all(terms[f"{cfg['type']}/matched"] == 1.0 for cfg in FULL[1:])
    assert all(terms[f"{cfg['type']}/ms"] > 0 for cfg in FULL)
    assert all(terms[f"{cfg['type']}/raw"] > 0 for cfg in FULL)
    assert not any(term.requires_grad for term in terms.values())
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("cfg", FULL[1:], ids=lambda cfg: cfg["type"])
def test_a_loss_on_the_deepest_features_trains_the_encoder_alone(config, batch, cfg):
    model = build_model({**config, "losses": [cfg]}).train()
    pyramid = model.teacher.build_pyramid(batch)
    teacher, student = model._run_teacher(batch, pyramid), model.student.network(batch, pyramid)
    model.losses[0](student, teacher, batch).backward()
    reached = {n.split(".")[1] for n, p in model.student.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"embedding", "enc"}


def test_guidance_reads_the_same_gradient_as_a_whole_backward_pass(config, batch):
    """Of every stage, with the encoder's graph cut below it."""
    config["teacher"]["backbone"]["shuffle_orders"] = False
    for stage in (-1, 0):
        config["losses"] = [{"type": "GradGuidedLoss", "stage": stage}]
        model = build_model(config).train()
        teacher = model._run_teacher(batch, model.teacher.build_pyramid(batch))
        assert not any(latent.feat.requires_grad for latent in teacher.stages)
        assert not teacher.logits.requires_grad
        model.teacher.requires_grad_(True)
        whole = model.teacher.network(batch)
        feat = whole.stages[stage].feat
        (expected,) = torch.autograd.grad(whole.seg_loss, feat)
        torch.testing.assert_close(teacher.gradient(stage), expected, rtol=1e-4, atol=1e-9)
        assert expected.abs().sum() > 0


def test_without_guidance_the_teacher_has_no_criteria_and_no_graph(config, batch):
    config["losses"] = [{"type": "TopoLoss", "max_points": 16}]
    model = build_model(config).train()
    assert model.teacher.criteria is None
    assert not model.teacher.network(batch).logits.requires_grad
    config["losses"].append({"type": "GradGuidedLoss"})
    config["teacher"]["criteria"] = None
    assert list(build_model(config).teacher.criteria.losses) == ["CrossEntropyLoss", "LovaszLoss"]


def test_scans_without_labels(config, batch):
    """All ignored, or no key at all: nothing but the distillation losses moves the student."""
    config["losses"] = [*FULL, *SCORES]
    ignored = {**batch, "segment": torch.full_like(batch["segment"], -1)}
    without = {key: value for key, value in batch.items() if key != "segment"}
    results, gradients = [], []
    for given, unlabelled in ((ignored, False), (without, True)):
        torch.manual_seed(0)
        model = build_model({**config, "unlabelled": unlabelled}).train()
        results.append(model(given))
        results[-1]["loss"].backward()
        gradients.append([p.grad for p in model.parameters()])
    terms = results[0]["losses"]
    assert terms["CrossEntropyLoss"] == terms["LovaszLoss"] == terms["GradGuidedLoss"] == 0
    assert all(terms[f"{cfg['type']}/raw"] > 0 for cfg in config["losses"] if cfg["type"] != "GradGuidedLoss")
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*gradients, strict=True))
    assert results[0]["loss"] == results[1]["loss"]


def test_criteria_move_nothing_where_nothing_is_labelled(config, batch):
    config["losses"] = [{"type": "GradGuidedLoss"}]
    model = build_model(config).train()
    result = model({**batch, "segment": torch.full_like(batch["segment"], -1)})
    result["loss"].backward()
    assert result["loss"] == 0
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_criteria_that_are_constant_without_labels(config, batch):
    """The gradient of L_seg is then 0, for both networks."""
    config["losses"] = [{"type": "GradGuidedLoss"}]
    model = build_model(config).train()

    def constant(logits, segment):
        return logits.new_zeros(()), {}

    for network in (model.teacher, model.student):
        network.criteria.forward = constant
    assert model(batch)["losses"]["GradGuidedLoss"] == 0


def test_feature_matching_at_several_stages(config, batch):
    config["teacher"]["backbone"].update(enc_channels=(16, 32), enc_num_head=(2, 4))
    config["losses"] = [{"type": "FeatureMatchingLoss", "stage": stage} for stage in (0, 1, -2)]
    model = build_model(config).train()
    assert [tuple(loss.regressor.weight.shape) for loss in model.losses] == [(16, 16), (32, 16), (16, 16)]
    result = model(batch)
    result["loss"].backward()
    names = ("FeatureMatchingLoss", "FeatureMatchingLoss_2", "FeatureMatchingLoss_3")
    assert all(result["losses"][f"{name}/raw"] > 0 for name in names)
    assert all(loss.regressor.weight.grad.any() for loss in model.losses)


def test_one_seed_gives_identical_losses(config, batch):
    config["losses"] = [*FULL, {"type": "TopoLoss", "max_points": 16, "subsample": "random", "dims": (0, 1)}]
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build_model(config).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(2):
            result = model(batch)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            runs.append({n: v for n, v in result["losses"].items() if not n.endswith("/ms")})
    assert runs[0] == runs[2]
    assert runs[1] == runs[3]
    assert runs[0] != runs[1]


def test_weights_of_losses_are_trained_and_saved_but_not_deployed(config, batch):
    config["losses"] = [{"type": "FeatureMatchingLoss"}]
    model = build_model(config)
    assert "losses.0.regressor.weight" in dict(model.named_parameters())
    assert "losses.0.regressor.weight" in model.state_dict()
    assert not any("regressor" in name for name in deployable(model).state_dict())


def test_features_that_are_not_finite_are_named(config, batch):
    config["losses"] = [{"type": "TopoLoss"}]
    model = build_model(config).train()
    batch["feat"][3] = float("nan")
    with pytest.raises(FloatingPointError, match=r"TopoLoss: .* rows of the teacher's features"):
        model(batch)


ALONE = [*FULL, *SCORES, {"type": "GradGuidedLoss", "normalisation": "zscore"}, {"type": "SimilarityLoss"}]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("loss", ALONE, ids=lambda cfg: "-".join(map(str, cfg.values())))
def test_a_teacher_that_gives_no_numbers_is_not_hidden_by_any_loss(config, batch, loss, value):
    """No norm, clamp or mask of a loss makes a finite number of it."""
    config["losses"] = [loss]
    model = build_model(config).train()
    if loss["type"] in ("KLDLoss", "DKDLoss"):  # they read nothing but scores
        model.teacher.seg_head.bias[1] = value
    else:
        encoder = model.teacher.backbone.enc
        norm = [m for m in encoder.modules() if isinstance(m, torch.nn.LayerNorm)][-1]
        norm.bias[1] = value
    if loss["type"] in ("TopoLoss", "RTDLiteLoss"):
        with pytest.raises(FloatingPointError, match="rows of the teacher's features"):
            model(batch)
        return
    result = model(batch)
    assert not result["loss"].isfinite()
    assert not result["losses"][loss["type"]].isfinite()


def test_mixed_scans_with_equal_voxels(config, small_unet, batch):
    """Mix3D makes voxels occur twice: stage 0 of a PTv3 has them twice, of a U-Net once."""
    first = {k: v[: int(batch["offset"][0])] for k, v in batch.items() if k != "offset"}
    mixed = {k: torch.cat([v, v[:40]]) for k, v in first.items()}
    mixed["offset"] = torch.tensor([len(mixed["feat"])])
    for student in (config["student"], small_unet):
        losses = [{"type": "AttentionTransferLoss", "stage": 0}, *FULL]
        result = build_model({**config, "student": student, "losses": losses}).train()(mixed)
        assert torch.isfinite(result["loss"])
        assert result["losses"]["AttentionTransferLoss/matched"] == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision(config, batch, device, dtype):
    """Every term is a finite number close to that of float32, on every device."""
    if device.type == "cpu" and dtype is torch.float16:
        pytest.skip("the CPU has no float16 for every operation")
    config["losses"] = FULL
    config["student"]["backbone"].update(drop_path=0.0, shuffle_orders=False)
    model = build_model(config).train().to(device)
    batch = {k: v.to(device) for k, v in batch.items()}
    exact = model(batch)["losses"]
    for loss in model.losses:
        if isinstance(loss, OwnGenerator):
            loss.seed(0)
    with torch.autocast(device.type, dtype=dtype):
        result = model(batch)
    scaler = 1024.0 if dtype is torch.float16 else 1.0
    (scaler * result["loss"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert {value.device.type for value in result["losses"].values()} == {device.type}
    for cfg in FULL:
        torch.testing.assert_close(result["losses"][cfg["type"]], exact[cfg["type"]], rtol=0.3, atol=0.05)


def test_the_unet_student_of_the_configs_has_the_size_of_the_ptv3_student():
    students = {
        name: build_model({**Config.fromfile(CONFIGS / "semantic_kitti" / f"{name}.py").model.student})
        for name in ("distill_full", "distill_full_spunet")
    }
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in students.items()}
    assert sizes["distill_full"] == 2_777_539
    assert sizes["distill_full_spunet"] == pytest.approx(2_777_539, rel=0.005)


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("distill_full", {"KLDLoss": 0.3, "GradGuidedLoss": 10.0, "TopoLoss": 0.1}),
        ("distill_full_spunet", {"KLDLoss": 0.3, "GradGuidedLoss": 10.0, "TopoLoss": 0.1}),
        ("distill_published", {"KLDLoss": 0.3, "GradGuidedLoss": 10.0, "TopoLoss": 0.1}),
        ("distill_grad", {"KLDLoss": 0.3, "GradGuidedLoss": 10.0}),
        ("distill_topo", {"KLDLoss": 0.3, "TopoLoss": 0.1}),
        ("small_distill_full", {"KLDLoss": 0.3, "GradGuidedLoss": 10.0, "TopoLoss": 0.1}),
    ],
)
def test_the_configs_have_the_paper_s_terms(name, losses):
    entries = Config.fromfile(CONFIGS / "semantic_kitti" / f"{name}.py").model.losses
    built = [DISTILL_LOSSES.build(entry) for entry in entries]
    assert {loss.name: loss.loss_weight for loss in built} == losses
    assert all(loss.published == (name == "distill_published") for loss in built if loss.name == "TopoLoss")


# --- outputs of the teacher on disk --------------------------------------------------------------


def named(batch, *names):
    return {**batch, "name": list(names)}


def single(batch, i):
    begin, end = [0, *batch["offset"].tolist()][i : i + 2]
    part = {k: v[begin:end] for k, v in batch.items() if k != "offset"}
    return {**part, "offset": torch.tensor([end - begin])}


@pytest.fixture
def counted(config, tmp_path, monkeypatch):
    """Build a distiller with a cache, and count how often its teacher runs."""

    def make(losses, **changes):
        torch.manual_seed(0)
        model = build_model({**config, "losses": losses, "teacher_cache": str(tmp_path / "cache"), **changes}).train()
        calls = []
        run = model._run_teacher
        monkeypatch.setattr(model, "_run_teacher", lambda *a: (calls.append(1), run(*a))[1])
        return model, calls

    return make


def seen(model, batch):
    torch.manual_seed(1)
    return {n: float(v) for n, v in model(batch)["losses"].items() if not n.endswith("/ms")}


def test_cached_outputs_give_the_same_losses(counted, batch):
    # no random rows: they would be other voxels, because stored latents are matched in another order
    losses = [cfg for cfg in FULL if cfg["type"] not in ("GradGuidedLoss", "SimilarityLoss")]
    model, calls = counted([*losses, {"type": "SimilarityLoss"}])
    both = named(batch, "00/000000", "00/000001")
    first = seen(model, both)
    second = seen(model, both)
    assert len(calls) == 1
    assert first.keys() == second.keys()
    assert list(second.values()) == pytest.approx(list(first.values()), rel=2e-2, abs=1e-3)
    seen(model, named(single(batch, 1), "00/000001"))  # scan by scan, whatever batch it came in
    assert len(calls) == 1


def test_gradients_are_cached_for_single_scans(counted, batch):
    model, calls = counted([{"type": "GradGuidedLoss"}])
    scan = named(single(batch, 0), "a")
    first = seen(model, scan)
    assert seen(model, scan) == pytest.approx(first, rel=1e-2)
    assert len(calls) == 1
    scan["segment"] = scan["segment"].roll(1)
    seen(model, scan)
    assert len(calls) == 2
    with pytest.raises(ValueError, match="batch_size=1"):
        model(named(batch, "a", "b"))


def test_a_changed_scan_or_teacher_is_computed_again(counted, batch, tmp_path, caplog, monkeypatch):
    model, calls = counted([{"type": "KLDLoss"}])
    both = named(batch, "a", "b")
    seen(model, both)
    changed = {**both, "feat": both["feat"] + 1}
    seen(model, changed)
    seen(model, changed)
    assert len(calls) == 2
    with torch.no_grad():
        next(model.teacher.parameters()).add_(1)
    other, calls = counted([{"type": "KLDLoss"}], teacher={**model_config(model), "criteria": None})
    seen(other, changed)
    assert len(calls) == 1
    (damaged,) = list((tmp_path / "cache").rglob("b.pth"))[:1]
    damaged.write_bytes(b"no torch file")
    seen(other, changed)
    seen(model, changed)
    assert "computing a scan again" in caplog.text
    monkeypatch.setattr("pointcept.models.teacher_cache.MANY", 6)
    for i in range(5):
        seen(other, {**both, "feat": both["feat"] * i})
    assert "random augmentation" in caplog.text


def test_a_cache_holds_no_output_that_is_not_finite(counted, batch, tmp_path, caplog):
    model, calls = counted([{"type": "KLDLoss"}])
    both = named(batch, "a", "b")
    expected = seen(model, both)
    kept = next((tmp_path / "cache").rglob("b.pth"))
    content = torch.load(kept)
    content["logits"][3, 1] = float("nan")
    torch.save(content, kept)  # as an earlier version wrote it
    assert seen(model, both) == expected
    assert len(calls) == 2
    assert "computing a scan again" in caplog.text
    assert "b.pth holds NaN or infinity" in caplog.text
    model.teacher.seg_head.bias[1] = float("inf")
    with pytest.raises(FloatingPointError, match=r"^c: the teacher's output is NaN or infinite"):
        model(named(batch, "c", "d"))
    assert not list((tmp_path / "cache").rglob("c.pth"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("logits"), "is no output of a teacher"),
        (lambda c: c.update(logits=c["logits"][1:]), r"as logits, not \("),
        (lambda c: c.update(logits=c["logits"].int()), "holds torch.int32 as logits"),
        (lambda c: c["stages"].clear(), "has no features of stage 1"),
        (lambda c: c["stages"][1].update(feat=c["stages"][1]["feat"][:, 1:]), r"as stages\.1\.feat, not"),
        (lambda c: c["stages"][1].pop("grid_coord"), r"holds NoneType as stages\.1\.grid_coord"),
        (lambda c: c["stages"][1].update(gradient=torch.zeros(2, 3)), r"holds \(2, 3\) as stages\.1\.gradient"),
        (lambda c: c["stages"][1].update(scale=None), r"holds None as stages\.1\.scale"),
        (lambda c: c["stages"][1].update(scale=float("nan")), "holds nan as"),
    ],
)
def test_a_cached_file_of_another_form_is_computed_again(counted, batch, tmp_path, caplog, change, words):
    model, calls = counted([{"type": "GradGuidedLoss"}])
    scan = named(single(batch, 0), "a")
    expected = seen(model, scan)
    kept = next((tmp_path / "cache").rglob("a.pth"))
    content = torch.load(kept)
    change(content)
    torch.save(content, kept)
    assert seen(model, scan) == expected
    assert len(calls) == 2
    assert re.search(r"computing a scan again: .*a\.pth .*" + words, caplog.text)
    seen(model, scan)
    assert len(calls) == 2  # written anew


def test_a_flipped_bit_in_a_cached_file_is_seen(counted, batch, tmp_path, caplog):
    model, calls = counted([{"type": "KLDLoss"}])
    both = named(batch, "a", "b")
    expected = seen(model, both)
    kept = next((tmp_path / "cache").rglob("b.pth"))
    content = bytearray(kept.read_bytes())
    content[content.index(torch.load(kept)["logits"].numpy().tobytes()) + 10] ^= 4
    kept.write_bytes(content)
    assert seen(model, both) == expected
    assert len(calls) == 2
    assert re.search(r"computing a scan again: .*b\.pth .* is damaged: record 'archive/data/0' changed", caplog.text)


def test_a_cache_that_cannot_be_written_ends_no_training(counted, batch, tmp_path, caplog):
    model, calls = counted([{"type": "KLDLoss"}])
    (tmp_path / "cache").write_text("a file where the folder would be")
    both = named(batch, "a", "b")
    assert seen(model, both) == seen(model, both)
    assert len(calls) == 2
    assert caplog.text.count("teacher_cache: nothing more is written to") == 1


def model_config(model):
    """A teacher with other weights: one more block."""
    return {
        "type": "DefaultSegmentorV2",
        "num_classes": 5,
        "backbone_out_channels": 16,
        "backbone": {
            "type": "PT-v3m1",
            "in_channels": 4,
            "order": ("z", "z-trans"),
            "stride": (2,),
            "enc_depths": (1, 1),
            "enc_channels": (16, 16),
            "enc_num_head": (2, 2),
            "enc_patch_size": (32, 32),
            "dec_depths": (1,),
            "dec_channels": (16,),
            "dec_num_head": (2,),
            "dec_patch_size": (32,),
        },
    }


def test_another_form_of_the_same_weights_is_another_teacher(counted, config, batch):
    both = named(batch, "a", "b")
    for cpe_input in ("residual", "mlp_branch"):
        backbone = {**config["teacher"]["backbone"], "cpe_input": cpe_input}
        model, calls = counted([{"type": "KLDLoss"}], teacher={**config["teacher"], "backbone": backbone})
        seen(model, both)
        seen(model, both)
        assert len(calls) == 1


def test_a_cache_needs_names(counted, batch):
    model, _ = counted([{"type": "KLDLoss"}])
    with pytest.raises(ValueError, match="Collect the key 'name'"):
        model(batch)


def test_moving_the_distiller_moves_its_teacher(config):
    model = build_model(config).double()
    assert next(model.teacher.parameters()).dtype is torch.float64


def test_a_student_of_another_kind_gets_its_own_grids(config, small_unet, batch):
    config["student"] = small_unet
    result = build_model(config).train()(batch)
    assert torch.isfinite(result["loss"])


def test_wrong_configs_are_explained(config, batch, tmp_path):
    def expect(error, message, **changes):
        with pytest.raises(error, match=message):
            build_model({**config, **changes}).train()(batch)

    expect(ValueError, "num_classes: the teacher has 7", teacher={**config["teacher"], "num_classes": 7})
    expect(ValueError, "at least one loss", losses=[])
    expect(ValueError, "did you mean 'KLDLoss'", losses=[{"type": "KLDLos"}])
    expect(ValueError, "criteria", student={**config["student"], "criteria": None})
    wide = copy.deepcopy(config["student"])
    wide["backbone"]["in_channels"] = 6
    expect(ValueError, "in_channels are 4 and 6", student=wide)
    expect(CheckpointError, "does not exist", teacher_weight=str(tmp_path / "none.pth"))
    torch.save({"state_dict": build_model(config).student.state_dict()}, tmp_path / "student.pth")
    expect(CheckpointError, "missing from the file", teacher_weight=str(tmp_path / "student.pth"))
    del batch["segment"]
    expect(ValueError, "needs labels: Collect the key 'segment' .* unlabelled=True")


def test_a_teacher_checkpoint_is_loaded(config, tmp_path):
    teacher = build_model(config["teacher"])
    torch.save({"state_dict": {f"module.{k}": v for k, v in teacher.state_dict().items()}}, tmp_path / "teacher.pth")
    model = build_model({**config, "teacher_weight": str(tmp_path / "teacher.pth")})
    assert all(torch.equal(v, model.teacher.state_dict()[k]) for k, v in teacher.state_dict().items())


def test_several_teachers_have_the_mean_of_their_probabilities(config, batch, tmp_path, monkeypatch):
    config["teacher"]["backbone"].update(drop_path=0.0, shuffle_orders=False)
    config["losses"] = FULL
    files = []
    for seed in range(2):
        torch.manual_seed(seed)
        files.append(str(tmp_path / f"{seed}.pth"))
        torch.save({"state_dict": build_model(config["teacher"]).state_dict()}, files[-1])
    outputs = []
    for weight in (*files, files, [files[0]]):
        model = build_model({**config, "teacher_weight": weight}).train()
        outputs.append(model.outputs(batch)[1])
    mean = (outputs[0].logits.softmax(1) + outputs[1].logits.softmax(1)) / 2
    torch.testing.assert_close(outputs[2].logits.exp(), mean)
    assert torch.equal(outputs[3].logits, outputs[0].logits)
    for i, stage in enumerate(outputs[2].stages):
        assert torch.equal(stage.feat, outputs[0].stages[i].feat)
    assert torch.equal(outputs[2].gradient(-1), outputs[0].gradient(-1))
    model = build_model({**config, "teacher_weight": files}).double().train()
    assert {p.dtype for teacher in model._teachers for p in teacher.parameters()} == {torch.float64}
    assert {name.split(".")[0] for name in model.state_dict()} <= {"student", "losses"}
    for teacher in model._teachers:
        assert not any(p.requires_grad for p in teacher.parameters())
        assert not any(module.training for module in teacher.modules())
    for wrong in ([], ["random", 3], ""):
        with pytest.raises(ValueError, match=r"teacher_weight: got .*, allowed: a file, or a list"):
            build_model({**config, "teacher_weight": wrong})


def test_a_cache_of_several_teachers_is_their_own(counted, batch):
    for weight in ("random", ["random", "random"]):
        model, calls = counted([{"type": "KLDLoss"}], teacher_weight=weight)
        both = named(batch, "a", "b")
        first = seen(model, both)
        assert seen(model, both) == pytest.approx(first, rel=1e-2)
        assert len(calls) == 1


def _output(logits):
    grid = GridPyramid(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([1]), ("z",), ())
    return Output(logits, [(logits, grid.levels[0])])


def test_kld_against_its_definition():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64).unbind()
    for temperature in (1.0, 2.5):
        p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
        expected = (p * (p / q).log()).sum(1).mean() * temperature**2
        found = KLDLoss(temperature=temperature)(_output(student), _output(teacher), {})
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_kld_is_zero_for_equal_logits_and_its_gradient_reaches_the_student_only():
    logits = torch.randn(7, 4, requires_grad=True)
    teacher = logits.detach().clone().requires_grad_()
    assert KLDLoss()(_output(logits), _output(teacher), {}).abs() < 1e-6
    KLDLoss()(_output(logits + 1.0 * torch.arange(4)), _output(teacher), {}).backward()
    assert logits.grad.abs().sum() > 0
    assert teacher.grad is None


def test_kld_stays_finite_for_extreme_logits():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = KLDLoss()(_output(student), _output(torch.tensor([[-1e4, 1e4, 0.0]])), {})
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature: got 0, allowed: a finite number above 0"):
        KLDLoss(temperature=0)
