"""A chain of transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pointcept.datasets.builder import TRANSFORMS
from pointcept.utils.errors import ConfigError, inside

from .mixing import MixTransform, ScanSource
from .points import Sample

Transform = Callable[[Sample], Any]


def build_transform(cfg: Mapping[str, Any] | Transform, where: str) -> Transform:
    """Build one transform from its config; something callable is returned as it is.

    Raises:
        ConfigError: see :meth:`pointcept.utils.registry.Registry.check`; the message starts with ``where``.
    """
    if callable(cfg):
        return cfg
    return TRANSFORMS.build(cfg, where)  # type: ignore[no-any-return]


class Compose:
    """Apply transforms one after the other.

    Args:
        cfgs: configs of transforms (or callables on the sample dict); None is the empty chain.
        where: name of the chain in messages, for instance ``transform`` or ``test_cfg.post_transform``.
        scans: the data set from which transforms that mix scans take their partners; None: such are refused.

    Raises:
        ConfigError: ``cfgs`` is no list or one of its entries is wrong.
    """

    def __init__(
        self,
        cfgs: Sequence[Mapping[str, Any] | Transform] | None = None,
        where: str = "transform",
        scans: ScanSource | None = None,
    ) -> None:
        if cfgs is not None and (isinstance(cfgs, (str, Mapping)) or not isinstance(cfgs, Sequence)):
            raise ConfigError(f"got a {type(cfgs).__name__}, allowed: a list of transforms", where)
        self.where = where
        self.transforms = [build_transform(cfg, f"{where}.{i}") for i, cfg in enumerate(cfgs or ())]
        for i, transform in enumerate(self.transforms):
            if isinstance(transform, MixTransform):
                with inside(f"{where}.{i}"):
                    self._bind(transform, i, scans)

    def _bind(self, mix: MixTransform, position: int, scans: ScanSource | None) -> None:
        """Lead ``mix`` to the scans from which it takes its partners."""
        if scans is None:
            raise ConfigError(f"{type(mix).__name__} mixes scans, which only the transforms of a training set may")
        before = [other for other in self.transforms[:position] if not isinstance(other, MixTransform)]
        mix.bind(scans, Compose(before, f"{self.where} before {position}"))

    def __call__(self, sample: Sample) -> Sample:
        """Return the transformed sample.

        Raises:
            ConfigError: a transform returned something else than one sample dict.
        """
        for i, transform in enumerate(self.transforms):
            result = transform(sample)
            if not isinstance(result, dict):
                raise ConfigError(
                    f"{self.where}.{i} ({type(transform).__name__}) returned a {type(result).__name__},"
                    " not one sample; transforms that give several (GridSample with mode='test',"
                    " SphereCrop with mode='all') belong in test_cfg.voxelize and test_cfg.crop"
                )
            sample = result
        return sample
