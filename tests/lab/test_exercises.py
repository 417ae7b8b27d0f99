"""Exercises: what is said of a value, and that a changed answer is reported."""

import pytest

from mfkit.lab import exercises


@pytest.fixture
def answered(checkout, monkeypatch):
    """A checkout in which exercise 05.2 has the answer 8."""
    monkeypatch.setenv("MFKIT_FIGURES", str(checkout / "figures"))
    exercises.solution("05.2", 8, hint="Look at B.")
    return checkout


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "put a value of yours in place of None and run this cell again."),
        (8.2, "right; the run says 8."),
        (5.0, "near, too low. Look at B."),
        (17.0, "wrong, too high. Look at B."),
        (-8.0, "wrong, too low. Look at B."),
        ("8", "wrong. Look at B."),
    ],
)
def test_a_value_is_right_near_or_wrong(answered, capsys, value, said):
    exercises.check("05.2", value)
    assert capsys.readouterr().out == f"05.2: {said}\n"


def test_an_exercise_without_an_answer_says_so(answered, capsys):
    exercises.check("05.3", 1.0)
    assert capsys.readouterr().out == "05.3: no answer is recorded yet.\n"


def test_a_bad_id_or_value_is_refused(answered):
    with pytest.raises(ValueError, match="got 'five'"):
        exercises.check("five", 1.0)
    with pytest.raises(TypeError, match="value must be a number"):
        exercises.check("05.2", [8.0])


def test_a_changed_answer_is_reported(answered, tmp_path, monkeypatch):
    again = tmp_path / "again"
    monkeypatch.setenv("MFKIT_FIGURES", str(again))
    exercises.solution("05.2", 8.1, hint="Look at B.")
    assert exercises.problems(answered / "figures", again, "05") == []
    exercises.solution("05.2", 9, hint="Look at B.")
    exercises.solution("05.4", 9, hint="Look at B.")
    assert exercises.problems(answered / "figures", again, "05") == [
        "exercise 05.4: its answer is in one run only",
        "exercise 05.2: answer 8.0, now 9.0",
    ]
