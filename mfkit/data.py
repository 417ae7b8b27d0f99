"""Ratings as triplets: the observed cells of a sparse matrix R, and nothing else.

    Omega = {(users[k], items[k]) : k < N},   R[users[k], items[k]] = values[k]

    users, items: (N,) int64      values: (N,) float32      N: number of ratings

Everything is checked once, here at the door, so that the training loop needs no checks of its own.
"""

import copy
import warnings
from collections.abc import Collection, Hashable, Iterator, Sequence, Sized
from dataclasses import InitVar, dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mfkit.checks import instance, integer, one_of, shown, vector
from mfkit.frames import RatingsWarning, Read, pick_columns, read_table
from mfkit.ids import row_ids


class RepeatedPairs(ValueError):
    """The same user and item twice. positions: where the first such pair stands; pairs: how many pairs repeat."""

    wanted = "users and items must name pairs once each (or duplicates='mean' or 'last' to merge them)"

    def __init__(self, positions: np.ndarray, pairs: int, user: int, item: int):
        self.positions, self.pairs = positions, pairs
        super().__init__(self.sentence(f"(user, item) = {(user, item)} {len(positions)} times"))

    def sentence(self, pair: str) -> str:
        return f"{self.wanted}, got {pair}; {self.pairs:,} pair{'s repeat' if self.pairs > 1 else ' repeats'} in all"


