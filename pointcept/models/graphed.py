"""Forward and backward of a segmentation network as CUDA graphs.

Training is bound by the host, which launches thousands of short kernels in every step; a graph is one launch. Graphs
need fixed shapes: :mod:`pointcept.models.fixed_batch` lays batches out with rows of padding, which no real row reads
and which get no gradient. The result is an ordinary ``Output`` with an autograd graph of one node, so that losses,
gradient scaling, clipping, accumulation and data-parallel wrappers work as they do without graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pointcept.models.fixed_batch import FixedBatch, Layout, Layouts
from pointcept.models.output import GRADIENT_SCALE, Latent, Output
from pointcept.ops.backend import implementation
from pointcept.utils import device

if TYPE_CHECKING:
    from pointcept.models.segmentor import Segmentor

logger = logging.getLogger(__name__)

_ONCE = (
    "the backward pass of a graphed network runs once, before its next forward pass; train without graphs "
    "(cuda_graphs=False) to repeat it"
)


@dataclass(frozen=True)
class _Mode:
    """What one capture is for.

    Attributes:
        training: the mode of each module.
        trained: which weights get gradients; empty if none does.
        dtype: of autocast, or None.
        watch: see ``Segmentor.network``.
        rows: capacities of the levels.
        guided: stages whose gradients of the segmentation loss are computed in the forward pass.
        loss_only: logits and features stay inside, which saves their gradients.
    """

    training: tuple[bool, ...]
    trained: tuple[bool, ...]
    dtype: torch.dtype | None
    watch: int | None
    rows: tuple[int, ...]
    guided: tuple[int, ...] = ()
    loss_only: bool = False

    @property
    def gradients(self) -> bool:
        """Whether there is a backward pass."""
        return bool(self.trained)


class _Network(nn.Module):
    """The network as one call on a layout; its weights can be replaced by copies of half precision."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.segmentor = segmentor
        self.survey()

    def survey(self) -> None:
        """Note the modules, which would take long to find in every step."""
        self._parts = list(self.segmentor.modules())
        self._weights: list[dict[str, Any]] = [part._parameters for part in self._parts if part._parameters]
        buffers: list[dict[str, Any]] = [part._buffers for part in self._parts if part._buffers]
        self._tensors = [*self._weights, *buffers]

    def modes(self) -> tuple[bool, ...]:
        """Whether each module is in training."""
        return tuple([part.training for part in self._parts])

    def trained(self) -> tuple[bool, ...]:
        """Which weights ask for a gradient; empty if none does."""
        asks = tuple([p.requires_grad for own in self._weights for p in own.values() if p is not None])
        return asks if any(asks) else ()

    def places(self) -> tuple[object, ...]:
        """What every capture takes for granted: the criteria, and where weights and statistics lie."""
        return self.segmentor.criteria, *[t.data_ptr() for own in self._tensors for t in own.values() if t is not None]

    def forward(self, layout: Layout, choice: Tensor | None, mode: _Mode) -> tuple[Tensor, ...]:
        """Logits in the order of the input, features of all stages, loss, gradients of the guided ones, terms."""
        segmentor, pyramid = self.segmentor, layout.pyramid
        view, feat = pyramid.view(choice, mode.rows), layout.feat
        if mode.dtype is None:
            feat = feat.to(next(segmentor.backbone.parameters()).dtype)
        encoded = segmentor.backbone.encode(feat, view, mode.watch)
        logits = segmentor.head(segmentor.backbone.decode(encoded, view))
        loss, terms = [], []
        if segmentor.criteria is not None and layout.segment is not None:
            total, by_name = segmentor.criteria(logits, layout.segment)
            loss, terms = [total], [torch.stack(list(by_name.values()))]
        if mode.loss_only:
            return *loss, *terms
        found: Sequence[Tensor] = ()
        if mode.guided:
            features = [encoded.features[stage] for stage in mode.guided]
            found = torch.autograd.grad(loss[0] * GRADIENT_SCALE, features, retain_graph=mode.gradients)
        wide = [gradient.float() / GRADIENT_SCALE for gradient in found]
        return logits.index_select(0, pyramid.position), *encoded.features, *loss, *wide, *terms


