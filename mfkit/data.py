"""Ratings as triplets: the observed cells of a sparse matrix R, and nothing else.

    Omega = {(users[k], items[k]) : k < N},   R[users[k], items[k]] = values[k]

    users, items: (N,) int64      values: (N,) float32      N: number of ratings

Everything is checked once, here at the door, so that the training loop needs no checks of its own.
"""

from collections.abc import Iterator
from dataclasses import InitVar, dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ratings:
    """N observed ratings of n_items items by n_users users.

    users, items: integers, shape (N,), numpy or torch, any integer dtype; copied to int64.
    values: real numbers, shape (N,); copied to float32. Not bounded: centred ratings are fine.
    n_users, n_items: table sizes, at least the largest id + 1.
    user_ids, item_ids: the original ids of rows 0, 1, ..., shape (n_users,), (n_items,), if there are any.
    duplicates: what to do where a (user, item) pair occurs twice: "error" (default: silent
        duplicates leak from the training part into the test part), "mean" or "last".

    Raises TypeError for ids that are not integers, ValueError for anything else that is not as above.
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
        users, items = _ids("users", self.users, self.n_users), _ids("items", self.items, self.n_items)
        values = _vector("values", self.values).to(torch.float32, copy=True)
        if not len(users) == len(items) == len(values):
            lengths = f"{len(users)}, {len(items)} and {len(values)}"
            raise ValueError(f"users, items and values must have one length, got {lengths}")
        if len(values) == 0:
            raise ValueError("users, items and values must hold at least one rating, got 0")
        if (wrong := ~values.isfinite()).any():
            k = int(wrong.nonzero()[0])
            raise ValueError(f"values must be finite float32 numbers, got {values[k].item()} at position {k}")
        for name, ids, size in (("user_ids", self.user_ids, self.n_users), ("item_ids", self.item_ids, self.n_items)):
            if ids is not None and len(ids) != size:
                raise ValueError(f"{name} must hold one id a row, {size} in all, got {len(ids)}")
        users, items, values = _merge_duplicates(users, items, values, self.n_items, duplicates)
        for name, tensor in (("users", users), ("items", items), ("values", values)):
            object.__setattr__(self, name, tensor)  # frozen for everybody else

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, *, user="user", item="item", rating="rating", duplicates="error"
    ) -> "Ratings":
        """Ratings from a table with one rating a row; ids of any kind (numbers, strings).

        user, item, rating: column names. Rows of the tables are the sorted unique ids, which
        stay in `user_ids` and `item_ids`. Raises KeyError for a column that is missing and
        ValueError for a missing id.
        """
        for argument, column in (("user", user), ("item", item), ("rating", rating)):
            if column not in frame.columns:
                raise KeyError(f"{argument}={column!r} is not a column; the table has {list(frame.columns)}")
        for column in (user, item):
            if frame[column].isna().any():
                row = frame.index[frame[column].isna()][0]
                raise ValueError(f"column {column!r} must hold an id in every row, got a missing one in row {row!r}")
        users, user_ids = pd.factorize(frame[user], sort=True)
        items, item_ids = pd.factorize(frame[item], sort=True)
        if not pd.api.types.is_numeric_dtype(frame[rating]) or pd.api.types.is_bool_dtype(frame[rating]):
            raise TypeError(f"column {rating!r} must hold numbers, got dtype {frame[rating].dtype}")
        values = frame[rating].to_numpy(np.float32, na_value=np.nan)
        ids = np.asarray(user_ids), np.asarray(item_ids)
        return cls(users, items, values, len(user_ids), len(item_ids), *ids, duplicates=duplicates)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        density = len(self) / (self.n_users * self.n_items)
        return (
            f"Ratings({len(self):,} ratings, {self.n_users:,} users x {self.n_items:,} items, {density:.2%} observed)"
        )

    @property
    def mean(self) -> float:
        """The mean rating, accumulated in float64."""
        return self.values.double().mean().item()

    def to(self, device: torch.device | str) -> "Ratings":
        """The same ratings on another device; itself where it is there already."""
        return self if self.values.device == torch.device(device) else self._map(lambda tensor: tensor.to(device))

    def split(self, fractions: tuple[float, ...], seed: int, *, by: str = "rating") -> list["Ratings"]:
        """Disjoint random parts, e.g. (0.8, 0.1, 0.1); fractions that sum to less than 1 leave a rest out.

        by="rating" cuts one permutation of all ratings. by="user" cuts each user's ratings in these fractions,
        rounded at random so that the parts have the right size over all users.
        Raises ValueError for fractions that are not positive or sum to more than 1, and for a part left empty.
        """
        edges = np.cumsum(np.asarray(fractions, dtype=float))
        if not len(edges) or not min(fractions) > 0 or edges[-1] > 1 + 1e-9:
            raise ValueError(f"fractions must be positive and sum to at most 1, got {fractions}")
        if by not in ("rating", "user"):
            raise ValueError(f"by must be 'rating' or 'user', got {by!r}")
        rng, users = np.random.default_rng(seed), self.users.cpu().numpy()
        order = rng.permutation(len(self))
        position = (np.arange(len(self)) + 0.5) / len(self)
        if by == "user":
            order = order[np.argsort(users[order], kind="stable")]  # shuffled within each user
            counts = np.bincount(users, minlength=self.n_users)
            rank = np.arange(len(self)) - (np.cumsum(counts) - counts)[users[order]]
            position = (rank + rng.random(self.n_users)[users[order]]) / counts[users[order]]
        part = np.searchsorted(edges + (edges > 1 - 1e-9), position, side="right")
        for k, fraction in enumerate(fractions):
            if not (part == k).any():
                raise ValueError(
                    f"fractions must leave no part empty, got {fraction} of {len(self)} ratings (part {k})"
                )
        picks = [torch.from_numpy(order[part == k]).to(self.users.device) for k in range(len(fractions))]
        return [self._map(lambda column, pick=pick: column[pick]) for pick in picks]

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One epoch in random order: (users, items, values), (B,) each, on the ratings' device; the last is the rest.

        One permutation and then slices: no Python work per rating, where a DataLoader over a TensorDataset indexes
        and collates them one by one. `generator` is a CPU generator: the same order on every device.
        """
        order = torch.randperm(len(self), generator=generator).to(self.values.device)
        columns = (column[order].split(batch_size) for column in (self.users, self.items, self.values))
        yield from zip(*columns, strict=True)

    def _map(self, function) -> "Ratings":
        """Ratings whose tensors are function(tensor) of these: already checked, so not checked again."""
        new = object.__new__(Ratings)
        new.__dict__.update(self.__dict__)
        new.__dict__.update({name: function(getattr(self, name)) for name in ("users", "items", "values")})
        return new


