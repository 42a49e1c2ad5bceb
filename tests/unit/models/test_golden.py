"""The reference implementations' outputs and weight names, on every device."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from pointcept.engines.defaults import load_config
from pointcept.engines.deploy import InferenceEngine
from pointcept.models import build_model
from pointcept.models.fixed_batch import FixedBatch
from tests.paths import CONFIGS


def _ptv3(kind: str, patch_size: int, **options) -> dict:
    name = "teacher" if kind == "teacher" else "student"
    model = load_config(CONFIGS / "semantic_kitti" / f"{name}.py").to_dict()["model"]
    backbone = {**model["backbone"], "shuffle_orders": False, **options}
    backbone["enc_patch_size"], backbone["dec_patch_size"] = (patch_size,) * 5, (patch_size,) * 4
    return {**model, "num_classes": 16, "backbone": backbone}


SPUNET = {"type": "DefaultSegmentor", "backbone": {"type": "SpUNet-v1m1", "in_channels": 4, "num_classes": 16}}
CASES = {
    "ptv3_student_nuscenes": ("ptv3_student", lambda: _ptv3("student", 1024)),
    "ptv3_student_batch2_patch128": ("ptv3_student", lambda: _ptv3("student", 128)),
    "ptv3_teacher_kitti_patch256": ("ptv3_teacher", lambda: _ptv3("teacher", 256)),
    "ptv3_teacher_v151_kitti_patch256": ("ptv3_teacher", lambda: _ptv3("teacher", 256, cpe_input="mlp_branch")),
    "spunet_nuscenes": ("spunet", lambda: SPUNET),
}


@pytest.fixture(scope="module")
def fill(golden_dir):
    """The function that sets the deterministic weights."""
    spec = importlib.util.spec_from_file_location("fill_weights", golden_dir / "fill_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill


@pytest.mark.parametrize("case", CASES)
def test_state_dict_names_and_shapes(case, golden_dir):
    table, config = CASES[case]
    expected = json.loads((golden_dir / f"{table}_state_dict.json").read_text())
    found = {name: list(value.shape) for name, value in build_model(config()).state_dict().items()}
    assert found == expected


def assert_golden(logits, data):
    expected = torch.from_numpy(data["logits"])
    assert (logits.cpu() - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_logits_and_latent_features(case, golden_dir, fill, device):
    data = np.load(golden_dir / f"{case}.npz")
    model = fill(build_model(CASES[case][1]())).to(device).eval()
    batch = {key: torch.from_numpy(data[key]).to(device) for key in ("grid_coord", "feat", "offset")}
    with torch.no_grad():
        output = model.network(batch)
    assert_golden(output.logits, data)
    if "enc_feat" in data:
        latent, expected = output.latent, torch.from_numpy(data["enc_feat"])
        np.testing.assert_array_equal(latent.grid.grid_coord.cpu().numpy(), data["enc_grid"])
        np.testing.assert_array_equal(latent.grid.batch.cpu().numpy(), data["enc_batch"])
        assert (latent.feat.cpu() - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_published_form_as_graphs_and_in_the_engine(golden_dir, fill, device, monkeypatch):
    """On the CPU the same work is done without graphs."""
    if device.type == "cpu":
        monkeypatch.setattr("pointcept.models.segmentor.why_not_graphed", lambda *_: None)
    case = "ptv3_teacher_v151_kitti_patch256"
    data = np.load(golden_dir / f"{case}.npz")
    model = fill(build_model(CASES[case][1]())).to(device).eval()
    batch = {key: torch.from_numpy(data[key]).to(device) for key in ("grid_coord", "feat", "offset")}
    assert_golden(InferenceEngine(model, "float32", where=device).logits(**batch), data)
    assert model.use_graphs(device) is None
    pyramid = model.lay_out(batch)
    assert isinstance(pyramid, FixedBatch)
    with torch.no_grad():
        assert_golden(model.network(batch, pyramid).logits, data)
