"""A new notebook: laid out, run, and then as good as its neighbours."""

import os
import re

import nbformat
import pytest

from mfkit import __main__ as runner
from mfkit import figures

README = """# A project

| | question |
|---|---|
| [00](notebooks/00_first.ipynb) | First? | |
| [20](notebooks/20_last.ipynb) | Last? | |

Read them in order.

{}
{}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    for folder in ("notebooks", "figures"):
        (tmp_path / folder).mkdir()
    for name in ("00_first", "20_last"):
        nbformat.write(nbformat.v4.new_notebook(), tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "README.md").write_text(README.format(*runner.README_TABLE))
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "data_problem", lambda: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the runner sets variables for its kernels
    return tmp_path


def test_it_is_laid_out_linked_in_the_readme_and_runs(project, capsys):
    assert runner.main(["new", "12_my_own_question"]) == 0
    assert "Next: python -m mfkit reproduce 12 --update" in capsys.readouterr().out
    links = re.findall(r"^\| \[(\d\d)\]\(notebooks/", (project / "README.md").read_text(), re.MULTILINE)
    assert links == ["00", "12", "20"]
    assert "| [12](notebooks/12_my_own_question.ipynb) | My own question? | |\n" in (project / "README.md").read_text()
    text = (project / "notebooks" / "12_my_own_question.ipynb").read_text()
    assert "# My own question?" in text
    assert "NN" not in text

    assert runner.main(["reproduce", "12", "--update"]) == 0
    record = figures.load(project / "figures")["12_arms"]
    assert [claim["verdict"] for claim in record["claims"]] == ["HOLDS", "HOLDS"]
    assert runner.main(["reproduce", "12"]) == 0


@pytest.mark.parametrize("name", ["my_question", "2_my_question", "12", "12_", "12_My_question", "12_a/b", "00_other"])
def test_a_bad_or_taken_name_is_refused_and_nothing_is_written(project, name):
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match=f"got '{name}'; taken are 00_first, 20_last"):
        runner.main(["new", name])
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
