"""The benchmarks' arithmetic, their guard against a program that fails, and the committed results."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mfkit import repository

FOLDER = repository.root() / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import peers

    yield peers
    for name in ("peers", "programs"):
        sys.modules.pop(name, None)


def committed(name: str) -> dict:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture
def parts(tmp_path):
    """Two users, two items: a training part and a test part of one rating."""
    np.savez(tmp_path / "train.npz", users=np.array([0, 0]), items=np.array([0, 1]), values=np.array([4.0, 2.0], "f4"))
    np.savez(tmp_path / "test.npz", users=np.array([1]), items=np.array([1]), values=np.array([5.0], "f4"))
    (tmp_path / "sizes.json").write_text(json.dumps({"n_users": 2, "n_items": 2}))
    return tmp_path


def test_a_program_is_fitted_and_scored_in_a_process_of_its_own(peers, parts):
    record = peers.run("mean", {"iterations": 1, "seed": 0}, parts, "test")
    assert [p["rmse"] for p in record["points"]] == [2.0]  # the mean, 3, beside 5
    assert 0 <= record["layout_seconds"] <= record["seconds"] < 1


def test_a_program_that_fails_is_a_row_that_says_why(peers, parts):
    settings = {"iterations": 1, "damping": "wrong", "seed": 0}
    why = peers.run("biases", settings, parts, "test")["failed"]
    row = peers.row("biases", settings, {}, why)
    assert "Error" in row["failed"] and row["label"] and "rmse" not in row
    assert peers.ratios([row], {}) == {"best_rmse": {}}


def test_a_program_that_fails_stops_nothing(peers, parts, monkeypatch):
    monkeypatch.setattr(peers, "run", lambda name, *_: {"failed": "KilledError"} if name == "biases" else one)
    one = {"points": [{"iterations": 1, "seconds": 0.1, "rmse": 1.0}], "seconds": 0.1, "layout_seconds": 0.0}
    one |= {"import_seconds": 0.0, "predict_seconds": 0.0, "peak_mb": None}
    settings = {"iterations": 1}
    rows, trajectories = peers.measure(["biases", "mean"], {"biases": settings, "mean": settings}, parts, rounds=2)
    assert [row["failed"] for row in rows] == ["KilledError", None]
    assert rows[1]["rounds"] == 2 and list(trajectories) == ["mean"]


def test_predictions_are_clipped_and_the_clock_stands_still_while_scoring(peers):
    clock = peers.Clock(np.array([0, 0]), np.array([0, 1]), np.array([5.0, 1.0], np.float32))
    clock.imported()
    clock.built()
    peers.time.sleep(0.02)

    def slow(users, items):
        peers.time.sleep(0.2)
        return np.array([9.0, -9.0])

    clock.score(1, slow)
    (point,) = clock.record()["points"]
    assert point["rmse"] == 0 and 0.02 <= point["seconds"] < 0.15


def test_ratios_by_hand(peers):
    rows = [{"program": name, "rmse": x, "seconds": s, "failed": None} for name, x, s in (("surprise", 0.9, 20.0),)]
    rows += [{"program": "fastai", "failed": "ImportError"}]
    way = {"mfkit_als": [(0.5, 0.95), (0.7, 0.9), (0.9, 0.91)], "surprise": [(20.0, 0.9)], "mean": [(0.1, 1.1)]}
    way = {name: [{"seconds": s, "rmse": x} for s, x in points] for name, points in way.items()}
    found = peers.ratios(rows, way)
    assert found["seconds_to_target"] == {"mfkit_als": 0.7, "surprise": 20.0, "mean": None}
    assert found["times_sooner_than"] == {"mfkit_als": 1.0, "surprise": 28.571, "mean": None}


def test_a_dot_product_over_tables_that_number_rows_in_their_own_way(peers):
    programs = sys.modules["programs"]
    P, Q = programs.spread([2, 0], 3, np.array([[1.0, 2.0], [3.0, 4.0]])), np.array([[5.0, 6.0]])
    predict = programs.dot(0.5, np.array([0.0, 0.0, 1.0]), np.array([0.25]), P, Q)
    assert predict(np.array([2, 1, 0]), np.array([0, 0, 0])).tolist() == [0.5 + 1 + 0.25 + 17, 0.75, 0.75 + 39]


def test_the_committed_ratios_follow_from_the_committed_rows(peers):
    result = committed("peers.json")
    assert peers.ratios(result["rows"], result["trajectories"]) == result["ratios"]
    assert [row["program"] for row in result["rows"]] == list(sys.modules["programs"].PROGRAMS)
    for row in result["rows"]:
        if not row["failed"]:
            assert result["trajectories"][row["program"]][-1]["iterations"] == row["settings"]["iterations"]
            best = min((g for g in result["grid"][row["program"]] if g["rmse"]), key=lambda g: g["rmse"])
            assert best["settings"] == row["settings"]


def test_the_readme_table_is_made_from_the_committed_rows(peers):
    readme = (repository.root() / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert peers.with_table(readme, committed("peers.json")) == readme


def test_the_committed_parity_follows_from_its_rows(monkeypatch):
    result = committed("parity.json")
    monkeypatch.setitem(sys.modules, "surprise", SimpleNamespace(SVD=None, Dataset=None, Reader=None))
    monkeypatch.syspath_prepend(str(FOLDER))
    import parity

    assert parity.summary(result["rows"]) == result["summary"]
    assert len(result["rows"]) == 10


def test_the_committed_scaling_follows_from_its_rows(monkeypatch):
    result = committed("scaling.json")
    monkeypatch.syspath_prepend(str(FOLDER))
    import scaling

    assert scaling.summary(result["rows"], result["loader"]) == result["summary"]


def test_the_defaults_have_no_unit_and_lose_little():
    """The committed table: one number on every scale, and at most 1.5 % above what a search over l2 reaches."""
    rows = committed("defaults.json")["rows"]
    sets = {row["set"] for row in rows}
    assert len(sets) >= 5
    for name in sets:
        scaled = [row for row in rows if row["set"] == name]
        for fit in ("train", "fit_als", "sample_posterior"):
            reached = [row[fit] for row in scaled]
            assert max(reached) < 1.01 * min(reached), (name, fit)
        assert max(row["train"] for row in scaled) < 1.015 * scaled[0]["searched gradients"], name
        assert max(row["fit_als"] for row in scaled) < 1.015 * scaled[0]["searched ALS"], name
