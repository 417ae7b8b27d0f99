"""The loop: what it minimises, when it stops, what it refuses, and that a killed run goes on as if nothing had been."""

import pickle
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from mfkit import (
    DivergenceError,
    MatrixFactorization,
    Ratings,
    TrainConfig,
    fit_als,
    initializers,
    rmse,
    synthetic,
    train,
    trainer,
)
from mfkit.objective import objective

QUICK = TrainConfig.textbook(epochs=2, batch_size=64, lr=0.02)


def problem(seed=0):
    ratings, _ = synthetic(40, 30, 500, rank=2, seed=seed)
    return ratings.split((0.8, 0.2), seed=0)


def model_for(ratings, d=4, std=None, seed=0, **options):
    model = MatrixFactorization(ratings.n_users, ratings.n_items, d, mean=ratings.mean, **options)
    return initializers.scaled_(model, seed=seed) if std is None else initializers.normal_(model, std, seed)


def snapshot(model):
    return [p.detach().clone() for p in model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def close(one, other, rtol=1e-5, atol=1e-6):
    return all(torch.allclose(a, b, rtol=rtol, atol=atol) for a, b in zip(one, other, strict=True))


class TwoTables(nn.Module):
    """Anybody's model: two nn.Embedding tables and a dot product, with dropout."""

    def __init__(self, m=40, n=30, d=4, dropout=0.0, sparse=False):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.p, self.q = nn.Embedding(m, d, sparse=sparse), nn.Embedding(n, d, sparse=sparse)
        for table in (self.p, self.q):
            table.weight.data = torch.randn(table.weight.shape, generator=generator)
        self.drop = nn.Dropout(dropout)

    def forward(self, users, items):
        return (self.drop(self.p(users)) * self.q(items)).sum(-1)


class TwoMatrices(TwoTables):
    """The same with bare parameters."""

    def __init__(self):
        super().__init__()
        self.U, self.V = nn.Parameter(self.p.weight.data), nn.Parameter(self.q.weight.data)
        del self.p, self.q

    def forward(self, users, items):
        return (self.U[users] * self.V[items]).sum(-1)


# What is minimised


def test_one_step_by_hand():
    """u = 1, v = 2, r = 5: e = -3, loss 9 + 0.1 (1 + 4) = 9.5; gradients 2ev + 0.2u = -11.8 and 2eu + 0.2v = -5.6."""
    model = MatrixFactorization(1, 1, 1, biases=False)
    model.user_factors.weight.data.fill_(1.0)
    model.item_factors.weight.data.fill_(2.0)
    config = TrainConfig.textbook(optimizer="sgd", lr=0.01, l2=0.1, epochs=1)
    (record,) = train(model, Ratings([0], [0], [5.0], 1, 1), config).records
    assert record["loss"] == pytest.approx(9.5)
    assert record["grad_norm"] == pytest.approx(np.hypot(11.8, 5.6))
    assert model.user_factors.weight.item() == pytest.approx(1.118)
    assert model.item_factors.weight.item() == pytest.approx(2.056)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("penalty", ["per_rating", "per_table"])
def test_objective_against_dense_matrices(reduction, penalty):
    """mean + b + c + UV' on a masked (m, n) matrix; per rating, a row counts as often as it is rated."""
    ratings, _ = problem()
    model, l2, l1 = model_for(ratings, std=0.7), 0.3, 0.05
    with torch.no_grad():
        model.user_bias.weight.uniform_(-1, 1)
    U, V, b, c = (t.weight for t in (model.user_factors, model.item_factors, model.user_bias, model.item_bias))
    R, mask = torch.zeros(40, 30), torch.zeros(40, 30)
    R[ratings.users, ratings.items], mask[ratings.users, ratings.items] = ratings.values, 1
    loss = (mask * (model.mean + b + c.T + U @ V.T - R).square()).sum()

    def size(table):
        return l2 * table.square().sum(1) + l1 * table.abs().sum(1)

    if penalty == "per_rating":
        loss = loss + mask.sum(1) @ (size(U) + size(b)) + mask.sum(0) @ (size(V) + size(c))
    expected = loss / len(ratings) if reduction == "mean" else loss
    if penalty == "per_table":
        expected = expected + size(U).sum() + size(V).sum()
    config = replace(QUICK, l2=l2, l1=l1, penalty=penalty, reduction=reduction)
    batch = ratings.users, ratings.items, ratings.values
    actual = objective(model, batch, config)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(x, list(model.parameters())) for x in (expected, actual)]
    assert close(*gradients, rtol=1e-4, atol=1e-4)


