"""Pages of the documentation that users copy from, run as they stand."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointcept.datasets.clouds import read_cloud
from pointcept.engines.defaults import load_config
from pointcept.models import build_model
from tests.paths import CONFIGS, REPO


class Page:
    """A page whose files are written and whose commands are run in one folder.

    A block of Python that begins with ``# NAME.py`` is that file; of a block of sh the lines that begin with python
    are commands.
    """

    def __init__(self, name: str, folder: Path, call_tool: Callable[..., Any]) -> None:
        text = (REPO / "docs" / name).read_text()
        self.folder, self.call_tool = folder, call_tool
        self.steps: list[tuple[str, str]] = []
        for language, block in re.findall(r"```(python|sh)\n(.*?)```", text, re.DOTALL):
            first = block.split("\n", 1)[0]
            if language == "python" and re.fullmatch(r"# [\w/]+\.py", first):
                self.steps.append((first[2:], block))
            elif language == "sh":
                lines = block.replace("\\\n", " ").splitlines()
                self.steps += [("", line) for line in lines if line.startswith("python ")]
        (folder / "configs").symlink_to(CONFIGS)

    def run(self) -> list[str]:
        """Write and run everything; returns what each command wrote."""
        said = []
        for file, content in self.steps:
            if file:
                path = self.folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
                continue
            script, *arguments = shlex.split(content)[1:]
            if not script.startswith("tools/"):
                runpy.run_path(str(self.folder / script))
                continue
            outcome = self.call_tool(Path(script).stem, *arguments)
            assert outcome.code == 0, f"{content}\n{outcome.err}\n{outcome.out[-3000:]}"
            said.append(outcome.out)
        return said


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
