"""Exercises that answer back.

A notebook's solution records its answer, `solution("05.2", 8.5, hint="...")`; a reader's value is compared with the
recorded one, `check("05.2", 7.9)`, which says right, near or wrong before the folded solution is opened.

    figures/answers/05.2.json   answer, tolerance, hint

The answers come from runs, as figures do, and into the repository by `python -m mfkit reproduce --update` alone.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from mfkit import repository
from mfkit.checks import instance, number
from mfkit.files import replacing
from mfkit.lab.figures import directory
from mfkit.lab.records import single

NEAR = 2.0  # a factor that calls for a second look at the formula, not for another one


def check(id: str, value: float | str | bool | None) -> None:
    """Print whether `value` is the answer to exercise `id`, such as "05.2": right, near or wrong, and then a hint.

    Near is within a factor 2 of a number. None, or an exercise without a recorded answer, is said to be so.
    Raises ValueError for an id of another form, TypeError for a value that is no number, word or truth value.
    """
    path = _answers(repository.root() / "figures") / f"{_checked(id)}.json"
    if value is None:
        print(f"{id}: put a value of yours in place of None and run this cell again.")
    elif not path.exists():
        print(f"{id}: no answer is recorded yet.")
    else:
        record = json.loads(path.read_text(encoding="utf-8"))
        print(f"{id}: {_said(single('value', value), record)}")


def _said(value: float | str | bool, record: dict[str, Any]) -> str:
    answer = record["answer"]
    if isinstance(answer, str | bool) or isinstance(value, str | bool):
        return "right." if value == answer else f"wrong. {record['hint']}"
    if math.isclose(value, answer, rel_tol=record["tolerance"], abs_tol=record["tolerance"] if answer == 0 else 0):
        return f"right; the run says {answer:.4g}."
    side = "too low" if value < answer else "too high"
    near = value * answer > 0 and 1 / NEAR <= value / answer <= NEAR
    return f"{'near' if near else 'wrong'}, {side}. {record['hint']}"


def solution(id: str, answer: float | str | bool, hint: str, *, tolerance: float = 0.05) -> None:
    """Record the answer to exercise `id`, beside the figures of this run.

    tolerance: how far a right value may lie from it, relative (absolute where it is 0), and how far the same solution
    run elsewhere. hint: what to look at again; it must not hold the answer.
    Raises ValueError or TypeError as `check` does.
    """
    record = {
        "answer": single("answer", answer),
        "tolerance": number("tolerance", tolerance, least=0),
        "hint": instance("hint", hint, str),
    }
    folder = _answers(directory())
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{_checked(id)}.json") as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def problems(committed: Path, again: Path, notebook: str) -> list[str]:
    """What differs between the committed answers of a notebook, given by its number, and those of a run of it."""
    old, new = load(committed, notebook), load(again, notebook)
    found = [f"exercise {id}: its answer is in one run only" for id in sorted(old.keys() ^ new.keys())]
    for id in sorted(old.keys() & new.keys()):
        said = _said(new[id]["answer"], old[id])
        if not said.startswith("right"):
            found.append(f"exercise {id}: answer {old[id]['answer']}, now {new[id]['answer']}")
    return found


def load(figures: Path, notebook: str) -> dict[str, dict[str, Any]]:
    """The recorded answers of a notebook, by the exercise's id."""
    paths = sorted(_answers(figures).glob(f"{notebook}.*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def _answers(figures: Path) -> Path:
    return figures / "answers"


def _checked(id: str) -> str:
    if not re.fullmatch(r"\d\d\.\d+", instance("id", id, str)):
        raise ValueError(f"id must be the notebook's number and the exercise's, like '05.2', got {id!r}")
    return id