def test_per_rating_penalty_of_a_foreign_model():
    ratings, _ = problem()
    model, config = TwoTables(), replace(QUICK, l2=0.2, loss="huber", delta=0.5)
    p, q = model.p.weight[ratings.users], model.q.weight[ratings.items]
    e = (p * q).sum(1) - ratings.values
    loss = (
        2 * nn.functional.huber_loss(e, torch.zeros_like(e), delta=0.5) + 0.2 * (p.square() + q.square()).sum(1).mean()
    )
    actual = objective(model, (ratings.users, ratings.items, ratings.values), config)
    assert actual.item() == pytest.approx(loss.item(), rel=1e-5)


def test_bare_matrices_take_per_table_only():
    ratings, _ = problem()
    with pytest.raises(TypeError, match=r"per_rating.*needs a model that reads nn.Embedding.*TwoMatrices.*per_table"):
        train(TwoMatrices(), ratings, replace(QUICK, l2=0.1))
    matrices, tables = TwoMatrices(), TwoTables()
    for model in (matrices, tables):
        train(model, ratings, replace(QUICK, l2=0.1, penalty="per_table"))
    assert close(snapshot(matrices), snapshot(tables))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_is_a_plain_loop(optimizer):
    """Against the loop that everybody writes, with torch's own loss, clipping and optimizer."""
    ratings, _ = problem()
    ours, theirs = model_for(ratings), model_for(ratings)
    config = replace(
        QUICK, optimizer=optimizer, lr=0.1, clip_norm=0.2, weight_decay=0.01, batch_size=len(ratings), epochs=5
    )
    history = train(ours, ratings, config)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    step, seen = kind(theirs.parameters(), lr=0.1, weight_decay=0.01), []
    for _ in range(5):
        step.zero_grad()
        loss = nn.functional.mse_loss(theirs(ratings.users, ratings.items), ratings.values)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.2).item()
        seen.append((loss.item(), norm, min(1, 0.2 / (norm + 1e-6))))
        step.step()
    assert np.allclose(history.frame[["loss", "grad_norm", "clip_coef"]], seen, rtol=1e-4)
    assert close(snapshot(ours), snapshot(theirs), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, {"optimizer": "adamw", "weight_decay": 0.1}])
def test_row_wise_adam_through_the_trainer(options):
    """Every row in every batch: Adam's own numbers. Otherwise: rows that no batch reads decay all the same."""
    ratings, _ = problem()
    config = replace(QUICK, batch_size=len(ratings), lr=0.05, clip_norm=1.0, **options)
    dense, sparse = model_for(ratings), model_for(ratings, sparse=True)
    for model in (dense, sparse):
        train(model, ratings, config, validation=ratings)
    assert close(snapshot(dense), snapshot(sparse), rtol=1e-3, atol=1e-5)
    assert not any(table._forward_pre_hooks for table in sparse.modules())
    wide = model_for(
        Ratings(ratings.users, ratings.items, ratings.values, ratings.n_users + 1, ratings.n_items), sparse=True
    )
    before = wide.user_factors.weight[-1].clone()
    history = train(wide, ratings, replace(config, batch_size=32))
    kept = (1 - config.lr * config.weight_decay) ** len(history.records)
    torch.testing.assert_close(wide.user_factors.weight[-1], before * kept)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"clip_norm": 0.1},
        {"l2": 0.1},
        {"l2": 0.1, "penalty": "per_table"},
        {"momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.1, "batch_size": 16},
    ],
)
def test_sparse_gradients_train_as_dense_ones(options):
    ratings, _ = problem()
    dense, sparse = model_for(ratings), model_for(ratings, sparse=True)
    for model in (dense, sparse):
        train(model, ratings, replace(QUICK, optimizer="sgd", lr=0.5, **options))
    assert close(snapshot(dense), snapshot(sparse), rtol=1e-4)
    assert not close(snapshot(dense), snapshot(model_for(ratings)), rtol=1e-2)


