"""The model: a mean, two biases and a row-wise dot product, each part optional; and the unit they are counted in.

prediction = mean + scale (b_i + c_j + u_i . v_j)          (Koren, Bell & Volinsky 2009, eq. 4, where scale = 1)

users i, items j: (B,) int64      prediction: (B,)      u_i, v_j: (B, n_factors)
"""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from mfkit import saved
from mfkit.catalogue import Catalogue, Clip, check_clip, clipped
from mfkit.checks import boolean, instance, integer, machine_bytes, number, vector
from mfkit.data import Ratings
from mfkit.initializers import factor_std
from mfkit.looking import looking


class MatrixFactorization(Catalogue):
    """Matrix factorization whose forward pass reads only the rows of its batch.

    n_users, n_items: table rows. n_factors: d, columns of U and V; 0 is the bias-only model.
    mean: the training ratings' mean, a constant that is neither trained nor penalised; 0 leaves it out.
    scale: the unit of biases and factors, in rating units, as constant as the mean. 1 is the textbook's: a learning
        rate, an l2 or a start then fit one scale of ratings and no other. The ratings' std makes them fit all.
    None, for either: 0 and 1, until a fit that is given no settings takes them from its ratings (`use_units`).
    biases: one number a user (b) and an item (c), starting at zero.
    sparse: gradients as sparse tensors, for optimizers that can use them.

    Factors start from N(0, s^2) with s = sqrt(0.1) / d^(1/4), so that predictions start with a std of 0.1 scale around
    the mean (`initializers.scaled_`), not from nn.Embedding's N(0, 1), whose predictions have a std of sqrt(d).
    Raises ValueError for sizes that make no model.
    """

    mean: Tensor
    scale: Tensor
    given: Tensor  # (2,) bool: whether mean and scale were, or have been taken from ratings
    user_seen: Tensor  # (n_users,) bool: which rows have met a rating in a fit
    item_seen: Tensor  # (n_items,)
    user_factors: nn.Embedding | None
    item_factors: nn.Embedding | None
    user_bias: nn.Embedding | None
    item_bias: nn.Embedding | None

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int,
        *,
        mean: float | None = None,
        scale: float | None = None,
        biases: bool = True,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.n_users = integer("n_users", n_users, least=1)
        self.n_items = integer("n_items", n_items, least=1)
        self.n_factors = integer("n_factors", n_factors, least=0)
        biases, sparse = boolean("biases", biases), boolean("sparse", sparse)
        if n_factors == 0 and not biases:
            raise ValueError("n_factors=0 with biases=False leaves nothing to train; want n_factors >= 1 or biases")
        _check_room(self.n_users, self.n_items, self.n_factors, biases)
        center = 0.0 if mean is None else number("mean", mean)
        unit = 1.0 if scale is None else number("scale", scale, above=0)
        self.register_buffer("mean", torch.tensor(center))
        self.register_buffer("scale", torch.tensor(unit))
        self.register_buffer("given", torch.tensor([mean is not None, scale is not None]))
        self.register_buffer("user_seen", torch.zeros(self.n_users, dtype=torch.bool))
        self.register_buffer("item_seen", torch.zeros(self.n_items, dtype=torch.bool))
        self.user_factors = self.item_factors = self.user_bias = self.item_bias = None
        if n_factors:
            self.user_factors = nn.Embedding(n_users, n_factors, sparse=sparse)
            self.item_factors = nn.Embedding(n_items, n_factors, sparse=sparse)
            for table in (self.user_factors, self.item_factors):
                nn.init.normal_(table.weight, std=factor_std(n_factors))
        if biases:
            self.user_bias, self.item_bias = (nn.Embedding(rows, 1, sparse=sparse) for rows in (n_users, n_items))
            nn.init.zeros_(self.user_bias.weight)
            nn.init.zeros_(self.item_bias.weight)

    @classmethod
    def of(cls, ratings: Ratings, n_factors: int = 20, **options: Any) -> Self:
        """A model for these ratings: their sizes, mean, std as the scale, and original ids. options: as above."""
        instance("ratings", ratings, Ratings)
        options = {"mean": ratings.mean, "scale": ratings.std or 1.0} | options
        model = cls(ratings.n_users, ratings.n_items, n_factors, **options)
        model.user_ids, model.item_ids = ratings.user_ids, ratings.item_ids
        return model

    def rows(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """The rows that these ratings read, by table: biases (B, 1), then factors (B, d); a per-rating penalty's."""
        reads = {
            "user_bias": (self.user_bias, users),
            "item_bias": (self.item_bias, items),
            "user_factors": (self.user_factors, users),
            "item_factors": (self.item_factors, items),
        }
        return {name: table(ids_B) for name, (table, ids_B) in reads.items() if table is not None}

    def forward(self, users: Tensor, items: Tensor, rows: dict[str, Tensor] | None = None) -> Tensor:
        """(B,), (B,) -> (B,). The product is row by row: U[users] @ V[items].T would compute (B, B) numbers.

        rows: what `rows(users, items)` gave, where the caller has read them already.
        """
        if rows is None:
            rows = self.rows(users, items)
        prediction = (self.mean / self.scale).expand(users.shape)
        if "user_bias" in rows:
            prediction = prediction + rows["user_bias"].squeeze(-1) + rows["item_bias"].squeeze(-1)
        if "user_factors" in rows:
            prediction = prediction + (rows["user_factors"] * rows["item_factors"]).sum(-1)
        return prediction * self.scale

    @torch.no_grad()
    def use_units(self, ratings: Ratings) -> None:
        """Take from these ratings what was not given: their mean, and their std as scale (1 where all are equal)."""
        instance("ratings", ratings, Ratings)
        mean_given, scale_given = self.given.tolist()
        if not mean_given:
            self.mean.fill_(ratings.mean)
        if not scale_given:
            self.scale.fill_(ratings.std or 1.0)
        self.given.fill_(True)

    @torch.no_grad()
    def meet(self, ratings: Ratings, l2: float | None = None, *, clear: bool = True) -> None:
        """What a fit tells the model as it begins: whose ratings it has, and its per-rating l2 (None: it has none).

        clear: factors of rows that neither these ratings nor those of an earlier fit have become zero, so that mean
        and the other side's bias predict them, as nothing will move their random start. Tables that are not trained
        stay. For rows filled by hand, which no fit has met: `model.user_seen[rows] = True` first.
        """
        self.l2 = l2
        sides = (
            (self.user_seen, ratings.users, self.user_factors),
            (self.item_seen, ratings.items, self.item_factors),
        )
        for seen, ids, table in sides:
            seen[ids.to(seen.device)] = True
            if clear and table is not None and table.weight.requires_grad:
                table.weight[~seen] = 0

    @torch.no_grad()
    def predict(self, users: Tensor, items: Tensor, *, clip: Clip | None = None, chunk: int = 65_536) -> Tensor:
        """Predictions for any number of pairs, (K,), `chunk` pairs at a time.

        users, items: row numbers, (K,) integers of any kind; `user_rows`, `item_rows` give them for the ids of a table.
        clip: as in `rmse`. Raises IndexError for what is no row, TypeError for what is no integer.
        """
        users, items = self._rows("users", users, self.n_users), self._rows("items", items, self.n_items)
        if len(users) != len(items):
            raise ValueError(f"users and items must have one length, got {len(users)} and {len(items)}")
        pairs = zip(_split(users, chunk), _split(items, chunk), strict=True)
        with looking(self):
            return clipped(torch.cat([self(u, i) for u, i in pairs]), clip)

    @torch.no_grad()
    def top_k(
        self,
        users: Tensor,
        k: int,
        *,
        exclude: Ratings | None = None,
        clip: Clip | None = None,
        chunk: int = 1024,
    ) -> tuple[Tensor, Tensor]:
        """The k items with the highest predictions for each user: (predictions, items), both (K, k).

        users: row numbers, (K,), as in `predict`; `recommend` is for ids. clip: of the predictions, as in `rmse`; the
        order is that of what the model says. exclude: Ratings whose pairs are left out (what a user has rated
        already); where fewer than k items remain, the prediction is -inf. Peak memory is chunk * n_items scores,
        whatever the number of users.
        """
        users, found = self._rows("users", users, self.n_users), []
        k = integer("k", k, least=1)
        if k > self.n_items:
            raise ValueError(f"k must lie in [1, n_items] = [1, {self.n_items}], got {k}")
        check_clip(clip)
        if exclude is not None:
            exclude = self._known("exclude", exclude).to(users.device)
        for part in _split(users, chunk):
            rows, of_row = torch.unique(part, return_inverse=True)  # sorted; a user asked for twice is scored once
            scores_KI = (self.mean / self.scale).expand(len(rows), self.n_items).clone()
            if self.user_bias is not None and self.item_bias is not None:
                scores_KI += self.user_bias.weight[rows] + self.item_bias.weight.T
            if self.user_factors is not None and self.item_factors is not None:
                scores_KI += self.user_factors.weight[rows] @ self.item_factors.weight.T
            if exclude is not None:
                seen = torch.isin(exclude.users, rows)
                scores_KI[torch.searchsorted(rows, exclude.users[seen]), exclude.items[seen]] = -torch.inf
            best, items = scores_KI.topk(k)
            found.append((best[of_row] * self.scale, items[of_row]))
        predictions, items = (torch.cat(column) for column in zip(*found, strict=True))
        return clipped(predictions, clip), items

    def save(self, path: str | Path) -> None:
        """Weights, sizes, mean, scale and ids in one file, whole or not at all; `mfkit.load` reads it.

        Not the ratings. Raises ValueError for a path in no folder, TypeError for a subclass, which may predict
        otherwise.
        """
        if type(self) is not MatrixFactorization:
            raise TypeError(f"model must be a MatrixFactorization itself to be saved, got a {type(self).__name__}")
        parts = {
            "sizes": [self.n_users, self.n_items, self.n_factors],
            "biases": self.user_bias is not None,
            "sparse": any(table.sparse for table in self.modules() if isinstance(table, nn.Embedding)),
            "l2": self.l2,
            "tensors": self.state_dict(),
            "user_ids": self.user_ids,
            "item_ids": self.item_ids,
        }
        saved.write(path, parts)

    @classmethod
    def load(cls, path: str | Path) -> "MatrixFactorization":
        """The model that `save` wrote, on the CPU. Nothing in the file is run as code, so it may be a stranger's.

        Raises ValueError for a file that is damaged, not there or of another kind.
        """
        parts = saved.read(path)
        with torch.device("meta"):  # no memory, and no random numbers, for a start that is not used
            model = MatrixFactorization(*parts["sizes"], biases=parts["biases"], sparse=parts["sparse"])
        model.load_state_dict(parts["tensors"], assign=True)
        model.user_ids, model.item_ids, model.l2 = parts["user_ids"], parts["item_ids"], parts["l2"]
        return model

    def _known(self, name: str, ratings: Ratings) -> Ratings:
        """Ratings that are of this model's rows: TypeError, ValueError or IndexError for others."""
        instance(name, ratings, Ratings).check_same_ids(self, "model", name)
        if (largest := int(ratings.items.max())) >= self.n_items:
            raise IndexError(f"{name}.items must lie in [0, {self.n_items}), the model's rows, got {largest}")
        return ratings

    def _rows(self, name: str, given: object, size: int) -> Tensor:
        """Row numbers (K,) from any vector of integers, as int64 on the model's device, each in [0, size)."""
        one = name.removesuffix("s")
        remedy = f"model.{one}_rows(ids) gives the rows of the ids in model.{one}_ids"
        try:
            ids = given if isinstance(given, Tensor) else vector(name, given)
        except TypeError as error:
            raise TypeError(f"{error}; want row numbers: {remedy}") from None
        if ids.ndim != 1:
            raise ValueError(f"{name} must have shape (K,), got {tuple(ids.shape)}")
        if len(ids) and (ids.is_floating_point() or ids.dtype == torch.bool or ids.is_complex()):
            raise TypeError(f"{name} must be integers, got dtype {ids.dtype}")
        ids = ids.to(self.mean.device, torch.int64)
        if (wrong := (ids < 0) | (ids >= size)).any():
            hint = "" if self.user_ids is None and self.item_ids is None else f"; {remedy}"
            raise IndexError(f"{name} must lie in [0, {size}), the model's rows, got {ids[wrong][0].item()}{hint}")
        return ids


def _check_room(n_users: int, n_items: int, n_factors: int, biases: bool) -> None:
    """ValueError for tables beyond the machine's memory, which the allocator would refuse without a name."""
    if torch.empty(0).device.type != "cpu":  # on "meta" they need none
        return
    of_a_row = torch.get_default_dtype().itemsize * (n_factors + biases) + 1  # and whether it was seen
    needed, there = (n_users + n_items) * of_a_row, machine_bytes()
    if needed > there:
        sizes = f"n_users={n_users}, n_items={n_items}, n_factors={n_factors}"
        raise ValueError(f"{sizes} must fit into memory, got tables of {needed:,} bytes for {there:,.0f} there are")


def _split(ids: Tensor, chunk: int) -> tuple[Tensor, ...]:
    return ids.split(integer("chunk", chunk, least=1))
