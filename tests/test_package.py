"""mfkit as it is installed: what importing it loads, what the wheel holds, and the command line outside a checkout."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml

import mfkit
from mfkit import __main__ as command
from mfkit import repository

ROOT = repository.root()
LATE = ("matplotlib", "seaborn", "optuna", "nbclient", "nbformat", "nbconvert", "pooch", "tqdm.notebook", "mfkit.lab")
DEV = ("IPython", "ipykernel", "jupyter_client", "matplotlib", "nbclient", "nbconvert", "nbformat", "nbval", "pytest")


def python(*arguments, cwd, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)


# What importing loads


def test_import_loads_neither_pictures_nor_notebooks_nor_optuna():
    code = f"import sys, mfkit; print(*[name for name in {LATE} if name in sys.modules])"
    done = python("-c", code, cwd=ROOT)
    assert (done.stdout.split(), done.stderr) == ([], "")


def test_tune_is_a_public_name_that_is_imported_on_first_use():
    code = (
        "import sys, mfkit\n"
        "assert 'tune' in dir(mfkit) and 'tune' in mfkit.__all__ and 'optuna' not in sys.modules\n"
        "from mfkit import tune\n"
        "assert tune is mfkit.tune is mfkit.tuning.tune and 'optuna' in sys.modules\n"
    )
    done = python("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_another_is_an_attribute_error():
    assert all(hasattr(mfkit, name) for name in mfkit.__all__)
    with pytest.raises(AttributeError, match="module 'mfkit' has no attribute 'figures'"):
        mfkit.figures  # noqa: B018


def test_the_version_is_written_once():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == mfkit.__version__
    assert mfkit.__version__ not in (ROOT / "pyproject.toml").read_text()


# What the wheel holds


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the files that git knows, built in a copy of them: building leaves files behind."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in [*tracked(), "pyproject.toml", "README.md", "LICENSE"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = python("-c", code, cwd=copy)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("what belongs into the wheel is asked of git")
    listed = subprocess.run(["git", "ls-files", "mfkit"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_the_wheel_holds_every_package_and_data_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        metadata = archive.read(f"mfkit-{mfkit.__version__}.dist-info/METADATA").decode()
    assert sorted(names) == sorted(tracked())
    assert f"\nVersion: {mfkit.__version__}\n" in metadata
    assert {"Author", "Keywords", "Project-URL", "License-File"} <= {
        line.split(":")[0] for line in metadata.split("\n")
    }


# The command line


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder like site-packages, with mfkit from the wheel, and an empty one to work in."""
    site, here = tmp_path_factory.mktemp("site-packages"), tmp_path_factory.mktemp("here")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site, here


@pytest.mark.parametrize("arguments", [["reproduce"], ["claims"], ["new", "12_x"], ["book"], ["cite", "00_x"]])
def test_outside_a_checkout_the_lab_says_what_it_needs(installed, arguments):
    site, here = installed
    before = sorted(site.rglob("*"))
    done = python("-m", "mfkit", *arguments, cwd=here, PYTHONPATH=str(site), PYTHONDONTWRITEBYTECODE="1")
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first == (
        f"python -m mfkit {arguments[0]} needs a checkout of the repository (notebooks/, figures/), "
        f"but mfkit runs from {site}."
    )
    assert second == "Clone the repository, then, in its folder: make reproduce"
    assert sorted(site.rglob("*")) == before
    assert list(here.iterdir()) == []


MINE = """
import mfkit

def build():
    ratings, _ = mfkit.synthetic(50, 60, 900, seed=0)
    model = mfkit.MatrixFactorization(50, 60, 8, mean=ratings.mean)
    return dict(model=model, ratings=ratings, batch_size=64)

def broken():
    given = build()
    mfkit.initializers.normal_(given["model"], 1.0)
    return given

def raises():
    return {}["no such key"]
"""
BARE = """
import runpy, sys
sys.modules.update(dict.fromkeys({names}))  # importing one of these raises ModuleNotFoundError
sys.argv[0] = "mfkit"
runpy.run_module("mfkit", run_name="__main__", alter_sys=True)
"""


def test_outside_a_checkout_the_doctor_works_without_packages_of_the_dev_extra(installed):
    site, here = installed
    folder = here / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    bare = ("-c", BARE.format(names=DEV), "doctor")
    for target, status, words in (("mine", 0, "MatrixFactorization"), ("mine:broken", 1, "wide start")):
        done = python(*bare, target, cwd=folder, PYTHONPATH=str(site))
        assert done.returncode == status, done.stderr
        assert words in done.stdout
    shutil.rmtree(folder)


def test_outside_a_checkout_eject_prints_the_one_file(installed):
    site, here = installed
    done = python("-c", BARE.format(names=DEV), "eject", cwd=here, PYTHONPATH=str(site))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (ROOT / "standalone" / "mf.py").read_text(encoding="utf-8")


def test_a_missing_package_is_named_with_its_remedy():
    done = python("-c", BARE.format(names=["nbclient"]), "reproduce", "00", cwd=ROOT)
    assert done.returncode == 2
    remedy = f'pip install -e ".[dev]" in {ROOT}, or make there'
    assert done.stderr == f"python -m mfkit reproduce needs nbclient, not installed here: {remedy}\n"


@pytest.fixture
def said(capsys):
    """The exit status of a call, and its one line on stderr."""

    def call(*arguments: str) -> tuple[int, str]:
        try:
            status = command.main(list(arguments))
        except SystemExit as stop:  # argparse's way
            status = int(stop.code or 0)
        line, end = capsys.readouterr().err.split("\n")
        assert end == ""
        return status, line

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: command"),
        (["reproduse"], "invalid choice: 'reproduse'"),
        (["reproduce", "77"], "no notebook starts with '77'; there are 00_three_examples, 01_memory"),
        (["new", "00_again"], "name must be a free number and a_question, got '00_again'"),
        (["doctor"], "the following arguments are required: module:build"),
        (["doctor", "no_such_module:build"], "target must name a module in"),
        (["doctor", "json:build"], "target must name a function, and json has none called 'build'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_two(said, arguments, words):
    status, line = said(*arguments)
    assert status == 2
    assert words in line


@pytest.mark.parametrize("source", [MINE, "import no_such_package\n"])
def test_where_the_readers_code_raises_the_doctor_shows_it_and_cannot_run(source, tmp_path, monkeypatch, capsys):
    name = f"theirs_{len(source)}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert command.main(["doctor", f"{name}:raises"]) == 2
    assert f'File "{tmp_path / name}.py"' in capsys.readouterr().err


def test_help_says_what_the_exit_status_means(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {status}  " in text for status in (0, 1, 2))
