"""Scan files that need nothing but NumPy: headerless float32, .npy, and the folders of Waymo frames."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pointcept_runtime.card import Card
from pointcept_runtime.errors import ScanError

FORMATS = "headerless float32 as in training (.bin), .npy (N, 4), or a folder with coord.npy and strength.npy"


def find_scans(path: Path) -> list[Path]:
    """The scans at ``path``: itself if it is a scan, else all below that folder, sorted.

    Raises:
        ScanError: there is none.
    """
    if path.is_file():
        return [path]
    if (path / "coord.npy").is_file():
        return [path]
    if not path.is_dir():
        raise ScanError(f"there is no scan file or folder {path}")
    frames = {file.parent for file in path.rglob("coord.npy")}
    files = [file for file in path.rglob("*") if file.suffix in (".bin", ".npy") and file.parent not in frames]
    found = sorted([*frames, *(file for file in files if file.is_file())])
    if not found:
        raise ScanError(f"{path} holds no scans: allowed are {FORMATS}")
    return found


def read_scan(path: str | Path, card: Card) -> np.ndarray:
    """The points (N, 4) x, y, z [m], strength of a scan.

    Args:
        path: a file, or the folder of a Waymo frame.
        card: says how many numbers a point has in a headerless file, and how its strength is scaled.

    Raises:
        ScanError: it is missing, empty or malformed, or of a format that this network was not trained with.
    """
    path = Path(path)
    if path.is_dir():
        return np.concatenate([_load(path / "coord.npy", 3), _load(path / "strength.npy", 1)], axis=1)
    if path.suffix == ".npy":
        return _load(path, 4)
    if card.scan_columns is None:
        raise ScanError(f"{path}: scans of {card.dataset} are folders with coord.npy and strength.npy, or .npy (N, 4)")
    try:
        data = np.fromfile(path, np.float32)
        size = path.stat().st_size
    except OSError as error:
        raise ScanError(f"cannot read {path}: {error.strerror or error}") from None
    columns = card.scan_columns
    if size == 0 or size % (4 * columns):
        raise ScanError(
            f"{path} has {size} bytes, expected a multiple of {4 * columns} ({columns} x float32 per point, as the "
            f"scans of {card.dataset}): truncated, empty or another format?"
        )
    points = data.reshape(-1, columns)[:, :4].copy()
    points[:, 3] /= np.float32(card.strength_divisor)
    return points


def _load(path: Path, columns: int) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ScanError(f"cannot read {path}: {reason[0]}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] != columns or array.dtype.kind != "f":
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ScanError(f"{path} holds {got}, expected floats (N, {columns})")
    return array


def write_labels(path: str | Path, labels: np.ndarray, card: Card) -> None:
    """Write the classes (N,) of a scan, whole or not at all.

    Args:
        path: ``.npy`` for int16 classes, else the suffix of the benchmark's own format.
        labels: integers (N,).
        card: says the benchmark's numbers.

    Raises:
        ScanError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    check_suffix(path.suffix, card)
    raw = labels.astype(np.int16)
    if path.suffix != ".npy":
        assert card.raw_values is not None
        raw = np.array(card.raw_values, card.raw_type)[labels]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                if path.suffix == ".npy":
                    np.save(file, raw)
                else:
                    file.write(raw.tobytes())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ScanError(f"cannot write {path}: {error.strerror or error}") from None


def check_suffix(suffix: str, card: Card) -> None:
    """Check that labels can be written with this suffix.

    Raises:
        ScanError: they cannot.
    """
    allowed = [".npy", *([card.raw_suffix] if card.raw_suffix else [])]
    if suffix not in allowed:
        raise ScanError(f"labels are written as {' or '.join(allowed)}, got {suffix!r}")


def output_paths(scan: Path, scans: Sequence[Path], out: Path, suffix: str) -> list[Path]:
    """Where the labels of each scan go: ``out`` itself for one scan, else the same places below ``out``.

    Raises:
        ScanError: ``out`` is a folder where a file is needed, or the other way round.
    """
    if list(scans) == [scan]:
        if out.is_dir() or not out.suffix:
            raise ScanError(f"--out {out}: for one scan name a file, such as {out / 'labels.npy'}")
        return [out]
    if out.is_file() or out.suffix == suffix:
        raise ScanError(f"--out {out}: {scan} is a folder of {len(scans)} scans, so name a folder")

    def stem(name: str) -> str:
        return name.removesuffix(".bin").removesuffix(".npy").removesuffix(".pcd")

    return [out / file.relative_to(scan).parent / (stem(file.name) + suffix) for file in scans]
