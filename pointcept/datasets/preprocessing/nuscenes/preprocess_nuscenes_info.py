"""Write the info files of nuScenes lidarseg.

    python pointcept/datasets/preprocessing/nuscenes/preprocess_nuscenes_info.py \\
        --dataset_root data/nuscenes/raw --output_root data/nuscenes --max_sweeps 10

reads the JSON tables and writes ``data/nuscenes/info/nuscenes_infos_10sweeps_{train,val,test}.pkl``, for the mini set
``..._{mini_train,mini_val}.pkl``. What an info holds stands in ``info.py``; the files are interchangeable with
Pointcept's. Without ``--versions`` every version whose tables are there is done.

nuscenes-devkit is not imported. It needs NumPy 1, OpenCV and more for what are a few look-ups in the tables, which
``tables.py`` does itself. Only the official scene lists are taken from an installed devkit (``splits.py``).
"""

from __future__ import annotations

import argparse
import logging
import pickle
import sys
from pathlib import Path

from tqdm import tqdm

from pointcept.datasets.preprocessing.nuscenes.info import Info, build_info, complete_scenes, info_path
from pointcept.datasets.preprocessing.nuscenes.splits import VERSION_SPLITS, scenes_by_split
from pointcept.datasets.preprocessing.nuscenes.tables import NuScenesTables
from pointcept.utils.errors import DataError
from pointcept.utils.faults import guarded

logger = logging.getLogger("preprocess_nuscenes_info")


def build_split_infos(dataset_root: Path, version: str, max_sweeps: int, with_camera: bool) -> dict[str, list[Info]]:
    """Return split -> infos, in the order of the table ``sample``, for one version of the tables.

    Raises:
        DataError: if a table, a record, a scan or a label file is missing.
        ImportError: if the official scene lists are needed and no devkit is installed.
    """
    labelled = version != "v1.0-test"
    tables = NuScenesTables(dataset_root, version, labelled)
    scene_name = {token: record["name"] for token, record in tables.scene.items()}
    scenes = scenes_by_split(dataset_root, version, set(scene_name.values()))
    split_of = {name: split for split, names in scenes.items() for name in names}
    if not split_of:
        raise DataError(f"no scene of {dataset_root / version} is in one of the splits {', '.join(scenes)}")
    unknown = sorted(set(scene_name.values()) - split_of.keys())
    if unknown:
        logger.warning("%d scenes of %s belong to no split, such as %s", len(unknown), version, unknown[0])
    named = []
    for sample in tqdm(tables.sample.values(), desc=version, unit="scan"):
        name = tables.get("scene", scene_name, sample["scene_token"])
        if name in split_of:
            named.append((name, build_info(tables, sample, max_sweeps, with_camera, labelled)))
    there = complete_scenes(dataset_root, named)
    return {split: [i for name, i in named if name in there and split_of[name] == split] for split in scenes}


def write_infos(path: Path, infos: list[Info]) -> None:
    """Write an info file, which appears under its name only when it is whole; raises ``OSError`` if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(pickle.dumps(infos, protocol=4))
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def find_versions(dataset_root: Path, wanted: list[str] | None) -> list[str]:
    """Return the versions to do.

    Raises:
        DataError: if a wanted version, or without a wish any version, has no folder of tables.
    """
    there = [version for version in VERSION_SPLITS if (dataset_root / version).is_dir()]
    missing = [version for version in wanted or () if version not in there]
    if missing or not there:
        absent = ", ".join(missing) or " or ".join(VERSION_SPLITS)
        raise DataError(
            f"--dataset_root: {dataset_root} has no folder {absent}; expected "
            "the official layout with samples/, sweeps/, lidarseg/ and one folder of JSON tables per version"
        )
    return wanted or there


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 after failed writing, 2 if the data set is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_root", type=Path, required=True, help="folder with samples/, lidarseg/, v1.0-*/")
    parser.add_argument("--output_root", type=Path, required=True, help="info/ is written below it")
    parser.add_argument("--max_sweeps", type=int, default=10, help="the key frame and the sweeps before it")
    parser.add_argument("--with_camera", action="store_true", help="add the calibration of the cameras")
    parser.add_argument("--versions", nargs="+", choices=tuple(VERSION_SPLITS), help="default: those that are there")
    args = parser.parse_args(argv)
    if args.max_sweeps < 1:
        parser.error(f"--max_sweeps must be at least 1, got {args.max_sweeps}")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        for version in find_versions(args.dataset_root, args.versions):
            splits = build_split_infos(args.dataset_root, version, args.max_sweeps, args.with_camera)
            for split, infos in splits.items():
                path = info_path(args.output_root, args.max_sweeps, split)
                write_infos(path, infos)
                logger.info("%s: %d scans", path, len(infos))
    except (DataError, ImportError) as error:
        logger.error("%s", error)
        return 2
    except OSError as error:
        logger.error("writing failed: %s. Whole info files are kept; the same command writes them all again", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