# Records


def test_history():
    ratings, validation = problem()
    calls, model = [], model_for(ratings)
    history = train(model, ratings, QUICK, validation=validation, on_step=calls.append)
    frame = history.frame
    assert list(frame.columns) == trainer.COLUMNS
    assert frame.step.tolist() == list(range(1, 15))
    assert frame.epoch.tolist() == [1] * 7 + [2] * 7
    assert frame.validation_rmse.notna().tolist() == ([False] * 6 + [True]) * 2
    assert frame.validation_rmse.iloc[-1] == rmse(model, validation)
    assert (frame.clip_coef == 1).all()
    assert frame.seconds.is_monotonic_increasing
    assert [call["step"] for call in calls] == frame.step.tolist()
    assert history.best == frame.dropna().sort_values("validation_rmse").epoch.iloc[0]
    assert train(model, ratings, QUICK).best is None


def test_a_history_in_one_line():
    ratings, validation = problem()
    history = train(model_for(ratings), ratings, QUICK, validation=validation)
    best, last = min(history.frame.validation_rmse.dropna()), history.records[-1]["loss"]
    score = f"best epoch {history.best} with validation RMSE {best:.4g}"
    assert repr(history) == f"History(2 epochs, 14 steps, last loss {last:.4g}, {score})"
    plain = train(model_for(ratings), ratings, QUICK)
    assert repr(plain) == f"History(2 epochs, 14 steps, last loss {plain.records[-1]['loss']:.4g})"
    assert repr(trainer.History()) == "History(0 epochs, 0 steps)"


def test_a_history_is_drawn_with_a_validation_curve_that_can_be_seen():
    """Lines: the loss of each step, its mean over each epoch; on the right each epoch's score, at the epoch's end."""
    ratings, validation = problem()
    history = train(model_for(ratings), ratings, QUICK, validation=validation)
    _, given = plt.subplots()
    axes = history.plot(given)
    assert axes is given
    steps, means = axes.get_lines()
    assert steps.get_xdata().tolist() == pytest.approx([(k + 1) / 7 for k in range(14)])
    assert steps.get_ydata().tolist() == history.frame.loss.tolist()
    assert means.get_xdata().tolist() == [1, 2]
    assert means.get_ydata().tolist() == pytest.approx(history.frame.groupby("epoch").loss.mean().tolist())
    (scores,) = axes.right_ax.get_lines()
    assert scores.get_xdata().tolist() == [1, 2]
    assert scores.get_ydata().tolist() == history.frame.validation_rmse.dropna().tolist()
    assert (axes.get_ylabel(), axes.right_ax.get_ylabel()) == ("loss", "validation RMSE, rating units")
    alone = train(model_for(ratings), ratings, QUICK).plot()
    assert alone is not given and not hasattr(alone, "right_ax")
    plt.close("all")
    with pytest.raises(ValueError, match="a history must hold at least one step to be drawn, got none"):
        trainer.History().plot()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_same_config_same_records(dropout):
    ratings, validation = problem()
    config = replace(QUICK, l2=0.1, clip_norm=1.0)
    frames = []
    for seed in (1, 1, 2):
        model = TwoTables(dropout=dropout)
        state = torch.random.get_rng_state()
        history = train(model, ratings, replace(config, seed=seed), validation=validation)
        frames.append(history.frame.drop(columns="seconds"))
        assert torch.equal(state, torch.random.get_rng_state())
    assert frames[0].equals(frames[1])
    assert not frames[0].equals(frames[2])


def test_patience_stops_and_goes_back():
    ratings, validation = problem()
    config = replace(QUICK, lr=0.1, epochs=60, patience=3)
    states = {}
    model = model_for(ratings, d=8)
    history = train(
        model, ratings, config, validation=validation, on_step=lambda r: states.update({r["epoch"]: snapshot(model)})
    )
    assert history.records[-1]["epoch"] == history.best + 3 < 60
    assert same(snapshot(model), states[history.best])


# Divergence


def diverging():
    ratings, _ = problem()
    config = TrainConfig.textbook(optimizer="sgd", lr=500.0, batch_size=64, epochs=20)
    return model_for(ratings, d=50, std=1.0), ratings, config


