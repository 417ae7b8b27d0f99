"""The interval, against a textbook's table, scipy's own and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from mfkit.lab.stats import interval


def test_by_hand():
    """1 ... 5: mean 3, standard deviation sqrt(2.5), standard error sqrt(1/2); t of 4 degrees at 97.5 % is 2.776."""
    mean, low, high = interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert low == pytest.approx(3 - 2.776445 * math.sqrt(0.5), abs=1e-6)
    assert high == pytest.approx(3 + 2.776445 * math.sqrt(0.5), abs=1e-6)
    assert interval([1, 2, 3, 4, 5]).half == pytest.approx(2.776445 * math.sqrt(0.5), abs=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 5, 20])
def test_it_is_scipys(n, level):
    x = np.random.default_rng(n).normal(3.0, 2.0, n)
    expected = scipy.stats.t.interval(level, n - 1, x.mean(), scipy.stats.sem(x))
    assert interval(pd.Series(x, index=range(7, 7 + n)), level)[1:] == pytest.approx(expected, rel=1e-12)


def test_it_covers_the_mean_as_often_as_it_says():
    """Four thousand samples of five: the share has a standard deviation of .0063 around .8."""
    samples = np.random.default_rng(0).normal(1.0, 3.0, (4000, 5))
    ends = np.array([interval(x, 0.8)[1:] for x in samples])
    assert np.mean((ends[:, 0] < 1) & (ends[:, 1] > 1)) == pytest.approx(0.8, abs=0.02)


def test_a_nan_is_not_hidden():
    assert all(math.isnan(x) for x in interval([1.0, math.nan, 2.0]))


@pytest.mark.parametrize(
    ("x", "level", "message"),
    [
        ([1.0], 0.95, r"x must be at least two numbers, \(n,\), got shape \(1,\)"),
        ([[1.0, 2.0]], 0.95, r"got shape \(1, 2\)"),
        ([1.0, 2.0], 95, "level must lie between 0 and 1, got 95"),
    ],
)
def test_what_it_refuses(x, level, message):
    with pytest.raises(ValueError, match=message):
        interval(x, level)
