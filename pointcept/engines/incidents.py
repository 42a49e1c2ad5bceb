"""Steps that give no numbers or find no memory: whose scans they were, what is kept of them, which may be left out.

A scan is a function of its draw, so the batches of any step can be made again: nothing is carried along for that while
the run is well.
"""

from __future__ import annotations

import copy
import gc
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pointcept.datasets.base import Draw
from pointcept.engines.data import per_process, sample_name
from pointcept.engines.memory import describe_scans, memory_for
from pointcept.engines.sampler import TrainSampler
from pointcept.engines.step import is_term
from pointcept.utils import comm, device
from pointcept.utils.checkpoint import save_atomically, some
from pointcept.utils.errors import CheckpointError, ConfigError, DataError, MemoryShortage

if TYPE_CHECKING:
    from pointcept.engines.train import DefaultTrainer

logger = logging.getLogger(__name__)

MOST_BYTES = 2**28
"""Of the tensors in a file; batches beyond them are left out."""


class Incidents:
    """Watches the steps of a trainer.

    Args:
        trainer: with its network, its sampler and its plan.

    Attributes:
        skipped: steps that were left out in the whole run, by reason.
    """

    def __init__(self, trainer: DefaultTrainer) -> None:
        cfg = trainer.cfg
        self._trainer = trainer
        self._limits = {"nonfinite": cfg.skip_nonfinite, "out_of_memory": cfg.skip_out_of_memory}
        self.skipped = dict.fromkeys(self._limits, 0)
        self._buffers = list(trainer.network.buffers())
        self._stateful = [
            m for m in trainer.network.modules() if type(m).get_extra_state is not nn.Module.get_extra_state
        ]
        self._variances = [b for name, b in trainer.network.named_buffers() if name.endswith("running_var")]

    @staticmethod
    def check_config(cfg: Any) -> None:
        """Check that steps without memory can be left out, where the config asks for it.

        Raises:
            ConfigError: other processes would wait for this one, or a CUDA graph would be half captured.
        """
        if cfg.skip_out_of_memory and comm.world_size() > 1:
            raise ConfigError("allowed with one process: the others would wait for its gradients", "skip_out_of_memory")
        if cfg.skip_out_of_memory and cfg.cuda_graphs and device.device_count():
            raise ConfigError("allowed with cuda_graphs=False: a graph cannot be half captured", "skip_out_of_memory")

    def statistics(self) -> Tensor | None:
        """The largest running variance, on the device: not finite once a batch was beyond what can be normalised."""
        return torch.nn.utils.get_total_norm(self._variances, math.inf) if self._variances else None

    def attempt(
        self, forward_backward: Callable[[], list[dict[str, Any]]], batches: Sequence[Any]
    ) -> list[dict[str, Any]] | None:
        """Run a step up to its gradients.

        Args:
            forward_backward: gives the outputs of all ``batches``.
            batches: of the step.

        Returns:
            The outputs; None if the step is to be left out, and everything is as it was before.

        Raises:
            MemoryShortage: there is not enough memory, and no such step may be left out (any more).
            FloatingPointError: a loss or a gradient is not finite, and no more such steps may be left out.
        """
        before = None
        if any(self._limits.values()):
            before = self._state()
        try:
            with self.memory(batches):
                outputs = forward_backward()
        except MemoryShortage as error:
            if before is None or not self._limits["out_of_memory"]:
                raise
            kind, reason = "out_of_memory", str(error)
        else:
            kind, reason = "nonfinite", self._agreed(outputs) if self._limits["nonfinite"] else ""
            if not reason:
                return outputs
            del outputs
        assert before is not None
        self._restore(before)
        self._leave_out(kind, reason, batches)
        return None

    def memory(self, batches: Sequence[Any]) -> Any:
        """Name the scans of ``batches`` if memory is short inside, see :func:`memory_for`."""

        def what() -> str:
            scans = [line for batch in batches for line in describe_scans(batch)]
            return f"iteration {self._trainer.iteration + 1}: {some(scans)}; lower batch_size or the size of scans"

        return memory_for(what)

    def _state(self) -> tuple[Any, ...]:
        """What a forward pass changes: statistics, and generators of the process and of modules."""
        extra = [copy.deepcopy(module.get_extra_state()) for module in self._stateful]
        return [buffer.clone() for buffer in self._buffers], extra, device.random_state()

    def _restore(self, state: tuple[Any, ...]) -> None:
        buffers, extra, generators = state
        self._trainer.optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(self._buffers, buffers, strict=True):
            buffer.copy_(value)
        for module, value in zip(self._stateful, extra, strict=True):
            module.set_extra_state(value)
        device.set_random_state(generators)
        gc.collect()  # the error's traceback holds tensors
        device.empty_cache()

    def _agreed(self, outputs: Sequence[Mapping[str, Any]]) -> str:
        """What is not finite in any process, ``""`` if all is."""
        reason = self._nonfinite(outputs)
        if comm.world_size() == 1:
            return reason
        bad = torch.tensor(int(bool(reason)), device=self._trainer.device)
        return reason or ("in another process" if comm.all_reduce_sum(bad).item() else "")

    def _nonfinite(self, outputs: Sequence[Mapping[str, Any]]) -> str:
        """What is not finite in this process."""
        found: list[tuple[str, Tensor]] = []
        for output in outputs:
            terms = {name: term for name, term in output.get("losses", {}).items() if is_term(name)}
            found += [("loss", output["loss"]), *terms.items()]
        largest = self.statistics()
        if largest is not None:
            found.append(("running variance", largest))
        if not self._trainer.scaler.is_enabled():  # which leaves out such gradients itself
            gradients = [p.grad for p in self._trainer.network.parameters() if p.grad is not None]
            found.append(("gradient", torch.nn.utils.get_total_norm(gradients, math.inf)))
        numbers = torch.stack([torch.as_tensor(value).detach().float().reshape(()) for _, value in found]).tolist()
        return ", ".join(f"{name} {x}" for (name, _), x in zip(found, numbers, strict=True) if not math.isfinite(x))

    def _leave_out(self, kind: str, reason: str, batches: Sequence[Any]) -> None:
        """Count a step that is left out, and keep its batches.

        Raises:
            MemoryShortage, FloatingPointError: there were enough of them.
        """
        self.skipped[kind] += 1
        count, limit, iteration = self.skipped[kind], self._limits[kind], self._trainer.iteration + 1
        scans = [line for batch in batches for line in describe_scans(batch, values=True)]
        text = f"{reason} at iteration {iteration}; its scans: {some(scans)}" if kind == "nonfinite" else reason
        kept = self._keep(iteration, reason, batches)
        if count > limit:
            error = FloatingPointError if kind == "nonfinite" else MemoryShortage
            raise error(f"{text}; {kept}. skip_{kind}={limit} steps have been left out already")
        logger.warning("left out a step (%d of at most %d): %s; %s", count, limit, text, kept)

    def explain(self, iteration: int, reason: str, doubtful: bool = False) -> str:
        """Name the scans of a step that is over, with their batches made again and kept.

        Args:
            iteration: of the step.
            reason: what was wrong with it.
            doubtful: the gradient of the step before, in any process, may be the cause as well.
        """
        draws = self._draws(iteration, [comm.rank()])
        batches, failure = self._make_again(draws)
        scans = [line for batch in batches for line in describe_scans(batch, values=True)]
        text = f"its scans: {some(scans or self._names(draws))}; "
        text += failure or self._keep(iteration, reason, batches)
        if doubtful and iteration > 1:
            before = self._names(self._draws(iteration - 1, range(comm.world_size())))
            text += f"; if the gradient of the step before was the cause, its scans: {some(before)}"
        return text

    def _draws(self, iteration: int, ranks: Sequence[int]) -> list[Draw]:
        """What the sampler gave to processes for a step."""
        trainer = self._trainer
        span = trainer.plan.samples_of(iteration)
        draws: list[Draw] = []
        for rank in ranks:
            sampler = TrainSampler(trainer.sampler.samples, trainer.sampler.seed, rank, comm.world_size())
            sampler.set_range(span.start, span.stop)
            draws += sampler
        return draws

    def _names(self, draws: Sequence[Draw]) -> list[str]:
        return [sample_name(self._trainer.train_set, draw.index) for draw in draws]

    def _make_again(self, draws: Sequence[Draw]) -> tuple[list[Any], str]:
        """The batches of these draws, as the loader made them; or none, and why."""
        loader, size = self._trainer.train_loader, per_process(self._trainer.cfg.batch_size, "batch_size")
        state = device.random_state()
        try:
            groups = [draws[start : start + size] for start in range(0, len(draws), size)]
            return [loader.collate_fn([loader.dataset[draw] for draw in group]) for group in groups], ""
        except (ConfigError, DataError, OSError, RuntimeError) as error:
            return [], f"they cannot be read again: {error}"
        finally:
            device.set_random_state(state)

    def _keep(self, iteration: int, reason: str, batches: Sequence[Any]) -> str:
        """Write the batches of a step for inspection; says where."""
        place = f"_process{comm.rank()}" if comm.world_size() > 1 else ""
        path = Path(self._trainer.cfg.save_path) / "incidents" / f"iteration_{iteration}{place}.pth"
        kept: list[Any] = []
        for batch in batches:
            tensors = [value for each in (*kept, batch) for value in each.values() if isinstance(value, Tensor)]
            if sum(value.nbytes for value in tensors) > MOST_BYTES:
                break
            kept.append(batch)
        content = {"iteration": iteration, "reason": reason, "batches": kept, "left_out": len(batches) - len(kept)}
        try:
            save_atomically(content, path)
        except CheckpointError as error:
            return f"its batch is not kept: {error}"
        return f"kept in {path}" + (
            f" without {content['left_out']} of {len(batches)} batches" if len(kept) < len(batches) else ""
        )
