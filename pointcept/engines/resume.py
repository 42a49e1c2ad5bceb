"""Going on with a run: which checkpoint, whether it is whole, and whether the run is still the same."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointcept.engines import run_folder
from pointcept.engines.checkpoint import plan_facts
from pointcept.engines.sampler import draw_seed
from pointcept.engines.structure import check_entries, check_state, is_state
from pointcept.models import deployable, fingerprint
from pointcept.utils import comm
from pointcept.utils.checkpoint import extract_state_dict, load_state, read_checkpoint, some
from pointcept.utils.config_diff import Difference, differences, parse_config
from pointcept.utils.device import seed_everything, set_random_state
from pointcept.utils.env import package_versions
from pointcept.utils.errors import CheckpointError, DamagedFile
from pointcept.utils.files import copy_atomically

if TYPE_CHECKING:
    from pointcept.engines.train import DefaultTrainer

logger = logging.getLogger(__name__)

SCHEDULE = {"optimizer", "scheduler", "param_dicts"}
OWN = {"resume", "resume_changes", "weight", "seed"}  # differ whenever a run goes on, or have a line of their own


def holds_a_run(path: Path) -> bool:
    """Whether a file holds the state of a training, not weights alone.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return is_state(read_checkpoint(path))


def origins(trainer: DefaultTrainer) -> dict[str, str]:
    """Digests of what a run learns from, besides its config: the names of its scans in their order, frozen weights."""
    digests = {}
    for what, dataset in (("training scans", trainer.train_set), ("validation scans", trainer.val_set)):
        if dataset is not None and hasattr(dataset, "data_list") and hasattr(dataset, "get_data_name"):
            names = "\n".join(dataset.get_data_name(i) for i in range(len(dataset.data_list)))
            digests[what] = hashlib.blake2b(names.encode(), digest_size=16).hexdigest()
    frozen = fingerprint(trainer.network)
    return digests if frozen is None else {**digests, "frozen weights": frozen}


def restore(trainer: DefaultTrainer, path: Path) -> None:
    """Put ``trainer`` where the run stood that wrote ``path``; it goes on exactly there.

    If the last checkpoint of a run is damaged it is set aside, and the one before it is taken: the steps between the
    two are done again, and give the same.

    The order of samples does not depend on the number of processes, so that may differ; the random
    state of dropout and the like is then seeded afresh.

    Raises:
        CheckpointError: no file is whole, or it does not fit the model, the data, the length of the run, or, without
            ``resume_changes``, its config.
    """
    path, content = _read(path)
    check_entries(content, path)
    _check_plan(trainer, content, path)
    changed = _changes(trainer, content, path)
    keeps = changed.isdisjoint(SCHEDULE)
    check_state(trainer, content, path, same_schedule=keeps)
    _restore_model(trainer, content, path)
    _restore_optimizer(trainer, content, keeps)
    if content["sampler"]["seed"] != trainer.sampler.seed:
        logger.info("resume: the order of samples keeps the seed %d of the run", content["sampler"]["seed"])
        trainer.sampler.seed = content["sampler"]["seed"]
    trainer.epoch = content["epoch"]
    trainer.iteration = content["iteration"]
    trainer.best_metric = content["best_metric"]
    trainer.best_iteration = content.get("best_iteration", 0)
    trainer.incidents.skipped.update(content.get("skipped", {}))
    _restore_random(trainer, content["random"], path)
    trainer.carried = content.get("hooks", {})
    _go_on_with_files(trainer, content.get("files"), path)
    logger.info("resumed from %s: %d of %d iterations done", path, trainer.iteration, trainer.plan.total_steps)


def _read(path: Path) -> tuple[Path, Any]:
    """The checkpoint to go on from; all processes take the one that the first of them can read."""
    places = run_folder.kept(path.parent)
    places = places[places.index(path) :] if path in places else [path]
    chosen, content = _first_whole(places) if comm.is_main_process() else (path, None)
    chosen = comm.broadcast_object(chosen)
    return chosen, content if comm.is_main_process() else read_checkpoint(chosen, foreign=False)


def _first_whole(paths: list[Path]) -> tuple[Path, Any]:
    """The first file that is not damaged; those before it get other names."""
    errors: dict[Path, DamagedFile] = {}
    for path in paths:
        try:
            content = read_checkpoint(path, foreign=False)
        except DamagedFile as error:
            errors[path] = error
            continue
        except CheckpointError as error:
            raise CheckpointError(f"cannot resume: {error}") from error
        for damaged, reason in errors.items():
            # Otherwise the next checkpoint would put it in the place of the one that is whole.
            logger.warning("%s; it is kept as %s", reason, _set_aside(damaged).name)
        if errors or path.name.startswith(run_folder.PREVIOUS.removesuffix(".pth")):
            logger.warning("resume: going on from %s instead; the steps after it are done again", path.name)
        return path, content
    raise CheckpointError(f"cannot resume: {'; '.join(map(str, errors.values()))}") from errors[paths[0]]


def _set_aside(path: Path) -> Path:
    target = path.with_name(f"damaged_{path.name}")
    try:
        return path.replace(target)
    except OSError as error:
        raise CheckpointError(f"{path} is damaged and cannot become {target.name}: {error.strerror}") from error


