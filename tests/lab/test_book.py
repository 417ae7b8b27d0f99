"""The book: every link and image of every page leads somewhere, nothing is asked of other hosts, and all is in it."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

import mfkit
from mfkit import repository
from mfkit.lab import book as book_module
from mfkit.lab import docstrings, records
from mfkit.lab.book import build

ROOT = repository.root()
RECORDS = records.load(ROOT / "figures")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
ADDRESS = "https://github.com/somebody/mfkit"
SIDES = ("left-prev", "right-next")
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Page(HTMLParser):
    """The links, images and anchors of a page, and what a browser loads for it unasked."""

    def __init__(self, text):
        super().__init__()
        self.text, self.links, self.ids, self.images, self.loaded = text, [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("href", "src") if attrs.get(name)]
        self.ids |= {attrs.get("id"), attrs.get("name")}
        self.images += [attrs] if tag == "img" else []
        self.loaded += [attrs[LOADING[tag]]] if attrs.get(LOADING.get(tag)) else []


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """Folder, and the pages in it by path."""
    out = tmp_path_factory.mktemp("book") / "book"
    build(out, ADDRESS)
    paths = [path for path in sorted(out.rglob("*.html")) if "_static" not in path.parts]
    return out, {path: Page(path.read_text(encoding="utf-8")) for path in paths}


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


OUTSIDE = re.compile(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^)'"]+)""")


def foreign(page):
    """What a page loads from another host."""
    return [link for link in page.loaded + OUTSIDE.findall(page.text) if urlsplit(link).netloc]


def test_every_relative_link_and_image_resolves(book):
    _, pages = book
    assert broken(pages) == []


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


def test_nothing_is_loaded_from_another_host(book):
    out, pages = book
    assert {str(path): foreign(page) for path, page in pages.items() if foreign(page)} == {}
    for path in out.rglob("*.css"):
        assert not OUTSIDE.search(path.read_text(encoding="utf-8")), path
    bad = '<script src="https://cdn.net/x.js"></script>'
    bad += '<style>@import "//a.net/b.css"; x { src: url(http://c.net/d) }</style>'
    assert foreign(Page(bad)) == ["https://cdn.net/x.js", "//a.net/b.css", "http://c.net/d"]


def test_formulas_are_set_by_a_script_and_fonts_of_the_book(book):
    out, pages = book
    page = pages[out / "notebooks" / "00_three_examples.html"]
    assert any(re.match(r"\.\./_static/mathjax/tex-chtml-full\.js", link) for link in page.loaded)
    assert "math notranslate" in page.text
    assert len(list((out / "_static" / "mathjax").rglob("*.woff"))) > 20


def test_every_page_stands_in_the_book_and_can_be_found(book):
    out, pages = book
    expected = {f"{name[:-3]}.html" for name in book_module.PAGES} | {"index.html", "search.html", "book/glossary.html"}
    expected |= {f"notebooks/{path.stem}.html" for path in NOTEBOOKS}
    expected |= {"book/api.html"} | {f"api/{name}.html" for name in book_module.MODULES}
    assert expected <= {path.relative_to(out).as_posix() for path in pages}
    assert all('name="viewport"' in page.text for page in pages.values())
    index = (out / "searchindex.js").read_text(encoding="utf-8")
    assert all(word in index for word in ("padding_idx", "notebooks/05_explosion_and_clipping", "api/trainer"))


def test_notebooks_follow_each_other(book):
    out, pages = book
    for i, path in enumerate(NOTEBOOKS):
        text = pages[out / "notebooks" / f"{path.stem}.html"].text
        before, after = (
            re.search(rf'class="{side}"\s+href="([^"]+)"', text)[1] for side in ("left-prev", "right-next")
        )
        assert before == (f"{NOTEBOOKS[i - 1].stem}.html" if i else "../README.html")
        assert after == (f"{NOTEBOOKS[i + 1].stem}.html" if path != NOTEBOOKS[-1] else "../CLAIMS.html")
        assert re.search(rf"<title>\s*{path.name[:2]} · ", text)


def test_pictures_say_what_they_show(book):
    out, pages = book
    for path, page in pages.items():
        assert all(image.get("alt") for image in page.images), path
    count = 0
    for path in NOTEBOOKS:
        alts = [image["alt"] for image in pages[out / "notebooks" / f"{path.stem}.html"].images]
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    assert output.metadata["image/png"]["alt"] in alts
                    count += 1
    assert count >= len(RECORDS) - 5  # of the committed figures all but a few are shown by their notebook


def test_solutions_are_folded(book):
    out, pages = book
    path = next(path for path in NOTEBOOKS if path.name.startswith("05"))
    cells = nbformat.read(path, as_version=4).cells
    folded = [cell for cell in cells if {"solution", "hide-input"} & set(cell.metadata.get("tags", []))]
    text = pages[out / "notebooks" / f"{path.stem}.html"].text
    assert 0 < len(folded) == len(re.findall(r"<details class=\"[^\"]*hide[^\"]*above-input", text))


