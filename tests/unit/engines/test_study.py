"""Studies without training: what is planned, in which order it runs, when it stops, and what is made of results."""

from __future__ import annotations

import io
import json
import pickle
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointcept.engines.study import jobs
from pointcept.engines.study.command import study_main, study_parser
from pointcept.engines.study.jobs import Jobs, left_to_do
from pointcept.engines.study.plan import Planner, Run, load_study
from pointcept.engines.study.report import collect, summarise
from pointcept.engines.study.tables import markdown
from pointcept.evaluation.paired import mean_iou, sign_flip_p
from pointcept.utils.errors import ConfigError, DataError
from tests.paths import CONFIGS

KITTI = CONFIGS / "semantic_kitti"
TEXT = f"""
save_path = "out"
folds = [[0, 1], [2], ["08", 10]]
seeds = [0, 1]
baseline = ["seg"]
options = {{"train.max_iter": 5}}
_fast = {{"optimizer.lr": 0.02}}
rows = dict(
    seg=dict(config="{KITTI}/small_student.py"),
    fast=dict(config="{KITTI}/small_student.py", options=_fast),
    kld=dict(config="{KITTI}/small_distill_kld.py", teacher="teacher", teacher_seed=4),
    teacher=dict(config="{KITTI}/small_teacher.py", seeds=[3, 4]),
)
"""


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Planner]:
    """Plan the study above after replacing parts of its text."""

    def make(*changes: tuple[str, str], options: dict[str, Any] | None = None) -> Planner:
        text = TEXT
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "study.py").write_text(text)
        return Planner(load_study(tmp_path / "study.py", str(tmp_path / "out")), options)

    return make


def names(runs: Sequence[Run]) -> list[str]:
    return [run.name for run in runs]


