"""A network as a module of plain tensor operations that ``torch.export`` takes: features and tables in, logits out.

:data:`OPERATIONS` says how each step runs. Another device's kernels come in by another table of the same names: an
operation registered by ``torch.library.triton_op`` is compiled into the program like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcept.export.graph import Graph, Step, cells_per_product

Operation = Callable[[Step, list[Tensor], list[Tensor], Mapping[str, Tensor]], Tensor]
"""(step, its inputs, its weights, all tables) -> its output."""

VALID = "valid"
"""Beside padded tables: ``valid.l.p`` (p,) bool, which slots of a patch that is not full hold a row of the scan."""


def convolution(step: Step, inputs: list[Tensor], weights: list[Tensor], tables: Mapping[str, Tensor]) -> Tensor:
    """Rows of the kernel cells side by side, times the weight; a missing row is the number of rows and reads zeros."""
    (x, table), (weight, bias) = inputs, weights
    cells, channels = table.shape[1], x.shape[1]
    padded = F.pad(x, (0, 0, 0, 1))
    size, total = cells_per_product(cells, channels), bias
    for begin in range(0, cells, size):
        rows = padded.index_select(0, table[:, begin : begin + size].reshape(-1)).view(-1, size * channels)
        total = total + rows @ weight[begin * channels : (begin + size) * channels]
    return total


def linear(step: Step, inputs: list[Tensor], weights: list[Tensor], tables: Mapping[str, Tensor]) -> Tensor:
    """x · weight + bias."""
    return torch.addmm(weights[1], inputs[0], weights[0])


def scale(step: Step, inputs: list[Tensor], weights: list[Tensor], tables: Mapping[str, Tensor]) -> Tensor:
    """x · scale + shift."""
    return inputs[0] * weights[0] + weights[1]


def spread(step: Step, inputs: list[Tensor], weights: list[Tensor], tables: Mapping[str, Tensor]) -> Tensor:
    """Each row's parent by the weight of the row's place."""
    (x, place), (weight, bias) = inputs, weights
    return (x @ weight).view(-1, len(bias)).index_select(0, place) + bias


def layer_norm(step: Step, inputs: list[Tensor], weights: list[Tensor], tables: Mapping[str, Tensor]) -> Tensor:
    """Layer norm."""
    return F.layer_norm(inputs[0], inputs[0].shape[1:], weights[0], weights[1], step.numbers[0])


def pool_max(step: Step, inputs: list[Tensor], weights: list[Tensor], tables: Mapping[str, Tensor]) -> Tensor:
    """Largest child."""
    x, children = inputs
    padded = F.pad(x, (0, 0, 0, 1), value=torch.finfo(x.dtype).min)
    return padded.index_select(0, children.reshape(-1)).view(*children.shape, x.shape[1]).amax(1)


def attention(step: Step, inputs: list[Tensor], weights: list[Tensor], tables: Mapping[str, Tensor]) -> Tensor:
    """Softmax attention in patches; slots without a row of the scan, if there are any, are attended to by none."""
    qkv, rows, slot = inputs
    heads, factor = int(step.numbers[0]), step.numbers[1]
    _, level, _, size = step.inputs[1].split(".")
    valid = tables.get(f"{VALID}.{level}.{size}")
    patches, length = rows.shape
    packed = qkv.index_select(0, rows.reshape(-1)).view(patches, length, 3, heads, qkv.shape[1] // 3 // heads)
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    mask = None if valid is None else valid[None, None, None].expand(patches, 1, length, length)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=factor)
    return out.transpose(1, 2).reshape(patches * length, -1).index_select(0, slot)


OPERATIONS: dict[str, Operation] = {
    "convolution": convolution,
    "linear": linear,
    "scale": scale,
    "spread": spread,
    "layer_norm": layer_norm,
    "pool_max": pool_max,
    "attention": attention,
    "take": lambda step, inputs, weights, tables: inputs[0].index_select(0, inputs[1]),
    "gelu": lambda step, inputs, weights, tables: F.gelu(inputs[0]),
    "relu": lambda step, inputs, weights, tables: F.relu(inputs[0]),
    "add": lambda step, inputs, weights, tables: inputs[0] + inputs[1],
    "concat": lambda step, inputs, weights, tables: torch.cat(inputs, 1),
}


class TableNetwork(nn.Module):
    """Runs the steps of a graph.

    Args:
        graph: the network.
        operations: how each step runs.
    """

    def __init__(self, graph: Graph, operations: Mapping[str, Operation] = OPERATIONS) -> None:
        super().__init__()
        self.graph, self.operations = graph, dict(operations)
        for step in graph.steps:
            for number, weight in enumerate(step.weights):
                self.register_buffer(f"{step.output}_{number}", weight)

    def forward(self, feat: Tensor, tables: dict[str, Tensor]) -> Tensor:
        """feat (N, C) and the index tables, see :mod:`pointcept_runtime.tables` -> logits (N, K)."""
        values = {"feat": feat, **tables}
        for step in self.graph.steps:
            weights = [self.get_buffer(f"{step.output}_{number}") for number in range(len(step.weights))]
            inputs = [values[name] for name in step.inputs]
            values[step.output] = self.operations[step.op](step, inputs, weights, tables)
        return values[self.graph.output]
