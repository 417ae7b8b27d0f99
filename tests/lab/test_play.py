"""Variants and working copies: another run, and nothing committed changes."""

import os
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from mfkit.lab import play, records, runner

CODE = """
import matplotlib.pyplot as plt
import pandas as pd
from mfkit.lab import figures
fig, ax = plt.subplots()
claims = [figures.claim("prediction", "small", "It is small.", ("<", 3), size)]
figures.publish(fig, "00_size", pd.DataFrame({"x": [size]}), claims, f"A size of {size}.")
"""


@pytest.fixture
def project(checkout):
    cells = [
        new_code_cell("size = 2  # how large", id="p", metadata={"tags": ["parameters"]}),
        new_code_cell(CODE, id="c"),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), checkout / "notebooks" / "00_size.ipynb")
    (checkout / "README.md").write_text("# A project\n")
    assert runner.reproduce(runner.choose([]), update=True) == 0
    return checkout


def files(project):
    return {path: path.read_bytes() for folder in ("notebooks", "figures") for path in (project / folder).rglob("*.*")}


def test_a_variant_is_run_elsewhere_and_its_claims_are_judged_anew(project, capsys):
    before = files(project)
    out = project / "tried"
    assert play.variant(runner.choose(["00"])[0], play.settings(["size=4"]), out) == 0
    record = records.load(out / "figures")["00_size"]
    assert record["caption"] == "A size of 4."
    assert record["claims"][0]["verdict"] == "FAILS"
    assert (out / "00_size.ipynb").is_file()
    assert files(project) == before
    assert "Nothing in the repository was changed" in capsys.readouterr().out


def test_what_cannot_be_meant_is_refused(project):
    path = runner.choose(["00"])[0]
    with pytest.raises(ValueError, match="has no parameter seize; there are: size = 2  # how large"):
        play.variant(path, {"seize": 4}, project / "tried")
    with pytest.raises(ValueError, match="must be name=value, got 'size'"):
        play.settings(["size"])
    with pytest.raises(ValueError, match="must be a folder that is empty"):
        play.variant(path, {}, project / "figures")


def test_values_are_python_s_or_words():
    assert play.settings(["a=3", "b=1e-2", "c=sgd", "d=[1, 2]", "e=x=y"]) == {
        "a": 3,
        "b": 0.01,
        "c": "sgd",
        "d": [1, 2],
        "e": "x=y",
    }


def test_working_copies_are_made_once_and_kept_on_demand(project):
    folder = play.copies()
    copy = folder / "00_size.ipynb"
    copy.write_text(copy.read_text().replace("size = 2", "size = 1"))
    before = files(project)
    assert play.copies() == folder
    assert "size = 1" in copy.read_text()
    assert files(project) == before
    assert play.keep(copy) == 0
    assert records.load(project / "figures")["00_size"]["caption"] == "A size of 1."


def test_a_copy_that_raises_is_not_kept(project):
    copy = play.copies() / "00_size.ipynb"
    copy.write_text(copy.read_text().replace("size = 2", "size = 1 / 0"))
    before = files(project)
    assert play.keep(copy) == 1
    assert files(project) == before
    with pytest.raises(ValueError, match="of one name"):
        play.keep(project / "play" / "77_none.ipynb")


def test_papermill_itself_knows_the_cell(project, tmp_path):
    made = tmp_path / "elsewhere" / "00_size.ipynb"
    made.parent.mkdir()
    given = [str(project / "notebooks" / "00_size.ipynb"), str(made), "-p", "size", "5", "--cwd", str(made.parent)]
    environment = {name: value for name, value in os.environ.items() if name != "MFKIT_FIGURES"}
    command = [sys.executable, "-m", "papermill", *given, "--no-progress-bar"]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert records.load(made.parent / "figures")["00_size"]["caption"] == "A size of 5."
