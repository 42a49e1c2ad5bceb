"""Several processes are one run: they end together, whatever happens to one, and give the numbers of one process."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
import torch.nn.parallel.distributed
from ranks import run_ranks
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from pointcept.engines import evaluate, lifeline, together
from pointcept.engines.defaults import default_setup, train_main
from pointcept.engines.launch import AGAIN
from pointcept.engines.test import SemSegTester
from pointcept.engines.train import build_trainer
from pointcept.models import synchronize_norms
from pointcept.models.losses import build_criteria
from pointcept.models.modules import BatchNorm
from pointcept.utils import comm
from pointcept.utils.checkpoint import read_checkpoint
from pointcept.utils.config import Config
from pointcept.utils.errors import DataError


@pytest.fixture(autouse=True)
def in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo  # noqa: B018  imported once, not in every process
    monkeypatch.setattr(Config, "pretty_text", lambda self: "")


# --- ends ---


def meet_and(do: Callable[[], None], who: int) -> Callable[[Any], None]:
    """The processes work together, then one of them does something while the others wait for it."""

    def main(cfg: Any) -> None:
        comm.at("iteration 7")
        comm.all_reduce_sum(torch.ones(1))
        if comm.rank() == who:
            do()
        comm.barrier()
        comm.barrier()

    return main


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise DataError("scan 7 is cut off")


def shortage() -> None:
    raise MemoryError


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize(
    ("do", "codes", "words"),
    [
        (kill, {-9, 2}, r"error: process {who} \(\d+ on .*\) has ended without a word"),
        (fail, {2}, "error: scan 7 is cut off"),
        (shortage, {2}, "error: out of memory"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), {AGAIN}, "interrupted by SIGTERM"),
        (lambda: os._exit(0), {0, 2}, r"error: process {who} \(\d+ on .*\) has ended without a word"),
    ],
    ids=["killed", "error", "memory", "told", "gone"],
)
def test_all_end_when_one_does(tmp_path: Path, who: int, do: Any, codes: set[int], words: str) -> None:
    ended, said, seconds = run_ranks(meet_and(do, who), {}, tmp_path)
    assert set(ended) == codes
    assert seconds < 15
    text = "".join(said)
    if who == 0:
        words = words.replace(r" \(\d+ on .*\)", "")
    assert re.match(words.replace("{who}", str(who)), text), text
    assert text.count("\n") == 1, text


@pytest.mark.parametrize("who", [0, 1])
def test_one_that_stands_still_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: int) -> None:
    monkeypatch.setattr(lifeline, "WORD", 1.0)
    monkeypatch.setattr(lifeline, "BEAT", 0.2)
    monkeypatch.setattr(lifeline, "GRACE", 0.5)
    stop = meet_and(lambda: os.kill(os.getpid(), signal.SIGSTOP), who)
    ended, said, _ = run_ranks(stop, {}, tmp_path, patience=3.0, stopped=1)
    assert ended[1 - who] == 2
    assert ended[who] is None
    lines = said[1 - who].splitlines()
    assert re.match(
        rf"process {who} .*stands still, without a sign of life for 1 s: waiting for it, at most 3 s", lines[0]
    )
    assert re.match(rf"error: process {who} .*has given no sign of life for 3 s \(dist_timeout\)", lines[1])


def test_one_that_does_not_come_along_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "GRACE", 0.5)

    def hang() -> None:
        comm.at("the data of iteration 8")
        signal.pause()

    ended, said, _ = run_ranks(meet_and(hang, 1), {}, tmp_path, patience=2.0)
    assert ended == [2, 2]
    places = r"process 0.*: waits for the others after: iteration 7; process 1.*: the data of iteration 8"
    assert re.search(r"nothing has gone on for 2 s \(dist_timeout\): " + places, said[0])


def test_a_run_that_is_done_ends_well(tmp_path: Path) -> None:
    assert run_ranks(meet_and(lambda: None, 0), {}, tmp_path)[:2] == ([0, 0], ["", ""])


# --- exact resume ---

HOOKS = [
    {"type": "CheckpointLoader"}, {"type": "InformationWriter"}, {"type": "SemSegEvaluator"},
    {"type": "CheckpointSaver", "save_iter": 3}, {"type": "PreciseEvaluator"},
]  # fmt: skip


def config(folder: Path, **changes: Any) -> Any:
    """Two epochs of four steps; the shares of the evaluation differ."""
    cfg = fakes.make_config(folder, hooks=HOOKS, epoch=2, eval_epoch=2, model={"type": "DrawingModel"}, **changes)
    cfg.data.val.scans = 5
    return cfg


def ends(folder: Path) -> dict[str, Any]:
    """What two runs have in common if they are the same."""
    last, best = (read_checkpoint(folder / "model" / name) for name in ("model_last.pth", "model_best.pth"))
    found = {f"{name}.{key}": value for name, part in (("last", last), ("best", best))
             for key, value in part["state_dict"].items() if key != "_extra_state"}  # fmt: skip
    moments = [value for state in last["optimizer"]["state"].values() for value in state.values()]
    found |= {f"moment {i}": value for i, value in enumerate(moments)}
    precise = (folder / "result" / "miou_precise.json").read_text()
    precise = re.sub(r'"(seconds|weight)": [^\n]*', "", precise)
    return {**found, "metric": (last["iteration"], last["best_metric"]), "precise": precise}


def equal(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what differs."""
    assert one.keys() == other.keys()
    return [
        key for key, value in one.items()
        if not (torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key])
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The end of the run of two processes that is not cut."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POINTCEPT_DEVICE", "cpu")
        patch.setattr(Config, "pretty_text", lambda self: "")
        codes, said, _ = run_ranks(train_main, config(folder), folder)
    assert codes == [0, 0], said
    return ends(folder)


