"""Anybody's model: what it raises passes through with its name, what it returns is looked at."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mfkit
from mfkit import TrainConfig
from tests.fuzz.calls import COUNTS, REFUSALS
from tests.fuzz.table import N_ITEMS, M, ratings


class Theirs(nn.Module):
    """Two tables; what `reply` does with the product comes out."""

    def __init__(self, reply=lambda product: product):
        super().__init__()
        torch.manual_seed(0)
        self.p, self.q, self.reply = nn.Embedding(M, 2), nn.Embedding(N_ITEMS, 2), reply

    def forward(self, users, items):
        return self.reply((self.p(users) * self.q(items)).sum(-1))


class Raises(Theirs):
    def forward(self, users, items):
        raise ArithmeticError("what they say themselves")


class OneArgument(Theirs):
    def forward(self, users):
        return self.p(users).sum(-1)


class BatchNormed(Theirs):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, users, items):
        return (self.norm(self.p(users)) * self.q(items)).sum(-1)


class SparseFunctional(Theirs):
    def forward(self, users, items):
        return (F.embedding(users, self.p.weight, sparse=True) * self.q(items)).sum(-1)


REPLIES = {
    "bool": lambda x: x > 0,
    "complex": lambda x: x * 1j,
    "sparse": lambda x: x.to_sparse(),
    "tuple": lambda x: (x, x),
    "list": lambda x: x.tolist(),
    "None": lambda x: None,
    "matrix": lambda x: x[:, None] - x,
    "scalar": lambda x: x.sum(),
    "detached": lambda x: x.detach(),
}
CALLS = {
    "train": lambda model, batch: mfkit.train(model, ratings(), TrainConfig.textbook(epochs=1, batch_size=batch)),
    "rmse": lambda model, batch: mfkit.rmse(model, ratings()),
    "diagnose": lambda model, batch: mfkit.diagnose(model, ratings(), batch_size=batch),
}


def refused(model, call, batch=4):
    """The error; none of them comes after a step, but that of the last batch."""
    COUNTS["bad"] += 1
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(Exception) as caught:
        CALLS[call](model, batch)
    unchanged = all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert unchanged or isinstance(model, BatchNormed)
    return caught.value


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_that_is_no_prediction_is_refused(reply, call):
    model = Theirs(REPLIES[reply])
    if call == "rmse" and reply == "detached":  # nobody needs its gradient there
        CALLS[call](model, 4)
        return
    if call == "diagnose":  # which may find it instead
        try:
            assert "prediction" in str(CALLS[call](model, 4))
        except REFUSALS as error:
            assert "prediction" in str(error) or "model" in str(error)
        return
    error = refused(model, call)
    assert isinstance(error, ValueError | TypeError)
    assert "prediction" in str(error) or "model" in str(error)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("model", ["Raises", "OneArgument", "BatchNormed"])
def test_what_the_model_raises_passes_through_with_its_name(model, call):
    made = {"Raises": Raises, "OneArgument": OneArgument, "BatchNormed": BatchNormed}[model]()
    if model == "BatchNormed" and call != "train":
        CALLS[call](made, 11)
        return
    error = refused(made, call, batch=11)  # 12 ratings: the last batch holds one
    kind = {"Raises": ArithmeticError, "OneArgument": TypeError, "BatchNormed": ValueError}[model]
    assert type(error) is kind
    assert any(model in note for note in error.__notes__)
    if model == "BatchNormed":
        assert "batch_size" in error.__notes__[0]


def test_sparse_gradients_that_torch_s_adam_cannot_take():
    error = refused(SparseFunctional(), "train")
    assert isinstance(error, ValueError)
    assert re.search("model must have dense gradients for the optimizer Adam, got sparse ones", str(error))
