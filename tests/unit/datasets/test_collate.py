"""Batches: concatenation, offsets, Mix3D."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointcept.datasets import collate_fn, point_collate_fn
from pointcept.utils.errors import DataError


def samples(*lengths):
    return [
        {
            "coord": torch.full((n, 3), float(i)),
            "segment": torch.full((n,), i),
            "offset": torch.tensor([n]),
            "name": f"scan{i}",
        }
        for i, n in enumerate(lengths)
    ]


def test_concatenates():
    batch = collate_fn(samples(3, 1, 4))
    assert batch["coord"].shape == (8, 3)
    assert batch["segment"].tolist() == [0] * 3 + [1] + [2] * 4
    assert batch["offset"].tolist() == [3, 4, 8]
    assert batch["offset"].dtype == torch.int64
    assert batch["name"] == ["scan0", "scan1", "scan2"]


def test_generic_keys():
    data = [
        {"view_offset": torch.tensor([2, 5]), "pose": {"t": torch.zeros(1, 4)}, "scalar": torch.tensor(1.0), "n": 7}
    ] * 2
    batch = collate_fn(data)
    assert batch["view_offset"].tolist() == [2, 5, 7, 10]
    assert batch["pose"]["t"].shape == (2, 4)
    assert batch["scalar"].shape == (2,)
    assert batch["n"] == [7, 7]


def test_makes_the_offset():
    data = [{"coord": torch.zeros(n, 3)} for n in (2, 3)]
    assert collate_fn(data)["offset"].tolist() == [2, 5]


@pytest.mark.parametrize(
    ("lengths", "expected", "names"),
    [
        ((3, 1, 4, 2), [4, 10], ["scan0+scan1", "scan2+scan3"]),
        ((3, 1, 4), [4, 8], ["scan0+scan1", "scan2"]),
        ((3, 1), [4], ["scan0+scan1"]),
        ((3,), [3], ["scan0"]),
    ],
)
def test_mix3d_merges_pairs(lengths, expected, names):
    batch = point_collate_fn(samples(*lengths), mix_prob=1.0)
    assert batch["offset"].tolist() == expected
    assert batch["name"] == names
    assert len(batch["coord"]) == sum(lengths)


def test_mix3d_needs_no_names():
    batch = [{key: value for key, value in sample.items() if key != "name"} for sample in samples(3, 1, 4)]
    mixed = point_collate_fn(batch, mix_prob=1.0)
    assert mixed.keys() == {"coord", "segment", "offset"}
    assert mixed["offset"].tolist() == [4, 8]


def test_mix3d_keeps_instances_apart():
    ids = [[0, 3, -1], [0, 1, -1, 3], [-1, -7], [5, 0], [2, -1]]
    batch = samples(*map(len, ids))
    for sample, own in zip(batch, ids, strict=True):
        sample["instance"] = torch.tensor(own)
    plain = point_collate_fn(batch)
    assert plain["instance"].tolist() == [number for own in ids for number in own]
    mixed = point_collate_fn(batch, mix_prob=1.0)
    assert mixed["instance"].tolist() == [0, 3, -1, 4, 5, -1, 7, -1, -7, 5, 0, 2, -1]
    assert mixed["instance"].dtype == torch.int64
    assert batch[1]["instance"].tolist() == ids[1]


def test_mix3d_merges_every_offset():
    batch = samples(3, 1, 4)
    for sample in batch:
        sample["origin_segment"] = torch.zeros(2 * len(sample["coord"]))
        sample["origin_offset"] = torch.tensor([2 * len(sample["coord"])])
    mixed = point_collate_fn(batch, mix_prob=1.0)
    assert mixed["offset"].tolist() == [4, 8]
    assert mixed["origin_offset"].tolist() == [8, 16]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pose", torch.eye(4), r"'pose' \(shape \(4, 4\)\) holds not one row for each of 3 points"),
        ("time", torch.tensor(0.5), r"'time' \(shape \(\)\)"),
        ("condition", "nuScenes", r"'condition' \(str\)"),
        ("meta", {"pose": torch.eye(4)}, r"'meta' \(dict\)"),
        ("inverse", torch.zeros(3, dtype=torch.int64), "'inverse'.*positions within a scan"),
        ("index", torch.zeros(3, dtype=torch.int64), "'index'.*positions within a scan"),
        ("view_offset", torch.tensor([1, 3]), "'view_offset'.*not one end for each scan"),
    ],
)
def test_mix3d_refuses_what_two_scans_cannot_share(key, value, message):
    batch = [{**sample, key: value} for sample in samples(3, 3)]
    assert key in point_collate_fn(batch)
    for mix_prob in (1.0, 1e-9):  # at the first batch, mixed or not
        with pytest.raises(DataError, match=message):
            point_collate_fn(batch, mix_prob=mix_prob)


def test_mix3d_probability_and_seed():
    np.random.seed(0)
    mixed = [len(point_collate_fn(samples(1, 1), 0.8)["offset"]) == 1 for _ in range(500)]
    assert 370 < sum(mixed) < 430
    np.random.seed(0)
    assert mixed == [len(point_collate_fn(samples(1, 1), 0.8)["offset"]) == 1 for _ in range(500)]
    assert all(len(point_collate_fn(samples(1, 1), 0.0)["offset"]) == 2 for _ in range(50))


def test_errors():
    with pytest.raises(DataError, match="empty batch"):
        collate_fn([])
    a, b = samples(2, 2)
    del b["segment"]
    with pytest.raises(DataError, match="different keys: segment"):
        collate_fn([a, b])
    with pytest.raises(DataError, match=r"'feat'.*\(2, 4\), \(2, 5\)"):
        collate_fn([{"feat": torch.zeros(2, 4)}, {"feat": torch.zeros(2, 5)}])
