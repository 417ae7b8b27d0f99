"""The runner and the notebook guards, each shown to bite on a planted defect, in a tiny project of one notebook."""

import os
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mfkit import __main__ as runner
from mfkit import figures

SAVE = """
claims = [figures.claim("{id}", "Two is two.", 2.0, {measured}, 0.5, repeat=0.01)]
fig, ax = plt.subplots()
figures.save(fig, "00_{id}", pd.DataFrame({{"x": [1.0, 2.0]}}), claims, "A caption.")
plt.close(fig)
figures.verdicts(claims)"""
IMPORTS = "import matplotlib.pyplot as plt\nimport pandas as pd\nfrom mfkit import figures"
NEEDS_DATA = {"tags": ["needs-data"]}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose only notebook makes the figure 00_two and, from downloaded ratings, 00_data; as committed."""
    for folder in ("notebooks", "figures"):
        (tmp_path / folder).mkdir()
    start, end = runner.README_TABLE
    (tmp_path / "README.md").write_text(f"# A project\n\n{start}\n{end}\n")
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "data_problem", lambda: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the runner sets variables for its kernels
    write(tmp_path, IMPORTS, SAVE.format(id="two", measured=2.0), (SAVE.format(id="data", measured=2.0), NEEDS_DATA))
    assert runner.reproduce(runner.choose([]), update=True) == 0
    return tmp_path


def write(project, *cells):
    code = [new_code_cell(c[0], metadata=c[1]) if isinstance(c, tuple) else new_code_cell(c) for c in cells]
    for number, cell in enumerate(code):
        cell.id = f"cell-{number}"
    nbformat.write(new_notebook(cells=[*code, new_markdown_cell("The end.", id="end")]), notebook(project))


def notebook(project):
    return project / "notebooks" / "00_three_examples.ipynb"


def bytes_of(project):
    return {path: path.read_bytes() for path in sorted(project.rglob("*")) if path.is_file()}


def test_reproducing_leaves_the_project_as_it_is_and_updating_twice_gives_the_same_bytes(project, capsys):
    before = bytes_of(project)
    assert "Two is two." in (project / "README.md").read_text()
    assert runner.reproduce(runner.choose(["00"])) == 0
    assert bytes_of(project) == before
    assert "HOLDS  predicted 2 ± 0.5 rel., measured 2" in capsys.readouterr().out
    assert runner.reproduce(runner.choose([]), update=True) == 0
    assert bytes_of(project) == before


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("00_two.json", '"verdict": "HOLDS"', '"verdict": "FAILS"', "claim two verdict FAILS, now HOLDS"),
        ("00_two.json", '"measured": 2.0', '"measured": 2.1', "claim two measured 2.1, now 2.0"),
        ("00_two.csv", "2\n", "2.5\n", "00_two.csv: x in row 1 was 2.5, is 2"),
    ],
)
def test_a_tampered_record_makes_reproduce_fail(project, capsys, file, old, new, problem):
    path = project / "figures" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert runner.reproduce(runner.choose([])) == 1
    assert problem in capsys.readouterr().err


def test_a_notebook_that_raises_makes_reproduce_fail(project, capsys):
    write(project, "1 / 0")
    before = bytes_of(project)
    assert runner.reproduce(runner.choose([]), update=True) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert bytes_of(project) == before


def test_without_data_its_cells_are_skipped_and_nothing_is_lost(project, capsys, monkeypatch):
    monkeypatch.setattr(runner, "data_problem", lambda: "cannot download it. Remedy: put it there")
    before = bytes_of(project)
    assert runner.reproduce(runner.choose([])) == 0
    printed = capsys.readouterr()
    assert "figure 00_data: skipped" in printed.out
    assert "Remedy: put it there" in printed.err
    assert runner.reproduce(runner.choose([]), update=True) == 0
    assert bytes_of(project) == before


def test_a_figure_that_is_no_longer_made_is_reported_and_then_removed(project, capsys):
    write(project, IMPORTS, SAVE.format(id="two", measured=2.0))
    assert runner.reproduce(runner.choose([])) == 1
    assert "00_data: not made again" in capsys.readouterr().err
    assert runner.reproduce(runner.choose([]), update=True) == 0
    assert not list((project / "figures").glob("00_data*"))


def test_an_unknown_notebook_names_the_known_ones():
    with pytest.raises(SystemExit, match="no notebook starts with '77'; there are 00_three_examples"):
        runner.choose(["77"])


def nbval(tmp_path, *cells, **environment) -> str:
    """What pytest says of a notebook with these cells, under the project's guards."""
    path = tmp_path / "try.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), path)
    root = runner.Path(__file__).resolve().parent.parent
    options = ["-c", str(root / "pyproject.toml"), "-p", "conftest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, str(path)]
    return subprocess.run(command, cwd=root, env=os.environ | environment, capture_output=True, text=True).stdout


def ran(source: str, output: str | None = None, **metadata):
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=output)] if output else []
    return new_code_cell(source, execution_count=1, outputs=outputs, metadata=metadata)


def test_nbval_guards(tmp_path):
    said = nbval(
        tmp_path,
        ran("print(1)", "1\n"),
        ran("1 + 1;"),
        ran("import sys; print('noise', file=sys.stderr)"),
        ran("print(2)", "3\n"),
        new_code_cell("x = 1"),
        new_code_cell("  "),
    )
    assert "2 failed, 4 passed" in said
    assert "committed without being run" in said
    assert "Cell outputs differ" in said


def test_nbval_skips_cells_that_need_data_and_says_why(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "ml-latest-small.zip").write_bytes(b"not an archive")  # unusable, without the network
    said = nbval(tmp_path, ran("print(1)", "1\n"), ran("1 / 0", tags=["needs-data"]), MFKIT_DATA=str(empty))
    assert "1 passed, 1 skipped" in said
    assert "must have sha256" in said
