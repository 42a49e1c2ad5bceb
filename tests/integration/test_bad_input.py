"""What a user can get wrong, through the command line: one message that helps, no traceback, no half-written file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointcept.engines.defaults import load_config
from pointcept.models import build_model
from pointcept.utils.checkpoint import read_checkpoint
from tests.integration.scans import write_scan
from tests.paths import CONFIGS

SMALL = CONFIGS / "semantic_kitti"
QUICK = (
    "num_worker=0", "seed=1", "data.train.sequences=[0]", "batch_size=2", "epoch=1", "eval_epoch=1", "log_freq=1",
)  # fmt: skip


def cloud(points: int, seed: int = 0) -> np.ndarray:
    """Random points on 30 x 30 x 3 m, (N, 4)."""
    rng = np.random.default_rng(seed)
    return rng.uniform((-15, -15, -1.5, 0), (15, 15, 1.5, 1), (points, 4))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two small scans of sequence 00, one of 08."""
    path = tmp_path / "data"
    for sequence, frame in (("00", 0), ("00", 1), ("08", 0)):
        write_scan(path, sequence, frame, cloud(600, frame))
    return path


@pytest.fixture
def train(call_tool: Callable[..., Any], root: Path, tmp_path: Path) -> Callable[..., Any]:
    """Train the small student on ``root``; arguments are further options."""

    def call(*options: str, config: Path = SMALL / "small_student.py") -> Any:
        common = (f"data_root={root}", f"save_path={tmp_path / 'run'}", *QUICK)
        return call_tool("train", "--config", str(config), "--options", *common, *options)

    return call


@pytest.fixture
def test(call_tool: Callable[..., Any], root: Path, tmp_path: Path) -> Callable[..., Any]:
    """Test the small student on ``root``; arguments are further options."""

    def call(*options: str) -> Any:
        common = (f"data_root={root}", f"save_path={tmp_path / 'run'}", "num_worker=0", *options)
        return call_tool("test", "--config", str(SMALL / "small_student.py"), "--options", *common)

    return call


@pytest.fixture
def weight(tmp_path: Path) -> Path:
    """A weight file of the small student."""
    path = tmp_path / "weight.pth"
    torch.manual_seed(0)
    torch.save({"state_dict": build_model(load_config(SMALL / "small_student.py").model).state_dict()}, path)
    return path


def check_refused(outcome: Any, tmp_path: Path, *words: str) -> None:
    """Exit code 2 and one message with all of ``words``; nothing of the run is left that looks like a result."""
    assert outcome.code == 2, outcome.err or outcome.out
    first, *rest = outcome.err.splitlines()
    assert first.startswith("error: "), outcome.err
    assert all(line.startswith("  ") for line in rest), f"more than one message: {outcome.err}"
    assert "Traceback" not in outcome.err + outcome.out
    missing = [word for word in words if word not in outcome.err]
    assert not missing, f"the message does not say {missing}: {outcome.err}"
    left = [p.name for p in (tmp_path / "run").rglob("*") if p.suffix in (".pth", ".tmp") or "miou" in p.name]
    assert not left


# --- data that is not there or damaged ---


def test_missing_data_root(train: Any, tmp_path: Path) -> None:
    outcome = train(f"data_root={tmp_path / 'nowhere'}")
    check_refused(outcome, tmp_path, f"no folder {tmp_path / 'nowhere'}", f"exists as far as {tmp_path}", "velodyne")


