"""Alternating least squares, and the same solves with noise: Bayesian matrix factorization by Gibbs sampling.

    minimise  sum over ratings of [ loss(e) + l2 (|u|^2 + |v|^2 + b^2 + c^2) ],       e = mean + b + c + u.v - rating

With the items held, the row (u, b) of a user with n ratings is a ridge regression on x = (v, 1) of those n items:

    (X'X + l2 n I) (u, b) = X' (rating - mean - c)                 (Zhou et al. 2008; Koren, Bell & Volinsky 2009)

and all it needs stands in one small Gram matrix Y'Y of the rows y = (v, 1, c, rating - mean). So half a sweep is a
gather, a batched product and a batched Cholesky. Ratings are sorted by row and cut into segments of L, the last one of
a row padded with rows of zeros: long and short rows make equal work, as in ALX (Mehta et al. 2021).

    P: (m, k) rows (u, b)     Q: (n, k) rows (v, c)     k = n_factors + 1; n_factors without biases
    Y: (segments, L, K)       K: k + 2, or k + 1 without biases, and up to 3 columns of zeros
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from mfkit import losses
from mfkit.data import Ratings
from mfkit.evaluate import check_fit
from mfkit.initializers import factor_std
from mfkit.model import MatrixFactorization

GATHER_BYTES = 4 * 2**20  # of Y at a time: what stays in a core's cache between the gather and the product


@torch.no_grad()
def fit_als(
    model: MatrixFactorization,
    ratings: Ratings,
    *,
    l2: float,
    sweeps: int,
    start: str = "spectral",
    loss: str = "mse",
    delta: float = 1.0,
    dtype: torch.dtype = torch.float32,
    max_bytes: int | None = None,
    seed: int = 0,
    on_sweep: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Fit `model` in place; the objective, the sum above over N, after each sweep. It never rises, up to rounding.

    l2: of the per-rating penalty, as in `train`; 0 gets a ridge of rounding's size. The model's mean stays as it is.
    sweeps: each solves all users, then all items. Rows without ratings become zero.
    start: "spectral", near the optimum; "random", item factors N(0, 0.1 / sqrt(d)); "model", the item tables as they
        are (under "huber" the users' too).
    loss: "huber" (e^2 within `delta`) by iteratively reweighted least squares, w = min(1, delta / |e|).
    dtype: of the solves; float64 for a reference. max_bytes: working memory beside the sorted ratings (about 20
        bytes a rating) and the tables, default 256 MB. on_sweep(sweep, objective): called when the model holds it.
    The model's device; the same numbers each time on the CPU. Raises ValueError or TypeError for what does not fit.
    """
    names = {"start": (start, ("spectral", "random", "model")), "loss": (loss, ("mse", "huber"))}
    for name, (given, known) in names.items():
        if given not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {given!r}")
    for name, given in (("l2", l2), ("delta", delta)):
        if not (given >= 0 and math.isfinite(given)) or (name, given) == ("delta", 0):
            raise ValueError(f"{name} must be finite and {'above' if name == 'delta' else 'at least'} 0, got {given}")
    problem = _Problem(model, ratings, dtype, max_bytes, sweeps=sweeps)
    generator = torch.Generator().manual_seed(seed)
    if start == "model":
        problem.read(model)
    elif start == "random" or min(problem.shape) <= problem.d:
        problem.tables[1][:, : problem.d] = problem.random(1, generator) * factor_std(max(problem.d, 1))
    else:
        problem.spectral(l2, generator)
    ridges = [l2 * side.counts[:, None].to(dtype) for side in problem.sides]
    history = []
    for sweep in range(1, sweeps + 1):
        for which in (0, 1):
            squares = problem.half_sweep(which, ridges[which], delta=delta if loss == "huber" else None)
        problem.write(model)
        if loss == "huber":
            prediction = model.predict(ratings.users, ratings.items).cpu()
            squares = losses.huber(prediction, ratings.values.cpu(), delta).double().sum().item()
        penalty = sum((r * x.square()).sum().item() for r, x in zip(ridges, problem.tables, strict=True))
        history.append((squares + penalty) / len(ratings))
        if on_sweep:
            on_sweep(sweep, history[-1])
    return history


