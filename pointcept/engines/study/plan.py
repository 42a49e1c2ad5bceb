"""What a study consists of: a file of rows and folds becomes runs, each an ordinary config.

A study file is Python, read as configs are (``_base_``, helper names that begin with an underscore). Its keys
are the fields of :class:`Study`, those of its rows the fields of :class:`Row`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pointcept.engines.ablation import PLACE, fingerprint
from pointcept.engines.defaults import load_config
from pointcept.engines.hooks import HOOKS, PreciseEvaluator, SemSegEvaluator
from pointcept.utils.config import Config
from pointcept.utils.config_loader import load_layer
from pointcept.utils.errors import ConfigError, did_you_mean

# What the study decides itself.
OWN = ("seed", "save_path", "resume", "evaluate", "eval_epoch", "miou_result_path", "model.teacher_weight")
# Keys and hooks that change where, how fast and with what log a run goes, not what it learns.
UNLEARNT = (*PLACE, "data_root", "test", "batch_size_val", "batch_size_test", "log_freq", "cuda_graphs", "empty_cache")
ASIDE = ("IterationTimer", "InformationWriter", "CheckpointSaver")
NAME = re.compile(r"[A-Za-z0-9][\w+-]*")


@dataclass(frozen=True)
class Row:
    """One recipe.

    Attributes:
        config: config file, relative to the study file.
        options: overrides ``{"train.max_iter": 2000}``, after those of the study and before ``--options``.
        seeds: of its runs; those of the study by default.
        teacher: the row whose network of the same fold teaches, for a config of a ``Distiller``.
        teacher_seed: which of them; the first seed of that row by default. Of a list of seeds all networks teach
            together, see ``teacher_weight`` of the ``Distiller``.
        train_scenes: the key that takes the scenes to train on.
        val_scenes: the key below ``data.val`` that takes the scenes to predict.
    """

    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    teacher: str | None = None
    teacher_seed: int | Sequence[int] | None = None
    train_scenes: str = "data.train.sequences"
    val_scenes: str = "data.val.sequences"


@dataclass(frozen=True)
class Study:
    """Rows that are compared on the same scenes.

    Attributes:
        save_path: folder of results, weights and runs.
        folds: scenes that are predicted together; every network learns from the scenes of the other folds.
        rows: name -> :class:`Row`.
        seeds: of every row that has none of its own.
        options: overrides for every row.
        baseline: rows that the others are compared with.
        ranges: where the distance from the sensor [m] is cut; the last part is open.
        path: the file, for messages and for the paths in it.
    """

    save_path: str
    folds: Sequence[Sequence[Any]]
    rows: Mapping[str, Row]
    seeds: Sequence[int] = (0, 1, 2)
    options: Mapping[str, Any] = field(default_factory=dict)
    baseline: Sequence[str] = ()
    ranges: Sequence[float] = (10, 20, 30, 50)
    path: Path = Path()

    def scenes_to_train(self, fold: int) -> list[Any]:
        """The scenes of the other folds."""
        return [scene for number, scenes in enumerate(self.folds) if number != fold for scene in scenes]

    def seeds_of(self, row: str) -> Sequence[int]:
        """The seeds of a row."""
        return self.rows[row].seeds or self.seeds

    def teacher_seeds_of(self, row: str) -> Sequence[int]:
        """The seeds of the teachers of a row that has some."""
        seed = self.rows[row].teacher_seed
        if seed is None:
            return self.seeds_of(self.rows[row].teacher or "")[:1]
        return [seed] if isinstance(seed, int) else seed


@dataclass(frozen=True, eq=False)
class Run:
    """One training, and the scenes that it is judged by.

    Attributes:
        row, fold, seed: which one it is.
        scenes: to predict.
        val_scenes: the key that takes them, one at a time.
        ranges: see :class:`Study`.
        config: of the training.
        fingerprint: of all that decides the result; independent of paths.
        study: folder of the study.
        teachers: whose weights it needs.
    """

    row: str
    fold: int
    seed: int
    scenes: tuple[Any, ...]
    val_scenes: str
    ranges: tuple[float, ...]
    config: Config
    fingerprint: str
    study: Path
    teachers: tuple[Run, ...] = ()

    @property
    def teacher(self) -> Run | None:
        """The first of its teachers."""
        return self.teachers[0] if self.teachers else None

    @property
    def name(self) -> str:
        """``<row>.fold<k>.seed<n>``."""
        return f"{self.row}.fold{self.fold}.seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Logs and checkpoints of the training."""
        return Path(self.config.save_path)

    @property
    def result(self) -> Path:
        """The result, a few kilobytes."""
        return self.study / "results" / f"{self.name}.json"

    @property
    def weights(self) -> Path:
        """The trained network in half precision."""
        return self.study / "weights" / f"{self.name}.pth"


