"""The command line, the folder of a run, and the numbers that processes share."""

from __future__ import annotations

import json
import random
from pathlib import Path

import fakes
import pytest
import torch
from torch.utils.data import get_worker_info

from pointcept.engines.data import ReportingDataset, eval_loader, per_process, scan_loader
from pointcept.engines.defaults import (
    argument_parser,
    benchmark_config,
    config_from_args,
    default_setup,
    load_config,
    recorded_seed,
)
from pointcept.engines.hooks.progress import clock, describe
from pointcept.ops import backend
from pointcept.utils import comm
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError, DataError

REPO = Path(__file__).parents[3]


def test_options_may_be_given_several_times() -> None:
    parser = argument_parser("x")
    args = parser.parse_args(["--config-file", "a.py", "--options", "epoch=1", "seed=2", "--options", "epoch=3"])
    assert args.config == "a.py"
    assert args.options == ["epoch=1", "seed=2", "epoch=3"]
    with pytest.raises(SystemExit):
        parser.parse_args([])


def test_benchmark_names_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argument_parser("x", test=True)
    with pytest.raises(ConfigError, match="either --config FILE or --benchmark"):
        config_from_args(parser.parse_args([]))
    with pytest.raises(ConfigError, match="either --config FILE or --benchmark"):
        config_from_args(parser.parse_args(["--config", "a.py", "--benchmark", "waymo"]))
    place = tmp_path / "configs" / "waymo" / "student.py"
    place.parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    place.write_text('model = dict(type="FakeModel")\ndata = dict(test=dict(type="FakeDataset", test_mode=True))\n')
    assert benchmark_config("waymo") == place
    cfg = config_from_args(parser.parse_args(["--benchmark", "waymo", "--model-file", "w.pth"]))
    assert cfg.weight == "w.pth"
    place.write_text('model = dict(type="FakeModle")\ndata = dict()\n')
    with pytest.raises(ConfigError, match=r"student\.py: model: unknown type 'FakeModle'.*did you mean 'FakeModel'"):
        config_from_args(parser.parse_args(["--benchmark", "waymo"]))


def test_setup_records_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = fakes.make_config(tmp_path / "run", seed=None)
    default_setup(cfg)
    assert isinstance(cfg.seed, int)
    recorded = Config.fromfile(tmp_path / "run" / "config.py")
    assert recorded.seed == cfg.seed
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["seed"] == cfg.seed
    numbers = random.random(), float(torch.rand(()))
    default_setup(recorded)
    assert (random.random(), float(torch.rand(()))) == numbers
    # Testing into the same folder leaves the record of the training alone.
    before = (tmp_path / "run" / "config.py").read_text()
    default_setup(fakes.make_config(tmp_path / "run", epoch=6), "test")
    assert (tmp_path / "run" / "config.py").read_text() == before
    assert Config.fromfile(tmp_path / "run" / "result" / "config.py").epoch == 6


def test_setup_chooses_the_backends_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="backend: unknown backend 'spcnov': did you mean 'spconv'"):
        load_config(REPO / "configs/semantic_kitti/student.py", {"backend": "spcnov"})
    chosen: list[str | None] = []
    monkeypatch.setattr(backend, "configure", chosen.append)
    default_setup(fakes.make_config(tmp_path / "run", backend="sparse_convolution=spconv"))
    default_setup(fakes.make_config(tmp_path / "run"), "test")
    assert chosen == ["sparse_convolution=spconv", None]


def test_a_resumed_run_keeps_its_seed(tmp_path: Path) -> None:
    first = fakes.make_config(tmp_path / "run", seed=None)
    default_setup(first)
    resumed = fakes.make_config(tmp_path / "run", seed=None, resume=True)
    default_setup(resumed)
    assert resumed.seed == first.seed
    assert Config.fromfile(tmp_path / "run" / "config.py").seed == first.seed  # written when the state has been read
    # Into another folder: the seed of the run that the weights belong to.
    weight = str(tmp_path / "run" / "model" / "model_last.pth")
    (tmp_path / "run" / "model").mkdir(exist_ok=True)
    (tmp_path / "run" / "model" / "model_last.pth").touch()
    elsewhere = fakes.make_config(tmp_path / "other", seed=None, resume=True, weight=weight)
    default_setup(elsewhere)
    assert elsewhere.seed == first.seed
    # A seed that is given stays, and a new run, or one without a record, draws its own.
    assert recorded_seed(fakes.make_config(tmp_path / "none")) is None
    given = fakes.make_config(tmp_path / "run", seed=5, resume=True)
    default_setup(given)
    assert given.seed == 5
    (tmp_path / "run" / "model" / "model_last.pth").unlink()
    fresh = fakes.make_config(tmp_path / "run", seed=None)
    default_setup(fresh)
    assert fresh.seed not in (5, first.seed)


