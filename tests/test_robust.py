"""Huber's efficiency against tables, limits and an integral; influence and the scale of the loss."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from mfkit import losses, predict


@pytest.mark.parametrize(("k", "known"), [(0.5, 0.792), (1.0, 0.903), (1.345, 0.950), (2.0, 0.990)])
def test_efficiency_is_the_tabled_one(k, known):
    assert predict.huber_efficiency(k) == pytest.approx(known, abs=6e-4)


@pytest.mark.parametrize("k", [0.1, 0.7, 1.345, 3.0])
def test_efficiency_is_the_ratio_of_its_integrals(k):
    """E[psi']^2 / E[psi^2] with psi(e) = max(-k, min(e, k)), by quadrature."""
    slope = integrate.quad(stats.norm.pdf, -k, k)[0]
    square = integrate.quad(lambda e: min(e * e, k * k) * stats.norm.pdf(e), -10, 10, points=[-k, k])[0]
    assert predict.huber_efficiency(k) == pytest.approx(slope**2 / square, rel=1e-7)


def test_efficiency_goes_from_the_median_to_least_squares():
    assert predict.huber_efficiency(1e-4) == pytest.approx(2 / math.pi, rel=1e-3)
    assert predict.huber_efficiency(math.inf) == 1 == pytest.approx(predict.huber_efficiency(8.0), rel=1e-9)
    values = [predict.huber_efficiency(k) for k in np.geomspace(0.01, 5, 50)]
    assert values == sorted(values)


@pytest.mark.parametrize(("k", "share", "size"), [(1.345, 0.05, 8.0), (0.7, 0.2, 2.0), (3.0, 0.01, 1.0)])
def test_variance_among_wrong_numbers_is_its_integrals(k, share, size):
    def density(e):
        return (1 - share) * stats.norm.pdf(e) + share * stats.norm.pdf(e - size)  # psi is odd: one sign is enough

    points = {"points": [-k, k, size], "limit": 200}
    square = integrate.quad(lambda e: min(e * e, k * k) * density(e), -10, 20, **points)[0]
    slope = integrate.quad(density, -k, k)[0]
    assert predict.huber_variance(k, share, size) == pytest.approx(square / slope**2, rel=1e-6)


def test_variance_without_wrong_numbers_is_one_over_efficiency():
    for k in (0.5, 1.345, 4.0):
        assert predict.huber_variance(k, 0.0, 3.0) == pytest.approx(1 / predict.huber_efficiency(k))


def test_variance_measured_on_many_means():
    """10,000 estimates from 100 numbers each, 5 of a hundred moved by +-6, by reweighting."""
    rng = np.random.default_rng(0)
    e = rng.standard_normal((10_000, 100)) + 6 * rng.choice([-1, 1], (10_000, 100)) * (rng.random((10_000, 100)) < 0.05)
    middle = np.median(e, axis=1, keepdims=True)
    for _ in range(30):
        weight = np.minimum(1, 1.345 / np.abs(e - middle))
        middle = (weight * e).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    assert 100 * middle.var() == pytest.approx(predict.huber_variance(1.345, 0.05, 6.0), rel=0.05)
    assert 100 * e.mean(1).var() == pytest.approx(1 + 0.05 * 36, rel=0.05)


def test_break_even_is_where_both_variances_are_equal():
    for share in (0.01, 0.2):
        size = predict.huber_break_even(share, 1.0)
        assert predict.huber_variance(1.0, share, size) == pytest.approx(1 + share * size**2, rel=2e-3)
    assert predict.huber_break_even(0.01) > predict.huber_break_even(0.1)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_variance_refuses(share):
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\), got"):
        predict.huber_variance(1.0, share, 2.0)


@pytest.mark.parametrize("k", [0, -1.0, float("nan")])
def test_efficiency_refuses(k):
    with pytest.raises(ValueError, match="k must be a finite number above 0, got"):
        predict.huber_efficiency(k)


def test_influence_of_one_rating_is_bounded_by_delta():
    e = torch.tensor([-100.0, -0.5, 0.2, 3.0], requires_grad=True)
    (slope,) = torch.autograd.grad(losses.huber(e, torch.zeros(4), 0.7).sum(), e)
    assert torch.allclose(slope, torch.tensor([-1.4, -1.0, 0.4, 1.4]))  # 2 e, cut off at 2 delta


def test_torchs_huber_at_l2_is_mse_at_twice_l2():
    """By hand: r = 2 from u with v = 1. MSE: u = 2 / (1 + l2). torch's half square: u = 2 / (1 + 2 l2)."""
    torchs, ours = {"delta": 10.0, "scale": "torch"}, {"delta": 10.0}
    for options, l2, known in ((torchs, 0.5, 1.0), (ours, 0.5, 4 / 3), (ours, 1.0, 1.0)):
        u = torch.tensor(known, dtype=torch.float64, requires_grad=True)
        target = torch.tensor(2.0, dtype=torch.float64)
        (slope,) = torch.autograd.grad(losses.huber(u, target, **options) + l2 * u.square(), u)
        assert slope.item() == pytest.approx(0, abs=1e-12)