@pytest.mark.parametrize("masked", [False, True])
def test_divergence_stops_before_the_update(masked, monkeypatch):
    if masked:
        monkeypatch.setattr(trainer, "MASKED_DEVICES", {"cpu"})
    model, ratings, config = diverging()
    states = [snapshot(model)]
    with pytest.raises(DivergenceError) as info:
        train(model, ratings, config, on_step=lambda _: states.append(snapshot(model)))
    record, message = info.value.record, str(info.value)
    assert record["step"] == len(states) > 1  # raised in the step after the last that was updated
    assert not (np.isfinite(record["loss"]) and np.isfinite(record["grad_norm"]))
    assert same(snapshot(model), states[-1])
    assert all(p.isfinite().all() for p in model.parameters())
    for words in (f"step {record['step']}", "loss", "gradient norm", "lower lr=500", "scaled_", "clip_norm"):
        assert words in message
    assert pickle.loads(pickle.dumps(info.value)).record["step"] == record["step"]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_masked_updates_are_skipped_until_the_flush(momentum, monkeypatch):
    monkeypatch.setattr(trainer, "MASKED_DEVICES", {"cpu"})
    model, ratings, config = diverging()
    config, states = replace(config, momentum=momentum), []
    with pytest.raises(DivergenceError) as at_once:
        train(model, ratings, config, on_step=lambda _: states.append(snapshot(model)))
    model, *_ = diverging()
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(DivergenceError) as later:
        train(model, ratings, config)
    assert len(forwards) > at_once.value.record["step"] + 1  # steps were issued after the bad one ...
    assert same(snapshot(model), states[-1])  # ... and moved nothing
    assert later.value.record["step"] == at_once.value.record["step"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_masked_path_trains_as_the_other(optimizer, clip_norm, monkeypatch):
    ratings, validation = problem()
    config, runs = replace(QUICK, optimizer=optimizer, epochs=3, clip_norm=clip_norm), []
    for devices, flush in ((set(), 256), ({"cpu"}, 256), ({"cpu"}, 3)):
        monkeypatch.setattr(trainer, "MASKED_DEVICES", devices)
        monkeypatch.setattr(trainer, "FLUSH_EVERY", flush)
        model = model_for(ratings)
        runs.append(
            (train(model, ratings, config, validation=validation).frame.drop(columns="seconds"), snapshot(model))
        )
    assert np.allclose(runs[0][0], runs[1][0], rtol=1e-4, equal_nan=True)
    assert close(runs[0][1], runs[1][1], rtol=1e-3, atol=1e-5)
    assert runs[1][0].equals(runs[2][0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optimizer": "adam", "lr": 0.5}, "adam step exceeds 7.27 lr = 3.63"),
        ({"clip_norm": 2.0}, r"lr \* clip_norm = 1e\+03"),
        ({}, "step 1 .*nothing was updated yet.*NaN"),
    ],
)
def test_the_remedy_fits_the_run(change, says):
    model, ratings, config = diverging()
    if change:
        model.register_forward_hook(lambda module, _, out: out * (1.0 if module.calls < 3 else torch.nan))
        model.calls = 0
        model.register_forward_pre_hook(lambda module, _: setattr(module, "calls", module.calls + 1))
    else:
        model.user_factors.weight.data[:] = torch.nan
    with pytest.raises(DivergenceError, match=says):
        train(model, ratings, replace(config, **change))


def test_the_mode_comes_back_after_an_error():
    model, ratings, config = diverging()
    model.eval()
    with pytest.raises(DivergenceError):
        train(model, ratings, config)
    assert not model.training


# Refusals


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loss": "rmse"}, "loss must be one of 'mse', 'huber', 'mae', got 'rmse'"),
        ({"loss": nn.MSELoss()}, "loss must be one of .*MSELoss"),
        ({"optimizer": "lbfgs"}, "optimizer must be one of 'sgd', 'adam', 'adamw', got 'lbfgs'"),
        ({"penalty": "batch"}, "penalty must be one of 'per_rating', 'per_table', got 'batch'"),
        ({"reduction": "none"}, "reduction must be one of 'mean', 'sum', got 'none'"),
        ({"lr": 0}, "lr must be a finite number above 0, got 0"),
        ({"lr": -0.1}, "lr must be a finite number above 0, got -0.1"),
        ({"lr": float("nan")}, "lr must be a finite number above 0, got nan"),
        ({"lr": "0.1"}, "lr must be a finite number above 0, got '0.1'"),
        ({"lr": torch.tensor(0.1)}, r"lr must be a finite number above 0, got tensor"),
        ({"lr": True}, "lr must be a finite number above 0, got True"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1, got 2.5"),
        ({"epochs": 0}, "epochs must be an integer of at least 1, got 0"),
        ({"epochs": None}, "epochs must be an integer of at least 1, got None"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"patience": 0}, "patience must be an integer of at least 1, got 0"),
        ({"l2": -1e-3}, "l2 must be a finite number of at least 0, got -0.001"),
        ({"l1": float("inf")}, "l1 must be a finite number of at least 0, got inf"),
        ({"delta": 0.0}, "delta must be a finite number above 0, got 0.0"),
        ({"clip_norm": 0.0}, "clip_norm must be a finite number above 0, got 0.0"),
        ({"momentum": 0.9}, "momentum needs optimizer='sgd'"),
    ],
)
def test_config_refuses_by_name(change, says):
    with pytest.raises(ValueError, match=says):
        TrainConfig.textbook(**change)