def test_the_first_page_is_the_one_sheet_of_the_readme(book):
    out, pages = book
    sheet = re.search(r"^## One page to keep\n(.*?)^## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    rows = [line for line in sheet[1].splitlines() if line.startswith("| ")]
    assert pages[out / "index.html"].text.count("<tr") == len(rows) > 10
    assert "padding_idx" in pages[out / "index.html"].text and "padding_idx" not in pages[out / "README.html"].text


def test_claims_and_public_names_have_their_places(book):
    out, pages = book
    claims = {claim["id"] for record in RECORDS.values() for claim in record["claims"]}
    assert claims <= pages[out / "CLAIMS.html"].ids
    linked = {link for page in pages.values() for link in page.links if "CLAIMS.html#" in link}
    assert len(linked) > 5  # numbers in prose that name their claim
    assert "passes over the ratings" in pages[out / "api" / "config.html"].text  # a comment beside a field
    for name in mfkit.__all__:
        thing = getattr(mfkit, name)
        if name in book_module.MODULES:
            continue
        home, anchor = thing.__module__.removeprefix("mfkit."), f"{thing.__module__}.{thing.__qualname__}"
        assert anchor in pages[out / "api" / f"{home}.html"].ids
        assert f"../api/{home}.html#{anchor}" in pages[out / "book" / "api.html"].links


def test_links_to_binder_and_colab_come_from_one_address(book):
    out, pages = book
    for path in NOTEBOOKS:
        links = pages[out / "notebooks" / f"{path.stem}.html"].links
        assert f"https://mybinder.org/v2/gh/somebody/mfkit/main?urlpath=lab/tree/notebooks/{path.name}" in links
        colab = "https://colab.research.google.com/github/somebody/mfkit/blob/main"
        assert f"{colab}/notebooks/{path.name}" in links
    assert not any(book_module.configuration("")["launch_buttons"][f"{name}_url"] for name in ("binderhub", "colab"))
    with pytest.raises(ValueError, match=r"https://github\.com/NAME/REPOSITORY, got 'somebody/mfkit'"):
        book_module.configuration("somebody/mfkit")


def test_a_build_that_ends_early_leaves_the_book_that_was_there(tmp_path, monkeypatch):
    out = tmp_path / "_build"
    out.mkdir()
    (out / "index.html").write_text("the last one")
    with monkeypatch.context() as patch:
        patch.setattr(book_module, "run_builder", None)
        with pytest.raises(TypeError):
            build(out)
    assert [path.name for path in tmp_path.iterdir()] == ["_build"]
    assert [path.name for path in out.iterdir()] == ["index.html"]

    def made(source):
        pages = source.parent / "_build" / "html"
        (pages / "_static").mkdir(parents=True)
        (pages / "index.html").write_text("the new one")
        return pages

    monkeypatch.setattr(book_module, "run_builder", made)
    build(out)
    assert [path.name for path in tmp_path.iterdir()] == ["_build"]
    assert (out / "index.html").read_text() == "the new one"
    assert (out / "figures" / "00_ladder.svg").is_file()


def test_a_page_that_links_nowhere_ends_the_build(tmp_path):
    source = tmp_path / "source"
    book_module.write(source / "index.md", "# Here\n\n[there](no_such_page.md)\n")
    book_module.write(source / "_toc.yml", "format: jb-book\nroot: index\n")
    book_module.write(source / "_config.yml", "execute:\n  execute_notebooks: 'off'\n")
    with pytest.raises(RuntimeError, match="no_such_page"):
        book_module.run_builder(source)


def test_docstrings_keep_their_formulas_and_lists():
    given = """Std of u * v_, see `rmse`.

    sqrt(d)    sU

first: one
    and more
second, third=0: two
Raises ValueError."""
    assert docstrings.restructured(given) == (
        "Std of u \\* v\\_, see ``rmse``\\ .\n\n"
        ".. code-block:: text\n\n        sqrt(d)    sU\n\n"
        "* **first**: one\n  and more\n\n* **second, third=0**: two\n\nRaises ValueError.\n"
    )
    assert docstrings.restructured("") == "\n"
    assert docstrings.restructured("Alias for field number 0") == "\n"


def test_comments_beside_fields_are_told():
    source = """class Config:
    \"\"\"Doc.\"\"\"

    lr: float = number(5e-3, above=0)  # a step: one
    quiet: int = 0

    def run(self):
        inside: int = 3  # not a field
"""
    assert docstrings.commented_fields(source) == "lr: a step: one"


def test_a_number_that_names_its_claim_leads_to_it():
    claims = {"a-claim"}
    text = "It is 4.2<!--claim:a-claim--> and 3 %<!--claim:no-claim-->."
    linked = '<a href="../CLAIMS.html#a-claim">4.2</a>'
    assert book_module.with_links(text, "notebooks/00.ipynb", claims) == f"It is {linked} and 3 %<!--claim:no-claim-->."
