"""The book: every notebook from its committed outputs, the pages around them, and the API, by Jupyter Book. `make book`

Its source is laid out in a temporary folder as the repository is (notebooks/, figures/, README.md), so that relative
links stay as they are. Nothing is executed and nothing fetched, neither here nor by the reader's browser.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import yaml

import mfkit
from mfkit import repository
from mfkit.lab.records import load

PAGES = (
    "README.md",
    "CLAIMS.md",
    "LOG.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/README.md",
    "benchmarks/README.md",
)
MODULES = ("als", "clipping", "config", "data", "doctor", "evaluate", "gibbs", "initializers", "losses", "measure")
MODULES += ("model", "movielens", "optimizers", "predict", "synthetic", "trainer", "tuning")
SHEET = re.compile(r"^## One page to keep\n(?P<text>.*?)(?=^## )", re.MULTILINE | re.DOTALL)
PRINT_IT = "Print it from the [book](#read-it-as-a-book). "
ABOUT = "Why matrix factorization fails in PyTorch, and what mends it ([what this is](README.md)). "
MATHJAX = ("tex-chtml-full.js", "output/chtml/fonts/woff-v2")  # what its one script may ask for
STYLE = """html { --pst-header-height: 0rem }
.bd-header { display: none !important } /* a second search box, and nothing else */
.bd-main .bd-content .bd-article-container { max-width: 62rem }
.bd-article table { font-size: .85rem }
.bd-article table.dataframe tr[style*="left"] th { text-align: left }
.bd-article pre { font-size: .8rem } /* 120 characters, on a wide screen */
div.cell_output, .bd-article .pst-scrollable-table-container { overflow-x: auto }
div.highlight-text pre { white-space: pre-wrap }
"""
SHEET_STYLE = """<style>
.bd-main .bd-content .bd-article-container { max-width: 75rem }
.bd-article table { font-size: .8rem; line-height: 1.3 }
.bd-article td { padding: .25rem .5rem; vertical-align: top }
@media print {
  @page { size: A4 landscape; margin: 8mm }
  #jb-print-docs-body { margin: 0; padding: 0 }
  #jb-print-docs-body h1 { font-size: 13pt !important; margin: 0 !important; padding: 0 }
  .bd-container, .bd-container__inner, .bd-main { min-height: 0 !important }
  .bd-main .bd-content .bd-article-container { padding: 0; max-width: none }
  .bd-article p { font-size: 8pt; margin: 0 0 1mm }
  .bd-article table, .bd-article table code { font-size: 8pt; line-height: 1.2 }
  .bd-article td p, .bd-article th p { font-size: inherit; margin: 0 }
  .bd-article td, .bd-article th { padding: .7mm 1mm }
  .bd-article code { padding: 0; border: 0 }
  .prev-next-footer, .bd-footer-content, .bd-header-article, .bd-sidebar, .bd-footer { display: none !important }
}
</style>
"""


def build(out: Path, address: str | None = None) -> None:
    """Write the whole book into `out`, moved into place when it is whole; what was there before goes.

    address: the repository's public one, https://github.com/NAME/REPOSITORY, from which links to Binder and Colab are
    made. None is the one in book/_config.yml; "" makes no such links.
    Raises RuntimeError with what Jupyter Book said where it fails or warns, e.g. of a link that leads nowhere.
    """
    partial, before = (out.with_name(f".{out.name}.{os.getpid()}.{state}.partial") for state in ("new", "old"))
    try:
        with tempfile.TemporaryDirectory(prefix="mfkit-book-") as scratch:
            source = Path(scratch) / "source"
            lay_out(source, address)
            files = linked_files(source)
            copy_all(files, source)  # Jupyter Book wants to see what is linked
            shutil.move(run_builder(source), partial)
        copy_all(files, partial)  # and links in tables, which it leaves alone, want to find it
        copy_mathjax(partial / "_static" / "mathjax")
        if out.exists():
            out.replace(before)
        partial.replace(out)
    finally:
        for folder in (partial, before):
            shutil.rmtree(folder, ignore_errors=True)


def lay_out(source: Path, address: str | None) -> None:
    """The book's source in a folder that does not exist yet."""
    root = repository.root()
    shutil.copytree(root / "book", source / "book", ignore=shutil.ignore_patterns("_*"))
    claims = claim_ids()
    for name in PAGES:
        write(source / name, with_links((root / name).read_text(encoding="utf-8"), name, claims))
    sheet = SHEET.search((source / "README.md").read_text(encoding="utf-8"))
    if sheet is None or PRINT_IT not in sheet["text"]:
        raise RuntimeError(f"README.md must have a section 'One page to keep' with {PRINT_IT!r}: the book's first page")
    first = f"# One page to keep\n\n{SHEET_STYLE}\n{ABOUT}{sheet['text'].replace(PRINT_IT, '').lstrip()}"
    write(source / "index.md", first)
    readme = (source / "README.md").read_text(encoding="utf-8")
    moved = "## One page to keep\n\nIt is this book's [first page](index.md), made to be printed on one sheet.\n\n"
    write(source / "README.md", readme.replace(sheet[0], moved))
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        notebook = prepared(nbformat.read(path, as_version=4), f"notebooks/{path.name}", claims)
        write(source / "notebooks" / path.name, nbformat.writes(notebook))
    for name in MODULES:
        members = "TrainConfig" if name == "config" else ""  # the rest there makes its fields
        page = f"# mfkit.{name}\n\n```{{eval-rst}}\n.. automodule:: mfkit.{name}\n   :members: {members}\n"
        write(source / "api" / f"{name}.md", page + "   :inherited-members: Module\n" * (name == "model") + "```\n")
    write(source / "book" / "api.md", api_index())
    write(source / "_static" / "book.css", STYLE)
    shutil.copyfile(root / "book" / "_toc.yml", source / "_toc.yml")
    write(source / "_config.yml", yaml.safe_dump(configuration(address)))


