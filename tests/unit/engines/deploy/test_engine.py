"""The engine gives what the plain model gives, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointcept.engines.deploy import InferenceEngine
from pointcept.engines.deploy.preprocessing import Preprocessing
from pointcept.ops import backend
from pointcept.utils.errors import CheckpointError, ConfigError, DataError

from .conftest import plain_logits, voxelize

SMALL = "semantic_kitti/small_student.py"
CPU = torch.device("cpu")


def crop(points: np.ndarray, radius: float) -> np.ndarray:
    return points[np.linalg.norm(points[:, :2], axis=1) < radius]


def several(points: np.ndarray, radii: tuple[float, ...]) -> dict[str, torch.Tensor]:
    """A batch of crops."""
    parts = [voxelize(crop(points, radius), 0.2)[0] for radius in radii]
    batch = {key: torch.cat([part[key] for part in parts]) for key in ("grid_coord", "feat")}
    return {**batch, "offset": torch.cat([part["offset"] for part in parts]).cumsum(0)}


def same_labels(labels, expected, tolerance=1e-5):
    """Every label's score is the best one, up to rounding: no two ways to add up float32 decide an exact tie alike."""
    taken = expected.gather(1, labels[:, None].to(expected.device))[:, 0]
    behind = ((expected.amax(1) - taken) / expected.abs().max()).max()
    assert behind <= tolerance, f"a label's score is {behind:.2e} of the largest one behind the best"


def same(engine, model, batch, device, tolerance=2e-5):
    expected = plain_logits(model, batch, device)
    found = engine.logits(**batch)
    assert found.shape == expected.shape
    difference = (found - expected).abs().max() / expected.abs().max()
    assert difference <= tolerance, f"{difference:.2e} of the largest score"
    same_labels(found.argmax(1), expected)


def test_growing_and_shrinking_scans(make_model, sweep, device):
    model = make_model(SMALL)
    engine = InferenceEngine(model, "float32", where=device)
    for radius in (6, 20, 5, 60, 2.5, 18):
        same(engine, model, voxelize(crop(sweep, radius), 0.2)[0], device)
    assert len(engine._network._entries) <= 4, "close sizes share their buffers"
    assert len(engine._network._graphs) >= len(engine._network._entries)


def test_one_point_and_scans_smaller_than_a_patch(make_model, sweep, device):
    model = make_model(SMALL)
    engine = InferenceEngine(model, "float32", where=device)
    for count in (1, 2, 255, 256, 257, 511):
        same(engine, model, voxelize(sweep[::7][:count], 0.4)[0], device)


def test_several_scans_in_a_batch(make_model, sweep, device):
    model = make_model(SMALL, patch_size=100)
    engine = InferenceEngine(model, "float32", where=device)
    for radii in ((6, 9), (3, 12), (4, 2.5, 7)):
        same(engine, model, several(sweep, radii), device)


@pytest.mark.parametrize("order", [["hilbert", "z-trans"], "hilbert-trans"])
def test_orders_that_do_not_begin_with_z_and_other_strides(make_model, sweep, device, order):
    model = make_model(SMALL, order=order, stride=(4, 2), shuffle_orders=False)
    engine = InferenceEngine(model, "float32", where=device)
    for size in (0.2, 0.1, 0.4):  # another serialization depth each
        same(engine, model, voxelize(crop(sweep, 8), size)[0], device)


def test_rows_in_any_order(make_model, sweep, device):
    model = make_model(SMALL)
    batch, _ = voxelize(crop(sweep, 8), 0.2)
    rows = torch.randperm(len(batch["feat"]), generator=torch.Generator().manual_seed(0))
    engine = InferenceEngine(model, "float32", where=device)
    ordered = engine.logits(**batch)
    shuffled = engine.logits(batch["grid_coord"][rows], batch["feat"][rows], batch["offset"])
    torch.testing.assert_close(shuffled, ordered[rows.to(device)], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("config", "depths"), [(SMALL, (2, 1, 3)), ("semantic_kitti/student.py", (2, 1, 2, 2, 3))])
