"""Silent errors put in on purpose: the properties of test_good.py notice each."""

import pytest
import torch

from mfkit import als, frames, objective, optimizers
from mfkit.checkpoint import Checkpoint
from mfkit.model import MatrixFactorization
from tests.fuzz import test_good

rows, number_ids, half_sweep = MatrixFactorization.rows, frames.number_ids, als.Problem.half_sweep
restore = Checkpoint.restore


def transposed(self, users, items):
    """Users and items swapped in one table; no id is out of range."""
    found = rows(self, users, items)
    if self.user_bias is not None:
        found["user_bias"] = self.user_bias(items.clamp(max=self.n_users - 1))
    return found


def not_caught_up(self, p, group, rows):
    """The state of a row stays as it was when the row was last read."""


def without_state(self):
    """The weights are the saved run's, the optimizer begins anew."""
    found = restore(self)
    self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": {}})
    return found


def numbered_from_the_end(column):
    codes, ids = number_ids(column)
    return codes, ids[::-1].copy()


def without_ridge(self, which, ridge, **options):
    return half_sweep(self, which, torch.zeros_like(ridge), **options)


DEFECTS = {
    "a transposed id": (MatrixFactorization, "rows", transposed, "rmse_and_predict"),
    "a transposed id, trained": (MatrixFactorization, "rows", transposed, "one_full_step_of_sgd"),
    "a dropped penalty": (objective, "penalty", lambda *_: 0.0, "objective"),
    "a dropped penalty, trained": (objective, "penalty", lambda *_: 0.0, "one_full_step_of_sgd"),
    "a dropped ridge": (als.Problem, "half_sweep", without_ridge, "als_solves_the_normal_equations"),
    "a stale velocity": (optimizers.RowOptimizer, "catch_up", not_caught_up, "row_sgd_is_torch_s_dense_sgd"),
    "a stale decay": (optimizers.RowOptimizer, "catch_up", not_caught_up, "row_adam_is_an_adamw_for_each_row"),
    "a stale state, resumed": (Checkpoint, "restore", without_state, "a_resumed_run_is_the_one_that_never_stopped"),
    "ids of other rows": (frames, "number_ids", numbered_from_the_end, "a_table_comes_back_with_its_ids"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_error_is_noticed(monkeypatch, defect):
    owner, name, replacement, noticed_by = DEFECTS[defect]
    monkeypatch.setattr(owner, name, replacement)
    with pytest.raises(AssertionError):
        getattr(test_good, f"test_{noticed_by}")()
