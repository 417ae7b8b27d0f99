"""Search on Optuna for the settings with the least RMSE on validation ratings, in processes that may be killed.

A study is n_trials slots, each with a sampler seeded by (seed, slot): killed and resumed, it is the study that was
never interrupted. Whoever works on a slot holds its lock, which the system takes back when the process dies.
"""

import itertools
import math
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace

import torch
from filelock import FileLock, Timeout

from mfkit import predict, trainer
from mfkit.config import TrainConfig
from mfkit.data import Ratings
from mfkit.evaluate import rmse
from mfkit.model import MatrixFactorization

SAMPLERS = {"grid": "RandomSampler", "random": "RandomSampler", "tpe": "TPESampler", "gp": "GPSampler"}
SPACE = {"lr": (1e-3, 0.3), "l2_over_collapse": (0.03, 1.0), "n_factors": (2, 64)}  # lr: Adam's


def tune(train: Ratings, validation: Ratings, *, config=None, space=None, make_model=MatrixFactorization, **options):
    """Train on `train`, score on `validation`; returns Optuna's Study. Judge its best on a third part, unseen here.

    config: whose fields the settings replace (TrainConfig()). make_model: called as its default is, after seeding.
    space, options: `search`'s. l2_over_collapse: l2 in units of predict.collapse_l2(train, residual=True).
    study.best_params; study.best_trial.user_attrs["config"]: TrainConfig's fields; study.trials_dataframe(): all.
    A run that diverges (user_attrs["diverged"] says how), or does worse than predicting the mean, scores as the mean
    does: a value, as the Gaussian process learns from complete trials only, and no huge one, which would blind it.
    """
    for name, part in (("train", train), ("validation", validation)):
        if not isinstance(part, Ratings):
            raise TypeError(f"{name} must be a Ratings, got {type(part).__name__}")
    config, space = config or TrainConfig(), space or SPACE
    if unknown := sorted(space.keys() - SPACE.keys() - asdict(config).keys()):
        raise ValueError(f"space must name n_factors, l2_over_collapse or fields of TrainConfig, got {unknown}")
    unit = predict.collapse_l2(train, config.penalty, residual=True) if "l2_over_collapse" in space else 0.0
    worst = (validation.values.double() - train.mean).square().mean().sqrt().item()

    def run(trial) -> float:
        given = trial.params | ({"l2": trial.params["l2_over_collapse"] * unit} if unit else {})
        setting = replace(config, **{name: x for name, x in given.items() if name in asdict(config)})
        trial.set_user_attr("config", asdict(setting))
        with torch.random.fork_rng([]):
            torch.manual_seed(setting.seed)
            model = make_model(train.n_users, train.n_items, given.get("n_factors", 20), mean=train.mean)
        try:
            trainer.train(model, train, setting, validation=validation if setting.patience else None)
        except trainer.DivergenceError as error:
            trial.set_user_attr("diverged", str(error))
            return worst
        trial.set_user_attr("rmse", rmse(model, validation))
        return min(worst, trial.user_attrs["rmse"])

    parts = {name: f"{x}, mean {x.mean:.9g}" for name, x in (("train", train), ("validation", validation))}
    return search(run, space, made_with=parts | {"config": repr(config)}, **options)


def search(objective, space, *, sampler="tpe", n_trials=30, storage=None, study="mfkit", seed=0, made_with=None):
    """Minimise objective(trial), given an Optuna trial with .params; returns the Study.

    space: by name a (low, high), searched in the logarithm, or a list of choices. sampler: "random"; "tpe" or "gp",
        ten random trials first; "grid", the middles of as many equal parts of each range as n_trials allows.
    n_trials: of the study, in all. storage: an SQLite file, made where there is none; it holds `study`, and refuses
        other arguments (ValueError). Processes may call this at once: each returns when all trials are finished.
    """
    import optuna  # takes a second

    if sampler not in SAMPLERS or not isinstance(n_trials, int) or n_trials < 1:
        known = ", ".join(SAMPLERS)
        raise ValueError(f"sampler must be one of {known}, n_trials at least 1, got {sampler!r} and {n_trials!r}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {name: _distribution(name, values) for name, values in space.items()}
    points = _grid(kinds, n_trials) if sampler == "grid" else [{}] * n_trials
    if len(points) > n_trials:
        raise ValueError(f"n_trials must be at least {len(points)}, the choices in space, for a grid, got {n_trials}")
    facts = {"sampler": sampler, "seed": seed, "space": repr(space), "grid points": len(points) if points[0] else None}

    def lock(name, timeout):
        return FileLock(f"{storage}.locks/{name}", timeout=timeout) if storage else nullcontext()

    with lock("study", -1):
        url = f"sqlite:///{storage}" if storage else None
        found = optuna.create_study(storage=url, study_name=study, load_if_exists=True)
        for name, value in (facts | (made_with or {})).items():
            if (known := found.user_attrs.get(name, value)) != value:
                raise ValueError(f"{name} must be {known!r}, as in study {study!r} of {storage}, got {value!r}")
            found.set_user_attr(name, value)

    def slots(state: str) -> dict:
        trials = found.get_trials(deepcopy=False, states=(optuna.trial.TrialState[state],))
        return {trial.user_attrs.get("slot"): trial for trial in trials}

    while left := sorted(set(range(len(points))) - slots("COMPLETE").keys()):
        for slot in left:
            with suppress(Timeout), lock(slot, 0):
                if slot in slots("COMPLETE"):
                    continue
                if dead := slots("RUNNING").get(slot):  # as nobody held its lock
                    found.tell(dead.number, state=optuna.trial.TrialState.FAIL)
                found.sampler = getattr(optuna.samplers, SAMPLERS[sampler])(seed=(1_000_003 * seed + slot) % 2**32)
                if point := points[slot]:
                    found.sampler.sample_independent = lambda study, trial, name, kind, point=point: point[name]
                trial = found.ask(kinds)
                trial.set_user_attr("slot", slot)
                found.tell(trial, objective(trial))
                break
        else:
            time.sleep(0.1)  # others work on what is left
    return found


def _distribution(name: str, values: tuple | list):
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list) and values:
        return CategoricalDistribution(values)
    if not (isinstance(values, tuple) and len(values) == 2 and 0 < values[0] <= values[1] < math.inf):
        raise ValueError(f"space[{name!r}] must be (low, high), 0 < low <= high, or a list of choices, got {values!r}")
    return (IntDistribution if all(isinstance(x, int) for x in values) else FloatDistribution)(*values, log=True)


def _grid(kinds: dict, n_trials: int) -> list[dict]:
    """All choices, and of the ranges as many levels as fit, added where there are fewest."""
    axes = {name: list(getattr(kind, "choices", [0.5])) for name, kind in kinds.items()}
    ranges = {name: (kind.low, kind.high) for name, kind in kinds.items() if hasattr(kind, "low")}
    while more := [x for x in ranges if math.prod(len(axes[y]) + (x == y) for y in axes) <= n_trials]:
        parts = len(axes[(name := min(more, key=lambda x: len(axes[x])))]) + 1
        axes[name] = [(k + 0.5) / parts for k in range(parts)]
    for name, (low, high) in ranges.items():
        levels = [low * (high / low) ** share for share in axes[name]]
        axes[name] = [round(x) for x in levels] if isinstance(low, int) and isinstance(high, int) else levels
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
