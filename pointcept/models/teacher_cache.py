"""Outputs of a frozen teacher on disk, one file per scan.

Worth its space only where a scan looks the same in every epoch: no random augmentation, no Mix3D.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pointcept.models.output import Latent, Output
from pointcept.models.segmentor import Segmentor
from pointcept.structures import VoxelGrid
from pointcept.utils.checkpoint import read_checkpoint, save_atomically
from pointcept.utils.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

# So many scans that look different from before mean random augmentation.
MANY = 100


class TeacherCache:
    """Reads and writes logits, latents and gradients of a teacher, scan by scan, in half precision.

    A file belongs to one teacher (the folder carries a digest of its weights and form) and one content of a scan (a
    digest of ``grid_coord`` and ``feat``, and of ``segment`` where gradients are kept). A scan that has
    changed is a miss and is written anew; after 100 of them a warning says so and nothing more is written.

    Neither holds what is not finite: a teacher's is an error when it is to be written. A file that does, is damaged or
    has another form is computed again.

    Args:
        folder: where to put the files; created when needed.
        teachers: the frozen networks with their weights; features are those of the first.
        stages: encoder stages whose features are kept, counted from the finest.
        guided: those of them whose gradients are kept too.
    """

    def __init__(
        self, folder: str | Path, teachers: Sequence[Segmentor], stages: Sequence[int], guided: Sequence[int]
    ) -> None:
        self.stages, self.guided = sorted({*stages, *guided}), sorted(set(guided))
        # Two forms of a network can have the same weights.
        first = teachers[0].backbone
        form = torch.tensor(list(str(getattr(first, "weight_form", None)).encode()), dtype=torch.uint8)
        values = [value for teacher in teachers for value in teacher.state_dict().values()]
        content = "-".join([digest([*values, form]), *(f"s{s}" for s in self.stages)])
        self.folder = Path(folder) / "-".join([content, *(f"g{s}" for s in self.guided)])
        self._channels = list(first.stage_channels)
        self._classes = teachers[0].num_classes
        self.hits = self.misses = self.changed = 0
        self._warned = False

    def fetch(self, batch: Mapping[str, Any], compute: Callable[[], Output]) -> Output:
        """The output for a batch: read, if every scan is there, otherwise computed and written.

        Raises:
            ConfigError: the batch has no ``name``, or gradients are asked for and it has several scans.
            FloatingPointError: the teacher's output for a scan is NaN or infinite.
        """
        if "name" not in batch:
            raise ConfigError(
                "teacher_cache needs the names of scans: Collect the key 'name' in the training transforms"
            )
        if self.guided and len(batch["offset"]) > 1:
            raise ConfigError(
                "teacher_cache with gradient guidance needs batch_size=1 per process: the gradient of a "
                f"segmentation loss depends on the whole batch, here {len(batch['offset'])} scans"
            )
        prints = self._fingerprints(batch)
        sizes = torch.diff(batch["offset"].cpu(), prepend=torch.zeros(1, dtype=torch.int64)).tolist()
        read = (self._read(path, mark, size) for (path, mark), size in zip(prints, sizes, strict=False))
        found = [scan for scan in read if scan is not None]
        if found and len(found) == len(prints):
            self.hits += 1
            return self._join(found, batch["feat"].device)
        self.misses += 1
        output = compute()
        if not self._warned:
            self._write(prints, batch, output)
        return output

    def _write(self, prints: Sequence[tuple[Path, str]], batch: Mapping[str, Any], output: Output) -> None:
        sizes = torch.diff(batch["offset"].cpu(), prepend=torch.zeros(1, dtype=torch.int64)).tolist()
        logits = output.logits.split(sizes)
        for i, (path, mark) in enumerate(prints):
            name = batch["name"][i]
            scan: dict[str, Any] = {"fingerprint": mark, "logits": _half(logits[i], name), "stages": {}}
            for stage in self.stages:
                latent = output.stages[stage]
                begin, size = sum(latent.grid.counts[:i]), latent.grid.counts[i]
                entry: dict[str, Any] = {
                    "feat": _half(latent.feat[begin : begin + size], name),
                    "grid_coord": latent.grid.grid_coord[begin : begin + size].int().cpu(),
                    "stride": latent.grid.stride,
                }
                if stage in self.guided:
                    gradient = output.gradients[stage][begin : begin + size]
                    # Gradients of a mean over many points are smaller than half precision can hold.
                    entry["scale"] = float(gradient.abs().amax().clamp_min(torch.finfo(torch.float32).tiny))
                    entry["gradient"] = _half(gradient / entry["scale"], name)
                scan["stages"][stage] = entry
            try:
                save_atomically(scan, path)
            except CheckpointError as error:  # a full disk costs the time that a cache saves, not the training
                self._warned = True
                logger.warning("teacher_cache: nothing more is written to %s: %s", self.folder, error)
                return

    def _fingerprints(self, batch: Mapping[str, Any]) -> list[tuple[Path, str]]:
        """File and digest of every scan; nothing where names and scans do not go together (Mix3D)."""
        names, ends = list(batch["name"]), batch["offset"].tolist()
        if len(names) != len(ends):
            self._count_changed()
            return []
        keys = ("grid_coord", "feat", "segment") if self.guided else ("grid_coord", "feat")
        columns = [batch[key].cpu() for key in keys]
        marks = [digest([c[a:b] for c in columns]) for a, b in zip([0, *ends], ends, strict=False)]
        return [
            (self.folder / (re.sub(r"[^\w.-]", "_", name) + ".pth"), mark)
            for name, mark in zip(names, marks, strict=True)
        ]

    def _read(self, path: Path, mark: str, points: int) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            scan: dict[str, Any] = read_checkpoint(path, foreign=False)
        except CheckpointError as error:
            logger.warning("teacher_cache: computing a scan again: %s", error)
            return None
        if isinstance(scan, Mapping) and isinstance(scan.get("fingerprint"), str) and scan["fingerprint"] != mark:
            self._count_changed()
            return None
        flaw = self._flaw(scan, points)
        if flaw:
            logger.warning("teacher_cache: computing a scan again: %s %s", path, flaw)
            return None
        return scan

    def _flaw(self, scan: Any, points: int) -> str:
        """What is wrong with the contents of a file, for a scan of so many points; ``""`` if nothing is."""
        if not isinstance(scan, Mapping) or not {"fingerprint", "logits", "stages"} <= scan.keys():
            return "is no output of a teacher"
        wanted: dict[str, tuple[Any, tuple[int, ...]]] = {"logits": (scan["logits"], (points, self._classes))}
        for stage in self.stages:
            entry = scan["stages"].get(stage) if isinstance(scan["stages"], Mapping) else None
            if not isinstance(entry, Mapping) or not isinstance(entry.get("feat"), Tensor):
                return f"has no features of stage {stage}"
            rows = len(entry["feat"]) if entry["feat"].dim() else 0
            wanted[f"stages.{stage}.feat"] = entry["feat"], (rows, self._channels[stage])
            wanted[f"stages.{stage}.grid_coord"] = entry.get("grid_coord"), (rows, 3)
            numbers: dict[str, type] = {"stride": int}
            if stage in self.guided:
                wanted[f"stages.{stage}.gradient"] = entry.get("gradient"), (rows, self._channels[stage])
                numbers["scale"] = float
            for name, kind in numbers.items():
                if not isinstance(entry.get(name), kind) or not math.isfinite(entry[name]):
                    return f"holds {entry.get(name)!r} as stages.{stage}.{name}"
        for name, (value, shape) in wanted.items():
            if not isinstance(value, Tensor) or value.shape != shape:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                return f"holds {got} as {name}, not {shape}"
            if value.is_floating_point() == name.endswith("grid_coord"):
                return f"holds {value.dtype} as {name}"
            if not bool(value.isfinite().all()):
                return "holds NaN or infinity"
        return ""

    def _count_changed(self) -> None:
        self.changed += 1
        if self.changed >= MANY and self.changed > self.hits and not self._warned:
            self._warned = True
            logger.warning(
                "teacher_cache: %d scans differed from what was stored under their names and %d batches were found; "
                "with random augmentation or Mix3D a cache is of no use. Nothing more is written to %s",
                *(self.changed, self.hits, self.folder),
            )

    def _join(self, scans: list[dict[str, Any]], device: torch.device) -> Output:
        def column(parts: list[Tensor]) -> Tensor:
            return torch.cat(parts).to(device, non_blocking=True)

        output = Output(column([s["logits"] for s in scans]).float(), [_absent(device)] * len(self._channels))
        for stage in self.stages:
            parts = [scan["stages"][stage] for scan in scans]
            counts = [len(p["feat"]) for p in parts]
            grid = VoxelGrid(
                grid_coord=column([p["grid_coord"] for p in parts]).long(),
                batch=column([torch.full((n,), i) for i, n in enumerate(counts)]),
                counts=counts,
                codes={},
                permutations={},
                stride=parts[0]["stride"],
            )
            output.stages[stage] = Latent(column([p["feat"] for p in parts]).float(), grid)
            if stage in self.guided:
                output.gradients[stage] = column([p["gradient"].float() * p["scale"] for p in parts])
        return output


def digest(tensors: Sequence[Tensor]) -> str:
    """Digest of the bytes of tensors, 32 hexadecimal digits."""
    total = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        total.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _half(x: Tensor, name: str) -> Tensor:
    """In float16 on the CPU, or in float32 where that overflows.

    Raises:
        FloatingPointError: NaN or infinity for the scan ``name``.
    """
    for dtype in (torch.float16, torch.float32):
        kept = x.detach().to(dtype)
        if bool(kept.isfinite().all()):
            return kept.cpu().clone()
    raise FloatingPointError(f"{name}: the teacher's output is NaN or infinite, so the losses cannot learn from it")


def _absent(device: torch.device) -> Latent:
    """A stage that is not kept."""
    empty = torch.zeros(0, 3, dtype=torch.int64, device=device)
    return Latent(torch.zeros(0, 0, device=device), VoxelGrid(empty, empty[:, 0], [], {}, {}))
