"""`predict.l2_curve`: test RMSE over l2 without training, against limits that are known and against training."""

import math

import numpy as np
import pytest

import mfkit
from mfkit import predict


def even_counts(side: int, n_ratings: int, noise: float) -> mfkit.Ratings:
    """Four directions of 0.3 stars each, no biases, cells drawn with equal chance."""
    rng = np.random.default_rng(0)
    users, items = np.divmod(rng.permutation(side * side)[:n_ratings], side)
    P, Q = math.sqrt(0.3) * rng.standard_normal((2, side, 4))
    values = 3.5 + (P[users] * Q[items]).sum(1) + noise * rng.standard_normal(n_ratings)
    return mfkit.Ratings(users, items, values, side, side)


def test_above_the_edge_nothing_is_left_and_everything_is_missed():
    last = predict.l2_curve(200, 300, 20_000, 5, 0.8, [0.05, 0.05]).iloc[-1]
    assert last.rmse == pytest.approx(math.sqrt(0.8**2 + 2 * 0.05**2), rel=1e-2)
    assert math.isnan(last.degree)


def test_a_strong_direction_costs_what_its_numbers_cost():
    """Far above the noise each of its m + n numbers costs noise^2 / N, and so does each bias."""
    curve = predict.l2_curve(200, 200, 20_000, 1, 0.5, [50.0])
    assert curve.rmse.min() == pytest.approx(0.5 / math.sqrt(1 - 2 * (200 + 200) / 20_000), rel=1e-3)


def test_trained_models_lie_on_it():
    train, test = even_counts(300, 24_000, 0.8).split((0.9, 0.1), seed=0)
    curve = predict.l2_curve(300, 300, len(train), 12, 0.8, [0.3] * 4)
    for l2 in (0.1, 0.16, 0.22):
        model = mfkit.MatrixFactorization(300, 300, 12, mean=train.mean, scale=1.0)
        mfkit.fit_als(model, train, l2=l2, sweeps=15)
        assert mfkit.rmse(model, test) == pytest.approx(np.interp(l2, curve.l2, curve.rmse), rel=0.02)
        assert mfkit.rmse(model, train) == pytest.approx(np.interp(l2, curve.l2, curve.fitted_rmse), rel=0.03)


@pytest.mark.parametrize("modes", [[0.3, 0.0], [-1.0], [0.1] * 11, ["a"]])
def test_modes_that_cannot_be(modes):
    with pytest.raises((ValueError, TypeError), match="modes"):
        predict.l2_curve(10, 20, 100, 3, 0.5, modes)
