"""Rating files as people have them: read right, refused by a clear sentence, or told of; ordinary tables in silence."""

import io
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

import mfkit
from mfkit import Ratings
from mfkit.data import RatingsWarning

N = 600
RNG = np.random.default_rng(0)


def table(rating, seed=0):
    """These ratings, in some order, for as many different pairs, over more cells than that."""
    rng = np.random.default_rng(seed)
    n_items = max(5, len(rating) // 10)
    cells = rng.choice(25 * n_items, len(rating), replace=False)
    return pd.DataFrame({"user": cells // n_items, "item": cells % n_items, "rating": rng.permutation(rating)})


def told(frame, **options):
    """The warnings' sentences, and the ratings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ratings = Ratings.from_frame(frame, **options)
    assert all(each.category is RatingsWarning for each in seen)
    assert all(each.filename == __file__ for each in seen)  # the line that called from_frame
    return [str(each.message) for each in seen], ratings


def three(**change):
    return pd.DataFrame({"user": ["a", "b", "c"], "item": [10, 20, 30], "rating": [3.0, 4.0, 5.0]} | change)


def stars(low, high, n=N, step=1.0, shape=(3.0, 2.0)):
    """Ratings on a scale, more of them high than low."""
    steps = round((high - low) / step)
    return low + step * RNG.binomial(steps, RNG.beta(*shape, n))


def mixed(code, share, values):
    return np.where(RNG.random(len(values)) < share, code, values)


# Silence.

ORDINARY = {
    "half stars": stars(0.5, 5, step=0.5),
    "1 to 5": stars(1, 5),
    "1 to 5, as shops have them": RNG.choice([1, 2, 3, 4, 5], N, p=[0.12, 0.04, 0.06, 0.13, 0.65]),
    "1 to 5, most are 1": RNG.choice([1, 2, 3, 4, 5], N, p=[0.6, 0.2, 0.1, 0.05, 0.05]),
    "1 to 10": stars(1, 10),
    "0 to 10, some hate it": mixed(0, 0.08, stars(1, 10)),
    "0 to 5, 0 the worst of them": RNG.choice(6, N, p=[0.1, 0.1, 0.2, 0.25, 0.25, 0.1]),
    "0, 1, 2": RNG.choice(3, N, p=[0.6, 0.3, 0.1]),
    "-10 to 10": RNG.uniform(-10, 10, N).round(2),
    "-10 to 10, at the ends": np.clip(RNG.normal(3, 8, N), -10, 10).round(2),
    "-2 to 2": stars(-2, 2),
    "-1, 0, 1": RNG.integers(-1, 2, N),
    "-1, 0, 1, 2": RNG.integers(-1, 3, N),
    "0 to 100": (100 * RNG.beta(3, 2, N)).round(),
    "0 to 100, in heaps": mixed(0, 0.1, RNG.choice([25, 50, 75, 100], N)),
    "0 to 1": RNG.beta(2, 2, N),
    "likes": RNG.integers(0, 2, N),
    "thumbs": RNG.choice([-1, 1], N, p=[0.1, 0.9]),
    "play counts": RNG.geometric(0.15, N),
    "plays, 0 included": RNG.poisson(3, N),
    "minutes": np.exp(RNG.normal(4, 0.6, N)).round(1),
    "centred stars": stars(1, 5) - 3.4,
    "normal": RNG.normal(3, 1, N),
    "an outlier": np.append(stars(1, 5), 99),
    "thousandths": stars(1, 5) / 1000,
    "few rows": np.array([1, 1, 99, 99]),
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_an_ordinary_table_is_read_in_silence(kind):
    assert told(table(ORDINARY[kind]))[0] == []


def test_a_dense_table_of_stars_is_read_in_silence():
    dense = pd.DataFrame(stars(0, 5, 1200).reshape(40, 30)).stack().rename_axis(["user", "item"]).rename("rating")
    assert told(dense.reset_index())[0] == []


# What looks like a code for "not rated": one sentence, with the column, the value, its share and the remedy.

CODED = [
    (0, 0.7, stars(5, 10)),  # books: implicit
    (0, 0.5, stars(1, 10)),
    (0, 0.6, stars(0.5, 5, step=0.5)),
    (0, 0.4, (100 * RNG.beta(6, 2, N)).round(1).clip(0.1)),
    (-1, 0.2, stars(4, 10)),  # anime: seen, not rated
    (-1, 0.03, stars(1, 5)),
    (-1, 0.3, RNG.beta(2, 2, N)),
    (99, 0.5, RNG.uniform(-10, 10, N).round(2)),  # jokes
    (99, 0.02, stars(1, 5)),
    (9, 0.2, stars(1, 5)),
    (999, 0.1, (100 * RNG.beta(3, 2, N)).round()),
    (99, 0.3, RNG.choice([-1, 1], N)),
    (-99, 0.3, RNG.uniform(-10, 10, N).round(2)),
    (-999, 0.1, stars(1, 5)),
    (255, 0.1, stars(1, 10)),
]


@pytest.mark.parametrize(("code", "share", "values"), CODED)
def test_a_code_for_not_rated_gets_one_sentence(code, share, values):
    frame = table(mixed(code, share, values)).rename(columns={"rating": "score"})
    (sentence,), ratings = told(frame, rating="score")
    held = (frame.score == code).mean()
    assert sentence.startswith(f"column 'score': {code} in {held:.1%} of the rows, beside ")
    assert sentence.endswith(f"may mean 'not rated'; if so, want missing={code}")
    assert len(ratings) == N  # told, not dropped
    sentences, ratings = told(frame, rating="score", missing=code)
    assert sentences == []
    assert len(ratings) == (frame.score != code).sum()
    assert ratings.read.missing == (frame.score == code).sum()


def test_two_codes_in_one_sentence():
    values = mixed(-1, 0.2, mixed(0, 0.5, stars(5, 10)))
    (sentence,), _ = told(table(values))
    assert sentence.endswith("beside 5 to 10, may mean 'not rated'; if so, want missing=[-1, 0]")
    assert told(table(values), missing=[-1, 0])[0] == []
    (sentence,), _ = told(table(mixed(99, 0.1, mixed(88, 0.1, stars(1, 5)))))
    assert sentence.endswith("want missing=[88, 99]")


def test_a_table_filled_with_zeros():
    for values in (stars(1, 5, 3000), np.ones(3000), stars(-5, 5, 3000)):
        filled = pd.DataFrame(mixed(0, 0.8, values).reshape(60, 50)).stack().rename_axis(["user", "item"])
        (sentence,), _ = told(filled.rename("rating").reset_index())
        assert "0 in 8" in sentence
        assert "missing=0" in sentence


# Values that are no ratings.


def test_times_taken_for_ratings():
    seconds = RNG.integers(1_362_000_000, 1_378_000_000, N)
    old = RNG.integers(874_724_710, 893_286_638, N)  # MovieLens-100K's
    for values, unit in ((seconds, "seconds"), (seconds * 1000, "milliseconds"), (old, "seconds")):
        (sentence,), _ = told(table(values).rename(columns={"rating": "when"}), rating="when")
        assert sentence.startswith(f"column 'when' holds unix times in {unit} (")
        assert sentence.endswith("not ratings; want rating= to name the column of the ratings")
    (sentence,), _ = told(table(np.array([20190403, 20191231, 20200229] * 9)))
    assert "holds dates written as YYYYMMDD (20190403 to 20200229), not ratings" in sentence
    assert told(table(RNG.integers(20_000_000, 21_000_000, N)))[0][0].count("YYYYMMDD") == 0


@pytest.mark.parametrize("value", [1, 3.5, 0])
def test_one_value_everywhere(value):
    (sentence,), _ = told(table(np.full(N, value)))
    assert f"column 'rating': every value is the same, {value}: there is nothing to predict" in sentence
    assert "every fit here predicts ratings" in sentence


def test_likes_are_told_of_where_the_ratings_are_printed():
    sentences, ratings = told(table(ORDINARY["likes"]))
    assert not sentences
    assert "an RMSE on it says nothing about lists" in str(ratings)
    assert "\n" not in repr(ratings)
    assert "lists" not in str(told(table(ORDINARY["thumbs"]))[1])


def test_counts_with_a_heavy_tail():
    rng = np.random.default_rng(0)
    plays = np.round(np.exp(rng.normal(5.5, 1.9, 3000))).clip(1, 350_000)
    pareto = 1 + np.floor(rng.pareto(1.9, 3000) * 0.8).clip(0, 200)
    seconds = np.exp(rng.normal(3, 2.5, 3000))
    for values in (plays, pareto, seconds):
        (sentence,), _ = told(table(values))
        assert sentence.startswith("column 'rating': the largest 1 % of the rows hold ")
        assert "np.log1p" in sentence
        top = np.sort((values - values.mean()) ** 2)[-30:].sum() / ((values - values.mean()) ** 2).sum()
        assert f"hold {100 * top:.0f} % of the variance" in sentence
        assert told(table(np.log1p(values)))[0] == []


def test_digits_that_float32_has_not():
    (sentence,), ratings = told(three(rating=[16_777_217, 16_777_216, 5]))
    assert "1 of 3 values lose digits as float32" in sentence
    assert "16777217 becomes 16777216" in sentence
    assert ratings.values[0] == ratings.values[1]
    assert "2 of 3 values" in told(three(rating=[2**30 + 1, 2**25 + 1, 2**26]))[0][0]
    assert "2 of 3 values" in told(three(rating=[-(2**25) - 1, 2**25 + 3, 0.1]))[0][0]
    assert told(three(rating=[2**24, 2**30, 0.1]))[0] == []  # these it has; a tenth is rounded as any tenth is


# Ids.


def refused(frame, error, says, **options):
    with pytest.raises(error, match=says):
        Ratings.from_frame(frame, **options)


def test_large_ids_that_a_blank_made_floats():
    text = "user,item,rating\n76500000000000001,1,5\n76500000000000002,1,1\n76500000000000001,2,4\n,3,2\n"
    read = pd.read_csv(io.StringIO(text)).dropna()
    says = r"column 'user' must hold ids below 2\^53, as it is float64, .* in row 0; read the file with dtype"
    refused(read, TypeError, says, duplicates="mean")
    for dtype in ("str", "Int64"):
        ratings = Ratings.from_frame(pd.read_csv(io.StringIO(text), dtype={"user": dtype}).dropna())
        assert [int(i) for i in ratings.user_ids] == [76500000000000001, 76500000000000002]
    single = three(user=np.array([1, 16_777_216, 3], dtype=np.float32))
    refused(single, TypeError, r"below 2\^24, as it is float32.*got 16777216 in row 1")
    refused(three(item=pd.array([1, 2, 2**53], dtype="Float64")), TypeError, r"'item'.* below 2\^53")
    below = Ratings.from_frame(three(item=[1.0, 2.0, 2.0**53 - 1]))
    assert below.item_ids.tolist() == [1, 2, 2**53 - 1]


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([3.5, 4.0, 5.0], "whole numbers or strings as ids, got 3.5 in row 0"),
        ([4.0, 3.0, np.inf], "got inf in row 2"),
        ([1, 2.5, 3], "got 2.5 in row 1"),
        (pd.array([1.0, 2.0, 0.25], dtype="Float64"), "got 0.25 in row 2"),
        ([1, "1", 2], "ids of one kind, got 1 in row 0 and '1' in row 1"),
        (["a", 7.5, "b"], "ids of one kind, got 7.5 in row 1 and 'a' in row 0"),
        ([True, False, True], "whole numbers or strings as ids, got True in row 0"),
        ([1j, 2j, 3j], "got 1j in row 0"),
        ([[1], [2], [3]], r"got \[1\] in row 0"),
        (["a", "b", ["c", "d"]], r"got \['c', 'd'\] in row 2"),
        ([("a", 1), ("b", 2), ("c", 3)], r"got \('a', 1\) in row 0"),
        ([5, np.True_, 2], "got .*True.* in row 1"),
        (pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"]), "got .*2020.* in row 0"),
        (pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"], utc=True), "got .*2020.* in row 0"),
        (pd.Categorical([1.5, 2.0, 1.5]), "got 1.5 in row 0"),
    ],
)
def test_what_is_no_id(ids, says):
    refused(three(user=ids), TypeError, f"column 'user' must hold .*{says}")


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        ([7.0, 3.0, 9.0], "i"),
        (np.array([7, 3, 9], dtype=np.float32), "i"),
        (pd.array([7, 3, 9], dtype="Float64"), "i"),
        (pd.array([7, 3, 9], dtype="Int64"), "i"),
        (np.array([7, 3.0, np.int64(9)], dtype=object), "i"),
        (pd.Categorical([7, 3, 9], categories=[9, 7, 3, 1]), "i"),
        (pd.Categorical([7.0, 3.0, 9.0]), "i"),
        (np.array([7, 3, 9], dtype=np.uint64), "u"),
    ],
)
def test_whole_numbers_come_back_as_they_were_written(ids, kind):
    ratings = Ratings.from_frame(three(user=ids))
    assert ratings.user_ids.tolist() == [3, 7, 9]
    assert ratings.user_ids.dtype.kind == kind
    assert ratings.users.tolist() == [1, 0, 2]


@pytest.mark.parametrize("dtype", ["str", "object", "string", "category", "string[python]", "string[pyarrow]"])
def test_strings_of_every_dtype(dtype):
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"user": ["u_7", "u_10", "ü"], "item": ["x", "x", "y"], "rating": [1, 2, 3]})
    ratings = Ratings.from_frame(frame.astype({"user": dtype, "item": dtype}))
    assert ratings.user_ids.tolist() == ["u_10", "u_7", "ü"]
    assert ratings.users.tolist() == [1, 0, 2]
    assert ratings.item_ids.tolist() == ["x", "y"]


def test_ids_beyond_64_bits_stay_as_they_are():
    assert Ratings.from_frame(three(user=[2**70, 5, 2**70 + 1])).user_ids.tolist() == [5, 2**70, 2**70 + 1]


def test_blank_rows_are_counted():
    blank = [None] * 97
    frame = pd.DataFrame({"user": ["a", *blank, "b", "c"], "item": ["x"] * 100, "rating": range(100)})
    says = r"'user' must hold an id.*in row 1 \(97 of 100 rows, 97.00%\); want frame.dropna\(subset=\['user'\]\)"
    refused(frame, ValueError, says)
    refused(frame.fillna(""), ValueError, says)
    refused(three(item=pd.array([1, None, None], dtype="Int64")), ValueError, r"'item'.*row 1 \(2 of 3 rows")
    refused(three(user=pd.Categorical(["a", None, "b"])), ValueError, r"'user'.*row 1 \(1 of 3 rows")
    all_blank = pd.DataFrame(
        {"user": [1, 2] + [None] * 98, "item": [1, 2] + [None] * 98, "rating": [3, 4] + [None] * 98}
    )
    refused(all_blank, ValueError, r"98 of 100 rows, 98.00%")
    assert len(Ratings.from_frame(all_blank, missing=np.nan)) == 2


@pytest.mark.parametrize("text", ["nan", "None", "<NA>"])
def test_missing_ids_written_out(text):
    (sentence,), _ = told(three(user=["a", text, "b"]))
    assert sentence == f"column 'user' has the id {text!r}, which may be missing ids as text; want dropna before astype"


# Columns.


def test_one_column_for_two_roles():
    refused(three(), ValueError, "user and item must be two columns, got 'user' for both", item="user")
    refused(three(), ValueError, "item and rating must be two columns, got 'item' for both", rating="item")
    options = {"time": "rating", "duplicates": "last"}
    refused(three(), ValueError, "rating and time must be two columns, got 'rating' for both", **options)


def test_columns_that_are_not_one():
    twice = pd.concat([three(), three()[["rating"]]], axis=1)
    refused(twice, ValueError, r"rating='rating' must name one column, got 2 columns of .*'rating', 'rating'")
    levels = three().set_axis(pd.MultiIndex.from_tuples([("id", "user"), ("id", "item"), ("rating", "")]), axis=1)
    refused(levels, ValueError, "user='id' must name one column, got 2 columns", user="id", item=("id", "item"))
    assert len(Ratings.from_frame(levels, user=("id", "user"), item=("id", "item"))) == 3
    refused(three(), TypeError, "user must be the name of a column, got \\['user'\\]", user=["user"])
    refused(three(), KeyError, "user=None is not a column", user=None)
    indexed = three().set_index("user")
    refused(indexed, KeyError, r"user='user' is not a column; .*it is in the index: want frame.reset_index\(\)")


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        (["4,5", "3", "2"], TypeError, "got dtype .*, e.g. '4,5' in row 0; want pd.to_numeric.*decimal=','"),
        (["5", "3", "n/a"], TypeError, "e.g. 'n/a' in row 2; want pd.to_numeric"),
        (["10.000", "3", "2"], TypeError, "e.g. '10.000' in row 0; want pd.to_numeric.*thousands='.'"),
        (pd.Categorical(["good", "bad", "good"]), TypeError, "e.g. 'good' in row 0"),
        ([5, "4", 3], TypeError, "e.g. '4' in row 1"),
        ([True, False, True], TypeError, "must hold numbers, got dtype bool, e.g. True in row 0"),
        (pd.array([True, None, True], dtype="boolean"), TypeError, "must hold numbers, got dtype boolean"),
        ([1 + 5j, 2, 3], TypeError, r"must hold numbers, got dtype complex128, e.g. \(1\+5j\) in row 0"),
        (pd.to_datetime(["2020-01-01"] * 3), TypeError, "must hold numbers, got dtype datetime64"),
        (pd.to_timedelta([1, 2, 3], unit="s"), TypeError, "must hold numbers, got dtype timedelta64"),
        ([[1], [2], [3]], TypeError, r"must hold numbers, got dtype object, e.g. \[1\] in row 0"),
        ([{"stars": 4}, 3, 2], TypeError, "e.g. {'stars': 4} in row 0"),
        ([5, None, 3], ValueError, r"values must be finite.*row 1 \(1 of 3 rows, 33.33%\); want frame.dropna"),
        ([5, np.inf, np.nan], ValueError, r"got inf at position 1, row 1 \(2 of 3 rows, 66.67%\)$"),
        ([5, 1e39, 4], ValueError, r"finite float32 numbers, got 1e\+39 at position 1"),
        (pd.array([5, None, 3], dtype="Int64"), ValueError, "row 1 "),
        (pd.Categorical([5, None, 3]), ValueError, "row 1 "),
        ([None, None, None], ValueError, r"row 0 \(3 of 3 rows"),
    ],
)
def test_what_is_no_rating(values, error, says):
    refused(three(rating=values), error, f"column 'rating'.*{says}")


@pytest.mark.parametrize(
    "values",
    [
        pd.array([3, 4, 5], dtype="Int8"),
        pd.array([3, 4, 5], dtype="Float32"),
        pd.Categorical([3, 4, 5]),
        np.array([3, 4.0, np.int8(5)], dtype=object),
        [Decimal(3), Decimal(4), Decimal(5)],
        pd.arrays.SparseArray([3.0, 4.0, 5.0]),
        np.array([3, 4, 5], dtype=">f8"),
    ],
)
def test_numbers_of_every_dtype(values):
    assert Ratings.from_frame(three(rating=values)).values.tolist() == [3, 4, 5]


# Which rows.


def test_missing_values_are_left_out_and_counted():
    frame = pd.DataFrame({"user": list("abcdb"), "item": [1, 1, 1, None, 2], "rating": [0, 3, 99, 0, 5]})
    for missing in ([0, 99], (99.0, 0), {0, 99}, np.array([0, 99]), torch.tensor([99, 0])):
        ratings = Ratings.from_frame(frame, missing=missing)  # the row without an item is one of these
        assert ratings.user_ids.tolist() == ["b"]
        assert ratings.values.tolist() == [3, 5]
        assert (ratings.read.rows, ratings.read.missing) == (5, 3)
    third = three(rating=np.array([0.1, 4, 5], dtype=np.float32))
    assert len(Ratings.from_frame(third, missing=0.1)) == 2
    assert len(Ratings.from_frame(three(), missing=77)) == 3
    refused(three(), ValueError, r"missing=\[3, 4, 5\] must leave a rating", missing=[3, 4, 5])
    for wrong in ("NA", None, [None], True, [[1]], {1: 2}):
        refused(three(), (TypeError, ValueError), "^missing must ", missing=wrong)


def test_the_latest_rating_is_the_last():
    frame = pd.DataFrame({"user": [1, 1, 2, 1], "item": [7, 7, 7, 8], "rating": [2.0, 5.0, 3.0, 4.0]})
    for when in ([200, 100, 50, 300], pd.to_datetime([200, 100, 50, 300], unit="D")):
        by_time = Ratings.from_frame(frame.assign(at=when), duplicates="last", time="at")
        assert dict(zip(by_time.users.tolist(), by_time.values.tolist(), strict=True))[1] == 3
        assert by_time.values.tolist() == [2, 4, 3]
    assert Ratings.from_frame(frame, duplicates="last").values.tolist() == [5, 4, 3]  # of the file
    tie = frame.assign(at=1)
    assert Ratings.from_frame(tie, duplicates="last", time="at").values.tolist() == [5, 4, 3]
    text = frame.assign(at=["2020-1-2", "2020-1-1", "2020-1-1", "2020-1-1"])
    refused(text, TypeError, "time='at' must hold numbers or dates.*pd.to_datetime", duplicates="last", time="at")
    gap = frame.assign(at=[1, None, 2, 3])
    refused(gap, ValueError, r"time='at' must hold a time in every row.*row 1 \(1 of 4", duplicates="last", time="at")
    refused(tie, ValueError, "time='at' needs duplicates='last', got duplicates='mean'", duplicates="mean", time="at")


def test_repeated_pairs_are_named_in_the_tables_own_words():
    frame = pd.DataFrame(
        {"who": [7, 5, 6, 7, 5], "item": [30, 10, 20, 30, 10], "rating": [4.0, 3, 5, 2, 1]},
        index=[100, 101, 102, 103, 104],
    )
    says = r"got who=7, item=30 2 times \(rows 100, 103\); 2 pairs repeat in all"
    refused(frame, ValueError, says, user="who")
    dropped = pd.concat([frame[:1].assign(rating=0), frame])  # rows left out do not shift the others' names
    refused(dropped, ValueError, says, user="who", missing=0)
    with pytest.raises(ValueError, match=r"\(user, item\) = \(1, 0\) 3 times; 1 pair repeats in all"):
        Ratings([1, 0, 1, 1], [0, 0, 0, 0], [1, 2, 3, 4], 2, 1)


# Two tables, one numbering.


def test_a_second_table_gets_the_rows_of_the_first():
    train = pd.DataFrame({"user": ["eve", "al", "bo"], "item": [30, 10, 20], "rating": [1.0, 2.0, 3.0]})
    test = pd.DataFrame({"user": ["bo", "eve"], "item": [30.0, 20.0], "rating": [4.0, 5.0]})
    first, alone = Ratings.from_frame(train), Ratings.from_frame(test)
    second = Ratings.from_frame(test, like=first)
    assert (second.n_users, second.n_items) == (3, 3)
    assert [first.user_ids[u] for u in second.users] == ["bo", "eve"]
    assert [first.item_ids[i] for i in second.items] == [30, 20]
    first.check_same_ids(second, "validation")
    says = r"ratings and validation must have the same user_ids, row by row, got 3 and 2 of them; .*like="
    with pytest.raises(ValueError, match=says):
        first.check_same_ids(alone, "validation")


def test_scoring_with_another_numbering_was_silent():
    ratings, _ = mfkit.synthetic(60, 80, 2400, rank=2, noise=0.1, seed=0)
    frame = pd.DataFrame({"user": ratings.users, "item": ratings.items, "rating": ratings.values})
    frame = frame.assign(user="u" + frame.user.astype(str))
    train = Ratings.from_frame(frame[:2000])
    shuffled = frame[2000:]
    alone, like = Ratings.from_frame(shuffled), Ratings.from_frame(shuffled, like=train)
    model = mfkit.MatrixFactorization(train.n_users, train.n_items, 0, mean=train.mean)
    mfkit.train(model, train, mfkit.TrainConfig(epochs=10, batch_size=100))
    assert mfkit.rmse(model, like) < 0.9 * mfkit.rmse(model, alone)
    with pytest.raises(ValueError, match="must have the same"):
        train.check_same_ids(alone, "validation")
    train.check_same_ids(like, "validation")


def test_unknown_ids_are_an_error_or_left_out():
    like = Ratings.from_frame(three())
    test = pd.DataFrame({"user": ["c", "zoe", "a", "yan"], "item": [10, 10, 40, 40], "rating": [1, 2, 3, 4]})
    says = r"column 'user' must hold ids that like has, such as 'a', got 2 of 4 ids that it has not \(2 of 4 rows, "
    refused(test, ValueError, says + r"50.00%\), e.g. 'zoe' in row 1; want unknown='drop'", like=like)
    refused(test[::2], ValueError, "column 'item' must .* such as 10, got 1 of 2 .* 40 in row 2", like=like)
    kept = Ratings.from_frame(test, like=like, unknown="drop")
    assert kept.values.tolist() == [1]
    assert kept.users.tolist() == [2]
    assert (kept.read.unknown, kept.read.missing, kept.read.rows) == (3, 0, 4)
    assert "4 rows read, 3 left out for unknown ids" in repr(kept)
    refused(test[1:], ValueError, "like must have the user and the item of a row at least", like=like, unknown="drop")
    refused(three(user=[1, 2, 3]), ValueError, "such as 'a', got 3 of 3 ids", like=like)
    refused(test, ValueError, "unknown must be 'error' or 'drop', got 'skip'", like=like, unknown="skip")
    refused(test, ValueError, "unknown='drop' needs like=", unknown="drop")
    refused(test, TypeError, "like must be a Ratings, got ", like=test)
    bare = Ratings([0, 1], [0, 1], [1, 2], 2, 2)
    refused(test, ValueError, "like must have user_ids and item_ids", like=bare)
    latest = test.assign(t=[4, 3, 2, 1])
    assert len(Ratings.from_frame(latest, like=like, unknown="drop", duplicates="last", time="t")) == 1


def test_ids_are_compared_by_what_they_are():
    def ratings(user_ids):
        return Ratings([0, 1], [0, 0], [1, 2], 2, 1, user_ids)

    first = ratings(np.array(["a", "b"], dtype=object))
    parts = first.split((0.5, 0.5), seed=0)
    assert parts[0].user_ids is first.user_ids
    for same in (parts[1], ratings(["a", "b"]), ratings(np.array(["a", "b"])), ratings(None), torch.nn.Linear(1, 1)):
        first.check_same_ids(same, "validation")
    for other, got in (
        (["b", "a"], "'a' and 'b' in row 0"),
        (["a", "c"], "'b' and 'c' in row 1"),
        ([1, 2], "'a' and 1"),
    ):
        with pytest.raises(ValueError, match=f"^train and test must have the same user_ids, row by row, got {got}"):
            first.check_same_ids(ratings(other), "test", "train")
    ratings([1, 2]).check_same_ids(ratings(np.array([1, 2], dtype=np.int32)), "test")
    ratings(None).check_same_ids(first, "test")
    with pytest.raises(ValueError, match="same item_ids"):
        Ratings([0], [0], [1], 1, 1, None, [5]).check_same_ids(Ratings([0], [0], [1], 1, 1, None, [6]), "test")


# What was read.


def test_ratings_say_what_was_read():
    frame = pd.concat([three(), three()[:1], three(rating=0)[1:]])
    ratings = Ratings.from_frame(frame, duplicates="mean", missing=0)
    read = ratings.read
    assert (read.rows, read.missing, read.unknown, read.merged) == (6, 2, 0, 1)
    assert (read.lowest, read.highest, read.commonest, read.share) == (3, 5, 3, 0.5)
    assert (
        repr(ratings)
        == str(ratings)
        == (
            "Ratings(3 ratings, 3 users x 3 items, 33.33% observed; 6 rows read, 2 left out as not rated, "
            "1 merged into others; 3 to 5, most often 3 (50.0%))"
        )
    )
    assert repr(Ratings.from_frame(three())).endswith("observed; 3 to 5, most often 3 (33.3%))")
    assert ratings.to("meta").read is read
    assert ratings.take([0]).read is ratings.with_values(ratings.values).read is None
