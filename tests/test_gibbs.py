"""Gibbs sampling against closed forms and integration, and where its chain starts."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import mfkit
from mfkit import sample_posterior
from mfkit.als import Problem

pytestmark = pytest.mark.usefixtures("one_thread")


def test_biases_against_their_gaussian():
    """With noise and prior held, (b, c) is Gaussian: precision D'D / noise^2 + I / prior^2."""
    rng = np.random.default_rng(1)
    cells = rng.permutation(30)[:18]
    ratings = mfkit.Ratings(cells // 6, cells % 6, rng.normal(3, 1, 18), 5, 6)
    model = mfkit.MatrixFactorization(5, 6, 0, mean=3.0)
    posterior = sample_posterior(model, ratings, samples=3000, burn_in=50, noise_std=0.7, prior_std=0.9)
    D = np.zeros((18, 11))
    D[np.arange(18), cells // 6] = D[np.arange(18), 5 + cells % 6] = 1
    covariance = np.linalg.inv(D.T @ D / 0.7**2 + np.eye(11) / 0.9**2)
    center = covariance @ D.T @ (ratings.values.double().numpy() - 3) / 0.7**2
    users, items = torch.cartesian_prod(torch.arange(5), torch.arange(6)).T
    P = np.zeros((30, 11))
    P[np.arange(30), users], P[np.arange(30), 5 + items.numpy()] = 1, 1
    mean, std = posterior.predict(users, items)
    wanted = np.sqrt(np.diag(P @ covariance @ P.T))
    assert np.abs(mean.numpy() - 3 - P @ center).max() < 0.06  # about four standard errors of a slow chain
    assert np.allclose(std, wanted, rtol=0.08)
    assert np.allclose(posterior.noise_std, 0.7)


def test_one_product_against_integration():
    """One user, one item, one factor: E and std of u v under N(r; u v, s^2) N(u; 0, t^2) N(v; 0, t^2), on a grid."""
    ratings = mfkit.Ratings([0], [0], [1.5], 1, 1)
    model = mfkit.MatrixFactorization(1, 1, 1, biases=False)
    posterior = sample_posterior(model, ratings, samples=5000, burn_in=100, noise_std=0.8, prior_std=1.2)
    grid = np.linspace(-8, 8, 801)
    product = np.outer(grid, grid)
    weight = np.exp(-((1.5 - product) ** 2) / (2 * 0.8**2) - (grid[:, None] ** 2 + grid**2) / (2 * 1.2**2))
    mean = (weight * product).sum() / weight.sum()
    std = math.sqrt((weight * (product - mean) ** 2).sum() / weight.sum())
    found = posterior.predict(torch.tensor([0]), torch.tensor([0]))
    assert found[0].item() == pytest.approx(mean, abs=0.05)
    assert found[1].item() == pytest.approx(std, rel=0.05)


def test_learns_the_noise_and_beats_als():
    ratings, truth = mfkit.synthetic(200, 150, 6000, rank=2, noise=0.5, seed=0)
    train, test = ratings.split((0.8, 0.2), 0)
    model = mfkit.MatrixFactorization(200, 150, 4, mean=train.mean)
    posterior = sample_posterior(model, train, samples=60, burn_in=40)
    assert posterior.noise_std.mean().item() == pytest.approx(0.5, rel=0.05)
    mean, std = posterior.predict(test.users, test.items)
    best = []
    for l2 in (0.02, 0.05, 0.1, 0.2):
        mfkit.fit_als(model, train, l2=l2, sweeps=20)
        best.append(mfkit.rmse(model, test))
    error = mean - truth(test).float()
    assert (mean - test.values).square().mean().sqrt() < min(best)
    assert 0.8 < (error / std).square().mean().sqrt() < 1.3  # the stated uncertainty is the error's size


def test_the_chain_starts_from_the_spectral_start():
    """With next to no noise the first draw is two ridge regressions from the initializer's tables."""
    ratings, _ = mfkit.synthetic(60, 40, 900, rank=3, seed=0)
    model = mfkit.MatrixFactorization(60, 40, 3, mean=ratings.mean)
    noise = 1e-4
    posterior = sample_posterior(model, ratings, samples=1, burn_in=0, noise_std=noise, prior_std=noise / 0.5**0.5)
    started = mfkit.initializers.spectral_(model, ratings)
    problem = Problem(started, ratings, mean=ratings.mean, scale=1.0, dtype=torch.float64, max_bytes=None)
    problem.read(started)
    for which, rows in ((0, 60), (1, 40)):
        problem.half_sweep(which, torch.full((rows, 1), 0.5, dtype=torch.float64))
    torch.testing.assert_close(posterior.users[0], problem.tables[0].float(), rtol=0, atol=2e-3)
    torch.testing.assert_close(posterior.items[0], problem.tables[1].float(), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("users", "items", "sizes", "d"),
    [
        ([0, 2], [0, 3], (4, 5), 2),  # rows without ratings, fewer ratings than factors
        ([0], [0], (1, 1), 1),  # one rating in all
        ([0] * 50 + [1], [*range(50), 3], (3, 50), 1),  # a user with all items
        ([0, 1, 2], [2, 1, 0], (3, 3), 8),  # more factors than ratings
        ([0, 1, 2], [2, 1, 0], (3, 3), 0),  # biases alone
    ],
)
def test_awkward_shapes(users, items, sizes, d):
    values = np.random.default_rng(0).uniform(1, 5, len(users))
    ratings = mfkit.Ratings(users, items, values, *sizes)
    model = mfkit.MatrixFactorization(*sizes, d, mean=ratings.mean)
    everything = torch.cartesian_prod(torch.arange(sizes[0]), torch.arange(sizes[1])).T
    mean, std = sample_posterior(model, ratings, samples=5, burn_in=2).predict(*everything)
    assert mean.isfinite().all() and std.isfinite().all()


def test_predict_takes_what_the_model_takes():
    ratings, _ = mfkit.synthetic(60, 40, 900, rank=3, noise=0.5, seed=0)
    model = mfkit.MatrixFactorization(60, 40, 3, mean=ratings.mean)
    posterior = sample_posterior(model, ratings, samples=3, burn_in=1)
    mean, std = posterior.predict(torch.tensor([0, 59, 7]), torch.tensor([1, 39, 0]))
    for users, items in (
        ([0, 59, 7], [1, 39, 0]),
        (np.array([0, 59, 7], dtype=np.int16), pd.Series([1, 39, 0])),
        (torch.tensor([0, 59, 7], dtype=torch.int32), (1, 39, 0)),
    ):
        again = posterior.predict(users, items, chunk=2)
        assert torch.equal(again[0], mean) and torch.equal(again[1], std)
    low, high = mean.min().item() + 1e-3, mean.max().item() - 1e-3
    clipped, unclipped = posterior.predict([0, 59, 7], [1, 39, 0], clip=(low, high))
    assert torch.equal(clipped, mean.clamp(low, high)) and torch.equal(unclipped, std)
    assert [len(part) for part in posterior.predict([], [])] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"users": [60]}, IndexError, r"users must lie in \[0, 60\), the model's rows, got 60"),
        ({"items": [-1]}, IndexError, r"items must lie in \[0, 40\), the model's rows, got -1"),
        ({"users": [0.5]}, TypeError, "users must be integers, got dtype torch.float64"),
        ({"users": [True]}, TypeError, "users must be real numbers, got dtype bool"),
        ({"users": ["u_7"]}, TypeError, "users must be a vector of numbers, got list with 'u_7'"),
        ({"items": None}, TypeError, "items must be a vector of numbers, got NoneType"),
        ({"users": 3}, ValueError, r"users must have shape \(N,\), got \(\)"),
        ({"users": [0, 1]}, ValueError, "users and items must have one length, got 2 and 1"),
        ({"clip": (5, 1)}, ValueError, r"clip must be \(lowest, highest\) rating, got \(5, 1\)"),
        ({"chunk": 0}, ValueError, "chunk must be an integer of at least 1, got 0"),
    ],
)
def test_predict_names_what_does_not_fit(changes, error, says):
    tables = torch.zeros(2, 60, 3), torch.zeros(2, 40, 3)
    posterior = mfkit.Posterior(3.5, 1.0, True, *tables, torch.ones(2))
    with pytest.raises(error, match=says):
        posterior.predict(**{"users": [0], "items": [0]} | changes)


