"""The base of all data sets: training samples, test-time fragments, reproducible randomness.

A new data set is one class: ``names``, ``SPLITS``, ``get_data_list``, ``get_data`` and ``get_data_name``.
"""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from pointcept.utils.checks import check_choice, check_integer, refused
from pointcept.utils.errors import ConfigError, DataError, did_you_mean

from .arguments import scans_left_out
from .reading import check_labels, check_strength
from .transform import Compose, MixTransform, Scanner, add_point_keys, build_transform
from .transform.points import Sample, check_scan, coord_of, select_points
from .transform.sampling import GridSample, thin_crowded

logger = logging.getLogger(__name__)


class Draw(NamedTuple):
    """What a sampler yields for a reproducible sample: the sample is a function of these two alone."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    seed: int


def seed_all(seed: int) -> None:
    """Seed ``np.random``, ``random`` and torch's CPU generator of this process."""
    np.random.seed(seed % (1 << 32))
    random.seed(seed)
    # Not torch.manual_seed: that reaches for every accelerator too, in each worker and for each sample.
    torch.default_generator.manual_seed(seed)


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


class BaseDataset(Dataset):
    """Scans on disk, one sample dict per index.

    Args:
        split: one name of ``SPLITS`` or a list of them.
        data_root: folder of the data set.
        transform: configs of the transforms of a sample; in test mode those before the fragments are made.
        test_mode: give fragments for inference, see :meth:`prepare_test_data`.
        test_cfg: dict(voxelize, crop, post_transform, aug_transform), with ``test_mode`` only, see :class:`TestConfig`.
        loop: how often an epoch goes through the scans.
        ignore_index: label of points that no class map entry covers, negative; that of the criteria.
        nonfinite: points with NaN or infinite values: "raise" a DataError or "drop" them.
        unlabelled: look for no labels: every point of a sample has ``ignore_index``, so that a distillation can learn
            from scans without labels, alone or beside labelled ones.

    Raises:
        ConfigError: an argument is wrong.
        DataError: files are missing.
    """

    built_from: ClassVar = {"transform": "transforms", "test_cfg": "transforms"}

    names: tuple[str, ...] = ()
    """Class names, in the order of the class indices."""

    things: tuple[str, ...] = ()
    """The classes of countable objects, which PolarMix pastes unless it is told which."""

    rare: tuple[str, ...] = ()
    """Those of ``things`` that have few points, which InstancePaste pastes unless it is told which."""

    scanner = Scanner()
    """From where the scans are seen, for transforms that mix scans."""

    SPLITS: tuple[str, ...] = ("train", "val", "test")

    STRENGTH_RANGE: tuple[float, float] | None = None
    """Lowest and highest ``strength`` that :meth:`get_data` may give; None if it may be anything."""

    asks_for_scans = True  # leaves its scans out while scans_left_out()

    SCAN_PATTERN: str = "*.bin"
    """What scan files are called, for :meth:`find_scans`."""

    PREDICTION_SUFFIX: str | None = None
    """Suffix of the benchmark's prediction files, see :meth:`encode_prediction`; None if it has no such files."""

    def __init__(
        self,
        split: str | Sequence[str] = "train",
        data_root: str | Path = "data",
        transform: Sequence[Mapping[str, Any]] | None = None,
        test_mode: bool = False,
        test_cfg: Mapping[str, Any] | None = None,
        loop: int = 1,
        ignore_index: int = -1,
        nonfinite: str = "raise",
        unlabelled: bool = False,
    ) -> None:
        self.split = (split,) if isinstance(split, str) else tuple(split)
        if not self.split:
            raise refused("split", split, f"one or more of {', '.join(self.SPLITS)}")
        for name in self.split:
            if name not in self.SPLITS:
                hint = did_you_mean(str(name), self.SPLITS)
                raise ConfigError(f"{type(self).__name__} has no split {name!r}: {hint}", "split")
        if len(set(self.split)) != len(self.split):
            raise refused("split", split, "each split once")
        check_integer("loop", loop, 1)
        if test_mode and loop != 1:
            raise refused("loop", loop, "1 with test_mode=True")
        check_integer("ignore_index", ignore_index, high=-1)
        check_choice("nonfinite", nonfinite, ("raise", "drop"))
        if not isinstance(unlabelled, bool):
            raise refused("unlabelled", unlabelled, "True or False")
        if test_mode and unlabelled:
            raise refused("unlabelled", True, "False with test_mode=True")
        if test_mode != (test_cfg is not None):
            raise ConfigError(f"test_cfg goes with test_mode=True, got test_mode={test_mode} and test_cfg={test_cfg!r}")
        self.data_root = Path(data_root)
        self.loop = loop
        self.ignore_index = ignore_index
        self.nonfinite = nonfinite
        self.unlabelled = unlabelled
        self.test_mode = test_mode
        self._warned = False
        self.transform = Compose(transform, scans=None if test_mode else self)
        self.test_cfg = TestConfig(test_cfg) if test_cfg is not None else None
        self.data_list: list[Any] = []
        if scans_left_out():
            return
        self.data_list = self.get_data_list()
        if not self.data_list:
            raise DataError(f"{type(self).__name__}: no scans of split {', '.join(self.split)} below {self.data_root}")
        logger.info(
            "%s: %d scans x %d, split %s, %s",
            type(self).__name__,
            len(self.data_list),
            loop,
            "+".join(self.split),
            self.data_root,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def mixes(self) -> list[str]:
        """The transforms that mix scans."""
        return [type(t).__name__ for t in self.transform.transforms if isinstance(t, MixTransform)]

    def get_data_list(self) -> list[Any]:
        """List the scans; their order is the order of the indices.

        Raises:
            DataError: files or folders are missing.
        """
        raise NotImplementedError

    def get_data(self, idx: int) -> Sample:
        """Read scan ``idx`` in [0, len(data_list)): coord float32 (N, 3) [m], strength float32 (N, 1), name,
        and, if it is labelled, segment int64 (N,). If ``unlabelled``, label files may be missing and are not read.

        Raises:
            DataError: a file is missing or malformed.
        """
        raise NotImplementedError

    def get_data_name(self, idx: int) -> str:
        """Name of scan ``idx`` in [0, len(data_list)), unique in the data set."""
        raise NotImplementedError

    def write_submission(self, folder: str | Path, name: str, pred: Any) -> Path:
        """Write the prediction of scan ``name`` in the format of the benchmark below ``folder``.

        Args:
            folder: root of the submission.
            name: a name that :meth:`get_data_name` gives.
            pred: classes, integers (N,), one per point that ``get_data`` gives.

        Returns:
            The file written.
        """
        raise NotImplementedError(f"{type(self).__name__} has no submission format")

    def finish_submission(self, folder: str | Path) -> Path | None:
        """Complete the submission below ``folder`` after the last scan; returns the file written, if one is needed.

        Formats with one file per scan, the usual ones, need nothing more.
        """
        return None

    @classmethod
    def find_scans(cls, path: Path) -> list[Path]:
        """The scans at ``path``: itself if it is a file, else all below that folder, sorted.

        Raises:
            DataError: there is nothing at ``path``, or no scan below it.
        """
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise DataError(f"there is no scan file or folder {path}")
        found = sorted(path.rglob(cls.SCAN_PATTERN))
        if not found:
            raise DataError(f"{path} holds no scans: {cls.__name__} reads files named {cls.SCAN_PATTERN}")
        return found

    @classmethod
    def read_scan(cls, path: Path, nonfinite: str = "raise") -> tuple[Sample, np.ndarray | None]:
        """Read one scan file, wherever it lies.

        Args:
            path: an entry of :meth:`find_scans`.
            nonfinite: see the class.

        Returns:
            coord float32 (N, 3) [m] and strength float32 (N, 1); and which points of the file they are, bool
            (M,) with N True, or None if they are all of them.

        Raises:
            DataError: the file is missing or malformed.
        """
        raise NotImplementedError(f"{cls.__name__} reads no single scan files")

    @classmethod
    def encode_prediction(cls, classes: np.ndarray) -> np.ndarray:
        """The contents of a prediction file of the benchmark.

        Args:
            classes: int64 (M,), one per point of the scan file, -1 for points without a prediction.
        """
        raise NotImplementedError(f"{cls.__name__} has no format of prediction files")

    def prepare_train_data(self, idx: int) -> Sample:
        """Scan ``idx`` after ``transform``.

        Raises:
            DataError: the scan cannot be read, or :func:`~.transform.points.check_scan` refuses it.
        """
        return self.transform(self.read(idx))

    def read(self, idx: int) -> Sample:
        """Scan ``idx`` as :meth:`get_data` gives it, for samples and for partners of mixed scans.

        Raises:
            DataError: it cannot be read; :func:`~.transform.points.check_scan` refuses it; or a strength is outside
                ``STRENGTH_RANGE``, or a label is neither a class nor ``ignore_index``.
        """
        sample = self.get_data(idx)
        try:
            if self.unlabelled:
                sample["segment"] = np.full(len(coord_of(sample)), self.ignore_index, np.int64)
            sample = check_scan(sample)
            if "strength" in sample:
                check_strength(sample["strength"], self.STRENGTH_RANGE, type(self).__name__)
            if "segment" in sample:
                check_labels(sample["segment"], self.num_classes, self.ignore_index)
        except DataError as error:
            raise DataError(f"{self.get_data_name(idx)}: {error}") from None
        return sample

    def prepare_test_data(self, idx: int) -> dict[str, Any]:
        """Scan ``idx`` as fragments for inference.

        A voxel with far more points than usual, such as that of rays without a return, would make as many fragments as
        it has points. It makes no more than the others do: most of its points share, through ``inverse``, the
        predictions of others there (:func:`~.transform.sampling.thin_crowded`).

        Returns:
            - ``fragment_list``: samples after ``post_transform``, over all views, fragments and crops. Their
              ``index`` (M,) says for which of the ``num_points`` points they hold; together they hold every point.
            - ``name``, and ``num_points``: the points after ``transform``, without those of crowded voxels.
            - ``segment`` int64 (num_points,), if the scan is labelled.
            - ``inverse`` int64 (N,), if ``transform`` made it (GridSample with return_inverse=True) or a voxel is
              crowded: prediction ``pred[inverse]`` is one for each of the N points of the scan; and
              ``origin_segment`` int64 (N,), likewise (Copy) if the scan is labelled.

        Raises:
            ConfigError: the transforms leave points without a prediction, or ``inverse`` does not fit.
            DataError: the scan cannot be read, or :func:`~.transform.points.check_scan` refuses it.
        """
        assert self.test_cfg is not None
        sample = self.transform(self.read(idx))
        num_points = len(coord_of(sample))
        result = {"name": sample.pop("name"), "num_points": num_points}
        for key in ("segment", "origin_segment", "inverse"):
            if key in sample:
                result[key] = sample.pop(key)
        self._check_inverse(result)
        sample = self._thin(sample, result)
        num_points = result["num_points"]
        # As a per-point entry the index follows every selection, also those of the augmentations.
        sample["index"] = np.arange(num_points)
        add_point_keys(sample, ("index",))
        fragments = []
        covered = np.zeros(num_points, bool)
        for view in self.test_cfg.aug_transform:
            # A copy, because transforms of users may write into the arrays.
            for fragment in self.test_cfg.voxelize(view(copy.deepcopy(sample))):
                for crop in self.test_cfg.crop(fragment):
                    covered[crop["index"]] = True
                    fragments.append(self.test_cfg.post_transform(crop))
        if not covered.all():
            raise ConfigError(
                f"test-time transforms leave {num_points - covered.sum()} of {num_points} points of {result['name']}"
                " without a prediction: test_cfg.voxelize needs mode='test', and one entry of aug_transform"
                " must keep all points"
            )
        return {"fragment_list": fragments, **result}

    def _thin(self, sample: Sample, result: dict[str, Any]) -> Sample:
        """Leave out what :func:`thin_crowded` says, and lead ``result`` back to all points."""
        assert self.test_cfg is not None
        grid_size = self.test_cfg.grid_size
        thinned = None if grid_size is None else thin_crowded(coord_of(sample), grid_size)
        if thinned is None:
            return sample
        kept, inverse = thinned
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: %d of %d points lie in voxels of %s m with far more points than usual and share the predictions of"
                " others there. Later scans like this are not named",
                *(result["name"], len(inverse) - len(kept), len(inverse), grid_size),
            )
        if "segment" in result:
            result.setdefault("origin_segment", result["segment"])
            result["segment"] = result["segment"][kept]
        result["inverse"] = inverse[result["inverse"]] if "inverse" in result else inverse
        result["num_points"] = len(kept)
        return select_points(sample, kept)

    @staticmethod
    def _check_inverse(result: Mapping[str, Any]) -> None:
        """Check that ``inverse`` leads from ``origin_segment`` to the points of the fragments."""
        inverse, origin, n = result.get("inverse"), result.get("origin_segment"), result["num_points"]
        if origin is not None and inverse is None and len(origin) != n:
            raise ConfigError(
                f"origin_segment has {len(origin)} points and the transformed scan {n}: GridSample needs"
                " return_inverse=True to lead predictions back"
            )
        if inverse is None:
            return
        if inverse.max() >= n or (origin is not None and len(inverse) != len(origin)):
            raise ConfigError(
                f"inverse has {len(inverse)} points and leads to {inverse.max() + 1}, the transformed scan has {n}"
                + (f" and origin_segment {len(origin)}" if origin is not None else "")
                + ": no transform but one GridSample may change the number of points in test mode"
            )

    def __getitem__(self, item: int | Draw) -> dict[str, Any]:
        """Sample ``item``; with a :class:`Draw` the random generators of this process are seeded first.

        Raises:
            IndexError: the index is outside [0, len(self)).
        """
        if isinstance(item, Draw):
            seed_all(item.seed)
            item = item.index
        if not 0 <= item < len(self):
            raise IndexError(f"index {item} is outside 0..{len(self) - 1}")
        idx = int(item) % len(self.data_list)
        return self.prepare_test_data(idx) if self.test_mode else self.prepare_train_data(idx)

    def __len__(self) -> int:
        return len(self.data_list) * self.loop