def test_empty_data_root(train: Any, test: Any, weight: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for tool in (train, lambda option: test(option, f"weight={weight}")):
        outcome = tool(f"data_root={tmp_path / 'empty'}")
        check_refused(outcome, tmp_path, "no folder", "dataset/sequences", "Expected layout")


def test_a_sequence_without_scans(train: Any, root: Path, tmp_path: Path) -> None:
    for path in (root / "dataset" / "sequences" / "00" / "velodyne").iterdir():
        path.unlink()
    check_refused(train(), tmp_path, "00/velodyne holds no .bin files")


def test_a_scan_without_labels(train: Any, root: Path, tmp_path: Path) -> None:
    (root / "dataset" / "sequences" / "00" / "labels" / "000001.label").unlink()
    check_refused(train(), tmp_path, "1 of 2 scans", "labels/000001.label")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_scan_of_wrong_size(train: Any, root: Path, tmp_path: Path, workers: int) -> None:
    path = root / "dataset" / "sequences" / "00" / "velodyne" / "000001.bin"
    path.write_bytes(path.read_bytes()[:-7])
    outcome = train(f"num_worker={workers}")
    check_refused(outcome, tmp_path, "sample 1 (00_000001)", f"{path} has 9593 bytes", "no multiple of 16")


def test_an_empty_scan(train: Any, test: Any, root: Path, weight: Path, tmp_path: Path) -> None:
    for sequence in ("00", "08"):
        (root / "dataset" / "sequences" / sequence / "velodyne" / "000000.bin").write_bytes(b"")
    check_refused(train(), tmp_path, "00_000000", "000000.bin is empty", "16 bytes per point")
    check_refused(test(f"weight={weight}"), tmp_path, "08_000000", "000000.bin is empty")


def test_another_number_of_labels_than_points(train: Any, root: Path, tmp_path: Path) -> None:
    write_scan(root, "00", 0, cloud(600), np.full(599, 40))
    check_refused(train(), tmp_path, "labels/000000.label has 599 labels", "velodyne/000000.bin has 600 points")


def test_an_unknown_raw_label(train: Any, root: Path, tmp_path: Path) -> None:
    labels = np.full(600, 40)
    labels[:3] = 77
    write_scan(root, "00", 0, cloud(600), labels)
    check_refused(train(), tmp_path, "labels/000000.label", "unknown raw label 77 (3 points)", "Known: 0, 1, 10")


@pytest.mark.parametrize("sequence", ["00", "08"])
def test_strengths_of_another_format(
    train: Any, test: Any, root: Path, weight: Path, tmp_path: Path, sequence: str
) -> None:
    write_scan(root, sequence, 0, cloud(600) * (1, 1, 1, 255))
    words = (f"{sequence}_000000", "read as a scan of SemanticKITTIDataset its strength goes from", "expected 0 to 1")
    if sequence == "00":
        check_refused(train(), tmp_path, *words)
    else:
        for quick in ("True", "False"):
            check_refused(test(f"weight={weight}", f"test.quick={quick}"), tmp_path, *words)


def test_scans_that_only_the_last_test_reads(train: Any, tmp_path: Path) -> None:
    """Not after the training: nothing is trained."""
    outcome = train(f"data.test.data_root={tmp_path / 'nowhere'}")
    check_refused(outcome, tmp_path, f"no folder {tmp_path / 'nowhere'}")
    assert "Train [" not in outcome.out


def test_coordinates_that_are_not_finite(train: Any, root: Path, tmp_path: Path) -> None:
    points = cloud(600)
    points[5, 1] = np.nan
    points[9, 0] = np.inf
    write_scan(root, "00", 0, points)
    check_refused(train(), tmp_path, "2 of 600 points of", "velodyne/000000.bin", "NaN or infinite", 'nonfinite="drop"')
    done = train("data.train.nonfinite=drop")  # what the message says helps
    assert done.code == 0, done.err


def test_coordinates_beyond_the_serialization_depth(
    train: Any, test: Any, root: Path, weight: Path, tmp_path: Path
) -> None:
    points = cloud(600)
    points[0, 0] = 1e6
    write_scan(root, "00", 0, points)
    write_scan(root, "08", 0, points)
    words = ("GridSample: coordinates span", "voxels; at most 65535 along an axis", "larger grid_size")
    check_refused(train(), tmp_path, "00_000000", *words)
    check_refused(test(f"weight={weight}"), tmp_path, "08_000000", *words)


def test_coordinates_of_a_map_in_float32(train: Any, test: Any, root: Path, weight: Path, tmp_path: Path) -> None:
    points = cloud(600)
    points[:, 1] += 5_412_345
    write_scan(root, "00", 0, points)
    write_scan(root, "08", 0, points)
    words = ("from the origin along an axis, where float32 resolves 0.5 m", "give coord in float64")
    check_refused(train(), tmp_path, "00_000000", *words)
    check_refused(test(f"weight={weight}"), tmp_path, "08_000000", *words)


# --- data that is odd, and handled ---


@pytest.mark.parametrize("case", ["all ignored", "one point", "very different sizes", "all in one voxel"])
def test_odd_scans_are_handled(train: Any, test: Any, root: Path, tmp_path: Path, case: str) -> None:
    for sequence in ("00", "08"):
        if case == "all ignored":
            for frame in range(2):
                write_scan(root, sequence, frame, cloud(300), np.zeros(300))
        elif case == "one point":
            for frame in range(2):
                write_scan(root, sequence, frame, cloud(1), np.array([40]))
        elif case == "all in one voxel":
            write_scan(root, sequence, 0, 0.01 * cloud(50) + 0.05)
        else:
            for frame, size in enumerate((1, 30_000, 7, 3_000)):
                write_scan(root, sequence, frame, cloud(size, frame))
    # One point alone in its batch has no variance; scans of very different sizes meet in one batch.
    batch_size = {"one point": 1, "very different sizes": 4}.get(case, 2)
    done = train(f"batch_size={batch_size}", "batch_size_val=2", "epoch=2")
    assert (done.code, done.err) == (0, ""), done.err
    losses = [float(value) for value in re.findall(r"\] .* loss (\S+)", done.out)]
    assert len(losses) >= 2
    assert np.isfinite(losses).all()
    weights = read_checkpoint(tmp_path / "run" / "model" / "model_last.pth")["state_dict"]
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())
    done = test(f"weight={tmp_path / 'run' / 'model' / 'model_last.pth'}")
    assert (done.code, done.err) == (0, ""), done.err
    assert (tmp_path / "run" / "result" / "miou_precise.json").exists()