def test_ratings_that_no_gaussian_noise_made_are_told():
    counts = np.ones(400)
    counts[7] = 500
    ratings = mfkit.Ratings(np.arange(400) // 20, np.arange(400) % 20, counts, 20, 20)
    with pytest.warns(UserWarning, match=r"a rating lies 20 stds from the mean, .* take the logarithm") as told:
        sample_posterior(mfkit.MatrixFactorization(20, 20, 2), ratings, samples=1, burn_in=1)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_posterior(mfkit.MatrixFactorization(20, 20, 2), ratings.with_values(torch.ones(400)), samples=1)


def test_same_numbers_each_time_and_the_seed_matters():
    ratings, _ = mfkit.synthetic(60, 40, 900, rank=3, noise=0.5, seed=0)
    model = mfkit.MatrixFactorization(60, 40, 3, mean=ratings.mean)
    draws = [sample_posterior(model, ratings, samples=2, burn_in=1, seed=s).users for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    "bad",
    [
        {"prior_std": -1.0},
        {"prior_std": "wide"},
        {"noise_std": math.inf},
        {"samples": 0},
        {"samples": True},
        {"burn_in": -1},
        {"burn_in": None},
        {"seed": 0.5},
    ],
)
def test_bad_arguments_are_named(bad):
    ratings = mfkit.Ratings([0, 1], [0, 1], [1.0, 2.0], 2, 2)
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got {value!r}$"):
        sample_posterior(mfkit.MatrixFactorization(2, 2, 1), ratings, **bad)
