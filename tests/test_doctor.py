"""The doctor: planted faults are named, healthy models are left alone, and nothing that it is given changes."""

import copy
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import mfkit
import mfkit.__main__ as command
from mfkit import doctor, initializers, predict, repository
from mfkit.doctor import WORDS, judge
from mfkit.doctor.case import Case
from mfkit.doctor.look import Product, Seen, Table
from mfkit.optimizers import RowAdam, RowSGD
from mfkit.trainer import settle

ratings, _ = mfkit.synthetic(n_users=300, n_items=400, n_ratings=12_000, rank=4, noise=0.7, seed=0)
m, n, mean, d = ratings.n_users, ratings.n_items, ratings.mean, 16
SCALE = 0.1**0.5 / d**0.25


def mf(std=None, **options):
    torch.manual_seed(0)
    model = mfkit.MatrixFactorization(m, n, d, **dict(mean=mean) | options)
    return model if std is None else mfkit.initializers.normal_(model, std)


class Textbook(nn.Module):
    """The article's class: N(0, 1), no mean, no biases."""

    def __init__(self, n_factors=d):
        super().__init__()
        torch.manual_seed(0)
        self.user_factors = nn.Embedding(m, n_factors)
        self.item_factors = nn.Embedding(n, n_factors)

    def forward(self, users, items):
        return (self.user_factors(users) * self.item_factors(items)).sum(dim=1)


class Offsets(nn.Module):
    """One table for users and items, one of biases, as factorization machines have it; the mean is trained."""

    def __init__(self, bag=False, offset=m):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.EmbeddingBag(m + n, d, mode="sum") if bag else nn.Embedding(m + n, d)
        self.bias = nn.Embedding(m + n, 1)
        nn.init.normal_(self.table.weight, std=SCALE)
        nn.init.zeros_(self.bias.weight)
        self.mean = nn.Parameter(torch.tensor(3.5))
        self.bag, self.offset = bag, offset

    def forward(self, users, items):
        ids = torch.stack([users, items + self.offset], dim=1)
        if self.bag:
            total = self.table(ids)
            product = (total.square() - self.table(users[:, None]).square() - self.table(ids[:, 1:]).square()).sum(
                -1
            ) / 2
        else:
            product = self.table(ids).prod(1).sum(-1)
        return self.mean + self.bias(ids).sum((1, 2)) + product


class Matrices(nn.Module):
    """nn.Parameter matrices, indexed; biases as vectors."""

    def __init__(self, std=SCALE, shift=0, mean=mean, columns=False):
        super().__init__()
        torch.manual_seed(0)
        self.P, self.Q = nn.Parameter(std * torch.randn(m, d)), nn.Parameter(std * torch.randn(n, d))
        if columns:
            self.P = nn.Parameter(std * torch.randn(d, m))
        self.b, self.c = nn.Parameter(torch.zeros(m)), nn.Parameter(torch.zeros(n))
        self.mean, self.shift, self.columns = mean, shift, columns

    def forward(self, users, items):
        users = users - self.shift
        u = self.P[:, users].T if self.columns else self.P[users]
        return self.mean + self.b[users] + self.c[items] + torch.einsum("bd,bd->b", u, self.Q[items])


class BiasFree(nn.Module):
    """For centred ratings: nothing but factors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(m, d), nn.Embedding(n, d)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=SCALE)

    def forward(self, users, items):
        return torch.einsum("bd,bd->b", self.user(users), self.item(items))


class NeuMF(nn.Module):
    """A product and a perceptron side by side (He et al. 2017), with dropout and batch norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleList(nn.Embedding(rows, 8) for rows in (m, n, m, n))
        self.mlp = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        self.out = nn.Linear(24, 1)

    def forward(self, users, items):
        a, b, c, e = (table(x) for table, x in zip(self.tables, (users, items, users, items), strict=True))
        return self.out(torch.cat([a * b, self.mlp(torch.cat([c, e], 1))], 1)).squeeze(-1)


class Shaped(Matrices):
    """A prediction of shape (B, 1), or of all users against all items of the batch."""

    def __init__(self, full=False):
        super().__init__()
        self.full = full

    def forward(self, users, items):
        return self.P[users] @ self.Q[items].T if self.full else super().forward(users, items)[:, None]


class Naive(BiasFree):
    """The whole product, and then the cells."""

    def forward(self, users, items):
        return 3.5 + (self.user.weight @ self.item.weight.T)[users, items]


