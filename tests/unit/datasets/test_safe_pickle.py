"""The restricted unpickler: arrays of NumPy 1 and 2 pass, everything that could run or corrupt does not."""

from __future__ import annotations

import base64
import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointcept.datasets.safe_pickle import load_plain_pickle
from pointcept.utils.errors import DataError

# [{"a": np.arange(3.0), "s": np.array(["ab", "c"]), "f": np.float64(2.5), "d": np.eye(2).T}], written by NumPy 1.26.4.
NUMPY1 = {
    4: (
        "gASVXwEAAAAAAABdlH2UKIwBYZSMFW51bXB5LmNvcmUubXVsdGlhcnJheZSMDF9yZWNvbnN0cnVjdJSTlIwFbnVtcHmUjAduZGFy"
        "cmF5lJOUSwCFlEMBYpSHlFKUKEsBSwOFlGgGjAVkdHlwZZSTlIwCZjiUiYiHlFKUKEsDjAE8lE5OTkr/////Sv////9LAHSUYolD"
        "GAAAAAAAAAAAAAAAAAAA8D8AAAAAAAAAQJR0lGKMAXOUaAVoCEsAhZRoCoeUUpQoSwFLAoWUaA+MAlUylImIh5RSlChLA2gTTk5O"
        "SwhLBEsIdJRiiUMQYQAAAGIAAABjAAAAAAAAAJR0lGKMAWaUaAOMBnNjYWxhcpSTlGgSQwgAAAAAAAAEQJSGlFKUjAFklGgFaAhL"
        "AIWUaAqHlFKUKEsBSwJLAoaUaBKIQyAAAAAAAADwPwAAAAAAAAAAAAAAAAAAAAAAAAAAAADwP5R0lGJ1YS4="
    ),
    5: (
        "gAWVWAEAAAAAAABdlH2UKIwBYZSMEm51bXB5LmNvcmUubnVtZXJpY5SMC19mcm9tYnVmZmVylJOUKJYYAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAA8D8AAAAAAAAAQJSMBW51bXB5lIwFZHR5cGWUk5SMAmY4lImIh5RSlChLA4wBPJROTk5K/////0r/////SwB0lGJLA4WU"
        "jAFDlHSUUpSMAXOUaAUolhAAAAAAAAAAYQAAAGIAAABjAAAAAAAAAJRoCYwCVTKUiYiHlFKUKEsDaA1OTk5LCEsESwh0lGJLAoWU"
        "aBB0lFKUjAFmlIwVbnVtcHkuY29yZS5tdWx0aWFycmF5lIwGc2NhbGFylJOUaAxDCAAAAAAAAARAlIaUUpSMAWSUaAUoliAAAAAA"
        "AAAAAAAAAAAA8D8AAAAAAAAAAAAAAAAAAAAAAAAAAAAA8D+UaAxLAksChpSMAUaUdJRSlHVhLg=="
    ),
}


def expected() -> list[dict[str, Any]]:
    return [{"a": np.arange(3.0), "s": np.array(["ab", "c"]), "f": np.float64(2.5), "d": np.eye(2).T}]


def load(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    return load_plain_pickle(path)


def assert_same(found: list[dict[str, Any]]) -> None:
    (entry,) = found
    for key, value in expected()[0].items():
        np.testing.assert_array_equal(entry[key], value)
        assert entry[key].dtype == value.dtype
        assert isinstance(entry[key], np.ndarray | np.generic)


@pytest.mark.parametrize("protocol", [4, 5])
def test_numpy_1_files(tmp_path: Path, protocol: int) -> None:
    data = base64.b64decode(NUMPY1[protocol])
    assert b"numpy.core" in data
    assert b"numpy._core" not in data
    assert_same(load(tmp_path, data))


@pytest.mark.parametrize("protocol", [4, 5])
def test_files_of_this_numpy(tmp_path: Path, protocol: int) -> None:
    assert_same(load(tmp_path, pickle.dumps(expected(), protocol)))


def test_loaded_arrays_are_written_as_ordinary_ones(tmp_path: Path) -> None:
    found = load(tmp_path, pickle.dumps(expected(), 4))
    for protocol in (4, 5):
        again = pickle.dumps(found, protocol)
        assert b"pointcept" not in again
        assert_same(pickle.loads(again))


def test_plain_containers_and_byte_order(tmp_path: Path) -> None:
    plain = [None, True, 3, 2.5, "s", b"b", (1,), {"k": {1, 2}}, [[]]]
    assert load(tmp_path, pickle.dumps(plain, 4)) == plain
    big = np.arange(300, dtype=">i4").reshape(3, 100)
    for protocol in (4, 5):
        np.testing.assert_array_equal(load(tmp_path, pickle.dumps(big, protocol)), big)


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call(os.system, "touch pwned"), "system"),
        (Call(eval, "1"), "eval"),
        (Call(getattr, "x", "y"), "getattr"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (np.random.default_rng(0), "numpy.random"),
        (Path("x"), "pathlib"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_everything_else_is_refused_by_name(
    tmp_path: Path, value: Any, named: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"x\.pkl.*'[\w.]*{named}[\w.]*' is refused"):
        load(tmp_path, pickle.dumps([{"lidar_path": "x", "bad": value}], protocol))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


def test_object_arrays_and_forged_dtypes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not allowed, only numbers and strings"):
        load(tmp_path, pickle.dumps(np.array([1, "a"], dtype=object), 4))
    with pytest.raises(DataError, match="not allowed"):
        load(tmp_path, pickle.dumps(np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]), 4))
    with pytest.raises(DataError, match="not allowed"):
        load(tmp_path, pickle.dumps(Call(np.dtype, "O"), 4))
    # An array whose bytes do not fill its shape.
    whole = pickle.dumps(np.zeros(4, np.int64), 4)
    forged = whole.replace(b"K\x04\x85", b"K\x40\x85")
    assert forged != whole
    with pytest.raises(DataError):
        load(tmp_path, forged)
    assert list(pickletools.genops(forged))  # a well-formed pickle: its array was refused, not its syntax


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    data = pickle.dumps(expected(), 4)
    for damaged in (b"", data[: len(data) // 2], b"not a pickle", data[:40] + bytes([data[40] ^ 255]) + data[41:]):
        with pytest.raises(DataError, match=r"x\.pkl"):
            load(tmp_path, damaged)
    with pytest.raises(DataError, match="cannot be read"):
        load_plain_pickle(tmp_path / "none.pkl")
