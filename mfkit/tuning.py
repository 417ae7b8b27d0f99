"""Search on Optuna for the settings with the least RMSE on validation ratings, in processes that may be killed.

A study is n_trials slots, each with a sampler seeded by (seed, slot): killed and resumed, it is the study that was
never interrupted. Whoever works on a slot holds its lock, which the system takes back when the process dies.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock, Timeout
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import nn

from mfkit import predict, trainer
from mfkit.config import TrainConfig
from mfkit.data import Ratings
from mfkit.evaluate import rmse
from mfkit.model import MatrixFactorization

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution

SAMPLERS = {"random": RandomSampler, "tpe": TPESampler, "gp": GPSampler}
SPACE = {"lr": (1e-3, 0.3), "l2_over_collapse": (0.03, 1.0), "n_factors": (2, 64)}  # lr: Adam's
N_FACTORS = 20  # where the space does not name them


def tune(
    train: Ratings,
    validation: Ratings,
    *,
    config: TrainConfig | None = None,
    space: Mapping[str, tuple | list] | None = None,
    make_model: Callable[..., nn.Module] = MatrixFactorization,
    **options: Any,
) -> optuna.Study:
    """Train on `train`, score on `validation`; returns Optuna's Study. Judge its best on a third part, unseen here.

    config: whose fields the settings replace (TrainConfig()). make_model: called as its default is, after seeding.
    space, options: `search`'s. l2_over_collapse: l2 in units of predict.collapse_l2(train, residual=True).
    study.best_params; study.best_trial.user_attrs["config"]: TrainConfig's fields; study.trials_dataframe(): all.
    A run that diverges (user_attrs["diverged"] says how), or does worse than predicting the mean, scores as the mean
    does: a value, as the Gaussian process learns from complete trials only, and no huge one, which would blind it.
    Raises TypeError for parts that are no Ratings, ValueError for a space with unknown names, and `search`'s.
    """
    for name, part in (("train", train), ("validation", validation)):
        if not isinstance(part, Ratings):
            raise TypeError(f"{name} must be a Ratings, got {type(part).__name__}")
    config, space = config or TrainConfig(), space or SPACE
    fields = asdict(config).keys()
    unknown = sorted(space.keys() - SPACE.keys() - fields)
    if unknown:
        raise ValueError(f"space must name n_factors, l2_over_collapse or fields of TrainConfig, got {unknown}")
    unit = predict.collapse_l2(train, config.penalty, residual=True) if "l2_over_collapse" in space else 0.0
    worst = (validation.values.double() - train.mean).square().mean().sqrt().item()

    def run(trial: Trial) -> float:
        given = dict(trial.params)
        if "l2_over_collapse" in given:
            given["l2"] = given["l2_over_collapse"] * unit
        setting = replace(config, **{name: x for name, x in given.items() if name in fields})
        trial.set_user_attr("config", asdict(setting))
        with torch.random.fork_rng([]):
            torch.manual_seed(setting.seed)
            model = make_model(train.n_users, train.n_items, given.get("n_factors", N_FACTORS), mean=train.mean)
        try:
            trainer.train(model, train, setting, validation=validation if setting.patience else None)
        except trainer.DivergenceError as error:
            trial.set_user_attr("diverged", str(error))
            return worst
        reached = rmse(model, validation)
        trial.set_user_attr("rmse", reached)
        return min(worst, reached)

    parts = {name: f"{x}, mean {x.mean:.9g}" for name, x in (("train", train), ("validation", validation))}
    return search(run, space, made_with=parts | {"config": repr(config)}, **options)


def search(
    objective: Callable[[Trial], float],
    space: Mapping[str, tuple | list],
    *,
    sampler: str = "tpe",
    n_trials: int = 30,
    storage: str | Path | None = None,
    study: str = "mfkit",
    seed: int = 0,
    made_with: Mapping[str, str] | None = None,
) -> optuna.Study:
    """Minimise objective(trial), given an Optuna trial with .params; returns the Study.

    space: by name a (low, high), searched in the logarithm, or a list of choices. sampler: "random"; "tpe" or "gp",
        ten random trials first; "grid", the middles of as many equal parts of each range as n_trials allows.
    n_trials: of the study, in all. storage: an SQLite file, made where there is none; it holds `study`, and refuses
        other arguments or another `made_with`. Processes may call this at once: each returns when all trials are
        finished. Raises ValueError that names argument, value and what was wanted.
    """
    if sampler != "grid" and sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of grid, {', '.join(SAMPLERS)}, got {sampler!r}")
    if not isinstance(n_trials, int) or n_trials < 1:
        raise ValueError(f"n_trials must be a whole number, at least 1, got {n_trials!r}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {name: _distribution(name, values) for name, values in space.items()}
    points = _grid(kinds, n_trials) if sampler == "grid" else None
    if points and len(points) > n_trials:
        raise ValueError(f"n_trials must be at least {len(points)}, the choices in space, for a grid, got {n_trials}")
    facts = {"sampler": sampler, "seed": seed, "space": repr(space), "grid points": len(points) if points else None}
    with _lock(storage, "study", timeout=-1):
        found = _open(storage, study, facts | dict(made_with or {}))

    def sampler_of(slot: int) -> BaseSampler:
        return _Point(points[slot]) if points else SAMPLERS[sampler](seed=(1_000_003 * seed + slot) % 2**32)

    slots = set(range(len(points) if points else n_trials))
    while left := sorted(slots - _slots(found, TrialState.COMPLETE).keys()):
        if not any(_work(found, slot, sampler_of, kinds, objective, storage) for slot in left):
            time.sleep(0.1)  # others work on what is left
    return found


def _lock(storage: str | Path | None, name: str | int, timeout: float) -> AbstractContextManager:
    """The lock of a slot, or of the study, among the processes that share a storage; Timeout where another has it."""
    return FileLock(f"{storage}.locks/{name}", timeout=timeout) if storage else nullcontext()


def _open(storage: str | Path | None, study: str, facts: Mapping[str, Any]) -> optuna.Study:
    """The study, made where there is none; ValueError where it was made with other facts."""
    url = f"sqlite:///{storage}" if storage else None
    found = optuna.create_study(storage=url, study_name=study, load_if_exists=True)
    for name, value in facts.items():
        known = found.user_attrs.get(name, value)
        if known != value:
            raise ValueError(f"{name} must be {known!r}, as in study {study!r} of {storage}, got {value!r}")
        found.set_user_attr(name, value)
    return found


def _slots(found: optuna.Study, state: TrialState) -> dict[int, FrozenTrial]:
    """The study's trials in this state, by slot."""
    trials = found.get_trials(deepcopy=False, states=(state,))
    return {trial.user_attrs["slot"]: trial for trial in trials if "slot" in trial.user_attrs}


