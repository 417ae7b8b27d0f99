"""The strength at which L2 erases the model: by hand, by a dense SVD, and by minimising what the trainer minimises."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import mfkit
from mfkit import measure, predict
from mfkit.objective import objective


@pytest.fixture(scope="module")
def ratings():
    return mfkit.synthetic(60, 80, 1500, seed=3)[0]


def dense(ratings, values=None):
    R = np.zeros((ratings.n_users, ratings.n_items))
    R[ratings.users, ratings.items] = ratings.values.double() if values is None else values
    return R


def test_hand_worked():
    # [[4, 3], [3, 4]] has singular values 7 and 1; four ratings, two in each row and column
    full = mfkit.Ratings([0, 0, 1, 1], [0, 1, 0, 1], [4, 3, 3, 4], 2, 2)
    assert predict.collapse_l2(full, "per_table") == pytest.approx(7 / 4)
    assert predict.collapse_l2(full, "per_rating") == pytest.approx(7 / 2)
    # mean 3.5, biases 0, leaving +-0.5: singular value 1
    assert predict.collapse_l2(full, "per_table", residual=True) == pytest.approx(1 / 4)
    assert predict.collapse_l2(full, "per_rating", residual=True, scale=1.0) == pytest.approx(1 / 2)


def test_one_rating_and_nothing_left_over():
    one = mfkit.Ratings([0], [0], [4], 3, 5)
    assert predict.collapse_l2(one) == pytest.approx(4)
    assert predict.collapse_l2(one, residual=True) == 0


def test_dense_svd(ratings):
    R = dense(ratings)
    assert predict.collapse_l2(ratings, "per_table") == pytest.approx(np.linalg.norm(R, 2) / len(ratings), rel=1e-9)
    du, di = ((R != 0).sum(axis=k).clip(1) for k in (1, 0))
    scaled = R / np.sqrt(np.outer(du, di))
    assert predict.collapse_l2(ratings) == pytest.approx(np.linalg.norm(scaled, 2), rel=1e-9)


def test_residual_is_a_fixed_point(ratings):
    """Biases by dense normal equations with the very strength that comes out."""
    star = predict.collapse_l2(ratings, residual=True, scale=1.0)
    A = np.zeros((len(ratings), 140))
    A[np.arange(len(ratings)), ratings.users] = A[np.arange(len(ratings)), 60 + ratings.items] = 1
    y = ratings.values.double().numpy() - ratings.mean
    left = y - A @ np.linalg.lstsq(A.T @ A + star * np.diag(A.sum(0)), A.T @ y, rcond=None)[0]
    du, di = A[:, :60].sum(0), A[:, 60:].sum(0)
    scaled = dense(ratings, left) / np.sqrt(np.outer(du.clip(1), di.clip(1)))
    assert star == pytest.approx(np.linalg.norm(scaled, 2), rel=1e-6)


def left_over_dense(ratings, l2, scale):
    """s1(D_u^-1/2 E D_i^-1/2) of what mean and biases leave over, all matrices dense; biases counted in `scale`."""
    m, N = ratings.n_users, len(ratings)
    A = np.zeros((N, m + ratings.n_items))
    A[np.arange(N), ratings.users] = A[np.arange(N), m + ratings.items] = 1
    ridge = np.diag(np.sqrt(l2 / scale * A.sum(0)))
    y = ratings.values.double().numpy() - ratings.mean
    left = y - A @ np.linalg.lstsq(np.r_[A, ridge], np.r_[y, np.zeros(len(ridge))], rcond=None)[0]
    counts = A.sum(0).clip(1)
    return np.linalg.norm(dense(ratings, left) / np.sqrt(np.outer(counts[:m], counts[m:])), 2)


def random_ratings(rng):
    m, n = rng.integers(2, 25, 2)
    cells = rng.permutation(m * n)[: rng.integers(2, m * n + 1)]
    values = (
        rng.normal(3, 1, len(cells)),
        rng.integers(1, 6, len(cells)),
        rng.lognormal(1, 1, len(cells)) * rng.choice([0.01, 1, 20]),
    )[rng.integers(3)]
    return mfkit.Ratings(cells // n, cells % n, values, m, n)


@pytest.mark.parametrize("scale", [None, 1.0])
def test_residual_on_150_random_problems(scale):
    """The largest l2 at which what is left over has a singular value of l2: a dense scan from above, then bisection.

    In a few of them biases alone can explain everything, so that 0 is a fixed point too: the smallest.
    """
    rng = np.random.default_rng(7)
    two = 0
    for _ in range(150):
        ratings = random_ratings(rng)
        unit = scale or ratings.std or 1.0

        def excess(l2, ratings=ratings, unit=unit):
            return left_over_dense(ratings, l2, unit) - l2

        top = left_over_dense(ratings, 1e12 * unit, unit)
        scan = [*np.geomspace(1.5, 1e-4, 40) * top, 0.0]
        wanted = 0.0
        for high, low in itertools.pairwise(scan):
            if excess(low) > 1e-10 * top:
                wanted = brentq(excess, low, high, xtol=1e-14 * top, rtol=1e-13)
                two += excess(0.0) < 1e-10 * top
                break
        found = predict.collapse_l2(ratings, residual=True, scale=scale)
        assert found == pytest.approx(wanted, rel=1e-8, abs=1e-7 * top)
    assert two >= 3


def test_a_border_that_biases_could_explain_away():
    """Two users, one item, ratings +-2: biases +-2 leave nothing over, but at l2 = 1 factors are cheaper.

    Biases b, -b leave r - b with b = r / (1 + l2), so e = r l2 / (1 + l2); s1 = |e| sqrt(2) / sqrt(2) = l2 at
    l2 = r - 1: 1. On ratings +-1/2 it is below 0, and the border is 0.
    """
    two = mfkit.Ratings([0, 1], [0, 0], [2, -2], 2, 1)
    assert predict.collapse_l2(two, residual=True, scale=1.0) == pytest.approx(1, rel=1e-9)
    assert predict.collapse_l2(two.with_values(two.values / 4), residual=True, scale=1.0) == 0
    # over their std, 2, the ratings are +-1: just at the edge of it
    assert predict.collapse_l2(two, residual=True) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("a", "b"), [(0.05, 0), (4, 0), (25, -3), (1e4, 1e5)])
@pytest.mark.parametrize("penalty", ["per_rating", "per_table"])
def test_the_border_has_the_unit_of_the_ratings(ratings, a, b, penalty):
    mapped = ratings.with_values(a * ratings.values.double() + b)
    plain = predict.collapse_l2(ratings, penalty, residual=True)
    assert predict.collapse_l2(mapped, penalty, residual=True) == pytest.approx(a * plain, rel=1e-4)
    standard = ratings.with_values((ratings.values.double() - ratings.mean) / ratings.std)
    of_standard = predict.collapse_l2(standard, penalty, residual=True, scale=1.0)
    assert plain == pytest.approx(ratings.std * of_standard, rel=1e-6)


def test_the_border_is_that_of_a_model_of_this_scale(ratings):
    """`train`'s objective with scale=0.2: zero factors are its minimum above border / 0.2, and are not below."""
    scale = 0.2
    border = predict.collapse_l2(ratings, residual=True, scale=scale)
    over = ratings.with_values(ratings.values / scale)
    for share, low, high in ((1.02, 0, 1e-4), (0.98, 1e-3, 10)):
        model = measure.minimum(over, share * border / scale, biases=True)
        assert low <= measure.largest_interaction(model, over) <= high
    assert measure.collapse_l2(ratings, residual=True, scale=scale, precision=0.01) == pytest.approx(border, rel=0.01)
    assert abs(border / predict.collapse_l2(ratings, residual=True, scale=1.0) - 1) > 0.02


