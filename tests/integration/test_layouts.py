"""The official layouts from end to end: generated, preprocessed, trained, tested, submitted, judged officially."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("embreex", reason="the simulator needs the extra 'simulator'")

from pointcept.datasets import BaseDataset, Draw, NuScenesDataset, SemanticKITTIDataset, WaymoDataset
from pointcept.datasets.preprocessing.nuscenes import preprocess_nuscenes_info
from pointcept.datasets.preprocessing.waymo import preprocess_waymo
from pointcept.datasets.simulator import Settings, generate, layouts
from pointcept.datasets.simulator.layouts import nuscenes as nuscenes_layout
from pointcept.datasets.simulator.layouts import semantic_kitti as kitti_layout
from pointcept.datasets.simulator.layouts.waymo import TEST_LIST, WaymoLayout
from pointcept.engines.defaults import load_config, train_main
from pointcept.engines.defaults import test_main as run_tester
from pointcept.evaluation import ConfusionMatrix
from pointcept.utils.config import parse_options
from pointcept.utils.logging import close_logging
from tests.paths import CONFIGS

DEVKIT_PYTHON = Path(os.environ.get("POINTCEPT_DEVKIT_PYTHON", "/tmp/venv_devkit/bin/python"))
FRAMES = 2
STEPS = 3
TRAINING_ONLY = (
    'hooks=[{"type": "CheckpointLoader"}, {"type": "InformationWriter"}, {"type": "SemSegEvaluator"},'
    ' {"type": "CheckpointSaver"}]'
)
CONFIG = """# A small student on a tiny set of the simulator.
_base_ = [
    "{configs}/_base_/runtime_cpu.py",
    "{configs}/_base_/datasets/{layout}.py",
    "{configs}/_base_/models/ptv3_small_student.py",
    "{configs}/_base_/schedules/smoke.py",
]
epoch = 1
eval_epoch = 1
batch_size = 1
num_worker = 0
log_freq = 1
seed = 3
data = dict(test=dict(test_cfg=dict(aug_transform=[[], [dict(type="RandomFlip", p=1)]])))
model = dict({{{{_base_.student}}}}, num_classes={{{{_base_.num_classes}}}})
"""


POINTCEPT_RUNTIME = """
enable_wandb, wandb_project, wandb_key = True, "pointcept", None
num_worker, empty_cache_per_epoch, mix_prob, param_dicts, clip_grad = 0, False, 0, None, None
hooks = [
    dict(type="CheckpointLoader"), dict(type="ModelHook"), dict(type="IterationTimer", warmup_iter=2),
    dict(type="InformationWriter"), dict(type="SemSegEvaluator"), dict(type="CheckpointSaver", save_freq=None),
    dict(type="PreciseEvaluator", test_last=False),
]
train = dict(type="DefaultTrainer")
test = dict(type="SemSegTester", verbose=True)
"""
POINTCEPT_CONFIG = """
_base_ = ["../_base_/default_runtime.py"]
batch_size, mix_prob, epoch, eval_epoch = 2, 0.8, 2, 1
empty_cache, enable_amp = False, True
model = {model}
model["criteria"] = [dict(type="CrossEntropyLoss", reduction="mean", ignore_index=-1), dict(type="LovaszLoss")]
optimizer = dict(type="AdamW", lr=0.002, weight_decay=0.005)
scheduler = dict(type="OneCycleLR", max_lr=optimizer["lr"], pct_start=0.04, anneal_strategy="cos")
dataset_type, data_root, ignore_index, names = "{dataset}", "data/somewhere", -1, {names}
learning_map, learning_map_inv = {learning_map}, dict()
voxels = dict(type="GridSample", grid_size=0.2, hash_type="fnv", mode="train", {grid}=True)
collect = dict(type="Collect", keys=("coord", {entry!r}, "segment"), feat_keys=("coord", "strength"))
whole = dict(collect, keys=("coord", {entry!r}, "segment", "origin_segment", "inverse"))
copy = dict(type="Copy", keys_dict=dict(segment="origin_segment"))
clip = dict(type="PointClip", point_cloud_range=(-35.2, -35.2, -4, 35.2, 35.2, 2))
common = dict(type=dataset_type, data_root=data_root, ignore_index=ignore_index, {arguments})
data = dict(
    num_classes={classes}, ignore_index=ignore_index, names=names,
    train=dict(common, split="{splits[0]}", test_mode=False, transform=[
        dict(type="RandomRotate", angle=[-1, 1], axis="z", center=[0, 0, 0], p=0.5), clip,
        dict(type="RandomScale", scale=[0.9, 1.1]), dict(type="RandomFlip", p=0.5),
        dict(type="RandomJitter", sigma=0.005, clip=0.02), voxels, dict(type="ToTensor"), collect]),
    val=dict(common, split="{splits[1]}", test_mode=False, transform=[
        copy, clip, dict(voxels, return_inverse=True), dict(type="ToTensor"), whole]),
    test=dict(common, split="{splits[1]}", test_mode=True,
        transform=[clip, copy, dict(type="GridSample", grid_size=0.1, mode="train", return_inverse=True)],
        test_cfg=dict(
            voxelize=dict(voxels, mode="test"), crop=None,
            post_transform=[dict(type="ToTensor"), dict(collect, keys=("coord", {entry!r}, "index"))],
            aug_transform=[
                [dict(type="RandomRotateTargetAngle", angle=[1 / 2], axis="z", center=[0, 0, 0], p=1)]])),
)
"""
POINTCEPT_PTV3 = """dict(
    type="DefaultSegmentorV2", num_classes={classes}, backbone_out_channels=8,
    backbone=dict(type="PT-v3m1", in_channels=4, order=["z", "z-trans", "hilbert", "hilbert-trans"], stride=(2,),
        enc_depths=(1, 1), enc_channels=(8, 16), enc_num_head=(1, 2), enc_patch_size=(64, 64), dec_depths=(1,),
        dec_channels=(8,), dec_num_head=(1,), dec_patch_size=(64,), {mode}=False, pdnorm_bn=False, pdnorm_ln=False,
        pdnorm_conditions=("nuScenes", "SemanticKITTI", "Waymo")))"""
POINTCEPT_SPUNET = """dict(type="DefaultSegmentor", backbone=dict(
    type="SpUNet-v1m1", in_channels=4, num_classes={classes}, base_channels=8, channels=(8, 8), layers=(1, 1)))"""


def pointcept_config(layout: str) -> str:
    """A config as Pointcept's are, each layout in the words of another version."""
    dataset = LAYOUTS[layout].dataset
    model, grid, arguments = {
        "semantic_kitti": (POINTCEPT_SPUNET, "return_discrete_coord", "learning_map=learning_map"),
        "nuscenes": (POINTCEPT_PTV3.replace("{mode}", "enc_mode"), "return_grid_coord", "sweeps=10"),
        "waymo": (POINTCEPT_PTV3.replace("{mode}", "cls_mode"), "return_grid_coord", "cache=False"),
    }[layout]
    return POINTCEPT_CONFIG.format(
        model=model.format(classes=len(dataset.names)),
        dataset=dataset.__name__,
        names=list(dataset.names),
        classes=len(dataset.names),
        splits=LAYOUTS[layout].splits,
        grid=grid,
        entry=grid.removeprefix("return_"),
        arguments=arguments,
        learning_map={0: -1, 10: 0, 252: 0, 11: 1},
    )


