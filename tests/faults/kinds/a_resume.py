"""A: a run that was stopped anywhere, in any way, ends bit by bit as the one that was not."""

from __future__ import annotations

import random
import signal

from tests.faults.case import Broken, fault
from tests.faults.promises import AGAIN, INTERRUPTED, ended, equals_whole, iteration, saved_at
from tests.faults.stage import KILL, Act, Stage, send
from tests.faults.trigger import Moment
from tests.faults.world import EPOCH_STEPS, RECIPES, STEPS, VAL_SCANS

GRACEFUL = {
    "SIGINT": INTERRUPTED,
    "SIGTERM": AGAIN,
    "SIGHUP": AGAIN,
    "SIGUSR1": AGAIN,
    "SIGUSR2": AGAIN,
    "SIGQUIT": AGAIN,
}
"""Signals after which the step is finished and saved, and the documented exit codes."""


def stopped(recipe: str, moment: Moment, act: Act = KILL):
    """Train, stop at ``moment``, and go on with the same command and ``resume=True``."""

    def inject(stage: Stage) -> None:
        stage.use(recipe)
        stage.interrupted(moment, act)
        stage.notes["saved"] = iteration(stage.last)
        stage.resume()

    return inject


def lost_no_step(step: int, code: int):
    """After a graceful stop the checkpoint was that of the step that ran, and the exit code the documented one."""

    def check(stage: Stage) -> None:
        if stage.notes["saved"] < step:
            raise Broken("lost", f"stopped in step {step}, but saved step {stage.notes['saved']}")
        found = stage.endings[0].code
        if found != code:
            raise Broken("unclear", f"exit code {found}, documented is {code}")

    return check


# Killed within each recipe: in the first epoch (nothing saved yet, or an iteration), in a later one, at the end of one.
for _recipe in RECIPES:
    for _step in (2, EPOCH_STEPS + 1, STEPS - 1) if _recipe != "workers" else (EPOCH_STEPS + 2,):
        fault(
            "A",
            f"{_recipe}: kill -9 in step {_step} of {STEPS}",
            stopped(_recipe, Moment("step", _step)),
            equals_whole,
            quick=(_recipe, _step) in (("student", 2), ("distill", EPOCH_STEPS + 1)),
        )

for _recipe in RECIPES:
    fault(
        "A",
        f"{_recipe}: nothing at all",
        lambda stage, _recipe=_recipe: (stage.use(_recipe), stage.train()),
        equals_whole,
    )

# Stopped as schedulers and terminals do it.
for _name, _code in GRACEFUL.items():
    for _recipe in ("student", "distill", "accumulate") if _name == "SIGTERM" else ("student",):
        for _step in (1, EPOCH_STEPS + 2):
            fault(
                "A",
                f"{_recipe}: {_name} in step {_step} of {STEPS}",
                stopped(_recipe, Moment("step", _step), send(getattr(signal, _name))),
                lost_no_step(_step, _code),
                equals_whole,
                quick=(_name, _step) == ("SIGTERM", EPOCH_STEPS + 2),
            )
for _name in ("SIGINT", "SIGTERM"):
    fault(
        "A",
        f"workers: {_name} to the process group in step {EPOCH_STEPS + 2}",
        stopped("workers", Moment("step", EPOCH_STEPS + 2), send(getattr(signal, _name), group=True)),
        lost_no_step(EPOCH_STEPS + 2, GRACEFUL[_name]),
        equals_whole,
    )

