"""Looking at scans: ``pointcept view``, ``tools/view.py``.

    python tools/view.py --weight exp/student/model/model_best.pth --teacher --out scan.png scan.html
    python tools/view.py --config FILE --samples 4 --out samples/

Writes what the suffix of each ``--out`` says: ``.png`` a picture (a folder for several), ``.html`` an interactive page
that needs no network, ``.gif`` and ``.mp4`` a movie, ``.rrd`` a recording for Rerun.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pointcept.engines.defaults import load_config
from pointcept.engines.preflight import check_prediction
from pointcept.engines.restore import config_of
from pointcept.ops import backend
from pointcept.utils.config import Config, parse_options
from pointcept.utils.errors import ConfigError, MachineError
from pointcept.utils.files import writable_file, writable_folder
from pointcept.utils.logging import setup_logging
from pointcept.views import movie, recording
from pointcept.views.colours import THEMES
from pointcept.views.inputs import SPLITS, ClassFiles, Network, Scans, named_scans, scenes, split_scans
from pointcept.views.page import write_page
from pointcept.views.picture import ANGLES, REACH, Look, palette, pillow, write_picture
from pointcept.views.samples import samples
from pointcept.views.scene import TRUTH, Scene, worst
from pointcept.views.sheet import Sheet, augmented, compared

logger = logging.getLogger(__name__)

FORMATS = (".png", ".html", ".gif", ".mp4", ".rrd")
STUDENT, TEACHER, PREDICTION = "student", "teacher", "prediction"


def argument_parser() -> argparse.ArgumentParser:
    """The command line of ``pointcept view``."""
    parser = argparse.ArgumentParser(description="Look at scans: truth, teacher, student and where they differ.")
    _add_networks(parser)
    _add_scans(parser)
    out = parser.add_argument_group("what is made of them")
    out.add_argument(
        "--out",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="files: " + ", ".join(FORMATS) + "; or a folder for one .png of each scan",
    )
    out.add_argument("--live", action="store_true", help="open the viewer of Rerun (extra rerun)")
    out.add_argument("--theme", choices=sorted(THEMES), default="dark")
    out.add_argument("--width", type=int, default=1920, metavar="PX", help="of pictures and movies, from 320 to 8192")
    out.add_argument("--angles", nargs="+", choices=ANGLES, default=list(ANGLES), help="rows of pictures")
    out.add_argument("--reach", type=float, default=REACH, metavar="M", help="how far pictures look (default 40 m)")
    out.add_argument("--small", action="store_true", help="256 colours in a .png: a third of the size")
    out.add_argument("--fps", type=float, default=5.0, help="scans a second in movies, up to 50 (default 5)")
    out.add_argument("--spin", type=int, default=0, metavar="N", help="movies: N pictures of a turn about the scan")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override the config"
    )
    return parser


def _add_networks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which networks, or files that hold what they said")
    group.add_argument("--config", "--config-file", metavar="FILE", help="default: the config that --weight carries")
    group.add_argument("--weight", metavar="PATH", help="weights of the network that is looked at")
    group.add_argument(
        "--teacher",
        nargs="?",
        const="",
        metavar="PATH",
        help="weights of its teacher; without PATH those that the config of a distillation names",
    )
    group.add_argument("--quick", action="store_true", help="one view of each scan instead of all of data.test")
    group.add_argument(
        "--pred",
        nargs="+",
        default=[],
        metavar="[NAME=]PATH",
        help=".npy, .label or .bin files of predictions, or folders of them; NAME is student or teacher",
    )
    group.add_argument("--truth", metavar="PATH", help="labels, likewise, where the data set has none of them")


def _add_scans(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which scans")
    group.add_argument("--split", choices=SPLITS, help="section of data in the config (default val; samples: train)")
    group.add_argument("--scan-index", nargs="+", default=[], metavar="I", help="indices or names (default: the first)")
    group.add_argument("--all", action="store_true", help="all scans of the split")
    group.add_argument("--worst", type=int, metavar="N", help="the N scans with the largest share of wrong points")
    group.add_argument("--scan", type=Path, metavar="PATH", help="a scan file, or a folder of them, instead")
    group.add_argument(
        "--samples", type=int, metavar="N", help="N training samples instead: a scan, and what augmentation makes of it"
    )


def main(args: argparse.Namespace) -> None:
    """Make what the arguments ask for.

    Raises:
        ConfigError: an argument or the config is wrong, or a package is missing.
        CheckpointError: weights are missing, damaged or do not fit.
        DataError: a scan or a file of classes is missing or malformed.
        MachineError: a file cannot be written.
    """
    setup_logging()
    check_arguments(args)
    cfg = config_from(args)
    backend.configure(cfg.backend)
    look = Look(THEMES[args.theme], args.width, tuple(dict.fromkeys(args.angles)), args.reach, 0.0, args.small)
    if args.samples:
        drawn = list(samples(cfg, args.split or "train", args.samples))
        shown = [scene for before, after, _ in drawn for scene in (before, after)]
        sheets = [augmented(*entry) for entry in drawn]
    else:
        shown = look_at(cfg, args)
        classes = shown[0].classes.shown(*(layer for scene in shown for layer in scene.layers.values()))
        alike = any(path.suffix in (".gif", ".mp4") for path in args.out)
        sheets = [compared(scene, look.theme, classes if alike else None) for scene in shown]
    try:
        write(args, shown, sheets, look)
    except OSError as error:
        raise MachineError(f"cannot write {error.filename or 'a file'}: {error.strerror or error}") from error


def check_arguments(args: argparse.Namespace) -> None:
    """Check what can be checked before anything is read.

    Raises:
        ConfigError: arguments do not go together, are out of their range, or ask for a package that is missing.
    """
    if not args.out and not args.live:
        raise ConfigError(f"nothing to make: name --out FILE ({', '.join(FORMATS)}) or --live")
    for name, low, high in (("width", 320, 8192), ("reach", 1, 1000), ("fps", 0.1, 50), ("spin", 0, 1000)):
        value = getattr(args, name)
        if not low <= value <= high:
            raise ConfigError(f"--{name}: got {value}, allowed: {low} to {high}")
    for name in ("worst", "samples"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name}: got {getattr(args, name)}, allowed: 1 or more")
    chosen = [f"--{n.replace('_', '-')}" for n in ("scan_index", "all", "worst", "scan", "samples") if getattr(args, n)]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)} choose scans in different ways: name one")
    if args.samples and (args.teacher is not None or args.pred or args.truth):
        raise ConfigError("--samples shows training samples without networks: leave --teacher, --pred and --truth out")
    for path in args.out:
        _check_out(path)
    if args.live:
        recording.rerun()


def _check_out(path: Path) -> None:
    """Check that a file can be written, and that the package for it is there.

    Raises:
        ConfigError: it cannot, or it is not.
    """
    needs: dict[str, Callable[[], Any]] = {
        "": pillow, ".png": pillow, ".gif": pillow, ".mp4": movie.check_video, ".rrd": recording.rerun,
    }  # fmt: skip
    suffix = path.suffix.lower()
    if suffix and suffix not in FORMATS and not path.is_dir():
        raise ConfigError(f"--out {path}: allowed are {', '.join(FORMATS)} and folders")
    needs.get("" if path.is_dir() else suffix, lambda: None)()
    if path.is_dir() or not suffix:
        writable_folder(path, "--out")
    else:
        writable_file(path, "--out")


def config_from(args: argparse.Namespace) -> Config:
    """The config that the arguments name, or that the weights carry.

    Raises:
        ConfigError: there is none, or it is wrong.
        CheckpointError: the weights are missing or damaged.
    """
    options = parse_options(args.options)
    if args.config is None and args.weight is None:
        raise ConfigError("name --config FILE, or --weight PATH of a checkpoint that carries its config")
    if args.config is None:
        return config_of(args.weight, options)
    if args.weight is not None:
        options["weight"] = args.weight
    return load_config(args.config, options)


def look_at(cfg: Config, args: argparse.Namespace) -> list[Scene]:
    """The scenes that the arguments ask for.

    Raises:
        ConfigError, CheckpointError, DataError: see :func:`main`.
    """
    networks = load_networks(cfg, args)
    files = [ClassFiles.parse(text, PREDICTION) for text in args.pred]
    layers = [network.name for network in networks] + [entry.layer for entry in files]
    wrong = [layer for layer in layers if layer not in (PREDICTION, STUDENT, TEACHER)]
    if wrong or len(layers) > 2 or (len(layers) == 2 and TEACHER not in layers) or len(set(layers)) < len(layers):
        raise ConfigError(
            f"got the predictions {', '.join(layers)}, allowed: one, or two of which one is called {TEACHER}, such as "
            f"--pred {TEACHER}=PATH {STUDENT}=PATH"
        )
    if args.truth is not None:
        files.append(ClassFiles(TRUTH, Path(args.truth)))
    found = scenes(_scans(cfg, args, bool(networks)), networks, files)
    return list(found) if args.worst is None else worst(found, args.worst)


def _scans(cfg: Config, args: argparse.Namespace, predict: bool) -> Scans:
    if args.scan is not None:
        return named_scans(cfg, args.scan, args.quick)
    every = args.all or args.worst is not None
    return split_scans(cfg, args.split or "val", args.scan_index, predict, every, args.quick)


def load_networks(cfg: Config, args: argparse.Namespace) -> list[Network]:
    """The teacher and the network that is looked at, those of them that the arguments name.

    Raises:
        ConfigError: there is no teacher to be found, or the config has no ``data.test``.
        CheckpointError: weights are missing, damaged or do not fit.
    """
    found = []
    if args.teacher is not None:
        weight = args.teacher or cfg.model.get("teacher_weight")
        if not weight:
            raise ConfigError("--teacher without PATH needs the config of a distillation, with model.teacher_weight")
        own = cfg.model.get("teacher")
        known = cfg if own is not None else config_of(weight)
        found.append(Network.load(TEACHER, (own if own is not None else known.model).to_dict(), known, weight))
    if args.weight is not None or (cfg.weight and not args.pred):
        found.append(Network.load(STUDENT if found else PREDICTION, cfg.model.to_dict(), cfg, cfg.weight))
    if found:
        if cfg.data.get("test") is None:
            raise ConfigError("predictions need data.test with test_mode=True and test_cfg")
        check_prediction(cfg, ["test"])
    return found


def write(args: argparse.Namespace, shown: Sequence[Scene], sheets: Sequence[Sheet], look: Look) -> None:
    """Write every file that the arguments name.

    Raises:
        ConfigError: a file of a format that holds one scan is to hold several, or a movie has one picture.
        OSError: it cannot be written.
    """
    for path in args.out:
        suffix = "" if path.is_dir() else path.suffix.lower()
        if suffix == "":
            for sheet in sheets:
                _log(path / f"{sheet.title.replace('/', '_')}.png", write_picture, sheet, look)
        elif suffix == ".png":
            if len(sheets) > 1:
                raise ConfigError(f"--out {path}: {len(sheets)} scans make as many pictures, so name a folder")
            _log(path, write_picture, sheets[0], look)
        elif suffix == ".html":
            _log(path, write_page, shown, args.theme)
        elif suffix == ".rrd":
            _log(path, recording.save, shown)
        else:
            if len(sheets) == 1 and not args.spin:
                raise ConfigError(f"--out {path}: one scan is no movie; --spin N turns the camera about it")
            pictures = movie.frames(sheets, look, args.spin)
            if suffix == ".gif":
                _log(path, movie.write_gif, pictures, args.fps, palette(sheets[0], look.theme))
            else:
                _log(path, movie.write_mp4, pictures, args.fps)
    if args.live:
        recording.show(shown)


def _log(path: Path, writer: Callable[..., None], *arguments: Any) -> None:
    """Write a file and say so."""
    writer(path, *arguments)
    logger.info("%s: %.1f MB", path, path.stat().st_size / 1e6)
