"""``tools/predict.py --engine``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointcept.engines.predict import argument_parser, predict_main
from pointcept.utils.errors import ConfigError, DataError
from tests.paths import CONFIGS

from .conftest import plain_logits, voxelize


def arguments(weight, scan, out, *more):
    config = str(CONFIGS / "semantic_kitti/small_student.py")
    common = ["--config", config, "--scan", str(scan), "--out", str(out)]
    return argument_parser().parse_args([*common, *more, "--options", f"weight={weight}"])


@pytest.fixture
def weight(make_model, tmp_path):
    path = tmp_path / "weight.pth"
    torch.save({"state_dict": make_model("semantic_kitti/small_student.py").state_dict()}, path)
    return path


def test_a_file_through_the_engine(weight, make_model, sweep, tmp_path, capsys):
    points = sweep[np.linalg.norm(sweep[:, :2], axis=1) < 15]
    points.tofile(tmp_path / "scan.bin")
    predict_main(arguments(weight, tmp_path / "scan.bin", tmp_path / "out.npy", "--engine", "float32"))
    assert "points/s: scan.bin" in capsys.readouterr().out
    batch, inverse = voxelize(points, 0.4)
    expected = plain_logits(make_model("semantic_kitti/small_student.py"), batch, torch.device("cpu")).argmax(1)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected.numpy()[inverse])


def test_errors_name_the_file(weight, tmp_path):
    points = np.zeros((3, 4), np.float32)
    points[1, 0] = 1e6
    points.tofile(tmp_path / "far.bin")
    with pytest.raises(DataError, match=r"far\.bin: the points span"):
        predict_main(arguments(weight, tmp_path / "far.bin", tmp_path / "out.npy", "--engine"))
    with pytest.raises(ConfigError, match="unknown dtype 'int8'"):
        predict_main(arguments(weight, tmp_path / "far.bin", tmp_path / "out.npy", "--engine", "int8"))
