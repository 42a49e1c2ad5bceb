"""Configs: a Python file with bases becomes one checked tree.

    cfg = Config.fromfile("configs/semantic_kitti/teacher.py", parse_options(["epoch=3"]))
    validate_config(cfg)  # once every module that registers something is imported
    cfg.model.backbone.enc_depths

The syntax of the files is described in ``config_loader``, the top-level keys in
``config_schema``, overrides in ``config_options``.
"""

from __future__ import annotations

import copy
import difflib
import keyword
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import addict

from pointcept.utils.config_loader import Layer, follow_data_root, load_layer
from pointcept.utils.config_options import apply_options, parse_options
from pointcept.utils.config_schema import SCHEMA, check_plain, check_schema, defaults
from pointcept.utils.config_upstream import KEYS
from pointcept.utils.config_validation import validate_config
from pointcept.utils.errors import ConfigError, did_you_mean
from pointcept.utils.files import write_text_atomic

__all__ = ["Config", "parse_options", "validate_config"]

logger = logging.getLogger(__name__)

NEARLY = 0.75  # similarity from which an unknown name is a misspelt key: "epochs" 0.91, "dataset" and "data" 0.73
YAPF_STYLE = {"based_on_style": "pep8", "column_limit": 120, "split_before_first_argument": True}


class Config(addict.Dict):  # type: ignore[misc]
    """A dict whose string keys are attributes too, in every nested dict as well.

    A missing key raises (``AttributeError`` or ``KeyError``) and names the nearest one; it never
    springs into being. Copies, deep copies and pickles are independent of the original.
    """

    # The file it was read from, for messages; an attribute, not a key.
    _source: str = ""

    @classmethod
    def fromfile(cls, path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
        """Read a config file: schema keys only, defaults filled in, types checked.

        Args:
            path: a ``.py`` file.
            options: overrides ``{"model.backbone.drop_path": 0.1}``, see :func:`parse_options`.

        Raises:
            ConfigError: anything wrong in the file, its bases or the options.
        """
        path = Path(path)
        layer = load_layer(path)
        _drop_retired(layer)
        _check_names(layer)
        tree = {**defaults(), **{k: v for k, v in layer.values.items() if k in SCHEMA}}
        origin = {k: layer.origin.get(k, str(path)) for k in tree}
        if options:
            tree, origin = _override(tree, origin, options)
        for key, value in tree.items():
            check_plain(value, f"{origin[key]}: {key}")
        check_schema(tree, origin)
        config = cls(tree)
        object.__setattr__(config, "_source", str(path))
        return config

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, self._hook(value))

    @classmethod
    def _hook(cls, item: Any) -> Any:
        # addict copies every nested dict again at each level; one that is a Config already may stay.
        return item if isinstance(item, cls) else super()._hook(item)

    def __getattr__(self, key: str) -> Any:
        if key not in self:
            raise AttributeError(self._no_such(key))
        return self[key]

    def __missing__(self, key: Any) -> Any:
        raise KeyError(self._no_such(key))

    def _no_such(self, key: Any) -> str:
        where = f"the config {self._source}" if self._source else "this part of the config"
        return f"{where} has no {key!r}: {did_you_mean(str(key), self)}"

    def __or__(self, other: Any) -> Any:
        return type(self)(super().__or__(other)) if isinstance(other, dict) else NotImplemented

    def __deepcopy__(self, memo: dict[int, Any]) -> Config:
        return _rebuild(type(self), copy.deepcopy(self.to_dict(), memo), self._source)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.to_dict(), self._source)

    def to_dict(self) -> dict[Any, Any]:
        """Plain nested dicts, for pickles that other programs read."""
        return {key: _plain(value) for key, value in self.items()}

    def pretty_text(self) -> str:
        """The config as Python source that :meth:`fromfile` reads back to an equal config."""
        # Imported here: it costs half a second, and only a dump needs it.
        from yapf.yapflib.yapf_api import FormatCode

        text = "".join(f"{key} = {_source(value)}\n" for key, value in self.items())
        return FormatCode(text, style_config=YAPF_STYLE)[0]  # type: ignore[no-any-return, unused-ignore]

    def dump(self, path: str | Path) -> Path:
        """Write :meth:`pretty_text` to ``path``, whole or not at all."""
        return write_text_atomic(path, self.pretty_text())


def _rebuild(kind: type[Config], tree: dict[Any, Any], source: str) -> Config:
    config = kind(tree)
    object.__setattr__(config, "_source", source)
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value


def _source(value: Any) -> str:
    """``value`` as Python source; dicts with plain names as keys are written ``dict(a=1)``."""
    if isinstance(value, dict):
        if all(isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k) for k in value):
            return f"dict({', '.join(f'{k}={_source(v)}' for k, v in value.items())})"
        return f"{{{', '.join(f'{k!r}: {_source(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_source, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_source, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)


def _drop_retired(layer: Layer) -> None:
    """Remove the keys that mean nothing here, with a warning; a helper variable of such a name stays."""
    for key in [key for key in KEYS if key in layer.values and key not in layer.used]:
        logger.warning("%s: config key %r is ignored: %s", layer.origin[key], key, KEYS[key])
        del layer.values[key]


def _check_names(layer: Layer) -> None:
    """Say which top-level names neither mean something nor are read by any file; they have no effect.

    Raises:
        ConfigError: such a name that is nearly a key, or the new value of a helper variable that a base has read.
    """
    idle: dict[str, list[str]] = {}
    for key in layer.values.keys() - layer.used - SCHEMA.keys():
        where = f"{layer.origin[key]}: unused config key {key!r}"
        if key in layer.late:
            raise ConfigError(f"{where}: a base has read its former value already, so the new one changes nothing")
        meant = _nearly(key)
        if meant is not None:
            raise ConfigError(f"{where}: {did_you_mean(meant, SCHEMA)}")
        idle.setdefault(layer.origin[key], []).append(key)
    for path, keys in idle.items():
        logger.warning("%s: no key of a config, and nothing reads it: %s", path, ", ".join(sorted(keys)))


def _nearly(name: str) -> str | None:
    """The key that ``name`` is with a slip in it (``epochs``, ``batchSize``, ``grad_clip``), or None."""

    def likeness(key: str) -> float:
        own, other = name.lower().split("_"), key.split("_")
        if sorted(own) == sorted(other):
            return 1.0
        return difflib.SequenceMatcher(None, "".join(own), "".join(other)).ratio()

    nearest = max(SCHEMA, key=likeness)
    return nearest if likeness(nearest) >= NEARLY else None


def _override(
    tree: dict[str, Any], origin: dict[str, str], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Apply the command line to a resolved tree; retired keys are named and skipped."""
    for key in KEYS.keys() & options.keys():
        logger.warning("--options: config key %r is ignored: %s", key, KEYS[key])
    options = {k: v for k, v in options.items() if k not in KEYS}
    if "data_root" in options:
        # First, so that data.test.data_root on the same command line wins.
        tree = follow_data_root(tree, tree["data_root"], options["data_root"])
    tree = apply_options(tree, options)
    return tree, {**origin, **{k.split(".")[0]: "--options" for k in options}}
