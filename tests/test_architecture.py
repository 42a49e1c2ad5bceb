"""The house rules that can be read off the sources: who imports whom, sizes, docstrings, the device.

Each rule is a function from sources to complaints. All of them run on the repository, and on a
fabricated bad file each, so that a rule that finds nothing any more is noticed.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from tests.paths import REPO

OLDEST_PYTHON = (3, 10)
MAX_FILE, MAX_FUNCTION, MAX_TOOL = 450, 70, 40  # lines; a file and a function stay below

# package -> the packages that it may import besides itself
MAY_IMPORT = {
    "tools": {"engines", "models", "structures", "topology", "datasets", "ops", "evaluation", "utils"},
    "engines": {"models", "structures", "topology", "datasets", "ops", "evaluation", "utils"},
    "models": {"structures", "topology", "ops", "evaluation", "utils"},
    "structures": {"ops", "evaluation", "utils"},
    "topology": {"ops", "evaluation", "utils"},
    "datasets": {"utils"},
    "ops": {"utils", "pointops"},
    "evaluation": {"utils"},
    "utils": set(),
    "pointops": set(),
}
KNOWS_CUDA = ("pointcept/utils/device.py", "pointcept/ops/", "libs/pointops/")


@dataclass(frozen=True)
class Source:
    """One file: its path in the repository, its name as a module, its text and its syntax tree."""

    path: str
    module: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The key of ``MAY_IMPORT`` that this file belongs to; empty for ``pointcept/__init__.py``."""
        return package_of(self.module)

    def at(self, node: ast.AST) -> str:
        return f"{self.path}:{node.lineno}"  # type: ignore[attr-defined]


def package_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "pointcept" and len(parts) > 1 else "" if parts[0] == "pointcept" else parts[0]


def read_sources(root: Path) -> list[Source]:
    """Every Python file of ``pointcept``, ``libs/pointops/pointops`` and ``tools``."""
    sources = []
    for folder, base in (("pointcept", root), ("libs/pointops/pointops", root / "libs/pointops"), ("tools", root)):
        for path in sorted((root / folder).rglob("*.py")):
            module = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
            text = path.read_text(encoding="utf-8")
            name = path.relative_to(root).as_posix()
            # feature_version: what a newer Python would accept is an error here.
            sources.append(Source(name, module, text, ast.parse(text, name, feature_version=OLDEST_PYTHON)))
    return sources


def imports(source: Source, runtime_only: bool = False) -> Iterator[tuple[ast.stmt, str]]:
    """Every import statement, with the dotted names that it may load (``from a import b``: ``a`` and ``a.b``).

    Args:
        runtime_only: leave out what runs later (functions) or never (``if TYPE_CHECKING``).
    """
    queue: list[ast.AST] = list(source.tree.body)
    while queue:
        node = queue.pop(0)
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(source, node)
            yield node, base
            yield from ((node, f"{base}.{alias.name}") for alias in node.names)
        elif not (runtime_only and (isinstance(node, FUNCTIONS) or is_type_checking(node))):
            queue.extend(ast.iter_child_nodes(node))


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def absolute(source: Source, node: ast.ImportFrom) -> str:
    """The module of a ``from`` import, relative ones resolved."""
    if not node.level:
        return node.module or ""
    parts = source.module.split(".")
    up = node.level - source.path.endswith("__init__.py")
    return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def layers(sources: Iterable[Source]) -> Iterator[str]:
    """Imports that go upward or sideways, wherever in a file they stand."""
    for source in sources:
        for node, name in imports(source):
            root, target = name.split(".")[0], package_of(name)
            if root not in ("pointcept", "pointops", "tools") or target in ("", source.package):
                continue
            if target in MAY_IMPORT and target not in MAY_IMPORT.get(source.package, set()):
                yield f"{source.at(node)}: {source.package or 'pointcept'} must not import {name}"


