"""Notebooks as tests: nbval compares outputs; the guards below close what it lets pass.

- A code cell that was committed without being run fails (nbval passes it).
- A trailing `;` silences a cell, as in Jupyter (nbval's kernel call does not store history, so it did not).
- stderr, SVG and HTML are not compared. What a figure shows under it is HTML with measured values; its text, which is
  compared, has the verdicts and the predictions alone.
- Cells tagged needs-data are skipped, with reason and remedy, where the ratings cannot be had.
- After the last cell, the records that the notebook wrote are compared with the committed ones.
"""

import functools
import os
import tempfile
from pathlib import Path

import pytest
import torch
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

from mfkit import repository
from mfkit.lab import exercises, records
from mfkit.lab.runner import NEEDS_DATA, data_figures, data_problem
from mfkit.movielens import data_dir

SCRATCH = tempfile.TemporaryDirectory(prefix="mfkit-")
os.environ.update(
    MFKIT_FIGURES=SCRATCH.name,  # notebooks leave the repository's figures alone
    MFKIT_DATA=str(data_dir().resolve()),
    PYTHONHASHSEED="0",
    TQDM_DISABLE="1",
)


def _execute_cell_input(self, cell_input, allow_stdin=None):
    return self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


RunningKernel.execute_cell_input = _execute_cell_input


missing_data = functools.cache(data_problem)  # asks the network at most once


@pytest.fixture
def one_thread():
    """For tests whose tables are tiny: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class RecordsItem(pytest.Item):
    """Compares a notebook's regenerated records with the committed ones."""

    def runtest(self) -> None:
        skipped = data_figures(self.path) if missing_data() else set()
        committed, made = repository.root() / "figures", Path(SCRATCH.name)
        ids = records.load(committed).keys() | records.load(made).keys()
        problems = records.problems(committed, made, {id for id in ids if id[:2] == self.path.stem[:2]} - skipped)
        problems += exercises.problems(committed, made, self.path.stem[:2])
        assert not problems, "\n".join(problems)

    def repr_failure(self, excinfo):
        return f"Records differ from the committed ones:\n{excinfo.value}"

    def reportinfo(self):
        return self.path, 0, f"{self.path.name}::records"


def pytest_collection_modifyitems(items) -> None:
    cells = [item for item in items if isinstance(item, IPyNbCell)]
    missing = missing_data() if any(NEEDS_DATA in cell.cell.metadata.get("tags", []) for cell in cells) else None
    for cell in cells:
        if cell.cell.execution_count is None and cell.cell.source.strip():
            cell.runtest = lambda cell=cell: cell.raise_cell_error("committed without being run: execute the notebook")
        if missing and NEEDS_DATA in cell.cell.metadata.get("tags", []):
            cell.add_marker(pytest.mark.skip(reason=missing))
    for file in dict.fromkeys(cell.parent for cell in cells):
        assert isinstance(file, IPyNbFile)
        file.skip_compare += ("stderr", "image/svg+xml", "text/html")
        last = max(index for index, item in enumerate(items) if item.parent is file)
        whole = {cell.cell_num for cell in cells if cell.parent is file}
        if file.path.parent == repository.root() / "notebooks" and len(whole) == sum(
            cell.cell_type == "code" for cell in file.nb.cells
        ):
            items.insert(last + 1, RecordsItem.from_parent(file, name="records"))
