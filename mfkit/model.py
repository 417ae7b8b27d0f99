"""The model: a mean, two biases and a row-wise dot product, each part optional; and the unit they are counted in.

prediction = mean + scale (b_i + c_j + u_i . v_j)          (Koren, Bell & Volinsky 2009, eq. 4, where scale = 1)

users i, items j: (B,) int64      prediction: (B,)      u_i, v_j: (B, n_factors)
"""

import numpy as np
import torch
from torch import Tensor, nn

from mfkit.data import Ratings
from mfkit.initializers import factor_std


class MatrixFactorization(nn.Module):
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
        for name, size, least in (("n_users", n_users, 1), ("n_items", n_items, 1), ("n_factors", n_factors, 0)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {size!r}")
        if n_factors == 0 and not biases:
            raise ValueError("n_factors=0 with biases=False leaves nothing to train; want n_factors >= 1 or biases")
        if mean is not None and not np.isfinite(float(mean)):
            raise ValueError(f"mean must be finite, got {mean}")
        if scale is not None and not (float(scale) > 0 and np.isfinite(float(scale))):
            raise ValueError(f"scale must be finite and above 0, got {scale}")
        self.n_users, self.n_items, self.n_factors = int(n_users), int(n_items), int(n_factors)
        self.register_buffer("mean", torch.tensor(0.0 if mean is None else float(mean)))
        self.register_buffer("scale", torch.tensor(1.0 if scale is None else float(scale)))
        self.register_buffer("given", torch.tensor([mean is not None, scale is not None]))
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
        mean_given, scale_given = self.given.tolist()
        if not mean_given:
            self.mean.fill_(ratings.mean)
        if not scale_given:
            self.scale.fill_(ratings.std or 1.0)
        self.given.fill_(True)

    @torch.no_grad()
    def predict(self, users: Tensor, items: Tensor, *, chunk: int = 65_536) -> Tensor:
        """Predictions for any number of pairs, (K,), `chunk` pairs at a time; IndexError for an id without a row."""
        users, items = self._rows("users", users, self.n_users), self._rows("items", items, self.n_items)
        if len(users) != len(items):
            raise ValueError(f"users and items must have one length, got {len(users)} and {len(items)}")
        return torch.cat([self(u, i) for u, i in zip(_split(users, chunk), _split(items, chunk), strict=True)])

    @torch.no_grad()
    def top_k(
        self, users: Tensor, k: int, *, exclude: Ratings | None = None, chunk: int = 1024
    ) -> tuple[Tensor, Tensor]:
        """The k items with the highest predictions for each user: (predictions, items), both (K, k).

        Peak memory is chunk * n_items scores, whatever the number of users. exclude: Ratings whose pairs
        are left out (what a user has rated already); where fewer than k items remain, the prediction is -inf.
        """
        users, found = self._rows("users", users, self.n_users), []
        if not 1 <= k <= self.n_items:
            raise ValueError(f"k must lie in [1, n_items] = [1, {self.n_items}], got {k}")
        if exclude is not None:
            exclude = exclude.to(users.device)
            self._rows("exclude.items", exclude.items, self.n_items)
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
        return predictions, items

    def _rows(self, name: str, given: object, size: int) -> Tensor:
        """Row numbers (K,) from any vector of integers, as int64 on the model's device, each in [0, size)."""
        ids = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
        if ids.ndim != 1:
            raise ValueError(f"{name} must have shape (K,), got {tuple(ids.shape)}")
        if len(ids) and (ids.is_floating_point() or ids.dtype == torch.bool):
            raise TypeError(f"{name} must be integers, got dtype {ids.dtype}")
        ids = ids.to(self.mean.device, torch.int64)
        if (wrong := (ids < 0) | (ids >= size)).any():
            raise IndexError(f"{name} must lie in [0, {size}), the model's rows, got {ids[wrong][0].item()}")
        return ids


def _split(ids: Tensor, chunk: int) -> tuple[Tensor, ...]:
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    return ids.split(chunk)