def test_equal_ratings_leave_nothing_and_are_never_dense():
    """60,000 x 40,000 cells are 18 GiB; a column of 1,000,000 rows is no reason for a square either."""
    for m, n, size in ((60_000, 40_000, 1000), (1_000_000, 2, 1000)):
        rng = np.random.default_rng(0)
        ratings = mfkit.Ratings(rng.permutation(m)[:size], rng.integers(0, n, size), np.full(size, 3.0), m, n)
        tracemalloc.start()
        assert predict.collapse_l2(ratings, residual=True) == 0
        s1, weights = predict.top_mode(ratings)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (s1, weights.tolist()) == (0, [0.0] * size)
        assert peak < 40e6
        assert predict.escape_time(ratings, 4, 0.1, 0.1, 0.1) == np.inf
    most = int(ratings.items.bincount().max())
    assert predict.collapse_l2(ratings, "per_table") == pytest.approx(3 * most**0.5 / size)
    small = mfkit.Ratings([0, 1], [0, 1], [3, 3], 2, 2)
    assert measure.collapse_l2(small, residual=True) == 0  # and ends


@pytest.mark.parametrize("penalty", ["per_rating", "per_table"])
@pytest.mark.parametrize("residual", [False, True])
def test_zero_above_not_below(ratings, penalty, residual):
    star = predict.collapse_l2(ratings, penalty, residual, scale=1.0)
    for seed, std in enumerate((0.03, 0.3, 1.0)):
        options = {"n_factors": 3, "biases": residual, "std": std, "seed": seed}
        above = measure.minimum(ratings, 1.02 * star, penalty, **options)
        below = measure.minimum(ratings, 0.98 * star, penalty, **options)
        assert measure.largest_interaction(above, ratings) < 1e-4
        assert measure.largest_interaction(below, ratings) > 1e-2


