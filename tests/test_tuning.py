"""The search: what it finds, what it records, and that a killed or shared study loses and repeats nothing."""

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from filelock import Timeout

from mfkit import MatrixFactorization, TrainConfig, predict, repository, rmse, synthetic, train, tune, tuning

SPACE = {"x": (0.01, 100.0), "k": (1, 64)}
CONFIG = TrainConfig.textbook(epochs=2, batch_size=128)


pytestmark = pytest.mark.usefixtures("one_thread")


def parts():
    ratings, _ = synthetic(40, 50, 800, rank=2, seed=0)
    return ratings.split((0.7, 0.15, 0.15), seed=0)


def bowl(trial):
    """Least at x = 1, k = 8."""
    return math.log(trial.params["x"]) ** 2 + math.log(trial.params["k"] / 8) ** 2


def refuse(trial):
    raise AssertionError("asked for a trial")


def settings(study):
    """(parameters, value) of the finished trials, in the order of their slots."""
    finished = [t for t in study.trials if t.state.name == "COMPLETE"]
    return [(t.params, t.value) for t in sorted(finished, key=lambda t: t.user_attrs["slot"])]


# What is found


@pytest.mark.parametrize(("sampler", "excess"), [("grid", 0.6), ("random", 0.6), ("tpe", 0.2), ("gp", 0.01)])
def test_each_sampler_comes_near_the_least_value(sampler, excess):
    study = tuning.search(bowl, SPACE, sampler=sampler, n_trials=25, seed=1)
    assert len(study.trials) == 25
    assert study.best_value < excess
    assert all(0.01 <= t.params["x"] <= 100 and isinstance(t.params["k"], int) for t in study.trials)


def test_grid_by_hand():
    """Eight trials for two ranges: 2 x 2, then 3 x 2, then 4 x 2 levels, as 3 x 3 would be nine."""
    study = tuning.search(bowl, {"x": (1.0, 16.0), "k": (1, 16), "c": ["a"]}, sampler="grid", n_trials=8)
    points = sorted((t.params["x"], t.params["k"], t.params["c"]) for t in study.trials)
    xs = [16 ** (share / 8) for share in (1, 3, 5, 7)]
    assert points == [(pytest.approx(x), k, "a") for x in xs for k in (2, 8)]


def test_first_ten_trials_are_the_same_random_ones():
    random, tpe = (settings(tuning.search(bowl, SPACE, sampler=name, n_trials=12)) for name in ("random", "tpe"))
    assert random[:10] == tpe[:10]
    assert random[10:] != tpe[10:]


def test_same_seed_same_trials():
    train_part, validation, _ = parts()
    one, two, other = (
        settings(tune(train_part, validation, config=CONFIG, n_trials=13, seed=seed)) for seed in (3, 3, 4)
    )
    assert one == two
    assert one != other


def test_a_trial_is_the_training_that_its_record_says():
    train_part, validation, test = parts()
    study = tune(train_part, validation, config=CONFIG, n_trials=5)
    best = study.best_trial
    config = TrainConfig.textbook(**best.user_attrs["config"])
    collapse = predict.collapse_l2(train_part, residual=True) / train_part.std
    assert config == replace(CONFIG, lr=best.params["lr"], l2=best.params["l2_over_collapse"] * collapse)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        sizes = (40, 50, best.params["n_factors"])
        model = MatrixFactorization(*sizes, mean=train_part.mean, scale=train_part.std)
    train(model, train_part, config)
    assert rmse(model, validation) == best.user_attrs["rmse"] == best.value
    assert math.isfinite(rmse(model, test))
    mean_rmse = (validation.values.double() - train_part.mean).square().mean().sqrt().item()
    assert study.user_attrs["mean_rmse"] == mean_rmse
    assert study.user_attrs["beats_mean"] is (best.value < mean_rmse) is True


