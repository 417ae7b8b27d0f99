"""The settings that nobody has to choose: what `None` in a TrainConfig stands for, computed from the ratings.

    l2 = 0.53 sigma (1/sqrt(c_u) + 1/sqrt(c_i)),      sigma^2 = (RMSE on what is fitted) (RMSE on a set-aside twentieth)

    c_u, c_i: mean ratings of a user, of an item (that has any)      sigma: the spread of the noise

The per-rating penalty soft-thresholds the singular values of the residuals at l2, each cell divided by the roots of its
row's and its column's count. Of pure noise the largest of them is near sigma (1/sqrt(c_u) + 1/sqrt(c_i)), the noise's
edge (exact where counts are even). The share of it, 0.53, was chosen after looking at eight sets of ratings: there it
is within 1.5 % of the best of a grid (benchmarks/defaults.json). A model's error on what it was fitted to lies below
the noise, on other ratings above, by factors that cancel in least squares with random regressors: hence their geometric
mean for sigma. The error on other ratings alone overstates the noise where it is small, and with it the penalty.

All in units of the model's scale. With that l2 training does not overfit, so neither rate nor epochs are delicate.
"""

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from mfkit.config import TrainConfig
from mfkit.data import Ratings, RatingsWarning
from mfkit.evaluate import rmse
from mfkit.model import MatrixFactorization

EDGE_SHARE = 0.53  # l2 over the noise's edge
ASIDE = 0.05  # share of the ratings that the pilot is not fitted to
FIRST_NOISE = 0.8  # of the ratings' std: where the pilot begins
FEWEST = 100  # ratings from which on a twentieth of them tells anything
OFF_SCALE = 40  # times too large or too small, from which on a given l2 is taken to be meant for other ratings
BATCHES_AN_EPOCH = 128
SMALLEST_BATCH, LARGEST_BATCH = 32, 512

Round = Callable[[nn.Module, Ratings, float, int], object]  # (model, ratings, l2, number): one round of fitting


def l2_for_noise(ratings: Ratings, noise_std: float) -> float:
    """The per-rating l2 of the formula above, in the unit of noise_std, the spread of the noise.

    For least squares with biases and any number of factors; where the noise is far from even over the ratings, or a few
    rows have most of them, it is a rule of thumb. Raises ValueError for a noise_std below 0 or not finite.
    """
    if not (noise_std >= 0 and math.isfinite(noise_std)):
        raise ValueError(f"noise_std must be finite and at least 0, got {noise_std}")
    edge = 0.0
    for ids in (ratings.users, ratings.items):
        per_row = len(ratings) / len(ids.unique())
        edge += 1 / math.sqrt(per_row)
    return EDGE_SHARE * noise_std * edge


def choose_l2(model: nn.Module, ratings: Ratings, fit: Round, rounds: int) -> float:
    """The l2 of the formula, with the noise that a pilot finds: rounds of fitting a copy, each with the last one's l2.

    model: as it is before it is fitted; it stays so. Takes the memory of a copy. Of fewer than 100 ratings nothing can
    be set aside: there the noise is taken for four fifths of the ratings' std.
    """
    unit = _unit(model)
    noise = FIRST_NOISE * ratings.std / unit
    if len(ratings) >= FEWEST:
        fitted, aside = ratings.split((1 - ASIDE, ASIDE), seed=0)
        pilot = copy.deepcopy(model)
        for number in range(rounds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RatingsWarning)  # of an l2 that nobody gave
                fit(pilot, fitted, l2_for_noise(ratings, noise), number)
            noise = math.sqrt(rmse(pilot, fitted) * rmse(pilot, aside)) / unit
    return l2_for_noise(ratings, noise)


def doubt_scale(model: nn.Module, ratings: Ratings, l2: float) -> None:
    """A RatingsWarning where a given per-rating l2 is in rating units and OFF_SCALE times off the formula's.

    The formula's for ratings that are all noise, which is as strong as it gets, and without outliers. Nothing of
    l2 = 0, nor of a model with another scale than 1: its l2 is in the unit that was chosen with it.
    """
    spread = ratings.spread
    edge = l2_for_noise(ratings, spread)
    if not l2 or not edge or _unit(model) != 1 or edge / OFF_SCALE <= l2 <= edge * OFF_SCALE:
        return
    off = f"{l2 / edge:,.0f} times" if l2 > edge else f"1/{edge / l2:,.0f} of"
    warnings.warn(
        f"l2={l2:g} is {off} {edge:.3g}, the formula's for ratings whose spread, {spread:.3g}, is all noise: a given "
        "l2 is in rating units where the model's scale is 1, and fits one scale of ratings only; want l2=None, which "
        f"computes it, or l2={l2 * spread:.2g} if it was meant for a spread of 1",
        RatingsWarning,
        stacklevel=4,
    )


def _unit(model: nn.Module) -> float:
    """Of its l2, in rating units."""
    return model.scale.item() if isinstance(model, MatrixFactorization) else 1.0


def complete(config: TrainConfig, ratings: Ratings) -> TrainConfig:
    """The config with what needs no pilot: batch_size, delta, and an l2 of 0 where another penalty was chosen.

    Raises ValueError where l2 is left to a formula that does not hold: for loss="mae".
    """
    l2 = config.l2
    if l2 is None and (config.l1 or config.weight_decay or config.penalty == "per_table"):
        l2 = 0.0
    if l2 is None and config.loss == "mae":
        raise ValueError("l2 has no formula for loss='mae'; want a number, 0 for none")
    return replace(config, l2=l2, batch_size=batch_size(config, ratings))


def batch_size(config: TrainConfig, ratings: Ratings) -> int:
    """The config's; or a power of two near a 128th of the ratings, from 32 to 512."""
    if config.batch_size is not None:
        return config.batch_size
    power = round(math.log2(max(len(ratings) / BATCHES_AN_EPOCH, 1)))
    return min(max(2**power, SMALLEST_BATCH), LARGEST_BATCH)
