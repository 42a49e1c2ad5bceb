"""The training loop: ``python tools/train.py --config configs/semantic_kitti/teacher.py``."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pointcept.datasets import build_dataset
from pointcept.engines import checkpoint, run_folder
from pointcept.engines.data import check_fit, eval_loader, per_process, train_loader
from pointcept.engines.evaluate import EvaluationResult
from pointcept.engines.hooks import HookBase, build_hooks
from pointcept.engines.hooks.builder import check_hooks
from pointcept.engines.incidents import Incidents
from pointcept.engines.interrupt import Interrupted, Interrupts
from pointcept.engines.resume import origins
from pointcept.engines.sampler import TrainingPlan, TrainSampler, plan_by_epochs, plan_by_steps
from pointcept.engines.step import LossMonitor, StepResult
from pointcept.models import build_model, deployable, set_progress, use_graphs
from pointcept.utils import comm, device
from pointcept.utils.errors import CheckpointError, ConfigError
from pointcept.utils.events import ScalarWriter
from pointcept.utils.optimizer import build_optimizer
from pointcept.utils.registry import Registry
from pointcept.utils.scheduler import build_scheduler, learning_rates

logger = logging.getLogger(__name__)

TRAINERS = Registry("trainers")


def build_trainer(cfg: Any) -> TrainerBase:
    """Build the trainer that ``cfg.train`` names.

    Raises:
        ConfigError, DataError: see the trainer.
    """
    return TRAINERS.build(cfg.train, cfg=cfg)


class TrainerBase:
    """The loop and its moments; a subclass says what batches and a step are."""

    hooks: Sequence[HookBase] = ()
    epoch = 0
    iteration = 0
    max_epoch = 0
    completed = False
    interrupts: Interrupts

    def train(self) -> None:
        """Run from ``self.epoch`` to ``self.max_epoch``.

        Raises:
            FloatingPointError: a loss was NaN or infinite.
            Interrupted: a signal of ``interrupt.HANDLED``, after a checkpoint was written.
        """
        with Interrupts() as self.interrupts:
            try:
                self.before_train()
                while self.epoch < self.max_epoch:
                    self.run_epoch()
                    self.epoch += 1
                self.completed = True
            except KeyboardInterrupt:
                self.interrupted(whole=not self.interrupts.half_done)
                raise
            except Exception as error:
                if comm.world_size() > 1 and self.interrupts.asked:  # others have stopped and left this one alone
                    raise Interrupted(self.interrupts.asked) from error
                raise
            finally:
                self.release()
                self.call("after_train")

    def run_epoch(self) -> None:
        """Do the steps that are left in ``self.epoch``, and what follows them."""
        interrupts = self.interrupts
        self.call("before_epoch")
        with interrupts.training():
            for batches in self.groups():
                self.call("before_step")
                with interrupts.step(self.iteration + 1):
                    interrupts.half_done = True
                    result = self.run_step(batches)
                    interrupts.half_done = False
                    self.call("after_step", result)
            self.call("after_steps")
        interrupts.meet(self.iteration)
        self.call("after_epoch")

    def before_train(self) -> None:
        """Get ready: load weights, or the state of a run to go on with."""
        self.call("before_train")

    def call(self, moment: str, *arguments: Any) -> None:
        """Call the method ``moment`` of every hook, in the order of their phases."""
        for hook in sorted(self.hooks, key=lambda hook: hook.phase):
            getattr(hook, moment)(*arguments)

    def groups(self) -> Iterator[list[Any]]:
        """Yield the batches of each optimizer step that is left in this epoch."""
        raise NotImplementedError

    def run_step(self, batches: list[Any]) -> StepResult:
        """Do one optimizer step."""
        raise NotImplementedError

    def interrupted(self, whole: bool) -> None:
        """React to an interrupt; ``whole`` says that no step was half done."""

    def release(self) -> None:
        """Free what only the loop needs, before the hooks end."""


@TRAINERS.register_module("DefaultTrainer")
class DefaultTrainer(TrainerBase):
    """Trains the model of a config; everything is built here, nothing is built elsewhere.

    ``epoch`` passes over the data are cut into ``eval_epoch`` evaluation epochs. Numbers in logs
    count optimizer steps; a step reads ``gradient_accumulation_steps`` batches.

    Args:
        cfg: the resolved config.
        max_iter: train for this many optimizer steps instead of ``epoch`` passes over the data;
            the ``eval_epoch`` evaluations are evenly spaced.

    Attributes:
        model: what is called in training, possibly wrapped for several processes.
        network: the model itself.
        epoch: number of the current evaluation epoch, from 0.
        iteration: optimizer steps done in the whole run.
        evaluation: the last evaluation, set by an evaluator.
        best_metric: the best value of its metric so far, -inf before there is one.
        best_iteration: where it was reached.
        keep_last: how many of the last states are kept, set by the saver.
        saved: the iteration whose state ``model_last.pth`` holds, -1 if it holds none of this run.
        ready: everything is loaded.
        carried: what hooks have to know of the run that is gone on with, by type.
        eta: seconds left, set by the timer.

    Raises:
        ConfigError: settings that contradict each other; the message names them.
        DataError: data are missing or empty.
    """

    def __init__(self, cfg: Any, max_iter: int | None = None) -> None:
        self.check_config(cfg)
        self.cfg = cfg
        self.device = device.get_device()
        self.folder = Path(cfg.save_path) / "model"
        self.config_text: str = cfg.pretty_text()
        self.evaluation: EvaluationResult | None = None
        self.best_metric = float("-inf")
        self.best_iteration = 0
        self.keep_last = 1
        self.saved = -1
        self.carried: dict[str, Any] = {}
        self.ready = False
        self.interrupts = Interrupts()
        self.eta: float | None = None
        self._step_end = self._data_seconds = 0.0
        self.writer = ScalarWriter(cfg.save_path)
        self._build_data(max_iter)
        self._build_model()
        self._build_optimization()
        self.hooks = self._build_hooks()

    @classmethod
    def check_config(cls, cfg: Any) -> None:
        """Find out before anything is built whether the numbers of the run go together.

        Raises:
            ConfigError: ``train.max_iter``, ``epoch`` and ``eval_epoch`` contradict each other, or there is no
                optimizer or no schedule.
        """
        if cfg.optimizer is None or cfg.scheduler is None:
            raise ConfigError("training needs the config keys 'optimizer' and 'scheduler'")
        _plan(cfg, cfg.train.get("max_iter"), cfg.batch_size)
        Incidents.check_config(cfg)

    def _build_data(self, max_iter: int | None) -> None:
        cfg = self.cfg
        per_process(cfg.batch_size, "batch_size")
        self.train_set = build_dataset(cfg.data.train, "data.train")
        samples = len(self.train_set)
        self.plan = _plan(cfg, max_iter, samples)
        self.max_epoch = len(self.plan.epochs)
        self.sampler = TrainSampler(samples, cfg.seed or 0, comm.rank(), comm.world_size())
        self.train_loader = train_loader(self.train_set, self.sampler, cfg)
        self.val_set = build_dataset(cfg.data.val, "data.val") if cfg.evaluate else None
        self.val_loader = eval_loader(self.val_set, cfg) if cfg.evaluate else None

    def _build_model(self) -> None:
        cfg = self.cfg
        network = build_model(cfg.model)
        for place, dataset in (("data.train", self.train_set), ("data.val", self.val_set)):
            if dataset is not None:
                check_fit(cfg, deployable(network), dataset, place)
        if cfg.sync_bn and comm.world_size() > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network.to(self.device)
        if cfg.cuda_graphs and self.device.type == "cuda":
            use_graphs(self.network, self.device)
        self.model: nn.Module = self.network
        if comm.world_size() > 1:
            self.model = DistributedDataParallel(
                self.network,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                find_unused_parameters=cfg.find_unused_parameters,
            )
        trainable = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        logger.info("%s: %.2f M trainable parameters", cfg.model.type, trainable / 1e6)

    def _build_optimization(self) -> None:
        cfg = self.cfg
        self.optimizer = build_optimizer(cfg.optimizer, self.network, cfg.param_dicts)
        self.scheduler = build_scheduler(cfg.scheduler, self.optimizer, self.plan.total_steps)
        self.amp_dtype = device.amp_dtype(cfg.amp_dtype)
        self.scaler = device.make_grad_scaler(cfg.enable_amp, self.amp_dtype)
        self.incidents = Incidents(self)
        self.monitor = LossMonitor(self.incidents.explain, self.scaler.is_enabled())
        if self.scaler.is_enabled() or cfg.skip_nonfinite or cfg.skip_out_of_memory:
            # The scaler finds its scale by skipping the first steps; the schedule goes on meanwhile.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")

    def _build_hooks(self) -> list[HookBase]:
        hooks = build_hooks(self.cfg.hooks)
        check_hooks(self.cfg, hooks)
        for hook in hooks:
            hook.trainer = self
        return hooks

    def train(self) -> None:
        """See :meth:`TrainerBase.train`; the TensorBoard file is closed whatever happens."""
        plan = self.plan
        batches = f"{plan.accumulation} x " if plan.accumulation > 1 else ""
        logger.info(
            "training on %d scans: %d iterations of %s%d scans, %d evaluation(s), %d process(es), device %s",
            *(self.sampler.samples, plan.total_steps, batches, plan.batch_size),
            *(self.max_epoch, comm.world_size(), self.device),
        )
        self.model.train()
        try:
            super().train()
        finally:
            self.writer.close()

    def before_train(self) -> None:
        """See :meth:`TrainerBase.before_train`; hooks go on with what they had."""
        super().before_train()
        for name, hook in checkpoint.named_hooks(self.hooks):
            if name in self.carried:
                hook.carry_on(self.carried[name])
        self.ready = True

    def release(self) -> None:
        """End the data loading processes."""
        for loader in (self.train_loader, self.val_loader):
            if loader is not None:
                loader.close()

    @cached_property
    def origins(self) -> dict[str, str]:
        """What the run learns from, see :func:`~pointcept.engines.resume.origins`."""
        return origins(self)

    def position(self) -> int:
        """Samples of the stream that the finished steps have consumed, over all processes."""
        return self.plan.position(self.epoch, self.iteration)

    def groups(self) -> Iterator[list[Any]]:
        """Yield the batches of each optimizer step; the last group of an epoch may be smaller."""
        self.sampler.set_range(self.position(), self.plan.epochs[self.epoch].stop)
        batches = iter(self.train_loader)
        self._step_end = time.perf_counter()
        while True:
            start = time.perf_counter()
            try:
                group = list(islice(batches, self.plan.accumulation))
            except Exception:
                self._keep_steps()
                raise
            self._data_seconds = time.perf_counter() - start
            if not group:
                return
            yield group

    def _keep_steps(self) -> None:
        """Save the steps that are done before an error of the data ends a run of one process."""
        if comm.world_size() > 1 or not self.iteration or self.saved == self.iteration:
            return
        try:
            self.save(run_folder.LAST)
        except (CheckpointError, FloatingPointError) as error:  # the one of the data is the one to show
            logger.error("the steps up to iteration %d could not be saved: %s", self.iteration, error)
        else:
            logger.warning("the next data cannot be read; the steps up to iteration %d are saved", self.iteration)

    def run_step(self, batches: list[Any]) -> StepResult:
        """Forward and backward over ``batches``, clip, and step optimizer and schedule.

        Raises:
            FloatingPointError: a loss of the last steps was NaN or infinite.
            MemoryShortage: there is too little memory.
        """
        self.optimizer.zero_grad(set_to_none=True)
        set_progress(self.network, self.iteration, self.plan.total_steps)
        outputs = self.incidents.attempt(
            lambda: [self._forward_backward(batch, len(batches), i) for i, batch in enumerate(batches)], batches
        )
        rates = learning_rates(self.optimizer)
        norm = None
        if outputs is not None:
            with self.incidents.memory(batches):
                norm = self._update()
        self.scheduler.step()
        self.iteration += 1
        if self.cfg.empty_cache:
            device.empty_cache()
        start, self._step_end = self._step_end, time.perf_counter()
        result = StepResult(
            iteration=self.iteration,
            epoch=self.epoch,
            step=self.iteration - self.plan.first_step(self.epoch),
            steps=self.plan.epochs[self.epoch].steps,
            loss=_mean_terms([{"loss": output["loss"]} for output in outputs or [{"loss": math.nan}]])["loss"],
            losses=_mean_terms([output.get("losses", {}) for output in outputs or ()]),
            lr=rates,
            batch_size=sum(len(batch["offset"]) for batch in batches),
            data_seconds=self._data_seconds,
            step_seconds=self._step_end - start,
            grad_norm=norm,
            statistics=self.incidents.statistics(),
            skipped=outputs is None,
        )
        self.monitor.add(result)
        return result

    def _forward_backward(self, batch: Any, of: int, number: int) -> dict[str, Any]:
        """Add the gradient of one batch, weighted by 1 / ``of``; the last one shares it over processes."""
        share_now = number == of - 1 or not isinstance(self.model, DistributedDataParallel)
        with nullcontext() if share_now else self.model.no_sync():  # type: ignore[operator]
            with device.autocast(self.cfg.enable_amp, self.amp_dtype):
                output: dict[str, Any] = self.model(device.move(batch, self.device))
            loss = output["loss"]
            if not loss.requires_grad:
                # A batch without one labelled point may give a constant; it then moves nothing.
                loss = loss + 0.0 * sum(p.sum() for p in self.network.parameters() if p.requires_grad)
            self.scaler.scale(loss / of).backward()
        return output

    def _update(self) -> torch.Tensor | None:
        norm = None
        if self.cfg.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.cfg.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def check_losses(self) -> None:
        """Read all losses that have not been read.

        Raises:
            FloatingPointError: one of them was NaN or infinite.
        """
        self.monitor.check()

    def save(self, name: str, epoch_done: bool = False) -> None:
        """Write a checkpoint that training can go on from; every process has to call it.

        Args:
            name: file name in ``save_path/model``.
            epoch_done: the current epoch needs no more evaluation.

        Raises:
            FloatingPointError: a loss or a weight is NaN or infinite; nothing is written.
            Interrupted: a signal has come; the file has been written.
        """
        with self.interrupts.hold():
            checkpoint.save(self, self.folder / name, epoch_done)
            if name == run_folder.LAST:
                self.saved = self.iteration

    def interrupted(self, whole: bool) -> None:
        """Write ``model_last.pth``, unless a step is half done or that file holds the state already."""
        if not whole:
            logger.warning("interrupted within a step: no checkpoint, the last one stays as it is")
            return
        if self.iteration == 0 or not self.ready:
            return
        if self.saved != self.iteration:
            checkpoint.save(self, self.folder / run_folder.LAST, collective=self.interrupts.agreed)
        logger.warning("interrupted at iteration %d: go on with --options resume=True", self.iteration)


def _plan(cfg: Any, max_iter: int | None, samples: int) -> TrainingPlan:
    """What each evaluation epoch consumes of ``samples`` scans."""
    accumulation = cfg.gradient_accumulation_steps
    if max_iter is not None:
        return plan_by_steps(samples, cfg.batch_size, max_iter, cfg.eval_epoch, accumulation)
    return plan_by_epochs(samples, cfg.batch_size, cfg.epoch, cfg.eval_epoch, accumulation, comm.world_size())


def _mean_terms(terms: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Average each named term over the batches of a step that have it."""
    names = dict.fromkeys(name for entry in terms for name in entry)
    return {
        name: torch.stack([torch.as_tensor(entry[name]).detach() for entry in terms if name in entry]).mean()
        for name in names
    }
