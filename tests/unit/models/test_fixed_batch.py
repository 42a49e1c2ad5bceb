"""Layouts: few of them serve many batches, and none is used for a batch that does not fit."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from pointcept.models.fixed_batch import MAX_LAYOUTS, Layouts
from pointcept.utils.errors import DataError

from .conftest import make_batch

CPU = torch.device("cpu")


@pytest.fixture
def layouts(monkeypatch) -> Layouts:
    """Layouts that note what they capture."""
    made = Layouts(4, ("z", "hilbert"), (2, 2), -1, CPU)
    made.captured = []
    capture = made._capture
    monkeypatch.setattr(made, "_capture", lambda *args: made.captured.append(args[1]) or capture(*args))
    return made


def test_batches_of_one_kind_soon_share_one_layout(layouts):
    generator = torch.Generator().manual_seed(0)
    for seed in range(60):
        sizes = torch.randint(900, 1100, (2,), generator=generator).tolist()
        extent = int(torch.randint(28, 36, (1,), generator=generator))
        batch = make_batch(sizes=sizes, extent=extent, seed=seed, distinct=bool(seed % 2))
        found = layouts.lay_out(batch)
        assert found.layout.pyramid.capacities.fits(found.sizes)
        assert found.voxels == len(batch["feat"])
        if seed == 29:
            early = len(layouts.captured)
    assert early <= 12
    assert len(layouts.captured) - early <= 3
    assert len(layouts._inputs) <= 2


def test_kinds_and_sizes_far_apart_have_their_own(layouts):
    for seed in (0, 1):
        for scans in (1, 2, 3):
            for n in (50, 400):
                layouts.lay_out(make_batch(sizes=(n,) * scans, extent=40, seed=seed))
    assert len(layouts._inputs) <= MAX_LAYOUTS
    assert len({room for _, room in layouts._inputs}) > 1
    assert len(layouts.captured) <= 10


def test_numbers_of_scans_share_their_room(layouts):
    for seed in range(20):
        layouts.lay_out(make_batch(sizes=(600,) if seed % 2 else (300, 310), extent=12, seed=seed))
    assert len(layouts._inputs) == 2
    assert len({inputs.layout.pyramid.capacities.rows for inputs in layouts._inputs.values()}) == 1


def test_batches_that_become_smaller_get_smaller_layouts(layouts):
    for n in (5000, 4000, 3000, 2000, 1000, 1000):
        found = layouts.lay_out(make_batch(sizes=(n,), extent=100))
        assert len(found.layout.feat) <= 1.5 * found.voxels
    assert len(layouts.captured) <= 5


def test_labels_are_optional_and_padding_has_none(layouts):
    batch = make_batch(sizes=(100, 50))
    found = layouts.lay_out(batch)
    labels = found.layout.segment
    assert labels is not None
    assert torch.equal(labels[found.layout.pyramid.position[: found.voxels]], batch["segment"])
    assert (labels[found.voxels :] == -1).all()
    del batch["segment"]
    assert layouts.lay_out(batch).layout.segment is None


def test_bad_batches(layouts):
    empty = {key: value[:0] for key, value in make_batch().items()}
    with pytest.raises(DataError, match="no voxel"):
        layouts.lay_out(empty)
    batch = make_batch()
    with pytest.raises(DataError, match="grid_coord goes from -1"):
        layouts.lay_out({**batch, "grid_coord": batch["grid_coord"] - 1})
    with pytest.raises(DataError, match="cumulative ends"):
        layouts.lay_out({**batch, "offset": batch["offset"] - 1})
    with pytest.raises(DataError, match="cumulative ends"):
        layouts.lay_out({**batch, "offset": batch["offset"][:0]})
    for key in ("feat", "segment"):  # a single row would fill the buffer
        with pytest.raises(DataError, match=f"{key} must have a row for each"):
            layouts.lay_out({**batch, key: batch[key][:1]})
    with pytest.raises(DataError, match="powers of two"):
        Layouts(4, ("z",), (2, 3), -1, CPU)


def test_features_that_are_no_numbers_stay_with_their_batch(layouts):
    batch = make_batch(sizes=(200,))
    layouts.lay_out({**batch, "feat": batch["feat"] * float("nan")})
    found = layouts.lay_out(make_batch(sizes=(150,), seed=1))
    assert found.layout.feat[: found.voxels].isfinite().all()


def test_memory_of_a_layout_is_free_at_once(layouts):
    """Not when the garbage collector comes by: it is memory of the GPU."""
    gc.collect()
    gc.disable()
    try:
        kept = []
        for distinct in (True, False):
            layout = layouts.lay_out(make_batch(distinct=distinct)).layout
            view = layout.pyramid.view()
            view.levels[0].patches("hilbert", 16)
            view.distinct()
            kept += [weakref.ref(thing) for thing in (layout, layout.pyramid, layout.feat, view, *view.levels)]
            del layout, view
            layouts._inputs.clear()
        assert not any(reference() is not None for reference in kept)
    finally:
        gc.enable()


def test_networks_compute_on_as_many_rows_as_most_batches_need(layouts):
    """Scans of the same number of voxels, in a wide room or in a narrow one."""
    chosen = []
    for seed in range(40):
        extent = 60 if seed % 8 == 1 else 20
        found = layouts.lay_out(make_batch(sizes=(2000,), extent=extent, seed=seed))
        full, rows = found.layout.pyramid.capacities.rows, found.rows
        assert rows[0] == full[0]
        assert all(n < room <= most for n, room, most in zip(found.sizes.rows, rows, full, strict=True))
        chosen.append((extent, rows == full, sum(rows[1:])))
    late = chosen[24:]
    assert all(is_full == (extent == 60) for extent, is_full, _ in late)
    assert max(rows for extent, _, rows in late if extent == 20) < 0.7 * min(
        rows for _, is_full, rows in late if is_full
    )
    assert len(layouts.captured) <= 4


def test_batches_of_one_size_have_one_capacity(layouts):
    found = {layouts.lay_out(make_batch(sizes=(2000,), extent=30, seed=seed)).rows for seed in range(40)}
    assert len(found) <= 2
