"""Every public function with its arguments: a good value of each, and what else is good. The rest is bad."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader

import mfkit
from mfkit import (
    MatrixFactorization,
    Ratings,
    TrainConfig,
    clipping,
    initializers,
    losses,
    measure,
    optimizers,
    predict,
    tuning,
)
from mfkit.lab import figures, records
from mfkit.movielens import SOURCES
from tests.fuzz.kinds import (
    BAD,
    EITHER,
    GOOD,
    Row,
    a,
    column,
    count,
    every,
    flag,
    function,
    judge,
    number,
    optional,
    word,
)

matplotlib.use("agg")
M, N_ITEMS, D = 5, 6, 2
USERS, ITEMS = [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 1], [0, 1, 2, 0, 3, 1, 4, 2, 5, 0, 5, 1]
VALUES = [3.0, 4.0, 1.0, 5.0, 2.5, 3.5, 4.0, 2.0, 1.5, 4.5, 3.0, 2.0]
QUICK = TrainConfig.textbook(epochs=1, batch_size=6)


def ratings() -> Ratings:
    return Ratings(USERS, ITEMS, VALUES, M, N_ITEMS)


def model() -> MatrixFactorization:
    return initializers.normal_(MatrixFactorization(M, N_ITEMS, D, mean=3.0, scale=1.0), 0.3)


def parameters() -> list[nn.Parameter]:
    made = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2))]
    for parameter in made:
        parameter.grad = torch.ones_like(parameter)
    return made


def posterior() -> mfkit.Posterior:
    tables = torch.ones(2, M, D + 1), torch.ones(2, N_ITEMS, D + 1)
    return mfkit.Posterior(3.0, 1.0, True, *tables, torch.ones(2))


def frame() -> pd.DataFrame:
    return pd.DataFrame({"user": USERS, "item": ITEMS, "rating": VALUES, "when": range(len(VALUES))})


def claims() -> list[records.Claim]:
    return [records.claim("one-is-one", "One is one.", 1.0, 1.0)]


def tensor(value: Any) -> str:
    """A vector of three real numbers, as a tensor."""
    fits = isinstance(value, Tensor) and value.shape == (3,) and not value.is_complex() and value.dtype != torch.bool
    return judge(fits)


def space(value: Any) -> str:
    fits = isinstance(value, Mapping) and all(
        name in tuning.SPACE | vars(QUICK) and isinstance(values, list | tuple) for name, values in value.items()
    )
    return judge(value is None or fits)


def name_of_column(value: Any) -> str:
    return judge(isinstance(value, str) and value in frame().columns)


def clip(value: Any) -> str:
    return (
        GOOD if value is None else EITHER if isinstance(value, list | tuple | np.ndarray) and len(value) == 2 else BAD
    )


def thresholds(value: Any) -> str:
    """Two, for two tensors."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        return BAD
    return EITHER if isinstance(value, list | tuple | np.ndarray | Tensor) and len(value) == 2 else BAD


