"""Weights that change over the training: closed forms, and errors that say where."""

from __future__ import annotations

import pytest

from pointcept.models.losses import DISTILL_LOSSES
from pointcept.utils.errors import ConfigError

EVERY = sorted(DISTILL_LOSSES.names())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"start": 0.0, "end": 8.0}, {0.0: 0.0, 0.25: 2.0, 1.0: 8.0}),
        (
            {"start": 8.0, "end": 0.0, "begin": 0.5, "until": 0.75},
            {0.0: 8.0, 0.5: 8.0, 0.625: 4.0, 0.75: 0.0, 1.0: 0.0},
        ),
        ({"start": 0.0, "end": 2.0, "shape": "cosine"}, {0.0: 0.0, 0.25: 1 - 0.5**0.5, 0.5: 1.0, 1.0: 2.0}),
        (3, {0.0: 3.0, 0.7: 3.0}),
    ],
)
def test_the_weight_is_a_function_of_the_progress(schedule, expected):
    loss = DISTILL_LOSSES.build({"type": "KLDLoss", "loss_weight": schedule})
    assert {progress: loss.weight(progress) for progress in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", EVERY)
def test_every_loss_takes_one(name):
    assert DISTILL_LOSSES.build({"type": name, "loss_weight": {"start": 1.0, "end": 3.0}}).weight(0.5) == 2.0


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-1, r"^loss_weight: got -1, allowed: a finite number at least 0, or dict\(start=..., end=...\)$"),
        ("much", "^loss_weight: got 'much'"),
        ({"start": 1.0}, "^loss_weight: .* 'end' is missing"),
        ({"start": 1.0, "end": 2.0, "till": 0.5}, "^loss_weight: .* takes no 'till': did you mean 'until'"),
        ({"start": 1.0, "end": -2.0}, "^loss_weight.end: got -2.0"),
        (
            {"start": 1.0, "end": 2.0, "begin": 0.5, "until": 0.5},
            "^loss_weight.until: got 0.5, allowed: a number above begin",
        ),
        ({"start": 1.0, "end": 2.0, "begin": 1.0}, "^loss_weight.begin: got 1.0"),
        ({"start": 1.0, "end": 2.0, "shape": "lineal"}, "^loss_weight.shape: .* did you mean 'linear'"),
    ],
)
def test_wrong_ones_are_explained(weight, message):
    with pytest.raises(ConfigError, match=message):
        DISTILL_LOSSES.build({"type": "TopoLoss", "loss_weight": weight})
