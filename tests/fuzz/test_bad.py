"""Bad input: every argument of every public function, given what it must not be, one at a time."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.fuzz import calls
from tests.fuzz.kinds import BAD, GOOD, NESTED, THINGS
from tests.fuzz.known import KNOWN
from tests.fuzz.table import TABLE

ANYTHING = st.one_of(st.sampled_from(THINGS), NESTED)


@pytest.fixture(autouse=True, scope="module")
def _elsewhere(tmp_path_factory):
    """What is written in spite of everything is written there."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("fuzz")
        patch.chdir(folder)
        patch.setenv("MFKIT_FIGURES", str(folder))
        yield


def case(row, argument):
    owner = KNOWN.get((row.name, argument))
    marks = [pytest.mark.xfail(reason=f"known: {owner}", strict=False)] if owner else []
    return pytest.param(row, argument, marks=marks, id=f"{row.name}-{argument}")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_good_call_of_the_table_works(row):
    function, arguments = row.make()
    if row.name != "movielens":  # which may ask the network
        calls.good(function, **arguments)


@pytest.mark.parametrize(("row", "argument"), [case(row, argument) for row in TABLE for argument in row.wants])
def test_a_bad_argument_is_refused(row, argument):
    @given(ANYTHING)
    def refused(value):
        kind = row.wants[argument](value)
        assume(kind != GOOD)
        function, arguments = row.make()
        calls.bad(function, argument, arguments | {argument: value}, must_refuse=kind == BAD)

    refused()
