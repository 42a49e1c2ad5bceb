"""Several processes, and what the command line tools do with errors."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
import two_processes

from pointcept.engines.interrupt import Interrupted
from pointcept.engines.launch import AGAIN, code_of, exit_code, launch, user_message
from pointcept.utils.checkpoint import read_checkpoint
from pointcept.utils.errors import ConfigError, DataError, MemoryShortage

HERE = Path(__file__).parent
REPO = HERE.parents[2]


COMMON = {"epoch": 2, "eval_epoch": 2, "gradient_accumulation_steps": 3, "sync_bn": False}


def of_two_processes(folder: Path) -> Any:
    """A run of a few steps; an odd number of scans, so that the shares of the evaluation differ."""
    cfg = fakes.make_config(folder, **COMMON)
    cfg.data.val.scans = 5
    return cfg


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("POINTCEPT_DEVICE", "cpu")
        launch(two_processes.train, num_gpus=2, cfg=of_two_processes(folder))
    return folder


def test_two_processes_end_with_the_same_weights(trained: Path) -> None:
    one, two = (torch.load(trained / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    parameters = [key for key in one["state"] if "running" not in key and "num_batches" not in key]
    assert parameters
    assert all(torch.equal(one["state"][key], two["state"][key]) for key in parameters)
    assert one["scans"] == two["scans"] == 5
    assert one["objects"] == [0, 1]
    assert one["sum"].item() == 3
    assert two["told"] == "rank 0"
    saved = read_checkpoint(trained / "model" / "model_last.pth")
    assert saved["iteration"] == 4
    assert len(saved["random"]) == 2
    log = (trained / "train.log").read_text()
    assert log.count("Train [2/2] done") == 1
    assert "2 process(es)" in log


def test_a_signal_to_one_process_stops_all_and_costs_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cfg = of_two_processes(tmp_path)
    with pytest.raises(Interrupted) as request:
        launch(two_processes.train_until_told, num_gpus=2, cfg=cfg)
    assert code_of(request.value.number) == AGAIN
    saved = read_checkpoint(tmp_path / "model" / "model_last.pth")
    assert saved["iteration"] == 1
    assert len(saved["random"]) == 2
    cfg.resume = True
    launch(two_processes.train_until_told, num_gpus=2, cfg=cfg)
    for rank in (0, 1):
        whole, cut = (
            torch.load(folder / f"rank{rank}.pt", weights_only=True)["state"] for folder in (trained, tmp_path)
        )
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_two_processes_leave_out_a_step_and_fall_back_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = [{"type": "CheckpointLoader"}, {"type": "CheckpointSaver", "save_freq": 1}]
    cfg = fakes.make_config(tmp_path, skip_nonfinite=1, hooks=hooks, mix_prob=0, evaluate=False, epoch=2, eval_epoch=2)
    cfg.data.train = {"type": "PoisonedScans", "value": float("inf")}
    launch(two_processes.leave_out, num_gpus=2, cfg=cfg)
    zero, one = (torch.load(tmp_path / f"rank{i}.pt") for i in range(2))
    assert zero["skipped"] == one["skipped"] == 1
    for key in zero["state"]:
        assert zero["state"][key].isfinite().all()
        if "running" not in key:  # each process has its own statistics
            assert torch.equal(zero["state"][key], one["state"][key])
        assert torch.equal(zero["state"][key], zero["again"][key])
    assert len(list((tmp_path / "incidents").iterdir())) == 2
    assert (tmp_path / "model" / "damaged_model_last.pth").exists()


def test_an_error_of_one_process_arrives_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(DataError, match=r"^scan 000042.bin is cut off$"):
        launch(two_processes.fail, num_gpus=2)


def test_workers_of_every_loader_come_from_one_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawned rank would otherwise spawn them one by one, each with imports of its own: a minute for 28."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch(two_processes.load, num_gpus=2, cfg=fakes.make_config(tmp_path, num_worker=4))
    for rank in (0, 1):
        own, *servers = (tmp_path / f"rank{rank}").read_text().split()
        assert len(servers) == 1
        assert servers != [own]


def test_torchrun_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import two_processes as t; "
    code += f"from pointcept.engines.launch import launch; launch(t.say_rank, cfg={str(tmp_path)!r})"
    from pointcept.engines.launch import _free_port

    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=REPO, env={**os.environ, **shared, "RANK": r, "LOCAL_RANK": r}
        )
        for r in "01"
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (tmp_path / "rank0").read_text() == "2 0"
    assert (tmp_path / "rank1").read_text() == "2 1"


def test_numbers_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--machine-rank 2"):
        launch(two_processes.fail, num_machines=2, machine_rank=2)
    with pytest.raises(ConfigError, match="need --dist-url"):
        launch(two_processes.fail, num_machines=2)
    monkeypatch.setenv("POINTCEPT_DEVICE", "")
    wanted = torch.cuda.device_count() + 2
    with pytest.raises(ConfigError, match=f"--num-gpus {wanted}, but this machine has"):
        launch(two_processes.fail, num_gpus=wanted)


def test_exit_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> int:
        def run() -> None:
            raise error

        return exit_code(run)

    assert exit_code(lambda: None) == 0
    assert raising(ConfigError("no such key")) == 2
    assert raising(FloatingPointError("loss is nan")) == 1
    assert raising(MemoryShortage("out of memory for scan1")) == 2
    assert raising(KeyboardInterrupt()) == 130
    assert raising(OSError(28, "No space left on device", "/a")) == 2
    lines = ["no such key", "loss is nan", "out of memory for scan1", "/a: No space left on device: free some space"]
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(
        [*(f"error: {line}" for line in lines), "interrupted"]
    )
    with pytest.raises(ZeroDivisionError):  # a mistake of ours is not hidden
        raising(ZeroDivisionError())
    monkeypatch.setenv("POINTCEPT_TRACEBACK", "1")
    assert raising(DataError("bad")) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_message_of_a_loading_process_is_unwrapped() -> None:
    text = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"
    text += "pointcept.utils.errors.DataError: 08/1.bin: 7 bytes\n"
    assert user_message(DataError(text)) == "08/1.bin: 7 bytes"
    assert user_message(DataError("plain")) == "plain"


CONFIG = """
import json
model = dict(type="FakeModel")
optimizer = dict(type="AdamW", lr=0.01)
scheduler = dict(type="OneCycleLR", max_lr=0.01)
seed, epoch, eval_epoch, batch_size, num_worker = 1, 2, 2, 2, 1
data = dict(
    num_classes=3, ignore_index=-1, names=["left", "middle", "right"],
    train=dict(type="FakeDataset"), val=dict(type="FakeDataset"), test=dict(type="FakeDataset", test_mode=True),
)
"""


def tool(name: str, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run ``tools/<name>`` with the fakes registered."""
    code = f"import sys, runpy; sys.path.insert(0, {str(HERE)!r}); import fakes; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(REPO / "tools" / name), *arguments]
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.run(command, text=True, env=env, timeout=100, **streams)


