"""Saving a figure: four files, whole or not at all, the same bytes each time."""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import mfkit
from mfkit import repository
from mfkit.lab import figures, records


def test_two_saves_give_the_same_bytes(saved):
    a, b = saved("a"), saved("b")
    names = sorted(path.name for path in a.iterdir())
    assert names == ["00_test.csv", "00_test.json", "00_test.png", "00_test.svg"]
    assert all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def test_provenance(saved):
    record = records.load(saved("a"))["00_test"]
    assert record["notebook"] == "00_three_examples"
    assert record["config"]["lr"] == 0.01
    assert record["seeds"] == [0]
    assert record["claims"][0]["verdict"] == "HOLDS"
    assert record["versions"]["mfkit"] == mfkit.__version__
    assert {"torch", "python"} <= record["versions"].keys()


def test_save_refuses_bad_ids(saved):
    fig, _ = plt.subplots()
    one = figures.claim("prediction", "a-claim", "Something.", 1, 1)
    with pytest.raises(ValueError, match="got 'phase_diagram'"):
        figures.publish(fig, "phase_diagram", pd.DataFrame(), [one], "")
    with pytest.raises(ValueError, match="ids of their own"):
        figures.publish(fig, "00_test", pd.DataFrame(), [one, replace(one, statement="Else.")], "")
    plt.close(fig)


def test_a_save_that_fails_half_way_leaves_the_old_files_as_they_are(saved, monkeypatch):
    folder = saved("a")
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def full(*_args, **_options):
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)  # after both pictures have been written
    with pytest.raises(OSError, match="no space left"):
        saved("a", measured=1.009)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_record_is_moved_into_place_last(saved, monkeypatch):
    moved, replace_file = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: moved.append(target.suffix) or replace_file(self, target))
    saved("a")
    assert moved == [".svg", ".png", ".csv", ".json"]


def test_without_a_checkout_figures_go_to_the_current_folder(tmp_path, monkeypatch):
    """Never to where the package is installed."""
    installed, here = tmp_path / "site-packages", tmp_path / "here"
    installed.mkdir()
    here.mkdir()
    monkeypatch.delenv("MFKIT_FIGURES")
    assert figures.directory() == repository.root() / "figures"
    monkeypatch.setattr(repository, "PLACE", installed)
    monkeypatch.chdir(here)
    fig, _ = plt.subplots()
    figures.publish(fig, "00_test", pd.DataFrame({"x": [1]}), [], "Nothing.")
    plt.close(fig)
    assert list(installed.iterdir()) == []
    assert records.load(here / "figures")["00_test"]["notebook"] is None
