"""Prints pyproject.toml's requirements at the oldest versions that it promises, for pip: torch==2.7 numpy==2.0 ..."""

import re
import tomllib
from pathlib import Path


def oldest(pyproject: str) -> list[str]:
    """name==version for each name>=version or name>=version,<N in dependencies and dev; ValueError for other forms."""
    project = tomllib.loads(pyproject)["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
    for line in requirements:
        if not re.fullmatch(r"[\w.-]+>=[\d.]+(,<\d+)?", line):
            raise ValueError(f"requirements in pyproject.toml must read name>=version, got {line!r}")
    return [line.split(",")[0].replace(">=", "==") for line in requirements]


if __name__ == "__main__":
    print(*oldest(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")))
