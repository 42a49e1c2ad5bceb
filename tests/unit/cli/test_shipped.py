"""The weights that ship with the package: small, whole, and of use on a real scan that they have never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pointcept.assets import SHIPPED, shipped_weight
from pointcept.cli.pack import MOST_BYTES
from pointcept.datasets import DATASETS
from pointcept.engines.restore import config_of
from pointcept.models import build_inference_model
from pointcept.utils.checkpoint import load_weights, read_checkpoint

pytestmark = pytest.mark.skipif(not SHIPPED.is_file(), reason="no weights are packed: docs/shipped-student.md")


def test_the_file_is_small_and_whole() -> None:
    assert SHIPPED.stat().st_size <= MOST_BYTES
    content = read_checkpoint(SHIPPED, foreign=False)
    assert content.keys() == {"state_dict", "config"}
    assert {value.dtype for value in content["state_dict"].values()} <= {torch.float16, torch.float32, torch.int64}
    card = SHIPPED.with_suffix(".md").read_text()
    assert str(SHIPPED.stat().st_size) in card, "the card is of this file"


def test_it_labels_a_real_scan(kitti_root: Path, tmp_path: Path) -> None:
    for kind, suffix in (("velodyne", "bin"), ("labels", "label")):
        folder = tmp_path / "dataset" / "sequences" / "08" / kind
        folder.mkdir(parents=True)
        source = next(iter(sorted((kitti_root / "dataset" / "sequences" / "08" / kind).iterdir())))
        (folder / f"000000.{suffix}").symlink_to(source)
    cfg = config_of(shipped_weight(), {"data_root": str(tmp_path), "num_worker": 0})
    model = build_inference_model(cfg.model)
    load_weights(model, shipped_weight())
    sample = DATASETS.build(cfg.data.val)[0]
    with torch.no_grad():
        batch = {key: torch.as_tensor(sample[key]) for key in ("coord", "grid_coord", "feat")}
        output = model.eval()({**batch, "offset": torch.tensor([len(batch["coord"])])})
    classes = output["seg_logits"].argmax(1).numpy()[np.asarray(sample["inverse"])]
    labels = np.asarray(sample["origin_segment"])
    known = labels >= 0
    names = DATASETS.get("SemanticKITTIDataset").names  # type: ignore[attr-defined]
    accuracy = (classes == labels)[known].mean()
    assert accuracy > 0.5, "always the most frequent class would be right in 0.29"
    found = {names[c] for c in np.unique(classes)}
    assert {"road", "vegetation", "building", "pole", "traffic-sign"} <= found
