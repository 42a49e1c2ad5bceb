"""``pointcept view`` from its arguments to its files: networks, files of predictions, training samples, mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import fakes  # noqa: F401  registers the fake model
import numpy as np
import pytest
import torch
from PIL import Image

from pointcept.datasets import Draw, SemanticKITTIDataset, build_dataset
from pointcept.engines.sampler import draw_seed
from pointcept.engines.test import build_tester
from pointcept.models import MODELS
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError, DataError
from pointcept.views.command import argument_parser, main
from pointcept.views.samples import Traced, samples
from tests.integration.scans import write_scan

CONFIG = """
weight = {weight!r}
num_worker = 0
mix_prob = {mix_prob}
seed = 3
model = dict(type="FakeModel")
_collect = dict(type="Collect", keys=("coord", "grid_coord", "segment"), feat_keys=("coord",))
_scans = dict(type="SemanticKITTIDataset", data_root={root!r})
data = dict(
    train=dict(
        _scans,
        split="train",
        sequences=[0],
        transform=[
            dict(type="PolarMix", p=1.0, swap_ratio=1.0),
            dict(type="RandomRotate", angle=[-1, 1], axis="z", center=[0, 0, 0], p=1.0),
            dict(type="GridSample", grid_size=0.2, mode="train", return_grid_coord=True),
            dict(type="ToTensor"),
            _collect,
        ],
    ),
    val=dict(_scans, split="val", transform=[dict(type="ToTensor")]),
    test=dict(
        _scans,
        split="val",
        test_mode=True,
        transform=[
            dict(type="Copy", keys_dict=dict(segment="origin_segment")),
            dict(type="GridSample", grid_size=12.0, mode="train", return_inverse=True),
        ],
        test_cfg=dict(
            voxelize=dict(type="GridSample", grid_size=0.5, mode="test", return_grid_coord=True),
            post_transform=[
                dict(type="ToTensor"),
                dict(type="Collect", keys=("coord", "grid_coord", "index"), feat_keys=("coord",)),
            ],
            aug_transform=[[], [dict(type="RandomFlip", p=1)]],
        ),
    ),
)
"""


def text_of(folder: Path, mix_prob: float = 0.0) -> str:
    return CONFIG.format(weight="", root=str(folder), mix_prob=mix_prob)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans of sequence 08 and of 00, a config and weights."""
    folder = tmp_path_factory.mktemp("view")
    rng = np.random.default_rng(0)
    for sequence in ("00", "08"):
        for frame in range(3):
            points = rng.uniform((-20, -20, -2, 0), (20, 20, 2, 1), (200 + frame, 4))
            write_scan(folder, sequence, frame, points)
    (folder / "config.py").write_text(text_of(folder))
    torch.manual_seed(3)
    torch.save({"state_dict": MODELS.build({"type": "FakeModel"}).state_dict()}, folder / "weight.pth")
    return folder


def view(root: Path, *arguments: Any) -> None:
    main(argument_parser().parse_args(["--config", str(root / "config.py"), *map(str, arguments)]))


def document(path: Path) -> dict[str, Any]:
    found = re.search(r'id="document">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_a_network_looks_at_scans_of_a_split(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    view(
        root, "--weight", root / "weight.pth", "--scan-index", "2", "08_000000", "--width", 640, "--out", out, tmp_path
    )
    page = document(out)
    assert page["layers"] == ["truth", "prediction"]
    assert [(frame["name"], frame["points"]) for frame in page["frames"]] == [("08_000002", 202), ("08_000000", 200)]
    assert sum(page["frames"][0]["counts"][1]) == 202, "every point is predicted"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["08_000000.png", "08_000002.png", "a.html"]
    assert Image.open(tmp_path / "08_000000.png").width == 640


def test_predictions_from_files(root: Path, tmp_path: Path) -> None:
    truth = SemanticKITTIDataset("val", root).read(1)["segment"]
    np.save(tmp_path / "08_000001.npy", np.where(truth < 0, 0, truth).astype(np.int16))
    SemanticKITTIDataset.encode_prediction(np.zeros(201, np.int64)).tofile(tmp_path / "all_car.label")
    out = tmp_path / "a.html"
    files = [f"teacher={tmp_path / '08_000001.npy'}", f"student={tmp_path / 'all_car.label'}"]
    view(root, "--scan-index", "1", "--pred", *files, "--out", out)
    scores = document(out)["frames"][0]["scores"]
    assert scores["teacher"]["miou"] == 1
    assert scores["student"]["accuracy"] == pytest.approx((truth == 0).sum() / (truth >= 0).sum(), abs=1e-4)
    np.save(tmp_path / "08_000001.npy", np.zeros(7, np.int16))
    with pytest.raises(DataError, match=r"08_000001 .*shape \(7,\), the scan has 201 points"):
        view(root, "--scan-index", "1", "--pred", tmp_path, "--out", out)
    with pytest.raises(DataError, match="no classes of 08_000002"):
        view(root, "--scan-index", "2", "--pred", tmp_path, "--out", out)


