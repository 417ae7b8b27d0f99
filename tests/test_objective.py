"""What training minimises, for models of ours, of others, and for either inside a wrapper."""

import pytest
import torch
from torch import nn

from mfkit import MatrixFactorization, TrainConfig, train
from mfkit.objective import embedding_tables, model_inside, objective, penalised_tables, prediction_and_rows, rows_read
from tests.test_evaluate import RATINGS, Foreign


class Holder(nn.Module):
    """A module that holds a model, and a parameter of its own if asked."""

    def __init__(self, model, own=False):
        super().__init__()
        self.held = model
        if own:
            self.scale = nn.Parameter(torch.ones(()))

    def forward(self, users, items):
        prediction = self.held(users, items)
        return prediction * self.scale if hasattr(self, "scale") else prediction


class Pair(nn.Module):
    """Two factorizations, averaged."""

    def __init__(self):
        super().__init__()
        self.one, self.two = ours(1), ours(2)

    def forward(self, users, items):
        return (self.one(users, items) + self.two(users, items)) / 2


class WithGenre(MatrixFactorization):
    """A subclass with a table and a forward of its own."""

    def __init__(self):
        super().__init__(3, 2, 4)
        self.genre = nn.Embedding(2, 1)

    def forward(self, users, items):
        return super().forward(users, items) + self.genre(items).squeeze(-1)


def ours(seed=0):
    torch.manual_seed(seed)
    model = MatrixFactorization(3, 2, 4, mean=2.5)
    for table in embedding_tables(model).values():
        nn.init.normal_(table.weight, std=0.5)
    return model


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    """DistributedDataParallel in a group of one process."""
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield nn.parallel.DistributedDataParallel
    torch.distributed.destroy_process_group()


def test_rows_by_hand():
    """Two ratings of one user: her row twice; biases (B, 1), factors (B, d)."""
    model = ours()
    users, items = torch.tensor([2, 2]), torch.tensor([0, 1])
    rows = model.rows(users, items)
    assert list(rows) == ["user_bias", "item_bias", "user_factors", "item_factors"]
    assert torch.equal(rows["user_factors"], model.user_factors.weight[[2, 2]])
    assert torch.equal(rows["item_bias"], model.item_bias.weight[[0, 1]])
    assert torch.equal(model(users, items, rows), model(users, items))
    assert list(MatrixFactorization(3, 2, 0).rows(users, items)) == ["user_bias", "item_bias"]
    assert list(MatrixFactorization(3, 2, 4, biases=False).rows(users, items)) == ["user_factors", "item_factors"]


def test_tables_of_a_penalty():
    model, foreign = ours(), Foreign()
    assert list(embedding_tables(model)) == ["user_factors", "item_factors", "user_bias", "item_bias"]
    assert [id(w) for w in penalised_tables(model)] == [id(model.user_factors.weight), id(model.item_factors.weight)]
    assert penalised_tables(MatrixFactorization(3, 2, 0)) == []  # biases are not U or V
    assert [id(w) for w in penalised_tables(foreign)] == [id(foreign.p.weight), id(foreign.q.weight)]


def test_a_foreign_model_is_watched():
    """p of users 0 1 2 2 and q of items 0 1 0 1: their squares, rating by rating, computed from the tables."""
    model = Foreign()
    with rows_read(model) as rows:
        model(*RATINGS.columns[:2])
    p, q = model.p.weight[[0, 1, 2, 2]], model.q.weight[[0, 1, 0, 1]]
    assert [torch.equal(row, wanted) for row, wanted in zip(rows, (p, q), strict=True)] == [True, True]
    model(*RATINGS.columns[:2])
    assert len(rows) == 2  # the hooks are gone
    none = pytest.raises(TypeError, match=r"tables, got Linear, which reads none; want penalty='per_table'")
    with none, rows_read(nn.Linear(1, 1)):
        pass


def test_a_subclass_with_a_forward_of_its_own_is_watched():
    model = WithGenre()
    _, rows = prediction_and_rows(model, *RATINGS.columns[:2])
    assert sorted(tuple(row.shape) for row in rows) == [(4, 1), (4, 1), (4, 1), (4, 4), (4, 4)]


PENALISED = [TrainConfig.textbook(l2=0.3, l1=0.05), TrainConfig.textbook(l2=0.3, l1=0.05, penalty="per_table")]


