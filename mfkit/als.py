"""Alternating least squares: exact solves for all users, then for all items.

    minimise  sum over ratings of [ loss(e) + l2 (|u|^2 + |v|^2 + b^2 + c^2) ],       e = b + c + u.v - r
    r = (rating - mean) / scale

With the items held, the row (u, b) of a user with n ratings is a ridge regression on x = (v, 1) of those n items:

    (X'X + l2 n I) (u, b) = X' (r - c)                 (Zhou et al. 2008; Koren, Bell & Volinsky 2009)

and all it needs stands in one small Gram matrix Y'Y of the rows y = (v, 1, c, r). So half a sweep is a
gather, a batched product and a batched Cholesky. Ratings are sorted by row and cut into segments of L, the last one of
a row padded with rows of zeros: long and short rows make equal work, as in ALX (Mehta et al. 2021).

    P: (m, k) rows (u, b)     Q: (n, k) rows (v, c)     k = n_factors + 1; n_factors without biases
    Y: (segments, L, K)       K: k + 2, or k + 1 without biases, and up to 3 columns of zeros

`Problem` holds tables and ratings and does half a sweep; the sampler (gibbs.py) adds noise to the same solves.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from mfkit import losses
from mfkit.checks import function, integer, number, one_of, shown
from mfkit.data import Ratings
from mfkit.evaluate import check_fit
from mfkit.initializers import factor_std, spectral_start
from mfkit.model import MatrixFactorization
from mfkit.progress import bar
from mfkit.recipe import choose_l2, doubt_scale

PILOT_SWEEPS = 8  # to find l2
GATHER_BYTES = 4 * 2**20  # of Y at a time: what stays in a core's cache between the gather and the product


@torch.no_grad()
def fit_als(
    model: MatrixFactorization,
    ratings: Ratings,
    *,
    l2: float | None = None,
    sweeps: int = 10,
    start: str = "spectral",
    loss: str = "mse",
    delta: float | None = None,
    dtype: torch.dtype = torch.float32,
    max_bytes: int | None = None,
    seed: int = 0,
    on_sweep: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Fit `model` in place; the objective, the sum above over N, after each sweep. It never rises, up to rounding.

    l2: of the per-rating penalty, as in `train`, in units of the model's scale; 0 gets a ridge of rounding's size. None
        computes it from the ratings (recipe.py), and the model takes their mean and std for what it was not given.
    sweeps: each solves all users, then all items; after ten, errors change in the fourth digit. Rows without ratings
        become zero.
    start: "spectral", near the optimum (`initializers.spectral_start`), random where n_factors is not below both
        sides; "random", item factors N(0, 0.1 / sqrt(d)); "model", the item tables as they are (under "huber" the
        users' too).
    loss: "huber" (e^2 within `delta`) by iteratively reweighted least squares, w = min(1, delta / |e|).
    delta: in units of the model's scale; None is the ratings' own spread, which outliers do not move (Ratings.spread).
    dtype: of the solves; float64 for a reference. max_bytes: working memory beside the sorted ratings (about 20
        bytes a rating) and the tables, default 256 MB. on_sweep(sweep, objective): called when the model holds it.
    On the model's device; the same numbers each time on the CPU. Errors, for what does not fit, as `train`.
    """
    _check_choices(start, loss, sweeps, dtype, on_sweep)
    generator = torch.Generator().manual_seed(integer("seed", seed, least=0))
    if delta is not None:
        delta = number("delta", delta, above=0)
    given = l2
    l2 = _settle_l2(model, ratings, given, {"loss": loss, "delta": delta, "max_bytes": max_bytes})
    if given is not None:
        doubt_scale(model, ratings, l2)
    mean, scale = model.mean.item(), model.scale.item()
    delta = delta or (ratings.spread or 1.0) / scale
    problem = Problem(model, ratings, mean=mean, scale=scale, dtype=dtype, max_bytes=max_bytes)
    if start == "model":
        problem.read(model)
    elif start == "spectral" and 0 < problem.d < min(problem.shape):
        problem.start_spectral(l2, generator)
    else:
        problem.start_random(generator)
    ridges = [l2 * side.counts[:, None].to(dtype) for side in problem.sides]
    clip = delta if loss == "huber" else None
    history = []
    with bar("fit_als", "sweep", sweeps) as shown:
        for sweep in range(1, sweeps + 1):
            problem.half_sweep(0, ridges[0], delta=clip)
            squares = problem.half_sweep(1, ridges[1], delta=clip)
            problem.write(model)
            squares = squares if clip is None else _huber_sum(model, ratings, clip)
            history.append((squares + problem.penalty(ridges)) / len(ratings))
            if on_sweep:
                on_sweep(sweep, history[-1])
            shown.update()
    return history


