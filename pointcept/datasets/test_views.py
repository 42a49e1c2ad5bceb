"""What ``test_cfg`` of a data set says: the views of a scan in tests, and how each is cut into fragments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pointcept.utils.checks import refused
from pointcept.utils.errors import ConfigError, did_you_mean

from .transform import Compose, build_transform
from .transform.points import Sample
from .transform.sampling import GridSample


class TestConfig:
    """The transforms of ``test_cfg``, built.

    Args:
        voxelize: transform that gives the fragments of a scan (GridSample with mode="test"); None: the whole scan.
        crop: transform that gives the crops of a fragment (SphereCrop with mode="all"); None: no crops.
        post_transform: chain applied to every fragment, with ToTensor and Collect.
        aug_transform: one chain per test-time view; a view is the whole scan under that chain.

    Raises:
        ConfigError: a key is unknown or an entry is wrong.
    """

    __test__ = False  # the name is not meant for pytest
    KEYS = ("voxelize", "crop", "post_transform", "aug_transform")

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        for key in cfg:
            if key not in self.KEYS:
                raise ConfigError(f"takes no {key!r}: {did_you_mean(key, self.KEYS)}", "test_cfg")
        self.voxelize = _Several(cfg.get("voxelize"), "voxelize", "GridSample", "test")
        fragments = self.voxelize.transform
        self.grid_size = fragments.grid_size if isinstance(fragments, GridSample) else None
        self.crop = _Several(cfg.get("crop"), "crop", "SphereCrop", "all")
        self.post_transform = Compose(cfg.get("post_transform"), "test_cfg.post_transform")
        views = cfg.get("aug_transform") or [[]]
        if not isinstance(views, Sequence) or isinstance(views, str):
            raise refused("test_cfg.aug_transform", views, "a list of lists of transforms")
        self.aug_transform = [Compose(view, f"test_cfg.aug_transform.{i}") for i, view in enumerate(views)]


class _Several:
    """A transform that returns a list of samples; without a config the list is the sample.

    An object and no closure: processes that are spawned for several GPUs pickle their data sets.
    """

    def __init__(self, cfg: Mapping[str, Any] | None, key: str, usual: str, mode: str) -> None:
        self.where, self.usual, self.mode = f"test_cfg.{key}", usual, mode
        if isinstance(cfg, Mapping) and cfg.get("type") == usual and cfg.get("mode") != mode:
            raise ConfigError(f"must be None or {usual} with mode={mode!r}, got mode={cfg.get('mode')!r}", self.where)
        self.transform = None if cfg is None else build_transform(cfg, self.where)

    def __call__(self, sample: Sample) -> list[Sample]:
        if self.transform is None:
            return [sample]
        result = self.transform(sample)
        if not isinstance(result, list):
            raise ConfigError(f"{self.where} must return a list of samples, as {self.usual} with mode={self.mode!r}")
        return result
