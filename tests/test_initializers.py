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


@pytest.mark.parametrize("l2", [0.0, 0.1, 0.27, 10.0])  # S / sqrt(14 * 18) begins with .33, .25, .21
def test_spectral_on_a_whole_matrix(l2):
    """All cells observed, no biases: counts are equal, and U V' is the best rank-d product, a quarter of it.

    What l2 takes beyond a hundredth of a singular value stays: zero in both tables would stay zero.
    """
    matrix = np.random.default_rng(0).standard_normal((9, 7))
    P, S, Q = np.linalg.svd(matrix)
    model = MatrixFactorization(9, 7, 3, biases=False).double()
    initializers.spectral_(model, everything(matrix), l2, powers=200)
    s = S[:3] / np.sqrt(14 * 18)  # of A^-1/2 E C^-1/2 = E / sqrt(14 * 18); N = 63
    kept = 63 * np.maximum(s - l2, 0.01 * s) / np.sqrt(14 * 18)
    product = (model.user_factors.weight @ model.item_factors.weight.T).detach().numpy()
    np.testing.assert_allclose(product, P[:, :3] * kept @ Q[:3], atol=1e-6)


def test_spectral_biases_by_hand():
    """Users rate 2 and 1 items: A = (3.5, 2.5); items have 1 and 2 ratings: C = (2.5, 3.5). The mean 3 is taken off."""
    ratings = Ratings([0, 0, 1], [0, 1, 1], [4.0, 5.0, 1.0], 2, 2)
    model = initializers.spectral_(MatrixFactorization(2, 2, 1, mean=3.0), ratings)
    b = [(1 + 2) / 3.5, -2 / 2.5]
    c = [(1 - b[0]) / 2.5, (2 - b[0] - 2 - b[1]) / 3.5]
    assert model.user_bias.weight[:, 0].tolist() == pytest.approx(b)
    assert model.item_bias.weight[:, 0].tolist() == pytest.approx(c)


def test_the_default_powers_find_what_stands_out_of_the_noise():
    rng = np.random.default_rng(0)
    P, Q = (np.linalg.qr(rng.standard_normal((size, 2)))[0] for size in (40, 30))
    matrix = P * [30.0, 20.0] @ Q.T + 0.1 * rng.standard_normal((40, 30))  # the noise's largest S is about 1.2
    products = []
    for powers in (initializers.SPECTRAL_POWERS, 100):
        model = MatrixFactorization(40, 30, 2, biases=False).double()
        initializers.spectral_(model, everything(matrix), powers=powers)
        products.append((model.user_factors.weight @ model.item_factors.weight.T).detach())
    torch.testing.assert_close(*products, rtol=0, atol=1e-6)


def test_spectral_beats_a_random_start_and_repeats():
    ratings, _ = synthetic(150, 200, 4000, seed=0)
    train, test = ratings.split((0.8, 0.2), seed=0)
    first, again, random = (MatrixFactorization(150, 200, 6, mean=train.mean) for _ in range(3))
    initializers.spectral_(first, train, l2=0.1)
    initializers.spectral_(again, train, l2=0.1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert rmse(first, test) < rmse(initializers.scaled_(random, seed=0), test) - 0.02
    assert measure.prediction_std(first, train) < train.values.std()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: initializers.normal_(m, -1.0), ValueError, "std must be a finite number of at least 0, got -1.0"),
        (lambda m: initializers.normal_(m, math.nan), ValueError, "std must be a finite number of at least 0, got nan"),
        (lambda m: initializers.scaled_(m, 0.0), ValueError, "prediction_std must be a finite number above 0, got 0.0"),
        (
            lambda m: initializers.scaled_(m, math.inf),
            ValueError,
            "prediction_std must be a finite number above 0, got inf",
        ),
        (lambda m: initializers.he_(nn.Linear(2, 2)), TypeError, "model must have.*user_factors.*got Linear"),
        (lambda m: initializers.xavier_(MatrixFactorization(2, 2, 0)), TypeError, "model must have.*user_factors"),
        (lambda m: initializers.spectral_(nn.Linear(2, 2), None), TypeError, "model must have.*user_factors"),
        (
            lambda m: initializers.spectral_(MatrixFactorization(2, 2, 2), everything(np.eye(2))),
            ValueError,
            "n_factors must be below n_users=2 and n_items=2 for a spectral start, got 2",
        ),
        (lambda m: initializers.spectral_(m, everything(np.eye(4))), IndexError, "at least 4 rows .*users, got 3"),
        (lambda m: initializers.spectral_(m, everything(np.eye(3)), powers=0), ValueError, "powers must .* got 0"),
    ],
)
def test_refusals(call, error, says):
    with pytest.raises(error, match=says):
        call(MatrixFactorization(3, 3, 2))
