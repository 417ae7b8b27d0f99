"""The checks that public functions share: what passes, as what, and how the rest is refused."""

import numpy as np
import pytest
import torch

from mfkit import checks


@pytest.mark.parametrize("three", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3).short()])
def test_integers_of_any_library_are_integers(three):
    assert checks.integer("k", three, least=1) == 3
    assert type(checks.integer("k", three, least=3)) is int
    assert type(checks.number("k", three)) is float


@pytest.mark.parametrize(
    "value",
    [0, -1, 2.0, 2.5, True, np.True_, torch.tensor(True), torch.tensor(2.0), torch.tensor([3]), "3", None, [3], 3j],
)
def test_what_is_no_integer_of_at_least_one(value):
    with pytest.raises(ValueError, match=r"^k must be an integer of at least 1, got "):
        checks.integer("k", value, least=1)


def test_numbers():
    assert checks.number("x", np.float32(0.5), above=0) == 0.5
    assert checks.number("x", torch.tensor(0.0, dtype=torch.float64), least=0) == 0
    assert checks.number("x", -2) == -2
    for value, limits, wanted in [
        (0, {"above": 0}, "a finite number above 0, got 0"),
        (-1e-9, {"least": 0}, "a finite number of at least 0, got -1e-09"),
        (float("nan"), {}, "a finite number, got nan"),
        (float("inf"), {"above": 0}, "a finite number above 0, got inf"),
        (10**400, {}, "a finite number, got 1000"),
        (True, {}, "a finite number, got True"),
        ("1", {}, "a finite number, got '1'"),
        (1j, {}, "a finite number, got 1j"),
        (None, {"least": 0}, "a finite number of at least 0, got None"),
        (np.ones(2), {}, "a finite number, got array"),
    ]:
        with pytest.raises(ValueError, match=f"^x must be {wanted}"):
            checks.number("x", value, **limits)


@pytest.mark.parametrize("value", ["c", None, ["a"], np.array(["a", "b"]), 1])
def test_words(value):
    assert checks.one_of("word", "b", ("a", "b")) == "b"
    with pytest.raises(ValueError, match=r"^word must be 'a' or 'b', got "):
        checks.one_of("word", value, ("a", "b"))


def test_instances():
    generator = torch.Generator()
    assert checks.instance("generator", generator, torch.Generator) is generator
    with pytest.raises(TypeError, match=r"^generator must be a Generator, got 3$"):
        checks.instance("generator", 3, torch.Generator)


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ("abc", TypeError, "must be a vector of numbers, got str with .*abc"),
        (None, TypeError, "must be a vector of numbers, got NoneType"),
        ({1, 2}, TypeError, "must be a vector of numbers, got set with .*{1, 2}"),
        ({1: 2}, TypeError, "must be a vector of numbers, got dict"),
        ((x for x in (1, 2)), TypeError, "must be a vector of numbers, got generator"),
        ([[1], [2, 3]], TypeError, "must be a vector of numbers, got list"),
        ([1, "b"], TypeError, "must be a vector of numbers, got list with '1'"),
        ([1, None], TypeError, "must be a vector of numbers, got list with None"),
        (np.array(["2020-01-01"], "datetime64[D]"), TypeError, "must be a vector of numbers, got ndarray"),
        (torch.ones(3).to_sparse(), TypeError, "must be a vector of numbers, got Tensor"),
        (5, ValueError, r"must have shape \(N,\), got \(\)"),
        ([[1, 2]], ValueError, r"must have shape \(N,\), got \(1, 2\)"),
        (np.ma.array([1, 2], mask=[0, 1]), ValueError, "must have no masked cells, got 1"),
        ([True], TypeError, "must be real numbers, got dtype bool"),
        ([2.5, True], TypeError, "must be real numbers, got a boolean among them"),
        ([1j], TypeError, "must be real numbers, got dtype complex128"),
    ],
)
def test_what_is_no_vector(value, error, says):
    with pytest.raises(error, match=f"^x {says}"):
        checks.vector("x", value)


@pytest.mark.parametrize("dtype", [np.uint64, np.ulonglong, np.longlong, ">i8", ">f4", np.float16, np.longdouble])
def test_vectors_of_every_dtype(dtype):
    array = np.array([1, 2], dtype=dtype)
    vector = checks.vector("x", array)
    array[0] = 9
    assert vector.tolist() == [1, 2]


def test_shown_stays_short():
    assert checks.shown(np.int64(7)) == "7"
    assert len(checks.shown("x" * 1000)) == 80
    assert "\n" not in checks.shown(np.zeros((9, 9)))