def hidden_pointops(sources: Iterable[Source]) -> Iterator[str]:
    """Kernels that are reached by name (``import_module("pointops.x")``) from outside ``ops``."""
    for source in sources:
        if source.package in ("ops", "pointops"):
            continue
        for node in ast.walk(source.tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.fullmatch(r"pointops(\.\w+)+(:\w+)?|pointops:\w+", text):
                yield f"{source.at(node)}: only ops may import {text!r}"


def cycles(sources: Iterable[Source]) -> Iterator[str]:
    """Modules that import each other while they are being loaded."""
    sources = list(sources)
    graph = {source.module: edges(source, {s.module for s in sources}) for source in sources}
    state: dict[str, int] = {}  # 1: on the path, 2: done

    def visit(module: str, path: tuple[str, ...]) -> Iterator[str]:
        if state.get(module) == 2:
            return
        if state.get(module) == 1:
            yield "import cycle: " + " -> ".join([*path[path.index(module) :], module])
            return
        state[module] = 1
        for target in sorted(graph[module]):
            yield from visit(target, (*path, module))
        state[module] = 2

    for module in sorted(graph):
        yield from visit(module, ())


def edges(source: Source, known: set[str]) -> set[str]:
    """The modules that loading ``source`` loads; packages around it are being loaded already."""
    found, asked = set(), set()
    for node, name in imports(source, runtime_only=True):
        found.update(prefixes(name))
        # ``from package import module`` needs no more of the package than that it exists.
        if isinstance(node, ast.ImportFrom) and any(f"{name}.{alias.name}" not in known for alias in node.names):
            asked.add(name)
    around = set(prefixes(source.module))
    # A package loads its modules while it is being loaded; a module that asks its package for a name is a cycle.
    return (found & known) - (around - asked) - {source.module, "pointcept"}


def prefixes(name: str) -> list[str]:
    """``a.b.c`` -> ``a``, ``a.b``, ``a.b.c``."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts) + 1)]


def star_imports(sources: Iterable[Source]) -> Iterator[str]:
    """``from x import *``."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                yield f"{source.at(node)}: import *"


def cuda_elsewhere(sources: Iterable[Source]) -> Iterator[str]:
    """``x.cuda()`` and ``torch.cuda`` outside the files that know about the device."""
    for source in sources:
        if source.path.startswith(KNOWS_CUDA):
            continue
        for node in ast.walk(source.tree):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"
            if called or (isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.cuda"):
                yield f"{source.at(node)}: {ast.unparse(node)}: ask pointcept.utils.device"
        for node, name in imports(source):
            if name.startswith("torch.cuda"):
                yield f"{source.at(node)}: imports {name}: ask pointcept.utils.device"


def prints(sources: Iterable[Source]) -> Iterator[str]:
    """``print`` in the packages, which log."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "builtins.print"):
                yield f"{source.at(node)}: print"


def logic_in_tools(sources: Iterable[Source]) -> Iterator[str]:
    """Tools that do more than read arguments and call the package."""
    for source in sources:
        if source.package != "tools":
            continue
        lines = source.text.count("\n")
        if lines >= MAX_TOOL:
            yield f"{source.path}: {lines} lines, fewer than {MAX_TOOL} allowed"
        for node in ast.walk(source.tree):
            guard = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
            if isinstance(node, (ast.If, ast.For, ast.While, ast.Try, ast.ClassDef, ast.comprehension)) and not guard:
                where = source.at(node) if hasattr(node, "lineno") else source.path
                yield f"{where}: {type(node).__name__} in a tool: move it into the package"


def long_files(sources: Iterable[Source]) -> Iterator[str]:
    """Files that want to be two."""
    for source in sources:
        lines = source.text.count("\n")
        if lines >= MAX_FILE:
            yield f"{source.path}: {lines} lines, fewer than {MAX_FILE} allowed"


def long_functions(sources: Iterable[Source]) -> Iterator[str]:
    """Functions that want to be two; decorators do not count."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, FUNCTIONS):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines >= MAX_FUNCTION:
                    yield f"{source.at(node)}: {node.name} has {lines} lines, fewer than {MAX_FUNCTION} allowed"


def undocumented(sources: Iterable[Source]) -> Iterator[str]:
    """Modules, public functions and public classes without a docstring; methods are looked at when loaded."""
    for source in sources:
        if not ast.get_docstring(source.tree):
            yield f"{source.path}: the module has no docstring"
        for node in source.tree.body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            if not node.name.startswith("_") and not ast.get_docstring(node):
                yield f"{source.at(node)}: {node.name} has no docstring"


RULES: list[Callable[[Iterable[Source]], Iterator[str]]] = [
    layers,
    hidden_pointops,
    cycles,
    star_imports,
    cuda_elsewhere,
    prints,
    logic_in_tools,
    long_files,
    long_functions,
    undocumented,
]


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return read_sources(REPO)


def test_the_sources_are_found(sources: list[Source]) -> None:
    packages = {source.package for source in sources}
    assert packages == {*MAY_IMPORT, ""}, "a new package needs its place in MAY_IMPORT and in the design"
    assert len(sources) > 100


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house_rule(rule: Callable[[Iterable[Source]], Iterator[str]], sources: list[Source]) -> None:
    complaints = sorted(set(rule(sources)))
    assert not complaints, "\n".join(complaints)


def public_members(module: ModuleType) -> Iterator[tuple[type, str]]:
    """Public methods and properties of the public classes that a module defines."""
    for cls in vars(module).values():
        if not inspect.isclass(cls) or cls.__module__ != module.__name__ or cls.__name__.startswith("_"):
            continue
        for name, member in vars(cls).items():
            method = isinstance(member, (staticmethod, classmethod, property)) or inspect.isfunction(member)
            if method and not name.startswith("_"):
                yield cls, name


def test_everything_imports_and_every_public_method_is_documented(sources: list[Source]) -> None:
    """On a machine without a GPU or optional packages too; a method may inherit its docstring."""
    undescribed = []
    for source in sources:
        if source.path.startswith("pointcept/"):
            module = importlib.import_module(source.module)
            undescribed += [
                f"{source.path}: {cls.__name__}.{name}"
                for cls, name in public_members(module)
                if not described(cls, name)
            ]
    assert not undescribed, "\n".join(undescribed)


def described(cls: type, name: str) -> bool:
    """Whether the method, or the one of a base class that it replaces, has a docstring."""
    return any(vars(base)[name].__doc__ for base in cls.__mro__ if name in vars(base))


# --- the rules on fabricated files ---

DOC = '"""A module."""\n'


def fabricate(root: Path, files: dict[str, str]) -> list[Source]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_sources(root)


BAD: list[tuple[Callable[[Iterable[Source]], Iterator[str]], dict[str, str], str]] = [
    (layers, {"pointcept/utils/a.py": "from pointcept.models import x"}, "utils must not import pointcept.models"),
    (layers, {"pointcept/models/a.py": "from pointcept import datasets"}, "models must not import pointcept.datasets"),
    (layers, {"pointcept/models/b/a.py": "def f():\n    from ...engines import train"}, "import pointcept.engines"),
    (layers, {"pointcept/structures/a.py": "import pointcept.topology.rips as r"}, "structures must not import"),
    (layers, {"pointcept/evaluation/__init__.py": "from ..ops.api import x"}, "evaluation must not import"),
    (layers, {"pointcept/engines/a.py": "import pointops.convolution"}, "engines must not import pointops"),
    (layers, {"libs/pointops/pointops/a.py": "import pointcept.utils"}, "pointops must not import pointcept.utils"),
    (layers, {"pointcept/engines/a.py": "if TYPE_CHECKING:\n    from tools.train import main"}, "import tools.train"),
    (hidden_pointops, {"pointcept/models/a.py": 'f("pointops.convolution")'}, "'pointops.convolution'"),
    (hidden_pointops, {"pointcept/models/a.py": 'f("pointops.convolution:product")'}, "only ops may import"),
    (
        cycles,
        {"pointcept/utils/a.py": "import pointcept.utils.b", "pointcept/utils/b.py": "from .a import x"},
        "pointcept.utils.a -> pointcept.utils.b -> pointcept.utils.a",
    ),
    (
        cycles,
        {"pointcept/ops/__init__.py": "from .a import x", "pointcept/ops/a.py": "from pointcept.ops import y"},
        "pointcept.ops -> pointcept.ops.a -> pointcept.ops",
    ),
    (
        cycles,
        {
            "pointcept/models/__init__.py": "from pointcept.models import a",
            "pointcept/models/a.py": "from pointcept.engines.c import x",
            "pointcept/engines/__init__.py": "import pointcept.models.b",
            "pointcept/engines/c.py": "",
            "pointcept/models/b.py": "",
        },
        "-> pointcept.models",
    ),
    (star_imports, {"pointcept/ops/a.py": "from math import *"}, "import *"),
    (cuda_elsewhere, {"pointcept/models/a.py": "x = y.cuda()"}, "y.cuda()"),
    (cuda_elsewhere, {"tools/a.py": "import torch\nn = torch.cuda.device_count()"}, "tools/a.py:2"),
    (cuda_elsewhere, {"pointcept/utils/a.py": "from torch import cuda"}, "imports torch.cuda"),
    (cuda_elsewhere, {"pointcept/engines/a.py": "from torch.cuda.amp import autocast"}, "imports torch.cuda.amp"),
    (prints, {"pointcept/datasets/a.py": "def f():\n    print('x')"}, "a.py:2: print"),
    (logic_in_tools, {"tools/a.py": "x = 1\n" * MAX_TOOL}, f"{MAX_TOOL} lines"),
    (logic_in_tools, {"tools/a.py": "for i in range(3):\n    pass"}, "For in a tool"),
    (logic_in_tools, {"tools/a.py": "x = [i for i in y]"}, "comprehension in a tool"),
    (long_files, {"pointcept/ops/a.py": "x = 1\n" * MAX_FILE}, f"{MAX_FILE} lines"),
    (long_functions, {"pointcept/ops/a.py": "def f():\n" + "    x = 1\n" * (MAX_FUNCTION - 1)}, "f has"),
    (long_functions, {"tools/a.py": "class A:\n    def f():\n" + "        x = 1\n" * (MAX_FUNCTION - 1)}, "f has"),
    (undocumented, {"pointcept/ops/a.py": "x = 1"}, "the module has no docstring"),
    (undocumented, {"pointcept/ops/a.py": DOC + "def f():\n    return 1"}, "f has no docstring"),
    (undocumented, {"pointcept/ops/a.py": DOC + "class A:\n    x = 1"}, "A has no docstring"),
]


@pytest.mark.parametrize(("rule", "files", "expected"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_finds_its_breach(
    rule: Callable[[Iterable[Source]], Iterator[str]], files: dict[str, str], expected: str, tmp_path: Path
) -> None:
    complaints = list(rule(fabricate(tmp_path, files)))
    assert any(expected in complaint for complaint in complaints), complaints


def test_every_rule_has_a_breach_and_spares_good_files(tmp_path: Path) -> None:
    assert {rule for rule, _, _ in BAD} == set(RULES)
    good = fabricate(
        tmp_path,
        {
            "pointcept/__init__.py": DOC,
            "pointcept/utils/__init__.py": DOC,
            "pointcept/utils/device.py": DOC + "import torch\nn = torch.cuda.device_count()\nx = n.cuda()\n",
            "pointcept/ops/__init__.py": DOC + "from pointcept.ops.a import f\n",
            "pointcept/ops/a.py": DOC + "import pointops.b\nfrom pointcept.ops.b import f\nname = 'pointops.b:f'\n",
            "pointcept/ops/b.py": DOC + "def f():\n    'Doc.'\n    from pointcept.ops import f\n",
            "pointcept/ops/c.py": DOC + "from pointcept.ops import a, b\n",
            "pointcept/structures/a.py": DOC + "from pointcept.ops import api\nfrom torch import device\n",
            "pointcept/engines/a.py": DOC
            + "from pointcept import __version__\nif TYPE_CHECKING:\n    from pointcept.engines.b import B\n",
            "pointcept/engines/b.py": DOC + "from pointcept.engines.a import x\nclass B:\n    'Doc.'\n",
            "libs/pointops/pointops/b.py": DOC + "import torch.cuda\n",
            "tools/train.py": DOC + "def main():\n    'Doc.'\nif __name__ == '__main__':\n    main()\n",
        },
    )
    assert [complaint for rule in RULES for complaint in rule(good)] == []


def test_newer_syntax_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError):
        fabricate(tmp_path, {"pointcept/utils/a.py": "type A = int"})


def test_a_method_without_a_docstring_is_noticed() -> None:
    class Base:
        def told(self) -> None:
            """Says what it does."""

    class Derived(Base):
        def told(self) -> None: ...
        def untold(self) -> None: ...

    assert described(Derived, "told")
    assert not described(Derived, "untold")
