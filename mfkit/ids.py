"""What an id is: an integer or a string, as somebody's table has it; and which row of a model is whose.

    ids[codes[k]] is the id in row k of a column; ids are sorted, each once

Every error names the column, the first row at fault by its label, and how many there are.
"""

from collections.abc import Callable
from numbers import Real

import numpy as np
import pandas as pd
from torch import Tensor

from mfkit.checks import shown, vector

ID_TYPES = "whole numbers or strings as ids"
BLANK = {"", " "}
MISSING_AS_TEXT = {"nan", "NaN", "None", "<NA>", "NaT", "null", "NULL"}


def number_ids(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The ids' ranks, (N,) int64, and the ids, sorted; see `plain_ids` for what is an id."""
    name, labels = f"column {column.name!r}", column.index
    try:
        codes, found = pd.factorize(column)
    except TypeError:
        k = next((k for k, cell in enumerate(column) if not _hashable(cell)), 0)
        raise TypeError(f"{name} must hold {ID_TYPES}, got {shown(column.iloc[k])} in row {shown(labels[k])}") from None
    _check_present(column, codes < 0)
    ids = plain_ids(name, np.asarray(found), lambda k: labels[int((codes == k).argmax())])
    if ids.dtype == object and not BLANK.isdisjoint(ids):
        _check_present(column, np.isin(codes, [k for k, text in enumerate(ids) if text in BLANK]))
    order = ids.argsort()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes], ids[order]


def renumber(column: pd.Series, codes: np.ndarray, ids: np.ndarray, known: np.ndarray, unknown: str) -> np.ndarray:
    """The rows that `known` gives these ids, (N,); -1 where it has none, unless that is an error."""
    position = pd.Index(known).get_indexer(pd.Index(ids))
    rows = position[codes]
    new = position < 0
    if unknown == "error" and new.any():
        k = int((rows < 0).argmax())
        raise ValueError(
            f"column {column.name!r} must hold ids that like has, such as {shown(known[0])}, got {new.sum():,} of "
            f"{len(ids):,} ids that it has not ({of_rows(rows < 0)}), e.g. {shown(ids[codes[k]])} in row "
            f"{shown(column.index[k])}; want unknown='drop' to leave these rows out"
        )
    return rows


def row_ids(name: str, given: object, size: int) -> np.ndarray | None:
    """The ids of rows 0, 1, ..., (size,), whole numbers as integers; the same array where it is one already."""
    if given is None:
        return None
    ids = given
    if isinstance(given, Tensor):
        ids = vector(name, given).numpy()
    elif isinstance(given, list | tuple | pd.Series | pd.Index):
        ids = np.asarray(pd.Series(given, dtype=object))
    if not isinstance(ids, np.ndarray) or ids.ndim != 1:
        raise TypeError(f"{name} must be a list or an array of shape (n_rows,) of ids, got {shown(given)}")
    if len(ids) != size:
        raise ValueError(f"{name} must hold one id a row, {size} in all, got {len(ids)}")
    if (absent := pd.isna(ids)).any():
        k = int(absent.argmax())
        raise ValueError(f"{name} must hold no missing id, got {shown(ids[k])} for row {k}")
    ids = plain_ids(name, ids, lambda k: k)
    if (repeated := pd.Index(ids).duplicated()).any():
        raise ValueError(f"{name} must hold each id once, got {shown(ids[repeated.argmax()])} twice")
    return ids


def missing_as_text(ids: np.ndarray) -> str | None:
    """The first id that is what a missing one becomes where a column is made text, if there is one."""
    if ids.dtype != object or MISSING_AS_TEXT.isdisjoint(ids):
        return None
    return next(text for text in ids if text in MISSING_AS_TEXT)


def plain_ids(name: str, ids: np.ndarray, row: Callable[[int], object]) -> np.ndarray:
    """The same ids, (K,), whole numbers as integers; TypeError, which names `row(k)`, where they are no ids.

    Ids are integers or strings, all of one kind. Floats, which a blank beside them makes of integers, must be whole,
    and so small that no neighbour was rounded to them: below 2^53 in float64, 2^24 in float32.
    """
    kind, held = ids.dtype.kind, ""
    if kind == "O":
        held = pd.api.types.infer_dtype(ids, skipna=False)
    if kind in "iuU" or held == "string" or not len(ids):
        return ids
    if held == "integer":
        try:
            return ids.astype(np.int64)
        except OverflowError:  # beyond 64 bits: as they are
            return ids
    if kind == "f":
        return _whole_ids(name, ids, row)
    if held in ("floating", "mixed-integer-float"):
        return _whole_ids(name, ids.astype(np.float64), row)
    texts = [k for k, x in enumerate(ids) if isinstance(x, str)]
    others = [k for k, x in enumerate(ids) if not isinstance(x, str)]
    if texts and isinstance(ids[others[0]], Real):
        found = " and ".join(f"{shown(ids[k])} in row {shown(row(k))}" for k in (others[0], texts[0]))
        raise TypeError(f"{name} must hold ids of one kind, got {found}; want .astype(str)")
    k = next((k for k in others if not isinstance(ids[k], int) or isinstance(ids[k], bool)), 0)
    raise TypeError(f"{name} must hold {ID_TYPES}, got {shown(ids[k])} in row {shown(row(k))} (dtype {ids.dtype})")


def _whole_ids(name: str, ids: np.ndarray, row: Callable[[int], object]) -> np.ndarray:
    broken = ~np.isfinite(ids) | (ids != np.floor(ids))
    if broken.any():
        k = int(broken.argmax())
        raise TypeError(f"{name} must hold {ID_TYPES}, got {ids[k]} in row {shown(row(k))}")
    digits = np.finfo(ids.dtype).nmant + 1
    rounded = np.abs(ids) >= 2.0**digits
    if rounded.any():
        k = int(rounded.argmax())
        got = f"{ids[k]:.0f} in row {shown(row(k))}"
        remedy = "read the file with dtype=str or 'Int64' for this column"
        raise TypeError(
            f"{name} must hold ids below 2^{digits}, as it is {ids.dtype}, which rounds larger ones and makes two "
            f"ids one; got {got}; {remedy}"
        )
    return ids.astype(np.int64)


def _check_present(column: pd.Series, absent: np.ndarray) -> None:
    """ValueError that says where and how often the id is not there."""
    if absent.any():
        row = column.index[int(absent.argmax())]
        raise ValueError(
            f"column {column.name!r} must hold an id in every row, got a missing one in row {shown(row)} "
            f"({of_rows(absent)}); want frame.dropna(subset=[{column.name!r}])"
        )


def _hashable(cell: object) -> bool:
    try:
        hash(cell)
    except TypeError:
        return False
    return True


def of_rows(rows: np.ndarray) -> str:
    """How many of the rows these are, as words."""
    return f"{rows.sum():,} of {len(rows):,} rows, {rows.mean():.2%}"
