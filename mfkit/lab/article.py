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
    columns = {"paraphrase": "the article says", "we find": "we find", "notebook": "notebook"}
    return found.rename(columns=columns).reindex(columns=list(columns.values()))


def markdown() -> str:
    """Sentence and verdict as a markdown table with links, for pages in the repository's root."""
    names = {path.stem[:2]: path.stem for path in (repository.root() / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    lines = ["| | the article says | we find | |", "|---|---|---|---|"]
    for row in rows().to_dict("records"):
        link = f"[{row['notebook']}](notebooks/{names[row['notebook']]}.ipynb)"
        lines.append(f"| {row['number']} | {row['paraphrase']} | {row['verdict']} | {link} |")
    return "\n".join(lines)
