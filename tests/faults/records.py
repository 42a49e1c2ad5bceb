"""What a run has left, in a form that can be compared with another run's: without times, places and versions."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboardX.proto import event_pb2

NOT_COMPARED = {
    "config",
    "versions",
    "files",
    "hooks",
}  # the last two hold times, and what they are for is compared itself
TIMED = re.compile(
    r" \d+\.\d+ s \(data \d+\.\d+\)| ETA \S+| in [\d:]+ \(\d+\.\d+ s each\)| mem \S+ GiB|(?<=[ \[])ms \d+\.\d+"
)
NUMBERED = re.compile(r"\] ((Train|Val quick) \[.*)")


def checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds that decides how a run goes on."""
    return {key: value for key, value in torch.load(path, weights_only=False).items() if key not in NOT_COMPARED}


def differences(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """Name the places where two trees of plain values, tensors and arrays differ; NaN equals NaN."""
    if isinstance(one, (torch.Tensor, np.ndarray)):
        first, second = torch.as_tensor(one), torch.as_tensor(other)
        if first.dtype != second.dtype or first.shape != second.shape or not torch.equal(first, second):
            yield at
    elif isinstance(one, Mapping):
        keys = one.keys() ^ other.keys() if isinstance(other, Mapping) else {"a mapping"}
        if keys:
            yield f"{at}: {sorted(map(str, keys))}"
        for key in one.keys() - keys:
            yield from differences(one[key], other[key], f"{at}.{key}".removeprefix("."))
    elif isinstance(one, Sequence) and not isinstance(one, str):
        if not isinstance(other, Sequence) or len(one) != len(other):
            yield f"{at}: another length"
        else:
            for number, (a, b) in enumerate(zip(one, other, strict=True)):
                yield from differences(a, b, f"{at}.{number}")
    elif one != other and not (_nan(one) and _nan(other)):
        yield f"{at}: {one!r} and {other!r}"


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def progress(run: Path) -> list[str]:
    """The lines of ``train.log`` that say numbers of the run."""
    text = (run / "train.log").read_text(encoding="utf-8", errors="replace")
    return [TIMED.sub("", found[1]) for found in map(NUMBERED.search, text.splitlines()) if found]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves as TensorBoard shows them: step and value by name, in the order of writing."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(run.glob("events.out.tfevents.*")):
        for event in _events(path):
            if event.HasField("session_log") and event.session_log.status == event_pb2.SessionLog.START:
                for name, points in curves.items():
                    curves[name] = [point for point in points if point[0] < event.step]
            for value in event.summary.value:
                if not value.tag.startswith(("time/", "memory/")) and not value.tag.endswith("/ms"):
                    curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def _events(path: Path) -> Iterator[Any]:
    content = path.read_bytes()
    while len(content) >= 12:
        (length,) = struct.unpack("<Q", content[:8])
        if len(content) < length + 16:
            return  # cut off by a kill
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[length + 16 :]


def result(path: Path) -> dict[str, Any]:
    """A result file without times and places."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key not in ("seconds", "weight", "model")}
