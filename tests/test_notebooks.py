"""The shape of the notebooks: what the design promises of each."""

import re

import nbformat
import pytest

from mfkit import repository
from mfkit.lab import records
from mfkit.lab.runner import data_cells

NOTEBOOKS = sorted((repository.root() / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_name():
    assert NOTEBOOKS
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in NOTEBOOKS)


def test_shape(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 25
    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(r"# .*\?(\n|$)", notebook.cells[0].source), "the title is a question"
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert not [source for source in text if re.search(r'"""|\\\\[a-zA-Z,|]', source)], "markdown, not a Python string"
    assert "assert " in "".join(cell.source for cell in code)


def test_committed_as_run_from_top_to_bottom(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [
        out for cell in code for out in cell.outputs if out.output_type == "error" or out.get("name") == "stderr"
    ]


def test_no_magics(notebook):
    """Unknown ones pass unseen, and known ones tie the notebook to IPython."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert not re.findall(r"^[ \t]*[%!]\S+.*", code, re.MULTILINE)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_downloaded_ratings_are_read_in_tagged_cells_only(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    tagged = {cell.id for cell in data_cells(path)}
    assert all(cell.id in tagged for cell in cells if re.search(r"\bmovielens\(", cell.source))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_named_in_the_text_exist(path):
    text = " ".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    known = records.load(repository.root() / "figures")
    made = {id for id, record in known.items() if record["notebook"] == path.stem}
    assert made
    assert set(re.findall(rf"`({path.stem[:2]}_[a-z0-9_]+)`", text)) - {path.stem} == made


def test_readme_links_resolve_and_name_every_notebook():
    readme = (repository.root() / "README.md").read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in link}
    assert [link for link in links if not (repository.root() / link).exists()] == []
    assert {f"notebooks/{path.name}" for path in NOTEBOOKS} <= links