@dataclass(frozen=True)
class Layout:
    """How a layout is called in the package.

    Attributes:
        dataset: its class.
        splits: its names of the splits train, val and test.
        options: of its config, because a set this small lacks most sequences.
    """

    dataset: type[BaseDataset]
    splits: tuple[str, str, str] = ("train", "val", "test")
    options: tuple[str, ...] = ()


LAYOUTS = {
    "semantic_kitti": Layout(
        SemanticKITTIDataset, options=("data.train.sequences=available", "data.test.sequences=available")
    ),
    "nuscenes": Layout(NuScenesDataset),
    "waymo": Layout(WaymoDataset, ("training", "validation", "testing")),
}


@dataclass(frozen=True)
class Run:
    """A trained network and the data that it was trained on."""

    layout: str
    root: Path
    folder: Path
    config: Path

    @property
    def options(self) -> list[str]:
        return [f"data_root={self.root}", *LAYOUTS[self.layout].options]

    @property
    def weight(self) -> Path:
        return self.folder / "model" / "model_last.pth"

    @property
    def submission(self) -> Path:
        return self.folder / "result" / "submission"

    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "result" / "miou_precise.json").read_text())

    def dataset(self, split: int, **arguments: Any) -> Any:
        arguments |= {"sequences": "available"} if self.layout == "semantic_kitti" else {}
        kind = LAYOUTS[self.layout]
        return kind.dataset(kind.splits[split], self.root, **arguments)