def centred():
    return mfkit.Ratings(ratings.users, ratings.items, ratings.values - mean, m, n)


def adam(model, lr=0.01, **options):
    return torch.optim.Adam(model.parameters(), lr=lr, **options)


def sgd(model, lr=5.0, **options):
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def case(model, make=adam, *, on=ratings, **given):
    return dict(model=model, ratings=on, batch_size=256, memory=10**9) | given | {"optimizer": make(model)}


def loader(**options):
    dataset = torch.utils.data.TensorDataset(ratings.users, ratings.items, ratings.values)
    return torch.utils.data.DataLoader(dataset, batch_size=256, shuffle=True, **options)


def only_factors(model):
    return torch.optim.Adam([model.user_factors.weight, model.user_bias.weight, model.item_bias.weight], lr=0.01)


def zeroed(**options):
    return mf(std=0.0, **options)


PER_RATING, PER_TABLE = (
    predict.collapse_l2(ratings, penalty, residual=True) for penalty in ("per_rating", "per_table")
)
BORDER = predict.max_stable_lr(ratings, d, SCALE, 256, mean=mean, biases=True)
PLANTED = {  # name of the finding: a case in which it is planted, alone
    "ids out of range": lambda: case(mfkit.MatrixFactorization(m, n - 1, d, mean=mean)),
    "prediction shape": lambda: case(Shaped()),
    "out of memory": lambda: case(mf(), batch_size=10_000, memory=1_000_000),
    "table not trained": lambda: case(mf(), only_factors),
    "dead start": lambda: case(zeroed()),
    "wide start": lambda: case(mf(std=1.0)),
    "slow start": lambda: case(mf(std=1e-4), lambda model: sgd(model, 0.1)),
    "no mean": lambda: case(BiasFree()),
    "no biases": lambda: case(BiasFree(), on=centred()),
    "lr past the border": lambda: case(mf(), lambda model: sgd(model, 4 * BORDER)),
    "lr beyond the ratings": lambda: case(mf(), lambda model: adam(model, 3.0)),
    "collapse": lambda: case(mf(), l2=1.2 * PER_RATING),
    "table-scale penalty": lambda: case(mf(), l2=0.8 * PER_TABLE, penalty="per_table"),
    "weak penalty": lambda: case(mf(), l2=0.01 * PER_RATING),
    "huber swap": lambda: case(mf(), l2=0.3 * PER_RATING, loss=nn.HuberLoss(delta=2.0)),
    "dense step": lambda: case(mf(), batch_size=16),
    "loader": lambda: case(mf(), loader=loader()),
    "sparse clipping": lambda: case(mf(sparse=True), lambda model: RowAdam(model.parameters(), lr=0.01), clip_norm=1.0),
    "sparse optimizer": lambda: case(mf(sparse=True)),
    "momentum leak": lambda: case(mf(sparse=True), lambda model: sgd(model, momentum=0.9)),
    "lost updates": lambda: case(mf().bfloat16(), lambda model: adam(model, 1e-4)),
    "decay of unread rows": lambda: case(mf(), lambda model: adam(model, weight_decay=1e-5), batch_size=128),
    "cold rows": lambda: case(mfkit.MatrixFactorization(3 * m, 3 * n, d, mean=mean)),
}
VARIANTS = {
    "ids out of range": [lambda: case(Matrices(shift=1)), lambda: case(Offsets(offset=m + 1))],
    "prediction shape": [lambda: case(Shaped(full=True))],
    "out of memory": [lambda: case(Naive(), memory=900_000)],
    "wide start": [
        lambda: case(Matrices(std=1.0)),
        lambda: case(Matrices(std=1.0, columns=True)),
        lambda: case(Textbook()),
    ],
    "lr past the border": [lambda: case(mf(), lambda model: sgd(model, BORDER / 60), reduction="sum")],
    "collapse": [
        lambda: case(mf(), l2=1.2 * PER_TABLE, penalty="per_table"),
        lambda: case(mf(), lambda model: adam(model, weight_decay=2.4 * PER_TABLE)),
        lambda: case(mf(), l2=0.6 * PER_RATING, loss=nn.HuberLoss()),
        lambda: case(mf(), l2=256 * 1.2 * PER_TABLE, penalty="per_table", reduction="sum"),
    ],
    "huber swap": [lambda: case(mf(), l2=0.02, loss=nn.SmoothL1Loss(beta=2.0))],
    "sparse optimizer": [
        lambda: case(mf(sparse=True), lambda model: torch.optim.AdamW(model.parameters(), lr=0.01)),
        lambda: case(mf(sparse=True), lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01)),
        lambda: case(mf(sparse=True), lambda model: sgd(model, weight_decay=1e-6)),
    ],
    "lost updates": [lambda: case(mf().half())],
}
HEALTHY = {
    "mfkit": lambda: case(mf(), l2=0.3 * PER_RATING),
    "mfkit, SGD": lambda: case(mf(), sgd, l2=0.3 * PER_RATING),
    "mfkit, sparse": lambda: case(mf(sparse=True), lambda model: RowAdam(model.parameters(), lr=0.01)),
    "mfkit, sparse SGD with momentum": lambda: case(
        mf(sparse=True), lambda model: RowSGD(model.parameters(), 5.0, 0.9)
    ),
    "mfkit, SparseAdam": lambda: case(
        mf(sparse=True), lambda model: torch.optim.SparseAdam(list(model.parameters()), 0.01)
    ),
    "mfkit, sparse LBFGS": lambda: case(mf(sparse=True), lambda model: torch.optim.LBFGS(model.parameters())),
    "mfkit, Adadelta": lambda: case(mf(), lambda model: torch.optim.Adadelta(model.parameters())),
    "offsets": lambda: case(Offsets()),
    "offsets in a bag": lambda: case(Offsets(bag=True)),
    "bias-free, centred": lambda: case(BiasFree(), on=centred()),
    "NeuMF": lambda: case(NeuMF(), lambda model: adam(model, 0.001)),
    "matrices": lambda: case(Matrices()),
    "matrices, SGD": lambda: case(Matrices(columns=True), sgd),
    "whole product": lambda: case(Naive()),
}