@pytest.mark.parametrize(("a", "b", "tolerance"), [(4.0, 0.0, 0), (2.0**-9, 0.0, 0), (100.0, -250.0, 1e-3)])
@pytest.mark.parametrize("penalty", ["per_rating", "per_table"])
def test_ratings_on_another_scale_have_the_same_trials(a, b, tolerance, penalty):
    """Settings to rounding; exactly where multiplication by a is exact. l2_over_collapse has no unit, lr its std's."""
    studies = []
    for factor, shift in ((1.0, 0.0), (a, b)):
        train_part, validation, _ = parts()
        train_part, validation = (p.with_values(factor * p.values + shift) for p in (train_part, validation))
        studies.append(tune(train_part, validation, config=replace(CONFIG, penalty=penalty), n_trials=8, seed=2))
    plain, mapped = studies
    for one, other in zip(plain.trials, mapped.trials, strict=True):
        assert one.params == other.params
        assert other.user_attrs["config"]["l2"] == pytest.approx(one.user_attrs["config"]["l2"], rel=1e-5 * bool(b))
        assert other.value == pytest.approx(a * one.value, rel=tolerance)
    assert plain.best_trial.number == mapped.best_trial.number
    assert len({trial.value for trial in plain.trials}) > 1


def test_a_model_without_a_scale_is_searched_in_rating_units():
    class Ours(MatrixFactorization):
        def __init__(self, n_users, n_items, n_factors, mean):
            super().__init__(n_users, n_items, n_factors, mean=mean)

    train_part, validation, _ = parts()
    study = tune(train_part, validation, config=CONFIG, make_model=Ours, n_trials=3)
    collapse = predict.collapse_l2(train_part, residual=True, scale=1.0)
    for trial in study.trials:
        assert trial.user_attrs["config"]["l2"] == trial.params["l2_over_collapse"] * collapse


def test_other_fields_choices_and_models():
    class Ours(MatrixFactorization):
        sizes = set()  # noqa: RUF012

        def __init__(self, n_users, n_items, n_factors, mean):
            super().__init__(n_users, n_items, n_factors, mean=mean, biases=False)
            self.sizes.add(n_factors)

    train_part, validation, _ = parts()
    space = {"optimizer": ["adam", "adamw"], "l2": (1e-3, 1e-1), "batch_size": (64, 256), "n_factors": [3, 5]}
    config = replace(CONFIG, lr=0.03)
    study = tune(train_part, validation, config=config, space=space, make_model=Ours, sampler="random", n_trials=8)
    configs = [TrainConfig.textbook(**t.user_attrs["config"]) for t in study.trials]
    assert {config.optimizer for config in configs} == {"adam", "adamw"}
    assert all(
        config.l2 == t.params["l2"] and config.lr == 0.03 for config, t in zip(configs, study.trials, strict=True)
    )
    assert Ours.sizes == {3, 5}


# What diverges


@pytest.mark.parametrize("sampler", ["random", "gp"])
def test_diverged_trials_are_recorded_with_their_reason(sampler):
    train_part, validation, _ = parts()
    config = replace(CONFIG, optimizer="sgd")
    study = tune(train_part, validation, config=config, space={"lr": (0.1, 1e4)}, sampler=sampler, n_trials=14)
    mean_rmse = (validation.values.double() - train_part.mean).square().mean().sqrt().item()
    diverged = [t for t in study.trials if "diverged" in t.user_attrs]
    assert 0 < len(diverged) < 14
    assert all(t.state.name == "COMPLETE" and t.value == mean_rmse for t in diverged)
    assert all("training diverged at step" in t.user_attrs["diverged"] for t in diverged)
    assert all(t.value == min(t.user_attrs["rmse"], mean_rmse) for t in study.trials if t not in diverged)
    assert study.trials_dataframe()["user_attrs_diverged"].notna().sum() == len(diverged)
    assert "diverged" not in study.best_trial.user_attrs


def test_where_no_trial_beats_the_mean_it_says_so():
    """Two trials of learning rates that are far too high tie at the mean's RMSE."""
    train_part, validation, _ = parts()
    config = replace(CONFIG, optimizer="sgd")
    with pytest.warns(UserWarning, match=r"no trial of 2 did better on validation than predicting the mean \(RMSE"):
        study = tune(train_part, validation, config=config, space={"lr": (1e3, 1e4)}, n_trials=2)
    assert study.user_attrs["beats_mean"] is False
    assert study.user_attrs["mean_rmse"] == study.best_value


