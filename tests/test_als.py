"""Alternating least squares against normal equations, L-BFGS and the trainer."""

import math

import numpy as np
import pytest
import torch

import mfkit
from mfkit import fit_als, measure
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


@pytest.mark.parametrize("biases", [True, False])
def test_the_spectral_start_is_that_of_the_initializer(biases):
    full, _ = problem()
    ratings = mfkit.Ratings(*full.columns, 62, 43)  # the last rows without ratings
    models = [mfkit.MatrixFactorization(62, 43, 3, mean=ratings.mean, biases=biases).double() for _ in range(2)]
    fit_als(models[0], ratings, l2=0.1, sweeps=1, dtype=torch.float64)
    mfkit.initializers.spectral_(models[1], ratings, l2=0.1)
    fit_als(models[1], ratings, l2=0.1, sweeps=1, start="model", dtype=torch.float64)  # reads the items' tables
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


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
    for l2 in (0.1, 0.0):
        history = fit_als(model, ratings, l2=l2, sweeps=10)
        assert np.isfinite(history).all() and model(*everything).isfinite().all()
    cold = torch.bincount(ratings.users, minlength=sizes[0]) == 0
    assert (model.user_bias.weight[cold] == 0).all()


def test_same_numbers_each_time_and_the_seed_matters():
    ratings, model = problem(dtype=torch.float32)
    runs = [fit_als(model, ratings, l2=0.1, sweeps=2, start="random", seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


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
