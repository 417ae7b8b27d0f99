"""What `python -m mfkit sizes` says, against what is allocated, and its errors."""

import numpy as np
import pytest
import torch

import mfkit
from mfkit import __main__ as command
from mfkit import measure, sizes

pytestmark = pytest.mark.usefixtures("one_thread")
GIVEN = (3000, 1000, 60_000, 8, 512)


@pytest.fixture(scope="module")
def ratings():
    cells = np.random.default_rng(0).permutation(3000 * 1000)[:60_000]
    values = np.random.default_rng(1).normal(size=60_000)
    return mfkit.Ratings(cells // 1000, cells % 1000, values, 3000, 1000)


def said(optimizer="adam") -> dict[str, float]:
    return {what: size for what, size, _ in sizes.memory(*GIVEN, optimizer)}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "momentum", "sgd"])
def test_training_needs_what_is_said(ratings, optimizer):
    model = mfkit.MatrixFactorization(3000, 1000, 8)
    momentum = 0.9 if optimizer == "momentum" else 0.0
    config = mfkit.TrainConfig.textbook(
        optimizer="sgd" if momentum else optimizer, momentum=momentum, batch_size=512, epochs=1, lr=1e-3
    )
    held = said(optimizer)["ratings"] + said(optimizer)["model"]
    found = held + measure.peak_bytes(lambda: mfkit.train(model, ratings, config))
    assert found == pytest.approx(said(optimizer)["train, in all"], rel=0.1)


def test_ratings_and_model_are_what_is_said(ratings):
    held = sum(column.nbytes for column in ratings.columns)
    assert said()["ratings"] == held
    model = mfkit.MatrixFactorization(3000, 1000, 8)
    assert said()["model"] == sum(parameter.nbytes for parameter in model.parameters()) == 4 * 9 * 4000
    assert said()["for comparison: one dense U V'"] == 4 * 3000 * 1000


def test_als_and_the_sampler_need_no_more(ratings):
    model = mfkit.MatrixFactorization(3000, 1000, 8)
    held = said()["ratings"] + said()["model"]
    found = held + measure.peak_bytes(lambda: mfkit.fit_als(model, ratings, l2=0.1, sweeps=2))
    assert said()["fit_als, in all, at most"] / 3 < found < said()["fit_als, in all, at most"]
    found = held + measure.peak_bytes(lambda: mfkit.sample_posterior(model, ratings, samples=40, burn_in=0))
    assert said()["sample_posterior, at most"] / 3 < found < said()["sample_posterior, at most"]


def test_top_k_needs_what_is_said():
    model = mfkit.MatrixFactorization(3000, 1000, 8)
    found = measure.peak_bytes(lambda: model.top_k(torch.arange(3000), 5))
    assert found == pytest.approx(said()["top_k, beside the model"], rel=0.1)


def test_sizes_beyond_any_machine_need_no_memory():
    cost = measure.peak_bytes(lambda: sizes.report(10**9, 10**8, 10**11, 100))
    assert cost < 100_000
    assert "one dense U V' 400 PB 4 m n" in " ".join(sizes.report(10**9, 10**8, 10**11, 100).split())


def test_the_command(capsys):
    line = "sizes --users 1e6 --items 100,000 --ratings 25_000_000 --factors 50 --batch 1024"
    assert command.main(line.split()) == 0
    text, errors = capsys.readouterr()
    assert errors == ""
    first, _, *table = text.splitlines()
    assert first == (
        "m = 1,000,000 users, n = 100,000 items, N = 25,000,000 ratings, d = 50 factors, batches of B = 1,024, adam"
    )
    assert "ratings                             500 MB   20 N" in table
    assert "model                               224 MB   4 P" in table  # 4 bytes x 51 x 1,100,000
    assert any(row.startswith("fit_als, a sweep") for row in table)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--users": "many"}, "argument --users: must be a whole number, e.g. 25000000 or 25e6, got 'many'"),
        ({"--items": "2.5"}, "argument --items: must be a whole number, e.g. 25000000 or 25e6, got '2.5'"),
        ({"--items": "nan"}, "argument --items: must be a whole number, e.g. 25000000 or 25e6, got 'nan'"),
        ({"--users": "0"}, "users must be an integer of at least 1, got 0"),
        ({"--factors": "-1"}, "factors must be an integer of at least 1, got -1"),
        ({"--ratings": "7"}, "ratings must be at most users * items = 6, got 7"),
        ({"--users": "1e13"}, "users must be at most 1,000,000,000,000, got 10,000,000,000,000"),
        ({"--batch": "0"}, "batch must be an integer of at least 1, got 0"),
        ({"--optimizer": "lbfgs"}, "optimizer must be 'sgd', 'momentum', 'adam' or 'adamw', got 'lbfgs'"),
    ],
)
def test_wrong_sizes_are_one_line_and_status_two(changes, says, capsys):
    given = {"--users": "2", "--items": "3", "--ratings": "5", "--factors": "2"} | changes
    with pytest.raises(SystemExit) as stop:
        command.main(["sizes", *(f"{name}={value}" for name, value in given.items())])
    text, errors = capsys.readouterr()
    assert (stop.value.code, text) == (2, "")
    assert errors == f"python -m mfkit sizes: {says}; see --help\n"
