"""The article that is tested, sentence by sentence: data/article.csv, as a table for notebook 00, README and book.

One row a checkable sentence, in our words: number, part, paraphrase, verdict, condition, notebook, and the claims that
bear the verdict: `id` for one that HOLDS, `!id` for one that FAILS. tests/test_article.py holds verdict and claims
together.
"""

import pandas as pd

from mfkit import repository


def rows() -> pd.DataFrame:
    """data/article.csv, all columns as text, an empty field as an empty string."""
    return pd.read_csv(repository.root() / "data" / "article.csv", dtype=str, keep_default_na=False)


def table() -> pd.DataFrame:
    """What a reader wants of it: the sentence, the verdict with its condition, the notebook; indexed by number."""
    found = rows().set_index("number")
    found["we find"] = found["verdict"] + ": " + found["condition"]
    return found.rename(columns={"paraphrase": "the article says"})[["the article says", "we find", "notebook"]]


def markdown() -> str:
    """The same as a markdown table with links, for pages in the repository's root."""
    names = {path.stem[:2]: path.stem for path in (repository.root() / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    lines = ["| | The article says | We find | |", "|---|---|---|---|"]
    for row in rows().to_dict("records"):
        link = f"[{row['notebook']}](notebooks/{names[row['notebook']]}.ipynb)"
        found = f"**{row['verdict']}**: {row['condition']}"
        lines.append(f"| {row['number']} | {row['paraphrase']} | {found} | {link} |")
    return "\n".join(lines)