def _vector(name: str, given) -> Tensor:
    try:
        vector = torch.as_tensor(given).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a vector of numbers, got {type(given).__name__}: {error}") from None
    if vector.ndim != 1:
        raise ValueError(f"{name} must have shape (N,), got {tuple(vector.shape)}")
    if vector.dtype == torch.bool or vector.is_complex():
        raise TypeError(f"{name} must be numbers, got dtype {vector.dtype}")
    return vector


def _ids(name: str, given, size: int) -> Tensor:
    """Row numbers as int64, each in [0, size)."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"n_{name} must be a positive integer, got {size!r}")
    ids = _vector(name, given)
    if len(ids) and ids.is_floating_point():
        example = next((x for x in ids.tolist() if x % 1), ids[0].item())
        raise TypeError(f"{name} must be integers (row numbers from 0), got dtype {ids.dtype}, e.g. {example}")
    ids = ids.to(torch.int64, copy=True)
    if (wrong := (ids < 0) | (ids >= size)).any():
        k = int(wrong.nonzero()[0])
        raise ValueError(f"{name} must lie in [0, n_{name}) = [0, {size}), got {ids[k].item()} at position {k}")
    return ids


def _merge_duplicates(users: Tensor, items: Tensor, values: Tensor, n_items: int, how: str):
    if how not in ("error", "mean", "last"):
        raise ValueError(f"duplicates must be 'error', 'mean' or 'last', got {how!r}")
    cells, where, counts = (users * n_items + items).unique(return_inverse=True, return_counts=True)
    if len(cells) == len(users):
        return users, items, values
    if how == "error":
        pair, count = divmod(int(cells[counts > 1][0]), n_items), counts[counts > 1][0].item()
        wanted = "once each (or duplicates='mean' or 'last' to merge them)"
        raise ValueError(f"users and items must name pairs {wanted}, got (user, item) = {pair} {count} times")
    if how == "mean":
        merged = torch.zeros(len(cells), dtype=torch.float64).index_add_(0, where, values.double()) / counts
    else:
        merged = values[torch.zeros_like(cells).scatter_reduce_(0, where, torch.arange(len(where)), "amax")]
    return cells // n_items, cells % n_items, merged.float()
