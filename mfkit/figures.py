"""Figures that can be cited: a picture, the data it shows, where it came from, and the claims it carries.

    figures/<id>.svg .png   the picture            figures/<id>.csv    what is plotted, one row a point
    figures/<id>.json       caption, notebook, versions, config, claims, and the sha256 of the other three

An id starts with its notebook's number: 05_phase_diagram. No date, host or commit goes in: on one machine the same
code gives the same bytes. Pictures are never compared, numbers are, each within the tolerance its record states.
"""

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = {"<": lambda a, b: a < b, ">": lambda a, b: a > b, "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b}

COLUMNS = ["claim", "predicted", "measured", "verdict"]

# Okabe & Ito's colour-blind-safe colours; the same thing has the same colour in every notebook.
COLORS = {
    "bad": "#D55E00",  # as the textbook has it
    "good": "#009E73",  # mended
    "sgd": "#0072B2",
    "adam": "#CC79A7",
    "huber": "#56B4E9",
    "other": "#E69F00",
    "reference": "#595959",  # mean, biases, noise floor
    "theory": "#000000",  # always dotted
}


def style() -> None:
    """The one style of all figures, and tables that show whole sentences. Call it once, after the imports."""
    colors = [color for name, color in COLORS.items() if name not in ("reference", "theory")]
    plt.rc("figure", figsize=(6.5, 3.6), dpi=110)  # inches, as printed
    plt.rc("figure.constrained_layout", use=True)
    plt.rc("savefig", dpi=200)
    plt.rc("font", family="DejaVu Sans", size=9)  # comes with matplotlib: the same letters everywhere
    plt.rc("axes", titlesize=10, titlelocation="left", grid=True, axisbelow=True, prop_cycle=plt.cycler(color=colors))
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("grid", color="#E5E5E5", linewidth=0.6)
    plt.rc("lines", linewidth=1.6, markersize=4)
    plt.rc("legend", frameon=False)
    plt.rc("svg", fonttype="path")
    pd.set_option("display.max_colwidth", None, "display.width", 120)


def end_labels(ax: plt.Axes, **text) -> None:
    """Name each labelled line at its right end, in its colour, instead of in a legend; moved apart where they meet."""
    ax.figure.canvas.draw()
    ends = []
    for line in ax.get_lines():
        xy = line.get_xydata()
        xy = xy[np.isfinite(xy.astype(float)).all(axis=1)]
        if not line.get_label().startswith("_") and len(xy):
            ends.append((ax.transData.transform(xy[-1])[1], xy[-1], line))
    gap, lowest = 1.25 * plt.rcParams["font.size"] * ax.figure.dpi / 72, -math.inf
    for y, end, line in sorted(ends, key=lambda end: end[0]):
        lowest = max(y, lowest + gap)
        points = (lowest - y) * 72 / ax.figure.dpi
        at = {"xy": tuple(end), "xytext": (4, points), "textcoords": "offset points", "va": "center"}
        ax.annotate(line.get_label(), **at, color=line.get_color(), annotation_clip=False, **text)


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
            operator, bound = self.predicted
            holds = not isinstance(self.measured, str) and OPERATORS[operator](self.measured, bound)
        elif isinstance(self.predicted, str | bool) or isinstance(self.measured, str | bool):
            holds = self.measured == self.predicted
        else:
            holds = abs(self.measured - self.predicted) <= self.tolerance * (abs(self.predicted) or 1.0)
        return "HOLDS" if holds else "FAILS"


def claim(id: str, statement: str, predicted, measured, tolerance: float = 0.0, *, repeat: float = 0.02) -> Claim:
    """A claim that could fail.

    predicted: a number (HOLDS if |measured - predicted| <= tolerance * |predicted|; absolute where 0 is predicted),
        ("<", bound) or another of < <= > >=, or a word or truth value that must be equal.
    tolerance: of the prediction, relative. repeat: of the measurement, relative, when it is run again elsewhere.
    Raises ValueError for an id that is not lower-case-with-dashes or a bound that is not a number.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id):
        raise ValueError(f"id must be lower-case-with-dashes, got {id!r}")
    if isinstance(predicted, tuple | list):
        operator, bound = predicted
        if operator not in OPERATORS or not math.isfinite(bound):
            raise ValueError(f"predicted must be (one of {' '.join(OPERATORS)}, a finite number), got {predicted!r}")
        predicted = [operator, float(bound)]
    return Claim(id, statement, _plain(predicted), _plain(measured), float(tolerance), float(repeat))


def _plain(value):
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


def _show(value, tolerance: float = 0.0) -> str:
    if isinstance(value, list):
        return f"{value[0]} {value[1]:.4g}"
    if isinstance(value, str | bool):
        return str(value)
    return f"{value:.4g}" + (f" ± {tolerance:.2g}{'' if value == 0 else ' rel.'}" if tolerance else "")


def directory() -> Path:
    """Where `save` writes: $MFKIT_FIGURES (the runner's scratch folder), or figures/ in the repository."""
    return Path(os.environ.get("MFKIT_FIGURES") or ROOT / "figures")


def save(
    fig: plt.Figure, id: str, data, claims, caption: str, *, config=None, seeds=(), tolerance=0.02, timing=False
) -> None:
    """Write the four files of a figure, each moved into place when it is whole.

    data: a DataFrame of what is plotted, one row a point. claims: the Claims it shows. caption: states the finding.
    config: a TrainConfig or a dict of settings. seeds: those of its runs. tolerance: how far numbers of `data` may lie
    from the committed ones, relative to their column's largest. timing=True: seconds, or what depends on them;
    measured and shown again by every run, never compared and, once committed, not overwritten.
    Raises ValueError for an id that no notebook's number starts, or claims with the same id.
    """
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", id):
        raise ValueError(f"id must be the notebook's number and a name, like '05_phase_diagram', got {id!r}")
    if len({c.id for c in claims}) != len(claims):
        raise ValueError(f"claims must have ids of their own, got {[c.id for c in claims]}")
    folder = directory()
    folder.mkdir(parents=True, exist_ok=True)
    partial = {suffix: folder / f".{id}.{suffix}" for suffix in ("svg", "png", "csv", "json")}
    with plt.rc_context({"svg.hashsalt": "mfkit"}):
        fig.savefig(partial["svg"], metadata={"Date": None, "Creator": None})
    fig.savefig(partial["png"], metadata={"Software": None})
    data.to_csv(partial["csv"], index=False, float_format="%.9g", lineterminator="\n")
    versions = {name: version(name).split("+")[0] for name in ("mfkit", "torch", "numpy", "scipy", "matplotlib")}
    record = {
        "id": id,
        "caption": caption,
        "notebook": next((path.stem for path in sorted((ROOT / "notebooks").glob(f"{id[:2]}_*.ipynb"))), None),
        "command": f"python -m mfkit reproduce {id[:2]}",
        "versions": {"python": platform.python_version()} | versions,
        "seeds": list(seeds),
        "config": asdict(config) if is_dataclass(config) else config,
        "tolerance": tolerance,
        "timing": timing,
        "claims": [{**asdict(c), "verdict": c.verdict} for c in claims],
        "sha256": {
            suffix: hashlib.sha256(partial[suffix].read_bytes()).hexdigest() for suffix in ("svg", "png", "csv")
        },
    }
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    partial["json"].write_text(text + "\n", encoding="utf-8")
    for suffix, path in partial.items():
        path.replace(folder / f"{id}.{suffix}")


def load(folder: Path | None = None) -> dict[str, dict]:
    """All records of a folder by figure id."""
    paths = sorted((folder or directory()).glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


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
        for name in before.keys() & after.keys():
            a, b = before[name], after[name]
            parts = () if "SKIPPED" in (a["verdict"], b["verdict"]) else ("verdict", "predicted", "measured")
            for part in parts:
                if not _near(a[part], b[part], a["repeat"]):
                    found.append(f"{id}: claim {name} {part} {a[part]}, now {b[part]} (tolerance {a['repeat']})")
        found += _table_problems(id, committed / f"{id}.csv", again / f"{id}.csv", old["tolerance"])
    return found


def _near(a, b, tolerance: float) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return a[0] == b[0] and _near(a[1], b[1], tolerance)
    return math.isclose(a, b, rel_tol=tolerance) if isinstance(a, float) and isinstance(b, float) else a == b


def _table_problems(id: str, old: Path, new: Path, tolerance: float) -> list[str]:
    a, b = pd.read_csv(old), pd.read_csv(new)
    if list(a) != list(b) or len(a) != len(b):
        return [f"{id}.csv: {a.shape} {list(a)}, now {b.shape} {list(b)}"]
    wrong = (a != b) & (a.notna() | b.notna())
    numbers = a.select_dtypes("number").columns.intersection(b.select_dtypes("number").columns)
    largest = a[numbers].replace([np.inf, -np.inf], np.nan).abs().max()
    wrong[numbers] &= ~((a[numbers] - b[numbers]).abs() <= tolerance * largest)
    at = {column: wrong[column].idxmax() for column in a if wrong[column].any()}
    return [f"{id}.csv: {c} in row {k} was {a[c][k]}, is {b[c][k]} (tolerance {tolerance})" for c, k in at.items()]


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
