"""What the formulas, the measurements and the search are given: wrong kinds are named, whatever they are."""

import math
import re

import numpy as np
import pytest
import torch

import mfkit
from mfkit import measure, predict

RATINGS, _ = mfkit.synthetic(12, 15, 90, rank=2, seed=0)
CONFIG = mfkit.TrainConfig.textbook(epochs=1, batch_size=32)


def model():
    return mfkit.MatrixFactorization(12, 15, 2)


GOOD = {  # of each function, arguments that fit
    predict.prediction_std: lambda: {"n_factors": 2, "user_std": 0.1, "item_std": 0.1},
    predict.top_mode: lambda: {"ratings": RATINGS, "mean": 0.0},
    predict.escape_time: lambda: {
        "ratings": RATINGS,
        "n_factors": 2,
        "user_std": 0.1,
        "item_std": 0.1,
        "lr": 0.1,
        "mean": 0.0,
    },
    predict.collapse_l2: lambda: {"ratings": RATINGS, "penalty": "per_rating", "residual": True, "scale": 1.0},
    predict.best_l2: lambda: {"ratings": RATINGS, "noise_std": 0.5},
    predict.top_singular_value: lambda: {"ratings": RATINGS, "values": np.ones(90), "penalty": "per_rating"},
    predict.bias_residual: lambda: {"ratings": RATINGS, "l2": 0.1},
    predict.sharpness: lambda: {
        "ratings": RATINGS,
        "n_factors": 2,
        "scale": 0.1,
        "batch_size": 8,
        "reduction": "mean",
        "mean": 0.0,
    },
    predict.max_stable_lr: lambda: {"ratings": RATINGS, "n_factors": 2, "scale": 0.1, "batch_size": 8},
    predict.huber_efficiency: lambda: {"k": 1.3},
    predict.state_bytes: lambda: {"model": model(), "optimizer": "adam"},
    predict.dry_step: lambda: {"model": model(), "batch_size": 8},
    predict.peak_bytes: lambda: {"function": predict.dry_step(model(), 8)},
    measure.prediction_std: lambda: {"model": model(), "ratings": RATINGS},
    measure.minimum: lambda: {
        "ratings": RATINGS,
        "l2": 5.0,
        "penalty": "per_rating",
        "n_factors": 1,
        "std": 0.1,
        "seed": 0,
    },
    measure.largest_interaction: lambda: {"model": model(), "ratings": RATINGS},
    measure.collapse_l2: lambda: {
        "ratings": RATINGS,
        "penalty": "per_rating",
        "scale": 1.0,
        "precision": 0.5,
        "seed": 0,
    },
    measure.learning_curve: lambda: {
        "model": model(),
        "ratings": RATINGS,
        "config": CONFIG,
        "validation": RATINGS,
        "test": RATINGS,
    },
    measure.is_stable: lambda: {"model": model(), "ratings": RATINGS, "config": CONFIG, "steps": 2},
    measure.escape_time: lambda: {"model": model(), "ratings": RATINGS, "config": CONFIG, "steps": 2, "mean": 0.0},
    measure.max_stable_lr: lambda: {
        "make_model": model,
        "ratings": RATINGS,
        "config": mfkit.TrainConfig.textbook(optimizer="sgd", batch_size=32),
        "steps": 5,
        "ratio": 2.0,
    },
    measure.sharpness: lambda: {
        "model": model(),
        "ratings": RATINGS,
        "config": CONFIG,
        "iterations": 50,
        "tolerance": 1e-3,
    },
    measure.state_bytes: lambda: {"model": model(), "optimizer": torch.optim.SGD(model().parameters(), lr=0.1)},
    measure.peak_bytes: lambda: {"function": model, "device": "cpu"},
}
WRONG = [None, "five", object(), [1, 2], {}, 1j, True, math.nan, math.inf, -1, 0.5, torch.zeros(2), b"x"]
FITS = {  # what WRONG holds that is right there
    "mean": (None, -1, 0.5),
    "scale": (None, 0.5),
    "batch_size": (None,),
    "k": (math.inf, 0.5),
    "user_std": (0.5,),
    "item_std": (0.5,),
    "noise_std": (0.5,),
    "l2": (0.5,),
    "lr": (0.5,),
    "std": (0.5,),
    "precision": (0.5,),
    "tolerance": (0.5,),
    "residual": WRONG,  # true or false of anything
}


def names(function_and_argument):
    function, argument = function_and_argument
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}-{argument}"


@pytest.mark.parametrize("function", GOOD, ids=lambda f: f"{f.__module__.rpartition('.')[2]}.{f.__name__}")
def test_what_fits_is_taken(function):
    function(**GOOD[function]())


@pytest.mark.parametrize("case", [(function, name) for function in GOOD for name in GOOD[function]()], ids=names)
def test_wrong_kinds_are_named(case):
    function, argument = case
    for wrong in WRONG:
        if any(wrong is right for right in FITS.get(argument, ())):
            continue
        with pytest.raises((TypeError, ValueError)) as told:
            function(**GOOD[function]() | {argument: wrong})
        assert re.match(rf"{argument}\b", str(told.value)), (wrong, told.value)


def test_a_function_that_raises_passes_its_error_on():
    for function in (predict.peak_bytes, measure.peak_bytes):
        with pytest.raises(ZeroDivisionError):
            function(lambda: 1 / 0)
