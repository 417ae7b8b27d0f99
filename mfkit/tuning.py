"""Search on Optuna for the settings with the least RMSE on validation ratings, in processes that may be killed.

A study is n_trials slots, each with a sampler seeded by (seed, slot): killed and resumed, it is the study that was
never interrupted. Whoever works on a slot holds its lock, which the system takes back when the process dies.

Every search ends: each turn of its loop finishes a trial, raises, or waits for a process that works on one.
"""

import inspect
import itertools
import math
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, replace
from numbers import Real
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from filelock import FileLock, Timeout
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError
from torch import Tensor, nn

from mfkit import checks, predict, trainer
from mfkit.config import TrainConfig
from mfkit.data import Ratings
from mfkit.evaluate import rmse
from mfkit.model import MatrixFactorization
from mfkit.progress import bar

with warnings.catch_warnings():  # of tqdm's bar of widgets, which Optuna imports and nobody asked for
    warnings.filterwarnings("ignore", message="IProgress not found")
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
    from optuna.trial import FrozenTrial, Trial, TrialState

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution

SAMPLERS = {"random": RandomSampler, "tpe": TPESampler, "gp": GPSampler}
SPACE = {"lr": (1e-3, 0.3), "l2_over_collapse": (0.03, 1.0), "n_factors": (2, 64)}  # lr: Adam's
N_FACTORS = 20  # where the space does not name them
DEATHS = 3  # of processes in one slot, after which it is given up: they were hardly killed by chance


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

    config: whose fields the settings replace (TrainConfig()). make_model: called as its default is, after seeding:
        make_model(n_users, n_items, n_factors, mean=train.mean, scale=train.std). lr, l2, delta and clip_norm are then
        in units of the ratings' std, so that ratings a r + b have the same trials. One that takes no scale is called
        without: all is in rating units.
    space, options: `search`'s. l2_over_collapse: l2 in units of predict.collapse_l2(train, residual=True), over scale.
    study.best_params; study.best_trial.user_attrs["config"]: TrainConfig's fields; study.trials_dataframe(): all.
    A run that diverges (user_attrs["diverged"] says how), or does worse than predicting the mean, scores as the mean
    does: a value, as the Gaussian process learns from complete trials only, and no huge one, which would blind it.
    study.user_attrs["mean_rmse"] is that value, "beats_mean" whether a trial did better; if none did, a warning says so
    and best_trial is the first of equals. Raises TypeError or ValueError for what does not fit, and `search`'s.
    """
    for name, part in (("train", train), ("validation", validation)):
        checks.instance(name, part, Ratings)
    train.check_same_ids(validation, "validation", "train")
    config = TrainConfig() if config is None else checks.instance("config", config, TrainConfig)
    space, fields = _named("space", SPACE if space is None else space), asdict(config).keys()
    unknown = sorted(space.keys() - SPACE.keys() - fields)
    if unknown:
        raise ValueError(f"space must name n_factors, l2_over_collapse or fields of TrainConfig, got {unknown}")
    units = {"mean": train.mean}
    if _takes_scale(make_model):
        units["scale"] = train.std or 1.0
    scale = units.get("scale", 1.0)
    border = predict.collapse_l2(train, config.penalty, residual=True, scale=scale) / scale
    worst = (validation.values.double() - train.mean).square().mean().sqrt().item()

    def run(trial: Trial) -> float:
        given = dict(trial.params)
        if "l2_over_collapse" in given:
            given["l2"] = given["l2_over_collapse"] * border
        setting = replace(config, **{name: x for name, x in given.items() if name in fields})
        trial.set_user_attr("config", asdict(setting))
        with torch.random.fork_rng([]):
            torch.manual_seed(setting.seed)
            model = make_model(train.n_users, train.n_items, given.get("n_factors", N_FACTORS), **units)
        try:
            trainer.train(model, train, setting, validation=validation if setting.patience else None)
        except trainer.DivergenceError as error:
            trial.set_user_attr("diverged", str(error))
            return worst
        reached = rmse(model, validation)
        trial.set_user_attr("rmse", reached)
        return reached if reached < worst else worst  # also where it is NaN

    parts = {name: f"{x}, mean {x.mean:.9g}" for name, x in (("train", train), ("validation", validation))}
    study = search(run, space, made_with=parts | {"config": repr(config), "l2's unit": f"{border:.6g}"}, **options)
    _compare_with_the_mean(study, worst)
    return study


def _takes_scale(make_model: Callable[..., nn.Module]) -> bool:
    if not callable(make_model):
        raise TypeError(f"make_model must be callable, got {checks.shown(make_model)}")
    try:
        parameters = inspect.signature(make_model).parameters.values()
    except (TypeError, ValueError):  # it does not say
        return False
    return any(parameter.name == "scale" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _compare_with_the_mean(study: optuna.Study, worst: float) -> None:
    """Note in the study whether any trial did better than predicting the mean; a warning where none did."""
    beats = study.best_value < worst
    study.set_user_attr("mean_rmse", worst)
    study.set_user_attr("beats_mean", beats)
    if not beats:
        warnings.warn(
            f"no trial of {len(study.get_trials(states=(TrialState.COMPLETE,)))} did better on validation than "
            f"predicting the mean (RMSE {worst:.4g}): study.best_trial is the first of equals, not a find. Look at "
            "user_attrs of the trials ('diverged', 'rmse'), at the space, and at mfkit.diagnose(model, train)",
            stacklevel=3,
        )


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
    n_trials: of the study, in all. storage: the name of an SQLite file, made where there is none; it holds `study`, and
        refuses other arguments or another `made_with`. Processes may call this at once: each returns when all trials
        are finished.
    objective returns a number, inf where a setting fails. NaN, or anything else, ends the search with a ValueError that
    names the setting; what objective raises is passed on. Either way the trial has failed, and the next call makes it
    anew. A slot in which three processes died is given up, with a RuntimeError. Raises TypeError or ValueError that
    names argument, value and what was wanted.
    """
    if not callable(objective):
        raise TypeError(f"objective must be callable, got {checks.shown(objective)}")
    sampler = checks.one_of("sampler", sampler, ("grid", *SAMPLERS))
    n_trials, seed = checks.integer("n_trials", n_trials, least=1), checks.integer("seed", seed, least=0)
    checks.instance("study", study, str)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {name: _distribution(name, values) for name, values in _named("space", space).items()}
    points = _grid(kinds, n_trials) if sampler == "grid" else None
    if points and len(points) > n_trials:
        raise ValueError(f"n_trials must be at least {len(points)}, the choices in space, for a grid, got {n_trials}")
    facts = {"sampler": sampler, "seed": seed, "space": repr(space), "grid points": len(points) if points else None}
    url = _url(storage)
    with _lock(storage, "study", timeout=-1):
        found = _open(storage, url, study, facts | dict(made_with or {}))

    def sampler_of(slot: int) -> BaseSampler:
        return _Point(points[slot]) if points else SAMPLERS[sampler](seed=(1_000_003 * seed + slot) % 2**32)

    slots = set(range(len(points) if points else n_trials))
    with bar("search", "trial", len(slots)) as shown:
        while left := sorted(slots - _slots(found, TrialState.COMPLETE).keys()):
            shown.update(len(slots) - len(left) - shown.n)
            if not any(_work(found, slot, sampler_of, kinds, objective, storage) for slot in left):
                time.sleep(0.1)  # others work on what is left
        shown.update(len(slots) - shown.n)
    return found


