"""The proximal step of L1 by hand, against its definition, and against a closed form that training must reach."""

import numpy as np
import pytest
import torch

from mfkit import MatrixFactorization, Ratings, TrainConfig, train
from mfkit.optimizers import prox_l1_


def test_by_hand():
    """3 - 1 = 2; -0.5 is nearer than 1, so 0; -2 + 1 = -1. The second tensor has a threshold a row."""
    one, two = torch.tensor([3.0, -0.5, -2.0]), torch.tensor([[3.0, -1.0], [3.0, -1.0]])
    prox_l1_([one, two], [1.0, torch.tensor([[0.0], [2.0]])])
    assert one.tolist() == [2.0, 0.0, -1.0]
    assert two.tolist() == [[3.0, -1.0], [1.0, 0.0]]


def test_is_the_minimum_that_it_is_defined_by():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.linspace(-4, 4, 80_001, dtype=torch.float64)[:, None]
    best = z[((z - x).square() / 2 + 0.7 * z.abs()).argmin(0), 0]
    prox_l1_([x], [0.7])
    assert torch.allclose(x, best, atol=1e-4)
    assert ((x == 0) == (best.abs() < 1e-4)).all()


def test_parameters_keep_their_graph_and_tables_their_zeros():
    table = torch.nn.Embedding(3, 2)
    table(torch.tensor([0])).sum().backward()
    prox_l1_(table.parameters(), [1e9])
    assert not table.weight.any() and table.weight.requires_grad and table.weight.grad is not None
    prox_l1_([], [])


@pytest.mark.parametrize("threshold", [-1e-9, float("nan"), torch.tensor([0.0, -1.0])])
def test_refuses_a_threshold_below_zero(threshold):
    with pytest.raises(ValueError, match=r"thresholds must be .*at least 0, got"):
        prox_l1_([torch.ones(2)], [threshold])


def test_proximal_steps_reach_the_closed_form():
    """One rating r = 2, one factor, from u = v = 1: 2 x (r - x^2) = l1 has its larger root at the minimum."""
    l1, lr = 0.5, 0.05
    x = np.sort(np.roots([-2, 0, 4, -l1]).real)[-1]
    model = MatrixFactorization(1, 1, 1, biases=False).double()
    tables = list(model.parameters())
    ratings = Ratings([0], [0], [2.0], 1, 1)
    with torch.no_grad():
        for table in tables:
            table.fill_(1.0)
    for _ in range(300):
        train(model, ratings, TrainConfig.textbook(optimizer="sgd", lr=lr, epochs=1))
        prox_l1_(tables, [lr * l1] * 2)
    assert tables[0].item() == pytest.approx(x, rel=1e-6)
