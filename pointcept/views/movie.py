"""Sheets one after the other as GIF or MP4, over a sequence or around a scan."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError
from pointcept.utils.files import write_bytes_atomic
from pointcept.views.picture import Look, render
from pointcept.views.raster import ground_height
from pointcept.views.sheet import Sheet

logger = logging.getLogger(__name__)


def frames(sheets: Sequence[Sheet], look: Look, spin: int = 0) -> Iterator[Any]:
    """The pictures of a movie.

    Args:
        sheets: one for each scan.
        look: how they are drawn.
        spin: pictures of a turn of the camera about the scanner; with several sheets they go on meanwhile. 0: the
            camera stands still, and each sheet is one picture.
    """
    ground = ground_height(sheets[0].panels[0].coord)  # of the first for all: the camera does not jump
    number = spin or len(sheets)
    for i in range(number):
        sheet = sheets[i * len(sheets) // number]
        turned = replace(look, turn=look.turn + 360 * i / number if spin else look.turn)
        yield render(sheet, turned, ground)
        if (i + 1) % 10 == 0:
            logger.info("drew %d of %d pictures", i + 1, number)


def write_gif(path: Path, pictures: Iterator[Any], fps: float, colours: Any) -> None:
    """Write pictures of one size as an animated GIF that repeats.

    Args:
        path: the file.
        pictures: in their order.
        fps: pictures a second.
        colours: palette of all of them, so that none flickers and what stays is left out of the later ones.

    Raises:
        OSError: the file cannot be written.
    """
    first, *rest = (picture.quantize(palette=colours, dither=0) for picture in pictures)
    stream = io.BytesIO()
    # GIF counts in hundredths of a second.
    duration = max(20, round(100 / fps) * 10)
    first.save(stream, format="GIF", save_all=True, append_images=rest, duration=duration, loop=0, optimize=True)
    write_bytes_atomic(path, stream.getvalue())


def check_video() -> Any:
    """The package that writes MP4.

    Raises:
        ConfigError: it is missing.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ConfigError(f"MP4 needs imageio-ffmpeg ({error}): pip install '.[video]', or name a .gif") from error
    return imageio_ffmpeg


def write_mp4(path: Path, pictures: Iterator[Any], fps: float) -> None:
    """Write pictures of one size as MP4 (H.264).

    Raises:
        ConfigError: imageio-ffmpeg is missing.
        OSError: the file cannot be written.
    """
    ffmpeg = check_video()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    first = next(pictures)
    size = first.width // 2 * 2, first.height // 2 * 2  # colours are kept for 2 x 2 pixels
    writer = ffmpeg.write_frames(str(temporary), size, fps=fps, quality=8, macro_block_size=2, ffmpeg_log_level="error")
    try:
        writer.send(None)
        for picture in _chain(first, pictures):
            writer.send(np.ascontiguousarray(np.asarray(picture)[: size[1], : size[0]]).tobytes())
        writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
