"""Settings that nobody has to choose: the formula by hand, no unit in them, better than biases, said and resumed."""

import copy
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mfkit import MatrixFactorization, Ratings, TrainConfig, fit_als, rmse, sample_posterior, synthetic, train
from mfkit.data import RatingsWarning
from mfkit.recipe import EDGE_SHARE, batch_size, choose_l2, complete, l2_for_noise

QUICK = TrainConfig(epochs=6)


def problem(scale=1.0, shift=0.0):
    ratings, _ = synthetic(60, 80, 2400, rank=2, noise=0.5, seed=3)
    values = ratings.values.double() * scale + shift
    return Ratings(ratings.users, ratings.items, values, 60, 80).split((0.8, 0.2), seed=0)


def fresh(part, d=5, **options):
    torch.manual_seed(0)
    return MatrixFactorization(part.n_users, part.n_items, d, **options)


def test_the_formula_by_hand():
    """Six ratings of three users (two each) and of two items that have any (three each); a third item has none."""
    ratings = Ratings([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1], [1.0, 2, 3, 4, 5, 6], 3, 3)
    assert l2_for_noise(ratings, 2.0) == pytest.approx(EDGE_SHARE * 2.0 * (1 / math.sqrt(2) + 1 / math.sqrt(3)))
    assert l2_for_noise(ratings, 0.0) == 0.0
    for noise in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="noise_std must be finite and at least 0"):
            l2_for_noise(ratings, noise)


def test_the_edge_is_that_of_noise():
    """Even counts: the largest singular value of D_u^-1/2 E D_i^-1/2, E pure noise on 30 % of the cells."""
    rng = np.random.default_rng(0)
    cells = rng.random((400, 300)) < 0.3
    users, items = np.nonzero(cells)
    ratings = Ratings(users, items, 1.7 * rng.standard_normal(len(users)), 400, 300)
    E = np.zeros((400, 300))
    E[users, items] = ratings.values
    scaled = E / np.sqrt(cells.sum(1, keepdims=True)) / np.sqrt(cells.sum(0, keepdims=True))
    assert l2_for_noise(ratings, 1.7) / EDGE_SHARE == pytest.approx(np.linalg.norm(scaled, 2), rel=0.1)


@pytest.mark.parametrize(
    ("config", "l2"),
    [
        (TrainConfig(), None),
        (TrainConfig(l2=0.0), 0.0),
        (TrainConfig(l2=0.3), 0.3),
        (TrainConfig(l1=0.1), 0.0),
        (TrainConfig(weight_decay=0.1, optimizer="adamw"), 0.0),
        (TrainConfig(penalty="per_table"), 0.0),
        (TrainConfig(loss="huber"), None),
        (TrainConfig(loss="mae", l2=0.1), 0.1),
    ],
)
def test_what_another_penalty_leaves_of_l2(config, l2):
    assert complete(config, problem()[0]).l2 == l2


def test_no_formula_for_absolute_errors():
    with pytest.raises(ValueError, match="l2 has no formula for loss='mae'; want a number"):
        train(fresh(problem()[0]), problem()[0], TrainConfig(loss="mae"))


@pytest.mark.parametrize(("n", "size"), [(1, 32), (4096, 32), (8192, 64), (90_000, 512), (10_000_000, 512)])
def test_batch_size(n, size):
    class Many:
        def __len__(self):
            return n

    assert batch_size(TrainConfig(), Many()) == size
    assert batch_size(TrainConfig(batch_size=7), Many()) == 7


MAPS = [(1e-3, 0.0), (1e-3, 1.0), (0.25, -0.25), (25.0, -25.0), (1e6, 0.0), (1e6, -3e6), (1.0, 100.0)]


@pytest.mark.parametrize(("scale", "shift"), MAPS)
@pytest.mark.parametrize(
    "fit", [lambda m, r: train(m, r, QUICK), fit_als, lambda m, r: train(m, r, replace(QUICK, loss="huber"))]
)
def test_no_unit_in_the_defaults(fit, scale, shift):
    """For ratings a r + b: the predictions a p + b, to rounding (of float32 ratings, a hundred of them from zero)."""
    part, test = problem()
    model = fresh(part)
    fit(model, part)
    wanted = model.predict(test.users, test.items).double() * scale + shift
    part, _ = problem(scale, shift)
    model = fresh(part)
    fit(model, part)
    got = model.predict(test.users, test.items).double()
    assert (got - wanted).abs().max().item() < 2e-3 * part.std


@pytest.mark.parametrize(("scale", "shift"), MAPS)
def test_no_unit_in_the_priors(scale, shift):
    part, test = problem()
    one = sample_posterior(fresh(part), part, samples=20)
    mapped, _ = problem(scale, shift)
    other = sample_posterior(fresh(mapped), mapped, samples=20)
    for mine, theirs, offset in zip(
        one.predict(test.users, test.items), other.predict(test.users, test.items), (shift, 0.0), strict=True
    ):
        assert (theirs - mine * scale - offset).double().std().item() < 0.05 * mapped.std
    assert other.noise_std.mean().item() == pytest.approx(scale * one.noise_std.mean().item(), rel=0.03)


@pytest.mark.parametrize("seed", [0, 1])
def test_better_than_biases_and_mean(seed):
    ratings, truth = synthetic(150, 200, 9000, rank=3, noise=0.6, seed=seed, stars=True)
    part, test = ratings.split((0.85, 0.15), seed=seed)
    biases = min(_biases(part, test, l2) for l2 in (0.02, 0.05, 0.1, 0.2))
    for fit in (train, fit_als):
        model = fresh(part, 12)
        fit(model, part)
        assert truth.noise_floor(test) < rmse(model, test) < 0.97 * biases
    posterior = sample_posterior(fresh(part, 12), part)
    mean, _ = posterior.predict(test.users, test.items)
    assert (mean - test.values).square().mean().sqrt().item() < 0.97 * biases


