"""Alternating least squares against normal equations, L-BFGS and the trainer; Gibbs sampling against closed forms."""

import math

import numpy as np
import pytest
import torch

import mfkit
from mfkit import measure
from mfkit.als import fit_als, sample_posterior
from mfkit.objective import objective

pytestmark = pytest.mark.usefixtures("one_thread")


def problem(m=60, n=40, size=900, d=3, biases=True, seed=0, dtype=torch.float64):
    ratings, _ = mfkit.synthetic(m, n, size, rank=3, noise=0.5, seed=seed)
    model = mfkit.MatrixFactorization(m, n, d, mean=ratings.mean, biases=biases).to(dtype)
    return ratings, mfkit.initializers.normal_(model, 0.5, seed)


def batch(ratings):
    return ratings.users, ratings.items, ratings.values.double()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("biases", [True, False])
def test_one_sweep_solves_the_normal_equations(dtype, tolerance, biases):
    ratings, model = problem(biases=biases, dtype=dtype)
    V = model.item_factors.weight.detach().double().clone().numpy()
    c = model.item_bias.weight.detach().double().clone().numpy()[:, 0] if biases else np.zeros(40)
    fit_als(model, ratings, l2=0.1, sweeps=1, start="model", dtype=dtype)
    users, items, values = (column.numpy() for column in (ratings.users, ratings.items, ratings.values.double()))
    wanted = np.zeros((60, 3 + biases))
    for i in np.unique(users):
        rated = items[users == i]
        X = np.c_[V[rated], np.ones((len(rated), int(biases)))]
        A = X.T @ X + 0.1 * len(rated) * np.eye(3 + biases)
        wanted[i] = np.linalg.solve(A, X.T @ (values[users == i] - model.mean.item() - c[rated]))
    found = model.user_factors.weight.detach()
    if biases:
        found = torch.cat([found, model.user_bias.weight.detach()], 1)
    assert np.abs(found.double().numpy() - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("start", ["spectral", "random", "model"])
@pytest.mark.parametrize("biases", [True, False])
def test_the_objective_is_the_trainers_and_never_rises(loss, start, biases):
    ratings, model = problem(biases=biases)
    config = mfkit.TrainConfig.textbook(l2=0.05, loss=loss, delta=0.4)
    seen = []

    def look(sweep, value):
        seen.append(objective(model, batch(ratings), config).item())
        assert value == pytest.approx(seen[-1], rel=1e-9) and sweep == len(seen)

    options = {"start": start, "loss": loss, "delta": 0.4, "dtype": torch.float64, "on_sweep": look}
    history = fit_als(model, ratings, l2=0.05, sweeps=30, **options)
    assert len(history) == len(seen) == 30
    assert (np.diff(seen) <= 1e-12).all()
    assert seen[-1] < seen[0]


@pytest.mark.parametrize("biases", [True, False])
def test_agrees_with_lbfgs_on_the_optimum(biases):
    ratings, model = problem(biases=biases)
    reference = measure.minimum(ratings, 0.1, n_factors=3, biases=biases)
    fit_als(model, ratings, l2=0.1, sweeps=800, dtype=torch.float64, start="random", seed=3)
    if not biases:  # the reference has no mean then
        model.mean.zero_()
        fit_als(model, ratings, l2=0.1, sweeps=800, dtype=torch.float64)
    config = mfkit.TrainConfig.textbook(l2=0.1)
    values = [objective(m, batch(ratings), config).item() for m in (model, reference)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    predictions = [m(ratings.users, ratings.items) for m in (model, reference)]
    assert torch.allclose(*predictions, atol=1e-4)


def test_huber_ends_where_the_trainer_ends():
    ratings, model = problem()
    config = mfkit.TrainConfig.textbook(l2=0.1, loss="huber", delta=0.4, batch_size=len(ratings), epochs=1500, lr=3e-3)
    fit_als(model, ratings, l2=0.1, sweeps=1500, loss="huber", delta=0.4, dtype=torch.float64)
    at_optimum = objective(model, batch(ratings), config)
    gradients = torch.autograd.grad(at_optimum, list(model.parameters()))
    assert max(g.abs().max().item() for g in gradients) < 1e-7
    trained = mfkit.initializers.spectral_(mfkit.MatrixFactorization(60, 40, 3, mean=ratings.mean), ratings)
    mfkit.train(trained, ratings, config)
    assert objective(trained, batch(ratings), config).item() == pytest.approx(at_optimum.item(), rel=1e-5)


def test_huber_with_a_wide_delta_is_mse():
    tables = []
    for loss in ("mse", "huber"):
        ratings, model = problem()
        fit_als(model, ratings, l2=0.1, sweeps=5, loss=loss, delta=1e6, dtype=torch.float64)
        tables.append(model.item_factors.weight.detach())
    assert torch.allclose(*tables, atol=1e-12)


def test_memory_bound_changes_nothing_but_the_blocks():
    ratings, model = problem(300, 200, 9000, 8)
    found = []
    for max_bytes in (None, 2**26, 20_000):
        fit_als(model, ratings, l2=0.1, sweeps=3, dtype=torch.float64, max_bytes=max_bytes)
        found.append(model(ratings.users, ratings.items).detach())
    assert torch.allclose(found[0], found[1], atol=1e-10) and torch.allclose(found[0], found[2], atol=1e-10)


def test_memory_stays_below_the_bound():
    ratings, model = problem(3000, 2000, 100_000, 16, dtype=torch.float32)
    bound, run = 2**21, {"l2": 0.1, "sweeps": 1, "start": "model"}
    peak = measure.peak_bytes(lambda: fit_als(model, ratings, max_bytes=bound, **run))
    unbound = measure.peak_bytes(lambda: fit_als(model, ratings, **run))
    layout_and_tables = 60 * len(ratings) + 12 * 5000 * 20
    assert peak < layout_and_tables + 2 * bound < unbound


@pytest.mark.parametrize("sampler", [False, True])
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
def test_awkward_shapes(users, items, sizes, d, sampler):
    values = np.random.default_rng(0).uniform(1, 5, len(users))
    ratings = mfkit.Ratings(users, items, values, *sizes)
    model = mfkit.MatrixFactorization(*sizes, d, mean=ratings.mean)
    everything = torch.cartesian_prod(torch.arange(sizes[0]), torch.arange(sizes[1])).T
    if sampler:
        mean, std = sample_posterior(model, ratings, samples=5, burn_in=2).predict(*everything)
        assert mean.isfinite().all() and std.isfinite().all()
        return
    for l2 in (0.1, 0.0):
        history = fit_als(model, ratings, l2=l2, sweeps=10)
        assert np.isfinite(history).all() and model(*everything).isfinite().all()
    cold = torch.bincount(ratings.users, minlength=sizes[0]) == 0
    assert (model.user_bias.weight[cold] == 0).all()


def test_same_numbers_each_time_and_the_seed_matters():
    ratings, model = problem(dtype=torch.float32)
    runs = [fit_als(model, ratings, l2=0.1, sweeps=2, start="random", seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    draws = [sample_posterior(model, ratings, samples=2, burn_in=1, seed=s).users for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"l2": -1.0}, ValueError, "l2"),
        ({"l2": math.nan}, ValueError, "l2"),
        ({"sweeps": 0}, ValueError, "sweeps"),
        ({"start": "svd"}, ValueError, "start"),
        ({"loss": "mae"}, ValueError, "loss"),
        ({"delta": 0.0}, ValueError, "delta"),
        ({"max_bytes": 100}, ValueError, "max_bytes"),
    ],
)
def test_bad_arguments(change, error, words):
    ratings, model = problem()
    before = model.item_factors.weight.clone()
    with pytest.raises(error, match=words):
        fit_als(model, ratings, **({"l2": 0.1, "sweeps": 1} | change))
    assert torch.equal(before, model.item_factors.weight)


def test_wants_this_model_with_enough_rows():
    ratings, _ = problem()
    with pytest.raises(TypeError, match="MatrixFactorization"):
        fit_als(torch.nn.Embedding(3, 3), ratings, l2=0.1, sweeps=1)
    with pytest.raises(IndexError, match="user_bias"):
        fit_als(mfkit.MatrixFactorization(10, 40, 2), ratings, l2=0.1, sweeps=1)
    with pytest.raises(ValueError, match="prior_std"):
        sample_posterior(problem()[1], ratings, prior_std=-1.0)


def test_gibbs_biases_against_their_gaussian():
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


def test_gibbs_one_product_against_integration():
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


def test_gibbs_learns_the_noise_and_beats_als():
    ratings, truth = mfkit.synthetic(200, 150, 6000, rank=2, noise=0.5, seed=0)
    train, test = ratings.split((0.8, 0.2), 0)
    model = mfkit.MatrixFactorization(200, 150, 4, mean=train.mean)
    posterior = sample_posterior(model, train, samples=60, burn_in=40)
    assert posterior.noise_std.mean().item() == pytest.approx(0.5, rel=0.05)
    mean, std = posterior.predict(test.users, test.items)
    best = []
    for l2 in (0.02, 0.05, 0.1, 0.2):
        fit_als(model, train, l2=l2, sweeps=20)
        best.append(mfkit.rmse(model, test))
    error = mean - truth(test).float()
    assert (mean - test.values).square().mean().sqrt() < min(best)
    assert 0.8 < (error / std).square().mean().sqrt() < 1.3  # the stated uncertainty is the error's size
