"""All notebooks as web pages, from their committed outputs; and an index with every figure and claim. `make book`

The pages lie as the repository does (notebooks/, figures/, README.html), so relative links stay as they are but for
their endings. Nothing is executed and nothing fetched; only a reader's browser asks the network, to set formulas.
"""

import copy
import html
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from mfkit import repository
from mfkit.files import replacing
from mfkit.lab.records import COLUMNS, claims_table, load

EXPORTER = HTMLExporter(filters={"clean_html": lambda text: text})  # the notebooks are ours: half the time
EXPORTER.log.setLevel("ERROR")  # it warns of pictures without a description: that comes below
NO_ALT = "No description has been provided for this image"
FILES = ("svg", "csv", "json")
STYLE = """
body { margin: 0 auto; max-width: 66rem; padding: 0 1rem 4rem; font: 1rem/1.5 system-ui, sans-serif; color: #222 }
a { color: #0072B2 } img { max-width: 100% } pre { overflow-x: auto; background: #f6f6f6; padding: .6rem }
table { border-collapse: collapse; font-size: .9rem } td, th { padding: .25rem .6rem; text-align: left }
td, th { vertical-align: top; border-bottom: 1px solid #e5e5e5 } .FAILS { color: #D55E00 }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.2rem }
figure { margin: 0; font-size: .85rem } :target { background: #fff3d6 } summary { cursor: pointer; padding: .2rem 0 }"""
BAR = """<style>.bar { font: .9rem system-ui, sans-serif; padding: .6rem 1rem; background: #f6f6f6 }
.bar a, a code { color: #0072B2; text-decoration: underline }</style>"""
UNFOLD = """<script>
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1))), fold = target?.closest("details")
  if (fold) { fold.open = true; target.scrollIntoView() }
}
addEventListener("hashchange", unfold); unfold()
</script>"""


def build(out: Path) -> None:
    """Write the whole book into `out`, moved into place when it is whole; what was there before goes."""
    partial, before = (out.with_name(f".{out.name}.{os.getpid()}.{state}.partial") for state in ("new", "old"))
    try:
        _write_all(partial)
        if out.exists():
            out.replace(before)
        partial.replace(out)
    finally:
        for folder in (partial, before):
            shutil.rmtree(folder, ignore_errors=True)


def _write_all(out: Path) -> None:
    """The book in a folder that does not exist yet."""
    root = repository.root()
    shutil.copytree(root / "figures", out / "figures", ignore=shutil.ignore_patterns(".*"))
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    records = load(root / "figures")
    (out / "notebooks").mkdir()
    for name in notebooks:
        write(out, f"notebooks/{name}.ipynb", notebook_page(name, notebooks, records))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"):
        text = (root / name).read_text(encoding="utf-8")
        write(out, name, page(name, bar(name), markdown(text, name, notebooks, records)))
    with replacing(out / "index.html") as partial:
        partial.write_text(index(notebooks, records), encoding="utf-8")


def write(out: Path, source: str, text: str) -> None:
    """A page in the place of `source`, links to sources pointing to their pages, and other files that it links."""
    here = Path(source).parent
    for link in re.findall(r'(?:href|src)="(?!#|[a-z]+:)([^"#]+)', text):
        given, target = repository.root() / here / link, out / here / link
        if given.is_file() and given.suffix not in (".ipynb", ".md") and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(given, target)
    text = re.sub(r'(href="(?!#|[a-z]+:)[^"#]+\.)(?:ipynb|md)(?=["#])', r"\1html", text)
    target = (out / source).with_suffix(".html")
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        partial.write_text(text, encoding="utf-8")


def notebook_page(name: str, notebooks: dict, records: dict) -> str:
    notebook = copy.deepcopy(notebooks[name])
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source, f"notebooks/{name}.ipynb", notebooks, records)
    text, _ = EXPORTER.from_notebook_node(notebook, resources={"metadata": {"name": name}})
    alts = iter([html.escape(alt) for cell in notebook.cells for alt in captions(cell, records)])
    text = re.sub(f'(?<=alt="){NO_ALT}', lambda _: next(alts, "A picture without a caption"), text)
    text = re.sub(r"<script src=[^>]*require[^>]*></script>", "", text)  # for widgets, of which there are none
    names = list(notebooks)
    around = [names[k] for k in (names.index(name) - 1, names.index(name) + 1) if 0 <= k < len(names)]
    top = bar(f"notebooks/{name}.ipynb", *(f'<a href="{other}.ipynb">{other}</a>' for other in around))
    own = [f'<a href="../index.html#{id}">{id}</a>' for id, record in records.items() if record["notebook"] == name]
    text = re.sub(r"<body[^>]*>", lambda body: body[0] + top, text, count=1)
    return text.replace("</body>", f'<div class="bar">Figures, their data and claims: {", ".join(own)}</div></body>')