def finish(run: Run, matrix: Any = ((3, 1), (1, 2)), **changes: Any) -> None:
    """Write the result and the weights of a run; the same matrix for each scene, and all of it in the first range."""
    parts = [np.array(matrix).tolist(), *(np.zeros_like(matrix).tolist() for _ in run.ranges)]
    made = {"fingerprint": run.fingerprint, "commit": "c", "torch": "t", "device": "d", "seconds": 2.0}
    judged = {"names": ["a", "b"], "ranges": list(run.ranges), "scans": {str(scene): 10 for scene in run.scenes}}
    result = {
        **made, **judged, "miou_present": 0.5, "matrices": {str(scene): parts for scene in run.scenes}, **changes
    }  # fmt: skip
    for path, text in ((run.result, json.dumps(result)), (run.weights, "")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# --- the plan ---


def test_every_scene_is_predicted_by_runs_that_learn_from_the_others(plan: Callable[..., Planner]) -> None:
    runs = plan().runs()
    assert len(runs) == 4 * 3 * 2
    assert [(run.row, run.seed) for run in runs[::3]] == [
        (row, turn if row != "teacher" else turn + 3) for turn in (0, 1) for row in ("seg", "fast", "kld", "teacher")
    ]
    for run in runs:
        assert list(run.scenes) == [[0, 1], [2], ["08", 10]][run.fold] == run.config.data.val.sequences
        train = [[2, "08", 10], [0, 1, "08", 10], [0, 1, 2]][run.fold]
        assert run.config.data.train.sequences == train
        assert (run.config.seed, run.config.train.max_iter, run.config.evaluate) == (run.seed, 5, False)
        assert [hook.type for hook in run.config.hooks] == [
            "CheckpointLoader", "IterationTimer", "InformationWriter", "CheckpointSaver"
        ]  # fmt: skip
    assert {run.config.optimizer.lr for run in runs if run.row == "fast"} == {0.02}
    assert len({run.fingerprint for run in runs}) == len({run.config.save_path for run in runs}) == len(runs)


def test_a_student_has_the_teacher_of_its_fold(plan: Callable[..., Planner]) -> None:
    planner = plan((", seeds=[3, 4]", ', seeds=[3, 4], options={"model.backbone.drop_path": 0.7}'))
    for run in planner.runs(["kld"]):
        assert run.teacher is planner.run("teacher", run.fold, 4)
        assert run.config.model.teacher_weight == str(run.teacher.weights)
        assert run.config.model.teacher.backbone.drop_path == 0.7
    assert planner.run("seg", 0, 0).teacher is None
    again = f'rows = dict(again=dict(config="{KITTI}/small_distill_kld.py", teacher="kld"), '
    chain = plan(("rows = dict(", again)).run("again", 2, 1)
    assert [run.name for run in left_to_do([chain])] == ["teacher.fold2.seed4", "kld.fold2.seed0", "again.fold2.seed1"]
    assert chain.teacher is not None
    assert chain.config.model.teacher == chain.teacher.config.model.student
    both = plan(("teacher_seed=4", "teacher_seed=[4, 3]")).run("kld", 1, 0)
    assert names(both.teachers) == ["teacher.fold1.seed4", "teacher.fold1.seed3"]
    assert both.config.model.teacher_weight == [str(teacher.weights) for teacher in both.teachers]
    assert names(left_to_do([both])) == [*names(both.teachers), "kld.fold1.seed0"]
    for teacher in both.teachers:
        assert not Jobs._ready(both)
        finish(teacher)
    assert Jobs._ready(both)
    assert both.fingerprint != plan().run("kld", 1, 0).fingerprint
    first = plan((", teacher_seed=4", "")).run("kld", 0, 1)
    assert first.teacher is not None
    assert first.teacher.seed == 3


def test_a_fingerprint_is_of_what_is_learnt(plan: Callable[..., Planner], tmp_path: Path) -> None:
    def prints(*changes: tuple[str, str], **options: Any) -> tuple[str, ...]:
        planner = plan(*changes, options={key.replace("__", "."): value for key, value in options.items()})
        return tuple(planner.run(row, 0, 0).fingerprint for row in ("seg", "kld"))

    seg, kld = prints()
    assert prints(data_root="/elsewhere", num_worker=7, log_freq=3, cuda_graphs=False) == (seg, kld)
    planner = Planner(load_study(tmp_path / "study.py", "/another/folder"))
    assert planner.run("kld", 0, 0).fingerprint == kld
    # A student is another if its teacher is.
    assert prints((", seeds=[3, 4]", ', seeds=[3, 4], options={"optimizer.lr": 0.1}'))[0] == seg
    assert prints((", seeds=[3, 4]", ', seeds=[3, 4], options={"optimizer.lr": 0.1}'))[1] != kld
    for changed in (prints(mix_prob=0.5), prints(("[2]", "[3]")), prints(("seeds = ", "ranges = [5]\nseeds = "))):
        assert changed[0] != seg
        assert changed[1] != kld


def test_parts_of_a_study(plan: Callable[..., Planner]) -> None:
    assert names(plan().runs(["kld", "seg"], [2, 0], [7])) == [
        "kld.fold0.seed7", "kld.fold2.seed7", "seg.fold0.seed7", "seg.fold2.seed7"
    ]  # fmt: skip
    assert len(plan().runs(seeds=[0])) == 12


def test_scenes_of_a_joint_data_set(plan: Callable[..., Planner]) -> None:
    keys = 'train_scenes="data.train.datasets.0.sequences", val_scenes="data.val.datasets.0.sequences"'
    joint = CONFIGS / "joint" / "semantic_kitti_synthetic_teacher.py"
    run = plan((f'config="{KITTI}/small_student.py")', f'config="{joint}", {keys})')).run("seg", 1, 0)
    assert run.config.data.train.datasets[0].sequences == [0, 1, "08", 10]
    assert run.config.data.train.datasets[1].sequences == "available"
    assert run.config.data.val.datasets[0].sequences == [2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = ", "seed = 3\nseeds = ", r"unknown key 'seed' of a study: did you mean 'seeds'"),
        ('save_path = "out"', "", "a study needs save_path"),
        ("[[0, 1], [2]", "[[0, 2], [2]", "scenes in two places: 2"),
        ("[[0, 1], [2], [\"08\", 10]]", "[[0, 1]]", "at least two lists of scenes"),
        ("[2], ", "[], ", "at least two lists of scenes"),
        ("seeds = [0, 1]", "seeds = []", "seeds: there are none"),
        ("seeds = [0, 1]", "seeds = [-1]", "seeds: got -1"),
        ("seeds = [0, 1]", "seeds = 2", "seeds: got 2, expected sequence"),
        ('baseline = ["seg"]', 'baseline = ["sag"]', "baseline: 'sag': did you mean 'seg'"),
        ("seeds = [0", "ranges = [20, 10]\nseeds = [0", "growing distances in metres"),
        ("options = {", 'options = {"seed": 3, ', "'seed' is for the study to set"),
        ("fast=dict", "fast=3, slow=dict", r"rows: fast: got 3, expected dict"),
        ("fast=dict", '**{"a/b": {}}, fast=dict', "a/b: a name has letters"),
        ("options=_fast", "option=_fast", "unknown key 'option': did you mean 'options'"),
        (', options=_fast', ", options=[_fast]", "rows: fast: options: got .*expected mapping"),
        (f'config="{KITTI}/small_student.py", ', "", "rows: fast: 'config' is missing"),
        ('teacher="teacher"', 'teacher="techer"', "rows: kld: teacher: did you mean 'teacher'"),
        ("teacher_seed=4", "teacher_seed=5", "has the seeds 3, 4"),
        ("teacher_seed=4", "teacher_seed=[3, 5]", "has the seeds 3, 4"),
        ("teacher_seed=4", "teacher_seed=[3, 3]", "has the seeds 3, 4"),
        ("teacher_seed=4", "teacher_seed=[]", "has the seeds 3, 4"),
        ("teacher_seed=4", "teacher_seed='3'", "teacher_seed: got '3', expected int or sequence"),
        ("seeds=[3, 4]", 'teacher="kld", seeds=[3, 4]', "go in a circle: kld -> teacher -> kld"),
        (", options=_fast", ", options=_fast, teacher_seed=1", "teacher_seed without a teacher"),
    ],
)  # fmt: skip
def test_a_wrong_study_is_explained(plan: Callable[..., Planner], old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plan((old, new))
    assert "study.py" in str(caught.value)


def test_wrong_rows_and_options_are_explained(plan: Callable[..., Planner]) -> None:
    for arguments, message in ((((["sag"],)), "did you mean 'seg'"), ((["seg"], [3]), "no fold 3, allowed: 0 to 2")):
        with pytest.raises(ConfigError, match=message):
            plan().runs(*arguments)
    with pytest.raises(ConfigError, match="--options: options: 'seed' is for the study"):
        plan(options={"seed": 3})
    with pytest.raises(ConfigError, match=r"rows: kld: .*needs teacher=ROW"):
        plan((', teacher="teacher", teacher_seed=4', "")).runs(["kld"])
    with pytest.raises(ConfigError, match=r"rows: fast: .*DefaultSegmentorV2.*nothing else"):
        plan(("options=_fast", 'options=_fast, teacher="teacher"')).runs(["fast"])
    with pytest.raises(ConfigError, match=r"study\.py: rows: fast: .*got 'lrr' as index"):
        plan(("optimizer.lr", "scheduler.max_lr.lrr.x")).runs()


# --- the jobs ---


class Fake:
    """A process that ends after some polls; it can be told to stop."""

    def __init__(self, polls: int, code: int, last: Callable[[], None]) -> None:
        self.polls, self.code, self.last = polls, code, last
        self.told: list[str] = []

    def poll(self) -> int | None:
        self.polls -= 1
        if self.polls > 0:
            return None
        if self.polls == 0:
            self.last()
        return self.code

    def terminate(self) -> None:
        self.told.append("terminate")
        self.polls, self.code, self.last = 2, 130, lambda: None

    def kill(self) -> None:
        self.told.append("kill")
        self.polls, self.code = 0, -signal.SIGKILL


@pytest.fixture
def starter() -> Any:
    """Starts fakes and remembers them: ``made`` by name, ``beside`` what else was running."""

    class Starter:
        def __init__(self) -> None:
            self.made: dict[str, Fake] = {}
            self.beside: list[set[str]] = []
            self.fail: dict[str, int] = {}
            self.polls = 2

        def __call__(self, run: Run, slot: int) -> Fake:
            self.beside.append({name for name, fake in self.made.items() if fake.polls > 0})
            code = self.fail.get(run.name, 0)
            output = jobs.output_of(run)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text("\n".join(f"line {i}" for i in range(40)) + "\nerror: no luck\n")
            self.made[run.name] = Fake(self.polls, code, lambda: None if code else finish(run))
            return self.made[run.name]

    return Starter()


def test_teachers_come_first_and_their_students_wait(plan: Callable[..., Planner], starter: Any) -> None:
    planner = plan()
    left = left_to_do(planner.runs(["seg", "kld"], seeds=[0]))
    assert names(left) == [
        f"{row}.fold{k}.seed{s}" for row, s in (("teacher", 4), ("seg", 0), ("kld", 0)) for k in range(3)
    ]
    outcome = Jobs(2, start=starter).run(left, poll=0)
    assert (sorted(outcome.done), outcome.failed, outcome.left) == (sorted(names(left)), {}, [])
    order = list(starter.made)
    assert all(order.index(f"teacher.fold{k}.seed4") < order.index(f"kld.fold{k}.seed0") for k in range(3))
    for name, beside in zip(order, starter.beside, strict=True):
        assert len(beside) < 2
        assert not name.startswith("kld") or name.replace("kld", "teacher").replace("seed0", "seed4") not in beside
    assert left_to_do(planner.runs(["seg", "kld"], seeds=[0])) == []
    assert names(left_to_do(planner.runs(["seg"], [1]))) == ["seg.fold1.seed1"]


def test_what_has_begun_goes_on_first(plan: Callable[..., Planner]) -> None:
    runs = plan().runs(["seg"], seeds=[0])
    checkpoint = runs[2].folder / "model" / "model_last.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert names(left_to_do(runs)) == ["seg.fold2.seed0", "seg.fold0.seed0", "seg.fold1.seed0"]


def test_a_failure_stops_nothing_but_its_students(
    plan: Callable[..., Planner], starter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    starter.fail = {"teacher.fold1.seed4": 2, "seg.fold0.seed0": 1}
    outcome = Jobs(3, start=starter).run(left_to_do(plan().runs(["seg", "kld"], seeds=[0])), poll=0)
    assert sorted(outcome.failed) == ["seg.fold0.seed0", "teacher.fold1.seed4"]
    assert outcome.left == ["kld.fold1.seed0"]
    assert len(outcome.done) == 6
    assert "error: no luck" in outcome.failed["seg.fold0.seed0"]
    assert "line 20" not in outcome.failed["seg.fold0.seed0"]
    assert "FAILED seg.fold0.seed0" in caplog.text


def test_a_process_without_a_result_has_failed(plan: Callable[..., Planner]) -> None:
    runs = plan().runs(["seg"], [0], [0])
    outcome = Jobs(start=lambda run, slot: Fake(1, 0, lambda: None)).run(runs, poll=0)
    assert list(outcome.failed) == ["seg.fold0.seed0"]


def test_when_the_time_is_over_trainings_are_told_to_save(plan: Callable[..., Planner], starter: Any) -> None:
    starter.polls = 10**9
    runs = plan().runs(["seg"], seeds=[0])
    outcome = Jobs(2, time_limit=0.3, grace=0.1, start=starter).run(runs, poll=0.01)
    assert [fake.told for fake in starter.made.values()] == [["terminate"]] * 2
    assert sorted(outcome.left) == names(runs)
    assert (outcome.done, outcome.failed) == ([], {})
    late = Jobs(2, time_limit=0.15, grace=0.1, start=starter).run(runs, poll=0.01)
    assert late.left == names(runs)  # no time for anything to begin


def test_what_does_not_stop_in_time_is_ended(plan: Callable[..., Planner], starter: Any) -> None:
    starter.polls = 10**9
    runs = plan().runs(["seg"], seeds=[0])[:1]
    stubborn = starter(runs[0], 0)
    stubborn.terminate = lambda: stubborn.told.append("terminate")
    outcome = Jobs(1, time_limit=0.3, grace=0.1, start=lambda run, slot: stubborn).run(runs, poll=0.01)
    assert stubborn.told == ["terminate", "kill"]
    assert outcome.left == names(runs)


def test_an_interrupt_reaches_the_trainings(plan: Callable[..., Planner], starter: Any) -> None:
    runs = plan().runs(["seg"], seeds=[0])[:1]
    starter.polls = 10**9

    def start(run: Run, slot: int) -> Fake:
        fake = starter(run, slot)
        poll, fake.poll = fake.poll, lambda: signal.raise_signal(signal.SIGTERM) if not fake.told else poll()
        return fake

    with pytest.raises(KeyboardInterrupt):
        Jobs(1, start=start).run(runs, poll=0)
    assert starter.made["seg.fold0.seed0"].told == ["terminate"]


def test_results_of_another_recipe_and_missing_weights(plan: Callable[..., Planner]) -> None:
    planner = plan()
    run = planner.run("kld", 0, 0)
    assert run.teacher is not None
    finish(run.teacher)
    run.teacher.weights.unlink()
    with pytest.raises(ConfigError, match=r"needs .*teacher\.fold0\.seed4\.pth: bring it back"):
        left_to_do([run])
    finish(run)
    assert left_to_do([run]) == []  # the student is there, so nobody needs the weights
    with pytest.raises(ConfigError, match=r"kld\.fold0\.seed0\.json is the result of another recipe"):
        left_to_do([plan(options={"mix_prob": 0.25}).run("kld", 0, 0)])


@pytest.mark.parametrize("visible", [None, "4,7"])
def test_jobs_share_gpus_and_cores(
    plan: Callable[..., Planner], monkeypatch: pytest.MonkeyPatch, visible: str | None
) -> None:
    seen: list[tuple[dict[str, str], Any]] = []

    class Popen:
        def __init__(self, command: list[str], env: dict[str, str], **rest: Any) -> None:
            self.stdin = io.BytesIO()
            self.stdin.close = lambda: seen.append((env, pickle.loads(self.stdin.getvalue())))  # type: ignore[method-assign]

    monkeypatch.setattr(jobs, "Process", Popen)
    monkeypatch.setattr(jobs, "device_count", lambda: 2)
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda pid: range(12))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    run = plan(options={"num_worker": 16}).run("seg", 0, 0)
    for slot in range(3):
        jobs.start_process(run, slot, 3)
    assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in seen] == (["0", "1", "0"] if visible is None else ["4", "7", "4"])
    assert {env["OMP_NUM_THREADS"] for env, _ in seen} == {"4"}
    assert {sent.config.num_worker for _, sent in seen} == {4}
    assert seen[0][1].fingerprint == run.fingerprint
    assert run.config.num_worker == 16


