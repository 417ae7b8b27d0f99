"""A model asked by the ids of the reader's own table: what to recommend, what is similar, and somebody new.

    model = MatrixFactorization.of(ratings)         train it, then
    model.recommend("u_7", k=10, exclude=ratings)      model.similar("i_3")      model.fold_in(["i_3"], [5]).recommend()

A model without ids is asked by row numbers. X: (n, d + 1) rows (v, 1)    z = (u, b): (d + 1,)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mfkit.checks import LARGEST, integer, number, shown, vector
from mfkit.data import Ratings

Clip = tuple[float, float]


class Catalogue(nn.Module):
    """The part of MatrixFactorization that knows whose row is whose; it reads the tables and changes nothing.

    user_ids, item_ids: the ids of rows 0, 1, ..., (n_users,), (n_items,); None where rows are all there is.
    l2: of the per-rating penalty in the last fit; None where there was none.
    """

    n_users: int
    n_items: int
    n_factors: int
    mean: Tensor
    scale: Tensor
    item_factors: nn.Embedding | None
    item_bias: nn.Embedding | None
    user_ids: np.ndarray | None = None
    item_ids: np.ndarray | None = None
    l2: float | None = None

    def top_k(
        self, users: object, k: int, *, exclude: Ratings | None = None, clip: Clip | None = None, chunk: int = 1024
    ) -> tuple[Tensor, Tensor]:
        """MatrixFactorization's."""
        raise NotImplementedError

    def user_rows(self, ids: Sequence | np.ndarray | pd.Series) -> np.ndarray:
        """The rows of these users, (K,) ids as the table had them; what `predict` and `top_k` take. KeyError."""
        return _rows("user", ids, self.user_ids, self.n_users)

    def item_rows(self, ids: Sequence | np.ndarray | pd.Series) -> np.ndarray:
        """The rows of these items, (K,), as `user_rows`."""
        return _rows("item", ids, self.item_ids, self.n_items)

    def recommend(
        self, user: object, k: int = 10, *, exclude: Ratings | None, clip: Clip | None = None
    ) -> pd.DataFrame:
        """The k items with the highest predictions for one user: a table of item and prediction, best first.

        user: an id of the table. exclude: the Ratings whose items are left out for this user, usually all that are
        known; a model does not keep them. None leaves nothing out. clip: as in `rmse`. Fewer rows where fewer items
        are left. Raises KeyError for an unknown user; ValueError.
        """
        row = self.user_rows([user])
        k = min(integer("k", k, least=1), self.n_items)
        predictions, items = self.top_k(row, k, exclude=exclude, clip=clip)
        return self.named(items[0], predictions[0], "prediction")

    def similar(self, item: object, k: int = 10) -> pd.DataFrame:
        """The k items whose factors point most nearly the way of this item's: a table of item and similarity.

        similarity = v_i . v_j / (|v_i| |v_j|), the cosine, in [-1, 1]: alike in what sets people apart, whatever the
        items' biases, so not alike in popularity. Items without factors (nobody rated them) are left out. Raises
        KeyError for an unknown item, ValueError for one without factors.
        """
        row, V = int(self.item_rows([item])[0]), self._item_factors()
        k = min(integer("k", k, least=1), self.n_items)
        V = nn.functional.normalize(V.float(), dim=1)
        if not V[row].any():
            raise ValueError(f"item must have factors to be compared, got {item!r}, whose are all zero")
        cosine = (V @ V[row]).clamp(-1, 1)
        cosine[~V.any(1)] = -torch.inf
        cosine[row] = -torch.inf
        best = cosine.topk(k)
        return self.named(best.indices, best.values, "similarity")

    def fold_in(
        self, items: Sequence | np.ndarray | pd.Series, ratings: Sequence | np.ndarray | Tensor, l2: float | None = None
    ) -> "NewUser":
        """Somebody who has no row, from what they rated: one ridge regression on the items, which stay as they are.

            (X'X + l2 n I) (u, b) = X' (r - c),        r = (rating - mean) / scale

        the row that alternating least squares would give them (als.py). items: (n,) ids of the table, each once.
        ratings: (n,) numbers. l2: None is that of the model's last fit. The model is not changed. Raises KeyError for
        an unknown item, ValueError, or TypeError for ratings that are no numbers.
        """
        rows = torch.from_numpy(self.item_rows(items))
        values = vector("ratings", ratings).double()
        if not len(values) == len(rows) > 0 or not (values.abs() <= LARGEST).all():
            raise ValueError(f"ratings must be one finite number an item, {len(rows)} in all, got {shown(ratings)}")
        if len(rows.unique()) < len(rows):
            raise ValueError(f"items must name each item once, got {shown(items)}")
        l2 = self.l2 if l2 is None else l2
        if l2 is None:
            raise ValueError("l2 must be given for a model whose last fit had no per-rating penalty, got None")
        l2 = number("l2", l2, least=0)
        X, c, target = torch.zeros(len(rows), 0), 0.0, (values - self.mean.item()) / self.scale.item()
        if self.item_factors is not None:
            X = self.item_factors.weight.detach()[rows.to(self.mean.device)].cpu()
        if self.item_bias is not None:
            X = torch.cat([X, torch.ones(len(rows), 1)], 1)
            c = self.item_bias.weight.detach()[rows.to(self.mean.device), 0].cpu().double()
        return NewUser(self, _ridge(X.double(), target - c, l2 * len(rows)), rows)

    def named(self, rows: Tensor, numbers: Tensor, name: str) -> pd.DataFrame:
        """A table of item and `name` for these rows, (K,), without those whose number is -inf."""
        keep = (numbers > -torch.inf).cpu()
        kept = rows.cpu()[keep].numpy()
        return pd.DataFrame({"item": kept if self.item_ids is None else self.item_ids[kept], name: numbers.cpu()[keep]})

    def _item_factors(self) -> Tensor:
        if self.item_factors is None:
            raise ValueError("model must have factors to compare items, got n_factors=0")
        return self.item_factors.weight.detach()