@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of a Bayesian matrix factorization: users (S, m, k), items (S, n, k), float32; noise_std (S,)."""

    mean: float
    biases: bool
    users: Tensor
    items: Tensor
    noise_std: Tensor

    def predict(self, users: Tensor, items: Tensor, *, chunk: int = 65_536) -> tuple[Tensor, Tensor]:
        """Mean and std over the samples of the predictions for these pairs, (K,) each, in rating units.

        The std is of the rating without its noise; a new rating has sqrt(std^2 + noise_std^2).
        """
        means, stds = [], []
        for i, j in zip(users.cpu().split(chunk), items.cpu().split(chunk), strict=True):
            drawn = torch.stack(
                [_predict(P[i], Q[j], self.biases) for P, Q in zip(self.users, self.items, strict=True)]
            )
            means.append(self.mean + drawn.mean(0))
            stds.append(drawn.std(0, correction=0))
        return torch.cat(means), torch.cat(stds)


@torch.no_grad()
def sample_posterior(
    model: MatrixFactorization,
    ratings: Ratings,
    *,
    samples: int = 40,
    burn_in: int = 10,
    seed: int = 0,
    noise_std: float | None = None,
    prior_std: float | None = None,
    max_bytes: int | None = None,
    on_sample: Callable[[int, Posterior], None] | None = None,
) -> Posterior:
    """Gibbs sampling of Bayesian matrix factorization (Salakhutdinov & Mnih 2008, with diagonal priors of mean zero).

        r ~ N(mean + b_i + c_j + u_i.v_j, noise_std^2),     column f of P ~ N(0, 1 / p_f),     of Q ~ N(0, 1 / q_f)

    Each half sweep draws all rows of a side from their Gaussian, precision X'X / noise_std^2 + diag(p); precisions
    are drawn from their Gamma, with a prior Gamma(1, 1): nothing is left to tune but n_factors.
    model: sizes, mean and biases; it is not changed. burn_in: sweeps that are thrown away, from a spectral start.
    samples: sweeps that are kept, 4 k (m + n) bytes each. noise_std, prior_std: held instead of drawn.
    on_sample(sweep, posterior so far). The same samples for a seed on the CPU. Errors as `fit_als`.
    """
    for name, given in (("noise_std", noise_std), ("prior_std", prior_std)):
        if given is not None and not (given > 0 and math.isfinite(given)):
            raise ValueError(f"{name} must be finite and above 0, got {given}")
    problem = _Problem(model, ratings, torch.float32, max_bytes, samples=samples, burn_in=burn_in + 1)
    generator = torch.Generator().manual_seed(seed)
    if problem.d and min(problem.shape) > problem.d:
        problem.spectral(0.0, generator)
    kept, alpha = [], (noise_std or ratings.values.std(correction=0).item() or 1.0) ** -2

    def gamma(shape: float, rate: Tensor) -> Tensor:  # by numpy's convention: mean shape / rate
        drawn = torch._standard_gamma(torch.full(rate.shape, 1 + shape, dtype=torch.float64), generator=generator)
        return drawn / (1 + rate.cpu().double())

    for sweep in range(burn_in + samples):
        for which, table in enumerate(problem.tables):
            rate = table.square().sum(0) / 2
            precision = gamma(len(table) / 2, rate) if prior_std is None else torch.full_like(rate, prior_std**-2)
            ridge = (precision / alpha).to(table)[None].expand(len(table), -1)
            squares = problem.half_sweep(which, ridge, noise=(alpha**-0.5, generator))
        if noise_std is None:
            alpha = gamma(len(ratings) / 2, torch.tensor(squares / 2)).item()
        if sweep >= burn_in:
            kept.append((*(table.cpu().clone() for table in problem.tables), torch.tensor(alpha**-0.5)))
            if on_sample:
                on_sample(
                    sweep + 1, Posterior(problem.mean, problem.biases, *map(torch.stack, zip(*kept, strict=True)))
                )
    return Posterior(problem.mean, problem.biases, *map(torch.stack, zip(*kept, strict=True)))


def _predict(P: Tensor, Q: Tensor, biases: bool) -> Tensor:
    """u.v + b + c of paired rows, (K, k) each."""
    return (P[:, :-1] * Q[:, :-1]).sum(1) + P[:, -1] + Q[:, -1] if biases else (P * Q).sum(1)


class _Side:
    """Ratings sorted by their row on one side. other: (S, L) the other side's row, one beyond the last where padded."""

    def __init__(self, rows: Tensor, others: Tensor, values: Tensor, n_rows: int, n_others: int):
        self.counts = torch.bincount(rows, minlength=n_rows)
        self.length = 2 ** round(math.log2(min(max(len(rows) / n_rows / 4, 4), 64)))  # pads a row by L / 2
        pieces = (self.counts + self.length - 1) // self.length
        self.row = torch.arange(n_rows, device=rows.device).repeat_interleave(pieces)
        self.first = [0, *pieces.cumsum(0).tolist()]  # segment of each row
        rows, order = rows.int().sort(stable=True)
        shift = (pieces.cumsum(0) - pieces) * self.length - (self.counts.cumsum(0) - self.counts)
        slots = torch.arange(len(rows), device=rows.device).add_(shift.index_select(0, rows))
        blank = others.new_full((len(self.row) * self.length,), n_others, dtype=torch.int32)
        self.other = blank.scatter_(0, slots, others.int().index_select(0, order)).view(-1, self.length)
        blank = values.new_zeros(self.other.numel())
        self.values = blank.scatter_(0, slots, values.index_select(0, order)).view(-1, self.length)

    def add_up(self, segments: Tensor) -> Tensor:
        """Sums over each row's segments: (S, c) -> (rows, c)."""
        row = self.row[:, None].expand_as(segments)
        return segments.new_zeros(len(self.counts), segments.shape[1]).scatter_add_(0, row, segments)

    def read(self, numbers: Tensor) -> Tensor:
        """One number of the other side's row for each rating, (S, L), 0 where padded."""
        padded = torch.cat([numbers, numbers.new_zeros(1)])
        return padded.index_select(0, self.other.flatten()).view_as(self.other)


