"""RMSE against numpy, and misfits named before they crash or broadcast."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mfkit import MatrixFactorization, Ratings, fit_als, rmse, sample_posterior, train
from mfkit.evaluate import check_fit

RATINGS = Ratings([0, 1, 2, 2], [0, 1, 0, 1], [1.0, 2.0, 3.0, 5.0], 3, 2)


class Foreign(nn.Module):
    """Somebody's own: two tables, dropout, a dot product; `shape` spoils what it returns."""

    def __init__(self, rows=(3, 2), shape=lambda x: x):
        super().__init__()
        self.p, self.q = (nn.Embedding(n, 4) for n in rows)
        self.drop, self.shape = nn.Dropout(0.5), shape

    def forward(self, users, items):
        return self.shape((self.drop(self.p(users)) * self.q(items)).sum(-1))


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        (Foreign((2, 2)), IndexError, r"model.p must have at least 3 rows for id 2 in validation, got 2"),
        (Foreign((3, 1)), IndexError, r"model.q must have at least 2 rows for id 1 in validation, got 1"),
        (Foreign(shape=lambda x: x[:, None]), ValueError, r"prediction must have .*\(2,\), got \(2, 1\).*squeeze"),
        (Foreign(shape=lambda x: x.sum()), ValueError, r"prediction must have .*\(2,\), got \(\)"),
        (Foreign(shape=lambda x: (x, x)), TypeError, "model must return a tensor of predictions, got tuple"),
    ],
)
def test_a_misfit_is_named(model, error, says):
    model.drop.eval()
    with pytest.raises(error, match=says):
        check_fit(model, RATINGS, "validation")
    with pytest.raises(error):
        rmse(model, RATINGS)
    assert model.training
    assert not model.drop.training  # each part's mode comes back


def test_a_fit_leaves_everything_as_it_was():
    model, state = Foreign(), torch.random.get_rng_state()
    before = [p.clone() for p in model.parameters()]
    check_fit(model, RATINGS, "ratings")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training


class Matrices(nn.Module):
    def __init__(self, m=3, n=2):
        super().__init__()
        self.U, self.V = nn.Parameter(torch.ones(m, 2)), nn.Parameter(torch.ones(n, 2))

    def forward(self, users, items):
        return (self.U[users] * self.V[items]).sum(-1)


def test_matrices_with_too_few_rows():
    with pytest.raises(IndexError, match=r"model must have rows for user 2 and item 1 of ratings, got"):
        check_fit(Matrices(2), RATINGS, "ratings")


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_rmse_is_numpys(chunk):
    """All predict 2: errors 1, 0, -1, -3, so sqrt(11 / 4); clipped to (3, 5): 2, 1, 0, -2, so sqrt(9 / 4)."""
    model = Matrices()
    assert rmse(model, RATINGS, chunk=chunk) == pytest.approx(np.sqrt(11 / 4))
    assert rmse(model, RATINGS, clip=(3, 5), chunk=chunk) == pytest.approx(1.5)
    assert rmse(model.double(), RATINGS) == pytest.approx(np.sqrt(11 / 4))


def test_rmse_turns_dropout_off_and_back_on():
    model = Foreign()
    users, items, values = RATINGS.columns
    error = (model.p.weight[users] * model.q.weight[items]).sum(-1) - values
    assert rmse(model, RATINGS) == pytest.approx(error.square().mean().sqrt().item())
    assert model.training


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clip": (5, 1)}, r"clip must be \(lowest, highest\) rating, got \(5, 1\)"),
        ({"clip": 5}, r"clip must be \(lowest, highest\) rating, got 5"),
        ({"chunk": 0}, "chunk must be an integer of at least 1, got 0"),
    ],
)
def test_rmse_refuses(options, says):
    with pytest.raises(ValueError, match=says):
        rmse(Matrices(), RATINGS, **options)


def numbered(shift):
    """Ratings whose users are "1", "2", "3", or the ones after."""
    frame = pd.DataFrame(
        {"user": [str(shift + k) for k in (1, 2, 3, 3)], "item": list("abab"), "rating": [1.0, 2, 3, 5]}
    )
    return Ratings.from_frame(frame)


@pytest.mark.parametrize(
    "mix",
    [
        lambda model, own, other: rmse(model, other),
        lambda model, own, other: rmse(torch.compile(model, backend="eager"), other),
        lambda model, own, other: check_fit(model, other, "ratings"),
        lambda model, own, other: train(model, other),
        lambda model, own, other: train(model, own, validation=other),
        lambda model, own, other: train(MatrixFactorization(3, 2, 1), own, validation=other),
        lambda model, own, other: fit_als(model, other),
        lambda model, own, other: sample_posterior(model, other, samples=1, burn_in=0),
        lambda model, own, other: model.top_k([0], 1, exclude=other),
        lambda model, own, other: model.recommend("1", 1, exclude=other),
    ],
)
def test_two_numberings_are_not_mixed(mix):
    own, other = numbered(0), numbered(1)
    model = MatrixFactorization.of(own, 1)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"must have the same user_ids, row by row, got '.' and '.' in row 0.*like="):
        mix(model, own, other)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    mix_free = MatrixFactorization(3, 2, 1)  # without ids: rows are all it has
    assert rmse(mix_free, own) > 0
    assert rmse(mix_free, other) > 0
    assert rmse(model, numbered(0)) > 0  # read twice, numbered alike