def pairs(table):
    return [pytest.param(name, make, id=f"{name} {k}") for name, made in table.items() for k, make in enumerate(made)]


@pytest.mark.parametrize(("name", "make"), pairs({name: [make] for name, make in PLANTED.items()}) + pairs(VARIANTS))
def test_names_the_planted_fault_and_no_other_of_high_severity(name, make):
    diagnosis = mfkit.diagnose(**make())
    assert name in diagnosis.names()
    assert set(diagnosis.names("high")) <= {name}


def test_every_finding_has_its_planted_fault():
    assert list(WORDS) == list(PLANTED)


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_models_raise_nothing_of_high_severity(name):
    diagnosis = mfkit.diagnose(**HEALTHY[name]())
    assert not diagnosis.names("high"), str(diagnosis)


def state(given):
    model, optimizer = given["model"], given["optimizer"]
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    tensors += [x for s in optimizer.state.values() for x in s.values() if isinstance(x, torch.Tensor)]
    tensors += [given["ratings"].users, given["ratings"].items, given["ratings"].values, torch.get_rng_state()]
    modes = [module.training for module in model.modules()]
    counts = [len(optimizer.state), [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]]
    randoms = [random.getstate(), str(np.random.get_state())]
    tensors = [x.to_dense() if x is not None and x.is_sparse else x for x in tensors]
    return copy.deepcopy(tensors), copy.deepcopy((modes, counts, randoms))