class _Problem:
    """The ratings from both sides, and both tables."""

    def __init__(self, model, ratings, dtype, max_bytes, **positive):
        if not isinstance(model, MatrixFactorization):
            raise TypeError(f"model must be a MatrixFactorization, got {type(model).__name__}")
        check_fit(model, ratings, "ratings")
        for name, given in positive.items():
            if isinstance(given, bool) or not isinstance(given, int) or given < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {given!r}")
        self.shape, self.d, self.biases = (model.n_users, model.n_items), model.n_factors, model.user_bias is not None
        self.mean, self.k = model.mean.item(), model.n_factors + self.biases
        self.K = 4 * math.ceil(
            (self.k + 1 + self.biases) / 4
        )  # whole vector registers: 11 columns take twice as long as 12
        self.bytes = 2**28 if max_bytes is None else max_bytes
        least = 64 * self.K * 8 + 4 * 8 * self.K**2
        if self.bytes < least:
            raise ValueError(f"max_bytes must be at least {least} for n_factors={self.d}, got {max_bytes}")
        ratings, values = ratings.to(model.mean.device), ratings.values.to(model.mean.device, dtype) - self.mean
        ids, self.n_ratings = (ratings.users, ratings.items), len(ratings)
        self.sides = [_Side(ids[w], ids[1 - w], values, self.shape[w], self.shape[1 - w]) for w in (0, 1)]
        self.tables = [torch.zeros(rows, self.k, dtype=dtype, device=values.device) for rows in self.shape]

    def random(self, which: int, generator: torch.Generator) -> Tensor:
        """N(0, 1), (rows, n_factors); drawn on the CPU, so that a seed gives the same on every device."""
        return torch.randn(self.shape[which], self.d, generator=generator).to(self.tables[which])

    def grams(self, which: int, delta: float | None) -> Iterator[tuple[slice, Tensor]]:
        """Y'WY of this side's rows in blocks of them: (rows, K, K)."""
        side, own, other = self.sides[which], self.tables[which], self.tables[1 - which]
        d, k = self.d, self.k
        table = other.new_zeros(len(other) + 1, self.K)
        table[:-1, :d] = other[:, :d]
        if self.biases:
            table[:-1, d], table[:-1, d + 1] = 1, other[:, d]
        block = max(1, self.bytes // (8 * self.K**2 * table.element_size()))
        step = max(1, min(GATHER_BYTES, self.bytes // 4) // (side.length * self.K * table.element_size()))
        for low in range(0, len(own), block):
            high = min(low + block, len(own))
            G = table.new_zeros(high - low, self.K, self.K)
            for begin in range(side.first[low], side.first[high], step):
                part = slice(begin, min(begin + step, side.first[high]))
                Y = table.index_select(0, side.other[part].flatten()).view(-1, side.length, self.K)
                Y[..., k + self.biases] = side.values[part]
                W = Y
                if delta is not None:
                    e = (Y @ self.ends(own[side.row[part]])[..., None]).abs()
                    W = Y * (delta / e.clamp(min=delta))
                row = (side.row[part] - low)[:, None].expand(-1, self.K**2)
                G.view(len(G), -1).scatter_add_(0, row, (W.mT @ Y).flatten(1))
            yield slice(low, high), G

    def ends(self, own: Tensor) -> Tensor:
        """z with e = y.z: (u, b, 1, -1, 0 ...)."""
        z = own.new_zeros(len(own), self.K)
        z[:, : self.k], z[:, self.k], z[:, self.k + self.biases] = own, 1, -1
        return z

    def half_sweep(self, which: int, ridge: Tensor, delta: float | None = None, noise=None) -> float:
        """Solve (or, with noise=(std, generator), draw) all rows of one side; the sum of (weighted) squared errors."""
        own, squares, k = self.tables[which], 0.0, self.k
        for rows, G in self.grams(which, delta):
            A, b = G[:, :k, :k].clone(), G[:, :k, k + self.biases, None]
            if self.biases:
                b = b - G[:, :k, k, None]
            diagonal = A.diagonal(dim1=1, dim2=2)
            rounding = 4 * torch.finfo(A.dtype).eps * (diagonal.sum(1, keepdim=True) / k)
            diagonal += ridge[rows] + rounding
            diagonal.masked_fill_(diagonal <= 0, 1.0)  # a row without ratings and penalty
            L = torch.linalg.cholesky(A)
            x = torch.linalg.solve_triangular(L, b, upper=False)
            if noise:
                x += noise[0] * torch.randn(x.shape, generator=noise[1], dtype=A.dtype).to(x.device)
            own[rows] = torch.linalg.solve_triangular(L.mT, x, upper=True)[..., 0]
            z = self.ends(own[rows])[..., None]
            squares += ((G @ z) * z).double().sum().item()
        return squares

    def spectral(self, l2: float, generator: torch.Generator, powers: int = 4) -> None:
        """Biases, then the top singular vectors of the residual with rows and columns over the roots of their counts.

        The optimum of a per-rating l2 where ratings are spread evenly; by subspace iteration (Halko et al. 2011).
        """
        roots = [(side.counts + side.counts.float().mean()).sqrt().to(self.tables[0]) for side in self.sides]
        entries = []
        if self.biases:  # means of what is left, shrunken
            for which, side in enumerate(self.sides):
                left = side.values - side.read(self.tables[1 - which][:, -1])
                self.tables[which][:, -1] = side.add_up(left.sum(1, keepdim=True))[:, 0] / roots[which] ** 2
        for which, side in enumerate(self.sides):
            left = side.values
            if self.biases:
                left = left - side.read(self.tables[1 - which][:, -1]) - self.tables[which][side.row, -1:]
            entries.append(left * side.read(1 / roots[1 - which]) / roots[which][side.row, None])

        def product(which: int, X: Tensor) -> Tensor:  # E X, or E'X
            side, X = self.sides[which], torch.cat([X, X.new_zeros(1, X.shape[1])])
            return side.add_up(embedding_bag(side.other, X, per_sample_weights=entries[which], mode="sum"))

        X = self.random(1, generator)
        for _ in range(powers):
            left = torch.linalg.qr(product(0, X))[0]
            X = product(1, left)
        right, S, turn = torch.linalg.svd(X, full_matrices=False)
        size = (self.n_ratings * (S - l2).clamp(min=0.01 * S)).sqrt()  # zero columns would stay zero
        for table, vectors, root in zip(self.tables, (left @ turn.mT, right), roots, strict=True):
            table[:, : self.d] = vectors * size / root[:, None]

    def read(self, model: MatrixFactorization) -> None:
        for table, parts in zip(self.tables, _parts(model), strict=True):
            table.copy_(torch.cat([part.weight for part in parts if part is not None], 1))

    def write(self, model: MatrixFactorization) -> None:
        for table, (factors, bias) in zip(self.tables, _parts(model), strict=True):
            if factors is not None:
                factors.weight.copy_(table[:, : self.d])
            if bias is not None:
                bias.weight.copy_(table[:, self.d :])


def _parts(model: MatrixFactorization):
    return (model.user_factors, model.user_bias), (model.item_factors, model.item_bias)
