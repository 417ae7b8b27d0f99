"""Bad input: every argument of every public function, given what it must not be, one at a time."""

import inspect
import io
import re
from contextlib import redirect_stderr

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import mfkit
from mfkit import MatrixFactorization, Ratings, clipping, initializers, losses, measure, optimizers, predict
from mfkit.__main__ import main
from mfkit.catalogue import NewUser
from mfkit.lab import figures
from tests.fuzz import calls
from tests.fuzz.kinds import BAD, GOOD, NESTED, THINGS
from tests.fuzz.table import CALLS, arguments, kind_of

NOT_TRIED = {  # and why
    "DivergenceError": "made by train",
    "MatrixFactorization.meet": "told by the fits",
    "MatrixFactorization.load": "load",
    "MatrixFactorization.named": "a table of what was found",
    "History": "made by train",
    "Posterior": "made by sample_posterior",
    "MatrixFactorization.forward": "torch calls it, a batch at a time: the doors check",
    "MatrixFactorization.rows": "as forward",
    "Ratings.check_same_ids": "asked by the doors, of what they were given",
    "initializers.Side": "a protocol of als.py",
    "initializers.SpectralStart": "made by spectral_start",
    "initializers.spectral_start": "what fit_als and spectral_ share",
    "predict.l2_curve": "draws a table of the sizes that it is given: test_l2_curve.py has its bad input",
    "optimizers.RowOptimizer": "RowAdam and RowSGD are its kinds",
}


@pytest.fixture(autouse=True, scope="module")
def _elsewhere(tmp_path_factory):
    """What is written in spite of everything is written there."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("fuzz")
        patch.chdir(folder)
        patch.setenv("MFKIT_FIGURES", str(folder))
        yield


ARGUMENTS = [(name, argument) for name in CALLS for argument in arguments(name)]


@pytest.mark.parametrize("name", [name for name in CALLS if name != "movielens"])  # which may ask the network
def test_the_good_call_of_the_table_works(name):
    function, given = CALLS[name]()
    calls.good(function, **given)


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_a_bad_argument_is_refused(name, argument):
    kind = kind_of(name, argument)

    def refuse(value):
        if (judged := kind(value)) != GOOD:
            function, given = CALLS[name]()
            calls.bad(function, argument, given | {argument: value}, must_refuse=judged == BAD)

    for thing in THINGS:
        refuse(thing)
    given(NESTED)(refuse)()


def public_functions():
    """Every public function by its name in the table."""
    found = {name: getattr(mfkit, name) for name in mfkit.__all__ if callable(getattr(mfkit, name))}
    for module in (clipping, initializers, losses, measure, optimizers, predict):
        for name, member in vars(module).items():
            home = str(getattr(member, "__module__", ""))
            if not name.startswith("_") and callable(member) and home.startswith("mfkit") and name not in found:
                short = module.__name__.removeprefix("mfkit.")
                if home == module.__name__ or (module is predict and home == "mfkit.ledger"):
                    found[f"{short}.{name}"] = member
    for owner in (MatrixFactorization, Ratings, mfkit.Posterior, NewUser):
        for name, member in inspect.getmembers(owner, callable):
            if not name.startswith("_") and str(getattr(member, "__module__", "")).startswith("mfkit"):
                found[f"{owner.__name__}.{name}"] = member
    return found | {"figures.claim": figures.claim, "figures.publish": figures.publish}


def test_the_table_holds_every_public_function():
    assert sorted(public_functions().keys() - CALLS.keys() - NOT_TRIED.keys()) == []


WORDS = st.text("abz0:_-. /\n", max_size=6)


@example("reproduce", [""])
@given(st.sampled_from(["", "reproduce", "new", "doctor", "claims", "book"]), st.lists(WORDS, min_size=1, max_size=2))
def test_the_shell_s_usage_errors_are_one_line(command, words):
    assume(not any(word.startswith("-") for word in words) and not (command == "doctor" and len(words) == 1))
    assume(command != "reproduce" or any(word[:1] not in ("0", "1") for word in words))
    assume(not (command == "new" and re.fullmatch(r"\d\d_[a-z0-9_]+", words[0])))
    calls.COUNTS["bad"] += 1
    with redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as exit:
        main([command, *words] if command else words)
    assert exit.value.code == 2
    assert said.getvalue().count("\n") == 1, said.getvalue()


@example(target="/")
@given(target=WORDS)
def test_the_doctor_s_target_that_is_not_there_is_one_line(target):
    assume(not target.startswith("-"))
    calls.COUNTS["bad"] += 1
    with redirect_stderr(io.StringIO()) as said:
        assert main(["doctor", target]) == 2
    assert said.getvalue().count("\n") == 1, said.getvalue()
