"""A Sphinx extension: our docstrings, which are plain text, as the book's API reference shows them.

an indented block, or a row with wide gaps    as it stands, in a fixed font
name: what it is                              a list entry, with the lines indented below it
anything else                                 a paragraph
"""

import inspect
import re
from typing import Any

NAME = r"\w+(?:=[^\s,:]+)?"
ENTRY = re.compile(rf"(?P<names>{NAME}(?:, {NAME})*): (?P<text>.*)")
WIDE_GAP = re.compile(r"\S {3,}\S")
FULL = 95  # characters: the line after one so long goes on with it


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls: every docstring goes through `restructured`."""
    app.connect("autodoc-process-docstring", rewrite)
    return {"parallel_read_safe": True}


def rewrite(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Autodoc's hook: the lines of a docstring, changed in place."""
    text = "\n".join(lines)
    if isinstance(obj, type):
        text += "\n\n" + commented_fields(inspect.getsource(obj))
    lines[:] = restructured(text).splitlines()


def commented_fields(source: str) -> str:
    """`name: comment` for each field of a class with a comment beside it, one a line."""
    lines = re.split(r"^    (?:def|@)", source, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    found = (re.match(r" {4}(\w+): .*  # (.+)", line) for line in lines)
    return "\n".join(f"{field[1]}: {field[2]}" for field in found if field)


def restructured(docstring: str) -> str:
    """reStructuredText that shows a docstring of ours as it was meant."""
    blocks = []
    for paragraph in re.split(r"\n\s*\n", docstring.strip("\n")):
        lines = paragraph.splitlines()
        if not lines or paragraph.startswith("Alias for field number"):  # what Python says of a named tuple's fields
            continue
        if all(line.startswith("    ") for line in lines) or any(map(WIDE_GAP.search, lines)):
            blocks.append(".. code-block:: text\n\n" + "\n".join(f"    {line}" for line in lines))
        else:
            blocks += entries(lines)
    return "\n\n".join(blocks) + "\n"


def entries(lines: list[str]) -> list[str]:
    """The paragraphs and list entries of a run of lines."""
    blocks: list[str] = []
    listed = False  # whether the block that grows is a list entry
    before = ""
    for line in lines:
        entry = ENTRY.fullmatch(line)
        if entry:
            blocks.append(f"* **{escaped(entry['names'])}**: {escaped(entry['text'])}")
            listed = True
        elif listed and (line.startswith(" ") or len(before) > FULL):
            blocks[-1] += f"\n  {escaped(line.strip())}"
        elif listed or not blocks:
            blocks.append(escaped(line.strip()))
            listed = False
        else:
            blocks[-1] += f"\n{escaped(line.strip())}"
        before = line
    return blocks


def escaped(text: str) -> str:
    """Text in which only `code` is markup."""
    parts = re.split(r"`([^`]+)`", text)
    plain, code = parts[::2], parts[1::2]
    plain = [re.sub(r"([\\*_|`])", r"\\\1", part) for part in plain]
    return plain[0] + "".join(f"``{word}``\\ {after}" for word, after in zip(code, plain[1:], strict=True))
