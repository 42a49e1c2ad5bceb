"""Several results in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pointcept.evaluation import ConfusionMatrix, Kind, write_report
from pointcept.evaluation.compare import argument_parser, compare, format_comparison, read_report
from pointcept.utils.errors import ConfigError, DataError

TARGET = [0, 0, 0, 1]


def result(path: Path, pred: list[int], target: list[int] | None = None, kind: Kind = "precise", **extra: Any) -> Path:
    """What the tester writes for a few points of the classes road, sign and bus."""
    matrix = ConfusionMatrix(3, names=["road", "sign", "bus"])
    matrix.update(torch.tensor(pred), torch.tensor(target or TARGET))
    return write_report(path, matrix.compute(), kind, extra)


def cells(table: str) -> dict[str, list[str]]:
    """The row of each label."""
    lines = [line for line in table.splitlines() if not line.startswith("--")]
    assert len({len(line) for line in lines}) == 1, "the columns are aligned"
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_runs_stand_side_by_side_with_the_majority_class(tmp_path: Path) -> None:
    result(tmp_path / "a" / "result" / "miou_precise.json", [0, 0, 0, 1], parameters=46_159_507)
    file = result(tmp_path / "b.json", [0, 0, 1, 1])
    rows = cells(compare([f"teacher={tmp_path / 'a'}", f"student={file}"]))
    assert rows == {
        "precise, 1 scans [%]": ["teacher", "student", "always 'road'"],
        "parameters [M]": ["46.16", "-", "-"],
        "mIoU, 2 classes": ["100.00", "58.33", "37.50"],
        "mIoU of all, 3 classes": ["66.67", "38.89", "25.00"],
        "accuracy": ["100.00", "75.00", "75.00"],
        "road": ["100.00", "66.67", "75.00"],
        "sign": ["100.00", "50.00", "0.00"],
        "bus": ["-", "-", "-"],
    }


def test_a_run_without_a_name_is_called_by_its_path(tmp_path: Path) -> None:
    file = result(tmp_path / "a.json", TARGET)
    assert str(file) in compare([str(file)]).splitlines()[0]
    with pytest.raises(ConfigError, match="two runs are called 'x'"):
        compare([f"x={file}", f"x={file}"])


def test_other_points_or_another_way_are_not_compared(tmp_path: Path) -> None:
    first = read_report(result(tmp_path / "a.json", TARGET))
    with pytest.raises(DataError, match="different points: 3 and 2 of class 'road'"):
        format_comparison({"a": first, "b": read_report(result(tmp_path / "b.json", TARGET, [0, 0, 1, 1]))})
    with pytest.raises(DataError, match="a is a precise result, b a quick one"):
        format_comparison({"a": first, "b": read_report(result(tmp_path / "c.json", TARGET, kind="quick"))})


def test_what_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no result .*result/miou_precise\.json \(No such file"):
        read_report(tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(DataError, match=r"broken\.json is no JSON file"):
        read_report(broken)
    broken.write_text(json.dumps({"kind": "precise"}))
    with pytest.raises(DataError, match=r"is no result of tools/test\.py"):
        read_report(broken)


def test_a_result_without_points(tmp_path: Path) -> None:
    file = write_report(tmp_path / "a.json", ConfusionMatrix(2).compute(), "precise")
    assert cells(compare([f"a={file}"]))["accuracy"] == ["-", "-"]


def test_the_command_line() -> None:
    assert argument_parser().parse_args(["a=b", "c"]).runs == ["a=b", "c"]


@pytest.mark.parametrize("constant", ["NaN", "Infinity"])
def test_a_figure_that_is_no_number_is_refused(tmp_path: Path, constant: str) -> None:
    path = result(tmp_path / "a.json", TARGET)
    text = path.read_text()
    path.write_text(text.replace('"all_acc_precise": 1.0', f'"all_acc_precise": {constant}'))
    assert path.read_text() != text
    with pytest.raises(DataError, match=rf"a\.json is no JSON file: {constant} is no number; undefined ones are null"):
        read_report(path)
