"""The stability pairs: predict and measure of sharpness and max_stable_lr."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mfkit import MatrixFactorization, Ratings, TrainConfig, initializers, measure, predict

FULL = {"optimizer": "sgd", "batch_size": 10_000}


def complete(seed: int, m: int = 12, n: int = 9, rank: int = 2) -> tuple[Ratings, np.ndarray]:
    """Every cell of an m x n matrix of this rank, observed, and its singular values."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n))
    users, items = np.divmod(np.arange(m * n), n)
    return Ratings(users, items, matrix.ravel(), m, n), np.linalg.svd(matrix, compute_uv=False)


def sparse_ratings(seed: int = 0, m: int = 80, n: int = 60, size: int = 1500) -> Ratings:
    rng = np.random.default_rng(seed)
    cells = rng.permutation(m * n)[:size]
    return Ratings(cells // n, cells % n, rng.standard_normal(size), m, n)


def balanced(ratings: Ratings, rank: int) -> MatrixFactorization:
    """U = P sqrt(S), V = Q sqrt(S): the balanced minimum, float64."""
    model = MatrixFactorization(ratings.n_users, ratings.n_items, rank, biases=False).double()
    P, S, Q = torch.linalg.svd(ratings.values.double().reshape(ratings.n_users, ratings.n_items))
    with torch.no_grad():
        model.user_factors.weight.copy_(P[:, :rank] * S[:rank].sqrt())
        model.item_factors.weight.copy_(Q[:rank].T * S[:rank].sqrt())
    return model


def test_worked_by_hand():
    """One rating 3, no mean: (uv - 3)^2 has Hessian [[6, 6], [6, 6]] at u = v = sqrt(3), top eigenvalue 12 = 4 s1."""
    one = Ratings([0], [0], [3.0], 1, 1)
    assert predict.sharpness(one, 1, 0.0, mean=0.0) == pytest.approx(12)
    assert predict.max_stable_lr(one, 1, 0.0, mean=0.0) == pytest.approx(2 / 12)
    # + scale^2 (d + 2 + c) = 4 (5 + 2 + 1) = 32; K = 32 + 6 = 38; with biases hypot(38, 1 + c = 2)
    assert predict.max_stable_lr(one, 5, 2.0, mean=0.0) == pytest.approx(1 / 38)
    assert predict.max_stable_lr(one, 5, 2.0, mean=0.0, biases=True) == pytest.approx(1 / math.hypot(38, 2))
    assert predict.max_stable_lr(one, 1, 0.0) == math.inf  # the mean explains the one rating: nothing to learn


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("seed", range(3))
def test_balanced_minimum_exact(reduction, seed):
    ratings, s = complete(seed)
    expected = 4 * s[0] / (len(ratings) if reduction == "mean" else 1)
    assert predict.sharpness(ratings, 2, 0.0, reduction=reduction, mean=0.0) == pytest.approx(expected, rel=1e-5)
    config = TrainConfig.textbook(reduction=reduction, **FULL)
    assert measure.sharpness(balanced(ratings, 2), ratings, config) == pytest.approx(expected, rel=1e-3)


def test_sharpness_is_the_hessians_top_eigenvalue():
    """Against torch's dense Hessian: at a random point, and at the saddle, whose eigenvalues come in pairs +-."""
    ratings, s = complete(5, 5, 4)
    for std in (0.7, 0.0):
        model = initializers.normal_(MatrixFactorization(5, 4, 2, biases=False), std, seed=1).double()
        start = torch.cat([p.detach().ravel() for p in model.parameters()])

        def loss(flat):
            U, V = flat[:10].reshape(5, 2), flat[10:].reshape(4, 2)
            return (U @ V.T - ratings.values.reshape(5, 4)).square().mean()

        eigenvalues = torch.linalg.eigvalsh(torch.func.hessian(loss)(start))
        measured = measure.sharpness(model, ratings, TrainConfig.textbook(**FULL))
        assert measured == pytest.approx(eigenvalues[-1].item(), rel=1e-3)
    assert eigenvalues[-1].item() == pytest.approx(2 * s[0] / 20)


def test_sharpness_of_the_smallest_models():
    """Two parameters: (uv - 3)^2 at u = v = sqrt(3) has the top eigenvalue 12. Nothing to learn: 0."""
    one = Ratings([0], [0], [3.0], 1, 1)
    assert measure.sharpness(balanced(one, 1), one, TrainConfig.textbook(**FULL)) == pytest.approx(12, rel=1e-5)
    assert measure.sharpness(Zero(), one, TrainConfig.textbook(**FULL)) == 0


def test_sharpness_of_any_module():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.5))

        def forward(self, users, items):
            return self.slope * users.float()

    ratings = Ratings([0, 1, 2], [0, 0, 0], [1.0, 2.0, 3.0], 3, 1)
    assert measure.sharpness(Line(), ratings, TrainConfig.textbook(**FULL)) == pytest.approx(2 * (0 + 1 + 4) / 3)
    border = measure.max_stable_lr(Line, ratings, TrainConfig.textbook(lr=0.5, **FULL), steps=400, ratio=1.04)
    assert border == pytest.approx(2 / (10 / 3), rel=0.1)  # a quadratic: 2 / sharpness, but for the time it takes


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_border_measured_and_predicted(scale):
    ratings = sparse_ratings()
    borders = []
    for reduction in ("mean", "sum"):
        predicted = predict.max_stable_lr(ratings, 10, scale, 128, reduction)
        config = TrainConfig.textbook(optimizer="sgd", lr=predicted, batch_size=128, reduction=reduction)

        def make():
            return initializers.normal_(MatrixFactorization(80, 60, 10, biases=False), scale, seed=0)

        measured = measure.max_stable_lr(make, ratings, config)
        assert 1 / 1.5 < measured / predicted < 2
        assert measure.max_stable_lr(make, ratings, config) == measured
        borders.append(predicted)
    assert borders[0] == pytest.approx(128 * borders[1])


