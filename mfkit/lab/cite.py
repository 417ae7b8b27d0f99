"""What to write in a paper about one figure: its id, the commit it comes from, its files' hashes, a BibTeX entry."""

import hashlib
import re
import subprocess
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

import mfkit
from mfkit import repository
from mfkit.lab import records

SUFFIXES = ("svg", "png", "csv", "json")


def citation(id: str) -> str:
    """A text of a few lines on the committed figure with this id; ValueError, with the nearest ids, for another."""
    root = repository.root()
    known = records.load(root / "figures")
    if id not in known:
        near = get_close_matches(id, known, n=3, cutoff=0.0)
        raise ValueError(f"FIGURE must be an id in figures/, got {id!r}; near it: {', '.join(near)}")
    paths = [root / "figures" / f"{id}.{suffix}" for suffix in SUFFIXES]
    from_commit = commit(root, paths)
    lines = [
        f"figure   {id}: {first_sentence(known[id]['caption'])}",
        f"version  mfkit {mfkit.__version__}",
        f"commit   {from_commit}",
    ]
    lines += [f"sha256   {hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in paths]
    about = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    return "\n".join([*lines, "", bibtex(about, f"mfkit-{id}", f"Figure {id}, commit {from_commit}")])


def first_sentence(text: str) -> str:
    """Up to the first full stop, question or exclamation mark that white space follows."""
    return re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]


def commit(root: Path, paths: list[Path]) -> str:
    """The checkout's commit, with a word where these files differ from it; "none" without git or its history."""
    if not (root / ".git").exists():  # else git might find a repository that this folder lies in
        return "none"
    try:
        head = git(root, "rev-parse", "HEAD")
        changed = git(root, "status", "--porcelain", "--", *map(str, paths))
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return f"{head} (the figure's files differ from it)" if changed else head


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def bibtex(about: dict[str, Any], key: str, note: str) -> str:
    """A CITATION.cff as an entry with this key and note; doi and url where publication has given them."""
    fields = {
        "title": f"{{{latex(about['title'])}}}",  # inner braces keep capitals, and a group's name in one piece
        "author": " and ".join(author_name(author) for author in about["authors"]),
        "year": str(about["date-released"])[:4],
        "version": str(about["version"]),
        "note": latex(note),
    }
    for name in ("doi", "url"):
        if name in about:
            fields[name] = about[name]
    body = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{key},", *body, "}"])


def author_name(author: dict[str, str]) -> str:
    """As BibTeX reads it: a group in braces, a person as "family, given"."""
    if "name" in author:
        return f"{{{latex(author['name'])}}}"
    return latex(f"{author['family-names']}, {author['given-names']}")


def latex(text: str) -> str:
    """With what LaTeX would read as a command escaped."""
    return re.sub(r"[&%$#_{}]", r"\\\g<0>", text)
