"""What every data set does: draws, loops, fragments for inference, wrong arguments."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch

from pointcept.datasets import DATASETS, BaseDataset, Draw, build_dataset, collate_fn, point_collate_fn
from pointcept.datasets.arguments import check_dataset
from pointcept.utils.errors import ConfigError, DataError

TRAIN = [
    {"type": "RandomDropout", "dropout_ratio": 0.2, "dropout_application_ratio": 0.5},
    {"type": "RandomRotate", "angle": [-1, 1], "center": [0, 0, 0], "p": 0.5},
    {"type": "RandomJitter"},
    {"type": "GridSample", "grid_size": 0.5, "return_grid_coord": True},
    {"type": "ShufflePoint"},
    {"type": "ToTensor"},
    {"type": "Collect", "keys": ("coord", "grid_coord", "segment"), "feat_keys": ("coord", "strength")},
]
POST = [
    {"type": "ToTensor"},
    {"type": "Collect", "keys": ("coord", "grid_coord", "index"), "feat_keys": ("coord", "strength")},
]
VOXELIZE = {"type": "GridSample", "grid_size": 1.0, "mode": "test", "return_grid_coord": True}
VIEWS = [
    [{"type": "RandomScale", "scale": [1, 1]}],
    [{"type": "RandomScale", "scale": [0.9, 0.9]}, {"type": "RandomFlip", "p": 1}],
]


class Cloud(BaseDataset):
    """Random clouds of 100, 200, ... points; no files."""

    names = ("a", "b", "c")
    scans = 3
    labelled = True

    def get_data_list(self):
        return list(range(self.scans))

    def get_data_name(self, idx):
        return f"cloud{idx}"

    def get_data(self, idx):
        rng = np.random.default_rng(idx)
        n = 100 * (idx + 1)
        sample = {
            "coord": rng.uniform(-3, 3, (n, 3)).astype(np.float32),
            "strength": np.arange(n, dtype=np.float32)[:, None],
            "name": self.get_data_name(idx),
        }
        if self.labelled:
            sample["segment"] = rng.integers(-1, 3, n)
        return sample


class UnlabelledCloud(Cloud):
    labelled = False


def views_config(**changes):
    cfg = {"voxelize": VOXELIZE, "crop": None, "post_transform": POST, "aug_transform": VIEWS}
    return {**cfg, **changes}


def equal(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


def test_a_sample_is_a_function_of_its_draw():
    dataset = Cloud(transform=TRAIN)
    first = dataset[Draw(1, 42)]
    dataset[Draw(0, 7)], random.random(), np.random.random(), torch.rand(1)
    assert equal(first, dataset[Draw(1, 42)])
    assert not equal(first, dataset[Draw(1, 43)])
    big = dataset[Draw(1, 2**40 + 1)]
    assert equal(big, dataset[Draw(1, 2**40 + 1)])


def test_draws_do_not_depend_on_workers():
    dataset = Cloud(transform=TRAIN, loop=2)
    draws = [[Draw(i % 5, 100 + i), Draw(i % 5 + 1, 200 + i)] for i in range(12)]

    def mix(batch):
        return point_collate_fn(batch, mix_prob=0.5)

    batches = [
        list(torch.utils.data.DataLoader(dataset, batch_sampler=draws, num_workers=workers, collate_fn=mix))
        for workers in (0, 2)
    ]
    assert all(equal(a, b) for a, b in zip(*batches, strict=True))
    assert {len(b["offset"]) for b in batches[0]} == {1, 2}, "some batches mixed, some not"


def test_a_draw_seeds_every_generator():
    def take(sample):
        return {**sample, "draws": (random.random(), np.random.random(), torch.rand(1).item())}

    dataset = Cloud(transform=[take])
    a, b, c = (dataset[Draw(0, seed)]["draws"] for seed in (1, 1, 2))
    assert a == b
    assert all(x != y for x, y in zip(a, c, strict=True))


def test_plain_indices_leave_the_global_state_alone():
    dataset = Cloud(transform=[])
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    dataset[0], dataset[np.int64(1)]
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_length_loop_and_range():
    dataset = Cloud(loop=4)
    assert len(dataset) == 12
    assert dataset[11]["name"] == "cloud2"
    assert dataset.num_classes == 3
    assert sum(1 for _ in dataset) == 12
    for index in (12, -1):
        with pytest.raises(IndexError, match=r"outside 0\.\.11"):
            dataset[index]


def test_fragments_cover_every_point():
    result = Cloud(test_mode=True, test_cfg=views_config())[1]
    assert result["name"] == "cloud1"
    assert result["num_points"] == 200
    assert len(result["segment"]) == 200
    assert "inverse" not in result
    assert "origin_segment" not in result
    scan = Cloud().get_data(1)
    np.testing.assert_array_equal(result["segment"], scan["segment"])
    counts = {1.0: np.zeros(200, int), 0.9: np.zeros(200, int)}
    for fragment in result["fragment_list"]:
        index = fragment["index"].numpy()
        np.testing.assert_array_equal(fragment["feat"][:, 3], index)
        scale = 0.9 if fragment["coord"][0, 0] * scan["coord"][index[0], 0] < 0 else 1.0
        sign = np.array([-1, -1, 1]) if scale == 0.9 else 1
        np.testing.assert_allclose(fragment["coord"], scan["coord"][index] * scale * sign, atol=1e-6)
        counts[scale][index] += 1
        assert len(torch.unique(fragment["grid_coord"], dim=0)) == len(index)
    assert all(c.min() >= 1 for c in counts.values()), "both views hold every point"


def test_fragments_of_a_subsampled_scan_lead_back():
    transform = [
        {"type": "Copy", "keys_dict": {"segment": "origin_segment"}},
        {"type": "GridSample", "grid_size": 1.0, "mode": "train", "return_inverse": True},
    ]
    dataset = Cloud(transform=transform, test_mode=True, test_cfg=views_config())
    result = dataset[Draw(2, 0)]
    assert result["num_points"] == len(result["segment"]) < 300 == len(result["origin_segment"])
    covered = np.zeros(result["num_points"], bool)
    for fragment in result["fragment_list"]:
        covered[fragment["index"]] = True
    assert covered.all()
    voxel = np.floor(dataset.get_data(2)["coord"] / np.float64(1.0))
    same = (voxel[:, None] == voxel[None]).all(-1)
    np.testing.assert_array_equal(result["inverse"][:, None] == result["inverse"][None], same)
    unlabelled = UnlabelledCloud(transform=transform, test_mode=True, test_cfg=views_config())[2]
    assert "inverse" in unlabelled
    assert not {"segment", "origin_segment"} & unlabelled.keys()


def test_index_follows_reordering_augmentations_and_crops():
    cfg = views_config(
        aug_transform=[[{"type": "ShufflePoint"}, {"type": "RandomDropout", "dropout_application_ratio": 1}], []],
        crop={"type": "SphereCrop", "point_max": 20, "mode": "all"},
    )
    result = Cloud(test_mode=True, test_cfg=cfg)[2]
    assert max(len(f["coord"]) for f in result["fragment_list"]) == 20
    for fragment in result["fragment_list"]:
        torch.testing.assert_close(fragment["feat"][:, 3].long(), fragment["index"])


def test_without_voxelize_the_scan_is_one_fragment():
    post = [{"type": "ToTensor"}, {"type": "Collect", "keys": ("coord", "index")}]
    result = Cloud(test_mode=True, test_cfg={"voxelize": None, "post_transform": post})[0]
    (fragment,) = result["fragment_list"]
    assert fragment["index"].tolist() == list(range(100))
    assert collate_fn([fragment])["offset"].tolist() == [100]


def test_inference_that_would_miss_points():
    drop = {"type": "RandomDropout", "dropout_ratio": 0.2, "dropout_application_ratio": 1}
    cfg = views_config(aug_transform=[[drop]])
    with pytest.raises(ConfigError, match="leave 20 of 100 points of cloud0 without a prediction"):
        Cloud(test_mode=True, test_cfg=cfg)[0]


def test_origin_without_inverse():
    copy = {"type": "Copy", "keys_dict": {"segment": "origin_segment"}}
    grid = {"type": "GridSample", "grid_size": 1.0, "return_inverse": True}
    with pytest.raises(ConfigError, match="return_inverse=True"):
        Cloud(transform=[copy, {**grid, "return_inverse": False}], test_mode=True, test_cfg=views_config())[0]
    dropout = {"type": "RandomDropout", "dropout_application_ratio": 1}
    with pytest.raises(ConfigError, match="no transform but one GridSample"):
        Cloud(transform=[copy, dropout, grid], test_mode=True, test_cfg=views_config())[0]
    for last in (dropout, {"type": "ShufflePoint"}, grid):
        with pytest.raises(ConfigError, match="after GridSample with return_inverse=True"):
            Cloud(transform=[copy, grid, last], test_mode=True, test_cfg=views_config())[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "vall"}, "no split 'vall': did you mean 'val'"),
        ({"loop": 0}, "loop: got .*an integer at least 1"),
        ({"loop": 1.5}, "loop: got .*an integer at least 1"),
        ({"loop": 2, "test_mode": True, "test_cfg": views_config()}, "loop: got 2, allowed: 1 with test_mode"),
        ({"ignore_index": 2}, "ignore_index: got 2, allowed: an integer at most -1"),
        ({"nonfinite": "skip"}, "Allowed: drop, raise"),
        ({"test_mode": True}, "test_cfg goes with test_mode=True"),
        ({"test_cfg": views_config()}, "test_cfg goes with test_mode=True"),
        ({"test_mode": True, "test_cfg": views_config(voxelise=None)}, "did you mean 'voxelize'"),
        (
            {"test_mode": True, "test_cfg": views_config(voxelize={**VOXELIZE, "mode": "train"})},
            "GridSample with mode='test'",
        ),
        ({"test_mode": True, "test_cfg": views_config(crop={"type": "SphereCrop"})}, "SphereCrop with mode='all'"),
        (
            {"test_mode": True, "test_cfg": views_config(aug_transform=[[{"type": "Scale"}]])},
            r"test_cfg\.aug_transform\.0\.0: ",
        ),
        ({"transform": [{"type": "Nothing"}]}, r"transform\.0: "),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Cloud(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment": np.array([0, 40, 40])}, r"cloud0: segment has the label 40 \(2 points\), .* classes 0 to 2 or -1"),
        ({"segment": np.array([0, -2, 1])}, r"cloud0: segment has the label -2 \(1 points\)"),
        ({"segment": np.zeros(3)}, "cloud0: segment is float64, expected integers"),
        ({"strength": np.full((3, 1), 200.0)}, "cloud0: .*OddCloud its strength goes from 200 to 200, expected 0 to 1"),
        ({"strength": np.full((3, 1), np.nan)}, "cloud0: 3 of 3 points have NaN or infinite values in 'strength'"),
    ],
)
@pytest.mark.parametrize("test_mode", [False, True])
def test_a_scan_outside_its_ranges_is_refused(changes, message, test_mode):
    class OddCloud(Cloud):
        STRENGTH_RANGE = (0.0, 1.0)

        def get_data(self, idx):
            return {"coord": np.zeros((3, 3), np.float32), "name": "odd", **changes}

    with pytest.raises(DataError, match=message):
        OddCloud(test_mode=test_mode, test_cfg=views_config() if test_mode else None)[0]


def test_arguments_are_checked_without_scans(monkeypatch):
    class ReadsItsScans(Cloud):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.first = self.data_list[0]

    monkeypatch.setitem(DATASETS._entries, "CloudOfTests", ReadsItsScans)
    assert check_dataset({"type": "CloudOfTests"}, "data.train") is None  # it cannot say anything
    with pytest.raises(ConfigError, match=r"data\.train\.loop: got 0"):
        check_dataset({"type": "CloudOfTests", "loop": 0}, "data.train")
    assert len(ReadsItsScans()) == 3
    missing = {"type": "SemanticKITTIDataset", "data_root": "/nowhere", "ignore_index": -5}
    both = {"type": "ConcatDataset", "datasets": [missing, missing]}
    for cfg in (missing, both):
        found = check_dataset(cfg, "data.train")
        assert (found.num_classes, found.ignore_index, len(found)) == (19, -5, 0)
    with pytest.raises(DataError, match="no folder"):
        build_dataset(missing)  # with its scans again


@pytest.mark.parametrize("changes", [{}, {"crop": {"type": "SphereCrop", "mode": "all"}}])
def test_processes_of_several_gpus_can_send_it_to_their_workers(changes):
    data = Cloud(test_mode=True, test_cfg=views_config(**changes))
    copied = pickle.loads(pickle.dumps(data))
    for ours, theirs in zip(data[0]["fragment_list"], copied[0]["fragment_list"], strict=True):
        assert torch.equal(ours["index"], theirs["index"])


def test_crop_must_give_a_list():
    cfg = views_config(crop={"type": "RandomFlip"})
    with pytest.raises(ConfigError, match=r"test_cfg\.crop must return a list"):
        Cloud(test_mode=True, test_cfg=cfg)[0]


def test_no_scans():
    class Empty(Cloud):
        scans = 0

    with pytest.raises(DataError, match="no scans of split train"):
        Empty()


def test_build_dataset():
    assert "SemanticKITTIDataset" in DATASETS
    with pytest.raises(ConfigError, match="SemanticKITTIDataset"):
        build_dataset({"type": "SemanticKittiDataset"})
    with pytest.raises(ConfigError, match="sequences"):
        build_dataset({"type": "SemanticKITTIDataset", "sequence": [0]})


def test_no_submission_format():
    with pytest.raises(NotImplementedError, match="Cloud has no submission format"):
        Cloud().write_submission("x", "y", None)
    assert Cloud().finish_submission("x") is None


def test_views_do_not_see_each_other():
    def shift_in_place(sample):
        sample["coord"] += 100
        return sample

    result = Cloud(
        test_mode=True,
        test_cfg=views_config(
            voxelize=None,
            post_transform=[{"type": "ToTensor"}, {"type": "Collect", "keys": ("coord", "index")}],
            aug_transform=[[shift_in_place]] * 2,
        ),
    )[0]
    expected = torch.from_numpy(Cloud().get_data(0)["coord"]) + 100
    for fragment in result["fragment_list"]:
        torch.testing.assert_close(fragment["coord"], expected)


class GivenCloud(Cloud):
    """One scan that the test sets."""

    scans = 1
    given: dict = {}

    def get_data(self, idx):
        return {"name": "given", **self.given}


def given(**entries):
    return type("Given", (GivenCloud,), {"given": entries})


def grid(n=100, size=0.2):
    """The middles of n x n voxels, float64 (n * n, 3)."""
    x, y = np.meshgrid(np.arange(n), np.arange(n))
    return (np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3) + 0.5) * size


UTM = np.array([691_000.0, 5_412_345.0, 310.0])
CENTER, GRID = {"type": "CenterShift"}, {"type": "GridSample", "grid_size": 0.2, "return_grid_coord": True}
COLLECT = [{"type": "ToTensor"}, {"type": "Collect", "keys": ("coord", "grid_coord"), "feat_keys": ("coord",)}]


@pytest.mark.parametrize("chain", [[CENTER, GRID], [GRID, CENTER], [{"type": "RandomFlip"}, CENTER, GRID]])
def test_coordinates_of_a_map_in_float64(chain):
    sample = given(coord=grid() + UTM)(transform=[*chain, *COLLECT])[Draw(0, 1)]
    assert len(sample["coord"]) == 10_000
    assert sample["coord"].dtype == torch.float32
    near = given(coord=grid().astype(np.float32))(transform=[CENTER, GRID, *COLLECT])[0]
    assert torch.equal(torch.unique(sample["grid_coord"], dim=0), torch.unique(near["grid_coord"], dim=0))


@pytest.mark.parametrize(
    ("entries", "chain", "message"),
    [
        ({"coord": (grid() + UTM).astype(np.float32)}, [CENTER, GRID], "float32 resolves 0.5 m.*give coord in float64"),
        ({"coord": (grid() + UTM).astype(np.float32)}, [], "5412345 m or more from the origin"),
        ({"coord": grid() + UTM}, [GRID], "put CenterShift before ToTensor"),
        ({"coord": grid() + UTM}, [{"type": "Copy", "keys_dict": {"coord": "origin_coord"}}, CENTER, GRID], "ToTensor"),
        ({"coord": grid() + UTM}, [{"type": "PointClip"}, GRID], "put CenterShift before PointClip"),
        ({"coord": np.concatenate([grid(), UTM[None]])}, [CENTER, GRID], "Remove far outliers"),
        ({"coord": np.concatenate([grid(), [[2e4, 0, 0]]]).astype(np.float32)}, [GRID], "Remove far outliers"),
        ({"coord": grid().astype(np.float16)}, [GRID], "dtype float16"),
        ({"coord": grid().astype(complex)}, [GRID], "dtype complex128"),
        ({"coord": torch.from_numpy(grid())}, [GRID], "gave coord as Tensor, expected a NumPy array"),
        ({"coord": grid()[:0]}, [GRID], "N >= 1"),
        (
            {"coord": np.where(grid() + np.array([0, 0, 1]) < 0.2, np.nan, grid())},
            [GRID],
            "199 of 10000 points have NaN or infinite .*'coord'",
        ),
        ({"coord": np.where(grid() < 0.2, np.inf, grid())}, [GRID], "NaN or infinite values in 'coord'"),
        ({"coord": grid(2), "strength": np.full((4, 1), 1e300)}, [GRID], "4 of 4 points .* 'strength'"),
        ({"coord": grid(2), "strength": np.array([0, np.nan, 0, 0])}, [GRID], "1 of 4 points .* 'strength'"),
    ],
)
@pytest.mark.parametrize("test_mode", [False, True])
def test_scans_that_are_refused(entries, chain, message, test_mode):
    test_cfg = {"voxelize": {**GRID, "mode": "test"}, "post_transform": COLLECT}
    if test_mode:
        dataset = given(**entries)(transform=chain, test_mode=True, test_cfg=test_cfg)
    else:
        dataset = given(**entries)(transform=[*chain, *COLLECT])
    with pytest.raises(DataError, match=message):
        dataset[0]


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x.astype(">f4"),
        lambda x: -x * -1.0,
        lambda x: x.astype(np.longdouble),
        lambda x: np.frombuffer(x.astype(np.float32).tobytes(), "f4").reshape(-1, 3),
    ],
)
def test_layouts_and_dtypes_of_coordinates(change):
    coord = grid(10) - 1
    plain = given(coord=coord.astype(np.float32))(transform=[GRID, *COLLECT])[0]
    assert equal(plain, given(coord=change(coord))(transform=[GRID, *COLLECT])[0])


def test_integer_coordinates():
    sample = given(coord=np.array([[0, 0, 0], [-3, 1, 2]]))(transform=[GRID, *COLLECT])[0]
    assert sample["coord"].tolist() == [[-3, 1, 2], [0, 0, 0]]


def crowded(points=600, zeros=1000, seed=0):
    """Points that are alone in their voxels, and some in one voxel."""
    rng = np.random.default_rng(seed)
    own = grid(40, 1.0)[rng.permutation(1600)[:points]]
    coord = np.concatenate([own, rng.uniform(0, 0.2, (zeros, 3)) - 5])
    order = rng.permutation(len(coord))
    return {
        "coord": coord[order].astype(np.float32),
        "strength": np.arange(len(coord), dtype=np.float32)[:, None],
        "segment": order % 3,
    }


@pytest.mark.parametrize("subsample", [False, True])
def test_crowded_voxels_make_no_fragments_of_their_own(subsample, caplog):
    scan = crowded()
    transform = [{"type": "Copy", "keys_dict": {"segment": "origin_segment"}}]
    if subsample:  # to 0.01 m, so that the voxels of 0.5 m are still crowded
        transform += [{"type": "GridSample", "grid_size": 0.01, "return_inverse": True}]
    cfg = views_config(voxelize={**VOXELIZE, "grid_size": 0.5})
    dataset = given(**scan)(transform=transform, test_mode=True, test_cfg=cfg)
    result = dataset[Draw(0, 3)]
    assert len(result["fragment_list"]) == 2, "one for each view"
    assert sum(len(f["index"]) for f in result["fragment_list"]) == 2 * 601
    assert result["num_points"] == len(result["segment"]) == 601
    np.testing.assert_array_equal(result["origin_segment"], scan["segment"])
    # whom every point stands with: itself, or one of its voxel
    fragment = result["fragment_list"][0]
    coord = torch.empty(601, 3).index_copy_(0, fragment["index"], fragment["coord"])[result["inverse"]]
    voxel = [np.floor(c / np.float64(0.5)) for c in (coord.numpy(), scan["coord"])]
    np.testing.assert_array_equal(*voxel)
    alone = scan["coord"][:, 0] > -1
    np.testing.assert_array_equal(coord[alone], scan["coord"][alone])
    assert caplog.text.count("with far more points than usual") == 1
    dataset[0]
    assert caplog.text.count("with far more points than usual") == 1


def test_a_scan_in_one_voxel():
    dataset = given(coord=np.zeros((7000, 3)), strength=np.zeros((7000, 1)))(test_mode=True, test_cfg=views_config())
    result = dataset[0]
    assert [f["index"].tolist() for f in result["fragment_list"]] == [[0], [0]]
    assert result["inverse"].tolist() == [0] * 7000
    assert "segment" not in result


def test_usual_scans_are_not_thinned(caplog):
    scan = crowded(zeros=64)
    result = given(**scan)(test_mode=True, test_cfg=views_config(voxelize={**VOXELIZE, "grid_size": 0.5}))[0]
    assert len(result["fragment_list"]) == 2 * 64
    assert result["num_points"] == 664
    assert not {"inverse", "origin_segment"} & result.keys()
    assert "more points than usual" not in caplog.text


def test_thousands_of_equal_points_in_training():
    scan = crowded(zeros=5000)
    sample = given(**scan)(transform=[{**GRID, "grid_size": 0.5}, *COLLECT])[Draw(0, 1)]
    assert len(sample["coord"]) == 601
