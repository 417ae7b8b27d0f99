"""Numbers in notebooks and README are the recorded ones."""

import csv

import nbformat
import pytest

from mfkit import repository
from mfkit.lab import records
from mfkit.lab.runner import with_tables
from tests import prose

ROOT = repository.root()
RECORDS = records.load(ROOT / "figures")
CLAIMS = {claim["id"]: claim for record in RECORDS.values() for claim in record["claims"]}
NUMBERS = {f"{id}:{name}": value for id, record in RECORDS.items() for name, value in record["numbers"].items()}
with open(ROOT / "data" / "published.csv", encoding="utf-8") as file:
    PUBLISHED = {row["id"]: row["value"] for row in csv.DictReader(file)}


def markdown(path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


PAGES = [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_decimal_in_prose_is_the_recorded_one(path):
    assert prose.problems(markdown(path), CLAIMS, NUMBERS, PUBLISHED) == []


def test_claims_have_ids_of_their_own():
    ids = [claim["id"] for record in RECORDS.values() for claim in record["claims"]]
    assert len(ids) == len(set(ids))


def test_readme_tables_and_claims_are_made_from_the_records():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_tables(readme, RECORDS) == readme
    assert (ROOT / "CLAIMS.md").read_text(encoding="utf-8") == records.claims_markdown(RECORDS)


def test_the_readme_stays_a_first_screen():
    assert len((ROOT / "README.md").read_bytes()) < 20_000


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("measured 3.66<!--claim:c-->", 0),
        ("measured 3.7<!--claim:c-->, predicted 4<!--claim:c:predicted-->", 0),
        ("a share of 36.6 %<!--claim:share-->", 0),
        ("published 0.934<!--published:p-->", 0),
        ("`lr=0.01`, $0.5 x$, torch 2.13.0, Python 3.11, [a link](x-1.5.html)", 0),
        ("measured 3.67<!--claim:c-->", 1),
        ("measured 3.65<!--claim:c-->", 1),
        ("measured 3.66<!--claim:unknown-->", 1),
        ("quoted 1.14<!--number:00_ladder:mean-->", 0),
        ("quoted 1.15<!--number:00_ladder:mean-->, 1.14<!--number:00_ladder:other-->", 2),
        ("published 0.935<!--published:p-->", 1),
        ("measured 3.66", 1),
        ("about .5 of it, or 0.25, or 12.5 %", 3),
    ],
)
def test_a_wrong_or_unbacked_number_is_reported(text, wrong):
    claims = {"c": {"measured": 3.658, "predicted": ["<", 4.0]}, "share": {"measured": 0.3658, "predicted": 0.4}}
    assert len(prose.problems(text, claims, {"00_ladder:mean": 1.1443}, {"p": "0.934"})) == wrong
