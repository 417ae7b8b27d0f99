"""Where the factors start. Each function fills U (m, d) and V (n, d) of a model with N(0, sU^2), N(0, sV^2).

    std of the initial predictions around mean and biases = sqrt(d) sU sV      (u.v sums d independent products)

That number decides, not the name: it should be small beside the ratings' own spread, and not zero,
because U = V = 0 is a saddle that gradient descent never leaves. Biases start at zero.

Or a start from the ratings, near the optimum of a per-rating l2 (`spectral_`, and that of `fit_als` and the sampler):

    U = A^-1/2 P sqrt(N s),  V = C^-1/2 Q sqrt(N s),  s = max(S - l2, 0.01 S),  P S Q' ~ A^-1/2 E C^-1/2, top d triplets

E: (m, n), the ratings less mean and biases, in units of the model's scale, 0 where there is none
A, C: the counts of users, of items, plus their mean (without it the top triplets sit on rows that were rated once)
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from mfkit.checks import instance, integer, number
from mfkit.data import Ratings

SPECTRAL_POWERS = 4  # of E'E, in the subspace iteration of a spectral start
SPECTRAL_FLOOR = 0.01  # of S, that a column keeps whatever the l2


def factor_std(n_factors: int, prediction_std: float = 0.1) -> float:
    """s = sqrt(t) / d^(1/4): factors from N(0, s^2) make predictions of std t = prediction_std around mean and biases.

    The law above solved for sU = sV. The default is a tenth of the spread of stars, or of ratings over their std.
    Raises ValueError for a prediction_std that is not positive and finite, or no factors.
    """
    prediction_std = number("prediction_std", prediction_std, above=0)
    return math.sqrt(prediction_std) / integer("n_factors", n_factors, least=1) ** 0.25


def normal_(model: nn.Module, std: float = 1.0, seed: int = 0) -> nn.Module:
    """N(0, std^2); std=1 is nn.Embedding's default. Prediction std: sqrt(d) std^2, so 10 at d=100, std=1."""
    std = number("std", std, least=0)
    return _fill(model, std, std, seed)


def xavier_(model: nn.Module, seed: int = 0) -> nn.Module:
    """torch's xavier_normal_ on a table: std = sqrt(2 / (fan_in + fan_out)) with fan_in = d, fan_out = rows.

    Prediction std: 2 sqrt(d) / sqrt((m + d)(n + d)), which shrinks as users and items are added:
    a table is a lookup, and its rows are not a layer's outputs (Glorot & Bengio 2010, eq. 12, meant a dense layer).
    """
    U, V = _factor_tables(model)
    user_std = math.sqrt(2 / (U.num_embeddings + U.embedding_dim))
    item_std = math.sqrt(2 / (V.num_embeddings + V.embedding_dim))
    return _fill(model, user_std, item_std, seed)


def he_(model: nn.Module, seed: int = 0) -> nn.Module:
    """torch's kaiming_normal_ on a table: std = sqrt(2 / d), as torch takes the columns for fan_in.

    Prediction std: 2 / sqrt(d), whatever the number of rows (He et al. 2015, eq. 10, meant a ReLU layer).
    """
    U, _ = _factor_tables(model)
    return normal_(model, math.sqrt(2 / U.embedding_dim), seed)


def scaled_(model: nn.Module, prediction_std: float = 0.1, seed: int = 0) -> nn.Module:
    """A chosen prediction std t: sU = sV = sqrt(t) / d^(1/4).

    prediction_std: in units of the model's scale; 0.1, a tenth of stars' spread, is not much to unlearn and far from
        the saddle.
    """
    U, _ = _factor_tables(model)
    return normal_(model, factor_std(U.embedding_dim, prediction_std), seed)


@torch.no_grad()
def spectral_(model: nn.Module, ratings: Ratings, l2: float = 0.0, *, powers: int = SPECTRAL_POWERS) -> nn.Module:
    """The spectral start above, in float64 and on the model's device; sets the biases too. Prediction std: the data's.

    l2: of the per-rating penalty that training will use. It reduces the singular values; yet every column keeps a
        hundredth of its own, as a column of zeros in both tables would stay at zero.
    powers: accuracy, as `spectral_start` says; the default is that of `fit_als` and `sample_posterior`, and so are the
        numbers, but for rounding. The same each time.
    Raises TypeError for a model without user_factors and item_factors, IndexError for one with too few rows,
    ValueError as `spectral_start`.
    """
    U, V = _factor_tables(model)
    instance("ratings", ratings, Ratings)
    l2, powers = number("l2", l2, least=0), integer("powers", powers, least=1)
    bias_tables = [_table(model, name) for name in ("user_bias", "item_bias")]
    ratings = ratings.to(U.weight.device)
    shape, ids = (U.num_embeddings, V.num_embeddings), (ratings.users, ratings.items)
    for name, rows, column in zip(("users", "items"), shape, ids, strict=True):
        if (largest := int(column.max())) >= rows:
            raise IndexError(f"model must have at least {largest + 1} rows for the ratings' {name}, got {rows}")
    values = (ratings.values.double() - model.get_buffer("mean")) / model.get_buffer("scale")
    users, items = (_SortedSide(ids[w], ids[1 - w], values, shape[w]) for w in (0, 1))
    generator = torch.Generator().manual_seed(0)
    has_biases = None not in bias_tables
    start = spectral_start(users, items, U.embedding_dim, biases=has_biases, l2=l2, generator=generator, powers=powers)
    for table, factors, bias_table, bias in zip((U, V), start.factors, bias_tables, start.biases, strict=True):
        table.weight.copy_(factors)
        if bias_table is not None:
            bias_table.weight.copy_(bias[:, None])
    return model