def _check_choices(start: str, loss: str, sweeps: int, dtype: torch.dtype, on_sweep: object) -> None:
    one_of("start", start, ("spectral", "random", "model"))
    one_of("loss", loss, ("mse", "huber"))
    integer("sweeps", sweeps, least=1)
    function("on_sweep", on_sweep)
    if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {shown(dtype)}")


def _settle_l2(model: MatrixFactorization, ratings: Ratings, l2: float | None, options: dict) -> float:
    """`l2`, checked; where it is None, the recipe's, with a pilot of single sweeps. The model notes what it meets."""
    check_model(model, ratings)
    working_bytes(options["max_bytes"], model.n_factors, columns(model))

    def one_sweep(pilot: nn.Module, part: Ratings, l2: float, sweep: int) -> None:
        assert isinstance(pilot, MatrixFactorization)
        fit_als(pilot, part, l2=l2, sweeps=1, start="model" if sweep else "spectral", **options)
        shown.update()

    if l2 is None:
        model.use_units(ratings)
        with bar("fit_als finds l2", "sweep", PILOT_SWEEPS) as shown:
            l2 = choose_l2(model, ratings, one_sweep, PILOT_SWEEPS)
    l2 = number("l2", l2, least=0)
    model.meet(ratings, l2 or None)
    return l2


def check_model(model: MatrixFactorization, ratings: Ratings) -> None:
    """Raises TypeError for another model or no Ratings, IndexError for one with too few rows."""
    if not isinstance(model, MatrixFactorization):
        raise TypeError(f"model must be a MatrixFactorization, got {type(model).__name__}")
    check_fit(model, ratings, "ratings")


def columns(model: MatrixFactorization) -> int:
    """K, of Y: whole vector registers, as 11 columns take twice as long as 12."""
    used = model.n_factors + 3 if model.user_bias is not None else model.n_factors + 1
    return 4 * math.ceil(used / 4)


def working_bytes(max_bytes: int | None, n_factors: int, K: int) -> int:
    """max_bytes, 256 MB where it is None; ValueError for bytes that hold no solve."""
    if max_bytes is None:
        return 2**28
    least = 64 * K * 8 + 4 * 8 * K**2
    if integer("max_bytes", max_bytes, least=1) < least:
        raise ValueError(f"max_bytes must be at least {least} for n_factors={n_factors}, got {max_bytes}")
    return int(max_bytes)


def _huber_sum(model: MatrixFactorization, ratings: Ratings, delta: float) -> float:
    prediction = model.predict(ratings.users, ratings.items).cpu()
    scale = model.scale.cpu()
    return losses.huber(prediction / scale, ratings.values.cpu() / scale, delta).double().sum().item()


class Side:
    """Ratings sorted by their row on one side, in segments of `length`; an `initializers.Side`.

    counts: (rows,)     row: (S,), the row of each segment     first: the first segment of each row, and S
    other: (S, length), the other side's row, one beyond the last where padded     values: (S, length), 0 where padded
    """

    def __init__(self, rows: Tensor, others: Tensor, values: Tensor, n_rows: int, n_others: int):
        self.counts = torch.bincount(rows, minlength=n_rows)
        self.length = 2 ** round(math.log2(min(max(len(rows) / n_rows / 4, 4), 64)))  # pads a row by L / 2
        pieces = (self.counts + self.length - 1) // self.length
        self.row = torch.arange(n_rows, device=rows.device).repeat_interleave(pieces)
        self.first: list[int] = [0, *pieces.cumsum(0).tolist()]
        rows, order = rows.int().sort(stable=True)
        shift = (pieces.cumsum(0) - pieces) * self.length - (self.counts.cumsum(0) - self.counts)
        slots = torch.arange(len(rows), device=rows.device).add_(shift.index_select(0, rows))
        shape = (len(self.row), self.length)
        padded = others.new_full((shape[0] * shape[1],), n_others, dtype=torch.int32)
        self.other = padded.scatter_(0, slots, others.int().index_select(0, order)).view(shape)
        padded = values.new_zeros(shape[0] * shape[1])
        self.values = padded.scatter_(0, slots, values.index_select(0, order)).view(shape)

    def of_row(self, numbers: Tensor) -> Tensor:
        """The number of each segment's row, (S, 1)."""
        return numbers[self.row, None]

    def of_other(self, numbers: Tensor) -> Tensor:
        """The number of each rating's row on the other side, (S, length), 0 where padded."""
        padded = torch.cat([numbers, numbers.new_zeros(1)])
        return padded.index_select(0, self.other.flatten()).view_as(self.other)

    def product(self, e: Tensor, X: Tensor) -> Tensor:
        """Sums over each row's ratings of e times the other side's row of X: (S, length), (others, c) -> (rows, c)."""
        X = torch.cat([X, X.new_zeros(1, X.shape[1])])
        segments = embedding_bag(self.other, X, per_sample_weights=e, mode="sum")
        row = self.row[:, None].expand_as(segments)
        return segments.new_zeros(len(self.counts), X.shape[1]).scatter_add_(0, row, segments)


