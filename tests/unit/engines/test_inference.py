"""Voting over fragments against a naive computation, and quick evaluation."""

from __future__ import annotations

from typing import Any

import fakes
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from pointcept.engines.data import collate_val
from pointcept.engines.evaluate import evaluate_quick
from pointcept.engines.inference import Precision, predict_scan, vote
from pointcept.utils.errors import DataError


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return fakes.FakeModel().eval()


def make_fragments(points: int, sizes: list[int], seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Overlapping fragments that hold every point at least once."""
    generator = torch.Generator().manual_seed(seed)
    fragments = []
    for number, size in enumerate(sizes):
        index = torch.randperm(points, generator=generator)[:size] if number else torch.arange(points)
        coord = torch.randn(len(index), 3, generator=generator)
        fragments.append(
            {
                "coord": coord,
                "grid_coord": coord.long(),
                "feat": coord,
                "offset": torch.tensor([len(index)]),
                "index": index,
            }
        )
    return fragments


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_votes_equal_a_loop_over_points(model: nn.Module, batch_size: int) -> None:
    fragments = make_fragments(20, [20, 7, 12, 1, 20])
    votes = vote(model, fragments, 20, batch_size)
    expected = np.zeros((20, 3))
    with torch.no_grad():
        for fragment in fragments:
            logits = model(fragment)["seg_logits"].double().numpy()
            for row, point in enumerate(fragment["index"].tolist()):
                expected[point] += np.exp(logits[row]) / np.exp(logits[row]).sum()
    np.testing.assert_allclose(votes.numpy(), expected, atol=1e-5)
    counts = torch.bincount(torch.cat([f["index"] for f in fragments]), minlength=20)
    torch.testing.assert_close(votes.sum(1), counts.float())


def test_precise_prediction_goes_back_to_all_points(model: nn.Module) -> None:
    fragments = make_fragments(6, [6, 3])
    inverse = np.array([5, 0, 0, 3, 1, 2, 4, 5])
    segment = np.arange(6) % 3
    sample: dict[str, Any] = {"fragment_list": fragments, "name": "a", "num_points": 6, "segment": segment}
    own = predict_scan(model, sample)
    assert own.target is not None
    assert own.target.tolist() == segment.tolist()
    assert own.passes == pytest.approx(1.5)
    full = predict_scan(model, {**sample, "inverse": inverse, "origin_segment": segment[inverse]})
    assert torch.equal(full.pred, own.pred[torch.from_numpy(inverse)])
    assert full.target is not None
    assert full.target.tolist() == segment[inverse].tolist()
    # Labels of the voxels do not stand for all points of the scan.
    assert predict_scan(model, {**sample, "inverse": inverse}).target is None
    assert predict_scan(model, {k: v for k, v in sample.items() if k != "segment"}).target is None


def test_what_does_not_fit_is_named(model: nn.Module) -> None:
    fragments = make_fragments(6, [6, 3])
    sample: dict[str, Any] = {"fragment_list": fragments, "name": "08/000007", "num_points": 6}
    with pytest.raises(DataError, match="08/000007: the scan has no fragments"):
        predict_scan(model, {**sample, "fragment_list": []})
    with pytest.raises(DataError, match="08/000007: 2 of 8 points are in no fragment"):
        predict_scan(model, {**sample, "num_points": 8})
    with pytest.raises(DataError, match=r"fragment 0: index has 6 rows up to 5.*5 scan points"):
        predict_scan(model, {**sample, "num_points": 5})
    with pytest.raises(DataError, match="fragment 0 has no 'index'"):
        predict_scan(model, {**sample, "fragment_list": [{k: v for k, v in fragments[0].items() if k != "index"}]})
    with pytest.raises(DataError, match="08/000007: 7 labels for 6 predicted points"):
        predict_scan(model, {**sample, "segment": np.zeros(7, int)})


def naive_confusion(model: nn.Module, dataset: fakes.FakeDataset) -> np.ndarray:
    counts = np.zeros((3, 3), int)
    for index in range(len(dataset)):
        sample = dataset[index]  # type: ignore[index]
        with torch.no_grad():
            pred = model(sample)["seg_logits"].argmax(1)
        target = sample["segment"]
        if "inverse" in sample:
            pred, target = pred[sample["inverse"]], sample["origin_segment"]
        for p, t in zip(pred.tolist(), target.tolist(), strict=True):
            if t >= 0:
                counts[t, p] += 1
    return counts


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("full_resolution", [False, True])
def test_quick_evaluation_equals_a_loop_over_scans(model: nn.Module, batch_size: int, full_resolution: bool) -> None:
    dataset = fakes.FakeDataset(scans=7, full_resolution=full_resolution)
    loader = DataLoader(range(7), batch_size=batch_size, collate_fn=lambda ids: collate_val([dataset[i] for i in ids]))
    model.train()
    metrics, losses = evaluate_quick(model, loader, dataset, Precision())
    assert model.training
    counts = naive_confusion(model.eval(), dataset)
    iou = counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal())
    assert metrics.iou == pytest.approx(iou)
    assert metrics.num_scans == 7
    assert metrics.num_points == counts.sum() == (2 if full_resolution else 1) * (sum(range(40, 47)) - 7)
    assert losses["loss"] == pytest.approx(losses["ce"] + losses["size"], rel=1e-5)


def test_quick_evaluation_needs_labels(model: nn.Module) -> None:
    dataset = fakes.FakeDataset(scans=1)
    batch = {k: v for k, v in dataset[0].items() if k != "segment"}  # type: ignore[index]
    with pytest.raises(DataError, match="needs labels"):
        evaluate_quick(model, [batch], dataset, Precision())