def captions(cell: nbformat.NotebookNode, records: dict) -> list[str]:
    """For each picture that a cell shows, the caption of the figure that it saves, if one."""
    saved = [records[id]["caption"] for id in re.findall(r"[\"'](\d\d_[a-z0-9_]+)[\"']", cell.source) if id in records]
    shown = sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    return (saved + ["A picture without a caption"] * shown)[:shown]


def linked(text: str, source: str, notebooks: dict, records: dict) -> str:
    """Markdown in which "notebook 04", the id of a figure and a number that names its claim are links."""
    up = os.path.relpath(".", Path(source).parent)
    path = {name[:2]: f"{up}/notebooks/{name}.ipynb" for name in notebooks}
    claims = {claim["id"] for record in records.values() for claim in record["claims"]}

    def link(match: re.Match) -> str:
        number, figure, value, claim = match["number"], match["figure"], match["value"], match["claim"]
        if number in path:
            return f"[{match[0]}]({path[number]})"
        if figure in records:
            return f"[{match[0]}]({up}/index.html#{figure})"
        return f"[{value}]({up}/index.html#{claim})" if claim in claims else match[0]

    number, figure = r"\b[Nn]otebook (?P<number>\d\d)\b", r"`(?P<figure>\d\d_[a-z0-9_]+)`"
    claim = r"(?P<value>[-−]?[\d.,]*\d(?:e-?\d+)?(?: ?%)?)<!--claim:(?P<claim>[a-z0-9-]+)(?::predicted)?-->"
    return re.sub(rf"\[[^\]]*\]\([^)]*\)|```.*?```|{figure}|`[^`\n]*`|{number}|{claim}", link, text, flags=re.S)


def markdown(text: str, source: str, notebooks: dict, records: dict) -> str:
    """HTML of a markdown file, its headings' anchors as GitHub spells them."""
    text = re.sub(r'<a class="anchor-link".*?</a>', "", markdown2html(linked(text, source, notebooks, records)))
    return re.sub(r'(<h\d id=")([^"]*)', lambda m: m[1] + re.sub(r"[^\w-]", "", m[2].lower()), text)


def bar(source: str, *more: str) -> str:
    first = f'<a href="{os.path.relpath(".", Path(source).parent)}/index.html">All figures and claims</a>'
    return f'{BAR}<div class="bar">{" · ".join([first, *more])}</div>'


def page(title: str, *parts: str) -> str:
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def index(notebooks: dict, records: dict) -> str:
    """Each notebook's question and answer, its figures with captions and files, and its claims."""
    table = claims_table(records)
    parts = ["<h1>mfkit</h1>", '<p><a href="README.html">What this is, how to run, extend and cite it</a></p>']
    for name, notebook in notebooks.items():
        question, answer = [*notebook.cells[0].source.split("\n\n"), ""][:2]
        question = html.escape(re.sub(r"^# (\d\d · )?", "", question))
        number = f'<a href="notebooks/{name}.html">{name[:2]}</a>'
        own = sorted(id for id, record in records.items() if record["notebook"] == name)
        cards = "\n".join(card(id, records[id]["caption"], place(id, name, notebook)) for id in own)
        claims = [claim for claim in table.to_dict("records") if claim["notebook"] == name]
        counts = Counter(claim["verdict"] for claim in claims)
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
        heads = "<th>".join(["<tr>", *COLUMNS, "figure", "data</tr>"])
        rows = "\n".join(map(row, claims))
        parts += [
            f'<h2 id="{name}">{number} {question}</h2>',
            markdown2html(answer),
            f'<div class="gallery">{cards}</div>',
        ]
        parts += [f"<details><summary>Claims: {summary}</summary><table>{heads}{rows}</table></details>"]
    return page("mfkit: all figures and claims", *parts, UNFOLD)


def place(id: str, name: str, notebook: nbformat.NotebookNode) -> str:
    """The page, and there the cell, that saves a figure."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    saving = [cell.id for cell in code if re.search(rf"[\"']{id}[\"']", cell.source)]
    return f"notebooks/{name}.html" + (f"#cell-id={saving[-1]}" if saving else "")


def card(id: str, caption: str, place: str) -> str:
    files = " · ".join(f'<a href="figures/{id}.{suffix}">{suffix}</a>' for suffix in FILES)
    image = f'<a href="{place}"><img src="figures/{id}.png" alt="{html.escape(caption)}"></a>'
    return f'<figure id="{id}">{image}<figcaption><b>{id}</b> {files}<br>{html.escape(caption)}</figcaption></figure>'


def row(claim: dict) -> str:
    cells = [html.escape(str(claim[key])) for key in COLUMNS]
    cells[2] = f'<a href="notebooks/{claim["notebook"]}.html">{claim["notebook"][:2]}</a> {cells[2]}'
    cells += [f'<a href="#{claim["figure"]}">{claim["figure"]}</a>', f'<a href="figures/{claim["figure"]}.csv">csv</a>']
    return f'<tr id="{claim["id"]}" class="{claim["verdict"]}"><td>' + "<td>".join(cells) + "</tr>"
