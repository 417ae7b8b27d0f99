"""The escape pair: steps until the top mode is half learnt, from near the saddle at zero."""

import math

import numpy as np
import pytest
import torch

from mfkit import MatrixFactorization, Ratings, TrainConfig, initializers, measure, predict, synthetic

pytestmark = pytest.mark.usefixtures("one_thread")


def complete(singular_values=(6.0, 2.0, 1.0), m=14, n=9, seed=0) -> Ratings:
    """Every cell of a matrix with these singular values."""
    rng, k = np.random.default_rng(seed), len(singular_values)
    P, Q = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in (m, n))
    users, items = np.divmod(np.arange(m * n), n)
    return Ratings(users, items, (P * singular_values @ Q.T).ravel(), m, n)


def run(ratings, d, stds, lr, seed, batch_size=10_000, **options) -> float:
    model = MatrixFactorization(ratings.n_users, ratings.n_items, d, biases=False).double()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for table, std in zip((model.user_factors, model.item_factors), stds, strict=True):
            table.weight.copy_(torch.from_numpy(rng.standard_normal(table.weight.shape) * std))
    config = TrainConfig.textbook(optimizer="sgd", lr=lr, batch_size=batch_size)
    return measure.escape_time(model, ratings, config, mean=0.0, **options)


def test_worked_by_hand():
    """One rating 3, d = 2, stds 0.1: digamma(1) = -0.5772, x0 = 0.01 e^-0.5772 = 0.005615; lr 0.01: pace 2 ln 1.06."""
    one = Ratings([0], [0], [3.0], 1, 1)
    steps = math.log(3 / 0.00561459) / (2 * math.log(1.06))
    assert predict.escape_time(one, 2, 0.1, 0.1, 0.01, mean=0.0) == pytest.approx(steps, rel=1e-5)
    assert predict.escape_time(one, 2, 30.0, 30.0, 0.01, mean=0.0) == 0  # beyond it from the start
    assert predict.escape_time(one, 2, 0.1, 0.1, 0.01) == math.inf  # the mean explains it
    assert predict.escape_time(one, 2, 0.0, 0.0, 0.01, mean=0.0) == math.inf


def test_one_dimension_by_simulation():
    """u = v = a on one rating r: u <- u + 2 lr u (r - u^2), by hand."""
    one, r, lr, u, steps = Ratings([0], [0], [3.0], 1, 1), 3.0, 0.005, 1e-4, 0
    model = MatrixFactorization(1, 1, 1, biases=False).double()
    torch.nn.init.constant_(model.user_factors.weight, u)
    torch.nn.init.constant_(model.item_factors.weight, u)
    while u * u < r / 2:
        u, steps = u + 2 * lr * u * (r - u * u), steps + 1
    measured = measure.escape_time(model, one, TrainConfig.textbook(optimizer="sgd", lr=lr), mean=0.0)
    assert steps - 1 < measured <= steps
    assert measured == pytest.approx(math.log(r / 1e-8) / (2 * math.log1p(2 * lr * r)), rel=1e-2)


@pytest.mark.parametrize("stds", [(1e-3, 1e-3), (1e-3, 0.0), (0.0, 1e-3), (1e-2, 1e-4)])
def test_mean_over_seeds(stds):
    ratings, d = complete(), 12
    lr = 0.1 * len(ratings) / 6
    measured = [run(ratings, d, stds, lr, seed) for seed in range(4)]
    error = 4 * np.std(measured, ddof=1) / math.sqrt(4)
    assert np.mean(measured) == pytest.approx(predict.escape_time(ratings, d, *stds, lr, mean=0.0), abs=error + 1)


def test_slope():
    """Two scales, same draw: ln of their ratio over the log growth a step, whatever the draw."""
    ratings = complete()
    lr = 0.1 * len(ratings) / 6
    near, far = (run(ratings, 4, (a, a), lr, seed=1) for a in (1e-3, 1e-5))
    assert far - near == pytest.approx(math.log(1e2) / math.log1p(2 * lr * 6 / len(ratings)), rel=5e-3)


@pytest.mark.parametrize("batch_size", [3000, 500])
def test_observed_in_part(batch_size):
    ratings, _ = synthetic(120, 150, 3000, seed=0)
    s1, weights = predict.top_mode(ratings)
    dense = np.zeros((120, 150))
    dense[ratings.users, ratings.items] = ratings.values.double() - ratings.mean
    assert s1 == pytest.approx(np.linalg.norm(dense, 2))
    assert (weights * (ratings.values.double() - ratings.mean)).sum().item() == pytest.approx(s1)
    lr = 0.05 * len(ratings) / s1
    model = MatrixFactorization(120, 150, 10, mean=ratings.mean, biases=False)
    config = TrainConfig.textbook(optimizer="sgd", lr=lr, batch_size=batch_size)
    measured = measure.escape_time(initializers.normal_(model, 1e-4, seed=0), ratings, config)
    assert measured == pytest.approx(predict.escape_time(ratings, 10, 1e-4, 1e-4, lr), rel=0.1)


def test_two_zero_tables_never_leave():
    ratings = complete()
    model = MatrixFactorization(14, 9, 3, biases=False)
    initializers.normal_(model, 0.0)
    assert measure.escape_time(model, ratings, TrainConfig.textbook(lr=0.1), mean=0.0, steps=50) == math.inf
    assert not any(p.any() for p in model.parameters())
    nothing = Ratings([0, 1], [0, 1], [0.0, 0.0], 2, 2)
    assert measure.escape_time(MatrixFactorization(2, 2, 1), nothing, TrainConfig.textbook(), steps=3) == math.inf