@pytest.mark.parametrize("make", [*HEALTHY.values(), PLANTED["loader"], PLANTED["ids out of range"]])
def test_all_stays_as_it_was(make):
    given = make()
    model, optimizer = given["model"], given["optimizer"]
    model(ratings.users[:50], ratings.items[:50] % (n - 1)).square().mean().backward()
    optimizer.step(lambda: torch.zeros(()))  # so that there are gradients and states to change
    if given.get("loader"):
        given["loader"].generator = torch.Generator().manual_seed(3)
    before = state(given)
    mfkit.diagnose(**given)
    after = state(given)
    for a, b in zip(before[0], after[0], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert before[1] == after[1]


def test_optimizer_may_be_left_out():
    assert mfkit.diagnose(Textbook(), ratings, batch_size=256).names("high") == ["wide start"]


def test_predictions_of_the_laws_are_what_is_reported():
    given = case(mf(std=1.0), lambda model: sgd(model, 100.0))
    found = {f.name: f for f in mfkit.diagnose(**given).findings}
    assert found["wide start"].measured == pytest.approx(d**0.5, rel=0.1)  # sqrt(d) sU sV
    assert found["wide start"].threshold == pytest.approx(ratings.values.std().item() / 2, rel=1e-3)
    law = predict.max_stable_lr(ratings, d, 1.0, 256, mean=mean, biases=True)
    assert found["lr past the border"].threshold == pytest.approx(law, rel=0.05)
    found = {f.name: f for f in mfkit.diagnose(**PLANTED["collapse"]()).findings}
    assert found["collapse"].threshold == pytest.approx(PER_RATING, rel=0.05)


def test_without_mean_and_biases_the_border_is_that_of_the_raw_ratings():
    given = case(Textbook(), l2=0.05, penalty="per_table")
    finding = next(f for f in mfkit.diagnose(**given).findings if f.name == "collapse")
    assert finding.threshold == pytest.approx(predict.collapse_l2(ratings, "per_table"), rel=1e-6)


def test_clipping_lowers_what_the_border_says():
    given = case(mf(), lambda model: sgd(model, 4 * BORDER), clip_norm=1.0)
    assert "lr past the border" in mfkit.diagnose(**given).names("medium")


def test_frozen_tables_are_let_be():
    model = mf()
    model.user_factors.requires_grad_(False)
    model.item_factors.requires_grad_(False)
    given = case(model, lambda model: torch.optim.Adam([model.user_bias.weight, model.item_bias.weight], lr=0.01))
    assert not mfkit.diagnose(**given).names("high")


def test_a_learning_rate_of_zero_and_equal_ratings_are_no_obstacle():
    same = mfkit.Ratings(ratings.users, ratings.items, torch.full((len(ratings),), 3.0), m, n)
    for optimizer in (adam, sgd):
        mfkit.diagnose(**case(mf(), lambda model, make=optimizer: make(model, 0.0)))
        mfkit.diagnose(**case(mf(mean=3.0), optimizer, on=same, l2=0.1))


def test_random_states_come_back_after_an_error():
    class Broken(Matrices):
        def forward(self, users, items):
            torch.rand(1), np.random.rand(), random.random()
            raise RuntimeError("mine")

    given = case(Broken())
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    with pytest.raises(RuntimeError, match="mine"):
        mfkit.diagnose(**given)
    after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_prints_renders_and_tabulates():
    diagnosis = mfkit.diagnose(**case(Textbook()))
    text = str(diagnosis)
    assert "Textbook" in text and "wide start" in text and "nn.init.normal_(model.user_factors.weight" in text
    assert "<table" in diagnosis._repr_html_()
    assert list(diagnosis.frame["name"]) == diagnosis.names()
    assert set(diagnosis.frame["severity"]) <= {"high", "medium", "note"}
    assert "nothing found" in str(mfkit.doctor.Diagnosis([], "x"))


def test_notebooks_that_prove_it_exist():
    there = {path.stem for path in (repository.root() / "notebooks").glob("*.ipynb")}
    assert {words["notebook"] for words in WORDS.values()} <= there


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": 3}, TypeError, "model must be Module, got 3"),
        ({"ratings": [1]}, TypeError, "ratings must be"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be"),
        ({"loader": 5}, TypeError, "loader must be"),
        ({"loss": "l1"}, ValueError, "loss must be one of"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 1.5}, ValueError, "batch_size must be"),
        ({"l2": -1}, ValueError, "l2 must be"),
        ({"l2": "x"}, ValueError, "l2 must be"),
        ({"clip_norm": 0}, ValueError, "clip_norm must be"),
        ({"memory": 0}, ValueError, "memory must be a finite number above 0, got 0"),
        ({"memory": "1 GB"}, ValueError, "memory must be"),
        ({"penalty": "mean"}, ValueError, "penalty must be"),
        ({"reduction": "none"}, ValueError, "reduction must be"),
        ({"model": nn.Identity()}, ValueError, "model must have parameters to train, got Identity()"),
    ],
)
def test_bad_arguments_are_named(change, error, words):
    with pytest.raises(error) as raised:
        mfkit.diagnose(**case(mf()) | change)
    assert words in str(raised.value)


def test_a_prediction_without_gradient_is_named():
    model = mf()
    model.forward = lambda users, items: mfkit.MatrixFactorization.forward(model, users, items).detach()
    with pytest.raises(ValueError, match="must carry a gradient"):
        mfkit.diagnose(**case(model))


