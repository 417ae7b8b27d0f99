"""A bar on stderr for what takes longer than a second.

    with bar("train", "step", total=n_steps) as shown:      shown.update() after each step

Seen in a terminal and in a notebook (as text: tqdm's bar of widgets needs one more package, and leaves its state in the
file), nowhere else, and not with TQDM_DISABLE=1. While one is seen there is no second: notebooks cannot draw two.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

DELAY = 1.0  # seconds, before which nothing is drawn

_seen: list[tqdm] = []


@contextmanager
def bar(name: str, unit: str, total: int, initial: int = 0) -> Iterator[tqdm]:
    """A bar for `total` units, `initial` of them done before.

    It goes when the block ends or raises, so that a terminal shows what it showed before; in a notebook the last state
    stays, as an output that is emptied leaves a coloured gap.
    """
    notebook = type(sys.stderr).__module__.startswith("ipykernel.")
    somebody_looks = notebook or sys.stderr.isatty()
    hidden = bool(_seen or os.environ.get("TQDM_DISABLE")) or not somebody_looks
    options = {"unit": unit, "total": total, "initial": initial, "delay": DELAY, "leave": notebook}
    with tqdm(desc=name, disable=hidden, dynamic_ncols=not notebook, **options) as made:
        if not hidden:
            _seen.append(made)
        try:
            yield made
        finally:
            if not hidden:
                _seen.remove(made)
