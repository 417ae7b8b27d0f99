"""A person's table, read: which of its columns are users, items and ratings, and which rows they number.

    users[k], items[k], values[k]: row k of the table, of those that are kept
    user_ids[users[k]], item_ids[items[k]]: its ids as the table has them; sorted, each once

Every error names the column, the first row at fault by its label, and how many there are.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real

import numpy as np
import pandas as pd

from mfkit.checks import shown, vector
from mfkit.doubts import doubts, extent, note, plain
from mfkit.ids import missing_as_text, number_ids, of_rows, renumber

REAL = {"integer", "floating", "mixed-integer-float", "decimal", "empty"}  # what pandas calls objects that are numbers


class RatingsWarning(UserWarning):
    """Something in a table that was read may not mean what it seems to mean."""


@dataclass(frozen=True)
class Read:
    """What `Ratings.from_frame` read.

    rows: of the table. missing, unknown: rows left out, for their rating (`missing=`), for their ids (`unknown=`).
    merged: rows that went into others (`duplicates=`). lowest, highest, commonest: ratings, `share` of the rows kept
    holding the commonest. note: what should be known of such a table, or "".
    """

    rows: int
    missing: int
    unknown: int
    merged: int
    lowest: float
    highest: float
    commonest: float
    share: float
    note: str = ""

    def __str__(self) -> str:
        losses = {
            "left out as not rated": self.missing,
            "left out for unknown ids": self.unknown,
            "merged into others": self.merged,
        }
        lost = [f"{count:,} {what}" for what, count in losses.items() if count]
        rows = f"{self.rows:,} rows read, {', '.join(lost)}; " if lost else ""
        scale = extent(np.array([self.lowest, self.highest]))
        return f"{rows}{scale}, most often {plain(self.commonest)} ({self.share:.1%})"


@dataclass
class Table:
    """The rows that are kept, (N,) each; labels name them.

    columns: the columns' names by role. rows, missing, unknown: rows of the table, and those that are not kept.
    """

    users: np.ndarray
    items: np.ndarray
    values: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    labels: pd.Index
    columns: dict[str, Hashable]
    rows: int
    missing: int
    unknown: int = 0

    def take(self, rows: np.ndarray) -> None:
        """Keep these rows alone, (K,) integers or (N,) booleans, in that order."""
        self.users, self.items, self.values = self.users[rows], self.items[rows], self.values[rows]
        self.labels = self.labels[rows]

    def pair(self, positions: np.ndarray) -> str:
        """The pair that stands at these positions, in the table's own words."""
        user, item = self.user_ids[self.users[positions[0]]], self.item_ids[self.items[positions[0]]]
        rows = ", ".join(shown(label) for label in self.labels[positions[:5]])
        more = ", ..." if len(positions) > 5 else ""
        pair = f"{self.columns['user']}={shown(user)}, {self.columns['item']}={shown(item)}"
        return f"{pair} {len(positions)} times (rows {rows}{more})"

    def judge(self, n_ratings: int) -> tuple[Read, list[str]]:
        """What was read, n_ratings of it once duplicates are merged; and a sentence for each doubt about it."""
        distinct, counts = np.unique(self.values, return_counts=True)
        full = len(self.values) == len(self.user_ids) * len(self.item_ids)
        most = int(counts.argmax())
        read = Read(
            rows=self.rows,
            missing=self.missing,
            unknown=self.unknown,
            merged=len(self.values) - n_ratings,
            lowest=float(distinct[0]),
            highest=float(distinct[-1]),
            commonest=float(distinct[most]),
            share=float(counts[most] / len(self.values)),
            note=note(distinct),
        )
        found = doubts(f"column {self.columns['rating']!r}", distinct, counts, full)
        for role, ids in (("user", self.user_ids), ("item", self.item_ids)):
            if text := missing_as_text(ids):
                name = f"column {self.columns[role]!r}"
                found.append(f"{name} has the id {text!r}, which may be missing ids as text; want dropna before astype")
        return read, found


def read_table(
    columns: dict[str, pd.Series],
    missing: float | Collection[float],
    like: tuple[np.ndarray, np.ndarray] | None,
    unknown: str,
) -> Table:
    """columns: by role, "user", "item", "rating" and, if rows are to be sorted by it, "time"."""
    n_rows, name = len(columns["rating"]), f"column {columns['rating'].name!r}"
    values = numbers(columns["rating"])
    if (left_out := _among(values, missing)).any():
        if left_out.all():
            raise ValueError(f"missing={shown(missing)} must leave a rating, got {name} with nothing else")
        columns = {role: column.loc[~left_out] for role, column in columns.items()}
        values = values[~left_out]
    _check_finite(columns["rating"], values)
    users, user_ids = number_ids(columns["user"])
    items, item_ids = number_ids(columns["item"])
    table = Table(
        users,
        items,
        values,
        user_ids,
        item_ids,
        labels=columns["user"].index,
        columns={role: column.name for role, column in columns.items()},
        rows=n_rows,
        missing=n_rows - len(values),
    )
    known = np.ones(len(values), dtype=bool)
    if like is not None:
        table.users = renumber(columns["user"], users, user_ids, like[0], unknown)
        table.items = renumber(columns["item"], items, item_ids, like[1], unknown)
        table.user_ids, table.item_ids = like
        known = (table.users >= 0) & (table.items >= 0)
        table.unknown = len(known) - int(known.sum())
        if len(known) and not known.any():
            raise ValueError("like must have the user and the item of a row at least, got a table without such a row")
    if "time" in columns:
        order = _order_in_time(columns["time"])
        table.take(order[known[order]])
    elif table.unknown:
        table.take(known)
    return table


