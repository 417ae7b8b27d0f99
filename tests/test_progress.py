"""The bar: where it is seen, where not, that there is one at a time, and that it changes nothing."""

import io
import sys

import pytest
import torch

import mfkit
from mfkit import progress, tuning

pytestmark = pytest.mark.usefixtures("one_thread")


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Kernel(io.StringIO):
    """As ipykernel's stderr: no terminal."""


Kernel.__module__ = "ipykernel.iostream"


@pytest.fixture(params=[Terminal, Kernel, io.StringIO])
def look(request, monkeypatch):
    """A function that makes stderr a terminal, a notebook or a file, whose bars are drawn from the first moment on.

    To be called by the test itself, as pytest puts a stderr of its own in place between fixture and test.
    """

    def begin():
        seen = request.param()
        monkeypatch.setattr(sys, "stderr", seen)
        monkeypatch.delenv("TQDM_DISABLE", raising=False)
        monkeypatch.setattr(progress, "DELAY", 0.0)
        return seen

    return begin


somebody_looks = pytest.mark.parametrize("look", [Terminal, Kernel], indirect=True)


def count(total=3):
    with progress.bar("counting", "sheep", total) as shown:
        for _ in range(total):
            shown.update()


@somebody_looks
def test_it_is_seen_and_goes(look):
    screen = look()
    count()
    text = screen.getvalue()
    assert "counting:" in text and "0/3" in text
    if isinstance(screen, Terminal):
        assert text.endswith("\r") and text.split("\r")[-2].strip() == ""  # wiped
    else:
        assert "counting: 100%" in text.split("\r")[-1] and "3/3" in text.split("\r")[-1]  # stays
    assert "\n" not in text.rstrip("\n")  # one line, always the same


@somebody_looks
def test_what_is_short_shows_nothing(look, monkeypatch):
    screen = look()
    monkeypatch.setattr(progress, "DELAY", 1.0)
    count()
    assert screen.getvalue() == ""


@pytest.mark.parametrize("look", [io.StringIO], indirect=True)
def test_not_without_a_terminal(look):
    screen = look()
    count()
    assert screen.getvalue() == ""


@somebody_looks
def test_not_where_the_environment_says_so(look, monkeypatch):
    screen = look()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    count()
    assert screen.getvalue() == ""


@somebody_looks
def test_one_at_a_time_and_the_next_after_an_error(look):
    screen = look()
    with pytest.raises(KeyError), progress.bar("outer", "step", 2):
        count()
        raise KeyError
    assert "outer" in screen.getvalue() and "counting" not in screen.getvalue()
    count()
    assert "counting" in screen.getvalue()


@somebody_looks
def test_everything_that_takes_long_has_one(look):
    screen = look()
    ratings, _ = mfkit.synthetic(40, 50, 800, rank=2, seed=0)
    train, validation = ratings.split((0.8, 0.2), seed=0)

    def names(run):
        screen.seek(0)
        screen.truncate()
        run()
        return {line.split(":")[0].strip() for line in screen.getvalue().split("\r") if ":" in line}

    def model():
        return mfkit.MatrixFactorization(40, 50, 4)

    config = mfkit.TrainConfig.textbook(epochs=2)
    assert names(lambda: mfkit.train(model(), train)) == {"train finds l2", "train"}
    assert names(lambda: mfkit.train(model(), train, config)) == {"train"}
    assert names(lambda: mfkit.fit_als(model(), train)) == {"fit_als finds l2", "fit_als"}
    assert names(lambda: mfkit.sample_posterior(model(), train, samples=2, burn_in=1)) == {"sample_posterior"}
    assert names(lambda: mfkit.tune(train, validation, config=config, n_trials=2)) == {"search"}
    assert names(lambda: mfkit.diagnose(model(), train, batch_size=64)) == {"diagnose"}


@somebody_looks
def test_it_counts_what_was_done_before(look, tmp_path):
    screen = look()
    ratings, _ = mfkit.synthetic(40, 50, 640, rank=2, seed=0)
    for epochs in (2, 3):
        screen.seek(0)
        screen.truncate()
        model = mfkit.MatrixFactorization(40, 50, 4, mean=ratings.mean)
        options = {"checkpoint": tmp_path / "run", "resume": True}
        mfkit.train(model, ratings, mfkit.TrainConfig.textbook(epochs=epochs, batch_size=64), **options)
    assert "20/30" in screen.getvalue()


@somebody_looks
def test_it_changes_nothing(look, monkeypatch):
    look()
    ratings, _ = mfkit.synthetic(40, 50, 640, rank=2, seed=0)
    found = []
    for silent in ("", "1"):
        monkeypatch.setenv("TQDM_DISABLE", silent)
        torch.manual_seed(0)
        model = mfkit.MatrixFactorization(40, 50, 4)
        frame = mfkit.train(model, ratings).frame.drop(columns="seconds")
        study = tuning.search(lambda trial: trial.params["x"], {"x": (1.0, 2.0)}, n_trials=3)
        found.append((frame, model.state_dict(), [trial.params for trial in study.trials]))
    assert found[0][0].equals(found[1][0]) and found[0][2] == found[1][2]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])
