"""python tests/unrun.py NOTEBOOK ...: names code cells that were not run; exit status 1 if there is one."""

import json
import sys
from pathlib import Path


def unrun(notebook: str) -> list[int]:
    """Positions, from 1, among a notebook's cells of those that hold code and were not run."""
    cells = enumerate(json.loads(notebook)["cells"], start=1)
    code = [(position, cell) for position, cell in cells if cell["cell_type"] == "code"]
    return [position for position, cell in code if cell["execution_count"] is None and "".join(cell["source"]).strip()]


def main(paths: list[str]) -> int:
    found = [(path, position) for path in paths for position in unrun(Path(path).read_text(encoding="utf-8"))]
    for path, position in found:
        print(f"{path}: cell {position} was not run; execute the notebook and save it")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