# --- configs and the command line ---


def test_wrong_config_files(train: Any, tmp_path: Path) -> None:
    base = f"_base_ = [{str(SMALL / 'small_student.py')!r}]\n"
    for text, words in {
        base + "batch_sise = 3\n": ("config.py: unused config key 'batch_sise'", "did you mean 'batch_size'"),
        base + "model = dict(backbone=dict(enc_dephts=(1, 1, 1)))\n": (
            "model.backbone: PT-v3m1 takes no 'enc_dephts'",
        ),
        base + "clip_grad = 'no'\n": ("config.py: clip_grad: got 'no' (str)", "allowed: a number or None, at least 0"),
        base + "model = dict(backbone=dict(drop_path='high'))\n": (
            "model.backbone.drop_path: got 'high' (str)",
            "float",
        ),
        base + "model = dict(type='PTv4')\n": (
            "model: unknown type 'PTv4' in the registry of models",
            "Allowed: PT-v3m1, ",
        ),
        base + "optimizer = dict(typo=1\n": ("config.py:2: SyntaxError",),
        "_base_ = ['nowhere.py']\n": ("no config file", "nowhere.py", "which is a _base_ of"),
    }.items():
        (tmp_path / "config.py").write_text(text)
        check_refused(train(config=tmp_path / "config.py"), tmp_path, *words)
    check_refused(train(config=tmp_path / "missing.py"), tmp_path, "no config file", "missing.py")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("epochs=3", ("--options epochs: unknown config key 'epochs'", "did you mean 'epoch'")),
        ("epoch", ("--options: got 'epoch', allowed: key=value",)),
        ("epoch=3.5", ("--options: epoch: got 3.5 (float)", "an int")),
        ("model.backbone.enc_dephts=(1,1,1)", ("model.backbone: PT-v3m1 takes no 'enc_dephts'", "'enc_depths'")),
        ("model.backbone.stride=(3,2)", ("powers of two", "(3, 2)")),
        ("model.backbone.order=zz", ("model.backbone.order: got 'zz'", "did you mean 'z'")),
        ("model.num_classes=many", ("model.num_classes: got 'many' (str), allowed: int",)),
        ("hooks.9.type=CheckpointSaver", ("--options hooks.9.type: got '9' as index of hooks", "0 to 5")),
        ("data.train.transform.3.grid_size=-1", ("grid_size", "-1")),
        ("data.train.split=trian", ("has no split 'trian'", "did you mean 'train'")),
        ("data.train.sequences=[77]", ("no folder", "sequences/77/velodyne")),
        ("train.max_iter=0", ("max_iter=0: expected a positive integer",)),
        ("hooks.4.save_iter=0", ("hooks.4.save_iter: got 0", "an integer at least 1")),
        ("eval_epoch=3", ("epoch=1 is not a multiple of eval_epoch=3",)),
        ("scheduler.max_lr=[0.1]", ("scheduler.max_lr: got 1 values", "2 parameter groups (base, block)")),
        ("param_dicts=[{'keyword': 'blok', 'lr': 1}]", ("keyword 'blok' matches no trainable parameter",)),
        ("amp_dtype=float8", ("amp_dtype: got 'float8'", "'float16' or")),
        ("optimizer=None", ("training needs the config keys 'optimizer' and 'scheduler'",)),
        ("model.backbone.in_channels=6", ("in_channels=6", "feat of 4 channels")),
        ("model.backbone_out_channels=48", ("model.backbone_out_channels: got 48", "32 channels")),
        ("model.criteria=None", ("training needs labels and criteria",)),
    ],
)
def test_wrong_options(train: Any, tmp_path: Path, option: str, words: tuple[str, ...]) -> None:
    check_refused(train(option), tmp_path, *words)


