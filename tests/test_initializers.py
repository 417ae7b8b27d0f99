"""Each initializer's docstring says which std its predictions have; here it is measured."""

import math

import pytest
import torch
from torch import nn

from mfkit import MatrixFactorization, initializers

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
    ],
)
def test_refusals(call, error, says):
    with pytest.raises(error, match=says):
        call(MatrixFactorization(3, 3, 2))
