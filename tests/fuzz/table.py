"""Every public function with a good call, and every argument with what it may be. The rest is bad."""

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Number
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
)
from mfkit import tuning as _tuning
from mfkit.catalogue import NewUser
from mfkit.lab import figures, records
from mfkit.movielens import SOURCES
from tests.fuzz.kinds import (
    BAD,
    EITHER,
    GOOD,
    Kind,
    a,
    anything,
    column,
    count,
    every,
    flag,
    function,
    judge,
    number,
    optional,
    unboxed,
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


def somebody_new() -> NewUser:
    return model().fold_in([0, 1], [3.0, 4.0], l2=0.1)


def truth() -> Callable:
    return mfkit.synthetic(5, 6, 10, 2)[1]


def frame() -> pd.DataFrame:
    return pd.DataFrame({"user": USERS, "item": ITEMS, "rating": VALUES, "when": range(len(VALUES))})


def both() -> dict[str, Any]:
    return {"model": model()} | ON


def run() -> dict[str, Any]:
    return both() | {"config": QUICK}


ON = {"ratings": ratings()}
PAIR = {"prediction": torch.ones(3), "target": torch.zeros(3)}
SPREAD = ON | {"n_factors": D, "scale": 0.1}
CLAIMS = [records.claim("theorem", "one-is-one", "One is one.", 1.0, 1.0)]
SGD = TrainConfig.textbook(optimizer="sgd", lr=0.1)
TUNED = {"train": ratings(), "validation": ratings(), "config": QUICK, "sampler": "random", "n_trials": 1}
CALLS: dict[
    str, Callable[[], tuple[Callable, dict[str, Any]]]
] = {  # a function and good arguments; models are new ones
    "MatrixFactorization": lambda: (MatrixFactorization, {"n_users": M, "n_items": N_ITEMS, "n_factors": D}),
    "MatrixFactorization.use_units": lambda: (model().use_units, ON),
    "MatrixFactorization.predict": lambda: (model().predict, {"users": [0, 1], "items": [2, 3]}),
    "MatrixFactorization.top_k": lambda: (model().top_k, {"users": [0, 1], "k": 2}),
    "MatrixFactorization.of": lambda: (MatrixFactorization.of, ON | {"n_factors": D}),
    "MatrixFactorization.user_rows": lambda: (model().user_rows, {"ids": [0, 1]}),
    "MatrixFactorization.item_rows": lambda: (model().item_rows, {"ids": [0, 1]}),
    "MatrixFactorization.recommend": lambda: (model().recommend, {"user": 0, "exclude": ratings()}),
    "MatrixFactorization.similar": lambda: (model().similar, {"item": 0}),
    "MatrixFactorization.fold_in": lambda: (model().fold_in, {"items": [0, 1], "ratings": [3.0, 4.0], "l2": 0.1}),
    "MatrixFactorization.save": lambda: (model().save, {"path": "model"}),
    "load": lambda: (mfkit.load, {"path": "model"}),  # which the line above has saved
    "NewUser.predict": lambda: (somebody_new().predict, {"items": [0, 1]}),
    "NewUser.recommend": lambda: (somebody_new().recommend, {}),
    "Posterior.predict": lambda: (posterior().predict, {"users": torch.tensor([0, 1]), "items": torch.tensor([2, 3])}),
    "Ratings": lambda: (Ratings, {"users": USERS, "items": ITEMS, "values": VALUES, "n_users": M, "n_items": N_ITEMS}),
    "Ratings.from_frame": lambda: (Ratings.from_frame, {"frame": frame()}),
    "Ratings.to": lambda: (ratings().to, {"device": "cpu"}),
    "Ratings.take": lambda: (ratings().take, {"rows": [0, 1]}),
    "Ratings.with_values": lambda: (ratings().with_values, {"values": VALUES}),
    "Ratings.split": lambda: (ratings().split, {"fractions": (0.5, 0.5), "seed": 0}),
    "Ratings.batches": lambda: (ratings().batches, {"batch_size": 3, "generator": torch.Generator()}),
    "TrainConfig": lambda: (TrainConfig, {}),
    "train": lambda: (mfkit.train, run()),
    "rmse": lambda: (mfkit.rmse, both()),
    "fit_als": lambda: (mfkit.fit_als, both() | {"l2": 0.1, "sweeps": 1}),
    "sample_posterior": lambda: (mfkit.sample_posterior, both() | {"samples": 1, "burn_in": 0}),
    "diagnose": lambda: (mfkit.diagnose, both() | {"batch_size": 4}),
    "tune": lambda: (mfkit.tune, TUNED),
    "movielens": lambda: (mfkit.movielens, {"name": "100k"}),
    "synthetic": lambda: (mfkit.synthetic, {"n_users": 5, "n_items": 6, "n_ratings": 10, "rank": 2}),
    "Truth": lambda: (truth().__call__, ON),
    "Truth.noise_floor": lambda: (truth().noise_floor, ON),
    "mse": lambda: (losses.mse, PAIR),
    "mae": lambda: (losses.mae, PAIR),
    "huber": lambda: (losses.huber, PAIR),
    "losses.error": lambda: (losses.error, PAIR),
    "losses.power_sum": lambda: (losses.power_sum, {"tensors": parameters(), "p": 2}),
    "clip_grad_norm_": lambda: (clipping.clip_grad_norm_, {"parameters": parameters(), "max_norm": 1.0}),
    "clipping.grad_norm": lambda: (clipping.grad_norm, {"parameters": parameters()}),
    "clipping.clip_coefficient": lambda: (clipping.clip_coefficient, {"norm": torch.tensor(2.0), "max_norm": 1.0}),
    "optimizers.RowAdam": lambda: (optimizers.RowAdam, {"params": parameters()}),
    "optimizers.RowSGD": lambda: (optimizers.RowSGD, {"params": parameters()}),
    "optimizers.RowSGD.watch": lambda: (optimizers.RowSGD(parameters()).watch, {"model": model()}),
    "optimizers.prox_l1_": lambda: (optimizers.prox_l1_, {"tensors": parameters(), "thresholds": [0.1, 0.2]}),
    "initializers.factor_std": lambda: (initializers.factor_std, {"n_factors": D}),
    "initializers.normal_": lambda: (initializers.normal_, {"model": model()}),
    "initializers.xavier_": lambda: (initializers.xavier_, {"model": model()}),
    "initializers.he_": lambda: (initializers.he_, {"model": model()}),
    "initializers.scaled_": lambda: (initializers.scaled_, {"model": model()}),
    "initializers.spectral_": lambda: (initializers.spectral_, both()),
    "predict.prediction_std": lambda: (predict.prediction_std, {"n_factors": D, "user_std": 0.1, "item_std": 0.1}),
    "predict.top_mode": lambda: (predict.top_mode, ON),
    "predict.escape_time": lambda: (
        predict.escape_time,
        ON | {"n_factors": D, "user_std": 0.1, "item_std": 0.1, "lr": 0.1},
    ),
    "predict.collapse_l2": lambda: (predict.collapse_l2, ON),
    "predict.top_singular_value": lambda: (
        predict.top_singular_value,
        ON | {"values": np.array(VALUES), "penalty": "per_table"},
    ),
    "predict.bias_residual": lambda: (predict.bias_residual, ON | {"l2": 0.1}),
    "predict.best_l2": lambda: (predict.best_l2, ON | {"noise_std": 0.5}),
    "predict.sharpness": lambda: (predict.sharpness, SPREAD),
    "predict.max_stable_lr": lambda: (predict.max_stable_lr, SPREAD),
    "predict.huber_efficiency": lambda: (predict.huber_efficiency, {"k": 1.0}),
    "predict.huber_variance": lambda: (predict.huber_variance, {"k": 1.0, "share": 0.1, "size": 3.0}),
    "predict.huber_break_even": lambda: (predict.huber_break_even, {"share": 0.1}),
    "predict.state_bytes": lambda: (predict.state_bytes, {"model": model()}),
    "predict.peak_bytes": lambda: (predict.peak_bytes, {"function": lambda: torch.ones(3)}),
    "predict.dry_step": lambda: (predict.dry_step, {"model": model(), "batch_size": 4}),
    "measure.prediction_std": lambda: (measure.prediction_std, both()),
    "measure.minimum": lambda: (measure.minimum, ON | {"l2": 0.1}),
    "measure.largest_interaction": lambda: (measure.largest_interaction, both()),
    "measure.collapse_l2": lambda: (measure.collapse_l2, ON | {"precision": 0.5}),
    "measure.learning_curve": lambda: (measure.learning_curve, run() | {"validation": ratings(), "test": ratings()}),
    "measure.is_stable": lambda: (measure.is_stable, run() | {"steps": 2}),
    "measure.escape_time": lambda: (measure.escape_time, run() | {"steps": 2}),
    "measure.max_stable_lr": lambda: (
        measure.max_stable_lr,
        ON | {"make_model": model, "config": SGD, "steps": 20, "ratio": 2.0},
    ),
    "measure.sharpness": lambda: (measure.sharpness, run()),
    "measure.state_bytes": lambda: (
        measure.state_bytes,
        {"model": model(), "optimizer": torch.optim.SGD(parameters())},
    ),
    "measure.peak_bytes": lambda: (measure.peak_bytes, {"function": lambda: torch.ones(3)}),
    "figures.claim": lambda: (
        figures.claim,
        {"kind": "theorem", "id": "one-is-one", "statement": "One is one.", "predicted": 1.0, "measured": 1.0},
    ),
    "figures.publish": lambda: (
        figures.publish,
        {"fig": Figure(), "id": "99_fuzz", "data": frame(), "claims": CLAIMS, "caption": "A caption."},
    ),
}


def tensor(value: Any) -> str:
    """A vector of three real numbers, as a tensor."""
    fits = isinstance(value, Tensor) and value.shape == (3,) and not value.is_complex() and value.dtype != torch.bool
    return judge(fits)


def space(value: Any) -> str:
    fits = isinstance(value, Mapping) and all(
        name in _tuning.SPACE | vars(QUICK) and isinstance(values, list | tuple) for name, values in value.items()
    )
    return judge(value is None or fits)


def name_of_column(value: Any) -> str:
    return judge(isinstance(value, str) and value in frame().columns)


def clip(value: Any) -> str:
    return (
        GOOD if value is None else EITHER if isinstance(value, list | tuple | np.ndarray) and len(value) == 2 else BAD
    )


def two(value: Any) -> str:
    """Two of something, for two tensors."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        return BAD
    return EITHER if isinstance(value, list | tuple | np.ndarray | Tensor) and len(value) == 2 else BAD


def measured(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return GOOD if math.isfinite(value) else EITHER
    return EITHER if isinstance(value, str | bool | np.generic | np.ndarray | Tensor) else BAD


def betas(value: Any) -> str:
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    return judge(is_pair and all(number(least=0, below=1)(x) != BAD for x in value))


def one_id(below: int) -> Kind:
    """One of 0, 1, ...; what equals one of them may do."""

    def kind(value: Any) -> str:
        value = unboxed(value)
        return EITHER if isinstance(value, Number) and value in range(below) else BAD

    return kind


def ids(below: int) -> Kind:
    def kind(value: Any) -> str:
        if isinstance(value, str | bytes | Mapping | set) or not np.iterable(value):
            return BAD
        return EITHER if all(one_id(below)(x) == EITHER for x in value) else BAD

    return kind


def path(value: Any) -> str:
    """A path; one that is there or not, so that it may be refused."""
    return EITHER if isinstance(value, str | bytes) or hasattr(value, "__fspath__") else BAD


RATINGS, MODULE, MODEL, CONFIG = a(Ratings), a(nn.Module), a(MatrixFactorization), a(TrainConfig)
SEED, SIZE, POSITIVE, STRENGTH = count(0, EITHER), count(1), number(above=0), number(least=0)
PENALTY, MERGE, TABLES = word("per_rating", "per_table"), word("error", "mean", "last"), every(a(Tensor))
POSSIBLY_INFINITE, OPTIMIZERS = number(above=0, infinite=GOOD), word("adam", "adamw", "sgd", "momentum")
TWO_USERS, TWO_ITEMS = column(2, below=M, integers=True), column(2, below=N_ITEMS, integers=True)
KINDS: dict[str, Kind] = {  # by argument; by function.argument where one differs
    **{"model": MODULE, "ratings": RATINGS, "config": CONFIG, "validation": optional(RATINGS), "test": RATINGS},
    **{"n_factors": count(1, EITHER), "n_users": count(1, BAD), "n_items": count(1, BAD), "mean": optional(number())},
    **{"penalty": PENALTY, "reduction": word("mean", "sum"), "biases": flag, "residual": flag, "seed": SEED, "k": SIZE},
    **{"l2": STRENGTH, "l1": STRENGTH, "std": STRENGTH, "user_std": STRENGTH, "item_std": STRENGTH, "lr": POSITIVE},
    **{"scale": STRENGTH, "prediction_std": POSITIVE, "batch_size": count(1, EITHER), "chunk": count(1, EITHER)},
    **{"steps": SIZE, "iterations": SIZE, "tolerance": STRENGTH, "ratio": number(above=1), "precision": POSITIVE},
    **{"make_model": function, "function": function, "device": word("cpu", others=(int,)), "users": TWO_USERS},
    **{"items": TWO_ITEMS, "values": column(12), "duplicates": MERGE, "powers": SIZE, "loss": optional(function)},
    **{"weight_decay": STRENGTH, "eps": STRENGTH, "betas": betas, "params": every(a(Tensor, dict)), "caption": a(str)},
    **{"tensors": TABLES, "parameters": TABLES, "max_norm": POSSIBLY_INFINITE, "prediction": tensor, "target": tensor},
    **{"delta": optional(POSITIVE), "clip_norm": optional(POSITIVE), "max_bytes": optional(count(2000, EITHER))},
    **{"sweeps": SIZE, "samples": SIZE, "burn_in": count(0), "on_sweep": optional(function), "clip": clip},
    **{"on_step": optional(function), "on_sample": optional(function), "measured": measured, "predicted": measured},
    **{"optimizer": OPTIMIZERS, "noise_std": optional(POSITIVE), "prior_std": optional(POSITIVE), "timing": flag},
    "MatrixFactorization.n_factors": count(0, BAD),
    "MatrixFactorization.scale": optional(POSITIVE),
    "MatrixFactorization.sparse": flag,
    "MatrixFactorization.top_k.users": column(None, below=M, integers=True),
    "MatrixFactorization.top_k.k": count(1, BAD),
    "MatrixFactorization.top_k.exclude": optional(RATINGS),
    "MatrixFactorization.of.mean": optional(number()),
    "MatrixFactorization.of.scale": optional(POSITIVE),
    "MatrixFactorization.of.sparse": flag,
    "MatrixFactorization.of.n_factors": count(0, BAD),
    "MatrixFactorization.user_rows.ids": ids(M),
    "MatrixFactorization.item_rows.ids": ids(N_ITEMS),
    "MatrixFactorization.recommend.user": one_id(M),
    "MatrixFactorization.recommend.exclude": optional(RATINGS),
    "MatrixFactorization.similar.item": one_id(N_ITEMS),
    "MatrixFactorization.fold_in.items": ids(N_ITEMS),
    "MatrixFactorization.fold_in.ratings": column(2),
    "MatrixFactorization.save.path": path,
    "load.path": path,
    "NewUser.predict.items": ids(N_ITEMS),
    "predict.best_l2.noise_std": STRENGTH,
    "Ratings.users": column(12, below=M, integers=True),
    "Ratings.items": column(12, below=N_ITEMS, integers=True),
    "Ratings.n_users": count(M),
    "Ratings.n_items": count(N_ITEMS),
    "Ratings.user_ids": optional(column(M)),
    "Ratings.item_ids": optional(column(N_ITEMS)),
    "Ratings.from_frame.frame": a(pd.DataFrame),
    "Ratings.from_frame.user": name_of_column,
    "Ratings.from_frame.item": name_of_column,
    "Ratings.from_frame.rating": name_of_column,
    "Ratings.from_frame.time": optional(name_of_column),
    "Ratings.from_frame.like": optional(RATINGS),
    "Ratings.from_frame.unknown": word("error", "drop"),
    "Ratings.from_frame.missing": anything,
    "Ratings.take.rows": column(None, below=12, integers=True),
    "Ratings.split.fractions": lambda value: BAD if column(None)(value) == BAD else EITHER,
    "Ratings.split.by": word("rating", "user"),
    "Ratings.batches.generator": a(torch.Generator),
    "TrainConfig.loss": word("mse", "mae", "huber"),
    "TrainConfig.optimizer": word("adam", "adamw", "sgd"),
    "TrainConfig.batch_size": optional(SIZE),
    "TrainConfig.epochs": SIZE,
    "TrainConfig.l2": optional(STRENGTH),
    "TrainConfig.momentum": number(least=0, below=1e-300),  # the default optimizer has none
    "TrainConfig.patience": optional(SIZE),
    "train.config": optional(CONFIG),
    "train.checkpoint": optional(path),
    "train.resume": flag,
    "fit_als.model": MODEL,
    "fit_als.l2": optional(STRENGTH),
    "fit_als.start": word("spectral", "random", "model"),
    "fit_als.loss": word("mse", "huber"),
    "fit_als.dtype": a(torch.dtype),
    "sample_posterior.model": MODEL,
    "diagnose.l2": optional(STRENGTH),
    "diagnose.loss": lambda value: GOOD if callable(value) else word("mse", "mae", "huber")(value),
    "diagnose.optimizer": optional(a(torch.optim.Optimizer)),
    "diagnose.loader": optional(a(DataLoader)),
    "diagnose.memory": optional(number(above=0, infinite=EITHER)),
    "tune.train": RATINGS,
    "tune.validation": RATINGS,
    "tune.config": optional(CONFIG),
    "tune.space": space,
    "tune.sampler": word("tpe", "random", "gp", "grid"),
    "tune.n_trials": SIZE,
    "tune.study": a(str),
    "tune.storage": optional(path),
    "tune.made_with": optional(a(dict)),
    "movielens.name": word(*SOURCES),
    "synthetic.n_ratings": count(1, BAD),
    "synthetic.rank": count(1, BAD),
    "synthetic.noise": STRENGTH,
    "synthetic.stars": flag,
    "huber.delta": POSSIBLY_INFINITE,
    "huber.scale": word("mse", "torch"),
    "losses.power_sum.p": lambda value: EITHER if count()(value) == GOOD and value in (1, 2) else BAD,
    "clipping.clip_coefficient.norm": a(Tensor),
    "optimizers.RowSGD.momentum": number(least=0, below=1),
    "optimizers.prox_l1_.tensors": lambda value: BAD,
    "optimizers.prox_l1_.thresholds": two,
    **{f"initializers.{name}_.model": MODEL for name in ("normal", "xavier", "he", "scaled", "spectral")},
    "predict.prediction_std.n_factors": count(0, EITHER),
    "predict.collapse_l2.scale": optional(POSITIVE),
    "measure.collapse_l2.scale": optional(POSITIVE),
    "predict.sharpness.batch_size": optional(count(1, EITHER)),
    "predict.max_stable_lr.batch_size": optional(count(1, EITHER)),
    "predict.huber_efficiency.k": POSSIBLY_INFINITE,
    "predict.huber_variance.k": POSITIVE,
    "predict.huber_variance.size": STRENGTH,
    "predict.huber_variance.share": number(least=0, below=1),
    "predict.huber_break_even.k": POSITIVE,
    "predict.huber_break_even.share": number(least=0, below=1),
    "measure.largest_interaction.model": MODEL,
    "measure.learning_curve.validation": RATINGS,
    "measure.state_bytes.optimizer": a(torch.optim.Optimizer),
    "measure.minimum.n_factors": SIZE,
    "figures.claim.kind": word(*records.KINDS),
    "figures.claim.id": lambda value: EITHER if isinstance(value, str) else BAD,
    "figures.claim.statement": a(str),
    "figures.claim.repeat": STRENGTH,
    "figures.publish.id": word("99_fuzz"),
    "figures.publish.fig": a(Figure),
    "figures.publish.data": a(pd.DataFrame),
    "figures.publish.claims": every(a(records.Claim)),
    "figures.publish.seeds": every(count(0, EITHER)),
    "figures.publish.alt": optional(a(str)),
    "figures.publish.numbers": lambda value: EITHER if isinstance(value, Mapping) else optional(a(dict))(value),
    "figures.publish.config": lambda value: EITHER if isinstance(value, dict) else optional(CONFIG)(value),
}
PASSED_ON = {  # what ** stands for
    "tune": ("sampler", "n_trials", "study", "seed", "storage", "made_with"),
    "MatrixFactorization.of": ("mean", "scale", "biases", "sparse"),
}


def arguments(name: str) -> list[str]:
    """The names that the function takes, but for *, ** and self."""
    named = inspect.signature(CALLS[name]()[0]).parameters.values()
    taken = [p.name for p in named if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return [*taken, *PASSED_ON.get(name, ())]


def kind_of(name: str, argument: str) -> Kind:
    return KINDS.get(f"{name}.{argument}") or KINDS[argument]
