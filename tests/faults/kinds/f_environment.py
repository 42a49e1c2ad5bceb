"""F: paths, rights, terminals, locales and variables that a run does not expect."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.case import Step, fault
from tests.faults.promises import (
    LOST_LOSS,
    OK,
    USER,
    equals_whole,
    equals_whole_numbers,
    nothing_saved,
    refused,
    succeeded,
)
from tests.faults.stage import Stage, make_unreadable

FAILED = (USER, LOST_LOSS)


def prepared(prepare: Callable[[Stage], Any], *options: str, **conditions: Any) -> Step:
    """Prepare something around ``save_path``, and train."""
    return lambda stage: (prepare(stage), stage.train(*options, **conditions))


def _made(path: str, text: str | None = "x") -> Callable[[Stage], Any]:
    """A file in the case's folder, or a folder where ``text`` is None."""

    def prepare(stage: Stage) -> None:
        place = stage.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir() if text is None else place.write_text(text)

    return prepare


# --- the folder of the run ---

for _what, _prepare, _words in (
    ("save_path is a file", _made("run"), ("run", "file")),
    (
        "save_path is below a file",
        lambda stage: (_made("run")(stage), setattr(stage, "run", stage.run / "deeper")),
        ("run",),
    ),
    ("save_path/model is a file", _made("run/model"), ("model",)),
    ("save_path/result is a file", _made("run/result"), ("result",)),
    ("save_path/train.log is a folder", _made("run/train.log", None), ("train.log",)),
    ("save_path/config.py is a folder", _made("run/config.py", None), ("config.py",)),
    ("save_path/environment.json is a folder", _made("run/environment.json", None), ("environment.json",)),
    ("save_path/model/model_last.pth is a folder", _made("run/model/model_last.pth", None), ("model_last.pth",)),
    (
        "save_path/train.log is on a full disk",
        lambda stage: (stage.run.mkdir(), (stage.run / "train.log").symlink_to("/dev/full")),
        ("train.log|space",),
    ),
):
    fault("F", _what, prepared(_prepare), refused(*_words, codes=FAILED), quick=_what == "save_path/model is a file")


def closed_parent(mode: int) -> Step:
    def inject(stage: Stage) -> None:
        parent = stage.folder / "closed"
        parent.mkdir(mode=mode)
        stage.run = parent / "run"
        stage.train()

    return inject


def closed_run(mode: int) -> Step:
    def inject(stage: Stage) -> None:
        stage.run.mkdir()
        stage.run.chmod(mode)
        stage.train()

    return inject


for _mode in (0o000, 0o500, 0o400, 0o200):
    fault(
        "F",
        f"the folder above save_path has rights {_mode:o}",
        closed_parent(_mode),
        refused("permission", codes=FAILED),
    )
    fault("F", f"save_path has rights {_mode:o}", closed_run(_mode), refused("permission", codes=FAILED))


def at(path: str) -> Step:
    return lambda stage: (setattr(stage, "run", Path(path)), stage.train())


fault(
    "F",
    "save_path has a name of 300 letters",
    lambda stage: at(str(stage.folder / ("a" * 300)))(stage),
    refused("name too long|too long"),
)
fault(
    "F",
    "save_path has 5000 letters",
    lambda stage: at(str(stage.folder) + "/a" * 2500)(stage),
    refused("name too long|too long"),
)
fault("F", "save_path lies in /proc", at("/proc/run"), refused("/proc/run", codes=FAILED))
fault("F", "save_path lies in /dev/null", at("/dev/null/run"), refused("/dev/null", codes=FAILED))
fault("F", "save_path is empty", lambda stage: stage.train("save_path=''"), refused("save_path"))


def _linked(target: str) -> Callable[[Stage], Any]:
    def prepare(stage: Stage) -> None:
        stage.run.symlink_to(target)

    return prepare


fault("F", "save_path is a link to nothing", prepared(_linked("nowhere/at/all")), refused("run", codes=FAILED))
fault("F", "save_path is a link to itself", prepared(_linked("run")), refused("run", codes=FAILED))
fault(
    "F",
    "save_path is a link to a folder",
    prepared(lambda stage: (_made("real", None)(stage), _linked("real")(stage))),
    equals_whole,
)

NAMES = {
    "a space": "my run",
    "an umlaut": "läuft",
    "a quote": "it's",
    "an equals sign": "lr=1",
    "a line break": "two\nlines",
    "a percent sign": "100%d",
    "a brace": "{run}",
    "Chinese": "运行",
    "an emoji": "🚗",
    "a byte that is not UTF-8": os.fsdecode(b"r\xff"),
}