def test_equal_ratings_end_at_once_with_that_sentence():
    train_part, validation, _ = (part.with_values(torch.ones(len(part))) for part in parts())
    with pytest.warns(UserWarning, match="no trial of 2 did better"):
        study = tune(train_part, validation, config=CONFIG, n_trials=2)
    assert [trial.value for trial in study.trials] == [0.0, 0.0]


# What an objective may return


@pytest.mark.parametrize("value", [math.nan, None, "0.9", [0.9], True, 1j, torch.tensor(math.nan)])
@pytest.mark.parametrize("stored", [False, True])
def test_what_cannot_be_compared_ends_the_search_and_names_the_setting(value, stored, tmp_path):
    storage = tmp_path / "study.db" if stored else None
    with pytest.raises(ValueError, match=r"objective must return a number, .*, got .* for \{'x': .*, 'k': \d+\}"):
        tuning.search(lambda trial: value, SPACE, n_trials=2, storage=storage)
    if stored:  # the slot is made anew, by an objective that was mended
        study = tuning.search(bowl, SPACE, n_trials=2, storage=storage)
        assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
        assert settings(study) == settings(tuning.search(bowl, SPACE, n_trials=2))


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_inf_and_numbers_of_other_libraries_are_numbers(sampler):
    values = itertools.cycle([math.inf, np.float32(0.5), torch.tensor(0.25), 2])
    study = tuning.search(lambda trial: next(values), SPACE, sampler=sampler, n_trials=13)
    assert study.best_value == 0.25
    assert [t.value for t in study.trials[:4]] == [math.inf, 0.5, 0.25, 2.0]


def test_a_lock_that_the_objective_itself_cannot_get_is_its_error():
    """It was taken for a colleague's lock on the slot, and waited for."""

    def objective(trial):
        raise Timeout("mine")

    with pytest.raises(Timeout, match="mine"):
        tuning.search(objective, SPACE, n_trials=2)


def test_an_error_is_kept_with_its_trial(tmp_path):
    storage = tmp_path / "study.db"
    for _ in range(4):  # each call makes the slot anew: an error is no death
        with pytest.raises(AssertionError):
            tuning.search(refuse, SPACE, n_trials=2, storage=storage)
    study = tuning.search(bowl, SPACE, n_trials=2, storage=storage)
    assert [t.user_attrs.get("raised") for t in study.trials] == ["AssertionError: asked for a trial"] * 4 + [None] * 2


@pytest.mark.parametrize("name", ["a?b.db", "ä ö%20ü.db", "{SCHEMA_VERSION}#&=.db", "a%b.db", "日本 ?.db"])
def test_a_storage_of_any_name_is_that_file(name, tmp_path):
    folder = tmp_path / "a folder?with ü"
    folder.mkdir()
    tuning.search(bowl, SPACE, n_trials=1, storage=folder / name)
    assert sorted(path.name for path in folder.iterdir()) == sorted([name, f"{name}.locks"])
    assert len(tuning.search(bowl, SPACE, n_trials=2, storage=str(folder / name)).trials) == 2


def test_a_storage_without_a_folder_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tuning.search(bowl, SPACE, n_trials=1, storage="a?b.db")
    assert Path("a?b.db").is_file() and not Path("a").exists()


def test_a_file_that_is_no_study_is_refused(tmp_path):
    storage = tmp_path / "ratings.csv"
    storage.write_text("user,item,rating\n" * 100)
    with pytest.raises(
        ValueError, match=r"storage=.*ratings.csv. must be a file that `search` wrote, or a new one, got"
    ):
        tuning.search(bowl, SPACE, n_trials=1, storage=storage)
    assert storage.read_text() == "user,item,rating\n" * 100


# Killed, and several at once

