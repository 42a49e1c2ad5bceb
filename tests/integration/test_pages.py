"""Pages of the documentation that users copy from, run as they stand."""

from __future__ import annotations

import multiprocessing
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointcept.datasets.clouds import read_cloud
from pointcept.engines.defaults import load_config
from pointcept.models import build_model
from pointcept.utils.registry import registries
from pointcept.utils.user_modules import import_modules
from tests.paths import CONFIGS, REPO


class Page:
    """A page whose files are written and whose commands are run in one folder.

    A block of Python that begins with ``# NAME.py`` is that file; of a block of sh the lines that begin with python
    are commands.
    """

    def __init__(self, name: str, folder: Path, call_tool: Callable[..., Any]) -> None:
        text = (REPO / "docs" / name).read_text()
        self.folder, self.call_tool = folder, call_tool
        self.files: list[tuple[str, str]] = []
        self.commands: list[str] = []
        for language, block in re.findall(r"```(python|sh)\n(.*?)```", text, re.DOTALL):
            first = block.split("\n", 1)[0]
            if language == "python" and re.fullmatch(r"# [\w/]+\.py", first):
                self.files.append((first[2:], block))
            elif language == "sh":
                lines = block.replace("\\\n", " ").splitlines()
                self.commands += [line for line in lines if line.startswith("python ")]

    def run(self) -> list[str]:
        """Write all files, then run the commands; returns what each tool wrote."""
        for file, content in self.files:
            path = self.folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        said = []
        for content in self.commands:
            script, *arguments = shlex.split(content)[1:]
            if not script.startswith("tools/"):
                runpy.run_path(str(self.folder / script))
                continue
            outcome = self.call_tool(Path(script).stem, *arguments)
            assert outcome.code == 0, f"{content}\n{outcome.err}\n{outcome.out[-3000:]}"
            said.append(outcome.out)
        return said


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder; what a page registers and imports is gone after it."""
    (tmp_path / "configs").symlink_to(CONFIGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for registry in registries().values():
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    # Dumped configs need not be pretty here, and making them so takes longer than the training.
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, False))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0].startswith("my_"):
            del sys.modules[name]


def test_your_data(folder: Path, call_tool: Callable[..., Any]) -> None:
    teacher = load_config(CONFIGS / "semantic_kitti" / "small_teacher.py")
    weight = folder / teacher.save_path / "model" / "model_best.pth"
    weight.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save({"state_dict": build_model(teacher.model).state_dict()}, weight)
    trained, tested, predicted, tuned, coloured = Page("your-data.md", folder, call_tool).run()
    accuracy = re.findall(r"accuracy (\d+\.\d+)", tested)
    assert float(accuracy[-1]) > 60, "ground, poles and walls are easily told apart"
    assert "mIoU" in trained
    classes = np.load(folder / "exp" / "my_student" / "result" / "submission" / "val_scan4.npy")
    assert set(np.unique(classes)) <= {0, 1, 2}
    labelled = read_cloud(folder / "labelled" / "scan4.csv")
    assert set(np.unique(labelled.fields["label"])) <= {2, 5, 6}, "labels, not classes"
    np.testing.assert_array_equal(np.array([2, 5, 6])[classes], labelled.fields["label"])
    assert "classes of 1520 points in 2 scans" in predicted
    left = re.findall(r"seg_head\.\w+", tuned)
    assert set(left) == {"seg_head.weight", "seg_head.bias"}
    assert len(read_cloud(folder / "scan5.ply")) == 760
    assert "classes of 760 points in 1 scan:" in coloured


def test_extending(folder: Path, call_tool: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1)):
        place = folder / "echoes" / split
        place.mkdir(parents=True)
        for number in range(count):
            ground = np.c_[rng.uniform(-12, 12, (300, 2)), rng.normal(-1.7, 0.02, 300), rng.uniform(0, 300, 300)]
            pole = np.c_[rng.normal(3, 0.1, (100, 2)), rng.uniform(-1.7, 3, 100), rng.uniform(800, 1000, 100)]
            np.concatenate([ground, pole]).astype(np.float32).tofile(place / f"{number}.echo")
            np.repeat(np.array([10, 20], np.uint8), [300, 100]).tofile(place / f"{number}.classes")
    trained, predicted = Page("extending.md", folder, call_tool).run()
    assert f"imports: my_project ({folder}/my_project/__init__.py)" in trained
    assert "TverskyLoss" in trained
    assert "classes of 400 points in 1 scan:" in predicted
    assert "in training" not in predicted, "nothing differs from what SENSOR says"
    assert set(np.fromfile(folder / "labelled" / "0.classes", np.uint8)) <= {10, 20, 30}


def test_modules_of_users_in_a_spawned_process(folder: Path) -> None:
    """What a process of --num-gpus gets is the config, pickled; it has imported nothing of the user's."""
    (folder / "my_types.py").write_text(
        "from pointcept.datasets import TRANSFORMS\n\n\n@TRANSFORMS.register_module()\nclass MyStep:\n"
        "    def __call__(self, sample):\n        return sample\n"
    )
    (folder / "my_config.py").write_text(
        "_base_ = 'configs/semantic_kitti/small_student.py'\nimports = ['my_types']\n"
        "data = dict(train=dict(transform=[dict(type='MyStep')]))\n"
    )
    cfg = load_config(folder / "my_config.py")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(registered, (cfg, "MyStep"))


def registered(cfg: Any, name: str) -> bool:
    """Whether a new process knows a transform once it has prepared itself as for a run."""
    assert name not in registries()["transforms"]
    import_modules(cfg.imports)
    return name in registries()["transforms"]
