"""The one interval: of a mean, by Student's t."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t


class Interval(NamedTuple):
    """A mean and the two ends of its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of the interval's width, as error bars want it."""
        return (self.high - self.low) / 2


def interval(x: ArrayLike, level: float = 0.95) -> Interval:
    """The mean of x, (n,) independent numbers, and an interval that holds the true mean with probability `level`.

        mean -+ t s / sqrt(n),   s: the standard deviation with n - 1,   t: the (1 + level) / 2 quantile, n - 1 degrees

    Exact for normal numbers (Student 1908). For two arms with the same seeds, pass their differences.
    NaN where x holds one. Raises ValueError for fewer than two numbers or a level that is no probability.
    """
    values = np.asarray(x, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"x must be at least two numbers, (n,), got shape {values.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}")
    mean, n = values.mean(), len(values)
    half = t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Interval(float(mean), float(mean - half), float(mean + half))
