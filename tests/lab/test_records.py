"""Claims, records and their comparison."""

import hashlib
import json
import math

import numpy as np
import pandas as pd
import pytest

from mfkit import repository
from mfkit.lab import records


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
    assert records.claim("prediction", "a-claim", "Something.", predicted, measured, tolerance).verdict == verdict


def test_bad_claims_are_refused():
    with pytest.raises(ValueError, match="id must be lower-case-with-dashes, got 'A claim'"):
        records.claim("prediction", "A claim", "Something.", 1, 1)
    with pytest.raises(ValueError, match="or 'target', got 'guess'"):
        records.claim("guess", "a", "Something.", 1, 1)
    with pytest.raises(ValueError, match="predicted must be"):
        records.claim("prediction", "a", "Something.", ("~", 1), 1)


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
    found = records.problems(saved("old"), saved("new", **change), ["00_test"])
    assert (found == []) if problem is None else any(problem in line for line in found)


def test_a_missing_or_new_figure_is_reported(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    old = saved("old")
    assert records.problems(old, tmp_path / "empty", ["00_test"]) == ["00_test: not made again"]
    assert records.problems(tmp_path / "empty", old, ["00_test"]) == ["00_test: made, but not committed"]


def test_a_changed_number_or_kind_is_reported(saved):
    old, new = saved("old"), saved("new", kind="fitted", numbers={"mean": 1.1})
    assert records.problems(old, new, ["00_test"]) == [
        "00_test: number mean was 1.0, is 1.1 (tolerance 0.02)",
        "00_test: claim a-claim kind prediction, now fitted (tolerance 0.02)",
    ]


def test_counts_never_add_up_kinds(saved):
    table = records.claims_table(records.load(saved("a")))
    other = table.assign(kind="target", verdict="FAILS")
    counted = records.counts(pd.concat([table, table, other]))
    assert [line.split("|")[1:] for line in counted.splitlines()[2:]] == [
        [" prediction ", f" {records.KINDS['prediction']} ", " 2 ", " 0 ", ""],
        [" target ", f" {records.KINDS['target']} ", " 0 ", " 1 ", ""],
    ]


def test_timings_are_never_compared(saved):
    assert records.problems(saved("old", timing=True), saved("new", timing=True, measured=9.0), ["00_test"]) == []


COMMITTED = repository.root() / "figures"


@pytest.mark.parametrize("id", records.load(COMMITTED))
def test_committed_files_are_those_of_their_record(id):
    assert file_problems(COMMITTED, id) == []


def file_problems(folder, id) -> list[str]:
    record = json.loads((folder / f"{id}.json").read_text(encoding="utf-8"))
    claims = [records.Claim(**{k: v for k, v in c.items() if k != "verdict"}) for c in record["claims"]]
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
    stems = {path.stem for path in COMMITTED.iterdir() if path.is_file() and not path.name.startswith(".")}
    assert stems == records.load(COMMITTED).keys()


def test_a_file_that_is_still_being_written_is_no_record(saved):
    folder = saved("a")
    for name in (".00_test.json.4711.partial", "00_other.json.partial", ".00_other.json.1.partial"):
        (folder / name).write_text('{"id": "00_ot')
    assert list(records.load(folder)) == ["00_test"]


def test_claims_are_printed_figure_by_figure(saved, capsys):
    records.print_claims(records.load(saved("a")), skipped=["00_z", "00_b"])
    assert capsys.readouterr().out == (
        "\n00_three_examples · figure 00_test\n"
        "  HOLDS  prediction: predicted 1 ± 0.01 rel., measured 1.001\n"
        "         It is one.\n"
        "\nfigure 00_b: skipped, it needs downloaded ratings\n"
        "\nfigure 00_z: skipped, it needs downloaded ratings\n"
    )
