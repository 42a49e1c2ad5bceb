"""Point clouds in the formats that others write: one file per family of formats, all with the same contract.

    files = find_clouds([Path("scans")], CloudOptions())
    cloud = read_cloud(files[0], CloudOptions(fields={"intensity": "reflectance"}))

A reader gives all fields of a file by name; :mod:`.frame` makes of them what networks read, :mod:`.write` writes
predictions beside them. No module here imports an optional package before a file asks for it.
"""

from .cloud import Cloud, CloudFile, CloudFormat, CloudOptions
from .files import FORMATS, SUFFIXES, find_clouds, format_of, read_cloud

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Cloud",
    "CloudFile",
    "CloudFormat",
    "CloudOptions",
    "find_clouds",
    "format_of",
    "read_cloud",
]
