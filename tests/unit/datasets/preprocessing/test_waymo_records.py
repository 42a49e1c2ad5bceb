"""TFRecord reading and writing: checksums, truncation, what is said about damage."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from pointcept.datasets.preprocessing.waymo import protos, tfrecord
from pointcept.utils.errors import DataError

pytest.importorskip("google_crc32c", reason="needs the extra 'waymo'")

PAYLOADS = [b"first", b"", bytes(range(256)) * 5]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "a.tfrecord"
    tfrecord.write_records(path, PAYLOADS)
    return path


def offset_of(number: int) -> int:
    return sum(16 + len(payload) for payload in PAYLOADS[:number])


def damage(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_masked_crc_of_the_published_check_value() -> None:
    # CRC-32C of "123456789" is 0xE3069283 (RFC 3720 uses the same polynomial).
    crc = 0xE3069283
    assert tfrecord.masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_round_trip(records: Path) -> None:
    expected = [(offset_of(number), payload) for number, payload in enumerate(PAYLOADS)]
    assert list(tfrecord.iter_records(records)) == expected
    assert [path.name for path in records.parent.iterdir()] == [records.name]


def test_official_file(golden_dir: Path) -> None:
    path = next((golden_dir / "waymo" / "training").glob("*.tfrecord"))
    assert [offset for offset, _ in tfrecord.iter_records(path)] == [0, 171207, 328311]


def test_damaged_payload_is_named_and_passed_over(records: Path) -> None:
    damage(records, offset_of(2) + 100)
    errors: list[DataError] = []
    assert [payload for _, payload in tfrecord.iter_records(records, errors.append)] == PAYLOADS[:2]
    assert f"{records}: record at byte {offset_of(2)}: the checksum of its 1280 bytes" in str(errors[0])
    damage(records, offset_of(2) + 100)
    damage(records, 13)
    errors.clear()
    assert [payload for _, payload in tfrecord.iter_records(records, errors.append)] == PAYLOADS[1:]
    assert "record at byte 0" in str(errors[0])
    with pytest.raises(DataError, match="record at byte 0"):
        list(tfrecord.iter_records(records))


def test_damaged_length_ends_the_file(records: Path) -> None:
    damage(records, offset_of(1) + 2)
    errors: list[DataError] = []
    assert [payload for _, payload in tfrecord.iter_records(records, errors.append)] == PAYLOADS[:1]
    assert len(errors) == 1
    assert f"record at byte {offset_of(1)}: the checksum of its length" in str(errors[0])


@pytest.mark.parametrize("cut", [1, 4, 1000, 16 + 1280 - 3])
def test_truncation(records: Path, cut: int) -> None:
    data = records.read_bytes()
    records.write_bytes(data[:-cut])
    errors: list[DataError] = []
    assert [payload for _, payload in tfrecord.iter_records(records, errors.append)] == PAYLOADS[:2]
    assert len(errors) == 1
    assert f"record at byte {offset_of(2)}: truncated" in str(errors[0])


def test_a_length_beyond_the_file_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "huge.tfrecord"
    length = struct.pack("<Q", 1 << 60)
    path.write_bytes(length + struct.pack("<I", tfrecord.masked_crc32c(length)))
    with pytest.raises(DataError, match="byte 0: truncated, it should end at byte"):
        list(tfrecord.iter_records(path))


def test_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tfrecord.*cannot be read"):
        list(tfrecord.iter_records(tmp_path / "none.tfrecord"))


def test_import_error_names_extra_and_command() -> None:
    with pytest.raises(ImportError, match=r"'waymo'.*pip install --no-deps waymo-open-dataset-tf-2-12-0==1\.6\.7"):
        protos.optional_import("waymo_open_dataset_that_is_not_there")


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_matrices(dtype: type) -> None:
    pytest.importorskip("waymo_open_dataset.dataset_pb2")
    pb2 = protos.dataset_pb2()
    array = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    message = pb2.MatrixInt32() if dtype is np.int32 else pb2.MatrixFloat()
    decoded = protos.decode_matrix(protos.encode_matrix(array), message, "m")
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, array)
    with pytest.raises(DataError, match="m is damaged"):
        protos.decode_matrix(b"no zlib", pb2.MatrixFloat(), "m")
    with pytest.raises(DataError, match="not a Waymo Frame"):
        protos.parse_frame(b"\xff\xff")
