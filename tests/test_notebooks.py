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


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def folded(cell) -> bool:
    return cell.metadata.get("jupyter", {}).get("source_hidden", False)


def test_shape(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(r"# .*\?(\n|$)", notebook.cells[0].source), "the title is a question"
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert not [source for source in text if re.search(r'"""|\\\\[a-zA-Z,|]', source)], "markdown, not a Python string"
    assert "assert " in "".join(cell.source for cell in code)


OLD = {  # not yet in the shape that the tests below ask for
    "09_tuning",
    "10_real_ratings",
    "11_your_own_model",
}


@pytest.fixture(params=[path for path in NOTEBOOKS if path.stem not in OLD], ids=lambda path: path.stem)
def readable(request):
    return nbformat.read(request.param, as_version=4)


def test_no_cell_is_long_and_few_are_many(readable):
    code = [cell for cell in readable.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code if len(cell.source.splitlines()) > 40] == []
    in_sight = [cell for cell in code if not folded(cell) and "parameters" not in tags(cell)]
    assert len(in_sight) <= 20


def test_the_first_screen_shows_a_picture_and_leads_on(readable):
    first = readable.cells[0].source
    assert re.search(r"!\[[^\]]{20,}\]\(\.\./figures/\d\d_\w+\.png\)", first), (
        "a picture with words for who cannot see it"
    )
    assert "Before:" in first or "After:" in first


def test_one_cell_of_parameters(readable):
    assert len([cell for cell in readable.cells if "parameters" in tags(cell)]) == 1


def test_a_drawing_is_folded_and_followed_by_words(readable):
    for cell, after in zip(readable.cells, [*readable.cells[1:], None], strict=True):
        if cell.cell_type == "code" and "figures.publish(" in cell.source:
            assert folded(cell), cell.source
            assert "hide-input" in tags(cell), cell.source
            assert "alt=" in cell.source, cell.source
            assert after is not None, cell.source
            assert after.cell_type == "markdown", cell.source
            assert not after.source.startswith("#"), after.source
            assert len(re.findall(r"[.!?:](?:\s|$)", after.source)) >= 2, after.source


def test_every_exercise_has_a_folded_solution_and_one_is_asked_before_the_run(readable):
    number = re.match(r"# (\d\d)", readable.cells[0].source)[1]
    code = [cell for cell in readable.cells if cell.cell_type == "code"]
    text = "\n\n".join(cell.source for cell in readable.cells if cell.cell_type == "markdown")
    asked = len(re.findall(r"(?m)^\*?\*?\d+\. ", text.split("## Exercises")[1]))
    solved = [id for cell in code for id in re.findall(r'exercises\.solution\(\s*"([\d.]+)"', cell.source)]
    assert solved == [f"{number}.{k + 1}" for k in range(asked)]
    assert all(folded(cell) and "solution" in tags(cell) for cell in code if "exercises.solution(" in cell.source)
    checked = [id for cell in code for id in re.findall(r'exercises\.check\(\s*"([\d.]+)", None\)', cell.source)]
    assert set(checked) == set(solved)


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