WORKER = """
import sys, time
from mfkit import tuning
from tests.test_tuning import SPACE, bowl

def slow(trial):
    print(trial.user_attrs["slot"], flush=True)
    time.sleep({seconds})
    return bowl(trial)

tuning.search(slow, SPACE, sampler={sampler!r}, n_trials={n_trials}, storage=sys.argv[1], seed=5)
"""


def worker(storage, **options):
    code = WORKER.format(**({"seconds": 0.1, "sampler": "tpe", "n_trials": 16} | options))
    environment = os.environ | {"PYTHONPATH": str(repository.root())}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(storage)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_killed_half_way_it_resumes_as_if_it_had_not_been(tmp_path):
    """SIGKILL in the ninth trial: the eight before stay as they were, the ninth is made again, nothing twice."""
    storage = tmp_path / "study.db"
    child = worker(storage, seconds=0.3)
    for line in child.stdout:
        if int(line) == 8:
            time.sleep(0.1)  # in the middle of it
            child.send_signal(signal.SIGKILL)
            break
    child.wait()
    child.stdout.close()
    before = optuna.load_study(study_name="mfkit", storage=f"sqlite:///{storage}").trials
    assert [t.state.name for t in before] == ["COMPLETE"] * 8 + ["RUNNING"]

    asked = []
    study = tuning.search(lambda trial: asked.append(1) or bowl(trial), SPACE, n_trials=16, storage=storage, seed=5)
    assert len(asked) == 8
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 8 + ["FAIL"] + ["COMPLETE"] * 8
    assert [t.datetime_complete for t in study.trials[:8]] == [t.datetime_complete for t in before[:8]]
    assert settings(study) == settings(tuning.search(bowl, SPACE, n_trials=16, seed=5))
    assert tuning.search(refuse, SPACE, n_trials=16, storage=storage, seed=5).trials == study.trials  # nothing to do


