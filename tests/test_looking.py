"""Looking changes nothing: forwards that write, count, draw and swap, and models that are as they were afterwards."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from mfkit import MatrixFactorization, Ratings, rmse
from mfkit.evaluate import check_fit
from mfkit.looking import KeptTensors, looking

RATINGS = Ratings([0, 1, 2, 2], [0, 1, 0, 1], [1.0, 2.0, 3.0, 5.0], 3, 2)


class Plain(nn.Module):
    """Two tables and a dot product; the others below do something beside it."""

    def __init__(self):
        super().__init__()
        self.p, self.q = nn.Embedding(3, 4), nn.Embedding(2, 4)
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, users, items):
        return (self.p(users) * self.q(items)).sum(-1)


class MaxNorm(Plain):
    def __init__(self):
        super().__init__()
        self.p = nn.Embedding(3, 4, max_norm=0.1)


class AlwaysTraining(Plain):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def train(self, mode=True):
        return super().train(True)

    def forward(self, users, items):
        return (self.drop(self.norm(self.p(users))) * self.q(items)).sum(-1)


class WritesData(Plain):
    def forward(self, users, items):
        self.p.weight.data.clamp_(-0.1, 0.1)
        self.q.weight.detach()[0] = 7.0
        return super().forward(users, items)


class WritesInManyWays(Plain):
    def forward(self, users, items):
        with torch.no_grad():
            torch.mul(self.p.weight, 2, out=self.p.weight)
            torch._foreach_mul_([self.q.weight], 3.0)
            nn.init.normal_(self.p.weight[1])
        return super().forward(users, items)


class SwapsData(Plain):
    def forward(self, users, items):
        self.p.weight.data = self.p.weight.data * 2
        return super().forward(users, items)


class Counts(Plain):
    def forward(self, users, items):
        self.asked += len(users)
        return super().forward(users, items)


class RebindsAndForgets(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("old", torch.ones(2))

    def forward(self, users, items):
        self.asked = self.asked + 1
        if "old" in self._buffers:
            del self.old
        return super().forward(users, items)


class WritesOnSwitching(Plain):
    """As LoRA does: weights are merged when evaluation begins."""

    def train(self, mode=True):
        with torch.no_grad():
            self.p.weight += 1
        return super().train(mode)


class Raises(Counts):
    def forward(self, users, items):
        prediction = super().forward(users, items)
        if self.asked > 2:
            raise KeyError("the reader's own")
        return prediction


class Draws(Plain):
    """By every generator there is, its own among them."""

    def __init__(self):
        super().__init__()
        self.own = torch.Generator().manual_seed(0)
        self.numpys, self.olds, self.pythons = np.random.default_rng(0), np.random.RandomState(0), random.Random(0)

    def forward(self, users, items):
        drawn = torch.randn(1) + torch.randn(1, generator=self.own) + np.random.rand() + random.random()
        return super().forward(users, items) + drawn + self.numpys.random() + self.olds.rand() + self.pythons.random()

    def states(self):
        numpys = self.numpys.bit_generator.state["state"]["state"]
        return [*self.own.get_state().tolist(), numpys, *self.olds.get_state()[1].tolist(), self.pythons.getstate()]


HOSTILE = [
    MaxNorm,
    AlwaysTraining,
    WritesData,
    WritesInManyWays,
    SwapsData,
    Counts,
    RebindsAndForgets,
    WritesOnSwitching,
    Raises,
    Draws,
]


def everything(model):
    """Names and contents of parameters and buffers, modes, and all random states."""
    tensors = {name: tensor.tolist() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    places = [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
    modes = [module.training for module in model.modules()]
    states = [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]
    return tensors, places, modes, states, model.states() if isinstance(model, Draws) else None


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_model_is_as_it_was(kind):
    model = kind()
    held = [*model.parameters(), *model.buffers()]
    before = everything(model)
    for look in (
        lambda: check_fit(model, RATINGS, "ratings", trains=True),
        lambda: rmse(model, RATINGS),
        lambda: rmse(model, RATINGS, chunk=2),
    ):
        try:
            look()
        except KeyError:
            assert kind is Raises
        assert everything(model) == before
    assert all(a is b for a, b in zip(held, (*model.parameters(), *model.buffers()), strict=True))


@pytest.mark.parametrize("kind", [MaxNorm, WritesData, WritesInManyWays, Counts, WritesOnSwitching])
def test_these_models_are_hostile(kind):
    """The list above would be worth nothing if looking without care changed nothing either."""
    model = kind()
    before = everything(model)
    model.eval()
    with torch.no_grad():
        model(*RATINGS.columns[:2])
    assert everything(model)[0] != before[0]


def test_what_is_seen_is_what_the_forward_does():
    """max_norm's rescaled rows are what is scored, though they do not stay."""
    model = MaxNorm()
    p = model.p.weight * (0.1 / model.p.weight.norm(dim=1, keepdim=True))
    users, items, values = RATINGS.columns
    error = (p[users] * model.q.weight[items]).sum(1) - values
    assert rmse(model, RATINGS) == pytest.approx(error.square().mean().sqrt().item())


def test_a_compiled_model_is_as_it_was():
    model = MaxNorm()
    compiled = torch.compile(model, backend="eager")
    before = everything(model)
    assert rmse(compiled, RATINGS) == rmse(model, RATINGS)
    assert everything(model) == before


@pytest.mark.parametrize("model", [Plain(), MatrixFactorization(3, 2, 4)])
def test_a_model_that_writes_nothing_is_not_copied(model, monkeypatch):
    copied = []
    monkeypatch.setattr(torch.Tensor, "clone", lambda tensor: copied.append(tensor))
    with looking(model):
        model(*RATINGS.columns[:2])
    assert copied == []


def test_only_what_is_written_is_copied():
    model = MaxNorm()
    kept = KeptTensors(model)
    with kept:
        model(*RATINGS.columns[:2])
    assert [kept.names[k] for k in kept.copies] == ["p.weight"]


class Graph(Plain):
    """A sparse buffer, as graph networks have one."""

    def __init__(self, writes):
        super().__init__()
        self.register_buffer("graph", torch.eye(3).to_sparse())
        self.writes = writes

    def forward(self, users, items):
        if self.writes:
            self.graph.mul_(2)
        return (torch.sparse.mm(self.graph, self.p.weight)[users] * self.q(items)).sum(-1)


def test_a_sparse_buffer_may_be_read_and_a_write_is_refused():
    assert rmse(Graph(False), RATINGS) > 0
    with pytest.raises(RuntimeError, match="model must not write into graph when it is asked"):
        rmse(Graph(True), RATINGS)