def prediction(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return GOOD if math.isfinite(value) else EITHER
    return EITHER if isinstance(value, str | bool | np.generic | np.ndarray | Tensor) else BAD


def settings(value: Any) -> str:
    """A TrainConfig, a dict or nothing."""
    return EITHER if isinstance(value, dict) else judge(value is None or isinstance(value, TrainConfig))


def numbers_between(value: Any) -> str:
    """Two numbers in [0, 1)."""
    fits = (
        isinstance(value, tuple | list) and len(value) == 2 and all(number(least=0, below=1)(x) != BAD for x in value)
    )
    return judge(fits)


def one_or_two(value: Any) -> str:
    return EITHER if count()(value) == GOOD and value in (1, 2) else BAD


RATINGS, MODULE, MODEL, CONFIG = a(Ratings), a(nn.Module), a(MatrixFactorization), a(TrainConfig)
SEED, SIZE, POSITIVE, STRENGTH = count(0, EITHER), count(1), number(above=0), number(least=0)
PENALTY, REDUCTION, LOSS = word("per_rating", "per_table"), word("mean", "sum"), word("mse", "mae", "huber")
USER_ROWS, TENSORS = column(None, below=M, integers=True), every(a(Tensor))
PARAMETERS = every(a(Tensor, dict))
SPREADS = {"ratings": RATINGS, "n_factors": SIZE, "scale": STRENGTH, "batch_size": optional(count(1, EITHER))}
SPREADS |= {"reduction": REDUCTION, "mean": optional(number()), "biases": flag}
PAIR = {"prediction": torch.ones(3), "target": torch.zeros(3)}
SGD = TrainConfig.textbook(optimizer="sgd", lr=0.1)
RUN = {"model": MODULE, "ratings": RATINGS, "config": CONFIG}


def on(function: Callable, /, **arguments: Any) -> Callable:
    """The function with these arguments, each made anew where it is one of the makers above."""
    makers = (ratings, model, parameters, frame, claims, posterior)
    return lambda: (
        function,
        {name: x() if any(x is maker for maker in makers) else x for name, x in arguments.items()},
    )


def of(make: Callable, method: str, /, **arguments: Any) -> Callable:
    return lambda: (getattr(make(), method), on(make, **arguments)()[1])


TABLE = [
    Row(
        "MatrixFactorization",
        on(MatrixFactorization, n_users=M, n_items=N_ITEMS, n_factors=D),
        {"n_users": count(1, BAD), "n_items": count(1, BAD), "n_factors": count(0, BAD)}
        | {"mean": optional(number()), "scale": optional(POSITIVE), "biases": flag, "sparse": flag},
    ),
    Row("MatrixFactorization.use_units", of(model, "use_units", ratings=ratings), {"ratings": RATINGS}),
    Row(
        "MatrixFactorization.predict",
        of(model, "predict", users=[0, 1], items=[2, 3]),
        {"users": column(2, below=M, integers=True), "items": column(2, below=N_ITEMS, integers=True)}
        | {"chunk": count(1, EITHER), "clip": clip},
    ),
    Row(
        "MatrixFactorization.top_k",
        of(model, "top_k", users=[0, 1], k=2),
        {"users": USER_ROWS, "k": count(1, BAD), "exclude": optional(RATINGS), "chunk": count(1, EITHER)}
        | {"clip": clip},
    ),
    Row(
        "Posterior.predict",
        of(posterior, "predict", users=torch.tensor([0, 1]), items=torch.tensor([2, 3])),
        {"users": column(2, below=M, integers=True), "items": column(2, below=N_ITEMS, integers=True)}
        | {"chunk": count(1, EITHER), "clip": clip},
    ),
    Row(
        "Ratings",
        on(Ratings, users=USERS, items=ITEMS, values=VALUES, n_users=M, n_items=N_ITEMS),
        {"users": column(12, below=M, integers=True), "items": column(12, below=N_ITEMS, integers=True)}
        | {"values": column(12), "n_users": count(M), "n_items": count(N_ITEMS)}
        | {"user_ids": optional(column(M)), "item_ids": optional(column(N_ITEMS))}
        | {"duplicates": word("error", "mean", "last")},
    ),
    Row(
        "Ratings.from_frame",
        on(Ratings.from_frame, frame=frame),
        {"frame": a(pd.DataFrame), "user": name_of_column, "item": name_of_column, "rating": name_of_column}
        | {"time": optional(name_of_column), "like": optional(RATINGS), "unknown": word("error", "drop")}
        | {"missing": lambda value: EITHER, "duplicates": word("error", "mean", "last")},
    ),
    Row("Ratings.to", of(ratings, "to", device="cpu"), {"device": word("cpu", others=(int,))}),
    Row("Ratings.take", of(ratings, "take", rows=[0, 1]), {"rows": column(None, below=12, integers=True)}),
    Row("Ratings.with_values", of(ratings, "with_values", values=VALUES), {"values": column(12)}),
    Row(
        "Ratings.split",
        of(ratings, "split", fractions=(0.5, 0.5), seed=0),
        {"fractions": lambda value: BAD if column(None)(value) == BAD else EITHER, "seed": SEED}
        | {"by": word("rating", "user")},
    ),
    Row(
        "Ratings.batches",
        of(ratings, "batches", batch_size=3, generator=torch.Generator()),
        {"batch_size": count(1, EITHER), "generator": a(torch.Generator)},
    ),
    Row(
        "TrainConfig",
        on(TrainConfig),
        {"loss": LOSS, "optimizer": word("adam", "adamw", "sgd"), "lr": POSITIVE, "batch_size": optional(SIZE)}
        | {"epochs": SIZE, "l2": optional(STRENGTH), "l1": STRENGTH, "penalty": PENALTY, "reduction": REDUCTION}
        | {"delta": optional(POSITIVE), "clip_norm": optional(POSITIVE), "weight_decay": STRENGTH, "seed": SEED}
        | {"momentum": number(least=0, below=1e-300), "patience": optional(SIZE)},
    ),
    Row(
        "train",
        on(mfkit.train, model=model, ratings=ratings, config=QUICK),
        RUN
        | {"config": optional(CONFIG), "validation": optional(RATINGS), "on_step": optional(function)}
        | {"checkpoint": lambda value: judge(value is None or isinstance(value, str) or hasattr(value, "__fspath__"))}
        | {"resume": flag},
    ),
    Row(
        "rmse",
        on(mfkit.rmse, model=model, ratings=ratings),
        {"model": MODULE, "ratings": RATINGS, "clip": clip, "chunk": count(1, EITHER)},
    ),
    Row(
        "fit_als",
        on(mfkit.fit_als, model=model, ratings=ratings, l2=0.1, sweeps=1),
        {"model": MODEL, "ratings": RATINGS, "l2": optional(STRENGTH), "sweeps": SIZE, "loss": word("mse", "huber")}
        | {"start": word("spectral", "random", "model"), "delta": optional(POSITIVE), "dtype": a(torch.dtype)}
        | {"max_bytes": optional(count(2000, EITHER)), "seed": SEED, "on_sweep": optional(function)},
    ),
    Row(
        "sample_posterior",
        on(mfkit.sample_posterior, model=model, ratings=ratings, samples=1, burn_in=0),
        {"model": MODEL, "ratings": RATINGS, "samples": SIZE, "burn_in": count(0), "seed": SEED}
        | {"noise_std": optional(POSITIVE), "prior_std": optional(POSITIVE), "max_bytes": optional(count(2000, EITHER))}
        | {"on_sample": optional(function)},
    ),
    Row(
        "diagnose",
        on(mfkit.diagnose, model=model, ratings=ratings, batch_size=4),
        {"model": MODULE, "ratings": RATINGS, "batch_size": count(1, EITHER), "l2": optional(STRENGTH)}
        | {"optimizer": optional(a(torch.optim.Optimizer)), "reduction": REDUCTION, "loader": optional(a(DataLoader))}
        | {"penalty": PENALTY, "loss": lambda value: GOOD if callable(value) else LOSS(value)}
        | {"clip_norm": optional(POSITIVE), "memory": optional(number(above=0, infinite=EITHER))},
    ),
    Row(
        "tune",
        on(mfkit.tune, train=ratings, validation=ratings, config=QUICK, sampler="random", n_trials=1),
        {"train": RATINGS, "validation": RATINGS, "config": optional(CONFIG), "space": space, "make_model": function}
        | {"sampler": word("tpe", "random", "gp", "grid"), "n_trials": SIZE, "study": a(str), "seed": SEED}
        | {"storage": lambda value: judge(value is None or isinstance(value, str) or hasattr(value, "__fspath__"))}
        | {"made_with": optional(a(dict))},
    ),
    Row("movielens", on(mfkit.movielens, name="100k"), {"name": word(*SOURCES)}),
    Row(
        "synthetic",
        on(mfkit.synthetic, n_users=5, n_items=6, n_ratings=10, rank=2),
        {"n_users": count(2, BAD), "n_items": count(2, BAD), "n_ratings": count(1, BAD), "rank": count(1, BAD)}
        | {"noise": STRENGTH, "seed": SEED, "stars": flag},
    ),
    Row("Truth", lambda: (mfkit.synthetic(5, 6, 10, 2)[1].__call__, {"ratings": ratings()}), {"ratings": RATINGS}),
    Row(
        "Truth.noise_floor",
        lambda: (mfkit.synthetic(5, 6, 10, 2)[1].noise_floor, {"ratings": ratings()}),
        {"ratings": RATINGS},
    ),
    Row("mse", on(losses.mse, **PAIR), {"prediction": tensor, "target": tensor}),
    Row("mae", on(losses.mae, **PAIR), {"prediction": tensor, "target": tensor}),
    Row(
        "huber",
        on(losses.huber, **PAIR),
        {"prediction": tensor, "target": tensor, "delta": number(above=0, infinite=GOOD)}
        | {"scale": word("mse", "torch")},
    ),
    Row("losses.error", on(losses.error, **PAIR), {"prediction": tensor, "target": tensor}),
    Row("losses.power_sum", on(losses.power_sum, tensors=parameters, p=2), {"tensors": TENSORS, "p": one_or_two}),
    Row(
        "clip_grad_norm_",
        on(clipping.clip_grad_norm_, parameters=parameters, max_norm=1.0),
        {"parameters": TENSORS, "max_norm": number(above=0, infinite=GOOD)},
    ),
    Row("clipping.grad_norm", on(clipping.grad_norm, parameters=parameters), {"parameters": TENSORS}),
    Row(
        "clipping.clip_coefficient",
        on(clipping.clip_coefficient, norm=torch.tensor(2.0), max_norm=1.0),
        {"norm": a(Tensor), "max_norm": number(above=0, infinite=GOOD)},
    ),
    Row(
        "optimizers.RowAdam",
        on(optimizers.RowAdam, params=parameters),
        {"params": PARAMETERS, "lr": POSITIVE, "betas": numbers_between, "eps": STRENGTH, "weight_decay": STRENGTH},
    ),
    Row(
        "optimizers.RowSGD",
        on(optimizers.RowSGD, params=parameters),
        {"params": PARAMETERS, "lr": POSITIVE, "momentum": number(least=0, below=1), "weight_decay": STRENGTH},
    ),
    Row(
        "optimizers.RowSGD.watch",
        lambda: (optimizers.RowSGD(parameters()).watch, {"model": model()}),
        {"model": MODULE},
    ),
    Row(
        "optimizers.prox_l1_",
        on(optimizers.prox_l1_, tensors=parameters, thresholds=[0.1, 0.2]),
        {"tensors": lambda value: BAD, "thresholds": thresholds},
    ),
    Row(
        "initializers.factor_std",
        on(initializers.factor_std, n_factors=D),
        {"n_factors": SIZE, "prediction_std": POSITIVE},
    ),
    Row("initializers.normal_", on(initializers.normal_, model=model), {"model": MODEL, "std": STRENGTH, "seed": SEED}),
    Row("initializers.xavier_", on(initializers.xavier_, model=model), {"model": MODEL, "seed": SEED}),
    Row("initializers.he_", on(initializers.he_, model=model), {"model": MODEL, "seed": SEED}),
    Row(
        "initializers.scaled_",
        on(initializers.scaled_, model=model),
        {"model": MODEL, "prediction_std": POSITIVE, "seed": SEED},
    ),
    Row(
        "initializers.spectral_",
        on(initializers.spectral_, model=model, ratings=ratings),
        {"model": MODEL, "ratings": RATINGS, "l2": STRENGTH, "powers": SIZE},
    ),
    Row(
        "predict.prediction_std",
        on(predict.prediction_std, n_factors=D, user_std=0.1, item_std=0.1),
        {"n_factors": count(0, EITHER), "user_std": STRENGTH, "item_std": STRENGTH},
    ),
    Row("predict.top_mode", on(predict.top_mode, ratings=ratings), {"ratings": RATINGS, "mean": optional(number())}),
    Row(
        "predict.escape_time",
        on(predict.escape_time, ratings=ratings, n_factors=D, user_std=0.1, item_std=0.1, lr=0.1),
        {"ratings": RATINGS, "n_factors": count(1, EITHER), "user_std": STRENGTH, "item_std": STRENGTH, "lr": POSITIVE}
        | {"mean": optional(number())},
    ),
    Row(
        "predict.collapse_l2",
        on(predict.collapse_l2, ratings=ratings),
        {"ratings": RATINGS, "penalty": PENALTY, "residual": flag, "scale": optional(POSITIVE)},
    ),
    Row(
        "predict.top_singular_value",
        on(predict.top_singular_value, ratings=ratings, values=np.array(VALUES), penalty="per_table"),
        {"ratings": RATINGS, "values": column(12), "penalty": PENALTY},
    ),
    Row(
        "predict.bias_residual",
        on(predict.bias_residual, ratings=ratings, l2=0.1),
        {"ratings": RATINGS, "l2": STRENGTH},
    ),
    Row("predict.sharpness", on(predict.sharpness, ratings=ratings, n_factors=D, scale=0.1), SPREADS),
    Row("predict.max_stable_lr", on(predict.max_stable_lr, ratings=ratings, n_factors=D, scale=0.1), SPREADS),
    Row("predict.huber_efficiency", on(predict.huber_efficiency, k=1.0), {"k": number(above=0, infinite=GOOD)}),
    Row(
        "predict.state_bytes",
        on(predict.state_bytes, model=model),
        {"model": MODULE, "optimizer": word("adam", "adamw", "sgd", "momentum")},
    ),
    Row("predict.peak_bytes", on(predict.peak_bytes, function=lambda: torch.ones(3)), {"function": function}),
    Row(
        "predict.dry_step",
        on(predict.dry_step, model=model, batch_size=4),
        {"model": MODULE, "batch_size": count(1, EITHER), "loss": optional(function)},
    ),
    Row(
        "measure.prediction_std",
        on(measure.prediction_std, model=model, ratings=ratings),
        {"model": MODULE, "ratings": RATINGS},
    ),
    Row(
        "measure.minimum",
        on(measure.minimum, ratings=ratings, l2=0.1),
        {"ratings": RATINGS, "l2": STRENGTH, "penalty": PENALTY, "n_factors": SIZE, "biases": flag, "std": STRENGTH}
        | {"seed": SEED},
    ),
    Row(
        "measure.largest_interaction",
        on(measure.largest_interaction, model=model, ratings=ratings),
        {"model": MODEL, "ratings": RATINGS},
    ),
    Row(
        "measure.collapse_l2",
        on(measure.collapse_l2, ratings=ratings, precision=0.5),
        {"ratings": RATINGS, "penalty": PENALTY, "residual": flag, "precision": POSITIVE, "seed": SEED}
        | {"scale": optional(POSITIVE)},
    ),
    Row(
        "measure.learning_curve",
        on(measure.learning_curve, model=model, ratings=ratings, config=QUICK, validation=ratings, test=ratings),
        RUN | {"validation": RATINGS, "test": RATINGS},
    ),
    Row(
        "measure.is_stable",
        on(measure.is_stable, model=model, ratings=ratings, config=QUICK, steps=2),
        RUN | {"steps": SIZE},
    ),
    Row(
        "measure.escape_time",
        on(measure.escape_time, model=model, ratings=ratings, config=QUICK, steps=2),
        RUN | {"steps": SIZE, "mean": optional(number())},
    ),
    Row(
        "measure.max_stable_lr",
        on(measure.max_stable_lr, make_model=lambda: model(), ratings=ratings, config=SGD, steps=20, ratio=2.0),
        {"make_model": function, "ratings": RATINGS, "config": CONFIG, "steps": SIZE, "ratio": number(above=1)},
    ),
    Row(
        "measure.sharpness",
        on(measure.sharpness, model=model, ratings=ratings, config=QUICK),
        RUN | {"iterations": SIZE, "tolerance": STRENGTH},
    ),
    Row(
        "measure.state_bytes",
        on(measure.state_bytes, model=model, optimizer=torch.optim.SGD(parameters())),
        {"model": MODULE, "optimizer": a(torch.optim.Optimizer)},
    ),
    Row(
        "measure.peak_bytes",
        on(measure.peak_bytes, function=lambda: torch.ones(3)),
        {"function": function, "device": word("cpu", others=(int,))},
    ),
    Row(
        "figures.claim",
        on(figures.claim, id="one-is-one", statement="One is one.", predicted=1.0, measured=1.0),
        {"id": lambda value: EITHER if isinstance(value, str) else BAD, "statement": a(str), "predicted": prediction}
        | {"measured": prediction, "tolerance": STRENGTH, "repeat": STRENGTH},
    ),
    Row(
        "figures.save",
        on(figures.save, fig=Figure(), id="99_fuzz", data=frame, claims=claims, caption="A caption."),
        {"fig": a(Figure), "id": word("99_fuzz"), "data": a(pd.DataFrame), "claims": every(a(records.Claim))}
        | {
            "caption": a(str),
            "config": settings,
            "seeds": every(count(0, EITHER)),
            "tolerance": STRENGTH,
            "timing": flag,
        },
    ),
]
