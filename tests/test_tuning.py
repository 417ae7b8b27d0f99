"""The search: what it finds, what it records, and that a killed or shared study loses and repeats nothing."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import optuna
import pytest
import torch

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
    collapse = predict.collapse_l2(train_part, residual=True)
    assert config == replace(CONFIG, lr=best.params["lr"], l2=best.params["l2_over_collapse"] * collapse)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = MatrixFactorization(40, 50, best.params["n_factors"], mean=train_part.mean)
    train(model, train_part, config)
    assert rmse(model, validation) == best.user_attrs["rmse"] == best.value
    assert math.isfinite(rmse(model, test))


def test_other_fields_choices_and_models():
    class Ours(MatrixFactorization):
        sizes = set()  # noqa: RUF012

        def __init__(self, n_users, n_items, n_factors, mean):
            super().__init__(n_users, n_items, n_factors, mean=mean, biases=False)
            self.sizes.add(n_factors)

    train_part, validation, _ = parts()
    space = {"optimizer": ["adam", "adamw"], "l2": (1e-3, 1e-1), "batch_size": (64, 256), "n_factors": [3, 5]}
    study = tune(train_part, validation, config=CONFIG, space=space, make_model=Ours, sampler="random", n_trials=8)
    configs = [TrainConfig.textbook(**t.user_attrs["config"]) for t in study.trials]
    assert {config.optimizer for config in configs} == {"adam", "adamw"}
    assert all(
        config.l2 == t.params["l2"] and config.lr == CONFIG.lr for config, t in zip(configs, study.trials, strict=True)
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
    assert tuning.search(None, SPACE, n_trials=16, storage=storage, seed=5).trials == study.trials  # nothing to do


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
        ({"sampler": "bayes"}, "sampler must be one of grid, random, tpe, gp.* got 'bayes'"),
        ({"n_trials": 0}, "n_trials must be a whole number, at least 1, got 0"),
        ({"n_trials": 2.5}, "n_trials must be a whole number, at least 1, got 2.5"),
        ({"space": {"speed": (1, 2)}}, r"space must name .* got \['speed'\]"),
        ({"space": {"lr": (0, 1)}}, r"space\['lr'\] must be \(low, high\), 0 < low <= high, .* got \(0, 1\)"),
        ({"space": {"lr": (1.0, 0.1)}}, r"space\['lr'\] must be .* got \(1.0, 0.1\)"),
        ({"space": {"lr": []}}, r"space\['lr'\] must be .* got \[\]"),
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
    with pytest.raises(TypeError, match="validation must be a Ratings, got tuple"):
        tune(train_part, (validation,))


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
