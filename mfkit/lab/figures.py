"""Figures that can be cited: a picture, the data it shows, where it came from, and the claims it carries.

One call does it all: `publish` writes the four files and shows the picture with its id, caption and verdicts under it.

    figures/<id>.svg .png   the picture            figures/<id>.csv    what is plotted, one row a point
    figures/<id>.json       caption, notebook, versions, config, claims, and the sha256 of the other three

An id starts with its notebook's number: 05_phase_diagram. No date, host or commit goes in: on one machine the same
code gives the same bytes. A notebook makes its claims with `claim`, which is records'.
"""

import base64
import hashlib
import html
import io
import json
import math
import os
import platform
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from IPython.core.getipython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import mfkit
from mfkit import repository
from mfkit.checks import boolean, instance, integer, listed, number, shown
from mfkit.files import replacing
from mfkit.lab.records import Claim, claim, plain, table

__all__ = ["COLORS", "claim", "directory", "end_labels", "publish", "shades", "style"]

# Okabe & Ito's colour-blind-safe colours. Each means one thing in all notebooks; what has an order (batch sizes,
# numbers of factors, strengths) is drawn in shades of one colour, light to dark: `shades`.
COLORS = {
    "bad": "#D55E00",  # fails, or as the textbook has it
    "good": "#009E73",  # mended, or ours
    "sgd": "#0072B2",  # SGD; where no optimizer is compared, the one thing that is measured
    "adam": "#CC79A7",
    "huber": "#56B4E9",
    "other": "#E69F00",  # a second thing that is neither good nor bad
    "reference": "#595959",  # what frames a result: mean, biases, noise floor
    "theory": "#000000",  # a formula, always dotted
    "nan": "#BDBDBD",  # no number: diverged, out of memory, not tried
}


def style() -> None:
    """The one style of all figures, and tables that show whole sentences. Call it once, after the imports."""
    colors = [color for name, color in COLORS.items() if name not in ("reference", "theory", "nan")]
    plt.rc("figure", figsize=(6.5, 3.6), dpi=110)  # inches, as printed
    plt.rc("figure.constrained_layout", use=True)
    plt.rc("savefig", dpi=200)
    plt.rc("font", family="DejaVu Sans", size=9)  # comes with matplotlib: the same letters everywhere
    plt.rc("axes", titlesize=10, titlelocation="left", grid=True, axisbelow=True, prop_cycle=cycler(color=colors))
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("grid", color="#E5E5E5", linewidth=0.6)
    plt.rc("lines", linewidth=1.6, markersize=4)
    plt.rc("legend", frameon=False)
    plt.rc("svg", fonttype="path")
    pd.set_option("display.max_colwidth", None, "display.width", 120)


def end_labels(ax: Axes, **text: Any) -> None:
    """Name each labelled line at its right end, in its colour, instead of in a legend; moved apart where they meet."""
    ax.figure.canvas.draw()
    ends = []
    for line in ax.get_lines():
        xy = np.asarray(line.get_xydata(), dtype=float)
        xy = xy[np.isfinite(xy).all(axis=1)]
        if not str(line.get_label()).startswith("_") and len(xy):
            ends.append((ax.transData.transform(xy[-1])[1], xy[-1], line))
    gap, lowest = 1.25 * plt.rcParams["font.size"] * ax.figure.dpi / 72, -math.inf
    for y, end, line in sorted(ends, key=lambda end: end[0]):
        lowest = max(y, lowest + gap)
        points = (lowest - y) * 72 / ax.figure.dpi
        at = {"xy": tuple(end), "xytext": (4, points), "textcoords": "offset points", "va": "center"}
        ax.annotate(line.get_label(), **at, color=line.get_color(), annotation_clip=False, **text)


def shades(values: Iterable[Any], name: str = "sgd") -> dict[Any, tuple[float, float, float]]:
    """A shade of one colour of COLORS for each value, in the order given, from light to dark."""
    found = list(values)
    light = np.linspace(0.45, -0.35, len(found)) if len(found) > 1 else [0.0]
    colour = np.array(to_rgb(COLORS[name]))
    mixed = [colour + (1 - colour) * share if share > 0 else colour * (1 + share) for share in light]
    return {value: tuple(mix.tolist()) for value, mix in zip(found, mixed, strict=True)}


def directory() -> Path:
    """Where `publish` writes: $MFKIT_FIGURES, which the runner sets, or figures/ beside the notebook that runs.

    So playing with a notebook changes nothing that is committed: figures come into the repository by
    `python -m mfkit reproduce --update` alone.
    """
    return Path(os.environ.get("MFKIT_FIGURES") or Path.cwd() / "figures")


