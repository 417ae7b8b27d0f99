"""Claims, and the records that carry them: what was predicted, what was measured, and whether it is measured again.

    figures/<id>.json       caption, notebook, versions, config, claims, and the sha256 of the figure's other files

Pictures are never compared, numbers are, each within the tolerance that its record states.
"""

import json
import math
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mfkit.checks import instance, number, one_of, shown

OPERATORS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
COLUMNS = ["claim", "predicted", "measured", "verdict"]


@dataclass(frozen=True)
class Claim:
    """A prediction confronted with a measurement; see `claim`."""

    id: str
    statement: str
    predicted: float | str | bool | list
    measured: float | str | bool
    tolerance: float
    repeat: float

    @property
    def verdict(self) -> str:
        """HOLDS or FAILS; SKIPPED where this system cannot measure it and `measured` says so: "skipped"."""
        if self.measured == "skipped":
            return "SKIPPED"
        if isinstance(self.predicted, list):
            sign, bound = self.predicted
            holds = not isinstance(self.measured, str) and OPERATORS[sign](self.measured, bound)
        elif isinstance(self.predicted, str | bool) or isinstance(self.measured, str | bool):
            holds = self.measured == self.predicted
        else:
            holds = abs(self.measured - self.predicted) <= self.tolerance * (abs(self.predicted) or 1.0)
        return "HOLDS" if holds else "FAILS"


def claim(
    id: str, statement: str, predicted: Any, measured: Any, tolerance: float = 0.0, *, repeat: float = 0.02
) -> Claim:
    """A claim that could fail.

    predicted: a number (HOLDS if |measured - predicted| <= tolerance * |predicted|; absolute where 0 is predicted),
        ("<", bound) or another of < <= > >=, or a word or truth value that must be equal.
    tolerance: of the prediction, relative. repeat: of the measurement, relative, when it is run again elsewhere.
    Raises ValueError for an id that is not lower-case-with-dashes, a bound that is not a number or tolerances below 0,
    TypeError for a statement or a measurement of another kind.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", instance("id", id, str)):
        raise ValueError(f"id must be lower-case-with-dashes, got {id!r}")
    instance("statement", statement, str)
    if isinstance(predicted, tuple | list):
        if len(predicted) != 2:
            raise ValueError(f"predicted must be (sign, bound), got {shown(predicted)}")
        sign, bound = one_of("predicted", predicted[0], OPERATORS), number("predicted", predicted[1])
        predicted = [sign, bound]
    else:
        predicted = _single("predicted", predicted)
    tolerance, repeat = number("tolerance", tolerance, least=0), number("repeat", repeat, least=0)
    return Claim(id, statement, predicted, _single("measured", measured), tolerance, repeat)


def _single(name: str, value: object) -> float | str | bool:
    """A number, a word or a truth value, as JSON has it; TypeError for anything else."""
    single = value if getattr(value, "ndim", 0) else plain(value)  # .item() unpacks arrays of one
    if not isinstance(single, float | str | bool):
        raise TypeError(f"{name} must be a number, a word or a truth value, got {shown(value)}")
    return single


def plain(value: Any) -> Any:
    """A JSON value: numpy's and torch's numbers become Python's, NaN and infinities become words."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else str(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def measurements(claims: Iterable[Claim]) -> pd.DataFrame:
    """Claims as a table: claim, predicted, measured, verdict; by id."""
    rows = [(c.statement, _show(c.predicted, c.tolerance), _show(c.measured), c.verdict) for c in claims]
    return pd.DataFrame(rows, columns=COLUMNS, index=pd.Index([c.id for c in claims], name="id"))


def verdicts(claims: Iterable[Claim]) -> pd.DataFrame:
    """The same without the measured values: what must not differ between machines."""
    return measurements(claims).drop(columns="measured")


def _show(value: Any, tolerance: float = 0.0) -> str:
    if isinstance(value, list):
        return f"{value[0]} {value[1]:.4g}"
    if isinstance(value, str | bool):
        return str(value)
    return f"{value:.4g}" + (f" ± {tolerance:.2g}{'' if value == 0 else ' rel.'}" if tolerance else "")