def test_command_runs_on_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "import mfkit, torch\n"
        "def build():\n"
        "    ratings, _ = mfkit.synthetic(50, 60, 900, seed=0)\n"
        "    model = mfkit.MatrixFactorization(50, 60, 8, mean=ratings.mean)\n"
        "    return dict(model=model, ratings=ratings, batch_size=64)\n"
        "def broken():\n"
        "    given = build()\n"
        "    mfkit.initializers.normal_(given['model'], 1.0)\n"
        "    return given['model'], given['ratings'], 64\n"
    )
    _in_folder(tmp_path, monkeypatch)
    for target, status, words in (("mine", 0, "MatrixFactorization"), ("mine:broken", 1, "wide start")):
        assert command.main(["doctor", target]) == status
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("", "target must be module:function"),
        (".mine:build", "target must be module:function"),
        ("nowhere:build", "target must name a module"),
        ("nowhere.at.all", "target must name a module"),
        ("mine.py:build", "target must name a module"),
        ("mine:absent", "mine has none called 'absent'"),
        ("mine:number", "mine has none called 'number'"),
    ],
)
def test_command_says_in_one_sentence_that_there_is_no_such_function(target, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("number = 3\ndef build(): raise AssertionError\n")
    _in_folder(tmp_path, monkeypatch)
    assert command.main(["doctor", target]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 1 and repr(target) in err


@pytest.mark.parametrize("line", ["import nowhere", "1 / 0", "import missing.nowhere", "raise LookupError('mine')"])
def test_command_passes_on_what_the_readers_module_raises(line, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(f"{line}\n")
    (tmp_path / "missing").mkdir()
    _in_folder(tmp_path, monkeypatch)
    with pytest.raises((ModuleNotFoundError, ZeroDivisionError, LookupError)):
        doctor.main("mine:build")


def _in_folder(path, monkeypatch):
    """As in a new process that was started there."""
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def scaled(model, std, by=1.0):
    """mfkit's model in units of std; its factors times `by`."""
    model.scale.fill_(std)
    return initializers.normal_(model, by * SCALE)


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inside = model

    def forward(self, users, items):
        return self.inside(users, items)


@pytest.mark.parametrize("a", [1e-2, 25.0, 1e4])
@pytest.mark.parametrize("wrap", [lambda model: model, Wrapped])
def test_in_units_of_the_scale_nothing_depends_on_the_unit(a, wrap):
    def examined(values):
        on = ratings.with_values(values)
        model = wrap(scaled(mf(mean=on.mean), on.std, by=4.0))
        return mfkit.diagnose(**case(model, lambda model: adam(model, 0.7), on=on, l2=1.0))

    one, other = examined(ratings.values), examined(a * ratings.values - a)
    assert one.names("high") == ["wide start", "lr beyond the ratings", "collapse"]
    assert [f[:2] for f in other.findings] == [f[:2] for f in one.findings]
    assert "u . v" in other.examined
    rating_units = {"wide start", "lr beyond the ratings"}
    for f, g in zip(one.findings, other.findings, strict=True):
        factor = a if f.name in rating_units else 1.0
        assert (g.measured, g.threshold) == pytest.approx((factor * f.measured, factor * f.threshold), rel=1e-3)
        assert g.remedy.split("#")[0] == f.remedy.split("#")[0]


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (1e-2, 0.0), (25.0, 3.0), (1e4, -2e4)])
def test_finds_nothing_in_the_recipe(a, b):
    on = ratings.with_values(a * ratings.values + b)
    model = mf(mean=on.mean, scale=on.std)
    config = settle(model, on, mfkit.TrainConfig())
    diagnosis = mfkit.diagnose(model, on, optimizer=adam(model, config.lr), batch_size=config.batch_size, l2=config.l2)
    assert not [f for f in diagnosis.findings if f.severity != "note"], str(diagnosis)


@pytest.mark.parametrize("make", [mf, lambda: Matrices(std=0.3), lambda: Matrices(std=0.3, columns=True)])
def test_the_proposed_start_is_a_tenth_of_these_ratings_spread(make):
    on = ratings.with_values(ratings.values * 0.05)
    model = make()
    model.mean = torch.tensor(on.mean)
    [finding] = [f for f in mfkit.diagnose(**case(model, on=on)).findings if f.name == "wide start"]
    exec(finding.remedy, {"nn": nn, "model": model})
    assert model(on.users, on.items).std().item() == pytest.approx(0.1 * on.std, rel=0.15)
    assert "wide start" not in mfkit.diagnose(**case(model, on=on)).names()


def test_the_l2_proposed_against_a_collapse_is_smaller():
    rng = np.random.default_rng(0)
    users, items = np.repeat(range(60), 20), np.concatenate([rng.permutation(90)[:20] for _ in range(60)])
    biases = rng.normal(0, 0.6, 60)[users] + rng.normal(0, 0.3, 90)[items]
    on = mfkit.Ratings(users, items, 3 + biases + rng.normal(0, 0.1, 1200), 60, 90)
    model = mfkit.MatrixFactorization(60, 90, 8, mean=on.mean)
    [finding] = [f for f in mfkit.diagnose(model, on, batch_size=256, l2=0.12).findings if f.name == "collapse"]
    edge = (60 / 1200) ** 0.5 + (90 / 1200) ** 0.5
    assert float(finding.remedy.split()[4]) == pytest.approx(
        0.53 * 0.1 * edge, rel=0.1
    )  # of the noise that was planted


@pytest.mark.parametrize(("a", "slow"), [(1.0, False), (1e4, True), (4e6, True)])
def test_steps_that_cannot_reach_the_spread_are_slow(a, slow):
    on = ratings.with_values(a * ratings.values)
    findings = {f.name: f for f in mfkit.diagnose(**case(mf(mean=on.mean), on=on)).findings}
    assert ("slow start" in findings) == slow
    if slow:  # a bias of std a sqrt(.3^2 + .4^2) / sqrt(2), in steps of .01
        epochs = a * 0.125**0.5 / 0.01 / (len(on) / 256)
        assert findings["slow start"].measured == pytest.approx(epochs, rel=0.15)
        assert "better: with ratings over their std" in findings["slow start"].remedy


def test_a_weak_penalty_by_hand():
    left, rated = predict.bias_residual(ratings, 0.0), [len(ids.unique()) for ids in (ratings.users, ratings.items)]
    noise = (left @ left / (len(ratings) - sum(rated))) ** 0.5
    wanted = 0.53 * noise * sum((rows / len(ratings)) ** 0.5 for rows in rated)
    for share, names in ((0.09, ["weak penalty"]), (0.11, [])):
        given = case(mf(), l2=share * wanted)
        assert mfkit.diagnose(**given).names("medium") == names
        halved = given | {"loss": nn.HuberLoss(delta=1e6), "l2": share * wanted / 2}  # e^2 / 2
        assert ("weak penalty" in mfkit.diagnose(**halved).names("medium")) == bool(names)
    [finding] = [f for f in mfkit.diagnose(**case(mf(), l2=0.0)).findings if f.name == "weak penalty"]
    assert (finding.measured, finding.threshold) == (0.0, pytest.approx(wanted / 10))
    assert float(finding.remedy.removeprefix("l2 = ")) == pytest.approx(wanted, rel=0.05)


class Dropped(Matrices):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.2)

    def forward(self, users, items):
        return self.drop(super().forward(users, items))


