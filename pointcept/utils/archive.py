"""Whether a file of ``torch.save`` still holds the bytes that were written.

Such a file is a zip archive: a record per tensor, one for the structure, and a few small ones. Each has a CRC-32, which
``torch.load`` does not compare, so that a flipped bit becomes another weight.
"""

from __future__ import annotations

import errno
import logging
import zipfile
from pathlib import Path
from typing import IO

from pointcept.utils.errors import DamagedFile

logger = logging.getLogger(__name__)

_HEAD = b"PK\x03\x04"
_CHUNK = 1 << 22  # bytes
_FOLDER = 0x10  # an attribute of records; torch leaves what has it unread, whatever is in memory then


def check_archive(path: Path) -> None:
    """Compare every record of a file with its checksum.

    What torch wrote before 1.6, which is no archive, and what was written without checksums
    (``torch.serialization.set_crc32_options(False)``) pass with a warning.

    Raises:
        DamagedFile: a record, or the list of records, is not what was written.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        whole = file.read(len(_HEAD)) == _HEAD
        if not whole and not zipfile.is_zipfile(file):
            logger.warning("%s: a file of torch before 1.6 has no checksums, so damage cannot be seen", path)
            return
        found = _damage(file) if whole else "its first bytes"
    if found is None:
        logger.warning("%s was written without checksums, so damage cannot be seen", path)
    elif found:
        size = path.stat().st_size
        raise DamagedFile(f"weight file {path} ({size} bytes) is damaged: {found} changed after it was written")


def _damage(file: IO[bytes]) -> str | None:
    """What is not as it was written; ``""`` if all is, None if there are no checksums."""
    place = "the list of records at its end"
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if not any(record.CRC for record in records):
                return None
            for record in records:
                place = f"record {record.filename!r}"
                stored = record.compress_type == zipfile.ZIP_STORED
                if record.external_attr & _FOLDER or (stored and record.file_size != record.compress_size):
                    return place
                with archive.open(record) as stream:
                    while stream.read(_CHUNK):
                        pass
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # what has changed can raise anything; the disk says EIO, a place before the start EINVAL
        if isinstance(error, OSError) and error.errno not in (None, errno.EIO, errno.EINVAL):
            raise
        return place
    return ""
