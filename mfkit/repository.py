"""The checkout of the repository that this package runs from: notebooks/, figures/ and the README lie in it.

Only the folder that holds the package counts, so that notebooks, records and code always belong together; a wheel in
site-packages has none, wherever it is called. Run from the root of a checkout, `python -m mfkit` uses that checkout.
"""

import tomllib
from pathlib import Path

PLACE = Path(__file__).resolve().parent.parent  # of the package


class NoRepositoryError(RuntimeError):
    """mfkit runs from somewhere else than a checkout."""


def find() -> Path | None:
    """The checkout, or None where mfkit runs from elsewhere. It has a pyproject.toml of mfkit, notebooks/, figures/."""
    if not ((PLACE / "notebooks").is_dir() and (PLACE / "figures").is_dir()):
        return None
    try:
        project = tomllib.loads((PLACE / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return PLACE if project.get("project", {}).get("name") == "mfkit" else None


def root() -> Path:
    """The checkout; NoRepositoryError, which says what to do, where mfkit runs from elsewhere."""
    found = find()
    if found is None:
        raise NoRepositoryError(
            f"needs a checkout of the repository (notebooks/, figures/), but mfkit runs from {PLACE}.\n"
            "Clone the repository, then, in its folder: make reproduce"
        )
    return found
