"""What an argument may be, so that everything else is a bad one; and the things that people pass by mistake."""

import math
from collections.abc import Callable, Iterable
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

BAD, GOOD, EITHER = "must be refused", "not tried: good, or endless", "may be refused, by a sentence"
Kind = Callable[[Any], str]  # which of these a value is

THINGS = [
    *(
        None,
        True,
        False,
        "",
        "x",
        b"x",
        0,
        -1,
        1,
        2.5,
        -0.5,
        0.0,
        10**15,
        10**30,
        2**63,
        1e300,
        math.nan,
        math.inf,
        -math.inf,
        1j,
    ),
    *((), [], [1], [[1, 2], [3]], [None], ["a", "b"], [1.5], [math.nan], {}, {"a": 1}, set(), {1}, range(3), slice(2)),
    *(abs, int, Ellipsis, object(), Decimal("nan"), np.nan, np.float64(-1), np.bool_(True), np.array([]), np.eye(2)),
    *(np.array(["a"]), np.array([None]), np.array([1j]), np.datetime64("2020-01-01"), pd.Series(["a"]), pd.DataFrame()),
    *(torch.tensor(math.nan), torch.ones(2, 2), torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.bool)),
    *(torch.eye(2).to_sparse(), torch.float32, nn.Linear(1, 1), Path("/nowhere/x"), pd.NaT, pd.NA),
]
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.complex_numbers())
NESTED = st.recursive(
    LEAVES, lambda x: st.one_of(st.lists(x, max_size=3), st.dictionaries(st.text(max_size=2), x, max_size=2))
)


def unboxed(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray | Tensor) and value.ndim == 0 else value


def judge(is_good: bool) -> str:
    return GOOD if is_good else BAD


def count(least: int = 1, huge: str = GOOD) -> Kind:
    """An integer. huge: what one of 10^15 and more is; from a million on none is tried that would only take long."""

    def kind(value: Any) -> str:
        value = unboxed(value)
        if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
            return BAD
        return huge if value >= (10**15 if huge == BAD else 10**6) else GOOD

    return kind


def number(*, least: float = -math.inf, above: float = -math.inf, below: float = math.inf, infinite: str = BAD) -> Kind:
    """A finite number of at least `least`, above `above`, below `below`. infinite: what positive infinity is."""

    def kind(value: Any) -> str:
        value = unboxed(value)
        if isinstance(value, bool) or not isinstance(value, Real) or not (value >= least and above < value < below):
            return infinite if isinstance(value, float) and value == math.inf == below else BAD
        if abs(value) > 1e308:
            return infinite if value > 0 else BAD
        return EITHER if abs(value) > 1e15 or (value != 0 and abs(value) < 1e-15) else GOOD

    return kind


def word(*words: str, others: tuple[type, ...] = ()) -> Kind:
    return lambda value: judge((isinstance(value, str) and value in words) or isinstance(value, others))


def flag(value: Any) -> str:
    if isinstance(value, bool):
        return GOOD
    return EITHER if isinstance(value, np.bool_) or (isinstance(value, int) and value in (0, 1)) else BAD


def a(*classes: type) -> Kind:
    return lambda value: judge(isinstance(value, classes))


def function(value: Any) -> str:
    return judge(callable(value))


def anything(value: Any) -> str:
    return EITHER


def optional(kind: Kind) -> Kind:
    return lambda value: GOOD if value is None else kind(value)


def column(n: int | None, *, below: float = math.inf, integers: bool = False) -> Kind:
    """A vector of n real numbers (None: of any length); integers: row numbers in [0, below)."""

    def kind(value: Any) -> str:
        if isinstance(value, str | bytes | dict | set | Path) or callable(value):
            return BAD
        if isinstance(value, list | tuple) and any(isinstance(x, bool) for x in value):
            return BAD
        try:
            array = np.asarray(value.detach().numpy() if isinstance(value, Tensor) else value)
            if array.ndim != 1 or (n is not None and len(array) != n) or array.dtype.kind not in "iuf":
                return BAD
        except (TypeError, ValueError, RuntimeError):
            return BAD
        if not array.size:
            return EITHER
        if integers:
            return judge(array.dtype.kind in "iu" and array.min() >= 0 and array.max() < below)
        with np.errstate(over="ignore"):
            return judge(bool(np.isfinite(array.astype(np.float32)).all()))

    return kind


def every(kind: Kind) -> Kind:
    """An iterable of such values, and no single tensor, whose rows would be taken for them."""

    def kind_of_all(value: Any) -> str:
        if isinstance(value, Tensor | str | dict) or not isinstance(value, Iterable):
            return BAD
        return judge(all(kind(x) == GOOD for x in value)) if not isinstance(value, type) else BAD

    return kind_of_all
