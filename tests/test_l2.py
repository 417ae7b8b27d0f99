"""The strength at which L2 erases the model: by hand, by a dense SVD, and by minimising what the trainer minimises."""

import numpy as np
import pytest
import torch

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
    assert predict.collapse_l2(full, "per_rating", residual=True) == pytest.approx(1 / 2)


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
    star = predict.collapse_l2(ratings, residual=True)
    A = np.zeros((len(ratings), 140))
    A[np.arange(len(ratings)), ratings.users] = A[np.arange(len(ratings)), 60 + ratings.items] = 1
    y = ratings.values.double().numpy() - ratings.mean
    left = y - A @ np.linalg.lstsq(A.T @ A + star * np.diag(A.sum(0)), A.T @ y, rcond=None)[0]
    du, di = A[:, :60].sum(0), A[:, 60:].sum(0)
    scaled = dense(ratings, left) / np.sqrt(np.outer(du.clip(1), di.clip(1)))
    assert star == pytest.approx(np.linalg.norm(scaled, 2), rel=1e-6)


@pytest.mark.parametrize("penalty", ["per_rating", "per_table"])
@pytest.mark.parametrize("residual", [False, True])
def test_zero_above_not_below(ratings, penalty, residual):
    star = predict.collapse_l2(ratings, penalty, residual)
    for seed, std in enumerate((0.03, 0.3, 1.0)):
        options = {"n_factors": 3, "biases": residual, "std": std, "seed": seed}
        above = measure.minimum(ratings, 1.02 * star, penalty, **options)
        below = measure.minimum(ratings, 0.98 * star, penalty, **options)
        assert measure.largest_interaction(above, ratings) < 1e-4
        assert measure.largest_interaction(below, ratings) > 1e-2


@pytest.mark.parametrize("penalty", ["per_rating", "per_table"])
@pytest.mark.parametrize("biases", [False, True])
def test_minimum_is_stationary_for_the_trainers_objective(ratings, penalty, biases):
    config = mfkit.TrainConfig.textbook(l2=0.3 * predict.collapse_l2(ratings, penalty, biases), penalty=penalty)
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