def test_another_number_of_classes_than_the_data(train: Any, test: Any, tmp_path: Path) -> None:
    words = ("model.num_classes=5", "SemanticKITTIDataset has 19 classes")
    check_refused(train("model.num_classes=5"), tmp_path, *words)
    both = ("model.student.num_classes=5", "model.teacher.num_classes=5", "model.teacher_weight=random")
    check_refused(train(*both, config=SMALL / "small_distill_kld.py"), tmp_path, *words)
    weight = tmp_path / "five.pth"
    cfg = load_config(SMALL / "small_student.py", {"model.num_classes": 5})
    torch.save(build_model(cfg.model).state_dict(), weight)
    check_refused(test(f"weight={weight}", "model.num_classes=5"), tmp_path, *words)


def test_a_test_without_weights(test: Any, tmp_path: Path) -> None:
    check_refused(test(), tmp_path, "the tester needs weights", "--options weight=PATH")


# --- weight files ---


def test_missing_weights(train: Any, test: Any, weight: Path, tmp_path: Path) -> None:
    missing = f"weight={tmp_path / 'wieght.pth'}"
    words = (f"weight file {tmp_path / 'wieght.pth'} does not exist", "the folder holds weight.pth")
    check_refused(train(missing), tmp_path, *words)
    check_refused(test(missing), tmp_path, *words)
    outcome = train(f"model.teacher_{missing}", config=SMALL / "small_distill_kld.py")
    check_refused(outcome, tmp_path, *words)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "another dict", "code"])
def test_damaged_weights(train: Any, test: Any, weight: Path, tmp_path: Path, damage: str) -> None:
    whole = weight.read_bytes()
    words = {
        "truncated": "is damaged",
        "empty": "is empty",
        "text": "is damaged",
        "another dict": "expected 'state_dict'",
    }
    if damage == "another dict":
        torch.save({"weights": 1}, weight)
    elif damage == "code":
        torch.save({"state_dict": {"a": Path("x")}}, weight)
    else:
        weight.write_bytes(
            {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"version https://git-lfs"}[damage]
        )
    for outcome in (train(f"weight={weight}"), test(f"weight={weight}")):
        check_refused(outcome, tmp_path, str(weight), words.get(damage, "are not loaded for safety"))


def test_weights_of_another_model(train: Any, test: Any, weight: Path, tmp_path: Path) -> None:
    state = torch.load(weight)["state_dict"]
    for name in ("weight", "bias"):
        state[f"seg_head.{name}"] = state[f"seg_head.{name}"][:16]
    torch.save({"state_dict": state}, weight)
    words = (
        f"{weight} does not fit the model", "2 of another shape", "seg_head.bias (file (16,), model (19,))",
        "give the hook CheckpointLoader strict=False",
    )  # fmt: skip
    for outcome in (train(f"weight={weight}"), test(f"weight={weight}")):
        check_refused(outcome, tmp_path, *words)
    del state["seg_head.bias"]
    state["head.bias"] = torch.zeros(19)
    torch.save(state, weight)
    check_refused(
        test(f"weight={weight}"),
        tmp_path,
        "1 missing from the file: seg_head.bias",
        "1 unknown to the model: head.bias",
    )
    teacher = train(f"model.teacher_weight={weight}", config=SMALL / "small_distill_kld.py")
    check_refused(teacher, tmp_path, f"{weight} does not fit the model")