def _work(
    found: optuna.Study,
    slot: int,
    sampler_of: Callable[[int], BaseSampler],
    kinds: dict[str, Distribution],
    objective: Callable[[Trial], float],
    storage: str | Path | None,
) -> bool:
    """Fill a slot with a finished trial; False where another process works on it, or has done so."""
    with suppress(Timeout), _lock(storage, slot, timeout=0):
        if slot in _slots(found, TrialState.COMPLETE):
            return False
        dead = _slots(found, TrialState.RUNNING).get(slot)  # as nobody held its lock
        if dead is not None:
            found.tell(dead.number, state=TrialState.FAIL)
        found.sampler = sampler_of(slot)
        trial = found.ask(dict(kinds))
        trial.set_user_attr("slot", slot)
        found.tell(trial, objective(trial))
        return True
    return False


def _distribution(name: str, values: tuple | list) -> Distribution:
    if isinstance(values, list) and values:
        return CategoricalDistribution(values)
    if not (isinstance(values, tuple) and len(values) == 2 and 0 < values[0] <= values[1] < math.inf):
        raise ValueError(f"space[{name!r}] must be (low, high), 0 < low <= high, or a list of choices, got {values!r}")
    low, high = values
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=True)
    return FloatDistribution(low, high, log=True)


class _Point(RandomSampler):
    """Asked for a value, gives this point's."""

    def __init__(self, point: dict[str, Any]):
        super().__init__()
        self.point = point

    def sample_independent(self, study, trial, param_name, param_distribution) -> Any:
        return self.point[param_name]


def _grid(kinds: dict[str, Distribution], n_trials: int) -> list[dict[str, Any]]:
    """All choices, and of the ranges as many levels as fit, added where there are fewest."""
    choices = {name: kind.choices for name, kind in kinds.items() if isinstance(kind, CategoricalDistribution)}
    n_levels = {name: 1 for name in kinds if name not in choices}

    def size_with_one_more(name: str) -> int:
        others = math.prod(n_levels[other] for other in n_levels if other != name)
        return math.prod(len(values) for values in choices.values()) * others * (n_levels[name] + 1)

    while growing := [name for name in n_levels if size_with_one_more(name) <= n_trials]:
        fewest = min(growing, key=lambda name: n_levels[name])
        n_levels[fewest] += 1
    axes = []
    for name, kind in kinds.items():
        axes.append(kind.choices if isinstance(kind, CategoricalDistribution) else _levels(kind, n_levels[name]))
    return [dict(zip(kinds, point, strict=True)) for point in itertools.product(*axes)]


def _levels(kind: FloatDistribution | IntDistribution, count: int) -> list[float]:
    """The middles of so many parts of a range, equal in the logarithm."""
    levels = [kind.low * (kind.high / kind.low) ** ((k + 0.5) / count) for k in range(count)]
    return [round(x) for x in levels] if isinstance(kind, IntDistribution) else levels