def _check_plan(trainer: DefaultTrainer, content: Mapping[str, Any], path: Path) -> None:
    now, then = plan_facts(trainer), content["plan"]
    changes = [f"{key} {then.get(key)} -> {value}" for key, value in now.items() if then.get(key) != value]
    if changes:
        raise CheckpointError(
            f"{path} cannot be resumed, because the run has changed: {', '.join(changes)}; restore these settings, "
            "or start a new run from the weights alone (resume=False)"
        )


def _changes(trainer: DefaultTrainer, content: Mapping[str, Any], path: Path) -> set[str]:
    """Say what differs from the run that wrote the file; the top-level keys that change what is computed.

    Raises:
        CheckpointError: there are such, or other scans or frozen weights, and ``resume_changes`` is off.
    """
    try:
        all_of_them = differences(parse_config(content["config"]), parse_config(trainer.config_text))
    except ValueError as error:
        raise CheckpointError(f"{path}: 'config' is {error}") from error
    told = [each for each in all_of_them if each.place.split(".")[0] not in OWN]
    matter: list[Difference | str] = [each for each in told if not each.free]
    then, now = content.get("origins"), comm.broadcast_object(trainer.origins)
    if then is None:
        logger.info("%s records no scans: whether they are still the same is not checked", path)
    else:
        matter += [f"other {what}" for what in now if then.get(what, now[what]) != now[what]]
    _log_changes([each for each in told if each.free], content["versions"])
    if matter and not trainer.cfg.resume_changes:
        raise CheckpointError(
            f"{path} cannot be resumed, because the run has changed: {some([str(each) for each in matter])}; restore "
            "these settings, or go on with the new ones: --options resume_changes=True"
        )
    for each in matter:
        logger.warning("resume: the run goes on with %s", each)
    return {each.place.split(".")[0] for each in matter if isinstance(each, Difference)}


def _log_changes(free: list[Difference], versions: Mapping[str, Any]) -> None:
    for each in free:
        logger.info("resume: changed: %s", each)
    for name, version in package_versions().items():
        if versions.get(name, version) != version:
            logger.info("resume: changed: %s %s -> %s", name, versions[name], version)


def _restore_model(trainer: DefaultTrainer, content: Mapping[str, Any], path: Path) -> None:
    network = trainer.network
    whole = deployable(network) is network
    load_state(network, extract_state_dict(content, path) if whole else content["model_state"], path)


def _restore_optimizer(trainer: DefaultTrainer, content: Mapping[str, Any], keeps: bool) -> None:
    """Moments, rates and schedule of the file; or its moments alone, where the config has another schedule."""
    optimizer, scheduler, saved = trainer.optimizer, trainer.scheduler, content["optimizer"]
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    if saved["state"] and len(saved["state"]) < count:
        logger.warning("resume: %d of %d weights have no moments yet", count - len(saved["state"]), count)
    if keeps:
        optimizer.load_state_dict(saved)
        scheduler.load_state_dict(content["scheduler"])
    else:
        optimizer.load_state_dict({**saved, "param_groups": optimizer.state_dict()["param_groups"]})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(content["iteration"]):
                scheduler.step()
    if trainer.scaler.is_enabled() and content["scaler"]:
        trainer.scaler.load_state_dict(content["scaler"])


def _restore_random(trainer: DefaultTrainer, states: list[Any], path: Path) -> None:
    if len(states) != comm.world_size():
        seed_everything(draw_seed(trainer.sampler.seed, trainer.iteration, comm.rank()))
        return
    try:
        set_random_state(states[comm.rank()])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: 'random' is no state of the generators: {error!r}") from error


def _go_on_with_files(trainer: DefaultTrainer, extent: Mapping[str, int] | None, path: Path) -> None:
    """Have the log end where the state of ``path`` does, and the best weights that it knows of in the run's folder."""
    own = path.resolve().parent == trainer.folder.resolve()
    if own and comm.is_main_process() and extent is not None:
        run_folder.rewind(Path(trainer.cfg.save_path), extent)
    if path.resolve() == (trainer.folder / run_folder.LAST).resolve():
        trainer.saved = trainer.iteration
    else:
        _find_best(trainer, path)


def _find_best(trainer: DefaultTrainer, path: Path) -> None:
    """Have the best weights in the run's folder as ``path``, which is not its last state, knows them, or say so."""
    best = trainer.folder / run_folder.BEST
    if trainer.best_metric == float("-inf"):
        return
    found = False
    if comm.is_main_process():
        places = [place for place in (best, path, path.with_name(run_folder.BEST)) if place.exists()]
        source = next((p for p in places if read_checkpoint(p).get("iteration") == trainer.best_iteration), None)
        found = source is not None
        if source is not None and source != best:
            copy_atomically(source, best)
    if not comm.broadcast_object(found):
        logger.warning(
            "the weights of the best evaluation so far (iteration %d) are in no file beside %s: the best is looked for "
            "from here on",
            *(trainer.best_iteration, path),
        )
        trainer.best_metric, trainer.best_iteration = float("-inf"), 0
