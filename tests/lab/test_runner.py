"""The runner and the notebook guards, each shown to bite on a planted defect, in tiny checkouts."""

import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mfkit import repository
from mfkit.lab import records, runner

SAVE = """
claims = [figures.claim("prediction", "{id}", "Two is two.", 2.0, {measured}, 0.5, repeat=0.01)]
fig, ax = plt.subplots()
figures.publish(fig, "00_{id}", pd.DataFrame({{"x": [1.0, 2.0]}}), claims, "A caption.")"""
IMPORTS = "import matplotlib.pyplot as plt\nimport pandas as pd\nfrom mfkit.lab import figures"
NEEDS_DATA = {"tags": ["needs-data"]}
UNLINK = Path.unlink


@pytest.fixture
def project(checkout):
    """A checkout whose only notebook makes the figure 00_two and, from downloaded ratings, 00_data; as committed."""
    start, end = (mark.format("counts") for mark in runner.README_BLOCK)
    (checkout / "README.md").write_text(f"# A project\n\n{start}\n{end}\n")
    write(checkout, IMPORTS, SAVE.format(id="two", measured=2.0), (SAVE.format(id="data", measured=2.0), NEEDS_DATA))
    assert runner.reproduce(runner.choose([]), update=True) == 0
    return checkout


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
    (project / "figures" / ".00_two.json.4711.partial").write_text("{")  # somebody else is writing: no record yet
    before = bytes_of(project)
    assert "| prediction |" in (project / "README.md").read_text()
    assert "Two is two." in (project / "CLAIMS.md").read_text()
    assert runner.reproduce(runner.choose(["00"])) == 0
    assert bytes_of(project) == before
    printed = capsys.readouterr().out
    assert "HOLDS  prediction: predicted 2 ± 0.5 rel., measured 2" in printed
    assert "1 notebooks, 2 figures: as committed" in printed
    assert runner.reproduce(runner.choose([]), update=True) == 0
    assert bytes_of(project) == before


def test_the_terminal_is_calm(checkout, capfd):
    """Piped, a run says one line a notebook on stderr: no bars, none of the kernel's own words."""
    write(checkout, "1 + 1")
    assert runner.reproduce(runner.choose([])) == 0
    assert re.fullmatch(r"00_three_examples +done in \d+ s\n", capfd.readouterr().err)


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


def test_a_notebook_that_does_not_end_is_named_and_the_others_run(project, capsys, monkeypatch):
    monkeypatch.setattr(runner, "CELL_SECONDS", 2)
    write(project, "import time", "while True: time.sleep(0.1)")
    assert runner.reproduce(runner.choose([]), update=True) == 1
    assert "00_three_examples did not end: A cell timed out" in capsys.readouterr().err
    write(project, "import os", "os.kill(os.getpid(), 9)")
    (project / "notebooks" / "01_next.ipynb").write_bytes(notebook(project).read_bytes())
    assert runner.reproduce(runner.choose([]), update=True) == 1
    died = "did not end: its kernel died in code cell 2, killed from outside or out of memory"
    printed = capsys.readouterr().err
    assert f"DIFFERS: 00_three_examples {died}" in printed
    assert f"DIFFERS: 01_next {died}" in printed


@pytest.fixture
def changed(project, tmp_path_factory):
    """What `put_in_place` is given where both files of 00_two change, and 00_data is no longer made."""
    write(project, IMPORTS, SAVE.format(id="two", measured=2.1))
    made = tmp_path_factory.mktemp("scratch") / "figures"
    made.mkdir()
    executed, failed = runner.execute_all(runner.choose([]), made, skip_data=False)
    assert failed == []
    return executed, made, {"00_two", "00_data"}, set()


@pytest.mark.parametrize("full", ["00_two.svg", "00_two.json"])
def test_a_disk_that_is_full_while_putting_in_place_changes_nothing(project, changed, monkeypatch, full):
    before = bytes_of(project)

    def copyfile(source, target):
        if full in str(target):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(runner.shutil, "copyfile", copyfile)
    with pytest.raises(OSError, match="No space left on device"):
        runner.put_in_place(*changed)
    assert bytes_of(project) == before


def test_a_kill_before_any_move_leaves_whole_files_and_the_next_update_does_the_rest(project, changed):
    before = bytes_of(project)
    runner.put_in_place(*changed)
    after = bytes_of(project)
    n_moves = 0
    while True:
        for path in project.rglob("*"):
            if path.is_file():
                path.unlink()
        for path, content in before.items():
            path.write_bytes(content)
        killed = killed_before_move(n_moves, changed)
        left = {path: content for path, content in bytes_of(project).items() if path.suffix != ".partial"}
        assert all(content in (before.get(path), after.get(path)) for path, content in left.items())
        records.load(project / "figures")
        runner.put_in_place(*changed)
        assert {path: content for path, content in bytes_of(project).items() if path.suffix != ".partial"} == after
        if not killed:
            break
        n_moves += 1
    assert n_moves == 11  # of a notebook, four files, CLAIMS.md, the README; and the four that go