# --- the report ---

GOOD, BAD, POOR = ((8, 2), (1, 9)), ((5, 5), (5, 5)), ((7, 3), (4, 6))


def test_rows_are_pooled_and_compared(plan: Callable[..., Planner]) -> None:
    planner = plan()
    runs = planner.runs(["seg", "fast"])
    for run in runs:
        finish(run, GOOD if run.row == "fast" else (POOR if run.fold else BAD))
    summary = summarise(collect(runs), ["seg"])
    seg, fast = summary["rows"]["seg"], summary["rows"]["fast"]
    # folds of two, one and two scenes
    pooled = 2 * np.array(BAD) + 3 * np.array(POOR)
    assert seg["miou"] == {"n": 2, "mean": pytest.approx(float(mean_iou(pooled))), "std": 0}
    assert seg["accuracy"]["mean"] == pytest.approx(pooled.trace() / pooled.sum())
    assert seg["confusion"] == (2 * pooled).tolist()  # over both seeds
    assert [fold["mean"] for fold in seg["folds"]] == pytest.approx(
        [1 / 3, 7 / 14 / 2 + 6 / 13 / 2, 7 / 14 / 2 + 6 / 13 / 2]
    )
    assert fast["iou"]["a"]["mean"] == pytest.approx(8 / 11)
    assert (fast["classes"], fast["by_range"][0]["points"], fast["by_range"][1]["points"]) == (2, 100, 0)
    difference = summary["differences"]["seg"]["fast"]
    assert difference["pooled"]["mean"] == pytest.approx(fast["miou"]["mean"] - seg["miou"]["mean"])
    assert difference["by_fold"]["n"] == difference["by_fold"]["positive"] == 6
    assert difference["by_fold"]["p"] == sign_flip_p([1.0] * 6) == 2 / 64
    assert difference["p_pooled"] == 2 / 64
    assert list(summary["differences"]["seg"]) == ["fast"]
    text = markdown(summary)
    assert "| `fast` | 6 | 0 1 | 75.36 ± 0.00" not in text  # 8/11 and 9/12
    assert "| `fast` | 6 | 0 1 | 73.86 ± 0.00 | 2 | 85.00 ± 0.00 |" in text
    assert "| 0-10 m | 2 | 100 |" in text
    assert "50 scans; commit c; torch t; device d." in text
    assert "have no result" not in text