def write_set(layout: str, root: Path) -> Path:
    """Generate one scene per split with few beams a turn and preprocess it; returns ``data_root``."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((kitti_layout, "hdl64e"), (nuscenes_layout, "hdl32e")):
            sensor = getattr(module, name)()
            object.__setattr__(sensor, "columns", 60)
            patch.setattr(module, name, lambda sensor=sensor: sensor)
        patch.setitem(layouts.LAYOUTS, "waymo", WaymoLayout(scale=0.04))
        generate(Settings(layout, root, {"train": 1, "val": 1, "test": 1}, FRAMES, seed=5, style="town"))
    if layout == "nuscenes":
        arguments = ["--dataset_root", str(root / "raw"), "--output_root", str(root)]
        assert preprocess_nuscenes_info.main(arguments) == 0
    if layout == "waymo":
        out = root.parent / "waymo_frames"
        arguments = ["--dataset_root", str(root), "--output_root", str(out), "--num_workers", "1"]
        arguments += ["--splits", *LAYOUTS["waymo"].splits, "--test_frames", str(root / TEST_LIST)]
        assert preprocess_waymo.main(arguments) == 0
        return out
    return root


@pytest.fixture(scope="module", params=LAYOUTS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Each layout, trained for a few steps."""
    layout = request.param
    if layout == "waymo":
        pytest.importorskip("waymo_open_dataset.dataset_pb2", reason="needs the official message classes of Waymo")
        pytest.importorskip("google_crc32c", reason="needs the extra 'waymo'")
    base = tmp_path_factory.mktemp(layout)
    config = base / "config.py"
    config.write_text(CONFIG.format(configs=CONFIGS, layout=layout))
    found = Run(layout, write_set(layout, base / "data"), base / "exp", config)
    options = [*found.options, f"save_path={found.folder}", f"train.max_iter={STEPS}", TRAINING_ONLY]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POINTCEPT_DEVICE", "cpu")
        try:
            train_main(load_config(config, parse_options(options)))
        finally:
            close_logging()
    log = (found.folder / "train.log").read_text()
    assert len(re.findall(r"Train \[1/1\]\[\d+/\d+\].* loss \d", log)) == STEPS, log
    assert "Val quick [1/1]" in log
    return found


