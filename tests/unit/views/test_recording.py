"""What is logged to Rerun, with a stand-in for its package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scans import CAR, CLASSES, street

from pointcept.utils.errors import ConfigError
from pointcept.views import recording
from pointcept.views.colours import rgb


class FakeRerun(SimpleNamespace):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.logged: list[tuple[int | None, str, Any]] = []
        self.step: int | None = None
        self.spawned = False

    def init(self, name: str, spawn: bool = False) -> None:
        self.spawned = spawn

    def save(self, path: str) -> None:
        Path(path).write_bytes(b"recording")

    def disconnect(self) -> None: ...

    def set_time(self, timeline: str, sequence: int) -> None:
        assert timeline == "scan"
        self.step = sequence

    def log(self, entity: str, what: Any, static: bool = False) -> None:
        self.logged.append((None if static else self.step, entity, what))

    AnnotationContext = staticmethod(lambda entries: entries)
    TextLog = staticmethod(lambda text: text)

    @staticmethod
    def Points3D(positions: np.ndarray, class_ids: np.ndarray, radii: float) -> SimpleNamespace:
        return SimpleNamespace(positions=positions, class_ids=class_ids, radii=radii)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> FakeRerun:
    fake = FakeRerun()
    monkeypatch.setitem(sys.modules, "rerun", fake)  # type: ignore[arg-type]
    return fake


def test_every_layer_of_every_scan_is_logged_in_its_colours(package: FakeRerun) -> None:
    scenes = [street(), street("08_000001", seed=1)]
    recording.show(scenes)
    assert package.spawned
    static = {entity: what for step, entity, what in package.logged if step is None}
    assert set(static) == {"truth", "teacher", "student", "difference"}
    assert static["truth"][CAR] == (CAR, "car", rgb(CLASSES.colours[CAR]))
    assert static["difference"][1][1] == "only student wrong"
    points = {(step, entity): what for step, entity, what in package.logged if entity.endswith("/points")}
    assert len(points) == 8
    second = points[1, "student/points"]
    assert (second.positions == scenes[1].coord).all()
    known = scenes[1].layers["truth"] >= 0
    truth = points[1, "truth/points"].class_ids
    assert (truth[known] == scenes[1].layers["truth"][known]).all()
    assert (truth[~known] == recording.NONE).all()
    assert static["truth"][-1][0] == recording.NONE
    assert [what for step, entity, what in package.logged if entity == "name"] == ["08_000000", "08_000001"]


def test_a_recording_is_a_whole_file(package: FakeRerun, tmp_path: Path) -> None:
    recording.save(tmp_path / "new" / "a.rrd", [street()])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.rrd"]
    assert not package.spawned


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[rerun\]'"):
        recording.rerun()


def test_the_real_package_takes_it(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    recording.save(tmp_path / "a.rrd", [street()])
    assert (tmp_path / "a.rrd").stat().st_size > 4 * 900 * 12
