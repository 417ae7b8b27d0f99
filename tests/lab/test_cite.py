"""What `python -m mfkit cite` prints, and CITATION.cff, from which it takes the entry."""

import hashlib
import json
import re
import subprocess
from datetime import date

import pytest
import yaml

import mfkit
from mfkit import __main__ as command
from mfkit import repository
from mfkit.lab import cite

ROOT = repository.root()
HEAD = re.compile("[0-9a-f]{40}")
REQUIRED = {"cff-version", "message", "title", "authors"}
OF_PUBLICATION = {"doi", "url", "repository-code"}  # nothing else is left out
COMPLETE = REQUIRED | {"abstract", "type", "version", "date-released", "license", "keywords"}


@pytest.fixture(scope="module")
def about():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_file_is_complete_but_for_what_publication_gives(about):
    assert COMPLETE <= about.keys() <= COMPLETE | OF_PUBLICATION
    assert about["cff-version"] == "1.2.0"
    assert about["type"] == "software"
    assert type(about["date-released"]) is date
    assert about["license"] == "MIT"
    assert all(isinstance(about[key], str) and about[key] for key in ("message", "title", "abstract"))
    assert len(set(about["keywords"])) == len(about["keywords"]) > 0
    assert all(author.keys() <= {"name"} | {"family-names", "given-names"} for author in about["authors"])


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository of one committed figure."""
    for folder in ("notebooks", "figures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mfkit"\n')
    (tmp_path / "CITATION.cff").write_bytes((ROOT / "CITATION.cff").read_bytes())
    record = {"id": "05_border", "caption": "At 2.5 it explodes. Below it does not."}
    for suffix in ("svg", "png", "csv"):
        (tmp_path / "figures" / f"05_border.{suffix}").write_text(suffix)
    (tmp_path / "figures" / "05_border.json").write_text(json.dumps(record))
    monkeypatch.setattr(repository, "PLACE", tmp_path)
    return tmp_path


def committed(folder) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "One figure"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True).stdout.strip()


def test_a_committed_figure(checkout, capsys):
    head = committed(checkout)
    assert HEAD.fullmatch(head)
    assert command.main(["cite", "05_border"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "figure   05_border: At 2.5 it explodes.",
        f"version  mfkit {mfkit.__version__}",
        f"commit   {head}",
    ]
    record = (checkout / "figures" / "05_border.json").read_bytes()
    assert lines[3] == f"sha256   {hashlib.sha256(b'svg').hexdigest()}  05_border.svg"
    assert lines[6] == f"sha256   {hashlib.sha256(record).hexdigest()}  05_border.json"
    assert lines[8] == "@misc{mfkit-05_border,"
    assert f"  version = {{{mfkit.__version__}}}," in lines
    assert f"  note = {{Figure 05\\_border, commit {head}}}," in lines
    assert lines[-1] == "}"


def test_a_figure_that_changed_since_is_said_to(checkout):
    head = committed(checkout)
    (checkout / "README.md").write_text("another file")
    assert f"commit   {head}\n" in cite.citation("05_border")
    (checkout / "figures" / "05_border.csv").write_text("other numbers")
    assert f"commit   {head} (the figure's files differ from it)\n" in cite.citation("05_border")


def test_without_a_history_there_is_no_commit(checkout, monkeypatch):
    assert "commit   none\n" in cite.citation("05_border")
    committed(checkout)
    monkeypatch.setenv("PATH", "")
    assert "commit   none\n" in cite.citation("05_border")


def test_an_unknown_figure_is_one_line_with_the_nearest_ids(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["cite", "05_phase"])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(
        "python -m mfkit cite: FIGURE must be an id in figures/, got '05_phase'; near it: 05_phase_diagram, "
    )
    assert said.err.count("\n") == 1


def test_the_entry_escapes_what_latex_would_obey_and_takes_what_publication_gives(about):
    more = {
        "authors": [{"family-names": "Hu", "given-names": "A & B"}, {"name": "The authors"}],
        "doi": "10.5281/zenodo.1_2",
        "url": "https://example.org/a_b",
    }
    entry = cite.bibtex(about | more, "key_1", "100 % of #1")
    assert entry.startswith("@misc{key_1,\n")
    assert "  author = {Hu, A \\& B and {The authors}},\n" in entry
    assert "  note = {100 \\% of \\#1},\n" in entry
    assert "  doi = {10.5281/zenodo.1_2},\n" in entry
    assert "  url = {https://example.org/a_b},\n" in entry