def write(path: Path, text: str) -> None:
    """A text file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def configuration(address: str | None) -> dict:
    """Jupyter Book's settings: book/_config.yml, without links to Binder and Colab where there is no address."""
    settings = yaml.safe_load((repository.root() / "book" / "_config.yml").read_text(encoding="utf-8"))
    repository_settings = settings["repository"]
    repository_settings["url"] = repository_settings["url"] if address is None else address
    if repository_settings["url"]:
        parts = urlsplit(repository_settings["url"])
        if parts.scheme != "https" or len(parts.path.strip("/").split("/")) != 2:
            wanted = "https://github.com/NAME/REPOSITORY"
            raise ValueError(f"address must read {wanted}, got {repository_settings['url']!r}")
    else:
        services = [key for key in settings["launch_buttons"] if key.endswith("_url")]
        settings["launch_buttons"] |= dict.fromkeys(services, "")
    return settings


def claim_ids() -> set[str]:
    return {claim["id"] for record in load(repository.root() / "figures").values() for claim in record["claims"]}


def with_links(text: str, source: str, claims: set[str]) -> str:
    """Markdown in which a number that names its claim leads to it: `4.2<!--claim:id-->`."""
    up = os.path.relpath(".", Path(source).parent)

    def link(match: re.Match) -> str:
        known = match["claim"] in claims
        return f'<a href="{up}/CLAIMS.html#{match["claim"]}">{match["value"]}</a>' if known else match[0]

    named = r"(?P<value>[-−]?[\d.,]*\d(?:e-?\d+)?(?: ?%)?)<!--claim:(?P<claim>[a-z0-9-]+)(?::predicted)?-->"
    return re.sub(named, link, text)


def prepared(notebook: nbformat.NotebookNode, source: str, claims: set[str]) -> nbformat.NotebookNode:
    """A notebook as Jupyter Book wants it: solutions folded, and pictures with the alt text of their outputs."""
    number = Path(source).name[:2]
    notebook.cells[0].source = re.sub(r"^# (?!\d\d · )", f"# {number} · ", notebook.cells[0].source)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_links(cell.source, source, claims)
            continue
        tags = cell.metadata.get("tags", [])
        if "solution" in tags and "hide-input" not in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]
        alts = [output.metadata["image/png"]["alt"] for output in cell.outputs if "image/png" in output.get("data", {})]
        if alts:
            cell.metadata["mystnb"] = {"image": {"alt": " ".join(alts)}}
    return notebook


def api_index() -> str:
    """The page above the modules: every public name of mfkit, and where it stands."""
    lines = ["# API reference", "", "What `import mfkit` gives:", ""]
    for name in mfkit.__all__:
        thing = getattr(mfkit, name)
        if name not in MODULES:
            home = f"{thing.__module__}.{thing.__qualname__}"
            lines.append(f"- {{py:obj}}`mfkit.{name} <{home}>`: {first_line(thing)}")
    lines += [
        "",
        "## Modules",
        "",
        "`measure` and `predict` have functions of one name: what happens, and what a formula",
    ]
    lines += ["says. The others are read in the order that the [README](../README.md#the-module) gives.", ""]
    for name in MODULES:
        lines.append(f"- [mfkit.{name}](../api/{name}.md): {first_line(importlib.import_module(f'mfkit.{name}'))}")
    return "\n".join(lines) + "\n"


def first_line(thing: object) -> str:
    """The first line of its docstring, as Markdown."""
    return re.sub(r"([*_|<$\\])", r"\\\1", (thing.__doc__ or "").strip().splitlines()[0])


def linked_files(source: Path) -> set[str]:
    """Files of the repository, by their path there, that a page links and that are no pages themselves."""
    root, found = repository.root(), set()
    for page in [*source.rglob("*.md"), *source.rglob("*.ipynb")]:
        here = page.parent.relative_to(source)
        for link in re.findall(r"""\]\(([^)#\s]+)|(?:href|src)=\\?["']([^"'#\\]+)""", page.read_text(encoding="utf-8")):
            target = os.path.normpath(here / "".join(link))
            if not target.startswith("..") and (root / target).is_file() and not target.endswith((".md", ".ipynb")):
                found.add(target)
    return found


def run_builder(source: Path) -> Path:
    """Jupyter Book's pages, in a folder beside `source`. A warning ends it as an error does."""
    program = "from jupyter_book.cli.main import main; main()"  # `python -m jupyter_book` there is none
    command = [sys.executable, "-c", program, "build", str(source), "--path-output", str(source.parent)]
    paths = [str(repository.root()), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    options = ["--all", "--warningiserror", "--keep-going"]
    ended = subprocess.run([*command, *options], env=environment, cwd=source, capture_output=True, text=True)
    if ended.returncode:
        said = [line for line in ended.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
        raise RuntimeError("Jupyter Book:\n" + "\n".join(said or (ended.stdout + ended.stderr).splitlines()[-20:]))
    return source.parent / "_build" / "html"


def copy_all(files: set[str], target: Path) -> None:
    """Files of the repository to the same places below `target`."""
    for name in sorted(files):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository.root() / name, target / name)


def copy_mathjax(target: Path) -> None:
    """The script and the fonts that set formulas: 2 of the 24 MB that sphinx-mathjax-offline would copy."""
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise RuntimeError("the book's formulas need sphinx-mathjax-offline, which is not installed")
    given = Path(spec.origin).parent / "static" / "mathjax"
    target.mkdir()
    shutil.copyfile(given / MATHJAX[0], target / MATHJAX[0])
    shutil.copytree(given / MATHJAX[1], target / MATHJAX[1])