def test_a_scan_file_with_labels_beside_it(root: Path, tmp_path: Path) -> None:
    folder = root / "dataset" / "sequences" / "08"
    out = tmp_path / "a.html"
    view(root, "--scan", folder / "velodyne", "--truth", folder / "labels", "--out", out)
    page = document(out)
    assert (page["layers"], [frame["points"] for frame in page["frames"]]) == (["truth"], [200, 201, 202])
    assert page["frames"][0]["counts"][0][0] == 40, "raw 10 and 252 are cars"


def test_the_worst_scans(root: Path, tmp_path: Path) -> None:
    dataset = SemanticKITTIDataset("val", root)
    for i, wrong in enumerate((5, 90, 40)):
        classes = np.maximum(dataset.read(i)["segment"], 0)
        classes[:wrong] = 18
        np.save(tmp_path / f"08_{i:06d}.npy", classes)
    view(root, "--worst", 2, "--pred", tmp_path, "--out", tmp_path / "a.html")
    assert [frame["name"] for frame in document(tmp_path / "a.html")["frames"]] == ["08_000001", "08_000002"]


@pytest.mark.parametrize("mix_prob", [0.0, 1.0])
def test_samples_are_those_of_training_and_know_their_scans(root: Path, mix_prob: float) -> None:
    path = root / f"samples{mix_prob}.py"
    path.write_text(text_of(root, mix_prob))
    cfg = Config.fromfile(path)
    dataset = SemanticKITTIDataset(
        "train", **{k: v for k, v in cfg.data.train.to_dict().items() if k not in ("type", "split")}
    )
    before, after, steps = list(samples(cfg, "train", 2))[1]
    own = dataset[Draw(2, draw_seed(3, 0, 2))]
    n = len(own["coord"])
    assert (before.name, len(before.coord)) == ("00_000002", 202)
    assert (after.coord[:n] == own["coord"].numpy()).all(), "as the training draws it"
    assert (len(after.coord) > n) == (mix_prob == 1)
    assert steps == ["PolarMix", "RandomRotate", "GridSample", *["Mix3D"] * (mix_prob == 1)]
    assert after.sources[0] == "00_000002"
    assert after.source is not None
    assert set(after.source.tolist()) == set(range(len(after.sources)))
    assert len(after.sources) > 1


def test_the_source_of_a_point_is_where_its_strength_was_read(root: Path) -> None:
    cfg = Config.fromfile(root / "config.py")
    traced = Traced(build_dataset(cfg.data.train.to_dict()))  # type: ignore[arg-type]
    known = [
        set(np.round(SemanticKITTIDataset("train", root, sequences=[0]).read(i)["strength"][:, 0], 6)) for i in range(3)
    ]
    drawn = traced.draw(Draw(0, 5))
    for strength, source in zip(drawn["strength"][:, 0].numpy(), drawn["source_scan"].tolist(), strict=True):
        assert np.round(strength, 6) in known[source]


def test_samples_make_pictures_and_a_page(root: Path, tmp_path: Path) -> None:
    view(root, "--samples", 1, "--width", 640, "--out", tmp_path / "a.png", tmp_path / "a.html")
    names = [frame["name"] for frame in document(tmp_path / "a.html")["frames"]]
    assert names == ["00_000000", "00_000000 as a sample"]
    assert Image.open(tmp_path / "a.png").width == 640


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to make"),
        (["--out", "a.jpg"], r"\.png, \.html, \.gif, \.mp4, \.rrd and folders"),
        (["--out", "a.png", "--width", "10"], "--width: got 10, allowed: 320 to 8192"),
        (["--out", "a.png", "--samples", "0"], "--samples: got 0"),
        (["--out", "a.png", "--all", "--worst", "2"], "--all and --worst choose scans"),
        (["--out", "a.png", "--samples", "1", "--pred", "x.npy"], "without networks"),
        (["--out", "a.png", "--scan-index", "9"], "--scan-index 9: there is no such scan. Allowed: 0 to 2"),
        (["--out", "a.png", "--all"], "3 scans make as many pictures"),
        (["--out", "a.gif"], "one scan is no movie"),
        (["--out", "a.png", "--pred", "a.npy", "b.npy"], "got the predictions prediction, prediction"),
        (["--out", "a.png", "--teacher"], "needs the config of a distillation"),
    ],
)
def test_mistakes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        view(root, *arguments)


def test_a_config_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name --config FILE, or --weight PATH"):
        main(argument_parser().parse_args(["--out", str(tmp_path / "a.png")]))


def test_what_is_seen_is_what_the_tester_measured(root: Path, tmp_path: Path) -> None:
    """The test transforms draw: a voxel's prediction depends on the point that stands for it."""
    cfg = Config.fromfile(root / "config.py", {"weight": str(root / "weight.pth"), "save_path": str(tmp_path)})
    cfg.test = {"type": "SemSegTester", "save_predictions": True}
    build_tester(cfg).test()
    saved = tmp_path / "result" / "predictions"
    out = tmp_path / "a.html"
    view(root, "--all", "--weight", root / "weight.pth", "--pred", f"teacher={saved}", "--out", out)
    frames = document(out)["frames"]
    assert len(frames) == 3
    for frame in frames:
        right, only_network, only_file, both = frame["codes"]
        assert (only_network, only_file) == (0, 0)
        assert right > 0
        assert both > 0