def load_study(path: str | Path, save_path: str | None = None) -> Study:
    """Read and check a study file.

    Args:
        path: the file.
        save_path: in the place of its own.

    Raises:
        ConfigError: anything wrong in it, except in the configs that it names.
    """
    path = Path(path)
    layer = load_layer(path)
    known = {f.name for f in fields(Study)} - {"path"}
    for key in layer.values:
        if key not in known and key not in layer.used:
            raise ConfigError(f"{layer.origin[key]}: unknown key {key!r} of a study: {did_you_mean(key, known)}")
    values = {key: value for key, value in layer.values.items() if key in known}
    missing = [key for key in ("save_path", "folds", "rows") if key not in values]
    if missing:
        raise ConfigError(f"{path}: a study needs {', '.join(missing)}")
    _check_kinds(values, Study, str(path))
    values["rows"] = {name: _row(name, row, path) for name, row in values["rows"].items()}
    study = Study(**{**values, "save_path": save_path or values["save_path"], "path": path})
    _check_folds(study)
    for name in study.rows:
        _check_row(study, name)
    for name in study.baseline:
        if name not in study.rows:
            raise ConfigError(f"{path}: baseline: {name!r}: {did_you_mean(name, study.rows)}")
    return study


KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "Mapping": (dict,), "Sequence": (list, tuple), "int": (int,)}


def _check_kinds(values: Mapping[str, Any], cls: type, where: str) -> None:
    """Check that values have the types that the fields of ``cls`` say."""
    for entry in fields(cls):
        kinds = [part.split("[")[0] for part in str(entry.type).split(" | ")]
        optional = "None" in kinds
        kinds = [kind for kind in kinds if kind in KINDS]
        if entry.name not in values or not kinds:
            continue
        value = values[entry.name]
        if not (any(isinstance(value, KINDS[kind]) for kind in kinds) or (value is None and optional)):
            raise ConfigError(f"{where}: {entry.name}: got {value!r}, expected {' or '.join(kinds).lower()}")
    for seed in values.get("seeds", ()):
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ConfigError(f"{where}: seeds: got {seed!r}, expected ints from 0")
    for key in values.get("options", {}):
        if key in OWN:
            raise ConfigError(f"{where}: options: {key!r} is for the study to set")


def _row(name: str, values: Any, path: Path) -> Row:
    where = f"{path}: rows: {name}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name has letters, digits, '_', '+' and '-'")
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: got {values!r}, expected dict(config=FILE, ...)")
    known = [f.name for f in fields(Row)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}: {did_you_mean(str(key), known)}")
    if "config" not in values:
        raise ConfigError(f"{where}: 'config' is missing")
    _check_kinds(values, Row, where)
    return Row(**values)


def _check_folds(study: Study) -> None:
    where = f"{study.path}: folds"
    if len(study.folds) < 2 or not all(isinstance(fold, (list, tuple)) and fold for fold in study.folds):
        raise ConfigError(f"{where}: got {study.folds!r}, expected at least two lists of scenes")
    scenes = [str(scene) for fold in study.folds for scene in fold]
    twice = sorted({scene for scene in scenes if scenes.count(scene) > 1})
    if twice:
        raise ConfigError(f"{where}: scenes in two places: {', '.join(twice)}")
    cuts = list(study.ranges)
    if not all(isinstance(cut, (int, float)) and cut > 0 for cut in cuts) or sorted(set(cuts)) != cuts:
        raise ConfigError(f"{study.path}: ranges: got {study.ranges!r}, expected growing distances in metres")
    if not study.rows:
        raise ConfigError(f"{study.path}: rows: there are none")
    if any(not study.seeds_of(row) for row in study.rows):
        raise ConfigError(f"{study.path}: seeds: there are none")


def _check_row(study: Study, name: str) -> None:
    where = f"{study.path}: rows: {name}"
    chain = [name]
    while (teacher := study.rows[chain[-1]].teacher) is not None:
        if teacher not in study.rows:
            raise ConfigError(f"{where}: teacher: {did_you_mean(teacher, study.rows)}")
        if teacher in chain:
            raise ConfigError(f"{where}: its teachers go in a circle: {' -> '.join([*chain, teacher])}")
        chain.append(teacher)
    row = study.rows[name]
    if row.teacher is None and row.teacher_seed is not None:
        raise ConfigError(f"{where}: teacher_seed without a teacher")
    if row.teacher is None:
        return
    chosen = list(study.teacher_seeds_of(name))
    if not chosen or len(set(map(str, chosen))) < len(chosen) or not set(chosen) <= set(study.seeds_of(row.teacher)):
        raise ConfigError(
            f"{where}: teacher_seed={row.teacher_seed}, but row {row.teacher!r} has the seeds "
            f"{', '.join(map(str, study.seeds_of(row.teacher)))}"
        )