@pytest.fixture(scope="module")
def tested(run: Run) -> Run:
    """The run after its test on labelled scans, which writes a submission and predictions too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POINTCEPT_DEVICE", "cpu")
        options = [f"weight={run.weight}", f"save_path={run.folder}"]
        options += ["test.submit=True", "test.save_predictions=True"]
        try:
            run_tester(load_config(run.config, parse_options([*run.options, *options])))
        finally:
            close_logging()
    return run


def test_a_config_of_pointcept_trains_and_tests_as_it_is(
    run: Run, call_tool: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place, text in (("_base_/default_runtime", POINTCEPT_RUNTIME), ("x/semseg", pointcept_config(run.layout))):
        path = tmp_path / "configs" / f"{place}.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    options = [f"save_path={tmp_path / 'exp'}", *run.options]
    if run.layout == "semantic_kitti":
        options.append("data.val.sequences=available")
    done = call_tool("train", "--config-file", str(path), "--num-gpus", "1", "--options", *options)
    assert done.code == 0, done.err
    assert "Train [1/1] done: 2 steps" in done.out
    assert "mIoU quick" in done.out
    assert "mIoU precise" in done.out
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for name in ("'ModelHook'", "'wandb_key'", "'reduction'", "learning_map_inv"):
        assert len([text for text in told if name in text]) == 1, told


def test_labelled_scans_get_a_table(tested: Run) -> None:
    report, data = tested.report(), tested.dataset(1)
    labels = np.concatenate([data.get_data(i)["segment"] for i in range(len(data))])
    assert report["num_scans"] == len(data) == FRAMES
    assert report["num_points"] == (labels >= 0).sum() > 1000, "every labelled point counts, at full resolution"
    assert report["num_classes_present"] == len(np.unique(labels[labels >= 0])) > 3
    assert "mIoU precise" in (tested.folder / "test.log").read_text()


@pytest.mark.parametrize(
    "mix", [{"type": "PolarMix"}, {"type": "LaserMix"}, {"type": "InstancePaste", "min_points": 1}]
)
def test_scans_are_mixed_as_the_data_set_says(run: Run, mix: dict[str, Any]) -> None:
    data = run.dataset(0, transform=[{**mix, "p": 1}])
    mixed, plain = [data[Draw(i, seed)] for i in range(FRAMES) for seed in range(4)], data.get_data(0)
    assert any("+" in sample["name"] for sample in mixed)
    for sample in mixed:
        assert sample.keys() == plain.keys()
        assert len(sample["coord"]) == len(sample["strength"]) == len(sample["segment"])


def test_unlabelled_scans_become_a_submission_and_no_miou(
    run: Run, call_tool: Callable[..., Any], tmp_path: Path
) -> None:
    done = evaluate(run, call_tool, tmp_path, f"data.test.split={LAYOUTS[run.layout].splits[2]}")
    assert done.code == 0, done.err
    assert "no scan has labels, so there is no mIoU" in done.out
    assert done.out.count("mIoU") == 1
    assert not list((tmp_path / "exp" / "result").glob("miou*"))
    assert done.out.count("submission of 2 scans") == 1
    data = run.dataset(2)
    sizes = [len(data.get_data(i)["coord"]) for i in range(len(data))]
    names = [data.get_data_name(i) for i in range(len(data))]
    CHECK[run.layout](tmp_path / "exp" / "result" / "submission", names, sizes)


def check_semantic_kitti(folder: Path, names: list[str], sizes: list[int]) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    assert paths == [folder / "sequences" / n[:2] / "predictions" / f"{n[3:]}.label" for n in names]
    for path, size in zip(paths, sizes, strict=True):
        raw = np.fromfile(path, np.uint32)
        assert len(raw) == size
        assert set(raw.tolist()) <= set(FIRST_RAW)


def check_nuscenes(folder: Path, names: list[str], sizes: list[int]) -> None:
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert paths == {"test/submission.json", *(f"lidarseg/test/{name}_lidarseg.bin" for name in names)}
    assert json.loads((folder / "test" / "submission.json").read_text())["meta"]["use_lidar"] is True
    for name, size in zip(names, sizes, strict=True):
        classes = np.fromfile(folder / "lidarseg" / "test" / f"{name}_lidarseg.bin", np.uint8)
        assert len(classes) == size
        assert 1 <= classes.min() <= classes.max() <= 16


def check_waymo(folder: Path, names: list[str], sizes: list[int]) -> None:
    from waymo_open_dataset.protos.segmentation_metrics_pb2 import SegmentationFrameList

    message = SegmentationFrameList()
    message.ParseFromString((folder / "segmentation_frames.bin").read_bytes())
    found = [f"segment-{f.context_name}_with_camera_labels_{f.frame_timestamp_micros}" for f in message.frames]
    assert found == names
    assert all(len(f.segmentation_labels) == 1 for f in message.frames)
    assert all(f.segmentation_labels[0].ri_return2.segmentation_label_compressed for f in message.frames)


CHECK = {"semantic_kitti": check_semantic_kitti, "nuscenes": check_nuscenes, "waymo": check_waymo}


# --- what goes wrong is said in one sentence ---


def label_file(layout: str, root: Path) -> Path:
    """A label file of the validation split."""
    first = Run(layout, root, root, root).dataset(1).data_list[0]
    return first.folder / "segment.npy" if layout == "waymo" else first.labels


def shorten(path: Path) -> None:
    """Take the last label away."""
    if path.suffix == ".npy":
        np.save(path, np.load(path)[:-1])
    else:
        path.write_bytes(path.read_bytes()[: -4 if path.suffix == ".label" else -1])


FAULTS: dict[str, tuple[Callable[[Path], Any], dict[str, str]]] = {
    "another length": (
        shorten,
        {
            "semantic_kitti": r"{file} has \d+ labels, .*000000\.bin has \d+ points",
            "nuscenes": r"{file} has \d+ labels, .*pcd\.bin has \d+ points",
            "waymo": r"{file} is int32 \(\d+,\), expected \(\d+,\)",
        },
    ),
    "no labels": (
        Path.unlink,
        {
            "semantic_kitti": r"1 of 2 scans of .*08 have no label file, the first is {file}.*split=\"test\"",
            "nuscenes": r"names {file}, which is not there. Expected layout",
            "waymo": r"cannot read {file}: .*No such file",
        },
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_labels(run: Run, call_tool: Callable[..., Any], tmp_path: Path, fault: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(run.root, root)
    file = label_file(run.layout, root)
    damage, messages = FAULTS[fault]
    damage(file)
    done = evaluate(run, call_tool, tmp_path, f"data_root={root}")
    assert done.code == 2
    assert re.search(messages[run.layout].format(file=re.escape(str(file))), done.err)
    assert "Traceback" not in done.err
    assert not list((tmp_path / "exp" / "result").glob("miou*"))


def evaluate(run: Run, call_tool: Callable[..., Any], tmp_path: Path, *options: str) -> Any:
    """Run ``tools/test.py`` on the last weights; the results go to ``tmp_path/exp``."""
    arguments = [*run.options, f"weight={run.weight}", f"save_path={tmp_path / 'exp'}", *options]
    return call_tool("test", "--config", str(run.config), "--options", *arguments)


def test_a_wrong_folder(run: Run, call_tool: Callable[..., Any], tmp_path: Path) -> None:
    done = evaluate(run, call_tool, tmp_path, f"data_root={tmp_path}")
    assert done.code == 2
    assert done.err.startswith(f"error: no {'info file' if run.layout == 'nuscenes' else 'folder'} {tmp_path}")
    assert "Expected layout: " in done.err
    assert done.err.count("\n") == 1


def test_a_full_disk(run: Run, call_tool: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if "submission" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr("os.replace", full)
    done = evaluate(run, call_tool, tmp_path, f"data.test.split={LAYOUTS[run.layout].splits[2]}")
    assert done.code == 2
    assert re.fullmatch(r"error: .*: cannot write its prediction below .*: .*No space left on device.*\n", done.err)
    assert not [path for path in (tmp_path / "exp" / "result" / "submission").rglob("*") if path.is_file()]


# --- the official evaluations ---

# semantic-kitti.yaml of semantic-kitti-api, written down again: raw id -> number of the class, 0 is ignored.
FIRST_RAW = [10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]
OFFICIAL = {raw: number for number, raw in enumerate(FIRST_RAW, start=1)}
OFFICIAL |= {
    0: 0,
    1: 0,
    52: 0,
    99: 0,
    13: 5,
    16: 5,
    256: 5,
    257: 5,
    259: 5,
    60: 9,
    252: 1,
    253: 7,
    254: 6,
    255: 8,
    258: 4,
}


def official_kitti(truth: list[np.ndarray], pred: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """IoU of the classes 1..19 and their mean, as semantic-kitti-api defines them, point by point.

    Confusion matrix over the official numbers; the column of ground truth 0 is dropped; IoU = TP / (TP + FP + FN),
    a class without points has 0; the mean is that of all 19.
    """
    confusion = np.zeros((20, 20))
    for t, p in zip(truth, pred, strict=True):
        for a, b in zip(t.tolist(), p.tolist(), strict=True):
            confusion[OFFICIAL[b & 0xFFFF], OFFICIAL[a & 0xFFFF]] += 1
    confusion[:, 0] = 0
    hit = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hit + 1e-15
    return (hit / union)[1:], float((hit / union)[1:].mean())


def noisy(labels: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Predictions that are right for about 70 % of the points; the others get one of ``classes``."""
    wrong = (rng.random(len(labels)) < 0.3) | (labels < 0)
    return np.where(wrong, rng.choice(classes, len(labels)), labels)


