"""The doctor's answer: findings, the worst first, in the words of findings.toml."""

import tomllib
from pathlib import Path
from typing import NamedTuple

import pandas as pd

WORDS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SEVERITIES = ("high", "medium", "note")  # it cannot work; it costs accuracy, time or memory; to know
Amount = float | str  # a number, or words where there is none


class Finding(NamedTuple):
    severity: str
    name: str
    measured: Amount
    threshold: Amount
    meaning: str  # of the measured number
    remedy: str  # one line of code
    notebook: str  # that proves it


def found(severity: str, name: str, measured: Amount, threshold: Amount, **facts: object) -> Finding:
    """The finding of that name, in its words; facts: what stands there in braces. KeyError for one that is missing."""
    words = WORDS[name]
    meaning, remedy = words["meaning"].format_map(facts), words["remedy"].format_map(facts)
    return Finding(severity, name, measured, threshold, meaning, remedy, words["notebook"])


class Diagnosis(NamedTuple):
    """findings: the worst first. examined: what was recognised. It prints, renders in a notebook, and is a `.frame`."""

    findings: list[Finding]
    examined: str

    @property
    def frame(self) -> pd.DataFrame:
        """One row a finding; `meaning` says what is measured."""
        return pd.DataFrame(self.findings, columns=list(Finding._fields))

    def names(self, severity: str | None = None) -> list[str]:
        """Names of the findings, of one severity ("high", "medium" or "note") or of all (None)."""
        return [finding.name for finding in self.findings if severity in (None, finding.severity)]

    def __str__(self) -> str:
        if not self.findings:
            return f"{self.examined}\nnothing found"
        text = f"{self.examined}\n" + _line("severity", "name", "measured", "threshold", "notebook")
        for f in self.findings:
            text += _line(f.severity, f.name, _short(f.measured), _short(f.threshold), f.notebook)
            text += f"{'':9}{f.meaning}\n{'':9}> {f.remedy}\n"
        return text

    def _repr_html_(self) -> str:
        return f"<p>{self.examined}</p>{self.frame.map(_short).to_html(index=False)}"


def _line(severity: str, name: str, measured: str, threshold: str, notebook: str) -> str:
    return f"{severity:<9}{name:<23}{measured:>12}{threshold:>12}  {notebook}\n"


def _short(amount: Amount) -> str:
    return f"{amount:.3g}" if isinstance(amount, float) else str(amount)