class _Room:
    """Memory that all captures of a network use in turn: weights in half precision, and their gradients in float32."""

    def __init__(self) -> None:
        self._halves: dict[torch.dtype, dict[str, Tensor]] = {}
        self._gradients: dict[str, Tensor] = {}

    def halves(self, network: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
        """For the weights that matrix products read, in the type of autocast: one launch casts all of them."""
        if dtype is None:
            return {}
        if dtype not in self._halves:
            found = self._halves[dtype] = {}
            for prefix, module in network.named_modules():
                if isinstance(module, nn.Linear) or hasattr(module, "kernel_size"):
                    for name, weight in module.named_parameters(recurse=False):
                        if weight.dtype == torch.float32 and weight.dim() > 1:  # sums for biases stay in float32
                            found[f"{prefix}.{name}"] = torch.empty_like(weight, dtype=dtype)
        return self._halves[dtype]

    def gradient(self, name: str, weight: Tensor) -> Tensor:
        """For the gradient of a weight."""
        if name not in self._gradients:
            self._gradients[name] = torch.empty_like(weight)
        return self._gradients[name]


class _Capture:
    """One captured forward pass and, where weights get gradients, the backward pass.

    Attributes:
        outputs: of :class:`_Network`, overwritten at every replay.
    """

    def __init__(
        self, network: _Network, layout: Layout, choice: Tensor | None, mode: _Mode, pool: Any, room: _Room
    ) -> None:
        self._where = layout.feat.device
        named = dict(network.named_parameters())
        trained = [name for name, p in named.items() if mode.gradients and p.requires_grad]
        self.parameters = [named[name] for name in trained]
        self._room = room  # whose memory the graphs use
        halves = room.halves(network, mode.dtype)
        into = [room.gradient(name, named[name]) if name in halves else None for name in trained]

        def forward() -> tuple[tuple[Tensor, ...], list[Tensor]]:
            if halves:
                torch._foreach_copy_(list(halves.values()), [named[name].detach() for name in halves])
            # Leaves of this capture alone: the weights' own would bring along the streams of earlier backward passes.
            leaves = {name: halves.get(name, p).detach() for name, p in named.items()}
            for name in trained:
                leaves[name].requires_grad_()
            outputs = torch.func.functional_call(network, leaves, (layout, choice, mode))
            return outputs, [leaves[name] for name in trained]

        def backward(outputs: Sequence[Tensor], leaves: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
            roots = [out for out in outputs if out.requires_grad]
            found = torch.autograd.grad(roots, leaves, grads, allow_unused=True)
            return _as_weights(found, self.parameters, into)

        def trial() -> None:
            outputs, leaves = forward()
            if mode.gradients:
                backward(outputs, leaves, [torch.zeros_like(out) for out in outputs if out.requires_grad])

        with _precision(self._where, mode.dtype):
            _without_traces(trial, network, self._where)
            (outputs, leaves), self.replay = device.record(forward, self._where, pool)
            self._differentiable = [out.requires_grad for out in outputs]
            if mode.gradients:
                self._grads = [torch.zeros_like(out) if out.requires_grad else None for out in outputs]
                given = [grad for grad in self._grads if grad is not None]
                self._weight_grads, self._replay_backward = device.record(
                    lambda: backward(outputs, leaves, given), self._where, pool
                )
        # the tensors alone: their autograd graph has been captured and would hold what the graphs may overwrite
        self.outputs = tuple(out.detach() for out in outputs)
        self._filled = [0] * len(outputs)

    def backward(self, grads: Sequence[Tensor | None]) -> list[Tensor]:
        """Gradients of the outputs' first rows -> new tensors with those of the weights."""
        for i, (grad, place) in enumerate(zip(grads, self._grads, strict=True)):
            if place is None:
                continue
            rows = 0 if grad is None else (len(grad) if grad.dim() else 1)
            if grad is not None:
                (place[:rows] if place.dim() else place).copy_(grad)
            if self._filled[i] > rows:
                (place[rows:] if place.dim() else place).zero_()
            self._filled[i] = rows
        self._replay_backward()
        return list(torch._foreach_mul(self._weight_grads, 1.0))  # few launches, and autograd keeps them as they are

    def differentiable(self, index: int) -> bool:
        """Whether an output has a gradient."""
        return self._differentiable[index]


def _as_weights(
    grads: Sequence[Tensor | None], weights: Sequence[Tensor], into: Sequence[Tensor | None]
) -> list[Tensor]:
    """Gradients in the types of their weights, zeros where there are none; all conversions in few launches.

    What has to be converted goes to ``into`` where there is room for it.
    """
    result, convert = [], []
    for grad, weight, room in zip(grads, weights, into, strict=True):
        if grad is None or grad.dtype == weight.dtype:
            result.append(torch.zeros_like(weight) if grad is None else grad)
        else:
            result.append(torch.empty_like(weight) if room is None else room)
            convert.append((result[-1], grad))
    if convert:
        torch._foreach_copy_([out for out, _ in convert], [grad for _, grad in convert])
    return result


def _precision(where: torch.device, dtype: torch.dtype | None) -> Any:
    """Autocast as in the mode; without its cache, whose entries would not be computed again at a replay."""
    return torch.autocast(where.type, dtype=dtype or torch.float16, enabled=dtype is not None, cache_enabled=False)


def _without_traces(function: Callable[[], None], network: nn.Module, where: torch.device) -> None:
    """Warm up, and put back running statistics and random state."""
    buffers = list(network.buffers())
    kept = [buffer.clone() for buffer in buffers]
    state = device.generator_state(where)
    device.warm_up(function, where)
    for buffer, value in zip(buffers, kept, strict=True):
        buffer.copy_(value)
    device.set_generator_state(state, where)


class _Replay(torch.autograd.Function):
    """The forward graph, whose gradient is the backward graph."""

    @staticmethod
    def forward(ctx: Any, run: _Run, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.run = run
        ctx.set_materialize_grads(False)
        outputs = run.outputs()
        ctx.mark_non_differentiable(*(out for i, out in enumerate(outputs) if not run.capture.differentiable(i)))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        run, ctx.run = ctx.run, None  # the loss may outlive the layout, whose memory is to be free then
        if run is None:
            raise RuntimeError(_ONCE)
        return None, *run.backward(grads)


@dataclass(eq=False)
class _Run:
    """One use of a capture, which has to be over before the next."""

    owner: GraphedNetwork
    capture: _Capture
    batch: FixedBatch
    number: int
    rows: list[int]

    def outputs(self) -> tuple[Tensor, ...]:
        """The real rows; logits and scalars as copies, which outlive the next replay."""
        logits, *others = self.capture.outputs
        cut = [out[:n] if out.dim() > 1 else out.clone() for out, n in zip(others, self.rows[1:], strict=True)]
        return logits[: self.rows[0]].clone() if logits.dim() else logits.clone(), *cut

    def backward(self, grads: Sequence[Tensor | None]) -> list[Tensor]:
        """See :meth:`_Capture.backward`."""
        self.owner.layouts.check(self.batch)
        if self.number != self.owner.runs:
            raise RuntimeError(_ONCE)
        return self.capture.backward(grads)


class GraphedNetwork:
    """Runs a segmentor on the batches of :class:`Layouts`, captured once for each layout.

    Args:
        segmentor: the network; captures follow weights that change in place, and are made anew where weights or
            criteria are replaced. Its modules stay.
        layouts: whose batches it is given.

    Attributes:
        runs: replays so far.
    """

    def __init__(self, segmentor: Segmentor, layouts: Layouts) -> None:
        self.layouts = layouts
        self.runs = 0
        self._network = _Network(segmentor)
        self._places = self._network.places()
        self._captures: WeakKeyDictionary[Layout, dict[_Mode, _Capture]] = WeakKeyDictionary()
        self._choice: Tensor | None = None
        self._room = _Room()
        self._pool = device.graph_pool(layouts.device)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a network, or one read from a file, has None: no graphs until it is told to."""
        return type(None), ()

    def __call__(self, batch: FixedBatch, watch: int | None = None, guided: Sequence[int] = ()) -> Output:
        """Run the network; the features lie in buffers that its next run overwrites.

        Args:
            batch: the one that was laid out last.
            watch: see ``Segmentor.network``.
            guided: stages whose gradients of the segmentation loss shall be in ``Output.gradients``.
        """
        segmentor = self._network.segmentor
        depth = len(segmentor.backbone.stage_channels)
        labelled = segmentor.criteria is not None and batch.layout.segment is not None
        stages = tuple(sorted({stage % depth for stage in guided})) if labelled else ()
        mode = replace(self._mode(batch), watch=watch, guided=stages)
        grids = segmentor.backbone.stage_grids(batch)
        sizes = [len(grid) for grid in grids]
        rows = [batch.voxels, *sizes, *[1] * labelled, *(sizes[stage] for stage in stages), *[1] * labelled]
        logits, *rest = self._run(batch, mode, rows)
        features, rest = rest[: len(grids)], rest[len(grids) :]
        output = Output(logits, [Latent(feat, grid) for feat, grid in zip(features, grids, strict=True)])
        if labelled:
            assert segmentor.criteria is not None
            output.seg_loss, *found, terms = rest
            output.seg_terms = self._named(terms)
            output.gradients = dict(zip(stages, found, strict=True))
        return output

    def loss(self, batch: FixedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The segmentation criteria of a batch with labels: their sum, and every term by name."""
        total, terms = self._run(batch, replace(self._mode(batch), loss_only=True), [1, 1])
        return total, self._named(terms)

    def _named(self, terms: Tensor) -> dict[str, Tensor]:
        criteria = self._network.segmentor.criteria
        assert criteria is not None
        return dict(zip(criteria.losses, terms.detach().unbind(), strict=True))

    def _mode(self, batch: FixedBatch) -> _Mode:
        """What the network is to do; captures that it has outgrown are dropped."""
        if self._network.places() != self._places:
            self._captures.clear()
            self._room = _Room()
            self._network.survey()
            self._places = self._network.places()
        segmentor, where = self._network.segmentor, self.layouts.device
        dtype = torch.get_autocast_dtype(where.type) if torch.is_autocast_enabled(where.type) else None
        trained = self._network.trained() if segmentor.training and torch.is_grad_enabled() else ()
        return _Mode(self._network.modes(), trained, dtype, None, batch.rows)

    def _run(self, batch: FixedBatch, mode: _Mode, rows: list[int]) -> Sequence[Tensor]:
        """The outputs of :class:`_Network`, of each its first ``rows``."""
        self.layouts.check(batch)
        choice = self._draw(self._network.segmentor)
        self.runs += 1
        if self.layouts.device.type == "cuda":
            return self._replayed(batch, choice, mode, rows)
        with _precision(self.layouts.device, mode.dtype):
            outputs = self._network(batch.layout, choice, mode)
        return [out[:n] if out.dim() > 1 else out for out, n in zip(outputs, rows, strict=True)]

    def _draw(self, segmentor: Segmentor) -> Tensor | None:
        """The tables of the orders that each level uses, new for every batch where orders are shuffled."""
        drawn = segmentor.backbone.draw_tables(self.layouts.orders)
        if drawn is None:
            return None
        if self._choice is None:
            self._choice = torch.empty(*drawn.shape, dtype=torch.int64, device=self.layouts.device)
        return self._choice.copy_(drawn, non_blocking=True)

    def _replayed(self, batch: FixedBatch, choice: Tensor | None, mode: _Mode, rows: list[int]) -> Sequence[Tensor]:
        captures = self._captures.setdefault(batch.layout, {})
        if mode not in captures:
            if not any(self._captures.values()):
                self._pool = device.graph_pool(self.layouts.device)  # the memory of all before is free
            captures[mode] = _Capture(self._network, batch.layout, choice, mode, self._pool, self._room)
        capture = captures[mode]
        capture.replay()
        run = _Run(self, capture, batch, self.runs, rows)
        if not mode.gradients:
            return run.outputs()
        return _Replay.apply(run, *capture.parameters)


def why_not_graphed(segmentor: Segmentor, where: torch.device) -> str | None:
    """The reason why a segmentor cannot be trained with graphs, or None."""
    if any(isinstance(module, nn.SyncBatchNorm) for module in segmentor.modules()):
        return "sync_bn waits for other processes in the middle of the network"
    if segmentor.criteria is not None and segmentor.criteria.ignore_index is None:
        return "the criteria have no ignore_index in common, which rows of padding need"
    reason: str | None = segmentor.backbone.why_not_graphed()
    if reason is not None:
        return reason
    if where.type != "cuda":
        return f"graphs need a GPU, this is {where.type}"
    for operation in ("sparse_convolution", "patch_attention"):
        chosen = implementation(operation, where, torch.float16)
        if ".libraries." in chosen.__module__:
            return f"the backend of {operation} cannot be captured"
    return None