def judge(data: Any, folder: Path, classes: np.ndarray | None = None) -> ConfusionMatrix:
    """Write noisy predictions as a submission, and count them with our own confusion matrix."""
    matrix, rng = ConfusionMatrix(data.num_classes, data.ignore_index, data.names), np.random.default_rng(4)
    for index in range(len(data)):
        labels = data.get_data(index)["segment"]
        pred = noisy(labels, np.arange(data.num_classes) if classes is None else classes, rng)
        data.write_submission(folder, data.get_data_name(index), pred)
        matrix.update(torch.from_numpy(pred), torch.from_numpy(labels))
    return matrix


@pytest.mark.parametrize("run", ["semantic_kitti"], indirect=True)
def test_semantic_kitti_gives_the_official_miou(tested: Run, tmp_path: Path) -> None:
    files = sorted((tested.root / "dataset" / "sequences" / "08" / "labels").iterdir())
    truth = [np.fromfile(path, np.uint32) for path in files]
    ours, report = judge(tested.dataset(1), tmp_path / "noisy").compute(), tested.report()
    network = [c["iou_precise"] or 0.0 for c in report["classes"]], report["miou_all_precise"]
    for iou, mean, folder in (
        (np.nan_to_num(ours.iou), ours.miou_all, tmp_path / "noisy"),
        (*network, tested.submission),
    ):
        predictions = [folder / "sequences" / "08" / "predictions" / path.name for path in files]
        official = official_kitti(truth, [np.fromfile(path, np.uint32) for path in predictions])
        np.testing.assert_allclose(iou, official[0], rtol=0, atol=1e-6)
        assert mean == pytest.approx(official[1], abs=1e-6)
    assert 0.05 < ours.miou_all < 0.7