def killed_before_move(number, changed) -> bool:
    """Put in place, in a process that kills itself before its so many-th move or removal; whether it came to that."""
    child = os.fork()
    if child == 0:
        moves = itertools.count()

        def counted(move):
            def run(path, *arguments, **options):
                if not (move == UNLINK and path.suffix == ".partial") and next(moves) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return move(path, *arguments, **options)

            return run

        Path.replace, Path.unlink = counted(Path.replace), counted(UNLINK)
        runner.put_in_place(*changed)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_updates_wait_for_each_other(project, changed):
    """Else the last to write the README would leave out what the other has put in place since."""
    before = bytes_of(project)
    with ThreadPoolExecutor() as pool:
        with FileLock(project / "figures" / ".lock"):
            done = pool.submit(runner.put_in_place, *changed)
            time.sleep(0.5)
            assert not done.done()
            assert {path: content for path, content in bytes_of(project).items() if path in before} == before
        done.result(timeout=30)
    assert bytes_of(project) != before


def test_an_update_of_folders_that_cannot_be_written_to_is_refused_before_it_runs(project, capsys, monkeypatch):
    monkeypatch.setattr(runner.os, "access", lambda folder, mode: folder.name != "figures")
    monkeypatch.setattr(runner, "execute_all", None)
    assert runner.reproduce(runner.choose([]), update=True) == 2
    assert capsys.readouterr().err == (
        f"Nothing was run, as {project / 'figures'} cannot be written to, which --update needs.\n"
    )


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
    with pytest.raises(ValueError, match="no notebook starts with '77'; there are 00_three_examples"):
        runner.choose(["77"])


def test_without_notebooks_nothing_is_said_to_be_as_committed(checkout, capsys):
    assert runner.reproduce(runner.choose([])) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"There is no notebook to run in {checkout / 'notebooks'}.\n"


def test_kernels_import_the_mfkit_that_runs_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["elsewhere", "", "there"]))
    told = runner.kernel_environment(tmp_path)
    assert told["PYTHONPATH"].split(os.pathsep) == [str(repository.PLACE), "elsewhere", "there"]
    assert told["MFKIT_FIGURES"] == str(tmp_path)


# A new notebook

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
def two_notebooks(checkout):
    for name in ("00_first", "20_last"):
        nbformat.write(new_notebook(), checkout / "notebooks" / f"{name}.ipynb")
    (checkout / "README.md").write_text(README.format(*runner.README_BLOCK))
    return checkout


def test_a_new_notebook_is_laid_out_linked_in_the_readme_and_runs(two_notebooks, capsys):
    runner.new("12_my_own_question")
    assert "Next: python -m mfkit reproduce 12 --update" in capsys.readouterr().out
    readme = (two_notebooks / "README.md").read_text()
    assert re.findall(r"^\| \[(\d\d)\]\(notebooks/", readme, re.MULTILINE) == ["00", "12", "20"]
    assert "| [12](notebooks/12_my_own_question.ipynb) | My own question? | |\n" in readme
    text = (two_notebooks / "notebooks" / "12_my_own_question.ipynb").read_text()
    assert "# 12 · My own question?" in text
    assert "NN" not in text

    assert runner.reproduce(runner.choose(["12"]), update=True) == 0
    record = records.load(two_notebooks / "figures")["12_arms"]
    assert [claim["verdict"] for claim in record["claims"]] == ["HOLDS", "HOLDS"]
    assert runner.reproduce(runner.choose(["12"])) == 0


@pytest.mark.parametrize("name", ["my_question", "2_my_question", "12", "12_", "12_My_question", "12_a/b", "00_other"])
def test_a_bad_or_taken_name_is_refused_and_nothing_is_written(two_notebooks, name):
    before = bytes_of(two_notebooks)
    with pytest.raises(ValueError, match=f"got '{name}'; taken are 00_first, 20_last"):
        runner.new(name)
    assert bytes_of(two_notebooks) == before


# The guards of nbval


def nbval(tmp_path, *cells, **environment) -> str:
    """What pytest says of a notebook with these cells, under the project's guards."""
    path = tmp_path / "try.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), path)
    root = repository.root()
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