def test_the_form_of_published_weights(make_model, sweep, device, config, depths):
    """With channels that are fused, and beyond them."""
    model = make_model(config, patch_size=128, cpe_input="mlp_branch", enc_depths=depths)
    engine = InferenceEngine(model, "float32", where=device)
    same(engine, model, voxelize(crop(sweep, 5), 0.1)[0], device)


def test_channels_beyond_the_fused_ones(make_model, sweep, device):
    model = make_model("semantic_kitti/student.py", patch_size=128)
    engine = InferenceEngine(model, "float32", where=device)
    same(engine, model, voxelize(crop(sweep, 5), 0.1)[0], device)


def test_the_real_sweep_through_the_published_student(make_model, sweep, device):
    model = make_model("nuscenes/student.py")
    points = sweep if device.type == "cuda" else crop(sweep, 10)
    batch, inverse = voxelize(points)
    engine = InferenceEngine(model, "float32", Preprocessing(0.05), where=device)
    same(engine, model, batch, device)
    labels = engine.predict(points)
    assert labels.dtype == torch.int64
    same_labels(labels, plain_logits(model, batch, device)[torch.from_numpy(inverse).to(device)])


def test_real_kitti_scans(make_model, kitti_root, device):
    files = sorted(kitti_root.rglob("*.bin"))[:: 4 if device.type == "cuda" else 9]
    model = make_model("semantic_kitti/small_student.py")
    engine = InferenceEngine(model, "float32", where=device)
    for file in files:
        same(engine, model, voxelize(np.fromfile(file, np.float32).reshape(-1, 4), 0.4)[0], device)
    assert len(engine._network._graphs) <= 3, "scans of one sensor share their graphs"


def test_sparse_unet(make_model, sweep, device):
    """Its batch norms are folded, with known running statistics."""
    model = make_model("nuscenes/distill_full_spunet.py")
    engine = InferenceEngine(model, "float32", where=device)
    for radius in (6, 9, 3):
        same(engine, model, voxelize(crop(sweep, radius), 0.1)[0], device)
    batch, _ = voxelize(crop(sweep, 4), 0.2)
    batch["grid_coord"][0] = batch["grid_coord"][1]
    with pytest.raises(DataError, match=r"1 of .* voxels occur more than once"):
        engine.logits(**batch)


def test_results_are_not_overwritten_by_the_next_batch(make_model, sweep, device):
    engine = InferenceEngine(make_model(SMALL), "float32", where=device)
    batch, _ = voxelize(crop(sweep, 8), 0.2)
    first = engine.logits(**batch)
    copy = first.clone()
    engine.logits(batch["grid_coord"], batch["feat"] + 1, batch["offset"])
    assert torch.equal(first, copy)


def test_graphs_are_bounded(make_model, sweep, device, monkeypatch):
    monkeypatch.setattr("pointcept.engines.deploy.captured_ptv3.MAX_GRAPHS", 2)
    model = make_model(SMALL)
    engine = InferenceEngine(model, "float32", where=device)
    for radius in (2.5, 8, 40, 3):
        same(engine, model, voxelize(crop(sweep, radius), 0.2)[0], device)
        assert len(engine._network._graphs) <= 2
        assert len(engine._network._entries) <= 2


@pytest.mark.parametrize("cpe_input", ["residual", "mlp_branch"])
def test_what_memory_held_before_does_not_matter(make_model, sweep, device, monkeypatch, cpe_input):
    """Rows beyond the real ones are never read: neither those of buffers that nobody filled nor of the last batch."""

    def poisoned(make):
        return lambda *args, **options: fill(make(*args, **options))

    def fill(made):
        return made.fill_(float("nan") if made.is_floating_point() else torch.iinfo(made.dtype).max)

    model = make_model(SMALL, patch_size=100, cpe_input=cpe_input, enc_depths=(1, 2, 2))
    batch = several(sweep, (4, 2.5, 7))
    expected = InferenceEngine(model, "float32", where=device).logits(**batch)
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    engine = InferenceEngine(model, "float32", where=device)
    assert torch.equal(engine.logits(**batch), expected)
    (entry,) = engine._network._entries.values()
    for buffer in (entry.feat, entry.grid_coord):
        fill(buffer)
    assert torch.equal(engine.logits(**batch), expected)