@pytest.mark.parametrize("config", PENALISED, ids=lambda config: config.penalty)
def test_wrapping_changes_neither_objective_nor_gradient(config, ddp):
    """Against the objective written out; a wrapper's per_table once penalised biases too: 10.059 for 4.379."""
    users, items, values = RATINGS.columns
    bare = ours()
    u, v, b, c = (table.weight for table in embedding_tables(bare).values())
    e = 2.5 + (b[users] + c[items]).squeeze(-1) + (u[users] * v[items]).sum(-1) - values
    if config.penalty == "per_rating":
        penalised, mean = [u[users], v[items], b[users], c[items]], 4
    else:
        penalised, mean = [u, v], 1
    expected = e.square().mean() + sum(0.3 * x.square().sum() + 0.05 * x.abs().sum() for x in penalised) / mean
    gradients = torch.autograd.grad(expected, list(bare.parameters()))
    wrappers = {
        "bare": lambda model: model,
        "compiled": lambda model: torch.compile(model, backend="eager"),
        "DDP": ddp,
        "DDP of compiled": lambda model: ddp(torch.compile(model, backend="eager")),
        "held": Holder,
        "held DDP": lambda model: Holder(ddp(model)),
        "held twice": lambda model: Holder(Holder(model)),
        "DataParallel": nn.DataParallel,
    }
    for name, wrap in wrappers.items():
        inside = ours()
        wrapped = wrap(inside)
        loss = objective(wrapped, RATINGS.columns, config)
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6), name
        assert model_inside(wrapped) is inside, name
        for parameter, gradient in zip(inside.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, msg=name)


def test_ddp_trains_as_the_bare_model(ddp):
    """Forward and backward go through DDP: its hooks see every gradient."""
    bare, inside = ours(), ours()
    wrapped, seen = ddp(inside), []

    def note(_state, bucket):
        seen.append(bucket.buffer().numel())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    wrapped.register_comm_hook(None, note)
    config = TrainConfig.textbook(l2=0.1, epochs=3, batch_size=2)
    train(bare, RATINGS, config)
    train(wrapped, RATINGS, config, validation=RATINGS)
    assert sum(seen) == 6 * sum(p.numel() for p in inside.parameters())  # six steps
    for a, b in zip(bare.parameters(), inside.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_once_without_a_penalty_and_then_with_one():
    """Hooks that are set after a compilation do not fire: the penalty once raised "reads none"."""
    torch.compiler.reset()
    train(torch.compile(ours(), backend="eager"), RATINGS, TrainConfig.textbook(epochs=1))
    bare, compiled = ours(), ours()
    train(bare, RATINGS, TrainConfig.textbook(epochs=2, l2=0.5))
    train(torch.compile(compiled, backend="eager"), RATINGS, TrainConfig.textbook(epochs=2, l2=0.5))
    for a, b in zip(bare.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("model", "config", "error", "says"),
    [
        (
            Holder(ours(), own=True),
            PENALISED[1],
            ValueError,
            "needs one factorization.* Holder, which holds 1 and",
        ),
        (Pair(), PENALISED[1], ValueError, "needs one factorization.* Pair, which holds 2 and other"),
        (
            torch.compile(Foreign(), backend="eager"),
            PENALISED[0],
            TypeError,
            "which rows a compiled Foreign",
        ),
        (Holder(torch.compile(Foreign(), backend="eager")), PENALISED[0], TypeError, "which rows a compiled Holder"),
    ],
)
def test_what_cannot_be_told_is_refused(model, config, error, says):
    with pytest.raises(error, match=says):
        train(model, RATINGS, config)


def test_a_compiled_model_with_sparse_gradients_is_refused():
    model = torch.compile(MatrixFactorization(3, 2, 4, sparse=True), backend="eager")
    with pytest.raises(TypeError, match="sparse gradients must not be compiled"):
        train(model, RATINGS, TrainConfig.textbook())


def test_a_held_model_with_other_parameters_takes_per_rating():
    """As any foreign model: what its tables read, and not its scale."""
    held = Holder(ours(), own=True)
    _, rows = prediction_and_rows(held, *RATINGS.columns[:2])
    assert sorted(tuple(row.shape) for row in rows) == [(4, 1), (4, 1), (4, 4), (4, 4)]
    train(held, RATINGS, PENALISED[0])
    assert held.scale.item() != 1
