"""Bayesian matrix factorization by Gibbs sampling (Salakhutdinov & Mnih 2008, with diagonal priors of mean zero).

    r ~ N(b_i + c_j + u_i.v_j, s^2),     column f of P ~ N(0, 1 / p_f),     of Q ~ N(0, 1 / q_f)
    r = (rating - mean) / scale          s: the noise's std

P: (m, k) rows (u, b)     Q: (n, k) rows (v, c)     k = n_factors + 1; n_factors without biases

Given the rest, a user's row is Gaussian with precision X'X / s^2 + diag(p), X the rows (v, 1) that they rated:
the ridge regression of als.py, and noise. p, q and the noise's precision are Gamma, with a prior Gamma(1, 1), in units
of the ratings' own spread whatever the model's scale: a prior in rating units would fit one scale of ratings only.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mfkit import checks
from mfkit.als import Problem, check_model
from mfkit.catalogue import check_clip, clipped
from mfkit.data import Ratings
from mfkit.model import MatrixFactorization
from mfkit.progress import bar

MOST = 1e9  # by which a std that is held may differ from its unit: its square fits into float32
FAR = 8.0  # stds from the mean: in ten million Gaussian numbers the farthest is at 5.3


@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of a Bayesian matrix factorization: users (S, m, k), items (S, n, k), float32; noise_std (S,).

    Tables in units of scale; noise_std, like what `predict` returns, in rating units.
    """

    mean: float
    scale: float
    biases: bool
    users: Tensor
    items: Tensor
    noise_std: Tensor

    def predict(
        self,
        users: Tensor | list[int],
        items: Tensor | list[int],
        *,
        clip: tuple[float, float] | None = None,
        chunk: int = 65_536,
    ) -> tuple[Tensor, Tensor]:
        """Mean and std over the samples of the predictions for these pairs, (K,) each, in rating units, on the CPU.

        users, items: any vectors of row numbers, as for `MatrixFactorization.predict`, with its errors.
        clip: rating range to clip the means to, e.g. (1, 5). chunk: pairs at a time.
        The std is of the rating without its noise; a new rating has sqrt(std^2 + noise_std^2).
        """
        user_ids = _row_numbers("users", users, self.users.shape[1])
        item_ids = _row_numbers("items", items, self.items.shape[1])
        if len(user_ids) != len(item_ids):
            raise ValueError(f"users and items must have one length, got {len(user_ids)} and {len(item_ids)}")
        check_clip(clip)
        chunk = min(checks.integer("chunk", chunk, least=1), max(len(user_ids), 1))
        if not len(user_ids):
            return torch.zeros(0), torch.zeros(0)
        means, stds = [], []
        for i, j in zip(user_ids.split(chunk), item_ids.split(chunk), strict=True):
            drawn_SK = torch.stack([self._interaction(P[i], Q[j]) for P, Q in zip(self.users, self.items, strict=True)])
            means.append(self.mean + self.scale * drawn_SK.mean(0))
            stds.append(self.scale * drawn_SK.std(0, correction=0))
        mean = torch.cat(means)
        return clipped(mean, clip), torch.cat(stds)

    def _interaction(self, P: Tensor, Q: Tensor) -> Tensor:
        """u.v + b + c of paired rows, (K, k) each: (K,)."""
        if not self.biases:
            return (P * Q).sum(1)
        return (P[:, :-1] * Q[:, :-1]).sum(1) + P[:, -1] + Q[:, -1]