DEVKIT_SCRIPT = """
import json, sys
from nuscenes import NuScenes
from nuscenes.eval.lidarseg import utils
from nuscenes.eval.lidarseg.evaluate import LidarSegEval
from nuscenes.eval.lidarseg.validate_submission import validate_submission

root, *results = sys.argv[1:]
nusc = NuScenes("v1.0-trainval", root, verbose=False)
official = utils.create_splits_scenes()
there = {s["name"] for s in nusc.scene}
# The evaluator insists on all 150 scenes of the split; the synthetic set has the first of them.
utils.create_splits_scenes = lambda verbose=False: {k: [n for n in v if n in there] for k, v in official.items()}
validate = sys.modules["nuscenes.eval.lidarseg.validate_submission"]
out = []
for folder in results:
    validate_submission(nusc, folder, "val")
    evaluator = LidarSegEval(nusc, folder, "val")
    out.append({"scans": len(evaluator.sample_tokens), **evaluator.evaluate()})
json.dump(out, sys.stdout)
"""


@pytest.mark.parametrize("run", ["nuscenes"], indirect=True)
def test_nuscenes_gives_the_miou_of_the_devkit(tested: Run, tmp_path: Path) -> None:
    if not DEVKIT_PYTHON.is_file():
        pytest.skip(f"no interpreter with nuscenes-devkit at {DEVKIT_PYTHON} (set POINTCEPT_DEVKIT_PYTHON)")
    data = tested.dataset(1)
    labels = np.concatenate([data.get_data(i)["segment"] for i in range(len(data))])
    present = judge(data, tmp_path / "present", np.unique(labels[labels >= 0])).compute()
    everything = judge(data, tmp_path / "everything").compute()
    folders = [tmp_path / "present", tmp_path / "everything", tested.submission]
    command = [str(DEVKIT_PYTHON), "-c", DEVKIT_SCRIPT, str(tested.root / "raw"), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    official = json.loads(done.stdout)
    assert [entry["scans"] for entry in official] == [FRAMES] * 3

    network = [np.nan if c["iou_precise"] is None else c["iou_precise"] for c in tested.report()["classes"]]
    for iou, theirs in zip((present.iou, everything.iou, network), official, strict=True):
        expected = [theirs["iou_per_class"][name] for name in data.names]
        np.testing.assert_allclose(iou, expected, rtol=0, atol=1e-6)
        # The devkit's mean leaves out the classes that are neither there nor predicted.
        assert theirs["miou"] == pytest.approx(np.nanmean(iou), abs=1e-6)
    assert present.miou_present == pytest.approx(official[0]["miou"], abs=1e-6)
    assert everything.miou_all == pytest.approx(official[1]["miou"], abs=1e-6)
    assert len(set(labels[labels >= 0])) < len(data.names), "else the three means could not differ"
    assert 0.3 < present.miou_present < 0.8


# --- single scans ---


@pytest.mark.parametrize("run", ["nuscenes"], indirect=True)
def test_a_real_sweep_is_predicted_without_a_data_set(
    run: Run, call_tool: Callable[..., Any], shared_dir: Path, tmp_path: Path
) -> None:
    scan = shared_dir / "data" / "nuscenes_sweep.pcd.bin"
    arguments = ["--config", str(run.config), "--scan", str(scan), "--out", str(tmp_path / "classes.npy"), "--quick"]
    done = call_tool("predict", *arguments, "--options", f"weight={run.weight}", "data_root=/nowhere")
    assert done.code == 0, done.err
    assert "34688 points" in done.out
    classes = np.load(tmp_path / "classes.npy")
    assert classes.shape == (34688,)
    assert classes.dtype == np.int16
    assert 0 <= classes.min() < classes.max() < 16


@pytest.mark.parametrize("run", ["nuscenes"], indirect=True)
def test_predicting_a_file_is_what_the_tester_does(tested: Run, call_tool: Callable[..., Any], tmp_path: Path) -> None:
    data, out = tested.dataset(1), tmp_path / "a.bin"
    name = data.get_data_name(0)
    arguments = ["--config", str(tested.config), "--scan", str(data.data_list[0].points), "--out", str(out)]
    done = call_tool("predict", *arguments, "--options", f"weight={tested.weight}")
    assert done.code == 0, done.err
    kept = np.load(tested.folder / "result" / "predictions" / f"{name}.npy")
    np.testing.assert_array_equal(np.fromfile(out, np.uint8), kept + 1)
    assert out.read_bytes() == (tested.submission / "lidarseg" / "val" / f"{name}_lidarseg.bin").read_bytes()