@pytest.mark.parametrize(
    "given",
    [
        lambda: case(mf()),  # nothing was said of a penalty
        lambda: case(mf(), lambda model: adam(model, weight_decay=1e-6), l2=0.0),
        lambda: case(mf(), lambda model: torch.optim.AdamW(model.parameters(), lr=0.01), l2=0.0),
        lambda: case(Dropped(), l2=0.0),
        lambda: case(mfkit.MatrixFactorization(m, n, 0, mean=mean), l2=0.0),
        lambda: case(mfkit.MatrixFactorization(m, n, 1, mean=mean), l2=0.0),
        lambda: case(NeuMF(), l2=0.0),
        lambda: case(mf(), l2=0.1 * PER_TABLE, penalty="per_table"),
    ],
)
def test_nothing_is_said_of_a_weak_penalty(given):
    assert "weak penalty" not in mfkit.diagnose(**given()).names()


def loss_of(model, batch, names, penalty):
    """The objective of a reader's loop; names["line"]: a remedy that sets the loss."""
    users, items, values = batch
    unit = model.scale if isinstance(model, mfkit.MatrixFactorization) else 1.0
    tables = model.user_factors, model.item_factors
    u, v = (table(ids) for table, ids in zip(tables, (users, items), strict=True))
    mse = ((model(users, items) - values) / unit).square().mean()
    squares = (u.square() + v.square()).sum(-1).mean()
    if penalty == "per_table":
        squares = sum(table.weight.square().sum() for table in tables)
    names |= {"u": u, "v": v, "mse": mse, "loss": mse + names["l2"] * squares}
    exec(names["line"], names)
    return names["loss"]