def test_full_batch_border_both_sides():
    ratings, s = complete(3)
    border = predict.max_stable_lr(ratings, 2, 0.0, mean=0.0)
    assert border == pytest.approx(len(ratings) / (2 * s[0]), rel=1e-5)
    ends = []
    for factor in (0.95, 1.05):
        model = initializers.normal_(MatrixFactorization(12, 9, 2, biases=False), 1e-3, seed=3).double()
        config = TrainConfig.textbook(lr=factor * border, **FULL)
        measure.is_stable(model, ratings, config, 400)
        ends.append((model(ratings.users, ratings.items) - ratings.values).square().mean().item())
    assert ends[0] < 1e-6 < 1e-2 < ends[1]


def test_is_stable_counts_steps():
    ratings, model = sparse_ratings(), MatrixFactorization(80, 60, 4)
    before = model.user_bias.weight.clone()
    assert measure.is_stable(model, ratings, TrainConfig.textbook(optimizer="sgd", lr=1e-3, epochs=1), 40)
    assert not model.user_bias.weight.equal(before)
    assert not measure.is_stable(model, ratings, TrainConfig.textbook(optimizer="sgd", lr=1e6), 40)


def test_no_border_is_an_error():
    with pytest.raises(ArithmeticError, match="always stays finite"):
        ratings = Ratings([0, 1], [0, 1], [0.0, 0.0], 2, 2)
        measure.max_stable_lr(lambda: Zero(), ratings, TrainConfig.textbook(**FULL), steps=3)


class Zero(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, users, items):
        return self.b * torch.zeros(len(users))


@pytest.mark.parametrize(
    "bad", [{"n_factors": 0}, {"scale": -1.0}, {"scale": math.nan}, {"batch_size": 0}, {"reduction": "median"}]
)
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        predict.max_stable_lr(**({"ratings": sparse_ratings(), "n_factors": 2, "scale": 1.0, "batch_size": 8} | bad))


def test_more_makes_it_less_stable():
    ratings = sparse_ratings()
    base = predict.max_stable_lr(ratings, 10, 0.3, 128)
    assert predict.max_stable_lr(ratings, 20, 0.3, 128) < base
    assert predict.max_stable_lr(ratings, 10, 0.6, 128) < base
    assert predict.max_stable_lr(ratings, 10, 0.3, 128, biases=True) < base
    assert predict.max_stable_lr(ratings, 10, 0.3, 128, mean=-3.5) < base  # a mean left to the factors
    assert predict.max_stable_lr(ratings, 10, 0.3, 10**9) == predict.max_stable_lr(ratings, 10, 0.3)
