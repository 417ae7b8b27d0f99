"""The article's sentences: each is tested somewhere, and its verdict agrees with the claims that it names."""

import csv

import pytest

from mfkit import repository
from mfkit.lab import records

ROOT = repository.root()
VERDICTS = {"true", "true if", "half", "wrong", "not testable here"}
CLAIMS = {c["id"]: c["verdict"] for r in records.load(ROOT / "figures").values() for c in r["claims"]}
NOTEBOOKS = {path.stem[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
with open(ROOT / "data" / "article.csv", encoding="utf-8", newline="") as file:
    ROWS = list(csv.DictReader(file))


def problems(row: dict[str, str]) -> list[str]:
    """What is wrong with a row of data/article.csv."""
    found = []
    if row["verdict"] not in VERDICTS:
        found.append(f"verdict must be one of {sorted(VERDICTS)}, got {row['verdict']!r}")
    if not row["condition"].endswith("."):
        found.append("condition must be a sentence")
    if row["notebook"] not in NOTEBOOKS:
        found.append(f"there is no notebook {row['notebook']!r}")
    if not row["claims"] and row["verdict"] != "not testable here":
        found.append("a verdict needs a claim")
    for name in row["claims"].split():
        id, wanted = name.removeprefix("!"), "FAILS" if name.startswith("!") else "HOLDS"
        if CLAIMS.get(id, "no claim") not in (wanted, "SKIPPED"):
            found.append(f"claim {id} must be one that {wanted}, is {CLAIMS.get(id, 'no claim')}")
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["number"])
def test_a_sentence_has_a_verdict_that_its_claims_bear(row):
    assert problems(row) == []


def test_sentences_are_numbered():
    assert [row["number"] for row in ROWS] == [str(k + 1) for k in range(len(ROWS))]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"verdict": "right"}, "verdict must be"),
        ({"claims": ""}, "a verdict needs a claim"),
        ({"claims": "no-such-claim"}, "claim no-such-claim must be one that HOLDS, is no claim"),
        ({"claims": "!small-start-mends"}, "claim small-start-mends must be one that FAILS, is HOLDS"),
        ({"notebook": "77"}, "there is no notebook '77'"),
        ({"condition": ""}, "condition must be a sentence"),
    ],
)
def test_a_planted_defect_is_seen(monkeypatch, change, problem):
    monkeypatch.setitem(CLAIMS, "small-start-mends", "HOLDS")
    row = {"verdict": "true", "condition": "Always.", "notebook": "05", "claims": "small-start-mends"}
    assert problems(row) == []
    assert any(line.startswith(problem) for line in problems(row | change))