UNET = "nuscenes/distill_full_spunet.py"


def head(model):
    """The last layer of a segmentor."""
    return model.seg_head if hasattr(model, "seg_head") else model.backbone.final


def spoil(engine, value):
    """Give one score of every voxel another value, behind the engine's back and outside of its graphs."""
    inner = engine._network
    if hasattr(inner, "_segmentor"):
        bias = head(inner._segmentor).bias.data
    else:
        bias = inner._network.head[1]
    bias[1] = value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("config", [SMALL, UNET])
def test_scores_that_are_not_finite(make_model, sweep, device, config, value):
    """Also where they come out of graphs that were captured while all was well."""
    points = crop(sweep, 4)
    for dtype in ("float32",) if device.type == "cpu" else ("float32", "float16", "bfloat16"):
        engine = InferenceEngine(make_model(config), dtype, Preprocessing(0.2), where=device, weight="a.pth")
        batch, _ = voxelize(points, 0.2)
        n = len(batch["feat"])
        engine.predict(points)
        spoil(engine, value)
        words = rf"{n} of {n} voxels have scores that are NaN or infinite from the inference engine of .* \(a\.pth\): "
        for call in (lambda e=engine: e.predict(points), lambda e=engine, b=batch: e.logits(**b)):
            with pytest.raises(FloatingPointError, match=words):
                call()
        spoil(engine, 0.0)
        assert len(engine.predict(points)) == len(points)


def test_one_nan_anywhere_in_the_network_reaches_the_scores(make_model, sweep, device):
    """No maximum, of a pooling, an activation or a softmax, may leave it out."""
    points = crop(sweep, 4)
    engine = InferenceEngine(make_model(SMALL), "float32", Preprocessing(0.2), where=device)
    engine.predict(points)
    network = engine._network._network
    first = network.encoder[0][0]
    layers = (network.stem, first.position, first.qkv, first.projection, first.expansion, first.reduction)
    for _, bias in (*layers, network.poolings[0].proj, network.unpoolings[0].below, network.unpoolings[0].skip):
        kept = bias[0].clone()
        bias[0] = np.nan
        with pytest.raises(FloatingPointError, match="voxels have scores that are NaN or infinite"):
            engine.predict(points)
        bias[0] = kept
    engine.predict(points)


@pytest.mark.parametrize("config", [SMALL, UNET])
def test_a_voxel_whose_features_are_too_large_is_found(make_model, sweep, device, config):
    engine = InferenceEngine(make_model(config), "float32", where=device)
    batch, _ = voxelize(crop(sweep, 4), 0.2)
    engine.logits(**batch)
    batch["feat"][5, 3] = np.inf
    with pytest.raises(FloatingPointError, match="look at the weights and at the features of the points"):
        engine.logits(**batch)


@pytest.mark.parametrize("config", [SMALL, UNET])
def test_weights_that_are_not_finite_or_too_large(make_model, sweep, config):
    for entry, value in (("bias", np.nan), ("weight", np.inf)):
        model = make_model(config)
        getattr(head(model), entry).data.view(-1)[0] = value
        with pytest.raises(CheckpointError, match=rf"engine of .*: 1 of \d+ entries .*{entry} \(1 of"):
            InferenceEngine(model, "float32", where=CPU)
    model = make_model(config)
    next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)).running_var[0] = -1
    with pytest.raises(CheckpointError, match=r"negative variance: .*running_var \(1 of"):
        InferenceEngine(model, "float32", where=CPU)
    model = make_model(config)
    head(model).weight.data.view(-1)[0] = 7e4  # finite, but no number of float16
    InferenceEngine(model, "float32", where=CPU)
    InferenceEngine(model, "bfloat16", where=CPU)
    with pytest.raises(ConfigError, match=r"float16 has no numbers as large as those in \S+: use another dtype"):
        InferenceEngine(model, "float16", where=CPU)