@dataclass(frozen=True, eq=False)
class Ratings:
    """N observed ratings of n_items items by n_users users; on the CPU, until `.to(device)`.

    users, items: integers, shape (N,), numpy, torch, pandas or lists, any integer dtype; copied to int64.
    values: real numbers, shape (N,); copied to float32. Not bounded: centred ratings are fine.
    n_users, n_items: table sizes, at least the largest id + 1.
    user_ids, item_ids: the original ids of rows 0, 1, ..., shape (n_users,), (n_items,), if there are any: integers
        or strings, each once.
    duplicates: where a (user, item) pair occurs twice, "mean", "last" or (default, as silent duplicates leak from the
        training into the test part) "error". Raises TypeError for what is not a number, else ValueError.
    read: what `from_frame` read, and None for ratings that come from elsewhere, parts of a table included.
    """

    users: Tensor
    items: Tensor
    values: Tensor
    n_users: int
    n_items: int
    user_ids: np.ndarray | None = None
    item_ids: np.ndarray | None = None
    duplicates: InitVar[str] = "error"
    read: Read | None = field(default=None, init=False)

    def __post_init__(self, duplicates: str) -> None:
        one_of("duplicates", duplicates, ("error", "mean", "last"))
        users, items, values = vector("users", self.users), vector("items", self.items), vector("values", self.values)
        if not len(users) == len(items) == len(values) > 0:
            lengths = f"{len(users)}, {len(items)} and {len(values)}"
            raise ValueError(f"users, items and values must have one length of at least 1, got {lengths}")
        n_users = integer("n_users", self.n_users, least=1)
        n_items = integer("n_items", self.n_items, least=1)
        if n_users * n_items >= 2**63:
            raise ValueError(f"n_users * n_items must be less than 2^63, got {n_users} * {n_items}")
        users, items = _rows("users", users, n_users), _rows("items", items, n_items)
        values = _finite(values)
        user_ids = row_ids("user_ids", self.user_ids, n_users)
        item_ids = row_ids("item_ids", self.item_ids, n_items)
        users, items, values = _merge_duplicates(users, items, values, n_items, duplicates)
        checked = {
            "users": users,
            "items": items,
            "values": values,
            "n_users": n_users,
            "n_items": n_items,
            "user_ids": user_ids,
            "item_ids": item_ids,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # as the class is frozen

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        user: Hashable = "user",
        item: Hashable = "item",
        rating: Hashable = "rating",
        time: Hashable | None = None,
        missing: float | Collection[float] = (),
        like: "Ratings | None" = None,
        unknown: str = "error",
        duplicates: str = "error",
    ) -> Self:
        """Ratings from a table with one rating a row, in the table's order; `print` says what was read.

        user, item, rating: column names. Ids are integers or strings (categories, nullable and object columns of
            them too). Rows are the sorted unique ids, which stay in `user_ids` and `item_ids`.
        missing: a rating, or several, that mean "not rated", e.g. 0, -1 or float("nan"): these rows are left out
            before anything else is read of them, so a user without another row is no user.
        like: other ratings, whose rows these get: for a test table in a file of its own. unknown: ids that `like`
            has not are an "error", or "drop" leaves their rows out.
        duplicates: as above. "last" is the last row of the file, which need not be the latest rating; with time=,
            a column of numbers or dates, rows are put in its order first, and "last" is the latest.

        Raises KeyError for a column that is missing, TypeError for a column of the wrong kind, ValueError for a
        missing id or rating. Warns (RatingsWarning) of what may be no rating: a code for "not rated", unix times, one
        value everywhere, a tail that outweighs the rest, counts past 2^24; the rules are in doubts.py.
        """
        names = {"user": user, "item": item, "rating": rating}
        if time is not None:
            names["time"] = time
            if duplicates != "last":
                raise ValueError(f"time={time!r} needs duplicates='last', got duplicates={duplicates!r}")
        if one_of("unknown", unknown, ("error", "drop")) == "drop" and like is None:
            raise ValueError("unknown='drop' needs like=, the ratings whose ids are known; got like=None")
        known = None if like is None else _both_ids(instance("like", like, Ratings))
        table = read_table(pick_columns(frame, names), missing, known, unknown)
        columns: Any = (table.users, table.items, table.values)  # numpy's, as yet
        sizes = {"n_users": len(table.user_ids), "n_items": len(table.item_ids)}
        try:
            ratings = cls(*columns, **sizes, user_ids=table.user_ids, item_ids=table.item_ids, duplicates=duplicates)
        except RepeatedPairs as error:
            raise ValueError(error.sentence(table.pair(error.positions))) from None
        read, doubts = table.judge(len(ratings))
        object.__setattr__(ratings, "read", read)
        for sentence in doubts:
            warnings.warn(sentence, RatingsWarning, stacklevel=2)
        return ratings

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        size = f"{len(self):,} ratings, {self.n_users:,} users x {self.n_items:,} items"
        read = "" if self.read is None else f"; {self.read}"
        return f"Ratings({size}, {len(self) / (self.n_users * self.n_items):.2%} observed{read})"

    def __str__(self) -> str:
        return f"{self!r}\n{self.read.note}" if self.read and self.read.note else repr(self)

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """users, items, values: (N,) each."""
        return self.users, self.items, self.values

    @property
    def mean(self) -> float:
        """The mean rating, accumulated in float64."""
        return self.values.double().mean().item()

    @property
    def std(self) -> float:
        """The ratings' standard deviation (of all, not of a sample), accumulated in float64; 0 where all are equal."""
        return self.values.double().std(correction=0).item()

    @property
    def spread(self) -> float:
        """As `std` for Gaussian ratings, but not moved by outliers: 1.4826 times the median distance from the median.

        `std` where more than half of the ratings are equal. The float64 median of (N,) values.
        """
        values = self.values.double()
        distance = (values - values.median()).abs().median().item()
        return 1.4826 * distance or self.std

    def to(self, device: torch.device | str) -> Self:
        """The same ratings on another device; itself where it is there already."""
        if self.values.device == torch.device(device):
            return self
        there = self._with(self.users.to(device), self.items.to(device), self.values.to(device))
        object.__setattr__(there, "read", self.read)
        return there

    def check_same_ids(self, other: object, name: str, own_name: str = "ratings") -> None:
        """ValueError unless `other` (ratings or a model, called `name`) gives each id the row that it has here.

        Two tables read one by one are numbered one by one: a model of the first says nothing about the second.
        Where either side has no `user_ids` or `item_ids` there is nothing to compare; parts of one table share them.
        """
        for ids_name in ("user_ids", "item_ids"):
            own, others = getattr(self, ids_name), getattr(other, ids_name, None)
            if own is others or not isinstance(own, np.ndarray) or not isinstance(others, np.ndarray):
                continue
            if np.array_equal(own, others):
                continue
            got = f"{len(own):,} and {len(others):,} of them"
            if len(own) == len(others):
                row = int(np.asarray(own != others).argmax())
                got = f"{shown(own[row])} and {shown(others[row])} in row {row}"
            remedy = "read one table like the other: Ratings.from_frame(frame, like=...)"
            raise ValueError(f"{own_name} and {name} must have the same {ids_name}, row by row, got {got}; {remedy}")

    def take(self, rows: Tensor | np.ndarray | Sequence[int]) -> Self:
        """The ratings at these positions, (K,) integers or (N,) booleans, in that order; table sizes and ids stay.

        Raises TypeError for other dtypes, IndexError for a position that is not there, ValueError where none is left.
        """
        picks = _picks(rows, len(self)).to(self.values.device)
        return self._with(self.users[picks], self.items[picks], self.values[picks])

    def with_values(self, values: Tensor | np.ndarray | Sequence[float]) -> Self:
        """The same pairs with other values, (N,), e.g. what a model leaves over; ValueError for another shape."""
        if isinstance(values, Tensor) and values.dtype != torch.bool and not values.is_complex():
            values = values.detach().clone()  # stays on its device
        else:
            values = vector("values", values)
        if values.shape != self.values.shape:
            raise ValueError(f"values must have shape {tuple(self.values.shape)}, got {tuple(values.shape)}")
        return self._with(self.users, self.items, _finite(values.to(self.values.device)))

    def split(self, fractions: tuple[float, ...], seed: int, *, by: str = "rating") -> list[Self]:
        """Disjoint random parts, e.g. (0.8, 0.1, 0.1); fractions that sum to less than 1 leave a rest out.

        by="rating" cuts one permutation of all ratings. by="user" cuts each user's ratings in these fractions,
        rounded at random so that the parts have the right size over all users.
        Raises ValueError for fractions that are not positive or sum to more than 1, and for a part left empty.
        """
        shares = vector("fractions", fractions).double().numpy() if isinstance(fractions, Sized) else np.empty(0)
        if not len(shares) or not (shares > 0).all() or shares.sum() > 1 + 1e-9:
            raise ValueError(f"fractions must be positive and sum to at most 1, got {shown(fractions)}")
        one_of("by", by, ("rating", "user"))
        rng = np.random.default_rng(integer("seed", seed, least=0))
        order = rng.permutation(len(self))
        position = (np.arange(len(self)) + 0.5) / len(self)  # in (0, 1): how far down the list that is cut
        if by == "user":
            users = self.users.cpu().numpy()
            order = order[np.argsort(users[order], kind="stable")]  # shuffled within each user
            users, counts = users[order], np.bincount(users, minlength=self.n_users)
            rank = np.arange(len(self)) - (counts.cumsum() - counts)[users]
            position = (rank + rng.random(self.n_users)[users]) / counts[users]
        edges = shares.cumsum()
        edges[edges > 1 - 1e-9] = 2.0  # rounding must not leave the last rating out
        part = np.searchsorted(edges, position, side="right")
        picks = [torch.from_numpy(order[part == k]) for k in range(len(shares))]
        if empty := [fraction for fraction, pick in zip(shares, picks, strict=True) if not len(pick)]:
            raise ValueError(f"fractions must leave no part empty, got {empty[0]} of {len(self)} ratings")
        return [self.take(pick) for pick in picks]

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch in random order: (users, items, values), (B,) each, on the ratings' device; the last is the rest.

        One permutation and then slices: no Python work per rating, where a DataLoader over a TensorDataset indexes
        and collates them one by one. `generator` is a CPU generator: the same order on every device.
        """
        batch_size = integer("batch_size", batch_size, least=1)
        if instance("generator", generator, torch.Generator).device.type != "cpu":
            raise ValueError(f"generator must be a CPU generator, got one on {generator.device}")
        order = torch.randperm(len(self), generator=generator).to(self.values.device)
        columns = (column[order].split(min(batch_size, len(self))) for column in self.columns)
        return zip(*columns, strict=True)

    def _with(self, users: Tensor, items: Tensor, values: Tensor) -> Self:
        """Ratings with these columns, which come from checked ones: not checked again."""
        new = copy.copy(self)
        for name, column in (("users", users), ("items", items), ("values", values), ("read", None)):
            object.__setattr__(new, name, column)
        return new


def _rows(name: str, rows: Tensor, size: int) -> Tensor:
    """Row numbers as int64, each in [0, size)."""
    if rows.is_floating_point():
        example = next((x for x in rows.tolist() if x % 1), rows[0].item())
        raise TypeError(f"{name} must be integers (row numbers from 0), got dtype {rows.dtype}, e.g. {example}")
    rows = rows.long()
    if (wrong := (rows < 0) | (rows >= size)).any():
        k = int(wrong.int().argmax())
        raise ValueError(f"{name} must lie in [0, n_{name}) = [0, {size}), got {rows[k].item()} at position {k}")
    return rows


def _finite(values: Tensor) -> Tensor:
    """Values as float32, each finite."""
    values = values.float()
    if values.device.type != "meta" and not (finite := values.isfinite()).all():
        k = int(finite.int().argmin())
        raise ValueError(f"values must be finite float32 numbers, got {values[k].item()} at position {k}")
    return values


def _picks(rows: Tensor | np.ndarray | Sequence[int], n: int) -> Tensor:
    """Positions in n ratings: (K,) int64, or (n,) booleans."""
    try:
        picks = rows if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows))
    except (TypeError, ValueError) as error:
        raise TypeError(f"rows must be a vector of integers or booleans, got {shown(rows)}: {error}") from None
    if picks.layout != torch.strided:
        raise TypeError(f"rows must be a dense vector, got layout {picks.layout}")
    if picks.ndim != 1:
        raise ValueError(f"rows must have shape (K,), got {tuple(picks.shape)}")
    if picks.dtype == torch.bool and len(picks) != n:
        raise IndexError(f"rows, as booleans, must have shape ({n},), got {tuple(picks.shape)}")
    if not (picks.any() if picks.dtype == torch.bool else len(picks)):
        raise ValueError("rows must pick a rating at least, got none")
    if picks.dtype == torch.bool:
        return picks
    if picks.is_floating_point() or picks.is_complex():
        raise TypeError(f"rows must be integers or booleans, got dtype {picks.dtype}")
    picks = picks.long()
    if (wrong := (picks < -n) | (picks >= n)).any():
        raise IndexError(f"rows must lie in [0, {n}), got {picks[wrong][0].item()}")
    return picks


def _both_ids(like: Ratings) -> tuple[np.ndarray, np.ndarray]:
    if like.user_ids is None or like.item_ids is None:
        raise ValueError("like must have user_ids and item_ids, as ratings from a table have; got none")
    return like.user_ids, like.item_ids


def _merge_duplicates(
    users: Tensor, items: Tensor, values: Tensor, n_items: int, how: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Each pair once: all as they are where none repeats, else merged, or RepeatedPairs."""
    cells = (users * n_items + items).numpy()
    ordered = np.sort(cells)
    repeats = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeats):
        return users, items, values
    if how == "error":
        first = int(pd.Index(cells).duplicated().argmax())
        positions = np.flatnonzero(cells == cells[first])
        raise RepeatedPairs(positions, len(np.unique(repeats)), int(users[first]), int(items[first]))
    column = pd.Series(values.double().numpy(), index=cells)
    merged = column.groupby(level=0).agg(how)
    cells, values = (torch.from_numpy(column.to_numpy(copy=True)) for column in (merged.index, merged))
    return cells // n_items, cells % n_items, values.float()
