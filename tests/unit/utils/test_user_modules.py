"""Modules of users: found, imported once, and named when they fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pointcept.utils.errors import ConfigError
from pointcept.utils.user_modules import import_modules


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("users_"):
            del sys.modules[name]


def test_the_working_folder_comes_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "users_package").mkdir()
    (folder / "users_package" / "part.py").write_text("count = 1")
    import_modules(["users_package.part"])
    sys.modules["users_package.part"].count += 1  # type: ignore[attr-defined]
    import_modules(["users_package.part"])
    assert sys.modules["users_package.part"].count == 2, "not imported anew"  # type: ignore[attr-defined]
    assert sys.path[-1] == str(folder)
    (folder / "elsewhere").mkdir()
    for place, value in ((folder, 1), (folder / "elsewhere", 2)):
        (place / "users_twice.py").write_text(f"value = {value}")
    monkeypatch.syspath_prepend(folder / "elsewhere")
    import_modules(["users_twice"])
    assert sys.modules["users_twice"].value == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("names", "content", "words"),
    [
        (["users_none"], "", "a.py: imports: there is no module 'users_none': start in the folder that holds it"),
        (["users_bad.gone"], "", "a.py: imports: there is no module 'users_bad.gone'"),
        (["users_bad"], "import not_installed", "users_bad cannot be imported: .*users_bad.py:1: ModuleNotFoundError"),
        (["users_bad"], "x = 1\n1 / 0", "users_bad.py:2: ZeroDivisionError: division by zero"),
        (["users_bad"], "def f(:", "users_bad cannot be imported: .*SyntaxError"),
        ("users_bad", "", "a.py: imports: got 'users_bad', allowed: a list of module names"),
        (["users-bad"], "", "got \\['users-bad'\\]"),
        ([3], "", "got \\[3\\]"),
    ],
)
def test_what_fails_is_one_line(folder: Path, names: Any, content: str, words: str) -> None:
    (folder / "users_bad.py").write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        import_modules(names, "a.py")
    assert "\n" not in str(caught.value)