def _row_numbers(name: str, given: object, size: int) -> Tensor:
    """Row numbers (K,) as int64, each in [0, size)."""
    ids = checks.vector(name, given)
    if len(ids) and ids.is_floating_point():
        raise TypeError(f"{name} must be integers, got dtype {ids.dtype}")
    ids = ids.long()
    if (wrong := (ids < 0) | (ids >= size)).any():
        raise IndexError(f"{name} must lie in [0, {size}), the model's rows, got {ids[wrong][0].item()}")
    return ids


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
    """Samples of the posterior above: nothing is left to tune but n_factors.

    model: sizes, mean and biases; it is not changed. burn_in: sweeps that are thrown away, from a spectral start
    without l2. samples: sweeps that are kept, 4 k (m + n) bytes each. noise_std (rating units), prior_std (the
    model's scale): held instead of drawn.
    on_sample(sweep, posterior so far). The same samples for a seed on the CPU. Errors as `fit_als`.

    The noise is taken for Gaussian, and of one size: with a few ratings far from all others it fits those, and states
    too small an error. Warns where one is 8 stds from the mean.
    """
    samples = checks.integer("samples", samples, least=1)
    burn_in = checks.integer("burn_in", burn_in, least=0)
    if (seed := checks.integer("seed", seed, least=0)) >= 2**63:
        raise ValueError(f"seed must be below 2^63, got {seed}")
    checks.function("on_sample", on_sample)
    mean, scale = _units(model, ratings, prior_std)
    noise_std = _held("noise_std", noise_std, scale)
    prior_std = _held("prior_std", prior_std, 1.0)
    _warn_of_tails(ratings)
    problem = Problem(model, ratings, mean=mean, scale=scale, dtype=torch.float32, max_bytes=max_bytes)
    generator = torch.Generator().manual_seed(seed)
    if 0 < problem.d < min(problem.shape):
        problem.start_spectral(0.0, generator)
    noise = (noise_std or ratings.std or 1.0) / scale
    alpha = noise**-2
    users, items, noise_stds = [], [], []

    def so_far() -> Posterior:
        stacked = (torch.stack(users), torch.stack(items), torch.tensor(noise_stds))
        return Posterior(mean, scale, problem.biases, *stacked)

    with bar("sample_posterior", "sweep", burn_in + samples) as shown:
        for sweep in range(1, burn_in + samples + 1):
            squares = _sweep(problem, alpha, prior_std, generator)
            if noise_std is None:
                alpha = _draw_gamma(len(ratings) / 2, torch.tensor(squares / 2), generator).item()
            if sweep > burn_in:
                users.append(problem.tables[0].cpu().clone())
                items.append(problem.tables[1].cpu().clone())
                noise_stds.append(scale * alpha**-0.5)
                if on_sample:
                    on_sample(sweep, so_far())
            shown.update()
    return so_far()


def _sweep(problem: Problem, alpha: float, prior_std: float | None, generator: torch.Generator) -> float:
    """Draw both tables given the noise's precision alpha = s^-2; the sum of squared errors after it."""
    squares = 0.0
    for which, table in enumerate(problem.tables):
        rate = table.square().sum(0) / 2
        if prior_std is None:
            precision = _draw_gamma(len(table) / 2, rate, generator)
        else:
            precision = torch.full_like(rate, prior_std**-2)
        ridge = (precision / alpha).to(table).expand(len(table), -1)
        squares = problem.half_sweep(which, ridge, noise=(alpha**-0.5, generator))
    return squares


def _units(model: MatrixFactorization, ratings: Ratings, prior_std: float | None) -> tuple[float, float]:
    """Mean and scale: the model's where they were given, else the ratings' mean and std for a drawn prior."""
    check_model(model, ratings)
    mean_given, scale_given = model.given.tolist()
    mean, scale = model.mean.item(), model.scale.item()
    if prior_std is not None:
        return mean, scale
    return mean if mean_given else ratings.mean, scale if scale_given else ratings.std or 1.0


def _held(name: str, std: float | None, unit: float) -> float | None:
    """A std that is held instead of drawn; ValueError for one so far from its unit that float32 cannot square it."""
    if std is None:
        return None
    std = checks.number(name, std, above=0)
    if not unit / MOST <= std <= unit * MOST:
        raise ValueError(f"{name} must lie within a factor {MOST:g} of {unit:g}, the model's unit, got {std:g}")
    return std


def _warn_of_tails(ratings: Ratings) -> None:
    """One sentence where a rating lies so far out that no Gaussian noise put it there."""
    farthest = (ratings.values.double() - ratings.mean).abs().max().item()
    if farthest > FAR * ratings.std > 0:
        warnings.warn(
            f"a rating lies {farthest / ratings.std:.0f} stds from the mean, and the sampler's noise is Gaussian: it "
            "fits such ratings and states too small an error; of counts take the logarithm (log1p)",
            stacklevel=4,
        )


def _draw_gamma(shape: float, rate: Tensor, generator: torch.Generator) -> Tensor:
    """Precisions given `shape` = n / 2 and `rate` = sum of n squares / 2, under the prior Gamma(1, 1), float64.

    Mean (1 + shape) / (1 + rate). torch.distributions draws from the global generator only.
    """
    concentration = torch.full(rate.shape, 1 + shape, dtype=torch.float64)
    drawn = torch._standard_gamma(concentration, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    return drawn / (1 + rate.cpu().double())
