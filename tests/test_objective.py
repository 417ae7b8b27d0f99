"""What training minimises, for models of ours, of others, and for either inside a wrapper."""

import pytest
import torch
from torch import nn

from mfkit import MatrixFactorization, objective
from tests.test_evaluate import RATINGS, Foreign


def test_tables_and_weights():
    model = MatrixFactorization(3, 2, 4)
    assert list(objective.embedding_tables(model)) == ["user_factors", "item_factors", "user_bias", "item_bias"]
    assert [w.shape for w in objective.factor_weights(model)] == [(3, 4), (2, 4)]
    assert len(objective.factor_weights(Foreign())) == 2
    assert len(objective.factor_weights(nn.Linear(2, 2))) == 2


def test_rows_read_are_what_the_batch_looked_up():
    model = MatrixFactorization(3, 2, 4)
    with objective.rows_read(model) as rows:
        model(RATINGS.users, RATINGS.items)
    assert sorted(tuple(row.shape) for row in rows) == [(4, 1), (4, 1), (4, 4), (4, 4)]
    assert torch.equal(max(rows, key=lambda row: row.sum()).sum(), max(row.sum() for row in rows))
    assert all(row.requires_grad for row in rows)
    model(RATINGS.users, RATINGS.items)
    assert len(rows) == 4  # the hooks are gone
    none = pytest.raises(TypeError, match=r"tables, got Linear, which reads none; want penalty='per_table'")
    with none, objective.rows_read(nn.Linear(1, 1)):
        pass