def test_setup_refuses_a_file_and_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file, expected a folder"):
        default_setup(fakes.make_config(tmp_path / "file"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_last.pth").touch()
    with pytest.raises(
        ConfigError, match=r"holds a run already \(model/model_last\.pth\): give another save_path, or go"
    ):
        default_setup(fakes.make_config(tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["model"]
    default_setup(fakes.make_config(tmp_path), "test")  # to test its weights there is what the folder is for


def test_what_a_run_cannot_write_is_found_before_it(tmp_path: Path) -> None:
    for name in ("models/model", "logs/train.log/x", "best/model/model_best.pth/x", "reports/result"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "r.json").mkdir()
    for folder, more, words in (
        ("models", {}, "models/model is a file, expected a folder"),
        ("logs", {}, r"train\.log is a folder, and the run would write a file"),
        ("best", {}, r"model_best\.pth is a folder"),
        ("reports", {}, "reports/result is a file"),
        ("x" * 300, {}, "save_path: cannot write in .*File name too long"),
        ("a", {"miou_result_path": "/proc/x/y.json"}, "miou_result_path: cannot write in /proc/x"),
        ("a", {"miou_result_path": str(tmp_path / "r.json")}, r"r\.json is a folder"),
        ("/sys/run", {}, "save_path: cannot write in /sys/run"),
        ("/dev/full", {}, "is a file, expected a folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            default_setup(fakes.make_config(tmp_path / folder, **more))
    with pytest.raises(ConfigError, match="save_path: got ' ', allowed"):
        default_setup(fakes.make_config(tmp_path, save_path=" "))
    default_setup(fakes.make_config(tmp_path / "a", miou_result_path=str(tmp_path / "new" / "r.json")), "test")
    assert not list((tmp_path / "new").iterdir())


def test_batches_are_shared_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert per_process(6, "batch_size") == 6
    monkeypatch.setattr(comm, "world_size", lambda: 4)
    assert per_process(8, "batch_size") == 2
    assert per_process(None, "batch_size_val") == 1
    with pytest.raises(ConfigError, match="batch_size=6 is not divisible by the number of processes 4"):
        per_process(6, "batch_size")


def test_an_empty_set_is_an_error(tmp_path: Path) -> None:
    cfg = fakes.make_config(tmp_path)
    for loader in (eval_loader, scan_loader):
        with pytest.raises(DataError, match="evaluation set is empty"):
            loader(fakes.FakeDataset(scans=0), cfg)


def test_an_evaluation_mixes_no_scans(tmp_path: Path) -> None:
    dataset = fakes.FakeDataset()
    dataset.mixes = ["PolarMix"]
    with pytest.raises(
        ConfigError, match=r"data\.val\.transform has PolarMix, which mixes scans: for data\.train only"
    ):
        eval_loader(dataset, fakes.make_config(tmp_path))


def test_errors_of_samples_keep_their_kind() -> None:
    class Bad(fakes.FakeDataset):
        def __getitem__(self, draw: object) -> dict[str, object]:
            assert get_worker_info() is None
            raise DataError("000003.bin: 7 bytes are no multiple of 16")

    with pytest.raises(DataError, match=r"^sample 3 \(scan3\), seed 9: 000003\.bin: 7 bytes"):
        ReportingDataset(Bad())[fakes.Draw(3, 9)]


def test_words_of_the_log() -> None:
    assert [clock(s) for s in (0, 59.6, 3600, 36061)] == ["0:00:00", "0:01:00", "1:00:00", "10:01:01"]
    values = {"loss": 1.25, "ce": 1.0, "kld/raw": 0.25, "grad_norm": 3.0}
    assert describe(values) == "loss 1.2500 (ce 1.0000, kld/raw 0.2500) grad norm 3.00"
    assert describe({"loss": 1.0}) == "loss 1.0000"
    values = {"loss": 1.25, "ce": 1.0, "kld": 0.25, "kld/raw": 0.5, "kld/ms": 2.0}
    assert describe(values) == "loss 1.2500 (ce 1.0000, kld 0.2500 [raw 0.5000, ms 2.0000])"
    small = {"loss": 1.25, "topo": 0.00012, "topo/raw": 0.0, "grad/topo/logits": -2.5e-7}
    assert describe(small) == "loss 1.2500 (topo 1.2e-04 [raw 0.0000], grad/topo/logits -2.5e-07)"