def test_two_processes_share_a_study(tmp_path):
    storage = tmp_path / "study.db"
    children = [worker(storage, sampler="random", n_trials=20) for _ in range(2)]
    slots = [[int(line) for line in child.communicate(timeout=120)[0].split()] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted(slots[0] + slots[1]) == list(range(20))
    assert min(map(len, slots)) > 0
    study = optuna.load_study(study_name="mfkit", storage=f"sqlite:///{storage}")
    assert settings(study) == settings(tuning.search(bowl, SPACE, sampler="random", n_trials=20, seed=5))


def test_a_colleague_that_is_killed_is_replaced(tmp_path):
    """The one that waits for the other's last trial takes it over."""
    storage = tmp_path / "study.db"
    first = worker(storage, seconds=60, n_trials=3)
    assert first.stdout.readline() == "0\n"
    second = worker(storage, n_trials=3)
    assert second.stdout.readline() == "1\n"
    assert second.stdout.readline() == "2\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    assert second.communicate(timeout=60)[0] == "0\n"
    study = optuna.load_study(study_name="mfkit", storage=f"sqlite:///{storage}")
    assert sorted(t.state.name for t in study.trials) == ["COMPLETE"] * 3 + ["FAIL"]


def test_a_slot_in_which_processes_die_is_given_up(tmp_path):
    """Out of memory again and again: two deaths may be chance, the third ends it."""
    storage = tmp_path / "study.db"
    for _ in range(3):
        child = worker(storage, seconds=60, n_trials=2)
        assert child.stdout.readline() == "0\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"3 processes died in trial slot 0, with \{'x': .* Want another space"):
            tuning.search(bowl, SPACE, n_trials=2, storage=storage, seed=5)


def test_two_workers_of_an_objective_that_fails_both_end(tmp_path):
    storage = tmp_path / "study.db"
    children = [worker(storage, seconds="0.1 + float('nan')", n_trials=4) for _ in range(2)]
    said = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [1, 1], said


def test_an_error_leaves_the_slot_to_the_next_call(tmp_path):
    def fails(trial):
        raise MemoryError("too large")

    storage = tmp_path / "study.db"
    with pytest.raises(MemoryError):
        tuning.search(fails, SPACE, n_trials=2, storage=storage)
    study = tuning.search(bowl, SPACE, n_trials=2, storage=storage)
    assert settings(study) == settings(tuning.search(bowl, SPACE, n_trials=2))


def test_a_study_goes_on_to_more_trials(tmp_path):
    storage = tmp_path / "study.db"
    tuning.search(bowl, SPACE, n_trials=5, storage=storage)
    study = tuning.search(bowl, SPACE, n_trials=13, storage=storage)
    assert settings(study) == settings(tuning.search(bowl, SPACE, n_trials=13))


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "bayes"}, "sampler must be 'grid', 'random', 'tpe' or 'gp', got 'bayes'"),
        ({"n_trials": 0}, "n_trials must be an integer of at least 1, got 0"),
        ({"n_trials": 2.5}, "n_trials must be an integer of at least 1, got 2.5"),
        ({"n_trials": True}, "n_trials must be an integer of at least 1, got True"),
        ({"seed": "0"}, "seed must be an integer of at least 0, got '0'"),
        ({"storage": "sqlite:///a.db"}, "storage must be the name of a file, .* got 'sqlite:///a.db'"),
        ({"storage": "no such folder/a.db"}, "storage must be the name of a file, in a folder that exists, got"),
        ({"storage": "/"}, "storage must be the name of a file"),
        ({"space": {"speed": (1, 2)}}, r"space must name .* got \['speed'\]"),
        ({"space": {"lr": (0, 1)}}, r"space\['lr'\] must be \(low, high\), 0 < low <= high, .* got \(0, 1\)"),
        ({"space": {"lr": (1.0, 0.1)}}, r"space\['lr'\] must be .* got \(1.0, 0.1\)"),
        ({"space": {"lr": []}}, r"space\['lr'\] must be .* got \[\]"),
        ({"space": {"lr": ("a", "b")}}, r"space\['lr'\] must be .* got \('a', 'b'\)"),
        ({"space": {"lr": (1, 2, 3)}}, r"space\['lr'\] must be .* got \(1, 2, 3\)"),
        ({"space": {"lr": 0.1}}, r"space\['lr'\] must be .* got 0.1"),
        ({"space": {"optimizer": ["adagrad"]}}, "optimizer must be one of"),
        ({"space": {"batch_size": [1, 2, 3]}, "sampler": "grid", "n_trials": 2}, "n_trials must be at least 3"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    train_part, validation, _ = parts()
    with pytest.raises(ValueError, match=message):
        tune(train_part, validation, config=CONFIG, **changes)


def test_what_is_not_ratings_is_named():
    train_part, validation, _ = parts()
    for changes, message in (
        ({"validation": (validation,)}, "validation must be a Ratings, got "),
        ({"train": None}, "train must be a Ratings, got None"),
        ({"config": {"lr": 0.1}}, "config must be a TrainConfig, got {'lr': 0.1}"),
        ({"space": [("lr", (0.1, 1.0))]}, "space must be a dict of names"),
        ({"space": {1: (0.1, 1.0)}}, "space must be a dict of names"),
        ({"make_model": 3}, "make_model must be callable, got 3"),
        ({"storage": 3}, "storage must be the name of a file, got 3"),
        ({"study": None}, "study must be a str, got None"),
    ):
        with pytest.raises(TypeError, match=message):
            tune(**{"train": train_part, "validation": validation} | changes)
    with pytest.raises(TypeError, match="objective must be callable, got None"):
        tuning.search(None, SPACE)


def test_a_study_made_otherwise_is_refused(tmp_path):
    train_part, validation, test = parts()
    arguments = {"config": CONFIG, "n_trials": 1, "storage": tmp_path / "study.db"}
    tune(train_part, validation, **arguments)
    for ratings, changes, name in (
        (validation, {"sampler": "random"}, "sampler"),
        (validation, {"seed": 1}, "seed"),
        (validation, {"config": replace(CONFIG, epochs=3)}, "config"),
        (validation, {"space": {"lr": (0.1, 1.0)}}, "space"),
        (test, {}, "validation"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be .* as in study 'mfkit'"):
            tune(train_part, ratings, **arguments | changes)
    tune(train_part, validation, **arguments | {"study": "another", "seed": 1})