# In the moments between: an evaluation, a checkpoint half written, one of two renamed, the last test.
PLACES = {
    "while the first scan of the first evaluation is read": Moment("read", 1, "/08/velodyne/000000"),
    "while the last scan of the second evaluation is read": Moment("read", 2, f"/08/velodyne/00000{VAL_SCANS - 1}"),
    "before the first checkpoint is opened": Moment("write", 1, ".pth"),
    "before the second checkpoint is opened": Moment("write", 2, ".pth"),
    "before the third checkpoint is opened": Moment("write", 3, ".pth"),
    "before the first checkpoint gets its name": Moment("rename", 1, ".pth"),
    "before the second checkpoint gets its name": Moment("rename", 2, ".pth"),
    "before the third checkpoint gets its name": Moment("rename", 3, ".pth"),
    "before the best checkpoint gets its name": Moment("rename", 1, "model_best"),
    "before the best checkpoint gets its name again": Moment("rename", 2, "model_best"),
    "while the precise test reads its first scan": Moment("read", 4, "/08/velodyne/000000"),
    "while the precise test reads its last scan": Moment("read", 4, f"/08/velodyne/00000{VAL_SCANS - 1}"),
    "before the result of the precise test gets its name": Moment("rename", 1, "miou_precise"),
}
for _place, _moment in PLACES.items():
    fault("A", f"student: kill -9 {_place}", stopped("student", _moment), equals_whole)
for _place in ("while the last scan of the second evaluation is read", "before the second checkpoint gets its name"):
    for _name in ("SIGTERM", "SIGINT"):
        fault(
            "A",
            f"student: {_name} {_place}",
            stopped("student", PLACES[_place], send(getattr(signal, _name))),
            equals_whole,
        )


# Anywhere: moments are drawn from all function calls of a run.
def stopped_anywhere(recipe: str, seed: int, number: int):
    """Stop at a drawn function call; seed 0 draws from the first tenth of the run, and so on."""

    def inject(stage: Stage) -> None:
        call = int(stage.world.calls(recipe) * (seed % 10 + random.Random(seed).random()) / 10)
        stopped(recipe, Moment("call", call), send(number))(stage)

    return inject


for _recipe in ("student", "distill", "often"):
    for _seed in range(10):
        fault(
            "A",
            f"{_recipe}: kill -9 anywhere, seed {_seed}",
            stopped_anywhere(_recipe, _seed, signal.SIGKILL),
            equals_whole,
        )
for _seed in range(10, 20, 2):
    fault(
        "A",
        f"student: SIGTERM anywhere, seed {_seed}",
        stopped_anywhere("student", _seed, signal.SIGTERM),
        equals_whole,
    )


def killed_again_and_again(recipe: str, steps: tuple[int, ...]):
    """Always the same command with ``resume=True``, as in a queue; killed after so many steps each time."""

    def inject(stage: Stage) -> None:
        stage.use(recipe)
        for step in steps:
            stage.interrupted(Moment("step", step), KILL, "resume=True")
        stage.resume()

    return inject


fault(
    "A",
    "student: kill -9 three times, always the same command",
    killed_again_and_again("student", (4, 2, 5)),
    equals_whole,
)
fault(
    "A",
    "often: kill -9 five times, always the same command",
    killed_again_and_again("often", (3, 3, 3, 1, 2)),
    equals_whole,
)


def finished_and_resumed(stage: Stage) -> None:
    stage.take(stage.world.whole("student"))
    stage.resume()


def resumed_from_a_kept_epoch(stage: Stage) -> None:
    stage.use("often")
    stage.take(stage.world.whole("often"))
    stage.resume(f"weight={stage.model / 'epoch_2.pth'}")


fault("A", "student: resume of a finished run", finished_and_resumed, equals_whole)
fault("A", "often: resume from the checkpoint of an epoch that was kept", resumed_from_a_kept_epoch, saved_at(STEPS))
fault("A", "student: resume=True at the very first start", lambda stage: stage.resume(), equals_whole, quick=True)
fault(
    "A",
    "student: SIGTERM before the first step",
    stopped("student", Moment("read", 1, "/00/velodyne"), send(signal.SIGTERM)),
    equals_whole,
)


def twice(stage: Stage) -> None:
    """A second signal ends the run at once; what was saved before stays good."""

    def act(running, pid) -> None:
        running.send(signal.SIGTERM)
        running.send(signal.SIGINT)

    stage.interrupted(Moment("step", EPOCH_STEPS + 1), act)
    ended(AGAIN, INTERRUPTED)(stage)
    stage.resume()


fault("A", "student: two signals at once", twice, equals_whole)
