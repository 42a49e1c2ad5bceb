"""The program ``pointcept``: its table, its help, its exit codes."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pointcept.cli import door
from pointcept.cli.commands import COMMANDS, command
from pointcept.utils.errors import CheckpointError, ConfigError, DataError
from tests.paths import REPO


@pytest.mark.parametrize("name", COMMANDS)
def test_a_row_is_a_module_with_both_functions(name: str) -> None:
    module = importlib.import_module(COMMANDS[name].module)
    parser = module.argument_parser()
    assert isinstance(parser, argparse.ArgumentParser)
    assert list(inspect.signature(module.main).parameters) == ["args"]
    assert COMMANDS[name].help
    assert not COMMANDS[name].help.endswith(".")
    parser.prog = f"pointcept {name}"
    assert parser.format_help().startswith(f"usage: pointcept {name} ")


def test_a_tool_is_a_door_to_a_command() -> None:
    names = {re.search(r'run\("([a-z-]+)"', path.read_text())[1] for path in (REPO / "tools").glob("*.py")}  # type: ignore[index]
    assert names <= COMMANDS.keys()
    assert {"train", "test", "predict", "compare", "ablation", "study", "benchmark", "simulate"} <= names


def test_help_is_quick_and_fits_a_screen(tmp_path: Path) -> None:
    program = "import sys; sys.argv = ['pointcept', '--help']; from pointcept.cli.door import main; code = main();"
    check = "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; sys.exit(code)"
    begin = os.times().children_user
    done = subprocess.run(
        [sys.executable, "-c", f"{program} {check}"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Processor time, which other programs on the machine do not change.
    assert os.times().children_user - begin < 0.3
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)


def test_the_module_is_the_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pointcept", "tran"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: pointcept has no command 'tran': did you mean 'train'? Allowed: ")
    assert done.stderr.count("\n") == 1


def test_what_is_asked_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.dispatch([]) == 2
    nothing = capsys.readouterr()
    assert door.dispatch(["help"]) == 0
    assert capsys.readouterr().out.strip() == nothing.err.strip()
    assert nothing.out == ""
    assert door.dispatch(["--version"]) == 0
    assert re.fullmatch(r"pointcept \d+\.\d+\.\d+\n", capsys.readouterr().out)
    with pytest.raises(SystemExit) as end:
        door.dispatch(["help", "configs"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: pointcept configs ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a"), 2),
        (DataError("a"), 2),
        (CheckpointError("a"), 2),
        (FloatingPointError("a"), 1),
        (OSError(28, "No space left on device", "a"), 2),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_a_line_and_a_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(args: argparse.Namespace) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "a_command", SimpleNamespace(argument_parser=argparse.ArgumentParser, main=main))  # type: ignore[arg-type]
    assert door.run_module("a_command", []) == code
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith("interrupted" if code == 130 else "error: ")


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_may_have_a_code_of_its_own(result: int | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(argument_parser=argparse.ArgumentParser, main=lambda args: result)
    monkeypatch.setitem(sys.modules, "a_command", module)  # type: ignore[arg-type]
    assert door.run_module("a_command", []) == code


def test_names_of_commands() -> None:
    assert command("simulate").module == "pointcept.datasets.simulator.cli"
    with pytest.raises(ConfigError, match="did you mean 'compare'"):
        command("Compare")


def test_configs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.run("configs", ["nuscenes/"]) == 0
    out = capsys.readouterr().out
    assert "nuscenes/student " in out
    assert "semantic_kitti/" not in out
    assert max(map(len, out.splitlines()[:-1])) <= 120
    assert door.run("configs", ["--show", "nuscenes/student"]) == 0
    assert capsys.readouterr().out.endswith((REPO / "configs/nuscenes/student.py").read_text())
    assert door.run("configs", ["nuscnes"]) == 2
    assert "no config has 'nuscnes' in its name" in capsys.readouterr().err
    assert door.run("configs", ["--show"]) == 2


def test_preprocess_has_a_command_for_each_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dataset_root", str(tmp_path), "--output_root", str(tmp_path / "out")]
    assert door.run("preprocess", ["nuscenes", *words]) == 2
    assert door.run("preprocess", ["waymo", *words, "--splits", "training"]) == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        door.run("preprocess", ["kitti", *words], "pointcept preprocess")
    assert "usage: pointcept preprocess" in capsys.readouterr().err
