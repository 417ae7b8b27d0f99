"""Ratings: what is refused at the door, and what splits and batches hold."""

import numpy as np
import pandas as pd
import pytest
import torch

from mfkit import Ratings

GOOD = {"users": [0, 1, 2], "items": [0, 1, 0], "values": [1.0, 2.0, 3.0], "n_users": 3, "n_items": 2}


def cells(ratings):
    return list(zip(ratings.users.tolist(), ratings.items.tolist(), ratings.values.tolist(), strict=True))


def many(n=500, n_users=40, n_items=30, seed=0):
    rng = np.random.default_rng(seed)
    picks = rng.choice(n_users * n_items, n, replace=False)
    return Ratings(picks // n_items, picks % n_items, rng.normal(3, 1, n), n_users, n_items)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"values": [1.0, np.nan, 3.0]}, ValueError, "values must be finite.*nan at position 1"),
        ({"values": [1.0, 2.0, np.inf]}, ValueError, "values must be finite.*inf at position 2"),
        ({"values": np.array([1.0, 1e39, 2.0])}, ValueError, "values must be finite float32.*inf at position 1"),
        ({"users": [0, -1, 2]}, ValueError, r"users must lie in \[0, n_users\) = \[0, 3\), got -1 at position 1"),
        ({"items": [0, 2, 0]}, ValueError, r"items must lie in \[0, n_items\) = \[0, 2\), got 2 at position 1"),
        ({"n_users": 2}, ValueError, r"users must lie in .*\[0, 2\), got 2"),
        ({"users": np.array([0, 1, 2**64 - 1], dtype=np.uint64)}, ValueError, "users must lie in"),
        ({"users": [], "items": [], "values": []}, ValueError, "one length of at least 1, got 0, 0 and 0"),
        ({"values": [1.0, 2.0]}, ValueError, "one length of at least 1, got 3, 3 and 2"),
        ({"users": [0.0, 1.5, 2.0]}, TypeError, "users must be integers.*float64.*1.5"),
        ({"users": [0.0, 1.0, 2.0]}, TypeError, "users must be integers.*float64"),
        ({"users": [True, False, True]}, TypeError, "users must be.*bool"),
        ({"users": ["a", "b", "c"]}, TypeError, "users must be"),
        ({"users": [0, None, 2]}, TypeError, "users must be"),
        ({"values": None}, TypeError, "values must be"),
        ({"users": [[0], [1], [2]]}, ValueError, r"users must have shape \(N,\), got \(3, 1\)"),
        ({"values": np.ones((3, 1))}, ValueError, r"values must have shape \(N,\), got \(3, 1\)"),
        ({"values": np.ones(3, complex)}, TypeError, "values must be real numbers.*complex"),
        ({"n_users": 0}, ValueError, "n_users must be an integer of at least 1, got 0"),
        ({"n_items": 2.5}, ValueError, "n_items must be an integer of at least 1, got 2.5"),
        ({"n_users": 2**40, "n_items": 2**40}, ValueError, "n_users.*n_items"),
        ({"user_ids": np.array([7, 8])}, ValueError, "user_ids must hold.*3 in all, got 2"),
        ({"user_ids": [7, 8, 7]}, ValueError, "user_ids must hold each id once, got 7 twice"),
        ({"user_ids": np.array([7, np.nan, 8])}, ValueError, "user_ids must hold no missing id, got nan for row 1"),
        ({"user_ids": ["a", None, "b"]}, ValueError, "user_ids must hold no missing id, got None for row 1"),
        ({"user_ids": "abc"}, TypeError, "user_ids must be a list or an array .*, got 'abc'"),
        ({"user_ids": {1, 2, 3}}, TypeError, "user_ids must be a list or an array .*, got {1, 2, 3}"),
        ({"user_ids": np.ones((3, 1))}, TypeError, "user_ids must be a list or an array"),
        ({"user_ids": [1, "b", 2]}, TypeError, "user_ids must hold ids of one kind, got 1 in row 0 and 'b' in row 1"),
        ({"item_ids": [1.5, 2]}, TypeError, "item_ids must hold whole numbers or strings as ids, got 1.5 in row 0"),
        ({"users": {0, 1, 2}}, TypeError, "users must be a vector of numbers, got set"),
        ({"items": {0: 1}}, TypeError, "items must be a vector of numbers, got dict"),
        ({"values": 3.0}, ValueError, r"values must have shape \(N,\), got \(\)"),
        ({"values": "abc"}, TypeError, "values must be a vector of numbers, got str"),
        ({"values": [[1.0], [2.0, 3.0], []]}, TypeError, "values must be a vector of numbers, got list"),
        ({"values": [1, 2, 10**400]}, TypeError, "values must be a vector of numbers"),
        ({"values": np.ma.array([1.0, 2, 3], mask=[0, 1, 0])}, ValueError, "values must have no masked cells, got 1"),
        ({"users": [np.nan, 1, 2]}, TypeError, "users must be integers.*float64, e.g. nan"),
        ({"n_users": "3"}, ValueError, "n_users must be an integer of at least 1, got '3'"),
        ({"n_users": None}, ValueError, "n_users must be an integer of at least 1, got None"),
        ({"n_users": True}, ValueError, "n_users must be an integer of at least 1, got True"),
        ({"duplicates": None}, ValueError, "duplicates must be .*'mean' or 'last', got None"),
        ({"duplicates": ["mean"]}, ValueError, "duplicates must be .*'mean' or 'last', got \\['mean'\\]"),
        ({"duplicates": "first"}, ValueError, "duplicates must be .*'mean' or 'last', got 'first'"),
    ],
)
def test_bad_input_is_refused_by_name(change, error, says):
    with pytest.raises(error, match=says):
        Ratings(**(GOOD | change))


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: np.array(a, np.uint64),
        lambda a: np.array(a, np.uint16),
        lambda a: np.array(a, ">i4"),
        lambda a: np.array(a[::-1])[::-1],  # negative stride
        lambda a: np.repeat(a, 2)[::2],
        lambda a: torch.tensor(a, dtype=torch.int16),
        lambda a: torch.tensor(a).repeat_interleave(2)[::2],
        lambda a: pd.Series(a, index=[5, 3, 9]),
        lambda a: pd.Series(a, dtype="Int64"),
        lambda a: np.array(a).tolist(),
    ],
)
def test_any_integer_container_gives_the_same_ratings(convert):
    ratings = Ratings(**(GOOD | {name: convert(GOOD[name]) for name in ("users", "items")}))
    assert cells(ratings) == cells(Ratings(**GOOD))
    assert ratings.users.dtype == ratings.items.dtype == torch.int64
    assert ratings.values.dtype == torch.float32