def named(name: str, **conditions: Any) -> Step:
    def inject(stage: Stage) -> None:
        stage.run = stage.folder / name
        stage.call("train", "--config", str(stage.config()), "--options", f"save_path={stage.run}", **conditions)
        if stage.ending.code != OK:
            refused("save_path|run")(stage)
            nothing_saved(stage)
            stage.run = stage.folder / "plain"
            stage.train()

    return inject


for _what, _name in NAMES.items():
    fault("F", f"the name of the run has {_what}", named(_name), equals_whole)
for _locale in ("C", "POSIX", "en_US.ISO-8859-1", "nonsense"):
    for _what in ("an umlaut", "a byte that is not UTF-8"):
        fault(
            "F",
            f"the name of the run has {_what} under LC_ALL={_locale}",
            named(NAMES[_what], env={"LC_ALL": _locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, fresh=True),
            equals_whole,
        )

# --- terminals and pipes ---

for _what, _shell in {
    "standard output is closed": '"$@" >&-',
    "standard error is closed": '"$@" 2>&-',
    "all three streams are closed": '"$@" <&- >&- 2>&-',
    "standard output is full": '"$@" >/dev/full',
    "standard error is full": '"$@" 2>/dev/full',
    "standard output ends after a line": '"$@" | head -n 1; exit ${PIPESTATUS[0]}',
    "standard output and error end at once": '"$@" 2>&1 | true; exit ${PIPESTATUS[0]}',
}.items():
    fault("F", _what, lambda stage, shell=_shell: stage.train(fresh=True, shell=shell), equals_whole)
fault(
    "F",
    "an error while standard output is closed",
    lambda stage: stage.train("epoch=-1", fresh=True, shell='"$@" >&-'),
    refused("epoch"),
)
for _encoding in ("ascii", "latin-1"):
    fault(
        "F",
        f"PYTHONIOENCODING={_encoding} and a name with Chinese letters",
        named(NAMES["Chinese"], fresh=True, env={"PYTHONIOENCODING": _encoding}),
        equals_whole,
    )

# --- variables ---

VARIABLES: tuple[tuple[str, str | None], ...] = (
    ("HOME", None),
    ("HOME", "/nowhere"),
    ("TMPDIR", "/nowhere"),
    ("PATH", ""),
    ("PATH", None),
    ("TZ", "Nowhere/None"),
    ("COLUMNS", "0"),
    ("COLUMNS", "abc"),
    ("LANG", "xx_YY"),
    ("TERM", ""),
    ("NO_COLOR", "1"),
    ("CUDA_VISIBLE_DEVICES", "99"),
    ("LANGUAGE", "de"),
    ("USER", None),
    ("SLURM_JOB_ID", "5"),
    ("MASTER_PORT", "29500"),
    ("WORLD_SIZE", "1"),
)
for _name, _value in VARIABLES:
    _shown = f"{_name} unset" if _value is None else f"{_name}={_value}"
    fault("F", _shown, lambda stage, n=_name, v=_value: stage.train(env={n: v}), equals_whole)
fault(
    "F",
    "a new interpreter with another hash seed",
    lambda stage: stage.train(fresh=True, env={"PYTHONHASHSEED": "4242"}),
    equals_whole,
)
fault(
    "F",
    "every warning is an error",
    lambda stage: stage.train(fresh=True, env={"PYTHONWARNINGS": "error::UserWarning"}),
    equals_whole,
)
fault(
    "F",
    "Python optimises assertions away",
    lambda stage: stage.train(fresh=True, env={"PYTHONOPTIMIZE": "1"}),
    equals_whole,
)
for _name, _value, _word in (
    ("POINTCEPT_DEVICE", "tpu", "POINTCEPT_DEVICE"),
    ("POINTCEPT_DEVICE", "cuda", "cuda|gpu"),
    ("POINTCEPT_DEVICE", "", ""),
    ("POINTCEPT_BACKEND", "nonsense", "POINTCEPT_BACKEND|backend"),
    ("POINTCEPT_BACKEND", "patch_attention=spconv", "patch_attention"),
    ("POINTCEPT_BACKEND", "=", "POINTCEPT_BACKEND|backend"),
):
    _holds = refused(_word) if _word else equals_whole
    fault("F", f"{_name}={_value}", lambda stage, n=_name, v=_value: stage.train(env={n: v}), _holds)
fault(
    "F",
    "OMP_NUM_THREADS=abc",
    lambda stage: stage.train(fresh=True, env={"OMP_NUM_THREADS": "abc"}),
    equals_whole_numbers,
)

# --- limits, rights and places of the process ---

for _umask in (0o077, 0o777, 0o222):
    _holds = equals_whole if _umask == 0o077 else lambda stage: None
    fault(
        "F",
        f"umask {_umask:03o}",
        lambda stage, umask=_umask: (
            stage.train(umask=umask),
            refused("permission", codes=FAILED)(stage) if stage.ending.code != OK else None,
        ),
        _holds,
    )
for _limit in (6, 10, 16, 24, 64):
    fault(
        "F",
        f"ulimit -n {_limit}",
        lambda stage, limit=_limit: (
            stage.train(limits={resource.RLIMIT_NOFILE: limit}),
            refused("file", codes=FAILED)(stage) if stage.ending.code != OK else equals_whole(stage),
        ),
    )
for _room in (0, 1, 8, 64):
    fault(
        "F",
        f"memory for {_room} MiB more than the imports take",
        lambda stage, room=_room: (
            stage.train(limits={resource.RLIMIT_AS: _size_now() + (room << 20)}),
            refused("memory", codes=FAILED)(stage) if stage.ending.code != OK else equals_whole(stage),
        ),
    )


def _size_now() -> int:
    """Bytes of address space of this process, from which the tool is forked."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def in_a_folder_that_is_gone(stage: Stage) -> None:
    place = stage.folder / "gone"
    place.mkdir()
    stage.train(cwd=place, moment=None, fresh=True, shell=f'rmdir {place}; "$@"')


def in_a_closed_folder(stage: Stage) -> None:
    place = stage.folder / "closed"
    place.mkdir(mode=0o500)
    stage.train(cwd=place)


fault(
    "F",
    "the working folder is gone",
    in_a_folder_that_is_gone,
    lambda stage: None if stage.ending.code == OK else refused()(stage),
)
fault("F", "the working folder is read-only", in_a_closed_folder, equals_whole)

# --- the config file ---


def with_config(content: bytes | None, *holds: Step, name: str = "own.py") -> Step:
    def inject(stage: Stage) -> None:
        path = stage.folder / name
        base = f"_base_ = [{str(stage.config())!r}]\n".encode()
        if content is not None:
            path.write_bytes(content.replace(b"BASE", base))
        stage.call("train", "--config", str(path), "--options", f"save_path={stage.run}")

    return inject


def _closed_config(stage: Stage) -> None:
    path = stage.folder / "own.py"
    path.write_text("epoch = 1\n")
    make_unreadable(path)
    stage.call("train", "--config", str(path))


fault("F", "the config is not there", with_config(None), refused("own.py"))
fault("F", "the config must not be read", _closed_config, refused("own.py", "permission"))
fault(
    "F",
    "the config is a folder",
    lambda stage: stage.call("train", "--config", str(stage.folder)),
    refused("folder|directory"),
)
fault("F", "the config is /dev/null", lambda stage: stage.call("train", "--config", "/dev/null"), refused("/dev/null"))
fault(
    "F",
    "the config is a named pipe",
    lambda stage: (os.mkfifo(stage.folder / "own.py"), with_config(None)(stage)),
    refused("own.py"),
)
for _what, _content in {
    "is empty": b"",
    "is not UTF-8": b"BASE# \xff\xfe\n",
    "is UTF-16": "epoch = 1\n".encode("utf-16"),
    "has a null byte": b"BASE\0",
    "is a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "is cut in a string": b"BASEsave_path = 'exp",
}.items():
    fault("F", f"the config {_what}", with_config(_content), refused("own.py"))
for _what, _content in {
    "has Windows line ends": b"BASElog_freq = 2\r\n",
    "begins with a byte order mark": b"\xef\xbb\xbfBASE",
    "has no end of line": b"BASElog_freq = 2",
    "has umlauts": "BASE# läuft\n".encode(),
}.items():
    fault("F", f"the config {_what}", with_config(_content), equals_whole)
fault(
    "F",
    "the run's config.py is trained again",
    lambda stage: (
        stage.take(stage.world.whole("student")),
        stage.call(
            "train", "--config", str(stage.run / "config.py"), "--options", f"save_path={stage.folder / 'again'}"
        ),
        setattr(stage, "run", stage.folder / "again"),
    ),
    equals_whole,
)
fault("F", "a config below a folder with a space", with_config(b"BASE", name="my config.py"), succeeded)
