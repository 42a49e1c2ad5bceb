"""A network as a list of steps on rows of features and index tables, in evaluation, for one scan.

One description (:mod:`pointcept.export.networks`) serves every program: :mod:`~pointcept.export.onnx_program` writes it
as standard operators of ONNX, :mod:`~pointcept.export.torch_program` runs it as a module that ``torch.export`` takes.
Batch norms and successive linear maps are folded, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pointcept.engines.deploy.folding import Affine
from pointcept_runtime.tables import Table

GATHERED = 1200
"""Numbers per row that a convolution gathers at once: more are summed over several products, to bound the memory."""


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        op: a method of :class:`GraphBuilder`, which says what it does.
        inputs: values and tables that it reads.
        output: the value that it makes.
        weights: float32, on the CPU.
        numbers: heads and scale of an attention, eps of a norm.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    weights: tuple[Tensor, ...] = ()
    numbers: tuple[float, ...] = ()


@dataclass
class Graph:
    """The steps from the features ``feat`` (N, C) of the finest voxels to ``output``, their logits (N, K).

    Attributes:
        in_channels: C.
        num_classes: K.
        orders, strides: of the octree that makes the tables.
        steps: in order.
        tables: those that the steps read.
        output: the value of the logits.
    """

    in_channels: int
    num_classes: int
    orders: tuple[str, ...]
    strides: tuple[int, ...]
    steps: list[Step] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    output: str = ""


def cells_per_product(cells: int, channels: int) -> int:
    """How many kernel cells a convolution gathers at once: a divisor of ``cells``, at least 1."""
    fitting = [n for n in range(1, cells + 1) if cells % n == 0 and n * channels <= GATHERED]
    return max(fitting, default=1)


class GraphBuilder:
    """Appends steps to a graph; every method returns the name of the value that it makes.

    Args:
        graph: an empty one.
    """

    feat = "feat"

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def _step(self, op: str, *inputs: str, weights: tuple[Tensor, ...] = (), numbers: tuple[float, ...] = ()) -> str:
        output = f"{op}_{len(self.graph.steps)}"
        held = tuple(w.detach().to("cpu", torch.float32).contiguous() for w in weights)
        self.graph.steps.append(Step(op, inputs, output, held, numbers))
        return output

    def _table(self, kind: str, level: int, order: str = "", size: int = 0) -> str:
        name = str(Table(kind, level, order, size))
        if name not in self.graph.tables:
            self.graph.tables.append(name)
        return name

    def convolution(self, x: str, level: int, kernel_size: int, affine: Affine) -> str:
        """Over the neighbours at a level: rows of k³ cells side by side, by a (k³·C, O) weight, plus a bias."""
        table = self._table("neighbours", level, size=kernel_size)
        return self._step("convolution", x, table, weights=(affine.weight, affine.bias))

    def strided_convolution(self, x: str, level: int, affine: Affine) -> str:
        """From a level to the next coarser one, over its children: a convolution by another table."""
        return self._step("convolution", x, self._table("children", level), weights=(affine.weight, affine.bias))

    def inverse_convolution(self, x: str, level: int, affine: Affine) -> str:
        """From the next coarser level to ``level``: each row reads its parent through its own place."""
        rows, out = affine.weight.shape
        by_place = affine.weight.view(8, rows // 8, out).permute(1, 0, 2).reshape(rows // 8, 8 * out)
        return self._step("spread", x, self._table("place", level), weights=(by_place, affine.bias))

    def linear(self, x: str, affine: Affine) -> str:
        """x · weight + bias."""
        return self._step("linear", x, weights=(affine.weight, affine.bias))

    def scale(self, x: str, scale: Tensor, shift: Tensor) -> str:
        """x · scale + shift, per channel."""
        return self._step("scale", x, weights=(scale, shift))

    def layer_norm(self, x: str, norm: torch.nn.LayerNorm) -> str:
        """A layer norm with its scale and shift."""
        return self._step("layer_norm", x, weights=(norm.weight, norm.bias), numbers=(norm.eps,))

    def gelu(self, x: str) -> str:
        """The exact GELU."""
        return self._step("gelu", x)

    def relu(self, x: str) -> str:
        """The positive part."""
        return self._step("relu", x)

    def add(self, x: str, y: str) -> str:
        """x + y."""
        return self._step("add", x, y)

    def concat(self, x: str, y: str) -> str:
        """The channels of x, then those of y."""
        return self._step("concat", x, y)

    def pool_max(self, x: str, level: int) -> str:
        """Largest value of every channel over the children, from a level to the next coarser one."""
        return self._step("pool_max", x, self._table("children", level))

    def unpool(self, x: str, level: int) -> str:
        """The parent's row, from the next coarser level to ``level``."""
        return self._step("take", x, self._table("parent", level))

    def attention(self, qkv: str, level: int, order: str, patch_size: int, heads: int, scale: float) -> str:
        """Softmax attention in patches along an order; qkv (N, 3·C) -> (N, C)."""
        rows, slot = self._table("rows", level, order, patch_size), self._table("slot", level, order)
        return self._step("attention", qkv, rows, slot, numbers=(heads, scale))
