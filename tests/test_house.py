"""The house keeps its shape: the core by name, imports in one direction, short functions, private names at home."""

import ast
import functools
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The method, in the order of reading: each of these imports nothing of ours but what stands before it. So some stand
# earlier than they are told: a model starts from `initializers`, a config knows `losses` and `optimizers` by name.
CORE = (
    "checks",
    "ids",
    "doubts",
    "frames",
    "data",
    "initializers",
    "model",
    "losses",
    "optimizers",
    "config",
    "objective",
    "clipping",
    "checkpoint",
    "evaluate",
    "trainer",
)
LONGEST = 60  # lines of a function, from its def to its end
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)


@functools.cache
def package() -> dict[str, ast.Module]:
    """Every module of mfkit by its dotted name; a folder's __init__.py has the folder's name."""
    trees = {}
    for path in sorted((ROOT / "mfkit").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def planted(**sources: str) -> dict[str, ast.Module]:
    """A package of small modules, by name."""
    return {f"mfkit.{name}": ast.parse(source) for name, source in sources.items()}


def imported_names(tree: ast.AST) -> list[tuple[str, str]]:
    """(dotted name, the name that it has here) of each import statement, wherever it stands.

    `from a import b as c` gives ("a.b", "c"); `from .a import b` gives (".a.b", "b").
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            found += [(f"{prefix}.{alias.name}", alias.asname or alias.name) for alias in node.names]
    return found


def imports(tree: ast.AST, known: set[str]) -> set[str]:
    """The modules of ours that a module imports: mfkit.data for `from mfkit.data import Ratings`."""
    found = set()
    for dotted, _ in imported_names(tree):
        if dotted not in known:
            dotted = dotted.rpartition(".")[0]
        if dotted in known:
            found.add(dotted)
    return found


def core_problems(trees: dict[str, ast.Module], core: tuple[str, ...] = CORE) -> list[str]:
    """Imports of the core that leave it, that go backwards in the order of reading, or that hide in a function."""
    problems, read = [], set()
    for name in core:
        tree = trees[f"mfkit.{name}"]
        allowed = {f"mfkit.{earlier}" for earlier in read}
        for dotted in sorted(imports(tree, trees.keys() | {"mfkit"}) - allowed):
            problems.append(f"{name} imports {dotted}")
        for function in ast.walk(tree):
            if isinstance(function, FUNCTIONS):
                inside = [dotted for dotted, _ in imported_names(function)]
                problems += [f"{name}.{function.name} imports {dotted} inside" for dotted in inside]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                problems.append(f"{name} calls {ast.unparse(node.func)}")
        read.add(name)
    return problems


def relative_imports(trees: dict[str, ast.Module]) -> list[str]:
    """Imports that are not written in full, which the other checks would not see."""
    found = [(name, dotted) for name, tree in trees.items() for dotted, _ in imported_names(tree)]
    return [f"{name} imports {dotted}" for name, dotted in found if dotted.startswith(".")]


def circle(trees: dict[str, ast.Module]) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; empty where there is none."""
    known = set(trees)
    graph = {name: imports(tree, known) for name, tree in trees.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def long_functions(trees: dict[str, ast.Module], longest: int = LONGEST) -> list[str]:
    problems = []
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                lines = node.end_lineno - node.lineno + 1
                if lines > longest:
                    problems.append(f"{name}.{node.name} has {lines} lines")
    return problems


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(tree: ast.AST) -> set[str]:
    """The private names that a module makes: functions, classes, variables, attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, DEFINITIONS):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def borrowed_privates(trees: dict[str, ast.Module]) -> list[str]:
    """Where a module uses a private name of another one: imported, or read from a module or an object."""
    made = {name: private_names(tree) for name, tree in trees.items()}
    problems = []
    for name, tree in trees.items():
        ours = {here for dotted, here in imported_names(tree) if dotted in trees}
        elsewhere = set().union(*(privates for other, privates in made.items() if other != name)) - made[name]
        for dotted, _ in imported_names(tree):
            if dotted.startswith("mfkit.") and is_private(dotted.rpartition(".")[2]):
                problems.append(f"{name} imports {dotted}")
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not is_private(node.attr):
                continue
            owner = ast.unparse(node.value)
            if owner in ours or (node.attr in elsewhere and owner not in ("self", "cls")):
                problems.append(f"{name} uses {owner}.{node.attr}")
    return problems


def test_the_core_imports_nothing_of_ours_but_itself_in_the_order_of_reading():
    assert core_problems(package()) == []


@pytest.mark.parametrize(
    ("loop", "found"),
    [
        ("from mfkit.data import Ratings\nfrom mfkit import model", []),
        ("import torch\nfrom torch.nn import functional", []),
        ("from mfkit.lab.figures import style", ["loop imports mfkit.lab.figures"]),
        ("from mfkit import predict", ["loop imports mfkit.predict"]),
        ("from mfkit import train", ["loop imports mfkit"]),
        ("import mfkit.predict as formulas", ["loop imports mfkit.predict"]),
        ("def run():\n    import torch", ["loop.run imports torch inside"]),
        ("class A:\n    def b(self):\n        from torch import nn", ["loop.b imports torch.nn inside"]),
        ("import importlib\nlate = importlib.import_module('mfkit.predict')", ["loop calls importlib.import_module"]),
        ("late = __import__('mfkit.predict')", ["loop calls __import__"]),
    ],
)
def test_an_import_that_leaves_the_core_is_seen(loop, found):
    trees = {"mfkit.lab.figures": ast.parse("")}
    trees |= planted(data="", model="from mfkit import data", predict="", loop=loop)
    assert core_problems(trees, ("data", "model", "loop")) == found


def test_an_import_against_the_order_of_reading_is_seen():
    trees = planted(data="from mfkit.model import rows", model="")
    assert core_problems(trees, ("data", "model")) == ["data imports mfkit.model"]
    assert core_problems(trees, ("model", "data")) == []


def test_imports_are_written_in_full_and_go_in_one_direction():
    assert relative_imports(package()) == []
    assert circle(package()) == []


def test_a_relative_import_is_seen():
    found = relative_imports(planted(a="from .peer import _solve\nfrom mfkit.peer import A\nfrom . import b"))
    assert found == ["mfkit.a imports .peer._solve", "mfkit.a imports ..b"]


def test_a_circle_is_seen():
    chain = planted(a="", b="from mfkit.a import x", c="import mfkit.b\nfrom mfkit import a")
    assert circle(chain) == []
    found = circle(chain | planted(a="def late():\n    from mfkit import c"))
    assert found[0] == found[-1]
    assert {"mfkit.a", "mfkit.c"} <= set(found)


def test_no_function_is_long():
    assert long_functions(package()) == []


def test_a_long_function_is_seen():
    body = "    x = 1\n" * 59
    assert long_functions(planted(a=f"def f():\n{body}")) == []
    assert long_functions(planted(a=f"def f():\n{body}    x = 2\n")) == ["mfkit.a.f has 61 lines"]
    docstring = "class A:\n    async def f(self):\n        '''" + "words\n" * 60 + "'''\n"
    assert long_functions(planted(a=docstring)) == ["mfkit.a.f has 62 lines"]


def test_private_names_stay_at_home():
    assert borrowed_privates(package()) == []


PEER = "_limit = 1\ndef _solve(): pass\nclass A:\n    def __init__(self): self._rows = 2\n    def _read(self): pass"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from mfkit.peer import _solve", ["mfkit.a imports mfkit.peer._solve"]),
        ("from mfkit import peer\npeer._solve()", ["mfkit.a uses peer._solve"]),
        ("from mfkit import peer as p\np._unheard_of", ["mfkit.a uses p._unheard_of"]),
        ("import mfkit.peer\nmfkit.peer._limit", ["mfkit.a uses mfkit.peer._limit"]),
        ("def f(x):\n    return x._rows, x._read()", ["mfkit.a uses x._rows", "mfkit.a uses x._read"]),
        ("def f(x):\n    return x.inner[0]._rows", ["mfkit.a uses x.inner[0]._rows"]),
        ("class B:\n    def f(self): return self._rows", []),
        ("class B:\n    _rows = 1\ndef f(x): return x._rows", []),
        ("import torch\ntorch._standard_gamma, torch.__version__", []),
        ("from mfkit.peer import A\nA.__name__", []),
    ],
)
def test_a_borrowed_private_name_is_seen(source, found):
    assert borrowed_privates(planted(a=source, peer=PEER)) == found


def test_the_walk_in_contributing_names_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    walk = re.search(r"^## One rating.*?\n(1\. .*?\n10\. .*?)\n\n", text, re.MULTILINE | re.DOTALL)[1]
    files = set(re.findall(r"`(\w+)\.py`", walk))
    assert len(files) >= 8
    assert files <= set(CORE)
    methods, functions = set(), set()
    for name in CORE:
        for node in ast.walk(package()[f"mfkit.{name}"]):
            if isinstance(node, FUNCTIONS):
                functions.add(node.name)
            elif isinstance(node, ast.ClassDef):
                methods |= {(node.name, inner.name) for inner in node.body if isinstance(inner, FUNCTIONS)}
    assert set(re.findall(r"`([A-Z]\w+)\.(\w+)", walk)) <= methods
    assert set(re.findall(r"`([a-z_]+)`", walk)) <= functions