class Side(Protocol):
    """The ratings as the rows of one side, users or items. e: one number a rating, laid out as the holder likes."""

    counts: Tensor  # (rows,), ratings of each row
    values: Tensor  # e: the ratings less the model's mean

    def of_row(self, numbers: Tensor) -> Tensor:
        """The number of each rating's row, (rows,) -> e or what broadcasts to it."""
        ...

    def of_other(self, numbers: Tensor) -> Tensor:
        """The number of each rating's row on the other side, (others,) -> e; 0 where a layout is padded."""
        ...

    def product(self, e: Tensor, X: Tensor) -> Tensor:
        """The (rows, others) matrix with entries e, times X: (others, c) -> (rows, c)."""
        ...


class SpectralStart(NamedTuple):
    """U (m, d), V (n, d), and the biases b (m,), c (n,), zeros for a model without."""

    factors: tuple[Tensor, Tensor]
    biases: tuple[Tensor, Tensor]


def spectral_start(
    users: Side,
    items: Side,
    n_factors: int,
    *,
    biases: bool,
    l2: float,
    generator: torch.Generator,
    powers: int = SPECTRAL_POWERS,
) -> SpectralStart:
    """The tables of the equation above, from the same ratings seen from both sides; dtype and device are theirs.

    Biases first: sums of what is left over A, and over C, so shrunken means. Then `powers` steps of subspace iteration
    from a Gaussian block (Halko, Martinsson & Tropp 2011, algorithm 4.4, without oversampling), which damp what lies
    beyond the d-th triplet by (S_j / S_d)^(2 powers - 1). The default four cost 8 products of E with d columns. They
    held 93 to 95 % of the d largest S^2 on four sets of ratings (d = 7 to 20), and the start's test RMSE was within
    0.013 of the exact one's, most of which one sweep of ALS evens out; 64 steps held 99.7 % and more.
    generator: a CPU one, so that a seed gives the same start on every device.
    Raises ValueError unless n_factors is smaller than both sides and powers at least 1.
    """
    m, n = len(users.counts), len(items.counts)
    if n_factors >= min(m, n):
        raise ValueError(f"n_factors must be below n_users={m} and n_items={n} for a spectral start, got {n_factors}")
    integer("powers", powers, least=1)
    A, C = (side.counts.to(side.values) for side in (users, items))
    N = A.sum()
    A, C = A + A.mean(), C + C.mean()
    b, c = torch.zeros_like(A), torch.zeros_like(C)
    if biases:
        b = users.product(users.values, torch.ones_like(C)[:, None])[:, 0] / A
        c = items.product(items.values - items.of_other(b), torch.ones_like(A)[:, None])[:, 0] / C
    E, E_T = _scaled_rest(users, b, c, A, C), _scaled_rest(items, c, b, C, A)
    P = torch.linalg.qr(users.product(E, torch.randn(n, n_factors, generator=generator).to(C)))[0]
    for _ in range(powers - 1):
        P = torch.linalg.qr(users.product(E, items.product(E_T, P)))[0]
    Q, S, turn = torch.linalg.svd(items.product(E_T, P), full_matrices=False)
    size = (N * torch.maximum(S - l2, SPECTRAL_FLOOR * S)).sqrt()
    U, V = P @ turn.mT * size / A[:, None].sqrt(), Q * size / C[:, None].sqrt()
    return SpectralStart((U, V), (b, c))


def _scaled_rest(side: Side, own_bias: Tensor, other_bias: Tensor, own_count: Tensor, other_count: Tensor) -> Tensor:
    """e: the ratings less mean and biases, over the roots of both counts."""
    rest = side.values - side.of_other(other_bias) - side.of_row(own_bias)
    return rest * side.of_other(other_count.rsqrt()) / side.of_row(own_count.sqrt())


class _SortedSide:
    """A `Side` of plain columns, sorted by row: (N,) each."""

    def __init__(self, rows: Tensor, others: Tensor, values: Tensor, n_rows: int):
        order = rows.argsort(stable=True)
        self.rows, self.others, self.values = rows[order], others[order], values[order]
        self.counts = torch.bincount(rows, minlength=n_rows)
        self.first = self.counts.cumsum(0) - self.counts

    def of_row(self, numbers: Tensor) -> Tensor:
        return numbers[self.rows]

    def of_other(self, numbers: Tensor) -> Tensor:
        return numbers[self.others]

    def product(self, e: Tensor, X: Tensor) -> Tensor:
        return embedding_bag(self.others, X, self.first, per_sample_weights=e, mode="sum")


def _table(model: nn.Module, name: str) -> nn.Embedding | None:
    table = getattr(model, name, None)
    return table if isinstance(table, nn.Embedding) else None


def _factor_tables(model: nn.Module) -> tuple[nn.Embedding, nn.Embedding]:
    U, V = _table(model, "user_factors"), _table(model, "item_factors")
    if U is None or V is None:
        raise TypeError(f"model must have user_factors and item_factors, nn.Embedding, got {type(model).__name__}")
    return U, V


@torch.no_grad()
def _fill(model: nn.Module, user_std: float, item_std: float, seed: int) -> nn.Module:
    """Drawn on the CPU, so that a seed gives the same factors on every device."""
    generator = torch.Generator().manual_seed(integer("seed", seed, least=0))
    for table, std in zip(_factor_tables(model), (user_std, item_std), strict=True):
        table.weight.copy_(torch.randn(table.weight.shape, generator=generator) * std)
    for name in ("user_bias", "item_bias"):
        bias_table = _table(model, name)
        if bias_table is not None:
            bias_table.weight.zero_()
    return model