def test_every_layer_is_named_whose_folded_weights_overflow(make_model):
    """A scale may take a weight beyond the largest number that was small enough before."""
    layers = ("enc.enc0.block0.norm1.0", "enc.enc1.block0.cpe.1", "dec.dec0.block0.mlp.0.fc2", "dec.dec0.up.proj.1")
    model = make_model(SMALL)
    for name in layers:
        model.backbone.get_submodule(name).weight.data.fill_(1e6)
    with pytest.raises(ConfigError) as error:
        InferenceEngine(model, "float16", where=CPU)
    for name in ("enc.enc0.block0.attn.qkv", "enc.enc1.block0.cpe", "dec.dec0.block0.mlp.fc2", "dec.dec0.up"):
        assert f"backbone.{name}" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(feat=b["feat"][:, :3]), r"feat must be \(\d+, 4\)"),
        (lambda b: b.update(feat=b["feat"][:-1]), "feat must be"),
        (lambda b: b.update(grid_coord=b["grid_coord"].float()), "grid_coord must be integer"),
        (lambda b: b.update(grid_coord=b["grid_coord"] - 1), "grid_coord goes from -1"),
        (lambda b: b["grid_coord"].__setitem__((0, 0), 65535), "to 65535, allowed is 0 to 65534"),
        (lambda b: b["grid_coord"].__setitem__(0, b["grid_coord"][1]), "1 of .* voxels occur more than once"),
        (lambda b: b.update(offset=b["offset"] - 1), "offset must be the cumulative ends"),
        (lambda b: b.update(offset=torch.cat([b["offset"], b["offset"]])), "non-empty scans"),
        (lambda b: b.update(offset=b["offset"][0]), r"offset must be \(B,\)"),
        (lambda b: b.update(grid_coord=b["grid_coord"][:0], feat=b["feat"][:0]), "N > 0"),
    ],
)
def test_bad_batches(make_model, sweep, change, message):
    engine = InferenceEngine(make_model(SMALL), where=CPU)
    batch, _ = voxelize(crop(sweep, 4), 0.2)
    change(batch)
    with pytest.raises(DataError, match=message):
        engine.logits(**batch)


def test_what_is_not_supported(make_model, sweep):
    with pytest.raises(ConfigError, match="unknown dtype 'half'"):
        InferenceEngine(make_model(SMALL), "half")
    with pytest.raises(ConfigError, match=r"dtype torch\.float64"):
        InferenceEngine(make_model(SMALL), torch.float64)
    with pytest.raises(ConfigError, match="pre_norm=True"):
        InferenceEngine(make_model(SMALL, pre_norm=False))
    with pytest.raises(ConfigError, match="supports segmentors, got Linear"):
        InferenceEngine(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="from_config"):
        InferenceEngine(make_model(SMALL), where=CPU).predict(sweep)


def test_from_config(make_model, sweep, tmp_path):
    model = make_model(SMALL)
    path = tmp_path / "weight.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    with pytest.raises(ConfigError, match="needs weights"):
        InferenceEngine.from_config("configs/" + SMALL)
    engine = InferenceEngine.from_config("configs/" + SMALL, weight=path, dtype="float32")
    assert engine.num_classes == 19
    near = crop(sweep, 20)
    batch, inverse = voxelize(near, 0.4)
    expected = plain_logits(model, batch, engine.device)
    same_labels(engine.predict(near), expected[torch.from_numpy(inverse).to(engine.device)])


