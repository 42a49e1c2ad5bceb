"""LAS and LAZ, the formats of surveying (ASPRS), through laspy, LAZ with lazrs: the extra ``las``."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError, DataError

from .cloud import Cloud, CloudFile, CloudFormat, CloudOptions

FIRST_OWN = 64
"""The first classification code that ASPRS leaves to users (LAS 1.4 R15, table 17)."""
UNASSIGNED = 1
"""Classification code of points that have none."""
OLD_FORMATS = {0: 6, 1: 6, 2: 7, 3: 7, 4: 9, 5: 10}
"""Point formats that hold no code above 31 -> those that hold the same and 8 bits of classification."""


def _laspy() -> ModuleType:
    try:
        import laspy
    except ImportError as error:
        raise ConfigError(f"LAS and LAZ files need laspy ({error}): pip install 'pointcept[las]'") from error
    return laspy


def read(file: CloudFile, options: CloudOptions) -> Cloud:
    """Read all dimensions; x, y, z are scaled, float64 [m].

    Raises:
        ConfigError: laspy is missing.
        DataError: it is no LAS file, or shorter than its header says.
    """
    laspy = _laspy()
    try:
        data = laspy.read(file.path)
        fields = {axis: np.array(getattr(data, axis), np.float64) for axis in "xyz"}
        for name in data.point_format.dimension_names:
            values = np.asarray(data[name])
            if name not in ("X", "Y", "Z") and values.ndim == 1 and values.dtype.kind in "fiub":
                fields[name] = values
        expected = data.header.point_count
    except OSError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigError(f"LAZ files need lazrs ({error}): pip install 'pointcept[las]'") from error
    except Exception as error:  # laspy and lazrs have no error in common
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"is damaged or no LAS file: {reason}") from None
    if len(fields["x"]) != expected:
        raise DataError(f"{len(fields['x'])} points, its header says {expected}: truncated?")
    return Cloud(fields, data)


def write(cloud: Cloud, suffix: str) -> bytes:
    """A LAS or LAZ file with the field ``label`` as classification.

    A file that was LAS keeps its header and its other dimensions; a point format too old for 8 bits of classification
    becomes the newer one that holds the same. Of other clouds x, y, z (to 0.1 mm) and the intensity are written.
    """
    laspy = _laspy()
    data = cloud.source if isinstance(cloud.source, laspy.LasData) else _new(laspy, cloud)
    codes = cloud.fields["label"].astype(np.uint8)
    if data.point_format.id in OLD_FORMATS and len(codes) and codes.max() > 31:
        data = laspy.convert(data, point_format_id=OLD_FORMATS[data.point_format.id])
    data.classification = codes
    buffer = io.BytesIO()
    data.write(buffer, do_compress=suffix == ".laz")
    return buffer.getvalue()


def _new(laspy: ModuleType, cloud: Cloud) -> Any:
    header = laspy.LasHeader(point_format=6, version="1.4")
    coord = cloud.coord({}).astype(np.float64)
    header.scales = np.full(3, 1e-4)
    header.offsets = np.floor(np.nanmin(coord, axis=0)) if len(coord) else np.zeros(3)
    data = laspy.LasData(header)
    finite = np.isfinite(coord)
    data.x, data.y, data.z = np.where(finite, coord, header.offsets).T  # LAS has no NaN
    intensity = cloud.find("intensity", {})
    if intensity is not None:
        values = np.nan_to_num(cloud.fields[intensity].astype(np.float64))
        top = float(values.max(initial=0.0))
        data.intensity = np.clip(values * (65535 if top <= 1 else 257 if top <= 255 else 1), 0, 65535).astype(np.uint16)
    return data


FORMAT = CloudFormat("LAS", (".las", ".laz"), read, write)