class Problem:
    """The ratings from both sides, both tables, and the exact solve of one table's rows with the other held.

    shape: (m, n)     tables: [P, Q], zeros at first     sides: the ratings by user, and by item     d: n_factors
    """

    def __init__(
        self,
        model: MatrixFactorization,
        ratings: Ratings,
        *,
        mean: float,
        scale: float,
        dtype: torch.dtype,
        max_bytes: int | None,
    ) -> None:
        """Reads the sizes and the biases' presence from `model`, but no table of it; r is (rating - mean) / scale.

        max_bytes: working memory of a solve; 256 MB where None. Raises TypeError for another model, IndexError for
        one with too few rows, ValueError for max_bytes that hold no solve.
        """
        device = model.mean.device
        self.shape = (model.n_users, model.n_items)
        self.biases = model.user_bias is not None
        self.d = model.n_factors
        self.k = self.d + 1 if self.biases else self.d
        self.target = self.k + 1 if self.biases else self.k  # the column of rating - mean in Y
        self.K = columns(model)
        self.max_bytes = working_bytes(max_bytes, self.d, self.K)
        ratings = ratings.to(device)
        users, items = ratings.users, ratings.items
        values = (ratings.values.to(dtype) - mean) / scale
        m, n = self.shape
        self.sides = [Side(users, items, values, m, n), Side(items, users, values, n, m)]
        self.tables = [torch.zeros(rows, self.k, dtype=dtype, device=device) for rows in self.shape]

    def start_random(self, generator: torch.Generator) -> None:
        """Item factors from N(0, 0.1 / sqrt(d)); drawn on the CPU, so that a seed gives the same on every device."""
        Q = self.tables[1]
        drawn = torch.randn(len(Q), self.d, generator=generator).to(Q)
        Q[:, : self.d] = drawn * factor_std(max(self.d, 1))

    def start_spectral(self, l2: float, generator: torch.Generator) -> None:
        """Both tables from `initializers.spectral_start`, with its errors."""
        users, items = self.sides
        start = spectral_start(users, items, self.d, biases=self.biases, l2=l2, generator=generator)
        for table, factors, bias in zip(self.tables, start.factors, start.biases, strict=True):
            table[:, : self.d] = factors
            if self.biases:
                table[:, self.d] = bias

    def grams(self, which: int, delta: float | None) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of this side's rows, each with their Y'WY, (rows, K, K); W = 1, or Huber's weights on its tails."""
        side, own, other = self.sides[which], self.tables[which], self.tables[1 - which]
        table = other.new_zeros(len(other) + 1, self.K)  # y without the rating, and zeros for what is padded
        table[:-1, : self.d] = other[:, : self.d]
        if self.biases:
            table[:-1, self.d] = 1
            table[:-1, self.k] = other[:, self.d]
        block = max(1, self.max_bytes // (8 * self.K**2 * table.element_size()))
        step = max(1, min(GATHER_BYTES, self.max_bytes // 4) // (side.length * self.K * table.element_size()))
        for low in range(0, len(own), block):
            high = min(low + block, len(own))
            G = table.new_zeros(high - low, self.K, self.K)
            for begin in range(side.first[low], side.first[high], step):
                part = slice(begin, min(begin + step, side.first[high]))
                Y = table.index_select(0, side.other[part].flatten()).view(-1, side.length, self.K)
                Y[..., self.target] = side.values[part]
                WY = Y
                if delta is not None:
                    e = (Y @ self.ends(own[side.row[part]])[..., None]).abs()
                    WY = Y * (delta / e.clamp(min=delta))
                row = (side.row[part] - low)[:, None].expand(-1, self.K**2)
                G.view(len(G), -1).scatter_add_(0, row, (WY.mT @ Y).flatten(1))
            yield slice(low, high), G

    def ends(self, own: Tensor) -> Tensor:
        """z with e = y.z, (rows, K): (u, b, 1, -1, 0 ...), or (u, -1, 0 ...) without biases."""
        z = own.new_zeros(len(own), self.K)
        z[:, : self.k] = own
        if self.biases:
            z[:, self.k] = 1
        z[:, self.target] = -1
        return z

    def half_sweep(
        self,
        which: int,
        ridge: Tensor,
        *,
        delta: float | None = None,
        noise: tuple[float, torch.Generator] | None = None,
    ) -> float:
        """Solve all rows of users (0) or items (1); the sum of squared errors, weighted under Huber's loss, after it.

        ridge: (rows, 1) or (rows, k), added to the diagonal of X'X. delta: Huber's; squared errors where None.
        noise: (std, generator) to draw each row from N(the solution, std^2 (X'X + ridge)^-1) instead.
        """
        own, squares, k = self.tables[which], 0.0, self.k
        for rows, G in self.grams(which, delta):
            A, b = G[:, :k, :k].clone(), G[:, :k, self.target, None]
            if self.biases:
                b = b - G[:, :k, k, None]
            A.diagonal(dim1=1, dim2=2).add_(ridge[rows])
            L = _cholesky(A)
            x = torch.linalg.solve_triangular(L, b, upper=False)
            if noise is not None:
                std, generator = noise
                x += std * torch.randn(x.shape, generator=generator, dtype=A.dtype).to(x.device)
            own[rows] = torch.linalg.solve_triangular(L.mT, x, upper=True)[..., 0]
            z = self.ends(own[rows])[..., None]
            squares += ((G @ z) * z).double().sum().item()
        return squares

    def penalty(self, ridges: list[Tensor]) -> float:
        """The sum over users and items of ridge times square, the ridges of both sides as for `half_sweep`."""
        return sum((ridge * table.square()).sum().item() for ridge, table in zip(ridges, self.tables, strict=True))

    def read(self, model: MatrixFactorization) -> None:
        """The tables as the model has them."""
        for table, parts in zip(self.tables, _parts(model), strict=True):
            table.copy_(torch.cat([part.weight for part in parts if part is not None], 1))

    def write(self, model: MatrixFactorization) -> None:
        """The tables into the model."""
        for table, (factors, bias) in zip(self.tables, _parts(model), strict=True):
            if factors is not None:
                factors.weight.copy_(table[:, : self.d])
            if bias is not None:
                bias.weight.copy_(table[:, self.d :])


def _cholesky(A: Tensor) -> Tensor:
    """L with L L' = A + a ridge of rounding's size, (rows, k, k); A is overwritten.

    Sums in A are off by multiples of eps times its trace, so that a row with fewer ratings than columns, and hardly a
    penalty, need not come out positive definite: where it does not, its ridge is raised until it does.
    """
    diagonal = A.diagonal(dim1=1, dim2=2)
    rounding = 4 * torch.finfo(A.dtype).eps * diagonal.mean(1, keepdim=True)
    diagonal += rounding
    diagonal.masked_fill_(diagonal <= 0, 1.0)  # a row without ratings and penalty
    for _ in range(6):
        L, failed = torch.linalg.cholesky_ex(A)
        if not failed.any():
            return L
        diagonal += (failed > 0)[:, None] * (15 * rounding)
        rounding = rounding * 16
    raise ArithmeticError(
        "l2 must be larger for ratings of this size: a row's equations have no solution in "
        f"{A.dtype}; want dtype=torch.float64, ratings over their std, or the logarithm of counts"
    )


def _parts(model: MatrixFactorization) -> tuple[tuple[nn.Embedding | None, nn.Embedding | None], ...]:
    """(factors, bias) of the users, and of the items."""
    return (model.user_factors, model.user_bias), (model.item_factors, model.item_bias)
