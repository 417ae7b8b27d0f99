"""Which numbers in prose are backed by a record, and which are not.

A measured number names its claim in a hidden comment right after it, `3.66<!--claim:ex3-rmse-->` (or
`<!--claim:ex3-rmse:predicted-->`), or its name in a figure's record, `1.14<!--number:00_ladder:mean-->`; a cited one
its row of data/published.csv, `0.934<!--published:surprise-svd-->`.
Any other decimal is reported. Code spans and blocks, LaTeX, links, versions and generated tables are exempt.
"""

import re
from decimal import Decimal

NUMBER = r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e-?\d+)?"
TIED = re.compile(
    rf"({NUMBER})( ?%)?<!--(claim|number|published):((?:\d\d_[a-z0-9_]+:)?[a-z0-9-]+)(?::(predicted))?-->"
)
EXEMPT = [
    r"<!-- (article|counts|peers): generated.*?<!-- \1: end -->",
    r"```.*?```",
    r"`[^`\n]*`",
    r"\$\$.*?\$\$",
    r"\$[^$\n]+\$",
    r"\]\([^)]*\)",
    r"https?://\S+",
    r"(?:[Pp]ython|torch|PyTorch|version|CC BY(?:-\w+)*) v?\d+(?:\.\d+)+",
]


def problems(text: str, claims: dict[str, dict], numbers: dict[str, float], published: dict[str, str]) -> list[str]:
    """What is wrong with the numbers of a markdown text; an empty list when nothing is."""
    for pattern in EXEMPT:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    found = []
    for number, percent, kind, name, predicted in TIED.findall(text):
        backed = {"claim": claims, "number": numbers, "published": published}[kind]
        if name not in backed:
            found.append(f"{number}: there is no {kind} {name!r}")
            continue
        known = claims[name]["predicted" if predicted else "measured"] if kind == "claim" else backed[name]
        known = known[1] if isinstance(known, list) else known
        if not matches(number, float(known) * (100 if percent else 1)):
            found.append(f"{number}{percent}: the record of {kind} {name!r} says {known}")
    rest = TIED.sub(" ", text)
    for untied in re.findall(r"(?<![\w.])\d*\.\d+(?![\w.]*\w)", rest):
        found.append(f"{untied}: names no claim, no recorded number and no published value")
    return found


def matches(written: str, value: float) -> bool:
    """Whether a number as written is `value`, rounded to the digits written."""
    number = Decimal(written.replace(",", "").replace("−", "-"))
    unit = Decimal(1).scaleb(number.as_tuple().exponent)
    return abs(Decimal(repr(value)) - number) <= unit / 2