@pytest.mark.parametrize("penalty", ["per_rating", "per_table"])
@pytest.mark.parametrize("biases", [False, True])
def test_minimum_is_stationary_for_the_trainers_objective(ratings, penalty, biases):
    config = mfkit.TrainConfig.textbook(
        l2=0.3 * predict.collapse_l2(ratings, penalty, biases, scale=1.0), penalty=penalty
    )
    model = measure.minimum(ratings, config.l2, penalty, n_factors=4, biases=biases)
    batch = (ratings.users, ratings.items, ratings.values.double())
    objective(model, batch, config).backward()
    assert all(p.grad.abs().max() < 1e-7 for p in model.parameters())
    other = measure.minimum(ratings, config.l2, penalty, n_factors=4, biases=biases, seed=1, std=1.0)
    values = [objective(m, batch, config).item() for m in (model, other)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_measured_border(ratings):
    star = predict.collapse_l2(ratings)
    assert measure.collapse_l2(ratings, precision=0.01) == pytest.approx(star, rel=0.01)


def test_repeatable_and_checked(ratings):
    assert predict.collapse_l2(ratings) == predict.collapse_l2(ratings)
    for function in (predict.collapse_l2, lambda r, p: measure.minimum(r, 0.1, p)):
        with pytest.raises(ValueError, match=r"penalty must be .* got 'table'"):
            function(ratings, "table")


def test_minimum_is_float64_and_needs_no_grad_state(ratings):
    with torch.no_grad():
        model = measure.minimum(ratings, 0.5, biases=True)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model.mean.item() == ratings.mean


def test_minimum_goes_by_name_not_by_the_tables_order(ratings, monkeypatch):
    """With one factor all four tables have one column, so that a wrong order would fit without a word."""

    class BiasesFirst(mfkit.MatrixFactorization):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            for name in ("user_factors", "item_factors"):
                self.add_module(name, self._modules.pop(name))

    plain = measure.minimum(ratings, 0.05, n_factors=1, biases=True)
    monkeypatch.setattr(measure, "MatrixFactorization", BiasesFirst)
    other = measure.minimum(ratings, 0.05, n_factors=1, biases=True)
    assert next(name for name, _ in other.named_parameters()) == "user_bias.weight"
    batch = (ratings.users, ratings.items, ratings.values.double())
    values = [objective(m, batch, mfkit.TrainConfig.textbook(l2=0.05)).item() for m in (plain, other)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