def test_unfinished_rows_count_as_far_as_they_are(plan: Callable[..., Planner]) -> None:
    runs = plan().runs(["seg", "fast", "kld"])
    for run in runs:
        if run.row == "seg" or (run.row == "fast" and (run.fold, run.seed) != (2, 1)):
            finish(run, GOOD if run.row == "seg" else POOR)
    measured = collect(runs)
    summary = summarise(measured, ["seg", "kld"])
    assert list(summary["rows"]) == ["seg", "fast"]
    assert list(summary["differences"]) == ["seg"]
    assert summary["rows"]["fast"]["seeds"] == [0]
    assert summary["differences"]["seg"]["fast"]["by_fold"]["n"] == 5
    assert summary["differences"]["seg"]["fast"]["seeds"] == [0]
    assert len(summary["missing"]) == 7
    assert "7 runs have no result: kld.fold0.seed0" in markdown(summary)
    alone = summarise(collect([run for run in runs if run.name == "seg.fold0.seed1"]), ["seg"])
    assert alone["rows"]["seg"]["miou"]["std"] is None
    assert alone["rows"]["seg"]["by_range"][4]["miou"]["mean"] is None
    assert "| 50 m and more | 0 | 0 | - |" in markdown(alone)
    part = [run for run in runs if run.row == "fast" and run.seed == 1]
    assert summarise(collect(part), ["fast"])["rows"]["fast"]["seeds"] == []
    assert "| `fast` | 2 | - | - | - | - |" in markdown(summarise(collect(part), ["fast"]))


