import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from mfkit import TrainConfig, repository
from mfkit.lab import figures, runner


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A function that saves one small figure into a named folder, with changes to its claim or data."""

    def save(folder: str, data=(1.0, 2.0, math.nan), timing=False, numbers=None, **claim):
        monkeypatch.setenv("MFKIT_FIGURES", str(tmp_path / folder))
        fig, ax = plt.subplots()
        ax.plot([1, 2], label="a line")
        frame = pd.DataFrame({"x": list(data), "arm": ["a", "b", "c"]})
        given = {"predicted": 1.0, "measured": 1.001, "tolerance": 0.01} | claim
        one = figures.claim(given.pop("kind", "prediction"), "a-claim", "It is one.", **given)
        quoted = numbers or {"mean": 1.0}
        config = TrainConfig.textbook()
        figures.publish(
            fig, "00_test", frame, [one], "A line.", numbers=quoted, config=config, seeds=[0], timing=timing
        )
        return tmp_path / folder

    return save


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty checkout, which mfkit takes for the one that it runs from."""
    for folder in ("notebooks", "figures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mfkit"\n')
    monkeypatch.setattr(repository, "PLACE", tmp_path)
    monkeypatch.setattr(runner, "data_problem", lambda: None)
    return tmp_path