def test_layouts_and_dtypes_of_points(make_model, sweep, tmp_path):
    path = tmp_path / "weight.pth"
    torch.save({"state_dict": make_model(SMALL).state_dict()}, path)
    engine = InferenceEngine.from_config("configs/" + SMALL, weight=path, dtype="float32")
    near = crop(sweep, 12)
    expected = engine.predict(near)
    frozen = near.copy()
    frozen.flags.writeable = False
    for points in (
        np.asfortranarray(near),
        near[::-1][::-1],
        np.repeat(near, 2, axis=1)[:, ::2],
        near.astype(np.float64),
        near.astype(">f4"),
        frozen,
        near.tolist(),
        torch.from_numpy(near).requires_grad_(),
        torch.from_numpy(near).double().T.contiguous().T,
    ):
        assert torch.equal(engine.predict(points), expected)
    assert len(engine.predict(np.array([[0, 1, 2, 0], [4, 5, 6, 1]]))) == 2
    for bad, message in (
        (near[:, :3], r"must be \(N, 4\)"),
        (near.astype(np.float16), "got float16"),
        (near.astype(str), "got <U"),
        ([[1, 2, 3, 4], [1, 2]], "rows that do not fit"),
        (near + np.array([691_000.0, 5_412_345.0, 310.0, 0.0]), "subtract the place of the sensor first"),
    ):
        with pytest.raises(DataError, match=message):
            engine.predict(bad)


# --- half precision, speed and memory on a GPU ---

# Named in every call: an engine runs where the process does, which tests keep on the CPU.
CUDA = torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("config", ["nuscenes/student.py", "nuscenes/teacher.py"])
@pytest.mark.parametrize(("dtype", "agreement"), [("float16", 0.997), ("bfloat16", 0.98)])
def test_half_precision_agrees_with_the_plain_model(make_model, sweep, config, dtype, agreement):
    """Random weights have a near tie at every few hundredth voxel, which no two number formats decide alike."""
    batch, _ = voxelize(sweep)
    model = make_model(config)
    expected = plain_logits(model, batch, CUDA)
    with torch.autocast("cuda", dtype=getattr(torch, dtype)):
        plain = plain_logits(model, batch, CUDA).float()
    found = InferenceEngine(model, dtype, where=CUDA).logits(**batch)
    equal = found.argmax(1) == expected.argmax(1)
    error, plain_error = ((x - expected).square().mean().sqrt() for x in (found, plain))
    best = expected.topk(2, 1)[0]
    clear = best[:, 0] - best[:, 1] > 6 * error  # no tie within the rounding of this format
    message = (
        f"agreement {equal.float().mean():.5f}, of clear voxels {equal[clear].float().mean():.5f}, "
        f"error {error:.2e}, of the plain model in {dtype} {plain_error:.2e}"
    )
    assert equal.float().mean() >= agreement, message
    assert equal[clear].float().mean() >= 0.9999, message
    assert error <= 1.2 * plain_error, message


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("config", "cpe_input"),
    [("nuscenes/student.py", "residual"), ("nuscenes/teacher.py", "residual"), ("nuscenes/teacher.py", "mlp_branch")],
)
def test_kernels_are_as_good_as_their_twins_on_the_gpu(make_model, sweep, config, cpe_input, dtype):
    """On a whole sweep, where the kernels take their largest tiles."""
    model = make_model(config, cpe_input=cpe_input)
    batch, _ = voxelize(sweep)
    expected = plain_logits(model, batch, CUDA)
    found = InferenceEngine(model, dtype, where=CUDA).logits(**batch)
    with backend.override("torch"):
        twins = InferenceEngine(model, dtype, where=CUDA).logits(**batch)
    error, twin_error = ((x - expected).square().mean().sqrt() for x in (found, twins))
    assert error <= 1.2 * twin_error, f"error {error:.2e}, of the twins {twin_error:.2e}"


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("config", "gib"), [("nuscenes/student.py", 0.25), ("nuscenes/teacher.py", 0.4)])
def test_memory_and_time_of_a_scan(make_model, sweep, config, gib):
    batch, _ = voxelize(sweep)
    batch = {key: value.to(CUDA) for key, value in batch.items()}
    model = make_model(config)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    engine = InferenceEngine(model, "float16", where=CUDA)
    torch.cuda.reset_peak_memory_stats()
    engine.logits(**batch)  # captures its graphs, whose memory counts
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    for _ in range(20):  # the clocks rise
        engine.logits(**batch)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(20):
        engine.logits(**batch)
    end.record()
    torch.cuda.synchronize()
    assert peak < gib, f"{peak:.3f} GiB"
    milliseconds = start.elapsed_time(end) / 20
    assert milliseconds < (4 if "student" in config else 10), f"{milliseconds:.2f} ms"