def cut(what: Any, name: str, number: int, who: int, do: Callable[[], None]) -> Callable[[Any], None]:
    """A training in which one process does something at the ``number``-th call of a function."""

    def main(cfg: Any) -> None:
        real, calls = getattr(what, name), []

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == number and comm.rank() == who:
                do()
            return real(*args, **kwargs)

        setattr(what, name, call)
        train_main(cfg)

    return main


def told(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# where, in which call of it, in which process, what, and the exit codes
CUTS: dict[str, tuple[Any, str, int, int, Callable[[], None], set[int]]] = {
    "SIGTERM to the second in a step": (fakes.FakeModel, "forward", 2, 1, told(signal.SIGTERM), {AGAIN}),
    "Ctrl-C in the first in a step": (fakes.FakeModel, "forward", 6, 0, told(signal.SIGINT), {130}),
    "the second is killed in a step": (fakes.FakeModel, "forward", 8, 1, kill, {-9, 2}),
    "the first is killed while it saves": (os, "replace", 4, 0, kill, {-9, 2}),
    "SIGTERM to the second in an evaluation": (evaluate, "judged_points", 2, 1, told(signal.SIGTERM), {AGAIN}),
    "SIGUSR1 to the first in the last test": (SemSegTester, "_log_scan", 2, 0, told(signal.SIGUSR1), {AGAIN}),
    "SIGINT to the second in the last test": (SemSegTester, "_log_scan", 2, 1, told(signal.SIGINT), {130}),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_run_that_is_cut_ends_like_the_whole_one(tmp_path: Path, whole: Any, name: str) -> None:
    *where, codes = CUTS[name]
    ended, said, seconds = run_ranks(cut(*where), config(tmp_path), tmp_path)
    assert set(ended) == codes, said
    assert seconds < 20
    ended, said, _ = run_ranks(train_main, config(tmp_path, resume=True), tmp_path)
    assert ended == [0, 0], said
    assert not equal(whole, ends(tmp_path))


# --- the numbers of one process ---


class Small(nn.Module):
    """Two layers with a norm, and criteria that are means over labelled points."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), BatchNorm(8), nn.Linear(8, 4)
        weighted = {"type": "CrossEntropyLoss", "weight": [1.0, 2.0, 0.5, 3.0], "label_smoothing": 0.1}
        kinds = [{"type": "CrossEntropyLoss"}, weighted, {"type": "SmoothCELoss"}, {"type": "FocalLoss"}]
        self.criteria = build_criteria(kinds, 4)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.criteria(self.last(self.norm(self.first(x)).relu()), target)[0]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    x, target = torch.randn(31, 3), torch.randint(0, 4, (31,))
    target[3:11] = -1  # more of one half than of the other
    return x, target


def gradients(cfg: Any) -> None:
    """Each process has an uneven half of the batch."""
    torch.manual_seed(1)
    network = together.with_shared_norms(Small(), Config({"sync_bn": True}), torch.device("cpu"))
    model = together.wrap(network, Config({"find_unused_parameters": False}), torch.device("cpu"))
    mine = slice(0, 12) if comm.rank() == 0 else slice(12, None)
    x, target = batch()
    with comm.whole_batches():
        loss = model(x[mine], target[mine])
    loss.backward()
    content = {name: p.grad for name, p in network.named_parameters()} | dict(network.named_buffers())
    content["loss"] = comm.all_reduce_sum(loss) / 2
    if comm.is_main_process():
        torch.save(content, cfg["file"])


def test_two_halves_give_the_gradients_of_the_whole(tmp_path: Path) -> None:
    file = tmp_path / "gradients.pt"
    assert run_ranks(gradients, {"file": file}, tmp_path)[0] == [0, 0]
    found = torch.load(file)
    torch.manual_seed(1)
    one = Small()
    loss = one(*batch())
    loss.backward()
    expected = {name: p.grad for name, p in one.named_parameters()} | dict(one.named_buffers()) | {"loss": loss}
    assert found["norm.num_batches_tracked"] == 1
    for name, value in expected.items():
        if "weight" not in name or "criteria" not in name:
            torch.testing.assert_close(found[name], value.detach(), rtol=1e-4, atol=1e-6)


def count_exchanges(cfg: Any) -> None:
    """Train, and write how often gradients are exchanged."""
    exchanges: list[int] = []

    def counted(state: Any, bucket: Any) -> Any:
        exchanges.append(bucket.index())
        return default_hooks.allreduce_hook(state, bucket)

    counted.__annotations__.clear()  # torch wants its own types, and reads strings as others
    default_setup(cfg)
    trainer = build_trainer(cfg)
    trainer.model.register_comm_hook(None, counted)  # type: ignore[attr-defined, operator]
    trainer.train()
    if comm.is_main_process():
        (Path(cfg.save_path) / "exchanges").write_text(f"{exchanges.count(0)} {trainer.iteration}")


def test_gradients_are_exchanged_once_in_an_optimizer_step(tmp_path: Path) -> None:
    cfg = fakes.make_config(tmp_path, hooks=[], gradient_accumulation_steps=4, evaluate=False, epoch=2, eval_epoch=2)
    codes, said, _ = run_ranks(count_exchanges, cfg, tmp_path)
    assert codes == [0, 0], said
    assert (tmp_path / "exchanges").read_text() == "2 2"


def test_a_norm_over_all_processes_is_one_of_its_own_for_one() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, momentum=None))
    copy = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, momentum=None))
    copy.load_state_dict(plain.state_dict())
    shared = synchronize_norms(copy, torch.device("cpu"))
    for rows in (7, 9):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(shared(x), plain(x))
    for (name, one), (_, other) in zip(shared.state_dict().items(), plain.state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    assert shared(torch.randn(1, 3)).isfinite().all()
    assert shared.eval()(torch.randn(1, 3)).isfinite().all()
