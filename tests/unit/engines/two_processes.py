"""Functions that ``launch`` runs in two CPU processes; a module, so that they can be imported there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import fakes
import torch

from pointcept.engines.data import scan_loader
from pointcept.engines.defaults import default_setup
from pointcept.engines.train import DefaultTrainer, build_trainer
from pointcept.utils import comm
from pointcept.utils.errors import DataError


class Fragile:
    """Ends the process with SIGABRT where Python takes itself apart, as tensors do that a thread then frees."""

    def __del__(self) -> None:
        os.abort()


kept: list[Fragile] = []


def train(cfg: Any) -> None:
    """Train, and write down what this process has in the end."""
    kept.append(Fragile())
    torch.set_num_threads(1)
    default_setup(cfg)
    trainer = build_trainer(cfg)
    trainer.train()
    assert isinstance(trainer, DefaultTrainer)
    assert trainer.evaluation is not None
    content = {"state": trainer.network.state_dict(), "scans": trainer.evaluation.metrics.num_scans}
    content["objects"] = comm.gather_objects(comm.rank())
    content["sum"] = comm.all_reduce_sum(torch.tensor([comm.rank() + 1.0]))
    content["told"] = comm.broadcast_object(f"rank {comm.rank()}")
    torch.save(content, Path(cfg.save_path) / f"rank{comm.rank()}.pt")


def train_until_told(cfg: Any) -> None:
    """Train; a signal comes to process 1 alone, in the middle of its first step."""
    if not cfg.resume:
        forward, calls = fakes.FakeModel.forward, []

        def told(self: Any, batch: Any) -> Any:
            calls.append(1)
            if len(calls) == 2 and comm.rank() == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            return forward(self, batch)

        fakes.FakeModel.forward = told  # type: ignore[method-assign]
    train(cfg)


def fail(cfg: Any) -> None:
    """Process 1 finds a bad file while process 0 waits for it."""
    if comm.rank() == 1:
        raise DataError("scan 000042.bin is cut off")
    comm.barrier()


def say_rank(cfg: Any) -> None:
    """Write the number of this process and what torchrun told it."""
    (Path(cfg) / f"rank{comm.rank()}").write_text(f"{comm.world_size()} {os.environ['LOCAL_RANK']}")


def leave_out(cfg: Any) -> None:
    """Leave out a step that is bad in one process, save twice, and go on although the last file is damaged."""
    torch.set_num_threads(1)
    default_setup(cfg)
    trainer = build_trainer(cfg)
    trainer.train()
    assert isinstance(trainer, DefaultTrainer)
    content = {"state": trainer.network.state_dict(), "skipped": trainer.incidents.skipped["nonfinite"]}
    model = Path(cfg.save_path) / "model"
    comm.barrier()
    if comm.is_main_process():
        (model / "epoch_1.pth").rename(model / "model_previous.pth")
        (model / "model_last.pth").write_bytes(b"damaged")
    comm.barrier()
    cfg.resume = True
    again = build_trainer(cfg)
    again.train()
    content["again"] = again.network.state_dict()  # type: ignore[attr-defined]
    torch.save(content, Path(cfg.save_path) / f"rank{comm.rank()}.pt")


class Parents(fakes.FakeDataset):
    """Each sample is the process that started the loading process."""

    def __getitem__(self, draw: Any) -> Any:
        return os.getppid()


def load(cfg: Any) -> None:
    """Write down which processes started the workers of two loaders, and this process."""
    parents: set[int] = set()
    for loader in (scan_loader(Parents(), cfg), scan_loader(Parents(), cfg)):
        parents.update(loader)
        loader.close()
    Path(cfg.save_path, f"rank{comm.rank()}").write_text(f"{os.getpid()} {' '.join(map(str, parents))}")
