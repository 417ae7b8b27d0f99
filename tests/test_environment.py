"""environment.yml, pyproject.toml, constraints.txt and the module's size."""

import ast
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mfkit import figures

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
CORE = ("data", "model", "initializers", "losses", "clipping", "trainer")


def read(name: str) -> str:
    return (figures.ROOT / name).read_text(encoding="utf-8")


def pyproject_requirements(text: str) -> dict[str, str]:
    project = tomllib.loads(text)["project"]
    wanted = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]
    return {CONDA_NAMES.get(r.name, r.name): str(r.specifier) for r in wanted} | {"python": project["requires-python"]}


def conda_requirements(text: str) -> dict[str, str]:
    lines = [line for line in yaml.safe_load(text)["dependencies"] if isinstance(line, str) and line != "pip"]
    return {re.match(r"[\w.-]+", line)[0]: line[len(re.match(r"[\w.-]+", line)[0]) :] for line in lines}


def test_environment_yml_agrees_with_pyproject():
    assert conda_requirements(read("environment.yml")) == pyproject_requirements(read("pyproject.toml"))


@pytest.mark.parametrize("defect", [("pandas>=2.2", "pandas>=2.0"), ("  - seaborn>=0.13.2\n", ""), ("ruff>=", "ruf>=")])
def test_a_disagreement_is_seen(defect):
    changed = read("environment.yml").replace(*defect)
    assert changed != read("environment.yml")
    assert conda_requirements(changed) != pyproject_requirements(read("pyproject.toml"))


def test_constraints_satisfy_pyproject():
    wanted = {Requirement(line).name: Requirement(line).specifier for line in _dependencies()}
    pinned = dict(line.split("==") for line in read("constraints.txt").splitlines() if "==" in line)
    torch = re.search(r"^TORCH \?= torch==(\S+)", read("Makefile"), re.MULTILINE)[1]
    for name, specifier in wanted.items():
        assert SpecifierSet(str(specifier)).contains((pinned | {"torch": torch})[name]), name


def _dependencies() -> list[str]:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    return project["dependencies"] + project["optional-dependencies"]["dev"]


def test_the_module_stays_small():
    """The core in lines of all kinds; the whole module in lines of code: docstrings and blank lines do not count."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (figures.ROOT / "mfkit").glob("*.py")}
    assert sum(len(texts[name].splitlines()) for name in CORE) <= 700
    assert sum(map(lines_of_code, texts.values())) <= 2500


def lines_of_code(text: str) -> int:
    prose = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            prose |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return sum(bool(line.strip()) and number not in prose for number, line in enumerate(text.splitlines(), 1))


def test_lines_of_code():
    assert lines_of_code('"""One.\n\nTwo."""\n\nx = 1  # counts\n\ndef f():\n    """Three."""\n    return x\n') == 3
