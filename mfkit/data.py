"""Ratings as triplets: the observed cells of a sparse matrix R, and nothing else.

    Omega = {(users[k], items[k]) : k < N},   R[users[k], items[k]] = values[k]

    users, items: (N,) int64      values: (N,) float32      N: number of ratings

Everything is checked once, here at the door, so that the training loop needs no checks of its own.
"""

import copy
from collections.abc import Hashable, Iterator
from dataclasses import InitVar, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ratings:
    """N observed ratings of n_items items by n_users users; on the CPU, until `.to(device)`.

    users, items: integers, shape (N,), numpy, torch, pandas or lists, any integer dtype; copied to int64.
    values: real numbers, shape (N,); copied to float32. Not bounded: centred ratings are fine.
    n_users, n_items: table sizes, at least the largest id + 1.
    user_ids, item_ids: the original ids of rows 0, 1, ..., shape (n_users,), (n_items,), if there are any.
    duplicates: where a (user, item) pair occurs twice, "mean", "last" or (default, as silent duplicates leak from the
        training into the test part) "error". Raises TypeError for what is not a number, else ValueError.
    """

    users: Tensor
    items: Tensor
    values: Tensor
    n_users: int
    n_items: int
    user_ids: np.ndarray | None = None
    item_ids: np.ndarray | None = None
    duplicates: InitVar[str] = "error"

    def __post_init__(self, duplicates: str) -> None:
        users, items, values = (
            _vector("users", self.users),
            _vector("items", self.items),
            _vector("values", self.values),
        )
        if not len(users) == len(items) == len(values) > 0:
            lengths = f"{len(users)}, {len(items)} and {len(values)}"
            raise ValueError(f"users, items and values must have one length of at least 1, got {lengths}")
        users, items = _ids("users", users, self.n_users), _ids("items", items, self.n_items)
        values = values.float()
        if not (finite := values.isfinite()).all():
            k = int(finite.int().argmin())
            raise ValueError(f"values must be finite float32 numbers, got {values[k].item()} at position {k}")
        for name, ids, size in (("user_ids", self.user_ids, self.n_users), ("item_ids", self.item_ids, self.n_items)):
            if ids is not None and len(ids) != size:
                raise ValueError(f"{name} must hold one id a row, {size} in all, got {len(ids)}")
        n_users, n_items = int(self.n_users), int(self.n_items)
        if n_users * n_items >= 2**63:
            raise ValueError(f"n_users * n_items must be less than 2^63, got {n_users} * {n_items}")
        users, items, values = _merge_duplicates(users, items, values, n_items, duplicates)
        checked = {"users": users, "items": items, "values": values, "n_users": n_users, "n_items": n_items}
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
        duplicates: str = "error",
    ) -> Self:
        """Ratings from a table with one rating a row; ids of any kind (numbers, strings).

        user, item, rating: column names. Rows of the tables are the sorted unique ids, which stay in `user_ids`
        and `item_ids`. Raises KeyError for a column that is missing, ValueError for a missing id.
        """
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(f"frame must be a pandas DataFrame, got {type(frame).__name__}")
        for argument, column in (("user", user), ("item", item), ("rating", rating)):
            if column not in frame.columns:
                raise KeyError(f"{argument}={column!r} is not a column; the table has {list(frame.columns)}")
        for column in (user, item):
            missing = frame[column].isna().to_numpy(bool)
            if missing.any():
                row = frame.index[missing.argmax()]
                raise ValueError(f"column {column!r} must hold an id in every row, got a missing one in row {row!r}")
        if not pd.api.types.is_numeric_dtype(frame[rating]) or pd.api.types.is_bool_dtype(frame[rating]):
            raise TypeError(f"column {rating!r} must hold numbers, got dtype {frame[rating].dtype}")
        values: Any = frame[rating].to_numpy(float, na_value=np.nan)
        users: Any
        items: Any
        users, user_ids = pd.factorize(frame[user], sort=True)
        items, item_ids = pd.factorize(frame[item], sort=True)
        sizes = len(user_ids), len(item_ids)
        return cls(users, items, values, *sizes, np.asarray(user_ids), np.asarray(item_ids), duplicates)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        size = f"{len(self):,} ratings, {self.n_users:,} users x {self.n_items:,} items"
        return f"Ratings({size}, {len(self) / (self.n_users * self.n_items):.2%} observed)"

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
        return self._with(self.users.to(device), self.items.to(device), self.values.to(device))

    def take(self, rows: Tensor | np.ndarray) -> Self:
        """The ratings at these positions, (K,) integers or (N,) booleans, in that order; table sizes and ids stay."""
        rows = torch.as_tensor(rows, device=self.values.device)
        return self._with(self.users[rows], self.items[rows], self.values[rows])

    def with_values(self, values: Tensor) -> Self:
        """The same pairs with other values, (N,), e.g. what a model leaves over; ValueError for another shape."""
        values = torch.as_tensor(values, dtype=torch.float32, device=self.values.device)
        if values.shape != self.values.shape:
            raise ValueError(f"values must have shape {tuple(self.values.shape)}, got {tuple(values.shape)}")
        return self._with(self.users, self.items, values)

    def split(self, fractions: tuple[float, ...], seed: int, *, by: str = "rating") -> list[Self]:
        """Disjoint random parts, e.g. (0.8, 0.1, 0.1); fractions that sum to less than 1 leave a rest out.

        by="rating" cuts one permutation of all ratings. by="user" cuts each user's ratings in these fractions,
        rounded at random so that the parts have the right size over all users.
        Raises ValueError for fractions that are not positive or sum to more than 1, and for a part left empty.
        """
        shares = np.asarray(fractions, dtype=float)
        if shares.ndim != 1 or not (shares > 0).all() or not 0 < shares.sum() <= 1 + 1e-9:
            raise ValueError(f"fractions must be positive and sum to at most 1, got {fractions}")
        if by not in ("rating", "user"):
            raise ValueError(f"by must be 'rating' or 'user', got {by!r}")
        rng = np.random.default_rng(seed)
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
        if empty := [fraction for fraction, pick in zip(fractions, picks, strict=True) if not len(pick)]:
            raise ValueError(f"fractions must leave no part empty, got {empty[0]} of {len(self)} ratings")
        return [self.take(pick) for pick in picks]

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch in random order: (users, items, values), (B,) each, on the ratings' device; the last is the rest.

        One permutation and then slices: no Python work per rating, where a DataLoader over a TensorDataset indexes
        and collates them one by one. `generator` is a CPU generator: the same order on every device.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        order = torch.randperm(len(self), generator=generator).to(self.values.device)
        columns = (column[order].split(batch_size) for column in self.columns)
        yield from zip(*columns, strict=True)

    def _with(self, users: Tensor, items: Tensor, values: Tensor) -> Self:
        """Ratings with these columns, which come from checked ones: not checked again."""
        new = copy.copy(self)
        for name, column in (("users", users), ("items", items), ("values", values)):
            object.__setattr__(new, name, column)
        return new


