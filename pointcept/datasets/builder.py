"""The registries of data sets and transforms, and the function that builds a data set from a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pointcept.utils.registry import Registry

if TYPE_CHECKING:
    from pointcept.datasets.base import BaseDataset

DATASETS = Registry("datasets")
TRANSFORMS = Registry("transforms")


def build_dataset(cfg: Mapping[str, Any], where: str = "") -> BaseDataset:
    """Build the data set that ``cfg`` describes.

    Args:
        cfg: ``dict(type="SemanticKITTIDataset", split="train", data_root=..., transform=[...], ...)``.
        where: its place in the config, for messages: ``data.train``.

    Raises:
        ConfigError: an unknown type, an unknown argument or a missing one.
        DataError: the files are not where they should be.
    """
    return DATASETS.build(cfg, where)  # type: ignore[no-any-return]


def strength_range(cfg: Mapping[str, Any]) -> tuple[float, float] | None:
    """The ``STRENGTH_RANGE`` of the data set that ``cfg`` describes; of several the widest; None if it has none."""
    parts = [strength_range(part) for part in cfg.get("datasets", ())] or [
        getattr(DATASETS.get(cfg["type"]), "STRENGTH_RANGE", None)
    ]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return min(low for low, _ in known), max(high for _, high in known)
