"""The reference problem: its law, its sizes, its truth."""

import functools
import itertools
import sys

import numpy as np
import pytest
import torch

from mfkit import synthetic

module = sys.modules["mfkit.synthetic"]  # mfkit.synthetic is the function

reference = functools.cache(lambda: synthetic(seed=0))


def test_sizes_and_marginals():
    ratings, _ = reference()
    assert (len(ratings), ratings.n_users, ratings.n_items) == (80_000, 943, 1682)
    assert len((ratings.users * 1682 + ratings.items).unique()) == 80_000
    for ids, size in ((ratings.users, 943), (ratings.items, 1682)):
        counts = np.sort(np.bincount(ids, minlength=size))[::-1]
        assert counts[: size // 10].sum() > 0.3 * 80_000  # a tenth of the rows, far more than a tenth of the ratings


def test_spread_is_the_sum_of_the_parts():
    ratings, truth = reference()
    assert ratings.values.std().item() == pytest.approx(np.sqrt(0.09 + 0.16 + 0.36 + 0.7225), rel=0.04)
    assert ratings.mean == pytest.approx(3.5, abs=0.1)
    assert truth.noise_floor(ratings) == pytest.approx(0.85, rel=0.01)
    interaction = truth.P @ truth.Q.T
    parts = [truth.user_bias.std(), truth.item_bias.std(), interaction.std()]
    assert parts == pytest.approx([0.3, 0.4, 0.6], rel=0.08)
    assert truth.P.shape[1] == truth.Q.shape[1] == 8
    biases = ratings.values.double() - torch.from_numpy(
        3.5 + truth.user_bias[ratings.users] + truth.item_bias[ratings.items]
    )
    assert biases.std().item() == pytest.approx(np.sqrt(0.36 + 0.7225), rel=0.04)


def test_noiseless_and_stars():
    ratings, truth = synthetic(30, 20, 200, rank=2, noise=0.0, seed=1)
    assert truth.noise_floor(ratings) < 1e-6
    assert torch.allclose(truth(ratings).float(), ratings.values)
    stars, same = synthetic(30, 20, 200, rank=2, noise=0.0, seed=1, stars=True)
    assert set(stars.values.tolist()) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert torch.equal(stars.values, ratings.values.double().round().clamp(1, 5).float())
    assert np.array_equal(same.P, truth.P)


def test_a_seed_gives_the_same_data():
    (first, _), (again, _), (other, _) = (synthetic(30, 20, 200, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.users, again.users)
    assert not torch.equal(first.values, other.values)


@pytest.mark.parametrize("exact_cells", [0, 100], ids=["reject-repeats", "exponential-keys"])
def test_both_samplers_draw_one_after_the_other(exact_cells, monkeypatch):
    """Six cells, three draws: inclusion frequencies against the law enumerated over all 120 orders."""
    monkeypatch.setattr(module, "EXACT_CELLS", exact_cells)
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.8, 0.2])
    weights, law = np.outer(p, q).ravel(), np.zeros(6)
    for a, b, c in itertools.permutations(range(6), 3):
        chance = weights[a] * weights[b] / (1 - weights[a]) * weights[c] / (1 - weights[a] - weights[b])
        law[[a, b, c]] += chance
    rng, trials = np.random.default_rng(0), 4000
    drawn = [module._draw_cells(p, q, 3, rng) for _ in range(trials)]
    assert all(len(set(cells)) == 3 for cells in drawn)
    frequency = np.bincount(np.concatenate(drawn), minlength=6) / trials
    assert (abs(frequency - law) < 4.5 * np.sqrt(law * (1 - law) / trials)).all()
    first = np.bincount([cells[0] for cells in drawn], minlength=6) / trials  # in random order: no trace of the draws
    assert (abs(first - law / 3) < 4.5 * np.sqrt(law / 3 / trials)).all()


def test_both_samplers_agree_where_draws_are_left_over(monkeypatch):
    """Sixteen of 27 cells: rejection draws more than it needs, and must keep the first ones."""
    p, q, rng, trials = np.full(9, 1 / 9), np.array([0.2, 0.3, 0.5]), np.random.default_rng(1), 3000
    frequency = []
    for exact_cells in (0, 100):
        monkeypatch.setattr(module, "EXACT_CELLS", exact_cells)
        drawn = np.concatenate([module._draw_cells(p, q, 16, rng) for _ in range(trials)])
        frequency.append(np.bincount(drawn, minlength=27) / trials)
    spread = np.sqrt(2 * frequency[1] * (1 - frequency[1]) / trials)
    assert (abs(frequency[0] - frequency[1]) < 4.5 * spread + 1e-3).all()


def test_every_cell_can_be_asked_for(monkeypatch):
    for exact_cells in (0, 100):
        monkeypatch.setattr(module, "EXACT_CELLS", exact_cells)
        assert len(synthetic(4, 3, 12, rank=1)[0]) == 12


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_users": 0}, "n_users must be an integer of at least 1, got 0"),
        ({"rank": 2.5}, "rank must be an integer of at least 1, got 2.5"),
        ({"n_users": 2, "n_items": 3, "n_ratings": 7}, r"n_ratings must be at most n_users \* n_items = 6, got 7"),
        ({"noise": -1.0}, "noise must be a finite number of at least 0.*got -1.0"),
        ({"noise": float("nan")}, "noise must be a finite number of at least 0.*got nan"),
    ],
)
def test_synthetic_refuses(options, says):
    with pytest.raises(ValueError, match=says):
        synthetic(**options)
