"""Colours of classes have one owner each, the data set; those of numbers run along a ramp."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pointcept.datasets import BaseDataset, NuScenesDataset, SemanticKITTIDataset, WaymoDataset
from pointcept.datasets.label_space import LABEL_SPACES
from pointcept.views.colours import NO_CLASS, RAMP, by_class, by_value, distinct, rgb
from pointcept.views.scene import Classes

DATASETS = (SemanticKITTIDataset, NuScenesDataset, WaymoDataset)


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda d: d.__name__)
def test_every_class_has_a_colour_of_its_own(dataset: type[BaseDataset]) -> None:
    assert len(dataset.colours) == len(set(dataset.colours)) == len(dataset.names)
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in dataset.colours)
    assert NO_CLASS not in dataset.colours


def test_what_is_alike_in_two_data_sets_has_one_colour() -> None:
    kitti, waymo = (dict(zip(d.names, d.colours, strict=True)) for d in (SemanticKITTIDataset, WaymoDataset))
    for ours, theirs in (("car", "Car"), ("person", "Pedestrian"), ("road", "Road"), ("vegetation", "Vegetation")):
        assert kitti[ours] == waymo[theirs]


def test_a_label_space_takes_the_colours_of_its_first_members() -> None:
    space = LABEL_SPACES["driving"]
    palettes = {d.__name__: dict(zip(d.names, d.colours, strict=True)) for d in DATASETS}
    colours = dict(zip(space.names, space.colours(palettes), strict=True))
    assert colours["large-vehicle"] == palettes["SemanticKITTIDataset"]["truck"]
    only = space.colours({"WaymoDataset": palettes["WaymoDataset"]})
    assert dict(zip(space.names, only, strict=True))["terrain"] == palettes["WaymoDataset"]["Walkable"]
    assert space.colours({}) == ()


def test_a_data_set_without_colours_gets_some() -> None:
    class Own:
        names = tuple("abcdefghijklmnopqrst")

    classes = Classes.of(Own)
    assert classes.colours == distinct(20)
    assert len(set(classes.colours)) == 20


def test_points_get_the_colour_of_their_class() -> None:
    colours = by_class(np.array([1, -1, 0]), ["#ff0000", "#0000ff"], "#808080")
    assert np.rint(colours * 255).astype(int).tolist() == [[0, 0, 255], [128, 128, 128], [255, 0, 0]]


def test_numbers_run_along_the_ramp() -> None:
    colours = np.rint(by_value(np.array([-5.0, 0, 4.5, 9, 20]), 0, 9) * 255).astype(int).tolist()
    middle = [round((a + b) / 2) for a, b in zip(rgb(RAMP[4]), rgb(RAMP[5]), strict=True)]
    assert colours[0] == colours[1] == list(rgb(RAMP[0]))
    assert np.abs(np.subtract(colours[2], middle)).max() <= 1
    assert colours[3] == colours[4] == list(rgb(RAMP[-1]))