def test_config_takes_any_real_number():
    config = TrainConfig.textbook(lr=1, l2=np.float32(0.5), batch_size=np.int64(7), seed=2**60)
    assert (config.lr, config.l2, config.batch_size) == (1.0, 0.5, 7)
    assert [type(x) for x in (config.lr, config.l2, config.batch_size)] == [float, float, int]
    ratings, _ = problem()
    train(model_for(ratings), ratings, replace(config, lr=0.01, batch_size=100_000, epochs=1))


class Column(TwoTables):
    def forward(self, users, items):
        return super().forward(users, items).unsqueeze(-1)


class Detached(TwoTables):
    def forward(self, users, items):
        return super().forward(users, items).detach()


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        (Column(), ValueError, r"prediction must have the target's shape \(2,\), got \(2, 1\).*squeeze"),
        (TwoTables(39), IndexError, "model.p must have at least 40 rows for id 39 in ratings, got 39"),
        (MatrixFactorization(40, 29, 2), IndexError, r"model.item_\w+ must have at least 30 rows .*got 29"),
        (TwoTables().half(), ValueError, "model must have float32, .*got torch.float16"),
        (Detached(), ValueError, "prediction must carry a gradient"),
        (nn.ReLU(), ValueError, "model must have parameters to train, got ReLU with none"),
        (lambda users, items: users, TypeError, "model must be a Module, got function"),
    ],
)
def test_a_model_that_does_not_fit(model, error, says):
    ratings = Ratings([39, 0], [0, 29], [1.0, 2.0], 40, 30)
    before = snapshot(model) if isinstance(model, nn.Module) else []
    with pytest.raises(error, match=says):
        train(model, ratings, QUICK)
    assert not before or same(before, snapshot(model))


def test_arguments_that_do_not_fit_each_other():
    ratings, _ = problem()
    with pytest.raises(ValueError, match=r"patience=2 needs validation ratings"):
        train(model_for(ratings), ratings, replace(QUICK, patience=2))
    with pytest.raises(IndexError, match=r"in validation, got 40"):
        wide = Ratings([40], [0], [1.0], 41, 30)
        train(model_for(ratings), ratings, QUICK, validation=wide)
    with pytest.raises(TypeError, match=r"ratings must be a Ratings, got tuple"):
        train(model_for(ratings), (ratings.users, ratings.items), QUICK)
    with pytest.raises(TypeError, match=r"config must be a TrainConfig, got dict"):
        train(model_for(ratings), ratings, {"lr": 0.1})
    sparse = model_for(ratings, sparse=True)
    with pytest.raises(
        ValueError, match=r"weight_decay needs optimizer='adamw' or l2 .*got 'adam' with weight_decay=0.1"
    ):
        train(sparse, ratings, replace(QUICK, optimizer="adam", weight_decay=0.1))
    with torch.no_grad(), pytest.raises(ValueError, match=r"prediction must carry a gradient, got none.*no_grad"):
        train(model_for(ratings), ratings, QUICK)


