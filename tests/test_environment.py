"""environment.yml, pyproject.toml, constraints.txt and the Makefile agree with each other; one version everywhere."""

import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import mfkit
from mfkit import repository
from tests.oldest import oldest
from tests.test_house import CORE

ROOT = repository.root()
PIP_ALONE = {"sphinx-mathjax-offline"}  # not on conda-forge: `pip install -e ".[dev]"` at the end brings it
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pyproject_requirements(text: str) -> dict[str, SpecifierSet]:
    project = tomllib.loads(text)["project"]
    wanted = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]
    wanted = [requirement for requirement in wanted if requirement.name not in PIP_ALONE]
    named = {CONDA_NAMES.get(r.name, r.name): r.specifier for r in wanted}
    return named | {"python": SpecifierSet(project["requires-python"])}


def conda_requirements(text: str) -> dict[str, SpecifierSet]:
    lines = [line for line in yaml.safe_load(text)["dependencies"] if isinstance(line, str) and line != "pip"]
    return {wanted.name: wanted.specifier for wanted in map(Requirement, lines)}


def test_environment_yml_agrees_with_pyproject():
    assert conda_requirements(read("environment.yml")) == pyproject_requirements(read("pyproject.toml"))
    assert yaml.safe_load(read("environment.yml"))["dependencies"][-1] == {"pip": ['-e ".[dev]"']}


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


@pytest.mark.parametrize("line", ['"torch~=2.7"', '"torch>=2.7,!=2.8"', '"torch"'])
def test_the_oldest_versions_can_be_read_off_pyproject(line):
    pyproject = read("pyproject.toml")
    pins = dict(pin.split("==") for pin in oldest(pyproject))
    wanted = {requirement.name: requirement.specifier for requirement in map(Requirement, _dependencies())}
    assert pins.keys() == wanted.keys()
    for name, pin in pins.items():
        assert f">={pin}" in map(str, wanted[name])
        assert wanted[name].contains(pin)
    with pytest.raises(ValueError, match="must read name>=version, got 'torch"):
        oldest(pyproject.replace('"torch>=2.7"', line))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_without_a_target_says_what_there_is():
    made = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.search(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE)[1].split()
    assert re.findall(r"^  make (\S+) +\S", made.stdout, re.MULTILINE) == targets


def test_make_quick_tests_the_core():
    core = re.search(r"^CORE := (.+)$", read("Makefile"), re.MULTILINE)[1].split()
    assert tuple(core) == CORE


def test_one_version_everywhere():
    cited = yaml.safe_load(read("CITATION.cff"))
    latest = re.search(r"^## \[(\d\S*)\] - (\S+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert cited["version"] == mfkit.__version__
    assert latest.groups() == (cited["version"], str(cited["date-released"]))
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert project.get("version", mfkit.__version__) == mfkit.__version__