@pytest.fixture
def predict(call_tool: Callable[..., Any], root: Path, tmp_path: Path) -> Callable[..., Any]:
    """Predict the scans of sequence 00 with the small student, into a folder; arguments go before the options."""

    def call(weight: Path, *more: str) -> Any:
        scans, out = root / "dataset" / "sequences" / "00" / "velodyne", tmp_path / "out"
        command = ("--config", str(SMALL / "small_student.py"), "--scan", str(scans), "--out", str(out), "--quick")
        return call_tool("predict", *command, *more, "--options", f"weight={weight}", "num_worker=0")

    return call


def test_weights_that_are_not_finite(train: Any, test: Any, predict: Any, weight: Path, tmp_path: Path) -> None:
    state = torch.load(weight)["state_dict"]
    state["seg_head.bias"][3] = np.nan
    state["backbone.enc.enc0.block0.mlp.0.fc1.bias"][1] = np.inf
    torch.save({"state_dict": state}, weight)
    words = (str(weight), "2 of", "seg_head.bias (1 of 19 values)", "enc0.block0.mlp.0.fc1.bias (1 of 64 values)")
    teacher = train(f"model.teacher_weight={weight}", config=SMALL / "small_distill_kld.py")
    for outcome in (train(f"weight={weight}"), test(f"weight={weight}"), test(f"weight={weight}", "test.quick=True")):
        check_refused(outcome, tmp_path, *words)
    check_refused(teacher, tmp_path, str(weight))
    for outcome in (predict(weight), predict(weight, "--engine")):
        check_refused(outcome, tmp_path, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("entry", ["seg_head.bias", "backbone.enc.enc0.block0.mlp.0.fc1.bias"])
def test_scores_that_are_not_finite(
    test: Any, predict: Any, weight: Path, tmp_path: Path, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no check of a file can foresee: here the file passes, because its check is switched off."""
    state = torch.load(weight)["state_dict"]
    state[entry][3] = np.nan
    torch.save({"state_dict": state}, weight)
    monkeypatch.setattr("pointcept.utils.checkpoint.damage", lambda _: None)
    monkeypatch.setattr("pointcept.engines.deploy.engine.damage", lambda _: None)
    monkeypatch.setattr("pointcept.engines.deploy.engine.DeployedPTv3.not_finite", lambda _: [])
    network = f"DefaultSegmentorV2 with PointTransformerV3 ({weight})"
    for outcome, scan in (
        (test(f"weight={weight}"), "08_000000"),
        (test(f"weight={weight}", "test.quick=True"), "08_000000"),
        (predict(weight), "000000.bin"),
        (predict(weight, "--engine"), "000000.bin"),
    ):
        assert outcome.code == 1, outcome.out
        (line,) = outcome.err.splitlines()
        assert re.search(rf"^error: .*{scan}.*: \d+ of \d+ (points|voxels) have scores that are NaN", line), line
        assert network in line
    assert not (tmp_path / "out").exists()
    assert {p.name for p in (tmp_path / "run" / "result").iterdir()} == {"config.py", "environment.json"}, "the record"


def test_weights_are_no_run_to_resume(train: Any, weight: Path, tmp_path: Path) -> None:
    """Outside of the run they begin it; within, they are taken for a state to go back to."""
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    inside = weight.rename(model / "weights.weight")
    outcome = train(f"weight={inside}", "resume=True")
    check_refused(outcome, tmp_path, str(inside), "no training state", "resume=True")


def test_an_error_in_a_loading_process_is_one_line(run_tool: Any, root: Path, weight: Path, tmp_path: Path) -> None:
    """In a process of its own: at its exit nothing may be left that torch reports as a crash."""
    (root / "dataset" / "sequences" / "08" / "velodyne" / "000000.bin").write_bytes(b"short")
    outcome = run_tool(
        "test", "--config", str(SMALL / "small_student.py"), "--model-file", str(weight),
        "--options", f"data_root={root}", f"save_path={tmp_path / 'run'}", "num_worker=2",
    )  # fmt: skip
    check_refused(outcome, tmp_path, "sample 0 (08_000000)", "has 5 bytes")
    assert outcome.err.count("\n") == 1