class Planner:
    """Makes the runs of a study.

    Args:
        study: see :func:`load_study`.
        options: of the command line, for every row.

    Raises:
        ConfigError: an option that is for the study to set.
    """

    def __init__(self, study: Study, options: Mapping[str, Any] | None = None) -> None:
        self.study = study
        self.options = dict(options or {})
        _check_kinds({"options": self.options}, Study, "--options")
        self._configs: dict[tuple[str, int], Config] = {}
        self._runs: dict[tuple[str, int, int], Run] = {}

    def runs(self, rows: Iterable[str] = (), folds: Iterable[int] = (), seeds: Sequence[int] = ()) -> list[Run]:
        """The runs of some rows, folds and seeds, of all by default, seed by seed.

        Raises:
            ConfigError: a row or fold that is not there, or anything wrong in a config.
        """
        rows, folds = list(dict.fromkeys(rows)) or list(self.study.rows), sorted(set(folds))
        count = len(self.study.folds)
        for row in rows:
            if row not in self.study.rows:
                raise ConfigError(f"{self.study.path} has no row {row!r}: {did_you_mean(row, self.study.rows)}")
        for fold in folds:
            if not 0 <= fold < count:
                raise ConfigError(f"{self.study.path} has no fold {fold}, allowed: 0 to {count - 1}")
        wanted = [(row, list(dict.fromkeys(seeds)) or list(self.study.seeds_of(row))) for row in rows]
        turns = max(len(own) for _, own in wanted)
        return [
            self.run(row, fold, own[turn])
            for turn in range(turns)
            for row, own in wanted
            if turn < len(own)
            for fold in folds or range(count)
        ]

    def run(self, row: str, fold: int, seed: int) -> Run:
        """One run, with the run of its teacher."""
        key = (row, fold, seed)
        if key not in self._runs:
            self._runs[key] = self._make(row, fold, seed)
        return self._runs[key]

    def _make(self, row: str, fold: int, seed: int) -> Run:
        study, entry = self.study, self.study.rows[row]
        cfg = Config(self._config(row, fold).to_dict())
        teachers: list[Run] = []
        if entry.teacher is not None:
            teachers = [self.run(entry.teacher, fold, own) for own in study.teacher_seeds_of(row)]
            model = teachers[0].config.model
            cfg.model.teacher = model.student if model.type == "Distiller" else model
            cfg.model.teacher_weight = _one_or_all([str(teacher.weights) for teacher in teachers])
        folder = Path(study.save_path)
        cfg.seed = seed
        cfg.save_path = str(folder / "runs" / row / f"fold{fold}" / f"seed{seed}")
        return Run(
            *(row, fold, seed, tuple(study.folds[fold]), entry.val_scenes, tuple(study.ranges), cfg),
            fingerprint=_fingerprint(cfg, teachers, study.ranges),
            study=folder,
            teachers=tuple(teachers),
        )

    def _config(self, row: str, fold: int) -> Config:
        """The config of a row and fold before a seed and a teacher are known."""
        if (row, fold) in self._configs:
            return self._configs[row, fold]
        study, entry = self.study, self.study.rows[row]
        scenes = {entry.train_scenes: study.scenes_to_train(fold), entry.val_scenes: list(study.folds[fold])}
        options = {**study.options, **entry.options, **self.options, **scenes}
        where = f"{study.path}: rows: {row}"
        try:
            cfg = load_config(study.path.parent / entry.config, options)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        if (cfg.model.get("type") == "Distiller") != (entry.teacher is not None):
            raise ConfigError(
                f"{where}: {entry.config} trains a {cfg.model.get('type')}: a Distiller, and nothing else, needs "
                "teacher=ROW, whose networks have not seen the scenes to predict"
            )
        cfg.evaluate, cfg.eval_epoch, cfg.resume, cfg.miou_result_path = False, 1, False, None
        cfg.hooks = [hook for hook in cfg.hooks if HOOKS.get(hook["type"]) not in (SemSegEvaluator, PreciseEvaluator)]
        self._configs[row, fold] = cfg
        return cfg


def _one_or_all(entries: list[str]) -> str | list[str]:
    return entries[0] if len(entries) == 1 else entries


def _fingerprint(cfg: Config, teachers: Sequence[Run], ranges: Sequence[float]) -> str:
    """Digest of what a run learns from, and of what its result consists of."""
    tree = {key: value for key, value in cfg.to_dict().items() if key not in UNLEARNT}
    tree["hooks"] = [hook for hook in tree["hooks"] if hook["type"] not in ASIDE]
    data = {key: value for key, value in tree["data"].items() if key != "test"}
    for split in ("train", "val"):
        data[split] = {key: value for key, value in data[split].items() if key != "data_root"}
    tree["data"] = data
    if teachers:
        tree["model"] = {**tree["model"], "teacher_weight": _one_or_all([own.fingerprint for own in teachers])}
    return fingerprint(Config({**tree, "ranges": list(ranges)}))