def _biases(part, test, l2):
    model = fresh(part, 0)
    model.use_units(part)
    fit_als(model, part, l2=l2)
    return rmse(model, test)


def test_what_was_filled_in_is_said_and_gives_the_same_run():
    part, _ = problem()
    model, again = fresh(part), fresh(part)
    history = train(model, part, QUICK)
    assert history.config.batch_size == 32
    assert 0 < history.config.l2 < 1
    again.use_units(part)
    same = train(again, part, history.config)
    assert history.frame.drop(columns="seconds").equals(same.frame.drop(columns="seconds"))


def test_a_given_l2_is_taken_at_its_word():
    part, _ = problem(10.0)
    model = fresh(part)
    train(model, part, TrainConfig(l2=0.0, epochs=1))
    assert (model.mean.item(), model.scale.item(), model.given.tolist()) == (0.0, 1.0, [False, False])
    model = fresh(part, mean=2.0)
    train(model, part, QUICK)
    assert model.mean.item() == 2.0
    assert model.scale.item() == pytest.approx(part.std)
    model = fresh(part, scale=3.0)
    fit_als(model, part)
    assert (model.mean.item(), model.scale.item()) == (pytest.approx(part.mean), 3.0)


def both_fits(model, part, **options):
    """The sentences of a fit by gradients and of one by ALS, each with what was given."""
    config = TrainConfig.textbook(lr=0.001, epochs=1, **options)
    said = []
    for fit in (lambda: train(model, part, config), lambda: fit_als(model, part, sweeps=1, l2=config.l2)):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            fit()
        said.append([str(each.message) for each in seen if each.category is RatingsWarning])
    return said


@pytest.mark.parametrize(("scale", "times"), [(0.005, True), (0.25, False), (1, False), (4, False), (250, True)])
def test_a_given_l2_of_another_scale_of_ratings_is_doubted(scale, times):
    """All in rating units, as textbook code is."""
    part, _ = problem(scale)
    edge = l2_for_noise(part, part.spread)
    off = f"{0.05 / edge:.0f} times" if scale < 1 else f"1/{edge / 0.05:.0f} of"
    for said in both_fits(fresh(part, mean=part.mean), part, l2=0.05):
        assert len(said) == int(times)
        assert all(f"l2=0.05 is {off} {edge:.3g}, the formula's" in text for text in said)
        assert all(f"want l2=None, which computes it, or l2={0.05 * part.spread:.2g} " in text for text in said)


def test_where_no_l2_is_doubted():
    part, _ = problem(250.0)
    ours = fresh(part, mean=part.mean, scale=part.std)
    assert both_fits(ours, part, l2=0.05) == [[], []]  # in units of the std
    assert both_fits(fresh(part), part, l2=0.0) == [[], []]  # no penalty at all
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(fresh(part), part, TrainConfig.textbook(epochs=1, l2=0.05, penalty="per_table"))
        train(fresh(part, scale=1.0), part, QUICK)  # the pilot's are nobody's
        equal = Ratings(part.users, part.items, torch.ones(len(part)), part.n_users, part.n_items)
        fit_als(fresh(part), equal, l2=0.05, sweeps=1)
        values = problem()[0].values.clone()
        values[:20] += 1000  # outliers are another matter
        fit_als(fresh(part), part.with_values(values), l2=0.05, sweeps=1)


def test_the_pilot_leaves_the_model_alone():
    part, _ = problem()
    model = fresh(part)
    before = copy.deepcopy(model.state_dict())
    seen = []

    def fit(pilot, fitted, l2, number):
        seen.append((len(fitted), l2, number))
        pilot.user_factors.weight.data += 1

    choose_l2(model, part, fit, 3)
    assert [number for *_, number in seen] == [0, 1, 2]
    assert {size for size, *_ in seen} == {round(0.95 * len(part))}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_few_equal_and_bias_only():
    few = Ratings([0, 1, 2], [0, 1, 0], [1.0, 2.0, 3.0], 3, 2)
    equal = Ratings(*np.nonzero(np.ones((12, 15))), np.full(180, 4.0), 12, 15)
    for part in (few, equal):
        for d in (0, 2):
            for fit in (train, fit_als):
                model = fresh(part, d)
                fit(model, part)
                assert model.predict(part.users, part.items).isfinite().all()
    model = fresh(equal)
    train(model, equal)
    assert rmse(model, equal) < 0.1


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.p, self.q = nn.Embedding(60, 4), nn.Embedding(80, 4)
        for table in (self.p, self.q):
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, users, items):
        return 3.5 + (self.p(users) * self.q(items)).sum(-1)


def test_a_module_of_somebody_else_gets_the_recipe_in_rating_units():
    part, test = problem()
    torch.manual_seed(0)
    model = Own()
    history = train(model, part)
    assert history.config.l2 > 0
    assert rmse(model, test) < (test.values - part.mean).square().mean().sqrt()


def test_a_killed_recipe_goes_on_without_another_pilot(tmp_path, monkeypatch):
    part, _ = problem()
    whole = fresh(part)
    train(whole, part, replace(QUICK, epochs=4))
    path = tmp_path / "run.pt"
    train(fresh(part), part, replace(QUICK, epochs=2), checkpoint=path)
    monkeypatch.setattr("mfkit.trainer.choose_l2", None)
    resumed = fresh(part)
    train(resumed, part, replace(QUICK, epochs=4), checkpoint=path, resume=True)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
