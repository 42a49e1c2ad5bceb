"""Scans that are mixed: which points come from which scan, partners, names, labels, wrong uses."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointcept.datasets import (
    TRANSFORMS,
    BaseDataset,
    Draw,
    NuScenesDataset,
    SemanticKITTIDataset,
    WaymoDataset,
    build_dataset,
    point_collate_fn,
)
from pointcept.datasets.transform import Compose, LaserMix, MixTransform, PolarMix, Scanner, concat_scans, select_points
from pointcept.datasets.transform.mixing import ClassChoice, in_sector
from pointcept.engines.sampler import TrainSampler
from pointcept.utils.errors import ConfigError, DataError
from tests.paths import REPO

SECTOR = {"p": 1, "swap_ratio": 1, "rotate_paste_ratio": 0}
PASTE = {"p": 1, "swap_ratio": 0, "rotate_paste_ratio": 1}
VOXELS = [
    {"type": "RandomRotate", "angle": [-1, 1], "center": [0, 0, 0], "p": 1},
    {"type": "GridSample", "grid_size": 0.5, "return_grid_coord": True},
    {"type": "ToTensor"},
    {"type": "Collect", "keys": ("coord", "grid_coord", "segment"), "feat_keys": ("coord", "strength")},
]
MIXES = [{"type": "LaserMix", "p": 0.5, "pitch_range": (-20, 20)}, {"type": "PolarMix", "p": 0.5, "classes": ["b"]}]


class Clouds(BaseDataset):
    """Clouds of 30 points; the strength of a point is 1000 times its scan plus its row."""

    names = ("a", "b", "c")
    scans = 5

    def get_data_list(self) -> list[Any]:
        return list(range(self.scans))

    def get_data_name(self, idx: int) -> str:
        return f"cloud{idx}"

    def get_data(self, idx: int) -> dict[str, Any]:
        return {**cloud(idx), "name": self.get_data_name(idx)}


def cloud(number: int, n: int = 30, **more: Any) -> dict[str, Any]:
    """A scan in which every entry tells where it comes from."""
    rng = np.random.default_rng(number)
    row = 1000 * number + np.arange(n)
    return {
        "coord": rng.uniform(-3, 3, (n, 3)).astype(np.float32),
        "strength": row.astype(np.float32)[:, None],
        "segment": rng.integers(-1, 3, n),
        "name": f"cloud{number}",
        **more,
    }


def ids(sample: dict[str, Any]) -> set[int]:
    return {int(i) for i in sample["strength"][:, 0]}


def aligned(sample: dict[str, Any], *scans: dict[str, Any]) -> bool:
    """Whether every point has the coordinates and label that its scan gave it."""
    coord = np.concatenate([scan["coord"] for scan in scans])
    segment = np.concatenate([scan["segment"] for scan in scans])
    number = {int(s): i for i, s in enumerate(np.concatenate([scan["strength"] for scan in scans])[:, 0])}
    rows = [number[int(s)] for s in sample["strength"][:, 0]]
    return bool((sample["coord"] == coord[rows]).all() and (sample["segment"] == segment[rows]).all())


# --- geometry ---


@pytest.mark.parametrize("width", [0, 10, 90, 180, 200, 359, 360])
@pytest.mark.parametrize("start", [0, 45, 170, 300])
def test_sectors_are_those_of_the_arc_tangent(start: float, width: float) -> None:
    coord = np.random.default_rng(0).normal(0, 10, (5000, 3)).astype(np.float32)
    x, y = coord[:, 0].astype(float) - 1.5, coord[:, 1].astype(float) + 2
    azimuth = (np.degrees(np.arctan2(y, x)) - start) % 360
    sure = (np.abs(azimuth - width) > 1e-3) & (np.minimum(azimuth, 360 - azimuth) > 1e-3)
    found = in_sector(coord, start, width, (1.5, -2.0, 7.0))
    np.testing.assert_array_equal(found[sure], (azimuth < width)[sure])


@pytest.mark.parametrize("sector", [(180, 180), (30, 90), (270, 300)])
def test_polar_mix_swaps_one_sector(sector: tuple[float, float]) -> None:
    a, b = cloud(1, 400), cloud(2, 300)
    for seed in range(8):
        np.random.seed(seed)
        mixed = PolarMix(**SECTOR, sector=sector).mix(a, b)
        assert aligned(mixed, a, b)
        got = ids(mixed)
        assert len(got) == len(mixed["coord"])
        # The sector holds no point of a and no other point of b.
        azimuth = {
            int(s): float(np.degrees(np.arctan2(c[1], c[0])))
            for scan in (a, b)
            for s, c in zip(scan["strength"][:, 0], scan["coord"], strict=True)
        }
        swapped = np.sort([azimuth[i] for i in (ids(a) - got) | (ids(b) & got)])
        others = [azimuth[i] for i in (ids(a) & got) | (ids(b) - got)]
        gap = np.diff(swapped, append=swapped[0] + 360)
        start = swapped[(int(gap.argmax()) + 1) % len(swapped)]
        width = 360 - gap.max()
        assert sector[0] - 20 < width <= sector[1] + 1e-3
        assert min((other - start) % 360 for other in others) > width


def test_polar_mix_turns_objects_about_the_scanner() -> None:
    a, b = cloud(1), cloud(2, normal=np.tile(np.float32([1, 0, 0]), (30, 1)))
    a["normal"] = np.zeros((30, 3), np.float32)
    mix = PolarMix(**PASTE, classes=[2, 0], turns=[(0, 0), (90, 90)])
    mix.scanner = Scanner((1.0, 2.0, 0.5))
    mixed = mix.mix(a, b)
    chosen = np.isin(b["segment"], [0, 2])
    assert 0 < chosen.sum() < 30
    x, y, z = b["coord"][chosen].T
    turned = np.stack([1 - (y - 2), 2 + (x - 1), z], 1)
    np.testing.assert_allclose(mixed["coord"], [*a["coord"], *b["coord"][chosen], *turned], atol=1e-6)
    np.testing.assert_array_equal(mixed["segment"], [*a["segment"], *(2 * [*b["segment"][chosen]])])
    np.testing.assert_array_equal(mixed["strength"], [*a["strength"], *(2 * [*b["strength"][chosen]])])
    np.testing.assert_allclose(mixed["normal"][-1], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(mixed["normal"][30], [1, 0, 0], atol=1e-6)


def test_laser_mix_takes_bands_in_turn() -> None:
    mix = LaserMix(p=1, num_areas=[4], pitch_range=(-40, 20))
    mix.scanner = Scanner((1.0, -1.0, 2.0))
    a, b = cloud(1, 400), cloud(2, 300)
    highest = set()
    for seed in range(12):
        np.random.seed(seed)
        mixed = mix.mix(a, b)
        assert aligned(mixed, a, b)
        assert len(ids(mixed)) == len(mixed["coord"])
        side = {}
        for number, scan in enumerate((a, b)):
            x, y, z = (scan["coord"].astype(float) - [1, -1, 2]).T
            band = np.clip((np.degrees(np.arctan2(z, np.hypot(x, y))) + 40) // 15, 0, 3)
            taken = np.isin(scan["strength"][:, 0], mixed["strength"][:, 0])
            for k in range(4):
                (own,) = {bool(t) for t in taken[band == k]}
                side[number, k] = own
        assert [side[0, k] for k in range(4)] in ([True, False] * 2, [False, True] * 2)
        assert all(side[0, k] != side[1, k] for k in range(4))
        highest.add(side[0, 3])
    assert highest == {True, False}, "either scan gives the highest band"


@pytest.mark.parametrize("mix", [PolarMix(**SECTOR), LaserMix(p=1, pitch_range=(-25, 3))], ids=["PolarMix", "LaserMix"])
def test_what_one_scan_loses_the_other_gets(mix: MixTransform) -> None:
    a, b = cloud(1), cloud(2)
    before = copy.deepcopy((a, b))
    for seed in range(8):
        np.random.seed(seed)
        one = mix.mix(a, b)
        np.random.seed(seed)
        other = mix.mix(b, a)
        assert sorted([*one["strength"][:, 0], *other["strength"][:, 0]]) == sorted(
            [*a["strength"][:, 0], *b["strength"][:, 0]]
        )
    for scan, old in zip((a, b), before, strict=True):
        assert all((np.asarray(scan[k]) == np.asarray(old[k])).all() for k in old), "the scans are as before"


def test_scans_of_one_point_and_a_scan_with_itself() -> None:
    a, b = cloud(1, 1), cloud(2, 1)
    for seed in range(12):
        for mix in (PolarMix(p=1, classes=[0]), LaserMix(p=1, pitch_range=(-25, 3))):
            np.random.seed(seed)
            assert len(mix.mix(a, b)["coord"]) >= 1
    scan = cloud(3)
    np.random.seed(0)
    same = PolarMix(**SECTOR).mix(scan, scan)
    assert ids(same) == ids(scan)
    assert len(same["coord"]) == 30
    assert same["name"] == "cloud3"


# --- entries ---


def test_names_keys_and_labels_of_a_joined_scan() -> None:
    a = cloud(1, pose=np.eye(4), index_valid_keys=["coord", "strength", "segment", "time", "grid_coord"])
    b = cloud(2, pose=np.zeros((4, 4)), index_valid_keys=["coord", "strength", "segment", "time", "instance"])
    a["time"], b["time"] = np.zeros((30, 1), np.float32), np.ones((30, 1), np.float32)
    b["instance"] = np.repeat([-1, 0, 4], 10)
    joined = concat_scans([a, b, b], -100)
    assert joined["name"] == "cloud1+cloud2"
    np.testing.assert_array_equal(joined["pose"], np.eye(4))
    assert joined["time"].sum() == 60
    np.testing.assert_array_equal(joined["instance"], np.repeat([-1, -1, 0, 4, -1, 5, 9], [30, *[10] * 6]))
    assert set(joined["index_valid_keys"]) == {"coord", "strength", "segment", "time", "grid_coord", "instance"}
    assert all(joined[key].dtype == a[key].dtype for key in ("coord", "strength", "segment", "time", "pose"))


def test_a_scan_without_labels_is_ignored_points() -> None:
    a, b = cloud(1), cloud(2)
    del b["segment"]
    np.testing.assert_array_equal(concat_scans([a, b], -7)["segment"], [*a["segment"], *[-7] * 30])
    np.testing.assert_array_equal(concat_scans([b, a], -7)["segment"], [*[-7] * 30, *a["segment"]])
    assert "segment" not in concat_scans([b, b], -7)
    np.random.seed(0)
    assert PolarMix(**PASTE, classes=[0]).mix(a, b)["name"] == "cloud1", "no labels, no objects"


def test_scans_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="scan cloud2 has no 'color', so that it cannot be mixed with cloud1"):
        concat_scans([cloud(1, color=np.zeros((30, 3))), cloud(2)], -1)
    with pytest.raises(DataError, match="different shapes of 'strength'"):
        concat_scans([cloud(1), cloud(2, strength=np.zeros((30, 2)))], -1)


def test_classes_by_name_and_number() -> None:
    for classes, found in ((["c", 0], [0, 2]), ([1, "b"], [1]), (None, [0, 1])):
        choice = ClassChoice(classes)
        choice.resolve(("a", "b", "c"), ("a", "b"))
        segment = np.array([-100, -1, 0, 1, 2, 300])
        np.testing.assert_array_equal(choice.mask(segment), np.isin(segment, found))


# --- partners ---


def names_of(dataset: BaseDataset, draws: int = 200) -> list[str]:
    return [dataset[Draw(i % len(dataset), i)]["name"] for i in range(draws)]


def test_partners_are_all_other_scans() -> None:
    dataset = Clouds(transform=[{"type": "LaserMix", "p": 1, "pitch_range": (-20, 20)}], loop=2)
    pairs = [name.split("+") for name in names_of(dataset, 1000)]
    assert [pair[0] for pair in pairs[:7]] == [f"cloud{i % 5}" for i in range(7)]
    counts = np.zeros((5, 5), int)
    for one, other in pairs:
        counts[int(one[-1]), int(other[-1])] += 1
    assert (np.diag(counts) == 0).all()
    assert counts[~np.eye(5, dtype=bool)].min() > 25, "each about 50 times"


def test_the_only_scan_is_its_own_partner() -> None:
    dataset = Clouds(transform=[{"type": "LaserMix", "p": 1, "pitch_range": (-20, 20)}])
    dataset.data_list = [0]
    for draw in range(5):
        sample = dataset[Draw(0, draw)]
        assert sample["name"] == "cloud0"
        assert ids(sample) == ids(dataset.get_data(0))


def test_p_is_the_share_of_mixed_samples() -> None:
    mixed = sum("+" in name for name in names_of(Clouds(transform=[{**MIXES[0], "p": 0.3}]), 500))
    assert 110 < mixed < 190
    assert not any("+" in name for name in names_of(Clouds(transform=[{**MIXES[0], "p": 0}]), 20))


def test_a_partner_passes_what_stands_before_the_mix() -> None:
    calls: list[str] = []

    def mark(sample: dict[str, Any]) -> dict[str, Any]:
        calls.append(sample["name"])
        return {**sample, "strength": sample["strength"] + 0.5}

    def after(sample: dict[str, Any]) -> dict[str, Any]:
        calls.append("after")
        return sample

    first = {"type": "LaserMix", "p": 1, "pitch_range": (-20, 20)}
    dataset = Clouds(transform=[first, mark, first, after])
    sample = dataset[Draw(0, 0)]
    assert calls[0] == "+".join(sample["name"].split("+")[:2]), "the sample itself is mixed already"
    assert calls[1:] == [sample["name"].split("+")[2], "after"], "the partner is not mixed"
    assert (sample["strength"] % 1 == 0.5).all()


def test_a_mixed_sample_is_a_function_of_its_draw() -> None:
    dataset = Clouds(transform=[*MIXES, *VOXELS], loop=3)
    sampler = TrainSampler(len(dataset), seed=3)
    sampler.set_range(0, 24)
    expected = [dataset[draw] for draw in sampler]
    assert 4 < sum("+" in sample["name"] for sample in expected) < 24
    again = pickle.loads(pickle.dumps(dataset))  # as processes that are spawned get it
    resumed = TrainSampler(len(dataset), seed=3)
    resumed.set_range(10, 24)
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(
            again, 2, sampler=resumed, num_workers=workers, collate_fn=point_collate_fn
        )
        for batch, position in zip(loader, range(10, 24, 2), strict=True):
            assert batch["name"] == [sample["name"] for sample in expected[position : position + 2]]
            for key in ("coord", "grid_coord", "segment", "feat"):
                assert torch.equal(batch[key], torch.cat([s[key] for s in expected[position : position + 2]]))


def test_a_joint_set_mixes_within_its_sets(tiny_root: Path) -> None:
    mix = {"type": "PolarMix", **SECTOR}
    kitti = {"type": "SemanticKITTIDataset", "data_root": "", "sequences": "available", "transform": [mix]}
    joint = {"type": "ConcatDataset", "data_root": str(tiny_root), "label_space": "driving"}
    dataset: Any = build_dataset({**joint, "datasets": [kitti, {**kitti, "split": "val"}]})
    assert dataset.mixes == ["PolarMix", "PolarMix"]
    assert dataset[Draw(0, 1)]["name"] == "0/00_000000+00_000001"
    sample = dataset[Draw(3, 1)]
    assert sample["name"] == "1/08_000001+08_000000"
    assert sample["segment"].max() < 10, "classes of the label space"


def test_labelled_scans_take_unlabelled_partners(tiny_root: Path) -> None:
    chain = [{"type": "LaserMix", "p": 1}]
    dataset = SemanticKITTIDataset(["train", "test"], tiny_root, chain, sequences="available")
    labelled = [draw for draw in (Draw(0, seed) for seed in range(30)) if "11_" in dataset[draw]["name"]]
    assert labelled
    for draw in labelled[:3]:
        sample = dataset[draw]
        own = ids_of_points(dataset.get_data(0))
        from_other = [p not in own for p in map(tuple, sample["coord"].tolist())]
        assert any(from_other)
        assert (sample["segment"][from_other] == -1).all()
        assert len(sample["segment"]) == len(sample["coord"])


def ids_of_points(sample: dict[str, Any]) -> set[tuple[float, ...]]:
    return set(map(tuple, sample["coord"].tolist()))


# --- wrong uses ---


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PolarMix(p=1.5), "p: got 1.5, allowed: a finite number at least 0 and at most 1"),
        (lambda: PolarMix(swap_ratio=float("nan")), "swap_ratio: got nan"),
        (lambda: PolarMix(rotate_paste_ratio=-1), "rotate_paste_ratio: got -1"),
        (lambda: PolarMix(sector=(90, 30)), "sector: .* low not above high"),
        (lambda: PolarMix(sector=(0, 400)), "sector: .* at least 0 and at most 360"),
        (lambda: PolarMix(sector=180), "sector: got 180, allowed: a list of 2"),
        (lambda: PolarMix(turns=[]), r"turns: got \[\], allowed: a list of pairs"),
        (lambda: PolarMix(turns=[(0, 0), (0, float("inf"))]), "turns.1: got .*inf.* finite numbers"),
        (lambda: PolarMix(classes="car"), "classes: got 'car', allowed: a list of class names or of indices"),
        (lambda: PolarMix(classes=[]), "classes: got"),
        (lambda: PolarMix(classes=[True]), "classes: got"),
        (lambda: PolarMix(classes=[-1]), "classes: got"),
        (lambda: LaserMix(num_areas=[1]), r"num_areas: got \[1\], allowed: a list of integers at least 2"),
        (lambda: LaserMix(num_areas=[2.5]), "num_areas: got"),
        (lambda: LaserMix(num_areas=[]), "num_areas: got"),
        (lambda: LaserMix(pitch_range=(3, -25)), "pitch_range: .* low not above high"),
        (lambda: LaserMix(pitch_range=(3, 3)), "pitch_range: .* low below high"),
        (lambda: LaserMix(pitch_range=(-100, 3)), "pitch_range: .* at least -90 and at most 90"),
        (lambda: PolarMix(p=1).mix(cloud(1), cloud(2)), "classes: got None, allowed: a list of indices"),
        (lambda: LaserMix(p=1).mix(cloud(1), cloud(2)), "pitch_range: got None"),
        (lambda: PolarMix(p=1)(cloud(1)), "needs other scans: it works in the transform of a data set only"),
        (lambda: Compose([{"type": "PolarMix"}], "data.val.transform"), r"data\.val\.transform\.0: PolarMix mixes"),
        (
            lambda: Clouds(transform=[{"type": "PolarMix"}]),
            r"transform\.0\.classes: got None, allowed: a list of them, as",
        ),
        (lambda: Clouds(transform=[{"type": "LaserMix"}]), r"transform\.0\.pitch_range: got None"),
        (
            lambda: Clouds(transform=[{"type": "PolarMix", "classes": ["A"]}]),
            r"transform\.0\.classes: there is no class 'A': did you mean 'a'",
        ),
        (
            lambda: Clouds(transform=[{"type": "PolarMix", "classes": [3]}]),
            r"transform\.0\.classes: got 3, allowed: class indices from 0 to 2",
        ),
        (lambda: Clouds(transform=[VOXELS[1], MIXES[0]])[0], "LaserMix mixes points, not voxels"),
        (lambda: Clouds(transform=[VOXELS[2], MIXES[0]])[0], "go before ToTensor"),
    ],
)
def test_wrong_arguments_and_places(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_test_mode_mixes_nothing() -> None:
    post = [{"type": "ToTensor"}, {"type": "Collect", "keys": ("coord", "index")}]
    for transform, views in ((MIXES[:1], [[]]), ([], [MIXES[:1]])):
        cfg = {"voxelize": None, "post_transform": post, "aug_transform": views}
        with pytest.raises(ConfigError, match=r"transform.*\.0: LaserMix mixes scans, which only .* training set may"):
            Clouds(transform=transform, test_mode=True, test_cfg=cfg)


def test_a_mix_serves_one_data_set() -> None:
    mix = LaserMix(p=1, pitch_range=(-20, 20))
    dataset = Clouds(transform=[mix])
    assert "+" in dataset[Draw(0, 0)]["name"]
    with pytest.raises(ConfigError, match=r"transform\.0: this LaserMix belongs to another data set"):
        Clouds(transform=[mix])


# --- documentation ---


def test_the_example_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "extending.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "MixTransform" in block]
    monkeypatch.setattr(TRANSFORMS, "_entries", dict(TRANSFORMS._entries))
    names = {"TRANSFORMS": TRANSFORMS, "MixTransform": MixTransform, "np": np, "Sample": dict}
    exec(example, {**names, "concat_scans": concat_scans, "select_points": select_points})
    sample = Clouds(transform=[{"type": "NearAndFar", "p": 1, "distance": 2}])[Draw(0, 0)]
    own = sample["strength"][:, 0] < 1000
    distance = np.hypot(*sample["coord"][:, :2].T)
    assert "+" in sample["name"]
    assert distance[own].max() <= 2 < distance[~own].min()


# --- the data sets ---


@pytest.mark.parametrize("dataset", [SemanticKITTIDataset, NuScenesDataset, WaymoDataset])
def test_data_sets_say_what_mixes_ask(dataset: type[BaseDataset]) -> None:
    assert set(dataset.things) < set(dataset.names)
    person = {"person", "pedestrian", "Pedestrian"} & set(dataset.names)
    assert person <= set(dataset.things)
    assert not {"road", "driveable_surface", "Road", "sidewalk", "Sidewalk"} & set(dataset.things)
    low, high = dataset.scanner.pitch_range or (0, 0)
    assert -35 < low < -15 < 0 < high < 15


def test_real_scans(kitti_root: Path, shared_dir: Path) -> None:
    kitti = SemanticKITTIDataset("train", kitti_root, [{"type": "PolarMix", "p": 1}], sequences="available")
    sweep, _ = NuScenesDataset.read_scan(shared_dir / "data" / "nuscenes_sweep.pcd.bin")
    for coord, scanner in ((kitti.get_data(0)["coord"], kitti.scanner), (sweep["coord"], NuScenesDataset.scanner)):
        pitch = np.degrees(np.arctan2(coord[:, 2], np.hypot(coord[:, 0], coord[:, 1])))
        assert scanner.pitch_range is not None
        low, high = scanner.pitch_range
        assert ((pitch > low - 1) & (pitch < high + 2)).mean() > 0.94, "what lies below is the roof of the car"
    things = np.array([0, 0])
    points = np.array([0, 0])
    for i in range(10):
        for k, sample in enumerate((kitti.get_data(i), kitti[Draw(i, i)])):
            assert len(sample["coord"]) == len(sample["strength"]) == len(sample["segment"])
            things[k] += ((sample["segment"] >= 0) & (sample["segment"] < 8)).sum()
            points[k] += len(sample["coord"])
    share = things / points
    assert share[1] > 2 * share[0], "three copies of each object"
