"""Config files: bases, references, names, access, dumps and overrides."""

from __future__ import annotations

import copy
import logging
import math
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from pointcept.utils.config import Config, parse_options
from pointcept.utils.config_schema import SCHEMA, Field, defaults
from pointcept.utils.config_upstream import KEYS
from pointcept.utils.errors import ConfigError

MINIMAL = "model = dict(type='M', backbone=dict(type='B', depths=(1, 2)))\ndata = dict(num_classes=3)\n"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write config files into one folder; returns the path of the last one."""

    def write_files(**files: str) -> Path:
        path = tmp_path
        for name, text in files.items():
            path = tmp_path / f"{name}.py"
            path.write_text(textwrap.dedent(text))
        return path

    return write_files


def message_of(path: Path, options: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.fromfile(path, parse_options(options or []))
    return str(caught.value)


# --- bases and merging ---------------------------------------------------------------------------


def test_dicts_merge_deeply_and_delete_replaces(write: Write) -> None:
    path = write(
        base="optimizer = dict(type='AdamW', lr=1.0, betas=dict(a=1, b=2))\n"
        "scheduler = dict(type='S', x=1)\nhooks = [dict(type='H1'), dict(type='H2')]",
        child="_base_ = 'base.py'\noptimizer = dict(lr=2, betas=dict(b=3, c=4))\n"
        "scheduler = dict(_delete_=True, type='T', nested=dict(_delete_=True, y=1))\nhooks = [dict(type='H3')]",
    )
    cfg = Config.fromfile(path)
    assert cfg.optimizer == {"type": "AdamW", "lr": 2, "betas": {"a": 1, "b": 3, "c": 4}}
    assert cfg.scheduler == {"type": "T", "nested": {"y": 1}}
    assert cfg.hooks == [{"type": "H3"}]


def test_several_and_nested_bases_relative_to_their_own_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "root.py").write_text("epoch = 7\nbatch_size = 2")
    (tmp_path / "a" / "mid.py").write_text("_base_ = ['../root.py']\nbatch_size = 3")
    (tmp_path / "a" / "b" / "other.py").write_text("seed = 5")
    leaf = tmp_path / "a" / "b" / "leaf.py"
    leaf.write_text("_base_ = ['../mid.py', 'other.py']\nseed = 6")
    cfg = Config.fromfile(leaf)
    assert (cfg.epoch, cfg.batch_size, cfg.seed) == (7, 3, 6)


def test_bases_that_share_a_base_agree(write: Write) -> None:
    path = write(
        root="epoch = 7",
        a="_base_='root.py'\nseed = 1",
        b="_base_='root.py'\nresume = True",
        c="_base_=['a.py','b.py']",
    )
    assert Config.fromfile(path).epoch == 7


def test_bases_that_disagree_are_named(write: Write) -> None:
    path = write(a="epoch = 7", b="epoch = 8", c="_base_ = ['a.py', 'b.py']")
    text = message_of(path)
    assert "'epoch'" in text
    assert "a.py" in text
    assert "b.py" in text
    assert "c.py" in text


def test_later_base_wins_inside_dicts(write: Write) -> None:
    path = write(a="data = dict(x=1, y=1)", b="data = dict(y=2)", c="_base_ = ['a.py', 'b.py']")
    assert Config.fromfile(path).data == {"x": 1, "y": 2}


def test_cycle_is_an_error(write: Write) -> None:
    path = write(a="_base_ = 'b.py'", b="_base_ = 'a.py'")
    assert "circle" in message_of(path)
    assert "a.py" in message_of(path)


def test_missing_base_names_both_files(write: Write) -> None:
    text = message_of(write(child="_base_ = ['nowhere/base.py']"))
    assert "nowhere/base.py" in text
    assert "child.py" in text


def test_missing_file_and_wrong_suffix(tmp_path: Path) -> None:
    assert "nothing.py" in message_of(tmp_path / "nothing.py")
    (tmp_path / "a.yaml").write_text("")
    assert ".py" in message_of(tmp_path / "a.yaml")


def test_computed_base_is_refused(write: Write) -> None:
    assert "_base_" in message_of(write(a="x = 1\n_base_ = [f'{x}.py']"))


# --- references to bases -------------------------------------------------------------------------


def test_references_keep_their_type(write: Write) -> None:
    path = write(
        base="names = ['a', 'b']\nbatch_size = 4\ndata = dict(num_classes=19, sub=dict(scale=(1, 2)))\n"
        "seed = len(names)",
        child="""
        '''A docstring may say {{_base_.nothing}}.'''
        _base_ = ["base.py"]
        epoch = {{_base_.batch_size}} * 2
        model = dict(num_classes={{ _base_.data.num_classes }}, scale="{{_base_.data.sub.scale}}", n={{_base_.names.1}})
        save_path = "exp/{{_base_.batch_size}}/" + f"{epoch}_{{_base_.names.0}}"
        """,
    )
    cfg = Config.fromfile(path)
    assert cfg.epoch == 8
    assert cfg.model == {"num_classes": 19, "scale": (1, 2), "n": "b"}
    assert cfg.save_path == "exp/4/8_a"


def test_reference_is_a_copy(write: Write) -> None:
    path = write(base="data = dict(a=[1])", child="_base_='base.py'\nmodel = {{_base_.data}}\nmodel['a'].append(2)")
    cfg = Config.fromfile(path)
    assert cfg.data.a == [1]
    assert cfg.model.a == [1, 2]


def test_unknown_reference_names_line_and_nearest(write: Write) -> None:
    text = message_of(
        write(base="data = dict(num_classes=1)", child="_base_='base.py'\nepoch = {{_base_.data.num_clases}}")
    )
    assert "child.py:2" in text
    assert "'num_classes'" in text


def test_reference_cannot_be_assigned(write: Write) -> None:
    assert "assigned" in message_of(write(base="epoch = 1", child="_base_='base.py'\n{{_base_.epoch}} = 2"))


# --- errors in files -----------------------------------------------------------------------------


def test_syntax_error_and_exception_name_file_and_line(write: Write) -> None:
    assert "bad.py:2: SyntaxError" in message_of(write(bad="epoch = 1\nseed = = 2"))
    assert "bad.py:3: ZeroDivisionError" in message_of(write(bad="epoch = 1\n\nseed = 1 // 0"))


def test_name_of_a_base_used_plainly_gets_a_hint(write: Write) -> None:
    text = message_of(write(base="names = 3\nepoch = names", child="_base_='base.py'\nseed = names"))
    assert "{{_base_.names}}" in text
    assert "child.py:2" in text


def test_unused_name_is_an_error_and_used_helpers_vanish(write: Write) -> None:
    text = message_of(write(a="epochs = 3"))
    assert "unused config key 'epochs'" in text
    assert "'epoch'" in text
    assert "a.py" in text
    cfg = Config.fromfile(
        write(
            a="""
            import os
            from math import floor
            def double(x): return 2 * x
            class Thing: pass
            _private = 1
            names = ["a", "b"]
            data = dict(num_classes=double(len(names)), names=names)
            """
        )
    )
    assert set(cfg) <= set(SCHEMA)
    assert cfg.data == {"num_classes": 4, "names": ["a", "b"]}


def test_helper_of_a_base_counts_as_used_when_a_child_refers_to_it(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(base="grid_size = 0.05", child="_base_ = 'base.py'\ndata = dict(g={{_base_.grid_size}})")
    assert Config.fromfile(path).data.g == 0.05
    assert not caplog.records
    Config.fromfile(path.parent / "base.py")
    assert [r.getMessage() for r in caplog.records] == [
        f"{path.parent / 'base.py'}: no key of a config, and nothing reads it: grid_size"
    ]


@pytest.mark.parametrize(
    "child",
    ["seed = {{_base_.sizes.of.1}}", "seed = '{{_base_.sizes.of.1}}'", "save_path = 'exp/{{_base_.sizes.grid}}'"],
)
def test_a_helper_of_which_a_child_reads_a_part_counts_as_used(
    write: Write, caplog: pytest.LogCaptureFixture, child: str
) -> None:
    path = write(base="sizes = dict(grid=0.05, of=[1, 2])", child=f"_base_ = 'base.py'\n{child}")
    cfg = Config.fromfile(path)
    assert (cfg.seed, cfg.save_path) in {(2, defaults()["save_path"]), (defaults()["seed"], "exp/0.05")}
    assert not caplog.records
    # so that another value of it in a child of that child, which changes nothing, is an error
    path = write(grandchild="_base_ = 'child.py'\nsizes = dict(grid=1.0, of=[5, 6])")
    assert "a base has read" in message_of(path)


def test_helper_overridden_without_effect_is_an_error(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    base = "n = 3\ndata = dict(n=n)"
    text = message_of(write(base=base, child="_base_ = 'base.py'\nn = 4"))
    assert "child.py" in text
    assert "'n'" in text
    assert "a base has read" in text
    assert Config.fromfile(write(base=base, child="_base_ = 'base.py'\nn = 4\nseed = n")).seed == 4
    assert not caplog.records
    assert Config.fromfile(write(base=base, child="_base_ = 'base.py'\nn = 3")).data.n == 3
    assert "reads it: n" in caplog.text


@pytest.mark.parametrize(
    ("slip", "key"),
    [
        *(("epochs", "epoch"), ("batchSize", "batch_size"), ("optimiser", "optimizer"), ("num_workers", "num_worker")),
        *(("grad_clip", "clip_grad"), ("lr_scheduler", "scheduler"), ("Model", "model"), ("hook", "hooks")),
        *(("enableamp", "enable_amp"), ("mixprob", "mix_prob"), ("param_dict", "param_dicts"), ("weights", "weight")),
    ],
)
def test_a_slip_in_a_key_is_an_error(write: Write, slip: str, key: str) -> None:
    text = message_of(write(a=f"{slip} = 1"))
    assert f"unused config key {slip!r}: did you mean {key!r}? Allowed: {key}, " in text


def test_helpers_that_nothing_reads_are_named_once(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    names = ["dataset_type", "ignore_index", "names", "class_names", "label_names", "num_classes", "learning_map_inv"]
    names += ["grid_size", "base_lr", "lr", "weight_decay", "in_channels", "feature_keys", "evaluate_interval", "bs"]
    names += ["point_max", "wandb", "num_points", "val_split", "train_names", "model_name", "test_cfg", "n", "ratio"]
    cfg = Config.fromfile(write(a="seed = 2\n" + "".join(f"{name} = 1\n" for name in names)))
    assert cfg == {**defaults(), "seed": 2}
    (record,) = caplog.records
    assert record.getMessage().endswith(f"nothing reads it: {', '.join(sorted(names))}")


def test_a_helper_of_a_retired_name_is_none(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    assert Config.fromfile(write(a="metric = 3\nseed = metric")).seed == 3
    assert not caplog.records


def test_values_must_be_plain(write: Write) -> None:
    assert "data.x.1" in message_of(write(a="data = dict(x=[1, {2}])"))
    assert "data" in message_of(write(a="data = dict(f=len)"))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("epoch = 'abc'", "epoch"),
        ("epoch = True", "epoch"),
        ("epoch = 0", "epoch"),
        ("mix_prob = 1.5", "mix_prob"),
        ("mix_prob = float('nan')", "mix_prob"),
        ("resume = 1", "resume"),
        ("weight = 3", "weight"),
        ("amp_dtype = 'float8'", "amp_dtype"),
        ("hooks = dict(type='X')", "hooks"),
        ("model = None", "model"),
    ],
)
def test_wrong_types_name_file_key_and_what_is_allowed(write: Write, line: str, key: str) -> None:
    text = message_of(write(a=line))
    assert f"a.py: {key}: got" in text
    assert "allowed:" in text


def test_retired_keys_warn_and_go(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="pointcept"):
        cfg = Config.fromfile(
            write(a="enable_wandb = True\nwandb_key = None\nepoch = 2"), {"empty_cache_per_epoch": True}
        )
    assert set(cfg) == set(defaults())
    assert cfg.epoch == 2
    for key in ("enable_wandb", "wandb_key", "empty_cache_per_epoch"):
        assert any(key in r.getMessage() and KEYS[key] in r.getMessage() for r in caplog.records)


def test_defaults_fit_their_own_schema_and_are_fresh() -> None:
    for key, value in defaults().items():
        assert SCHEMA[key].accepts(value), key
        assert SCHEMA[key].meaning.endswith(".")
    defaults()["hooks"].clear()
    assert defaults()["hooks"]
    assert not KEYS.keys() & SCHEMA.keys()


def test_field_in_words() -> None:
    assert Field((int, type(None)), 1, "", minimum=1).allowed() == "an int or None, at least 1"
    assert Field((str,), "a", "", choices=("a", "b")).allowed() == "'a' or 'b'"


# --- access --------------------------------------------------------------------------------------


def test_attribute_and_item_access(write: Write) -> None:
    cfg = Config.fromfile(write(a=MINIMAL))
    assert cfg.model.backbone.depths == cfg["model"]["backbone"]["depths"] == (1, 2)
    assert cfg.hooks[0].type == "CheckpointLoader"
    assert cfg.get("nothing", 5) == 5
    assert not hasattr(cfg.model, "nothing")
    assert "nothing" not in cfg.model
    cfg.model.backbone.drop = 0.1
    cfg.data = {"train": [{"type": "T"}]}
    assert cfg["model"]["backbone"]["drop"] == 0.1
    assert cfg.data.train[0].type == "T"
    assert (cfg | {"epoch": 3}).epoch == 3
    assert isinstance(cfg | {"epoch": 3}, Config)


def test_missing_key_raises_and_names_the_nearest(write: Write) -> None:
    cfg = Config.fromfile(write(a=MINIMAL))
    with pytest.raises(AttributeError, match=r"'backbne'.*'backbone'"):
        _ = cfg.model.backbne
    with pytest.raises(KeyError, match=r"a\.py.*'modle'.*'model'"):
        _ = cfg["modle"]
    assert "backbne" not in cfg.model
    assert "modle" not in cfg


@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_and_pickles_are_equal_and_independent(write: Write, how: Callable[[Config], Config]) -> None:
    cfg = Config.fromfile(write(a=MINIMAL))
    twin = how(cfg)
    assert twin == cfg
    assert type(twin.model.backbone) is Config
    twin.model.backbone.depths = ()
    twin.hooks.clear()
    assert cfg.model.backbone.depths == (1, 2)
    assert cfg.hooks
    with pytest.raises(AttributeError, match=r"a\.py"):
        _ = twin.nothing


def test_to_dict_is_plain_all_the_way(write: Write) -> None:
    def kinds(value: object) -> set[type]:
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return {type(value)}.union(*map(kinds, items))

    cfg = Config.fromfile(write(a="data = dict(a=[[dict(b=({},))]])"))
    assert Config not in kinds(cfg.to_dict())
    assert cfg.to_dict() == cfg


# --- dumping -------------------------------------------------------------------------------------


def test_dump_reads_back_equal(write: Write, tmp_path: Path) -> None:
    cfg = Config.fromfile(
        write(
            a="""
            model = dict(type="M", t=(1,), e=(), l=[], d={}, s='it\\'s "quoted"\\n', n=None, f=1e-3, i=float("inf"))
            data = {"a-b": 1, "class": 2, "map": {0: 1, 10: -1}, "deep": [[dict(x=[(1, 2)])]], "long": list(range(200))}
            """
        )
    )
    back = Config.fromfile(cfg.dump(tmp_path / "out" / "config.py"))
    assert back == cfg
    assert back.to_dict() == cfg.to_dict()
    assert type(back.model.t) is tuple
    assert type(back.model.l) is list
    assert math.isinf(back.model.i)
    assert os.listdir(tmp_path / "out") == ["config.py"]
    assert max(map(len, cfg.pretty_text().splitlines())) <= 120


def test_failed_dump_leaves_the_old_file(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config.fromfile(write(a=MINIMAL))
    target = cfg.dump(tmp_path / "out" / "config.py")
    old = target.read_text()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    cfg.epoch = 3
    with pytest.raises(OSError, match="disk full"):
        cfg.dump(target)
    assert target.read_text() == old
    assert os.listdir(target.parent) == ["config.py"]


def test_config_survives_a_spawned_process(write: Write, tmp_path: Path) -> None:
    cfg = Config.fromfile(write(a=MINIMAL))
    (tmp_path / "cfg.pkl").write_bytes(pickle.dumps(cfg))
    code = "import pickle,sys; c = pickle.load(open(sys.argv[1], 'rb')); print(c.model.backbone.depths[1])"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cfg.pkl")], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2"


# --- what a file can be --------------------------------------------------------------------------

SUM = "+".join(["1"] * 20_000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x = '\xe9'\n", "is no Python source in UTF-8"),
        (b"\n\n\nx = '\xe9'\n", "is no Python source in UTF-8, or in what its coding line names: 'utf-8' codec"),
        (b"# -*- coding: nonsense -*-\n", "unknown encoding: nonsense"),
        (MINIMAL.encode("utf-16"), "is no Python source in UTF-8"),
        (b"x = '\0'\n", "SyntaxError|no Python source"),
        (bytes(range(256)), "no Python source"),
        (b"#" * (2**24 + 1), "has 16777217 bytes, expected at most 16777216"),
        (b"import sys\nsys.exit(0)\n", r"a\.py:2: SystemExit: 0"),
        (b"raise GeneratorExit('x')\n", r"a\.py:1: GeneratorExit: x"),
        (b"def f(): return f()\nf()\n", r"a\.py:1: RecursionError"),
        (b"raise MemoryError\n", r"a\.py:1: MemoryError"),
        (b"class E(Exception):\n    def __str__(self): return 1 / 0\nraise E\n", r"a\.py:3: E: \(no message\)"),
        (b"return 3\n", "'return' outside function"),
        (b"x = " + b"[" * 5000 + b"]" * 5000, "SyntaxError: too many nested|nested too deep"),
        (f"x = {SUM}\n".encode(), "nested too deep|RecursionError"),
        (b"a = []\na.append(a)\n", r"a\.py: a: got a list that contains itself"),
        (b"model = {}\nmodel['x'] = [(model,)]\n", r"a\.py: model: got a dict that contains itself"),
        (b"_a = []\n_a.append(_a)\nhooks = _a\n", r"a\.py: hooks: got a list that contains itself"),
        (b"x = 0\nfor _ in range(5000): x = [x]\n", r"a\.py: x: is nested deeper than 100"),
        (b"x = [0] * 10\nfor _ in range(9): x = [x] * 10\n", r"a\.py: x: has more than 1000000 values"),
        (b"_base_ = ['b\\0.py']\n", "null byte"),
        (b"_base_ = ['%s.py']\n" % (b"x" * 300), "File name too long"),
        (b"_base_ = ['folder.py']\n", r"folder\.py, which is a _base_ of .*a\.py: is a folder"),
        (MINIMAL.encode() + b"save_path = 'a\\0b'\n", r"save_path: got 'a\\x00b', allowed: a string without"),
        (MINIMAL.encode() + b"epoch = 10**6000\n", "epoch: got an int of 19932 bits"),
        (MINIMAL.encode() + b"seed = 10**22\n", "seed: got an int of 74 bits, allowed: below 2"),
        (MINIMAL.encode() + b"seed = -1\n", "seed: got -1"),
        (MINIMAL.encode() + b"batch_size = 10**9\n", "batch_size: got 1000000000 .*at most 65536"),
        (MINIMAL.encode() + b"num_worker = 10**6\n", "num_worker: got 1000000 .*at most 4096"),
        (MINIMAL.encode() + b"num_worker = -1\n", "num_worker: got -1"),
    ],
)
def test_a_file_that_cannot_be_a_config_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "folder.py").mkdir()
    path = tmp_path / "a.py"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        Config.fromfile(path)
    assert "a.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_files_are_configs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "zero.py").symlink_to("/dev/zero")
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "file.py").touch()
    for name, words in (
        ("pipe.py", "is a pipe, a device or a socket"),
        ("zero.py", "is a pipe, a device or a socket"),
        ("loop.py", "symbolic links"),
        ("folder.py", "is a folder"),
        ("file.py/a.py", "no config file"),
        ("x" * 300 + ".py", "File name too long"),
    ):
        assert words in message_of(tmp_path / name)


def test_a_file_is_read_as_python_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode() + "save_path = 'K\u00f6ln'\n".encode())
    assert Config.fromfile(path).save_path == "K\u00f6ln"
    path.write_bytes(b"# -*- coding: latin-1 -*-\r\n" + MINIMAL.encode() + b"save_path = 'K\xf6ln'\n")
    assert Config.fromfile(path).save_path == "K\u00f6ln"


def test_a_tower_of_bases_ends(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"c{number}.py").write_text(f"_base_ = 'c{number + 1}.py'\n")
    (tmp_path / "c60.py").write_text(MINIMAL)
    assert "more than 50 configs stand on each other" in message_of(tmp_path / "c0.py")
    assert Config.fromfile(tmp_path / "c30.py").data.num_classes == 3
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "again.py").write_text("_base_ = 'here/again.py'\n")
    assert "goes in a circle" in message_of(tmp_path / "again.py")


def test_values_that_cannot_be_compared_differ(write: Write) -> None:
    arrays = "import numpy as np\nlr = np.zeros(3)\n"
    path = write(a=arrays, b=arrays, c=f"_base_ = ['a.py', 'b.py']\n{MINIMAL}")
    assert "its bases disagree on 'lr'" in message_of(path)