def test_the_tools_train_and_test(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(CONFIG.replace("import json\n", ""))
    run = tmp_path / "run"
    done = tool("train.py", "--config-file", str(config), "--options", f"save_path={run}", "epoch=4")
    assert done.returncode == 0, done.stderr
    assert "Train [2/2][8/8]" in done.stdout
    assert "precise evaluation of 8 scans" in done.stdout
    assert {p.name for p in run.iterdir()} >= {"config.py", "environment.json", "train.log", "model", "result"}
    done = tool(
        "test.py", "--config", str(run / "config.py"), "--model-file", str(run / "model" / "model_best.pth"),
        "--options", f"save_path={tmp_path / 'other'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "other" / "result" / "miou_precise.json").read_text().count("iou_precise") == 3
    assert not (tmp_path / "other" / "config.py").exists()
    done = tool("train.py", "--config", str(config), "--options", f"save_path={run}", "batch_sise=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "batch_size" in done.stderr
    assert done.stderr.count("\n") == 1


def limited() -> None:
    """No file of more than 12 KB: the log and the events fit, a checkpoint does not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))


def test_full_disks_and_full_output_leave_one_line_and_nothing_half_written(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text(CONFIG.replace("import json\n", "").replace("2, 2, 2, 1", "2, 2, 2, 0"))
    with open("/dev/full", "w") as full:
        done = tool("train.py", "--config", str(config), "--options", f"save_path={tmp_path / 'a'}", stdout=full)
    assert done.returncode == 0
    assert done.stderr == "standard output: No space left on device: free some space; the log is no longer shown\n"
    assert (tmp_path / "a" / "result" / "miou_precise.json").exists()
    assert "Train [2/2] done" in (tmp_path / "a" / "train.log").read_text()
    run = tmp_path / "b"
    done = tool("train.py", "--config", str(config), "--options", f"save_path={run}", preexec_fn=limited)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write {run / 'model' / 'model_last.pth'}: File too large")
    assert done.stderr.count("\n") == 1
    assert not list((run / "model").iterdir())