COMBINED = {
    "stars' settings": lambda on: case(mf(mean=on.mean), on=on, l2=0.12),
    "no penalty": lambda on: case(mf(mean=on.mean), on=on, l2=0.0),
    "wide and fast": lambda on: case(mf(mean=on.mean, std=1.0), lambda model: adam(model, 0.5), on=on, l2=0.0),
    "wide, in units": lambda on: case(scaled(mf(mean=on.mean), on.std, by=4.0), on=on, l2=0.0),
    "fast and strong, in units": lambda on: case(
        scaled(mf(mean=on.mean), on.std), lambda model: adam(model, 0.7), on=on, l2=0.6
    ),
    "past the border, in units": lambda on: case(
        scaled(mf(mean=on.mean), on.std, by=4.0), lambda model: sgd(model, 60.0), on=on, l2=0.6
    ),
    "the article's": lambda on: case(Textbook(), on=on, l2=0.01, penalty="per_table"),
}


@pytest.mark.parametrize("a", [1e-2, 1.0, 20.0, 1e4])
@pytest.mark.parametrize("name", COMBINED)
def test_remedies_combine(name, a):
    """All of them pasted: better than none, and than the mean."""
    train, test = ratings.split((0.8, 0.2), seed=0)
    train, test = (part.with_values(a * part.values) for part in (train, test))
    if name == "the article's":  # it has no mean
        train, test = (part.with_values(part.values - a * mean) for part in (train, test))
    scores = []
    for pasted in (False, True):
        given = COMBINED[name](train)
        model, optimizer = given["model"], given["optimizer"]
        findings = mfkit.diagnose(**given).findings
        lines = [f.remedy for f in findings if f.severity != "note" and f.name not in ("no mean", "no biases")]
        lines = lines if pasted else []
        names = {"nn": nn, "torch": torch, "model": model, "optimizer": optimizer, "l2": given["l2"], "line": "pass"}
        for line in lines:
            if line.startswith("loss"):
                names["line"] = line
            else:
                exec(line, names)
        order = torch.Generator().manual_seed(0)
        for _ in range(10):
            for batch in train.batches(256, order):
                loss = loss_of(model, batch, names, given.get("penalty"))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        error = (model(test.users, test.items) - test.values).detach().double()
        scores.append(error.square().mean().sqrt().nan_to_num(torch.inf).item())
        if not lines and pasted:
            return  # healthy, as stars' settings are on stars
    of_mean = (test.values.double() - train.mean).square().mean().sqrt().item()
    assert scores[1] < of_mean and scores[1] < scores[0]


# Judged by hand: four ratings of std sqrt(2.5) by four users of two items, in batches of two.
FOUR = mfkit.Ratings([0, 1, 2, 3], [0, 0, 1, 1], [1.0, 2.0, 4.0, 5.0], 4, 2)
PRODUCT = Product(n_factors=4, user_scale=2.0, item_scale=1.0, absolute_sum=3.0, base=3.0)
SEEN = Seen(
    prediction=torch.zeros(4),
    tables=(),
    has_biases=True,
    product=PRODUCT,
    curvature=1.0,
    has_sparse_gradients=False,
)


def hand(make=None, *, on=FOUR, **given):
    model = nn.Linear(1, 1)
    optimizer = None if make is None else make(model.parameters())
    return Case(model=model, ratings=on, batch_size=2, loss=mfkit.mse, optimizer=optimizer, **given)


def table(values, gradient=None, name="U", kinds=("users",)):
    return Table(name, values, frozenset(kinds), is_factors=True, gradient=gradient, is_sparse=False)


@pytest.mark.parametrize(("top", "severity"), [(4.0, "high"), (2.0, "medium"), (1.0, None)])
def test_a_wide_start_by_hand(top, severity):
    tables = (table(torch.zeros(4, 16)),)
    seen = replace(SEEN, prediction=torch.tensor([0.0, 0.0, top, top]), tables=tables)
    findings = list(judge.wide_start(hand(), seen))
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    for finding in findings:
        assert finding.measured == pytest.approx(top / 3**0.5)  # the sum of squares is top^2, over 3
        assert finding.threshold == pytest.approx(2.5**0.5 / 2)
        assert "(law: 4)" in finding.meaning  # sqrt(4) 2 1
        assert finding.remedy == "nn.init.normal_(model.U, std=0.28)"  # sqrt(.1 sqrt(2.5)) / 4^(1/4), as d = 4


