"""Signals: what is finished first, what is not waited for, and which processes they do not reach."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver, resource_sharer
from pathlib import Path
from typing import Any

import pytest
from cuts import in_a_fork

from pointcept.engines import interrupt
from pointcept.engines.data import report_from_thread, worker_context
from pointcept.engines.interrupt import HANDLED, Interrupted, Interrupts
from pointcept.engines.launch import AGAIN, INTERRUPTED, exit_code
from pointcept.utils import comm


@pytest.mark.parametrize("number", HANDLED)
def test_the_exit_code_says_who_asked(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    code = exit_code(lambda: signal.raise_signal(number))
    assert code == (INTERRUPTED if number == signal.SIGINT else AGAIN)
    expected = "interrupted" if number == signal.SIGINT else f"interrupted by {signal.Signals(number).name}"
    assert capsys.readouterr().err == expected + "\n"
    assert signal.getsignal(number) == before
    assert "signals" not in {thread.name for thread in threading.enumerate()}


def test_what_is_held_together_is_finished() -> None:
    done = []
    with pytest.raises(Interrupted), Interrupts() as interrupts:  # noqa: PT012
        with interrupts.step(1):
            done.append(1)
        with interrupts.step(2):
            signal.raise_signal(signal.SIGTERM)
            with interrupts.hold():
                done.append(2)
            done.append(3)
        done.append(4)
    assert done == [1, 2, 3]
    with pytest.raises(ZeroDivisionError), Interrupts() as interrupts, interrupts.hold():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError  # an error goes before the request


def test_a_lost_exception_is_raised_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: lost.append(error.exc_type))

    class Swallows:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted), Interrupts():
        Swallows()
    assert lost == [Interrupted]


def test_the_innermost_receives_and_those_around_know() -> None:
    with pytest.raises(Interrupted), Interrupts() as outer, Interrupts():
        signal.raise_signal(signal.SIGHUP)
    assert outer.asked == signal.SIGHUP
    with Interrupts() as outer:
        assert exit_code(lambda: signal.raise_signal(signal.SIGHUP)) == AGAIN
        assert not outer.asked  # what it was asked has been dealt with


def test_what_a_process_was_started_to_ignore_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Interrupts():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_process_has_signals_of_its_own() -> None:
    with Interrupts() as interrupts:
        assert in_a_fork(lambda: os.kill(os.getpid(), signal.SIGTERM)) == -signal.SIGTERM
        time.sleep(0.05)
        assert not interrupts.asked
        assert interrupts._first is None


@pytest.mark.parametrize(("pause", "code"), [(0.0, 7), (0.4, 128 + signal.SIGTERM)])
def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch, pause: float, code: int) -> None:
    """Also where the main thread waits inside of a library; but launchers and ``timeout`` repeat themselves at once."""
    monkeypatch.setattr(interrupt, "REPEATED", 0.2)

    def hangs() -> None:
        with Interrupts() as interrupts, interrupts.hold():
            signal.raise_signal(signal.SIGTERM)
            time.sleep(pause)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            os._exit(7)

    assert in_a_fork(hangs) == code


def test_stopping_and_going_on_harms_nothing() -> None:
    with Interrupts() as interrupts:
        code = in_a_fork(lambda: os.kill(os.getpid(), signal.SIGCONT))
        pid = os.getpid()
        waker = subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -CONT {pid}"])
        os.kill(pid, signal.SIGTSTP)
        waker.wait()
        assert code == 0
        assert not interrupts.asked


def test_several_processes_stop_after_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask each other every two seconds, by the clock of process 0; only one of them was asked here."""
    clock, answers = [0.0], []
    monkeypatch.setattr(comm, "world_size", lambda: 2)
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: clock[0])

    def together(mine: Any) -> Any:
        answers.append(mine.tolist())
        return mine + mine.new_tensor([0, int(clock[0] > 5), 0])

    monkeypatch.setattr(comm, "all_reduce_sum", together)
    interrupts = Interrupts()
    done = 0
    with pytest.raises(Interrupted) as request, interrupts.training():  # noqa: PT012
        for iteration in range(1, 1000):
            with interrupts.step(iteration):
                clock[0] += 0.1
                done = iteration
    assert request.value.number == signal.SIGTERM
    assert interrupts.agreed
    assert 50 < done <= 75
    assert len(answers) < 8
    assert answers[-1] == [0, 0, 20]


def test_a_signal_waits_for_the_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_reduce_sum", lambda mine: mine)
    with Interrupts() as interrupts:
        with interrupts.training():
            with interrupts.step(1):
                pass
            interrupts.meet(1)  # an epoch of one step
            interrupts._next = 100
            signal.raise_signal(signal.SIGINT)  # while it waits for data
            with interrupts.step(2):
                pass
        with pytest.raises(Interrupted):
            interrupts.meet(2)
        assert interrupts.agreed
        with pytest.raises(Interrupted):  # nothing is agreed on in an evaluation
            interrupts.check()
        interrupts.asked = 0


def blocked(pid: int, kind: str) -> set[int]:
    text = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line.split()[1] for line in text.splitlines() if line.startswith(kind)), 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_the_fork_server_is_not_disturbed() -> None:
    """Nor while it starts; a SIGTERM to the whole group would end it, and with it all that it starts later."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    worker_context()
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    assert set(HANDLED) <= blocked(pid, "SigBlk:")
    assert not set(HANDLED) & blocked(os.getpid(), "SigBlk:")


SCRIPT = """
import sys
sys.path[:0] = [{here!r}]
import fakes
from pointcept.engines.defaults import train_main
from pointcept.engines.launch import exit_code

class Slow(fakes.FakeDataset):
    def __getitem__(self, draw):
        import time
        time.sleep(0.02)
        return super().__getitem__(draw)

fakes.DATASETS._entries["FakeDataset"] = Slow
if __name__ == "__main__":
    cfg = fakes.make_config({folder!r}, num_worker=2, resume=True, log_freq=1, epoch=30, eval_epoch=30)
    sys.exit(exit_code(lambda: train_main(cfg)))
"""


def test_a_group_that_is_told_to_end_saves_and_goes_on(tmp_path: Path) -> None:
    """As ``timeout``, docker and schedulers do it: the loading processes get the signal, too."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent), folder=str(tmp_path / "run")))
    command = ["timeout", "--signal=TERM", "--kill-after=60", "600", sys.executable, str(script)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert process.stdout is not None
    read = next(line for line in process.stdout if "[2/30][2/4]" in line)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert read
    assert process.returncode == AGAIN, err
    assert err == "interrupted by SIGTERM\n"
    assert "go on with --options resume=True" in out
    assert (tmp_path / "run" / "model" / "model_last.pth").exists()
    assert not (tmp_path / "run" / "lock").exists()


def test_a_main_process_that_hangs_up_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # This process stands for a loading process, whose thread the main process asks for shared memory.
    monkeypatch.setattr(sys, "excepthook", report_from_thread)
    read, write = os.pipe()
    shared = resource_sharer.DupFd(read)
    address, _ = shared._id  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as interrupted:
        interrupted.connect(address)
    # It is served after the one that has hung up.
    os.close(shared.detach())
    assert capfd.readouterr().err == ""
    with monkeypatch.context() as patch:
        shared = resource_sharer.DupFd(read)
        patch.setattr(sys, "excepthook", sys.__excepthook__)
        with socket.socket(socket.AF_UNIX) as interrupted:
            interrupted.connect(address)
        os.close(shared.detach())
    assert "Error" in capfd.readouterr().err  # what it would be without the hook
    os.close(read)
    os.close(write)