def _vector(name: str, given: object) -> Tensor:
    """A copy on the CPU, through numpy: it reads lists, pandas columns, read-only, reversed and big-endian arrays."""
    try:
        array = np.array(given.detach().cpu().numpy() if isinstance(given, Tensor) else given, order="C")
        vector = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a vector of numbers, got {type(given).__name__}: {error}") from None
    if vector.ndim != 1:
        raise ValueError(f"{name} must have shape (N,), got {tuple(vector.shape)}")
    if vector.dtype == torch.bool or vector.is_complex():
        raise TypeError(f"{name} must be real numbers, got dtype {vector.dtype}")
    return vector


def _ids(name: str, ids: Tensor, size: int) -> Tensor:
    """Row numbers as int64, each in [0, size)."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"n_{name} must be a positive integer, got {size!r}")
    if ids.is_floating_point():
        example = next((x for x in ids.tolist() if x % 1), ids[0].item())
        raise TypeError(f"{name} must be integers (row numbers from 0), got dtype {ids.dtype}, e.g. {example}")
    ids = ids.long()
    if (wrong := (ids < 0) | (ids >= size)).any():
        k = int(wrong.int().argmax())
        raise ValueError(f"{name} must lie in [0, n_{name}) = [0, {size}), got {ids[k].item()} at position {k}")
    return ids


def _merge_duplicates(
    users: Tensor, items: Tensor, values: Tensor, n_items: int, how: str
) -> tuple[Tensor, Tensor, Tensor]:
    if how not in ("error", "mean", "last"):
        raise ValueError(f"duplicates must be 'error', 'mean' or 'last', got {how!r}")
    cells = pd.Series(values.double().numpy(), index=(users * n_items + items).numpy())
    if not (repeated := cells.index.duplicated()).any():
        return users, items, values
    if how == "error":
        cell = int(cells.index[repeated][0])
        wanted = "once each (or duplicates='mean' or 'last' to merge them)"
        times = int(np.equal(cells.index, cell).sum())
        got = f"(user, item) = {divmod(cell, n_items)} {times} times"
        raise ValueError(f"users and items must name pairs {wanted}, got {got}")
    merged = cells.groupby(level=0).agg(how)
    cells, values = (torch.from_numpy(column.to_numpy(copy=True)) for column in (merged.index, merged))
    return cells // n_items, cells % n_items, values.float()