def test_tensors_are_copies_and_sizes_plain():
    values = torch.ones(3, requires_grad=True)
    frozen = np.array([0, 1, 2])
    frozen.flags.writeable = False
    ratings = Ratings(frozen, torch.zeros(3, dtype=torch.long), values, np.int64(3), np.int32(1))
    with torch.no_grad():
        values[0] = 9
    assert ratings.values.tolist() == [1, 1, 1]
    assert not ratings.values.requires_grad
    assert type(ratings.n_users) is type(ratings.n_items) is int


def test_duplicates():
    given = {"users": [1, 0, 1, 1], "items": [1, 0, 1, 0], "values": [1, 5, 4, 2], "n_users": 2, "n_items": 2}
    with pytest.raises(ValueError, match=r"\(1, 1\) 2 times"):
        Ratings(**given)
    assert sorted(cells(Ratings(**given, duplicates="mean"))) == [(0, 0, 5), (1, 0, 2), (1, 1, 2.5)]
    assert sorted(cells(Ratings(**given, duplicates="last"))) == [(0, 0, 5), (1, 0, 2), (1, 1, 4)]


def test_mean_len_and_repr():
    ratings = Ratings(**GOOD)
    assert (ratings.mean, len(ratings)) == (2.0, 3)
    assert repr(ratings) == "Ratings(3 ratings, 3 users x 2 items, 50.00% observed)"
    big = Ratings(range(300_000), [0] * 300_000, [16_777_217 / 5] * 300_000, 300_000, 1)
    assert big.mean == np.float32(16_777_217 / 5)  # float32 sums would drift


def test_from_frame_keeps_ids_of_any_kind():
    frame = pd.DataFrame({"who": ["eve", "al", "eve"], "what": [30, 10, 10], "stars": [1, 2, 3]}, index=[9, 9, 4])
    ratings = Ratings.from_frame(frame, user="who", item="what", rating="stars")
    assert list(ratings.user_ids) == ["al", "eve"]
    assert list(ratings.item_ids) == [10, 30]
    back = {(ratings.user_ids[u], ratings.item_ids[i], r) for u, i, r in cells(ratings)}
    assert back == {("eve", 30, 1), ("al", 10, 2), ("eve", 10, 3)}


