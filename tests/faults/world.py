"""What every case starts from: tiny data, recipes, and runs that nothing has disturbed. Built once for a campaign."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults.process import Conditions, Running
from tests.faults.trigger import CALLS, Moment
from tests.integration.scans import write_scan
from tests.paths import CONFIGS

TRAIN_SCANS, VAL_SCANS, BATCH, EPOCHS = 6, 3, 2, 3
EPOCH_STEPS = TRAIN_SCANS // BATCH
STEPS = EPOCHS * EPOCH_STEPS
"""Optimizer steps of a recipe that says nothing else."""

NETWORK = """
_network = dict(
    backbone_out_channels=8,
    backbone=dict(
        stride=(2,), enc_depths=(1, 1), enc_channels=(8, 8), enc_num_head=(1, 1), enc_patch_size=(32, 32),
        dec_depths=(1,), dec_channels=(8,), dec_num_head=(1,), dec_patch_size=(32,), drop_path=0.1,
    ),
)
"""
"""The smallest PT-v3m1, as the variable ``_network`` of a config."""

_COMMON = f"""
num_worker = 0
seed = 3
batch_size = {BATCH}
epoch = {EPOCHS}
eval_epoch = {EPOCHS}
log_freq = 2
data = dict(train=dict(sequences=[0]), test=dict(test_cfg=dict(aug_transform=[[]])))
{NETWORK}_keys = ("coord", "strength", "segment")
_formatting = [
    dict(type="GridSample", grid_size=0.4, mode="train", return_grid_coord=True, keys=_keys), dict(type="ToTensor"),
    dict(type="Collect", keys=("coord", "grid_coord", "segment"), feat_keys=("coord", "strength")),
]
"""
_STUDENT = "model = _network\n"
_DISTILL = "model = dict(teacher=_network, student=_network, teacher_weight=_weight"
_LOSSES = """[
    dict(type="KLDLoss", loss_weight=0.3, temperature=1.0),
    dict(type="GradGuidedLoss", loss_weight=10.0, stage=-1, normalisation="minmax"),
    dict(type="TopoLoss", loss_weight=0.1, dims=(0, 1), distance="chamfer", max_points=16, stage=-1),
]"""
_OFTEN = """
hooks = [
    dict(type="CheckpointLoader"), dict(type="IterationTimer"), dict(type="InformationWriter"),
    dict(type="SemSegEvaluator"), dict(type="CheckpointSaver", save_iter=2, save_freq=2), dict(type="PreciseEvaluator"),
]
"""
_MIXES = """
data["train"]["transform"] = [
    dict(type="PolarMix", p=0.7), dict(type="LaserMix", p=0.7), dict(type="RandomFlip", p=0.5), *_formatting,
]
"""
_SPUNET = """
model = dict(
    _delete_=True, type="DefaultSegmentor",
    backbone=dict(type="SpUNet-v1m1", in_channels=4, num_classes=19, base_channels=8, channels=(8, 8), layers=(1, 1)),
    criteria=[dict(type="CrossEntropyLoss", ignore_index=-1), dict(type="FocalLoss", ignore_index=-1)],
)
param_dicts = None
optimizer = dict(_delete_=True, type="SGD", lr=0.01, momentum=0.9)
scheduler = dict(_delete_=True, type="PolyLR")
"""

# recipe -> base config below configs/semantic_kitti, and what follows it and _COMMON
RECIPES: dict[str, tuple[str, str]] = {
    "student": ("small_student", _STUDENT),
    "workers": ("small_student", _STUDENT + "num_worker = 2\n"),
    "teacher": ("small_teacher", _STUDENT),
    "distill": ("small_distill_full", f"{_DISTILL}, losses={_LOSSES})\n"),
    "cached": ("small_distill_kld", f"{_DISTILL}, teacher_cache=_cache)\ndata['train']['transform'] = _formatting\n"),
    "mix3d": ("small_student", _STUDENT + "mix_prob = 0.8\n"),
    "mixes": ("small_student", _STUDENT + _MIXES),
    "accumulate": ("small_student", _STUDENT + "gradient_accumulation_steps = 2\nbatch_size = 1\nclip_grad = 1.0\n"),
    "iterations": ("small_student", _STUDENT + "train = dict(max_iter=9)\n"),
    "bfloat16": ("small_student", _STUDENT + "enable_amp = True\namp_dtype = 'bfloat16'\n"),
    "spunet": ("small_student", _SPUNET),
    "often": ("small_student", _STUDENT + _OFTEN),
    "two": ("small_student", _STUDENT + "sync_bn = False\nbatch_size_val = 2\nbatch_size_test = 2\n"),
}
"""All of them take ``STEPS`` optimizer steps in ``EPOCHS`` evaluation epochs."""

FLAGS: dict[str, tuple[str, ...]] = {"two": ("--num-gpus", "2")}
"""More arguments of ``train.py`` for a recipe."""


def write_data(root: Path) -> None:
    """A data root in SemanticKITTI's layout: sequences 00 to train and 08 to judge by, scans of some sixty points."""
    random = np.random.default_rng(0)
    for sequence, scans in (("00", TRAIN_SCANS), ("08", VAL_SCANS)):
        for frame in range(scans):
            points = random.uniform((-4, -4, -1, 0), (4, 4, 1, 1), (60 + 7 * frame, 4))
            write_scan(root, sequence, frame, points)