def _named(name: str, space: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(space, Mapping) or not all(isinstance(key, str) for key in space):
        raise TypeError(f"{name} must be a dict of names, each with a (low, high) or a list, got {checks.shown(space)}")
    return space


def _lock(storage: str | Path | None, name: str | int, timeout: float) -> AbstractContextManager:
    """The lock of a slot, or of the study, among the processes that share a storage; Timeout where another has it."""
    return FileLock(f"{storage}.locks/{name}", timeout=timeout) if storage else nullcontext()


def _url(storage: str | Path | None) -> str | None:
    """SQLAlchemy's address of the file; as SQLite's own URI, in which any name can be written."""
    if storage is None:
        return None
    if not isinstance(storage, str | Path):
        raise TypeError(f"storage must be the name of a file, got {checks.shown(storage)}")
    path = Path(storage)
    if "://" in str(storage) or not path.name or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"storage must be the name of a file, in a folder that exists, got {str(storage)!r}")
    address = URL.create("sqlite", database=f"file:{quote(str(path))}", query={"uri": "true"})
    return address.render_as_string(hide_password=False)  # which SQLAlchemy 2.1 quotes once more, and 2.0 does not


def _open(storage: str | Path | None, url: str | None, study: str, facts: Mapping[str, Any]) -> optuna.Study:
    """The study, made where there is none; ValueError where it was made with other facts."""
    try:
        found = optuna.create_study(storage=url, study_name=study, load_if_exists=True)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        wanted = "a file that `search` wrote, or a new one"
        raise ValueError(f"storage={str(storage)!r} must be {wanted}, got: {reason}") from error
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
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock(storage, slot, timeout=0))
        except Timeout:
            return False
        if slot in _slots(found, TrialState.COMPLETE):
            return False
        _bury(found, slot)
        found.sampler = sampler_of(slot)
        trial = found.ask(dict(kinds))
        trial.set_user_attr("slot", slot)
        try:
            value = _score(objective(trial), trial)
        except BaseException as error:
            trial.set_user_attr("raised", f"{type(error).__name__}: {error}")
            found.tell(trial, state=TrialState.FAIL)
            raise
        found.tell(trial, value)
        return True


def _bury(found: optuna.Study, slot: int) -> None:
    """Tell that the trial whose process died has failed; RuntimeError where that was one too many in this slot."""
    dead = _slots(found, TrialState.RUNNING).get(slot)  # as nobody held its lock
    if dead is None:
        return
    failed = found.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    before = [t for t in failed if t.user_attrs.get("slot") == slot and "raised" not in t.user_attrs]
    if len(before) + 1 >= DEATHS:
        raise RuntimeError(
            f"{DEATHS} processes died in trial slot {slot}, with {dead.params}: out of memory? "
            "Want another space, or study=... of another name"
        )
    found.tell(dead.number, state=TrialState.FAIL)


def _score(value: object, trial: Trial) -> float:
    """What objective returned, as a float; ValueError for what cannot be compared."""
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        wanted = "a number, inf where a setting fails"
        raise ValueError(f"objective must return {wanted}, got {checks.shown(value)} for {trial.params}")
    return float(value)


def _distribution(name: str, values: tuple | list) -> Distribution:
    if isinstance(values, list) and values:
        return CategoricalDistribution(values)
    are_numbers = isinstance(values, tuple) and all(isinstance(x, Real) and not isinstance(x, bool) for x in values)
    if not (are_numbers and len(values) == 2 and 0 < values[0] <= values[1] < math.inf):
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
