"""What makes a column of ratings doubtful: one sentence each, for `Ratings.from_frame`; silence on ordinary tables.

Silent: stars, half stars, 1 ... 10, 0 ... 100, -10 ... 10, likes (0/1, -1/+1), ordinary counts. Nothing is dropped or
changed on a guess: a sentence names the column, the value, its share and the argument that mends it.

    distinct: (K,) the different values, ascending      counts: (K,) rows that hold each      full: no cell is empty
"""

import numpy as np
import pandas as pd

FEWEST_ROWS = 10  # fewer rows tell nothing
FEWEST_OF_A_CODE = 3  # rows that hold a value before it is taken for a code: one may be a slip of the hand
UNIX_TIMES = 7e8, 2.2e9  # 1992 to 2039, in seconds
UNITS = {"seconds": 1, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
EXACT = 2**24  # float32 holds every whole number up to here
LISTS = (
    "Where 1 means 'chosen', such a table says who chose what and needs a model of lists: every fit here predicts "
    "ratings, and an RMSE on it says nothing about lists"
)


def doubts(column: str, distinct: np.ndarray, counts: np.ndarray, full: bool) -> list[str]:
    """Sentences about these values, (K,), that stand in `column`; the first rule that applies speaks for the rest.

    Counts that lose digits are told besides, as they may be ratings all the same.
    """
    if said := _times(distinct):
        return [f"{column} {said}, not ratings; want rating= to name the column of the ratings"]
    said = None
    if counts.sum() >= FEWEST_ROWS:
        said = _equal(distinct) or _code(distinct, counts, full) or _skew(distinct, counts)
    return [f"{column}: {sentence}" for sentence in (said, _digits(distinct, counts)) if sentence]


def note(distinct: np.ndarray) -> str:
    """What should be known of a table without a fault; "" for most."""
    if np.array_equal(distinct, [0, 1]):
        return f"0 and 1 alone. {LISTS}"
    return ""


def _times(distinct: np.ndarray) -> str | None:
    """Unix times: every value within 1992 ... 2039, in some unit. Dates: every value reads as YYYYMMDD."""
    lowest, highest = distinct[0], distinct[-1]
    for unit, each in UNITS.items():
        if UNIX_TIMES[0] * each <= lowest and highest <= UNIX_TIMES[1] * each:
            first, last = (pd.Timestamp(value / each, unit="s").date() for value in (lowest, highest))
            return f"holds unix times in {unit} ({first} to {last})"
    if lowest >= 19000101 and highest <= 20991231 and _whole(distinct):
        days, months = distinct % 100, distinct // 100 % 100
        if ((days >= 1) & (days <= 31) & (months >= 1) & (months <= 12)).all():
            return f"holds dates written as YYYYMMDD ({lowest:.0f} to {highest:.0f})"
    return None


def _equal(distinct: np.ndarray) -> str | None:
    if len(distinct) > 1:
        return None
    return f"every value is the same, {plain(distinct[0])}: there is nothing to predict. {LISTS}"


def _code(distinct: np.ndarray, counts: np.ndarray, full: bool) -> str | None:
    """Values that look like a code for "not rated": far out, negative, or zero; there may be some of each."""
    n_rows, shares = counts.sum(), {}
    for rule in (_far_above, _far_below, _negative, _filled if full else _zero):
        positions = rule(distinct, counts)
        if len(positions):
            shares |= zip(distinct[positions], counts[positions] / n_rows, strict=True)
            distinct, counts = np.delete(distinct, positions), np.delete(counts, positions)
    if not shares:
        return None
    found = [f"{plain(code)} in {share:.1%} of the rows" for code, share in sorted(shares.items())]
    codes = [plain(code) for code in sorted(shares)]
    remedy = codes[0] if len(codes) == 1 else f"[{', '.join(codes)}]"
    rest = extent(distinct)
    return f"{' and '.join(found)}, beside {rest}, may mean 'not rated'; if so, want missing={remedy}"


def _far_above(distinct: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The positions of at most three whole positive values above a gap that is wider than the range of all others.

    As wide is enough for 99, 999, ..., and for 9 if there are four others or more; else twice as wide, and four
    others or more. An outlier is no code: each must occur FEWEST_OF_A_CODE times.
    """
    for first in range(max(2, len(distinct) - 3), len(distinct)):
        rest, above = distinct[:first], distinct[first:]
        gap, width = above[0] - rest[-1], rest[-1] - rest[0]
        nines = set(f"{above[-1]:.0f}") == {"9"} and (above[-1] > 9 or len(rest) >= 4)
        wide = gap >= width if nines else gap > 2 * width and len(rest) >= 4
        if wide and above[0] > 0 and _whole(above) and counts[first:].min() >= FEWEST_OF_A_CODE:
            return np.arange(first, len(distinct))
    return np.arange(0)


def _far_below(distinct: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The same for negative values: -99 beside -10 ... 10."""
    if distinct[0] >= 0:
        return np.arange(0)
    return len(distinct) - 1 - _far_above(-distinct[::-1], counts[::-1])


def _negative(distinct: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The positions of at most two whole negative values beside a scale that has no use for them.

    That is: a scale that reaches at least four times as far up as the nearer one reaches down (-1 beside 1 ... 5, not
    beside +1) and does not run smoothly into it (it has no 0, or fewer of it); or one that is no wider than the gap
    (-1 beside shares from 0 to 1).
    """
    none, n = np.arange(0), int((distinct < 0).sum())
    negative, rest, rest_counts = distinct[:n], distinct[n:], counts[n:]
    if len(rest) and len(_zero(rest, rest_counts)):  # another code, not a part of the scale
        rest, rest_counts = rest[1:], rest_counts[1:]
    if not 1 <= n <= 2 or len(rest) < 3 or not _whole(negative) or counts[:n].min() < FEWEST_OF_A_CODE:
        return none
    one_sided = rest[-1] >= -4 * negative[-1]
    smooth = rest[0] == 0 and rest_counts[0] >= counts[n - 1]
    apart = len(rest) >= 4 and rest[0] - negative[-1] >= rest[-1] - rest[0]
    return np.arange(n) if apart or (one_sided and not smooth) else none


def _zero(distinct: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Position 0 where 0 is the lowest of four values or more and stands apart, in one of two ways.

    By its mass: a quarter of the rows, and three times as many as any other value has. By a gap: as far below the
    others as they are wide, in a twentieth of the rows.
    """
    none = np.arange(0)
    if distinct[0] != 0 or len(distinct) < 4 or counts[0] < FEWEST_OF_A_CODE:
        return none
    share = counts[0] / counts.sum()
    heavy = share >= 1 / 4 and counts[0] >= 3 * counts[1:].max()
    apart = share >= 1 / 20 and distinct[1] >= distinct[-1] - distinct[1]
    return np.arange(1) if heavy or apart else none


def _filled(distinct: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The position of 0 where every user has a value for every item, and half of them or more are 0."""
    zero = np.flatnonzero(distinct == 0)
    return zero if counts[zero].sum() >= counts.sum() / 2 and len(distinct) > 1 else _zero(distinct, counts)


def _skew(distinct: np.ndarray, counts: np.ndarray) -> str | None:
    """Heavy-tailed counts: the largest 1 % of the rows hold more than half of the variance.

    Of values from 0 up, with 20 different ones or more and the largest above 20 medians, so that no stars and no
    percentages are meant. A squared error is then about those rows, and so is every fit here.
    """
    n = counts.sum()
    if n < 200 or distinct[0] < 0 or len(distinct) < 20:
        return None
    below = counts.cumsum()
    median = float(distinct[np.searchsorted(below, n / 2)])
    if distinct[-1] <= 20 * median:
        return None
    squares = (distinct - (counts * distinct).sum() / n) ** 2
    in_top = np.minimum(counts, np.maximum(below - (n - n // 100), 0))  # how many of each are among the top 1 %
    share = (in_top * squares).sum() / (counts * squares).sum()
    if share <= 1 / 2:
        return None
    return (
        f"the largest 1 % of the rows hold {100 * share:.0f} % of the variance (median {plain(median)}, largest "
        f"{plain(distinct[-1])}), so a fit would be about them alone; want the logarithm, e.g. np.log1p of the column"
    )


def _digits(distinct: np.ndarray, counts: np.ndarray) -> str | None:
    """Whole numbers past 2^24 that float32 rounds."""
    if max(-distinct[0], distinct[-1]) <= EXACT:
        return None
    rounded = distinct.astype(np.float32).astype(np.float64)
    changed = (rounded != distinct) & (distinct == np.floor(distinct))
    if not changed.any():
        return None
    k = int(changed.argmax())
    return (
        f"{counts[changed].sum():,} of {counts.sum():,} values lose digits as float32, which holds whole numbers up to "
        f"{EXACT:,} (2^24) exactly: {distinct[k]:.0f} becomes {rounded[k]:.0f}; want larger units, or np.log1p"
    )


def _whole(values: np.ndarray) -> bool:
    return bool((values == np.floor(values)).all())


def plain(value: float) -> str:
    """4, 3.5, 16777217: no .0, and no exponent where people would write none."""
    return f"{value + 0.0:.10g}"  # and no -0


def extent(distinct: np.ndarray) -> str:
    """The lowest and the highest of ascending values: "1 to 5", or "1" where there is only one."""
    lowest, highest = plain(distinct[0]), plain(distinct[-1])
    return lowest if lowest == highest else f"{lowest} to {highest}"