def publish(
    fig: Figure,
    id: str,
    data: pd.DataFrame,
    claims: Sequence[Claim],
    caption: str,
    *,
    alt: str | None = None,
    numbers: dict[str, float] | None = None,
    config: Any = None,
    seeds: Iterable[int] = (),
    tolerance: float = 0.02,
    timing: bool = False,
) -> None:
    """Write the four files of a figure, moved into place when all are whole, and show it: picture, caption, verdicts.

    data: what is plotted, one row a point. claims: those it shows. caption: states the finding.
    alt: what is drawn, in words, for who cannot see it; the caption if not given.
    numbers: what the text quotes without claiming anything, by lower-case-with-dashes names: an error, a count.
    config: a TrainConfig or a dict of settings. seeds: those of its runs. tolerance: how far numbers of `data` may lie
    from the committed ones, relative to their column's largest. timing=True: seconds, or what depends on them;
    measured and shown again by every run, never compared and, once committed, not overwritten.
    Raises ValueError for an id that no notebook's number starts, claims with the same id or settings that are no JSON,
    TypeError for what is of another kind; then nothing is written.
    """
    instance("fig", fig, Figure)
    instance("data", data, pd.DataFrame)
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", instance("id", id, str)):
        raise ValueError(f"id must be the notebook's number and a name, like '05_phase_diagram', got {id!r}")
    claims = [instance("claims", each, Claim) for each in listed("claims", claims)]
    if len({c.id for c in claims}) != len(claims):
        raise ValueError(f"claims must have ids of their own, got {[c.id for c in claims]}")
    about = {
        "id": id,
        "caption": instance("caption", caption, str),
        "alt": instance("alt", caption if alt is None else alt, str),
        "notebook": _notebook(id),
        "command": f"python -m mfkit reproduce {id[:2]}",
        "versions": _versions(),
        "seeds": [integer("seeds", seed, least=0) for seed in listed("seeds", seeds)],
        "config": _settings(config),
        "tolerance": number("tolerance", tolerance, least=0),
        "timing": boolean("timing", timing),
        "numbers": _numbers({} if numbers is None else instance("numbers", numbers, dict)),
        "claims": [{**asdict(c), "verdict": c.verdict} for c in claims],
    }
    _write(fig, data, about)
    _show(fig, about, claims)


def _show(fig: Figure, about: dict[str, Any], claims: Sequence[Claim]) -> None:
    """The picture; under it the id, the caption, the files and the verdicts. Without a notebook, nothing is shown."""
    plt.close(fig)  # or the notebook would show it a second time
    if get_ipython() is None:
        return
    picture = io.BytesIO()
    fig.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    bundle = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": f"<{about['id']}>"}
    display(bundle, metadata={"image/png": {"alt": about["alt"]}}, raw=True)
    under = {"text/html": _under(about, claims), "text/plain": _same_everywhere(about["id"], claims)}
    display(under, raw=True)


def _under(about: dict[str, Any], claims: Sequence[Claim]) -> str:
    """HTML of what stands under a picture."""
    path, id = os.path.relpath(directory()), about["id"]
    files = " · ".join(f'<a href="{path}/{id}.{suffix}">{suffix}</a>' for suffix in ("csv", "json", "svg"))
    text = f'<p id="{id}"><b>Figure {id}.</b> {html.escape(about["caption"])} ({files})</p>'
    if claims:
        verdicts = table(claims).rename(columns={"verdict": ""})
        text += verdicts.to_html(index=False, border=0, justify="left", bold_rows=False)
    return text


def _same_everywhere(id: str, claims: Sequence[Claim]) -> str:
    """Verdicts and predictions without what was measured: text that must not differ between machines."""
    rows = table(claims).reset_index().to_dict("records")
    lines = [f"{row['verdict']} {row['kind']} {row['id']}: predicted {row['predicted']}" for row in rows]
    return "\n".join([f"Figure {id}", *lines])


def _write(fig: Figure, data: pd.DataFrame, about: dict[str, Any]) -> None:
    """The four files, of which the record holds `about` and the others' hashes."""
    folder, id = directory(), about["id"]
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:  # which moves them in the opposite order: the record comes last
        partial = {
            suffix: stack.enter_context(replacing(folder / f"{id}.{suffix}"))
            for suffix in ("json", "csv", "png", "svg")
        }
        with plt.rc_context({"svg.hashsalt": "mfkit"}):
            fig.savefig(partial["svg"], format="svg", metadata={"Date": None, "Creator": None})
        fig.savefig(partial["png"], format="png", metadata={"Software": None})
        data.to_csv(partial["csv"], index=False, float_format="%.9g", lineterminator="\n")
        hashes = {suffix: hashlib.sha256(partial[suffix].read_bytes()).hexdigest() for suffix in ("svg", "png", "csv")}
        text = json.dumps(about | {"sha256": hashes}, indent=2, ensure_ascii=False, allow_nan=False, default=plain)
        partial["json"].write_text(text + "\n", encoding="utf-8")


def _numbers(numbers: dict[str, float]) -> dict[str, float]:
    """The numbers by their names; ValueError for a name with other letters, TypeError for what is no number."""
    for name in numbers:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", instance("numbers", name, str)):
            raise ValueError(f"numbers must have names that are lower-case-with-dashes, got {name!r}")
    return {name: float(number(f"numbers[{name!r}]", value)) for name, value in numbers.items()}


def _settings(config: Any) -> dict[str, Any] | None:
    """A TrainConfig's fields, or a dict that JSON can hold; TypeError or ValueError for anything else."""
    if config is None:
        return None
    if is_dataclass(config) and not isinstance(config, type):
        settings = asdict(config)
    else:
        settings = instance("config", config, dict)
    try:
        json.dumps(settings, allow_nan=False, default=plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"config must hold what JSON can hold, got {shown(config)}: {error}") from None
    return settings


def _notebook(id: str) -> str | None:
    """The name of the notebook whose number starts the id, where there is one."""
    checkout = repository.find()
    found = sorted((checkout / "notebooks").glob(f"{id[:2]}_*.ipynb")) if checkout else []
    return found[0].stem if found else None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "mfkit": mfkit.__version__}
    return versions | {name: version(name).split("+")[0] for name in ("torch", "numpy", "scipy", "matplotlib")}