def test_scenes_may_be_left_out(plan: Callable[..., Planner]) -> None:
    runs = plan().runs(["seg"])
    for run in runs:
        finish(run)
    assert collect(runs, ["10"]).stack("seg", [0]).sum() == 4 * 7
    measured = collect(runs, ["2"])
    assert measured.folds == [0, 2]
    assert sum(measured.scans.values()) == 40
    assert summarise(measured, [])["rows"]["seg"]["seeds"] == [0, 1]
    with pytest.raises(DataError, match="--leave-out 3: no run predicts it"):
        collect(runs, ["3"])


def test_results_have_to_belong_together(plan: Callable[..., Planner]) -> None:
    runs = plan().runs(["seg", "fast"], seeds=[0])
    with pytest.raises(DataError, match="no run has a result yet"):
        collect(runs)
    for run in runs:
        finish(run, ((3, 1), (1, 3 if run.name == "fast.fold1.seed0" else 2)))
    with pytest.raises(DataError, match=r"fold 1: row seg seed 0 and row fast seed 0 .*\[4, 3\] and \[4, 4\]"):
        collect(runs)


# --- the command ---


def test_the_command_runs_reports_and_says_what_is_left(
    plan: Callable[..., Planner],
    starter: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan()
    starter.polls = 1
    monkeypatch.setattr(jobs, "start_process", lambda run, slot, count: starter(run, slot))
    folder = tmp_path / "here"

    def main(*words: str) -> int:
        words = ("--config", str(tmp_path / "study.py"), *words, "--options", f"save_path={folder}")
        return study_main(study_parser().parse_args(words))

    with pytest.raises(DataError, match="no run has a result"):
        main("--collect")
    assert not starter.made
    starter.fail = {"seg.fold1.seed0": 1}
    assert main("--rows", "seg", "--seeds", "0", "--jobs", "2") == 1
    starter.fail = {}
    assert main("--rows", "seg", "fast", "--seeds", "0", "--jobs", "4") == 0
    assert main("--rows", "kld", "--time-limit", "1") == 75  # too short for anything to begin
    assert list(starter.made) == [f"{row}.fold{k}.seed0" for row in ("seg", "fast") for k in range(3)]
    capsys.readouterr()
    assert main("--collect", "--rows", "seg", "fast", "--seeds", "0", "--baseline", "fast") == 0
    text = capsys.readouterr().out
    assert text == (folder / "study.md").read_text()
    assert "Difference to `fast`" in text
    assert list(json.loads((folder / "study.json").read_text())["differences"]) == ["fast"]
    with pytest.raises(ConfigError, match="--baseline fats: did you mean 'fast'"):
        main("--collect", "--baseline", "fats")
    for words in (("--jobs", "0"), ("--time-limit", "0"), ("--grace", "-1")):
        with pytest.raises(ConfigError, match="expected more"):
            main(*words)
