"""Playing with notebooks without touching what is committed.

play/               working copies, made by `make lab`, ignored by git; their figures go to play/figures/
variant(...)        one run with other parameters, into a folder of the reader's
keep(...)           a working copy becomes the committed notebook, run anew
"""

import ast
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient.exceptions import CellExecutionError
from papermill.parameterize import parameterize_notebook

from mfkit import repository
from mfkit.lab import records, runner


def parameters(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The names that the cell tagged `parameters` assigns, and the comment or the code behind each."""
    found = {}
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            lines = cell.source.splitlines()
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    found[node.targets[0].id] = lines[node.lineno - 1].strip()
    return found


def settings(pairs: list[str]) -> dict[str, Any]:
    """name=value pairs of a command line as Python values; what is no Python literal is taken as a word.

    Raises ValueError for a pair without "=" or without a name.
    """
    given = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"--set must be name=value, got {pair!r}")
        try:
            given[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            given[name] = value
    return given


def variant(path: Path, given: dict[str, Any], out: Path) -> int:
    """Run the notebook with other parameters; notebook, figures and records go to `out`, and nothing is compared.

    Returns the exit status: 0, or 1 where the notebook raised. ValueError for a name that is no parameter of it, and
    for a folder in which something lies already.
    """
    notebook = nbformat.read(path, as_version=4)
    known = parameters(notebook)
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        there_are = "; ".join(known.values()) or "none"
        raise ValueError(f"{path.stem} has no parameter {', '.join(unknown)}; there are: {there_are}")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out must be a folder that is empty or not there, got {out}")
    made = out / "figures"
    made.mkdir(parents=True)
    changed = out / path.name
    notebook.metadata["papermill"] = {}
    for cell in notebook.cells:
        cell.metadata.setdefault("tags", [])  # papermill looks for them in every cell
    nbformat.write(parameterize_notebook(notebook, given), changed)
    missing = runner.data_problem()
    try:
        ran = runner.execute(changed, made, skip_data=bool(missing))
    except CellExecutionError as error:
        print(f"{path.stem} raised with {given}\n{error}", file=sys.stderr)
        return 1
    nbformat.write(ran, changed)
    (out / "notebooks").rmdir()
    records.print_claims(records.load(made))
    print(f"\n{changed}, and its figures in {made}. Nothing in the repository was changed.")
    return 0


def copies() -> Path:
    """The folder of working copies; a notebook that is not there yet is copied, one that is there stays."""
    root = repository.root()
    folder = root / "play"
    folder.mkdir(exist_ok=True)
    for path in runner.choose([]):
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    return folder


def keep(path: Path) -> int:
    """Make a working copy the committed notebook: its cells without their outputs, run anew, put in place.

    Returns the exit status of that run; if it is not 0 the committed notebook is as it was. ValueError where there is
    no such copy, or no committed notebook of its name.
    """
    committed = repository.root() / "notebooks" / path.name
    if not path.is_file() or not committed.is_file():
        raise ValueError(f"there must be a working copy and a committed notebook of one name, got {path}")
    before = committed.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, committed)
    status = 1
    try:
        status = runner.reproduce([committed], update=True)
    finally:
        if status:
            committed.write_bytes(before)
    return status
