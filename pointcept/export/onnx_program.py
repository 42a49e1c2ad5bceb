"""A network as an ONNX graph: standard operators, and any number of voxels.

Inputs are ``feat`` (N, C) float32 and the index tables, int32; the output is ``logits`` (N, K) float32. Nothing in the
graph is of a package's own domain, and no index is computed in it: whoever makes the tables decides what is near.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from pointcept.export.graph import Graph, Step, cells_per_product
from pointcept.utils.errors import ConfigError

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # what goes with it
ATTENTION = ("patchwise", "batched")
_SHAPES = {
    "neighbours": 2,
    "rows": 2,
    "slot": 1,
    "children": 2,
    "parent": 1,
    "place": 1,
}


class _Writer:
    """Collects the nodes and weights of a graph."""

    def __init__(self, onnx: Any, patchwise: bool) -> None:
        self.helper, self.numpy = onnx.helper, onnx.numpy_helper
        self.kinds = onnx.TensorProto
        self.patchwise = patchwise
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}
        self.padded: dict[tuple[str, str], str] = {}
        self.columns: dict[tuple[str, int, int], str] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        """An initializer, once for each name."""
        if name not in self.weights:
            self.weights[name] = self.numpy.from_array(np.asarray(value, order="C"), name)
        return name

    def integers(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant("int_" + "_".join(map(str, values)).replace("-", "m"), np.array(values, np.int64))

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """One node with one output; returns its name."""
        self.nodes.append(self.helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def with_row(self, x: str, channels: int, value: float, kind: str) -> str:
        """``x`` and one row more, which rows that do not exist are read from."""
        if (x, kind) not in self.padded:
            row = self.constant(f"{kind}_{channels}", np.full((1, channels), value, np.float32))
            self.padded[x, kind] = self.node("Concat", [x, row], f"{x}_{kind}", axis=0)
        return self.padded[x, kind]

    def cells(self, table: str, begin: int, end: int) -> str:
        """Some columns of a table."""
        if (table, begin, end) not in self.columns:
            inputs = [table, self.integers(begin), self.integers(end), self.integers(1)]
            self.columns[table, begin, end] = self.node("Slice", inputs, f"{table}_{begin}_{end}")
        return self.columns[table, begin, end]


def _matrix(weight: Tensor) -> np.ndarray:
    return weight.numpy()


def _convolution(w: _Writer, step: Step) -> None:
    (x, table), (weight, bias) = step.inputs, step.weights
    cells = 0
    cells = _cells(table)
    channels = len(weight) // cells
    padded, size = w.with_row(x, channels, 0.0, "zero"), cells_per_product(cells, channels)
    total = ""
    for begin in range(0, cells, size):
        name = step.output if size == cells else f"{step.output}_{begin}"
        columns = table if size == cells else w.cells(table, begin, begin + size)
        rows = w.node("Gather", [padded, columns], f"{name}_rows", axis=0)
        flat = w.node("Reshape", [rows, w.integers(-1, size * channels)], f"{name}_flat")
        part = w.constant(f"{name}_weight", _matrix(weight[begin * channels : (begin + size) * channels]))
        product = w.node("MatMul", [flat, part], f"{name}_product")
        total = product if not total else w.node("Add", [total, product], f"{name}_sum")
    w.node("Add", [total, w.constant(f"{step.output}_bias", _matrix(bias))], step.output)


def _cells(table: str) -> int:
    """Columns of a table of neighbours or children; those of children have kernel 2."""
    kind, *rest = table.split(".")
    return int(rest[-1]) ** 3 if kind == "neighbours" else 8


def _linear(w: _Writer, step: Step) -> None:
    weight, bias = (w.constant(f"{step.output}_{n}", _matrix(v)) for n, v in zip("wb", step.weights, strict=True))
    w.node("Add", [w.node("MatMul", [step.inputs[0], weight], f"{step.output}_product"), bias], step.output)


def _scale(w: _Writer, step: Step) -> None:
    scale, shift = (w.constant(f"{step.output}_{n}", _matrix(v)) for n, v in zip("wb", step.weights, strict=True))
    w.node("Add", [w.node("Mul", [step.inputs[0], scale], f"{step.output}_product"), shift], step.output)


def _spread(w: _Writer, step: Step) -> None:
    (x, place), (weight, bias) = step.inputs, step.weights
    product = w.node("MatMul", [x, w.constant(f"{step.output}_weight", _matrix(weight))], f"{step.output}_product")
    places = w.node("Reshape", [product, w.integers(-1, len(bias))], f"{step.output}_places")
    rows = w.node("Gather", [places, place], f"{step.output}_rows", axis=0)
    w.node("Add", [rows, w.constant(f"{step.output}_bias", _matrix(bias))], step.output)


def _layer_norm(w: _Writer, step: Step) -> None:
    weights = [w.constant(f"{step.output}_{n}", _matrix(v)) for n, v in zip("wb", step.weights, strict=True)]
    w.node("LayerNormalization", [step.inputs[0], *weights], step.output, axis=-1, epsilon=step.numbers[0])


def _pool_max(w: _Writer, step: Step, channels: int) -> None:
    x, children = step.inputs
    padded = w.with_row(x, channels, float(np.finfo(np.float32).min), "lowest")
    rows = w.node("Gather", [padded, children], f"{step.output}_rows", axis=0)
    w.node("ReduceMax", [rows, w.integers(1)], step.output, keepdims=0)


def _take(w: _Writer, step: Step) -> None:
    w.node("Gather", list(step.inputs), step.output, axis=0)


def _simple(op: str, **attributes: Any) -> Callable[[_Writer, Step], None]:
    def write(w: _Writer, step: Step) -> None:
        w.node(op, list(step.inputs), step.output, **attributes)

    return write


def _attention(w: _Writer, step: Step, channels: int) -> None:
    """In a Scan over the patches, whose scores stay in the cache, or over all patches at once, which GPUs prefer."""
    (qkv, rows, slot), out = step.inputs, step.output
    heads, width = int(step.numbers[0]), channels // 3
    if not w.patchwise:
        attended = _softmax(w, w.node("Gather", [qkv, rows], f"{out}_rows", axis=0), out, step.numbers, width, True)
    else:
        inner = _Writer.__new__(_Writer)
        inner.__dict__.update(w.__dict__, nodes=[])  # the weights are those of the graph around it
        gathered = inner.node("Gather", [qkv, f"{out}_patch"], f"{out}_rows", axis=0)
        result = _softmax(inner, gathered, out, step.numbers, width, False)
        make = w.helper.make_tensor_value_info
        body = w.helper.make_graph(
            inner.nodes,
            f"{out}_body",
            [make(f"{out}_patch", w.kinds.INT32, ["patch"])],
            [make(result, w.kinds.FLOAT, ["patch", width])],
        )
        attended = w.node("Scan", [rows], f"{out}_patches", body=body, num_scan_inputs=1)
    slots = w.node("Reshape", [attended, w.integers(-1, width)], f"{out}_slots")
    w.node("Gather", [slots, slot], out, axis=0)
    assert width % heads == 0


def _softmax(w: _Writer, packed: str, out: str, numbers: tuple[float, ...], width: int, batched: bool) -> str:
    """Packed queries, keys and values of the slots, ([P,] K, 3·C) -> ([P,] K, C)."""
    heads, scale = int(numbers[0]), numbers[1]
    kept = [0, 0] if batched else [0]  # dimensions that Reshape copies
    shaped = w.node("Reshape", [packed, w.integers(*kept, 3, heads, width // heads)], f"{out}_shaped")
    parts = w.node("Transpose", [shaped], f"{out}_parts", perm=[2, 0, 3, 1, 4] if batched else [1, 2, 0, 3])
    q, k, v = (
        w.node("Gather", [parts, w.constant(f"int0_{i}", np.array(i, np.int64))], f"{out}_{name}", axis=0)
        for i, name in enumerate("qkv")
    )
    q = w.node("Mul", [q, w.constant(f"{out}_scale", np.array(scale, np.float32))], f"{out}_scaled")
    k = w.node("Transpose", [k], f"{out}_keys", perm=[0, 1, 3, 2] if batched else [0, 2, 1])
    weights = w.node("Softmax", [w.node("MatMul", [q, k], f"{out}_scores")], f"{out}_weights", axis=-1)
    mixed = w.node("MatMul", [weights, v], f"{out}_mixed")
    back = w.node("Transpose", [mixed], f"{out}_back", perm=[0, 2, 1, 3] if batched else [1, 0, 2])
    return w.node("Reshape", [back, w.integers(*kept, width)], f"{out}_attended")


_WRITERS: dict[str, Callable[[_Writer, Step], None]] = {
    "convolution": _convolution,
    "linear": _linear,
    "scale": _scale,
    "spread": _spread,
    "layer_norm": _layer_norm,
    "take": _take,
    "gelu": _simple("Gelu"),
    "relu": _simple("Relu"),
    "add": _simple("Add"),
    "concat": _simple("Concat", axis=1),
}
_WITH_CHANNELS = {"pool_max": _pool_max, "attention": _attention}


def onnx_program(graph: Graph, attention: str = "patchwise") -> bytes:
    """The ONNX file of a graph.

    Args:
        graph: the network.
        attention: "patchwise", patch after patch, which takes the least memory and time on a CPU; or "batched", all
            patches at once, whose scores take patches · heads · patch_size² · 4 bytes.

    Raises:
        ConfigError: the package onnx is missing.
    """
    try:
        import onnx
    except ImportError:
        raise ConfigError('the ONNX program needs the package onnx: pip install "pointcept[export]"') from None
    assert attention in ATTENTION
    w = _Writer(onnx, attention == "patchwise")
    channels = {"feat": graph.in_channels}
    for step in graph.steps:
        if step.op in _WITH_CHANNELS:
            _WITH_CHANNELS[step.op](w, step, channels[step.inputs[0]])
        else:
            _WRITERS[step.op](w, step)
        channels[step.output] = _channels(step, channels)
    w.node("Identity", [graph.output], "logits")
    make, kinds = w.helper.make_tensor_value_info, w.kinds
    inputs = [make("feat", kinds.FLOAT, ["voxels.0", graph.in_channels])]
    inputs += [make(name, kinds.INT32, _shape(name)) for name in graph.tables]
    outputs = [make("logits", kinds.FLOAT, ["voxels.0", graph.num_classes])]
    made = w.helper.make_graph(w.nodes, "student", inputs, outputs, list(w.weights.values()))
    opset = [w.helper.make_opsetid("", OPSET)]
    model = w.helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION, producer_name="pointcept")
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _channels(step: Step, channels: dict[str, int]) -> int:
    if step.op == "concat":
        return sum(channels[x] for x in step.inputs)
    if step.op == "attention":
        return channels[step.inputs[0]] // 3
    return len(step.weights[-1]) if step.weights else channels[step.inputs[0]]


def _shape(table: str) -> list[Any]:
    """Names of the dimensions of a table; equal names are equal sizes."""
    kind, level, *rest = table.split(".")
    rows = f"voxels.{level}"
    if kind == "neighbours":
        return [rows, int(rest[0]) ** 3]
    if kind == "rows":
        return [f"patches.{level}.{rest[-1]}", f"patch.{level}.{rest[-1]}"]
    if kind == "children":
        return [f"voxels.{int(level) + 1}", f"cells.{level}"]
    return [rows]
