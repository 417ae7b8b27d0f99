"""Each initializer's docstring says which std its predictions have; here it is measured."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mfkit import MatrixFactorization, Ratings, initializers, measure, rmse, synthetic

M, N, D = 1500, 700, 48


@pytest.mark.parametrize(
    ("fill", "law"),
    [
        (lambda model: initializers.normal_(model, seed=1), math.sqrt(D)),
        (lambda model: initializers.normal_(model, 0.3, seed=1), math.sqrt(D) * 0.09),
        (lambda model: initializers.xavier_(model, seed=1), 2 * math.sqrt(D) / math.sqrt((M + D) * (N + D))),
        (lambda model: initializers.he_(model, seed=1), 2 / math.sqrt(D)),
        (lambda model: initializers.scaled_(model, 0.25, seed=1), 0.25),
        (lambda model: model, 0.1),  # the model's own start
    ],
)
def test_prediction_std_follows_its_law(fill, law):
    torch.manual_seed(0)
    model = fill(MatrixFactorization(M, N, D, mean=3.0))
    with torch.no_grad():
        dense = model.user_factors.weight @ model.item_factors.weight.T
    assert dense.std().item() == pytest.approx(law, rel=0.03)
    assert dense.mean().abs() < 0.03 * law


@pytest.mark.parametrize(
    ("ours", "theirs"), [(initializers.xavier_, nn.init.xavier_normal_), (initializers.he_, nn.init.kaiming_normal_)]
)
def test_table_stds_are_torchs(ours, theirs):
    model, table = ours(MatrixFactorization(M, N, D)), nn.Embedding(M, D)
    theirs(table.weight)
    assert model.user_factors.weight.std().item() == pytest.approx(table.weight.std().item(), rel=0.03)


def test_seeds_decide_and_biases_start_at_zero():
    model = MatrixFactorization(5, 4, 3)
    nn.init.ones_(model.user_bias.weight)
    state = torch.random.get_rng_state()
    first = initializers.scaled_(model, seed=7).user_factors.weight.clone()
    assert torch.equal(state, torch.random.get_rng_state())
    assert not model.user_bias.weight.any()
    assert torch.equal(first, initializers.scaled_(model.double(), seed=7).user_factors.weight.float())
    assert not torch.equal(first, initializers.scaled_(model, seed=8).user_factors.weight.float())


def everything(matrix) -> Ratings:
    users, items = np.divmod(np.arange(matrix.size), matrix.shape[1])
    return Ratings(users, items, matrix.ravel(), *matrix.shape)


def test_spectral_on_a_whole_matrix():
    """All cells observed, no biases: counts are equal, and U V' is the best rank-d product, a quarter of it."""
    matrix = np.random.default_rng(0).standard_normal((9, 7))
    P, S, Q = np.linalg.svd(matrix)
    for l2 in (0.0, 0.1):
        model = MatrixFactorization(9, 7, 3, biases=False).double()
        initializers.spectral_(model, everything(matrix), l2)
        # A^-1/2 E C^-1/2 = E / sqrt(14 * 18); N = 63
        shrunk = (63 * (S[:3] / np.sqrt(14 * 18) - l2).clip(0)) / np.sqrt(14 * 18)
        product = (model.user_factors.weight @ model.item_factors.weight.T).detach().numpy()
        np.testing.assert_allclose(product, P[:, :3] * shrunk @ Q[:3], atol=1e-6)


def test_spectral_beats_a_random_start_and_repeats():
    ratings, _ = synthetic(150, 200, 4000, seed=0)
    train, test = ratings.split((0.8, 0.2), seed=0)
    first, again, random = (MatrixFactorization(150, 200, 6, mean=train.mean) for _ in range(3))
    initializers.spectral_(first, train, l2=0.1)
    initializers.spectral_(again, train, l2=0.1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert rmse(first, test) < rmse(initializers.scaled_(random, seed=0), test) - 0.02
    assert measure.prediction_std(first, train) < train.values.std()


def test_spectral_columns_below_the_strength_are_zero_in_both_tables():
    ratings, _ = synthetic(60, 50, 900, seed=0)
    model = initializers.spectral_(MatrixFactorization(60, 50, 5, mean=ratings.mean), ratings, l2=10.0)
    assert not model.user_factors.weight.any()
    assert not model.item_factors.weight.any()
    assert model.user_bias.weight.any()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: initializers.normal_(m, -1.0), ValueError, "std must be finite and at least 0, got -1.0"),
        (lambda m: initializers.normal_(m, math.nan), ValueError, "std must be finite and at least 0, got nan"),
        (lambda m: initializers.scaled_(m, 0.0), ValueError, "prediction_std must be positive and finite, got 0.0"),
        (
            lambda m: initializers.scaled_(m, math.inf),
            ValueError,
            "prediction_std must be positive and finite, got inf",
        ),
        (lambda m: initializers.he_(nn.Linear(2, 2)), TypeError, "model must have.*user_factors.*got Linear"),
        (lambda m: initializers.xavier_(MatrixFactorization(2, 2, 0)), TypeError, "model must have.*user_factors"),
        (lambda m: initializers.spectral_(nn.Linear(2, 2), None), TypeError, "model must have.*user_factors"),
        (lambda m: initializers.spectral_(MatrixFactorization(2, 2, 2), everything(np.eye(2))), ValueError, "`k` must"),
    ],
)
def test_refusals(call, error, says):
    with pytest.raises(error, match=says):
        call(MatrixFactorization(3, 3, 2))