class World:
    """Data, configs and undisturbed runs in one folder, shared by all cases, none of which changes it.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"

    def build(self) -> None:
        """Write the data; runs follow when a case asks for them."""
        write_data(self.data)

    def recipe(self, name: str, data: Path, cache: Path, more: str = "") -> str:
        """The text of a config file: recipe ``name`` on ``data``, with ``more`` behind it.

        Args:
            cache: folder of a teacher's outputs, for recipes that have one.
        """
        base, own = RECIPES[name]
        weight = self.folder / "whole" / "teacher" / "run" / "model" / "model_best.pth"
        places = f"data_root = {str(data)!r}\n_weight = {str(weight)!r}\n_cache = {str(cache)!r}\n"
        return f"_base_ = [{str(CONFIGS / 'semantic_kitti' / f'{base}.py')!r}]\n{_COMMON}{places}{own}{more}\n"

    def prepare(self, recipe: str) -> None:
        """Make what the config of ``recipe`` names: the weights of a teacher."""
        if recipe in ("distill", "cached"):
            self.whole("teacher")

    def whole(self, recipe: str) -> Path:
        """The ``save_path`` of the run of ``recipe`` that nothing has disturbed."""
        return self._once(f"whole/{recipe}", lambda at: self._run(recipe, at))

    def half(self, recipe: str) -> Path:
        """The ``save_path`` of the run of ``recipe`` that was killed in the middle of its third epoch."""
        return self._once(f"half/{recipe}", lambda at: self._run(recipe, at, Moment("step", 2 * EPOCH_STEPS + 2)))

    def calls(self, recipe: str) -> int:
        """How many functions an undisturbed run of ``recipe`` calls: the clock of ``Moment("call")``."""
        run = self._once(f"calls/{recipe}", lambda at: self._run(recipe, at, Moment("count")))
        return int((run.parent / "tool" / "home" / CALLS).read_text())

    def _run(self, recipe: str, folder: Path, moment: Moment | None = None) -> None:
        self.prepare(recipe)
        config = folder / "config.py"
        config.write_text(self.recipe(recipe, self.data, folder / "cache"))
        arguments = ["--config", str(config), *FLAGS.get(recipe, ()), "--options", f"save_path={folder / 'run'}"]
        ending = Running("train", arguments, folder / "tool", Conditions(moment=moment), _kill).wait()
        expected = -signal.SIGKILL if ending.reached else 0
        assert ending.code == expected, f"{recipe} does not run undisturbed: {ending.said[-2000:]}"

    def _once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Make a run unless another case has made it; only one process at a time makes one."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "made").exists():
                make(folder)
                (folder / "made").touch()
        return folder / "run"


def _kill(running: Running, pid: int) -> None:
    running.send(signal.SIGKILL)
