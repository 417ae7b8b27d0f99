"""Claims, records and their comparison."""

import hashlib
import json
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mfkit import TrainConfig, figures


@pytest.mark.parametrize(
    ("predicted", "measured", "tolerance", "verdict"),
    [
        (10.0, 10.1, 0.01, "HOLDS"),
        (10.0, 10.2, 0.01, "FAILS"),
        (-10.0, -10.1, 0.01, "HOLDS"),
        (0, 1e-9, 1e-8, "HOLDS"),
        (0, 1e-7, 1e-8, "FAILS"),
        (("<", 2), 1.9, 0, "HOLDS"),
        (("<", 2), 2.0, 0, "FAILS"),
        ((">=", 2), np.float32(2.0), 0, "HOLDS"),
        (("<", 2), math.nan, 0, "FAILS"),
        ((">", 2), math.inf, 0, "FAILS"),
        (1.0, math.nan, 0.1, "FAILS"),
        ("NaN", math.nan, 0, "HOLDS"),
        (True, False, 0, "FAILS"),
    ],
)
def test_verdicts(predicted, measured, tolerance, verdict):
    assert figures.claim("a-claim", "Something.", predicted, measured, tolerance).verdict == verdict


def test_bad_claims_are_refused():
    with pytest.raises(ValueError, match="id must be lower-case-with-dashes, got 'A claim'"):
        figures.claim("A claim", "Something.", 1, 1)
    with pytest.raises(ValueError, match="predicted must be"):
        figures.claim("a", "Something.", ("~", 1), 1)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A function that saves one small figure into a named folder, with changes to its claim or data."""

    def save(folder: str, data=(1.0, 2.0, math.nan), timing=False, **claim):
        monkeypatch.setenv("MFKIT_FIGURES", str(tmp_path / folder))
        fig, ax = plt.subplots()
        ax.plot([1, 2], label="a line")
        frame = pd.DataFrame({"x": list(data), "arm": ["a", "b", "c"]})
        one = figures.claim("a-claim", "It is one.", **{"predicted": 1.0, "measured": 1.001, "tolerance": 0.01} | claim)
        figures.save(fig, "00_test", frame, [one], "A line.", config=TrainConfig.textbook(), seeds=[0], timing=timing)
        plt.close(fig)
        return tmp_path / folder

    return save


def test_two_saves_give_the_same_bytes(saved):
    a, b = saved("a"), saved("b")
    names = sorted(path.name for path in a.iterdir())
    assert names == ["00_test.csv", "00_test.json", "00_test.png", "00_test.svg"]
    assert all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def test_provenance(saved):
    record = figures.load(saved("a"))["00_test"]
    assert record["notebook"] == "00_three_examples"
    assert record["config"]["lr"] == 0.01
    assert record["seeds"] == [0]
    assert record["claims"][0]["verdict"] == "HOLDS"
    assert {"torch", "python", "mfkit"} <= record["versions"].keys()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"measured": 1.002}, None),
        ({"data": (1.0, 2.03, math.nan)}, None),
        ({"measured": "skipped"}, None),
        ({"measured": 1.2}, "verdict HOLDS, now FAILS"),
        ({"measured": 0.9}, "measured 1.001, now 0.9"),
        ({"predicted": 1.1, "tolerance": 0.5}, "predicted 1.0, now 1.1"),
        ({"data": (1.0, 2.3, math.nan)}, "x in row 1 was 2.0, is 2.3"),
        ({"data": (1.0, math.nan, math.nan)}, "x in row 1"),
        ({"measured": math.nan}, "verdict HOLDS, now FAILS"),
    ],
)
def test_a_changed_result_is_reported(saved, change, problem):
    found = figures.problems(saved("old"), saved("new", **change), ["00_test"])
    assert (found == []) if problem is None else any(problem in line for line in found)


def test_a_missing_or_new_figure_is_reported(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    old = saved("old")
    assert figures.problems(old, tmp_path / "empty", ["00_test"]) == ["00_test: not made again"]
    assert figures.problems(tmp_path / "empty", old, ["00_test"]) == ["00_test: made, but not committed"]


def test_timings_are_never_compared(saved):
    assert figures.problems(saved("old", timing=True), saved("new", timing=True, measured=9.0), ["00_test"]) == []


def test_save_refuses_bad_ids(saved):
    fig, _ = plt.subplots()
    one = figures.claim("a-claim", "Something.", 1, 1)
    with pytest.raises(ValueError, match="got 'phase_diagram'"):
        figures.save(fig, "phase_diagram", pd.DataFrame(), [one], "")
    with pytest.raises(ValueError, match="ids of their own"):
        figures.save(fig, "00_test", pd.DataFrame(), [one, replace(one, statement="Else.")], "")
    plt.close(fig)


COMMITTED = figures.ROOT / "figures"


@pytest.mark.parametrize("id", figures.load(COMMITTED))
def test_committed_files_are_those_of_their_record(id):
    assert file_problems(COMMITTED, id) == []


def file_problems(folder, id) -> list[str]:
    record = json.loads((folder / f"{id}.json").read_text(encoding="utf-8"))
    claims = [figures.Claim(**{k: v for k, v in c.items() if k != "verdict"}) for c in record["claims"]]
    found = [
        f"{s}: not the recorded file"
        for s, sha in record["sha256"].items()
        if hashlib.sha256((folder / f"{id}.{s}").read_bytes()).hexdigest() != sha
    ]
    found += [c.id for c, stored in zip(claims, record["claims"], strict=True) if c.verdict != stored["verdict"]]
    return found + ([] if record["notebook"] else ["no notebook makes it"])


def test_a_tampered_csv_or_verdict_is_seen(saved):
    folder = saved("a")
    assert file_problems(folder, "00_test") == []
    path = folder / "00_test.csv"
    path.write_text(path.read_text().replace("2", "2.001"))
    assert file_problems(folder, "00_test") == ["csv: not the recorded file"]
    path = folder / "00_test.json"
    path.write_text(path.read_text().replace("HOLDS", "FAILS"))
    assert "a-claim" in file_problems(folder, "00_test")


def test_every_picture_has_a_record():
    stems = {path.stem for path in COMMITTED.iterdir() if not path.name.startswith(".")}
    assert stems == figures.load(COMMITTED).keys()