@dataclass(frozen=True, eq=False)
class NewUser:
    """Somebody without a row in the model: z = (u, b), (d + 1,) float64 in units of its scale, and the rows rated."""

    model: Catalogue
    z: Tensor
    rated: Tensor

    def predict(self, items: Sequence | np.ndarray | pd.Series, *, clip: Clip | None = None) -> Tensor:
        """Predictions for these items, (K,) ids of the table, in rating units. Raises KeyError, ValueError."""
        rows = torch.from_numpy(self.model.item_rows(items)).to(self.model.mean.device)
        return clipped(self._all(), clip)[rows]

    def recommend(self, k: int = 10, *, clip: Clip | None = None) -> pd.DataFrame:
        """The k items with the highest predictions, without those rated: a table of item and prediction."""
        k = min(integer("k", k, least=1), self.model.n_items)
        predictions = self._all()
        predictions[self.rated.to(predictions.device)] = -torch.inf
        best = predictions.topk(k)
        return self.model.named(best.indices, clipped(best.values, clip), "prediction")

    def _all(self) -> Tensor:
        """The predictions for all items, (n_items,)."""
        model, d = self.model, self.model.n_factors
        z = self.z.to(model.mean)
        scores = (model.mean / model.scale).expand(model.n_items)
        if model.item_factors is not None:
            scores = scores + model.item_factors.weight.detach() @ z[:d]
        if model.item_bias is not None:
            scores = scores + model.item_bias.weight.detach()[:, 0] + z[d]
        return scores * model.scale


def check_clip(clip: Clip | None) -> None:
    """Raises ValueError for what is neither None nor (lowest, highest) rating."""
    if clip is None:
        return
    pair = isinstance(clip, tuple | list) and len(clip) == 2 and all(_is_end(end) for end in clip)
    if not pair or not clip[0] < clip[1]:
        raise ValueError(f"clip must be (lowest, highest) rating, got {shown(clip)}")


def _is_end(end: object) -> bool:
    """Whether it is a number that float32 holds, or infinite: no limit on that side."""
    if isinstance(end, bool) or not isinstance(end, int | float | np.integer | np.floating):
        return False
    return end in (math.inf, -math.inf) or bool(-LARGEST <= end <= LARGEST)


def clipped(predictions: Tensor, clip: Clip | None) -> Tensor:
    """The predictions within the rating range `clip`; as they are where it is None, or where one is -inf (left out)."""
    check_clip(clip)
    if clip is None:
        return predictions
    return torch.where(predictions == -torch.inf, predictions, predictions.clamp(*clip))


def _rows(name: str, wanted: object, ids: np.ndarray | None, size: int) -> np.ndarray:
    """The rows of these ids, (K,) int64; without ids, themselves. KeyError for one that is not there."""
    if isinstance(wanted, str | bytes) or not isinstance(wanted, Sequence | np.ndarray | pd.Series | pd.Index | Tensor):
        raise TypeError(f"{name}s must be a list of ids, got {shown(wanted)}")
    if isinstance(wanted, Tensor) and wanted.layout != torch.strided:
        raise TypeError(f"{name}s must be a list of ids or a dense tensor, got one with layout {wanted.layout}")
    asked = wanted.tolist() if isinstance(wanted, np.ndarray | Tensor | pd.Series | pd.Index) else list(wanted)
    if not asked:
        return np.zeros(0, dtype=np.int64)
    known = pd.RangeIndex(size) if ids is None else pd.Index(ids)
    try:
        rows = known.get_indexer(pd.Index(asked, dtype=object))
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an id, a string or an integer, got one of {shown(asked)}") from None
    if (rows < 0).any():
        strange = asked[int((rows < 0).argmax())]
        what = f"a row number below {size}, as this model has no ids" if ids is None else f"one of model.{name}_ids"
        raise KeyError(f"{name} must be {what}, such as {shown(known[0])}, got {shown(strange)}")
    return rows.astype(np.int64)


def _ridge(X: Tensor, target: Tensor, strength: float) -> Tensor:
    """z that minimises |X z - target|^2 + strength |z|^2, the smallest one where there are several: (k,)."""
    below = math.sqrt(strength) * torch.eye(X.shape[1], dtype=X.dtype)
    stacked = torch.cat([target, target.new_zeros(X.shape[1])])[:, None]
    return torch.linalg.lstsq(torch.cat([X, below]), stacked, driver="gelsd").solution[:, 0]
