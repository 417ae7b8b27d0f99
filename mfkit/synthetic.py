"""The reference problem: ratings whose truth is known.

r = mean + b_i + c_j + u_i . v_j + noise * N(0, 1)        interaction std 0.6, bias stds 0.3 and 0.4
"""

from dataclasses import dataclass

import numpy as np
import torch

from mfkit.checks import boolean, instance, integer, number
from mfkit.data import Ratings
from mfkit.initializers import factor_std

MEAN, USER_BIAS_STD, ITEM_BIAS_STD, INTERACTION_STD = 3.5, 0.3, 0.4, 0.6
LARGEST_BYTES = 2**40  # of factors: no machine has a terabyte to spare
EXACT_CELLS = 25_000_000  # tables up to this many cells are sampled by sorting all of them


@dataclass(frozen=True, eq=False)
class Truth:
    """What a synthetic set was drawn from, float64: user_bias (m,), item_bias (n,), P (m, k), Q (n, k)."""

    mean: float
    user_bias: np.ndarray
    item_bias: np.ndarray
    P: np.ndarray
    Q: np.ndarray

    def __call__(self, ratings: Ratings) -> torch.Tensor:
        """The noiseless ratings of these (user, item) pairs, (N,) float64; IndexError for a row that it has not."""
        for name, rows in (("n_users", len(self.P)), ("n_items", len(self.Q))):
            if (given := getattr(instance("ratings", ratings, Ratings), name)) > rows:
                raise IndexError(f"ratings must have {name} of at most {rows}, the truth's rows, got {given}")
        users, items = ratings.users.cpu().numpy(), ratings.items.cpu().numpy()
        interaction = np.einsum("nk,nk->n", self.P[users], self.Q[items])
        return torch.from_numpy(self.mean + self.user_bias[users] + self.item_bias[items] + interaction)

    def noise_floor(self, ratings: Ratings) -> float:
        """RMSE of the truth itself on these ratings: what no model can beat on new ones, but by luck."""
        instance("ratings", ratings, Ratings)
        return (self(ratings) - ratings.values.cpu().double()).square().mean().sqrt().item()


def synthetic(
    n_users: int = 943,
    n_items: int = 1682,
    n_ratings: int = 80_000,
    rank: int = 8,
    noise: float = 0.85,
    seed: int = 0,
    stars: bool = False,
) -> tuple[Ratings, Truth]:
    """The reference problem: MovieLens-100K's size and long tail, with a known truth.

    Pairs are drawn without repetition with probability proportional to user activity, log-normal(1),
    times item popularity, log-normal(1.4). noise: std of the Gaussian noise, in rating units.
    stars=True rounds to whole stars and clips to 1 ... 5; the truth stays what it was before rounding.
    Drawn by numpy: the same ratings on every machine. Raises ValueError for sizes that cannot be.
    """
    n_users, n_items = integer("n_users", n_users, least=1), integer("n_items", n_items, least=1)
    n_ratings, rank = integer("n_ratings", n_ratings, least=1), integer("rank", rank, least=1)
    noise, stars = number("noise", noise, least=0, below=1e30), boolean("stars", stars)
    if 8 * (n_users + n_items) * rank > LARGEST_BYTES:
        sizes = f"n_users={n_users}, n_items={n_items} and rank={rank}"
        raise ValueError(f"(n_users + n_items) * rank must be at most {LARGEST_BYTES // 8}, got {sizes}")
    if n_ratings > n_users * n_items:
        raise ValueError(f"n_ratings must be at most n_users * n_items = {n_users * n_items}, got {n_ratings}")
    rng = np.random.default_rng(integer("seed", seed, least=0))
    activity, popularity = rng.lognormal(0, 1.0, n_users), rng.lognormal(0, 1.4, n_items)
    scale = factor_std(rank, INTERACTION_STD)
    biases = USER_BIAS_STD * rng.standard_normal(n_users), ITEM_BIAS_STD * rng.standard_normal(n_items)
    factors = (scale * rng.standard_normal((rows, rank)) for rows in (n_users, n_items))
    truth = Truth(MEAN, *biases, *factors)
    cells = _draw_cells(activity / activity.sum(), popularity / popularity.sum(), n_ratings, rng)
    users, items = torch.from_numpy(cells // n_items), torch.from_numpy(cells % n_items)
    values = truth(Ratings(users, items, torch.zeros(n_ratings), n_users, n_items))
    values = values + noise * torch.from_numpy(rng.standard_normal(n_ratings))
    if stars:
        values = values.round().clamp(1, 5)
    return Ratings(users, items, values, n_users, n_items), truth


def _draw_cells(p: np.ndarray, q: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n different cells i * len(q) + j in random order, drawn one after the other with probability p_i q_j.

    Small tables: the n smallest of Exp(1) / (p_i q_j), which is that law (Efraimidis & Spirakis 2006).
    Large ones: draw with repetition and drop what repeats, which is that law too, and cheap while sparse.
    """
    if len(p) * len(q) <= EXACT_CELLS:
        keys = rng.standard_exponential((len(p), len(q))) / np.outer(p, q)
        return rng.permutation(np.argpartition(keys, n - 1, axis=None)[:n])
    cells = np.empty(0, np.int64)
    while len(cells) < n:
        size = n - len(cells) + n // 8
        drawn = np.searchsorted(np.cumsum(p), rng.random(size)).clip(max=len(p) - 1) * len(q)
        drawn += np.searchsorted(np.cumsum(q), rng.random(size)).clip(max=len(q) - 1)
        cells = np.concatenate([cells, drawn])
        cells = cells[np.sort(np.unique(cells, return_index=True)[1])]  # first occurrences, in order
    return rng.permutation(cells[:n])