def load(folder: Path) -> dict[str, dict]:
    """All records of a folder by figure id. Files that are still being written end in .partial: they are none."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def problems(committed: Path, again: Path, ids: Iterable[str]) -> list[str]:
    """What differs between the committed records with these ids and those made again, beyond their tolerances."""
    found, old_records, new_records = [], load(committed), load(again)
    for id in sorted(ids):
        if id not in new_records or id not in old_records:
            found.append(f"{id}: {'not made again' if id in old_records else 'made, but not committed'}")
            continue
        old, new = old_records[id], new_records[id]
        if old["timing"]:
            continue
        before, after = ({c["id"]: c for c in record["claims"]} for record in (old, new))
        found += [f"{id}: claim {name} is in one record only" for name in sorted(before.keys() ^ after.keys())]
        for name in sorted(before.keys() & after.keys()):
            a, b = before[name], after[name]
            parts = () if "SKIPPED" in (a["verdict"], b["verdict"]) else ("verdict", "predicted", "measured")
            for part in parts:
                if not _near(a[part], b[part], a["repeat"]):
                    found.append(f"{id}: claim {name} {part} {a[part]}, now {b[part]} (tolerance {a['repeat']})")
        found += _table_problems(id, committed / f"{id}.csv", again / f"{id}.csv", old["tolerance"])
    return found


def _near(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return a[0] == b[0] and _near(a[1], b[1], tolerance)
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance)
    return a == b


def _table_problems(id: str, old: Path, new: Path, tolerance: float) -> list[str]:
    a, b = pd.read_csv(old), pd.read_csv(new)
    if list(a) != list(b) or len(a) != len(b):
        return [f"{id}.csv: {a.shape} {list(a)}, now {b.shape} {list(b)}"]
    wrong = (a != b) & (a.notna() | b.notna())
    numbers = a.select_dtypes("number").columns.intersection(b.select_dtypes("number").columns)
    largest = a[numbers].replace([np.inf, -np.inf], np.nan).abs().max()
    wrong[numbers] &= ~((a[numbers] - b[numbers]).abs() <= tolerance * largest)
    found = []
    for column in a.columns:
        rows = np.flatnonzero(wrong[column])
        if len(rows):
            was, now = a[column].iloc[rows[0]], b[column].iloc[rows[0]]
            found.append(f"{id}.csv: {column} in row {rows[0]} was {was}, is {now} (tolerance {tolerance})")
    return found


def claims_table(records: dict[str, dict]) -> pd.DataFrame:
    """claim, predicted, measured, verdict, notebook, figure: one row a claim, in the notebooks' order."""
    rows = [
        (c["statement"], _show(c["predicted"], c["tolerance"]), _show(c["measured"]), c["verdict"], r["notebook"], id)
        for id, r in sorted(records.items())
        for c in r["claims"]
    ]
    return pd.DataFrame(rows, columns=[*COLUMNS, "notebook", "figure"])


def claims_markdown(records: dict[str, dict]) -> str:
    """The tables of the README, with links: one a notebook, folded."""
    table, parts = claims_table(records), []
    table["figure"] = [f"[{id}](figures/{id}.svg)" for id in table["figure"]]
    for notebook, claims in table.groupby("notebook"):
        counts = claims["verdict"].value_counts()
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.sort_index(ascending=False).items())
        claims = claims.drop(columns="notebook").astype(str)
        rows = [list(claims.columns), ["---"] * claims.shape[1], *claims.values.tolist()]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        head = f'<details><summary><a href="notebooks/{notebook}.ipynb">{notebook}</a>: {summary}</summary>'
        parts.append("\n".join([head, "", *lines, "", "</details>"]))
    return "\n\n".join(parts)


def print_claims(records: dict[str, dict], skipped: Iterable[str] = ()) -> None:
    """Every claim with its verdict, figure by figure; then the figures that were skipped."""
    for id, record in sorted(records.items()):
        if record["claims"]:
            print(f"\n{record['notebook']} · figure {id}")
        for c in record["claims"]:
            predicted, measured = _show(c["predicted"], c["tolerance"]), _show(c["measured"])
            print(f"  {c['verdict']:<6} predicted {predicted}, measured {measured}\n         {c['statement']}")
    for figure in sorted(skipped):
        print(f"\nfigure {figure}: skipped, it needs downloaded ratings")