def test_an_lr_beyond_the_ratings_by_hand():
    case = hand(lambda parameters: torch.optim.Adam(parameters, lr=0.5))
    [finding] = judge.lr_beyond_the_ratings(case, SEEN)
    assert finding.measured == pytest.approx(0.5 * (3 + 4 * 0.5 + 2))
    assert finding.threshold == pytest.approx(2.5**0.5)
    assert finding.severity == "medium"
    assert finding.remedy.endswith("= 0.075")  # .5 * 1.581 / 3.5 / 3
    assert not list(judge.lr_beyond_the_ratings(case, replace(SEEN, product=None)))  # .5 alone
    assert not list(judge.lr_beyond_the_ratings(hand(lambda p: torch.optim.SGD(p, lr=9.0)), SEEN))


def test_a_slow_start_by_hand():
    [finding] = judge.slow_start(hand(lambda parameters: torch.optim.Adam(parameters, lr=0.01)), SEEN)
    assert finding.measured == pytest.approx(2.0 / 0.01 / 2)  # the wider std over lr, two steps an epoch
    assert finding.remedy.endswith("= 0.031")  # five epochs' worth of steps would be .2; 4 x^2 + (3 + 2) x = 1.581 / 10


DIAGONAL = mfkit.Ratings([0, 1], [0, 1], [3.0, 4.0], 2, 2)  # R = diag(3, 4): s1 = 4, over N = 2 the border is 2


@pytest.mark.parametrize(
    ("given", "curvature", "l2"),
    [
        ({"l2": 2.1, "penalty": "per_table"}, 1.0, 2.1),
        ({"l2": 1.9, "penalty": "per_table"}, 1.0, None),
        ({"l2": 1.9, "penalty": "per_table"}, 0.5, 3.8),  # the loss is e^2 / 2
        ({"l2": 4.2, "penalty": "per_table", "reduction": "sum"}, 1.0, 2.1),  # beside a sum over B = 2
        ({"l2": 3.9, "penalty": "per_rating"}, 1.0, None),  # one rating a row and column: the border is s1
        ({"l2": 4.1, "penalty": "per_rating"}, 1.0, 4.1),
        ({"make": lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=4.2)}, 1.0, 2.1),  # wd |w|^2 / 2
        ({"make": lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=3.8)}, 1.0, None),
        ({"make": lambda p: torch.optim.AdamW(p, lr=1.0, weight_decay=4.2)}, 1.0, None),  # no part of the loss
    ],
)
def test_a_collapse_by_hand(given, curvature, l2):
    seen = replace(SEEN, product=replace(PRODUCT, base=0.0), has_biases=False, curvature=curvature)
    findings = list(judge.collapse(hand(on=DIAGONAL, **given), seen))
    assert [finding.measured for finding in findings] == ([] if l2 is None else [pytest.approx(l2)])
    for finding in findings:
        assert finding.threshold == pytest.approx(4.0 if given.get("penalty") == "per_rating" else 2.0)
        assert "mse + 0.53 *" in finding.remedy  # .53 (1 + 1) .5: two ratings cannot be told from three biases


def test_lost_updates_by_hand():
    ones = table(torch.ones(4, 2, dtype=torch.bfloat16), gradient=torch.ones(4, 2))
    seen = replace(SEEN, tables=(ones,))
    [finding] = judge.lost_updates(hand(lambda parameters: torch.optim.Adam(parameters, lr=0.003)), seen)
    assert (finding.measured, finding.threshold) == (2**-8, 0.003)  # 1 is followed by 1 + 2^-7: half of that is .0039
    assert not list(judge.lost_updates(hand(lambda parameters: torch.optim.Adam(parameters, lr=0.005)), seen))


def test_cold_rows_by_hand():
    both = table(torch.zeros(24, 2), kinds=("users", "items"))  # one table, of which 4 + 2 rows are rated
    [finding] = judge.cold_rows(hand(), replace(SEEN, tables=(both,)))
    assert (finding.measured, finding.severity) == (0.75, "medium")
    assert not list(judge.cold_rows(hand(), replace(SEEN, tables=(table(torch.zeros(2, 4)),))))  # four columns, (k, n)
