"""The book: every link and image of every page leads somewhere, and to the right thing."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from mfkit import repository
from mfkit.lab import book as book_module
from mfkit.lab import records
from mfkit.lab.book import build

RECORDS = records.load(repository.root() / "figures")


class Page(HTMLParser):
    """The links, images and anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("href", "src") if attrs.get(name)]
        self.ids.add(attrs.get("id"))


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """Folder, and the pages in it by path."""
    out = tmp_path_factory.mktemp("book") / "book"
    build(out)
    return out, {path: Page(path.read_text(encoding="utf-8")) for path in sorted(out.rglob("*.html"))}


def broken(pages):
    """(page, link) of every relative link whose file or anchor is not there."""
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].ids if target in pages else {""}
            if not target.is_file() or not {parts.fragment, unquote(parts.fragment)} & (anchors | {""}):
                found.append((path.name, link))
    return found


def test_every_relative_link_and_image_resolves(book):
    _, pages = book
    pages_beside = ("index", "README", "CONTRIBUTING", "CHANGELOG", "data/README")
    assert len(pages) == len(list((repository.root() / "notebooks").glob("*.ipynb"))) + len(pages_beside)
    assert broken(pages) == []


def test_a_build_that_ends_early_leaves_the_book_that_was_there(tmp_path, monkeypatch):
    out = tmp_path / "_build"
    out.mkdir()
    (out / "index.html").write_text("the last one")
    with monkeypatch.context() as patch:
        patch.setattr(book_module, "notebook_page", None)
        with pytest.raises(TypeError):
            build(out)
    assert [path.name for path in tmp_path.iterdir()] == ["_build"]
    assert [path.name for path in out.iterdir()] == ["index.html"]
    monkeypatch.setattr(book_module, "notebook_page", lambda name, notebooks, records: name)
    build(out)
    assert [path.name for path in tmp_path.iterdir()] == ["_build"]
    assert "All figures" in (out / "README.html").read_text()


def test_a_broken_link_is_seen(book):
    out, pages = book
    bad = Page(
        '<a href="notebooks/77.html">x</a><img src="figures/77.png"><a href="#no-such"></a><a href="index.html">'
    )
    assert [link for _, link in broken({**pages, out / "bad.html": bad})] == [
        "notebooks/77.html",
        "figures/77.png",
        "#no-such",
    ]


def test_the_index_leads_from_every_claim_to_notebook_figure_and_numbers(book):
    out, pages = book
    text = (out / "index.html").read_text(encoding="utf-8")
    for id, record in RECORDS.items():
        links = set(pages[out / "index.html"].links)
        assert {f"figures/{id}.{suffix}" for suffix in ("png", "svg", "csv", "json")} <= links
        assert any(link.startswith(f"notebooks/{record['notebook']}.html#cell-id=") for link in links), id
        for claim in record["claims"]:
            row = re.search(rf'<tr id="{claim["id"]}".*?</tr>', text, re.DOTALL)[0]
            assert all(
                part in row
                for part in (f"{record['notebook']}.html", f'"#{id}"', f"figures/{id}.csv", claim["verdict"])
            )


def test_pages_show_the_committed_outputs_and_need_no_script_of_others(book):
    out, _ = book
    for name, figure in {(record["notebook"], id) for id, record in RECORDS.items() if not record["timing"]}:
        text = (out / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        assert "data:image/png;base64" in text, figure
        assert not re.search(r'<script src="(?!https://\S*mathjax)', text, re.IGNORECASE)