def pick_columns(frame: pd.DataFrame, names: dict[str, Hashable]) -> dict[str, pd.Series]:
    """The column of each role; KeyError where it is not there, ValueError where two are, or one has two roles."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"frame must be a pandas DataFrame, got {type(frame).__name__}")
    columns, role_of = {}, {}
    for role, name in names.items():
        try:
            there = name in frame.columns
        except TypeError:
            raise TypeError(f"{role} must be the name of a column, got {shown(name)}") from None
        if not there:
            hint = "; it is in the index: want frame.reset_index()" if name in frame.index.names else ""
            raise KeyError(f"{role}={name!r} is not a column; the table has {list(frame.columns)}{hint}")
        if name in role_of:
            raise ValueError(f"{role_of[name]} and {role} must be two columns, got {name!r} for both")
        role_of[name] = role
        column = frame[name]
        if isinstance(column, pd.DataFrame):
            got = f"{column.shape[1]} columns of the table's {list(frame.columns)}"
            raise ValueError(f"{role}={name!r} must name one column, got {got}")
        columns[role] = column
    return columns


def numbers(column: pd.Series) -> np.ndarray:
    """A column of ratings as (N,) float64, NaN where there is none; TypeError where it holds something else."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    if _is_real(column):
        return column.to_numpy(float, na_value=np.nan)
    if column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) in REAL:
        try:
            return pd.Series(pd.to_numeric(column)).to_numpy(float, na_value=np.nan)
        except OverflowError as error:
            raise ValueError(f"column {column.name!r} must hold numbers below 1.8e308: {error}") from None
    wanted = f"column {column.name!r} must hold numbers, got dtype {column.dtype}"
    cells = list(column.loc[column.notna()].items())
    if not cells:
        raise TypeError(f"{wanted} with nothing in it")
    texts = [(row, cell) for row, cell in cells if isinstance(cell, str)]
    unreadable = ((row, cell) for row, cell in cells if not _reads_as_number(cell))
    row, example = next(unreadable, (texts or cells)[0])
    hint = ""
    if isinstance(example, str):
        hint = f"; want pd.to_numeric(frame[{column.name!r}]), or read_csv(..., decimal=',', thousands='.')"
    raise TypeError(f"{wanted}, e.g. {shown(example)} in row {shown(row)}{hint}")


def _check_finite(column: pd.Series, values: np.ndarray) -> None:
    """ValueError that says where and how often the rating is not there, or infinite as float32."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32))
    if finite.all():
        return
    k, absent = int(finite.argmin()), np.isnan(values)
    remedy = ""
    if np.isnan(values[k]):
        remedy = f"; want frame.dropna(subset=[{column.name!r}]), or missing=float('nan')"
    raise ValueError(
        f"column {column.name!r}: values must be finite float32 numbers, got {values[k]:g} at position {k}, row "
        f"{shown(column.index[k])} ({of_rows(absent if absent[k] else ~finite)}){remedy}"
    )


def _among(values: np.ndarray, missing: float | Collection[float]) -> np.ndarray:
    """Which values are among those that mean "not rated"; NaN may be one of these."""
    listed = list(missing) if isinstance(missing, set | frozenset) else missing
    codes = vector("missing", [listed] if np.isscalar(listed) else listed).double().numpy()
    if not len(codes):
        return np.zeros(len(values), dtype=bool)
    with np.errstate(over="ignore"):
        rounded = codes.astype(np.float32).astype(np.float64)  # as a float32 column holds them
    found = np.isin(values, np.concatenate([codes, rounded]))
    return found | np.isnan(values) if np.isnan(codes).any() else found


def _order_in_time(column: pd.Series) -> np.ndarray:
    """The rows from the earliest to the latest, (N,); rows of one time stay as they stand in the table."""
    if not _is_real(column) and not pd.api.types.is_datetime64_any_dtype(column):
        got = f"dtype {column.dtype}"
        raise TypeError(f"time={column.name!r} must hold numbers or dates, got {got}; want pd.to_datetime of it")
    absent = column.isna().to_numpy(bool)
    if absent.any():
        row = column.index[int(absent.argmax())]
        raise ValueError(
            f"time={column.name!r} must hold a time in every row, got none in row {shown(row)} ({of_rows(absent)})"
        )
    return column.reset_index(drop=True).sort_values(kind="stable").index.to_numpy()


def _is_real(column: pd.Series) -> bool:
    types = pd.api.types
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column) and not types.is_complex_dtype(column)


def _reads_as_number(cell: object) -> bool:
    """Whether a cell is a number, or text that Python reads as one."""
    if not isinstance(cell, str):
        return isinstance(cell, Real | Decimal) and not isinstance(cell, bool | np.bool_)
    try:
        float(cell)
    except ValueError:
        return False
    return True