def test_a_compiled_model_trains_as_itself():
    ratings, _ = problem()
    model, compiled = TwoTables(), TwoTables()
    train(model, ratings, QUICK)
    train(torch.compile(compiled, backend="eager"), ratings, QUICK)
    assert close(snapshot(model), snapshot(compiled))


def test_frozen_double_and_unused_parameters():
    ratings, validation = problem()
    model = TwoTables().double()
    model.p.weight.requires_grad_(False)
    model.unused = nn.Parameter(torch.ones(2))
    before = snapshot(model)
    history = train(model, ratings, replace(QUICK, l2=0.1, clip_norm=1.0), validation=validation)
    stayed = {name: torch.equal(a, b) for a, (name, b) in zip(before, model.named_parameters(), strict=True)}
    assert stayed == {"p.weight": True, "unused": True, "q.weight": False}
    assert history.frame.loss.iloc[-1] < history.frame.loss.iloc[0]


@pytest.fixture(scope="module")
def with_strangers():
    """Ratings in which the last three users and the last two items have none."""
    ratings, _ = synthetic(40, 30, 600, rank=2, seed=0)
    keep = (ratings.users < 37) & (ratings.items < 28)
    return ratings.take(keep)


def test_rows_without_a_rating_are_predicted_by_mean_and_the_other_sides_bias(with_strangers):
    torch.manual_seed(0)
    model = MatrixFactorization(40, 30, 5)
    train(model, with_strangers)
    items, users = torch.arange(28), torch.arange(37)
    mean, scale = with_strangers.mean, with_strangers.std
    assert model.item_bias.weight[with_strangers.items.unique()].abs().min() > 0
    for user in (37, 38, 39):
        expected = mean + scale * model.item_bias.weight[:28, 0]
        assert torch.allclose(model.predict([user] * 28, items), expected, atol=1e-5)
    for item in (28, 29):
        expected = mean + scale * model.user_bias.weight[:37, 0]
        assert torch.allclose(model.predict(users, [item] * 37), expected, atol=1e-5)
    assert model.predict([39], [29]).item() == pytest.approx(mean, abs=1e-5)


def test_rows_of_an_earlier_fit_stay(with_strangers):
    model = MatrixFactorization(40, 30, 5)
    train(model, with_strangers, TrainConfig.textbook(epochs=1))
    random_start = model.user_factors.weight[39].clone()
    assert random_start.abs().min() > 0  # the textbook's run leaves it
    trained = model.user_factors.weight[:37].clone()
    few = with_strangers.take(with_strangers.users < 10)
    train(model, few, TrainConfig(epochs=1))
    assert torch.equal(model.user_factors.weight[10:37], trained[10:])
    assert (model.user_factors.weight[37:] == 0).all()


def test_a_model_remembers_the_penalty_of_its_last_fit(with_strangers):
    model = MatrixFactorization(40, 30, 2)
    history = train(model, with_strangers, TrainConfig(epochs=1))
    assert model.l2 == history.config.l2 > 0
    train(model, with_strangers, TrainConfig.textbook(epochs=1, l2=0.25))
    assert model.l2 == 0.25
    train(model, with_strangers, TrainConfig.textbook(epochs=1, l2=0.25, penalty="per_table"))
    assert model.l2 is None
    fit_als(model, with_strangers, l2=0.5, sweeps=1)
    assert model.l2 == 0.5
    train(model, with_strangers, TrainConfig.textbook(epochs=1))
    assert model.l2 is None


def test_lr_under_sum_is_lr_times_the_batch_under_mean():
    """SGD: the batch's sum is B times its mean, so the same program where every batch is whole."""
    ratings, _ = problem()
    whole = ratings.take(torch.arange(len(ratings) // 64 * 64))
    trained = []
    for lr, reduction in ((0.005, "sum"), (0.005 * 64, "mean")):
        model = model_for(ratings, std=0.3)
        config = replace(QUICK, optimizer="sgd", lr=lr, reduction=reduction, l2=0.02, batch_size=64, epochs=2)
        train(model, whole, config)
        trained.append([table.detach().clone() for table in model.parameters()])
    assert close(*trained, rtol=1e-4, atol=1e-5)
    assert not close(trained[0], [table.detach() for table in model_for(ratings, std=0.3).parameters()], rtol=1e-2)