@pytest.mark.parametrize("dtype", ["Int64", "category", "float64", "string", "object", "uint64"])
def test_from_frame_takes_nullable_and_categorical_ids(dtype):
    frame = pd.DataFrame({"user": pd.Series([7, 3, 7]).astype(dtype), "item": [0, 0, 1], "rating": [1.0, 2.0, 3.0]})
    ratings = Ratings.from_frame(frame.astype({"rating": "Float64"}))
    assert ratings.users.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"user": [None, "a"]}, ValueError, "'user' must hold an id.*missing.*row 0"),
        ({"item": [1.0, np.nan]}, ValueError, "'item' must hold an id.*missing.*row 1"),
        ({"item": pd.array([1, None], dtype="Int64")}, ValueError, "'item' must hold an id.*row 1"),
        ({"rating": ["5", "4"]}, TypeError, "'rating' must hold numbers"),
        ({"rating": [True, False]}, TypeError, "'rating' must hold numbers.*bool"),
        ({"rating": pd.array([5, None], dtype="Int64")}, ValueError, "values must be finite.*nan at position 1"),
        ({"user": ["a", "a"], "item": [1, 1]}, ValueError, r"duplicates=.*2 times"),
    ],
)
def test_from_frame_refuses_by_name(change, error, says):
    frame = pd.DataFrame({"user": ["a", "b"], "item": [1, 2], "rating": [5, 4]} | change)
    with pytest.raises(error, match=says):
        Ratings.from_frame(frame)


def test_from_frame_needs_a_table_with_rows_and_columns():
    frame = pd.DataFrame({"user": ["a"], "item": [1], "score": [5]})
    with pytest.raises(KeyError, match=r"rating='rating' is not a column.*score"):
        Ratings.from_frame(frame)
    with pytest.raises(ValueError, match=r"one length of at least 1, got 0, 0 and 0"):
        Ratings.from_frame(frame[:0], rating="score")
    with pytest.raises(TypeError, match=r"frame must be a pandas DataFrame, got dict"):
        Ratings.from_frame({"user": ["a"]})


@pytest.mark.parametrize("by", ["rating", "user"])
@pytest.mark.parametrize(("fractions", "sizes"), [((0.8, 0.1, 0.1), (400, 50, 50)), ((0.5, 0.2), (250, 100))])
def test_split_is_disjoint_with_the_right_sizes(by, fractions, sizes):
    ratings = many()
    parts = ratings.split(fractions, seed=3, by=by)
    held = [set(cells(part)) for part in parts]
    assert set.union(*held) <= set(cells(ratings))
    assert len(set.union(*held)) == sum(map(len, parts))
    if sum(fractions) == 1:
        assert set.union(*held) == set(cells(ratings))
    for part, size, fraction in zip(parts, sizes, fractions, strict=True):
        assert len(part) == size if by == "rating" else abs(len(part) - size) < 20
        assert (part.n_users, part.n_items) == (40, 30)
        if by == "user":  # each user's share, rounded up or down
            share = fraction * np.bincount(ratings.users, minlength=40)
            assert (abs(np.bincount(part.users, minlength=40) - share) < 1).all()
    again, other = ratings.split(fractions, seed=3, by=by), ratings.split(fractions, seed=4, by=by)
    assert cells(again[0]) == cells(parts[0]) != cells(other[0])


def test_split_by_hand():
    (whole,) = Ratings(**GOOD).split((1.0,), seed=0)
    assert sorted(cells(whole)) == sorted(cells(Ratings(**GOOD)))
    first, second = many(200, 2, 100).split((0.5, 0.5), seed=0, by="user")
    counts = np.bincount(many(200, 2, 100).users)
    assert (abs(np.bincount(first.users) - counts / 2) <= 0.5).all()
    assert len(first) + len(second) == 200
    once = Ratings(range(1000), [0] * 1000, [1.0] * 1000, 1000, 1)  # one rating a user: whole users, in the right share
    assert [len(part) for part in once.split((0.8, 0.2), 0, by="user")] == pytest.approx([800, 200], abs=50)


@pytest.mark.parametrize(
    ("fractions", "says"),
    [
        ((0.9, 0.2), r"fractions must be positive and sum to at most 1, got \(0.9, 0.2\)"),
        ((1.1, -0.1), "fractions must be positive"),
        ((0.5, 0.0), "fractions must be positive"),
        ((0.5, np.nan), "fractions must be positive"),
        ((), "fractions must be positive"),
        (0.8, "fractions must be positive"),
        (None, "fractions must be positive"),
        ((np.inf,), "fractions must be positive"),
        ("0.8", "fractions must be a vector of numbers, got str"),
        (("0.8", "0.2"), "fractions must be a vector of numbers, got tuple"),
        ({0.8, 0.2}, "fractions must be a vector of numbers, got set"),
        ({0.8: 0.2}, "fractions must be a vector of numbers, got dict"),
        ([[0.8], [0.1, 0.1]], "fractions must be a vector of numbers, got list"),
        ([[0.8, 0.2]], r"fractions must have shape \(N,\), got \(1, 2\)"),
        ((True,), "fractions must be real numbers, got dtype bool"),
        ((0.9, 0.1), r"fractions must leave no part empty, got 0.1 of 3 ratings"),
    ],
)
def test_split_refuses(fractions, says):
    with pytest.raises((TypeError, ValueError), match=says):
        Ratings(**GOOD).split(fractions, seed=0)
    with pytest.raises(ValueError, match=r"by must be 'rating' or 'user', got 'item'"):
        Ratings(**GOOD).split((0.5, 0.5), seed=0, by="item")


def test_batches_hold_every_rating_once_in_the_generators_order():
    ratings = many()
    batches = list(ratings.batches(64, torch.Generator().manual_seed(1)))
    assert [len(values) for *_, values in batches] == [64] * 7 + [52]
    together = [torch.cat(column) for column in zip(*batches, strict=True)]
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    assert all(map(torch.equal, together, (c[order] for c in (ratings.users, ratings.items, ratings.values))))
    with pytest.raises(ValueError, match=r"batch_size must be an integer of at least 1, got 0"):
        next(ratings.batches(0, torch.Generator()))


@pytest.mark.parametrize("seed", [-1, 1.0, 1.5, "1", None, True, [1], np.random.default_rng(0)])
def test_split_wants_an_integer_seed(seed):
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got "):
        Ratings(**GOOD).split((0.5, 0.5), seed)


def test_integers_of_numpy_and_torch_are_integers():
    ratings = many()
    for three in (np.int64(3), torch.tensor(3)):
        assert cells(ratings.split((0.5, 0.5), three)[0]) == cells(ratings.split((0.5, 0.5), 3)[0])
        assert len(list(ratings.batches(three, torch.Generator()))) == 167
    fractions = torch.tensor([0.5, 0.5])
    assert cells(ratings.split(fractions, 3)[1]) == cells(ratings.split([0.5, 0.5], 3)[1])


@pytest.mark.parametrize("size", [0, -1, 2.0, "2", None, True, [2]])
def test_batches_want_a_size_and_a_generator(size):
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got "):
        Ratings(**GOOD).batches(size, torch.Generator())
    for generator in (size, np.random.default_rng(0)):
        with pytest.raises(TypeError, match="generator must be a Generator, got "):
            Ratings(**GOOD).batches(2, generator)


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        ([3], IndexError, r"rows must lie in \[0, 3\), got 3"),
        ([-4], IndexError, r"rows must lie in \[0, 3\), got -4"),
        ([True, False], IndexError, r"rows, as booleans, must have shape \(3,\), got \(2,\)"),
        ([], ValueError, "rows must pick a rating at least"),
        ([False] * 3, ValueError, "rows must pick a rating at least"),
        (0, ValueError, r"rows must have shape \(K,\), got \(\)"),
        ([[0]], ValueError, r"rows must have shape \(K,\), got \(1, 1\)"),
        ([0.0], TypeError, "rows must be integers or booleans, got dtype torch.float64"),
        (["0"], TypeError, r"rows must be a vector of integers or booleans, got \['0'\]"),
        (None, TypeError, "rows must be a vector of integers or booleans, got None"),
        ([[0], [1, 2]], TypeError, "rows must be a vector of integers or booleans"),
    ],
)
def test_take_refuses(rows, error, says):
    with pytest.raises(error, match=says):
        Ratings(**GOOD).take(rows)


@pytest.mark.parametrize("rows", [[2, 0], (2, 0), np.array([2, 0], np.uint8), torch.tensor([-1, 0]).char()])
def test_take_by_position_or_by_mask(rows):
    assert Ratings(**GOOD).take(rows).values.tolist() == [3, 1]
    for mask in ([True, False, True], torch.tensor([1, 0, 1], dtype=torch.bool), pd.Series([True, False, True])):
        assert Ratings(**GOOD).take(mask).values.tolist() == [1, 3]


def test_with_values_copies_and_refuses():
    ratings, values = Ratings(**GOOD), torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    other = ratings.with_values(values)
    with torch.no_grad():
        values[0] = 9
    assert other.values.tolist() == [1, 2, 4]
    assert not other.values.requires_grad
    assert ratings.with_values([1, 2, 4]).values.dtype == torch.float32
    for wrong, error in (
        ([1.0, 2.0], ValueError),
        (torch.ones(3, 1), ValueError),
        (torch.tensor([1.0, np.nan, 2.0]), ValueError),
        (["a", "b", "c"], TypeError),
        (None, TypeError),
        (torch.ones(3, dtype=torch.bool), TypeError),
        (torch.ones(3, dtype=torch.complex64), TypeError),
    ):
        with pytest.raises(error, match=r"^values must "):
            ratings.with_values(wrong)


def test_to_the_same_device_is_itself():
    ratings = Ratings(**GOOD)
    assert ratings.to("cpu") is ratings
    assert ratings.to("meta").users.device.type == "meta"
