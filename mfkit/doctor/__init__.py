"""What is wrong with *my* PyTorch matrix factorization? Asked before the first training step.

    case.py   what the reader gave
    look.py   one batch on a copy of the model: what it reads, predicts, differentiates, and the memory of a step
    judge.py  what was seen, held against the laws of `predict`: a function a finding
    findings.py, findings.toml   the answer and its words

From a shell: python -m mfkit doctor my_module:build
"""

import importlib
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from mfkit.checks import integer, number
from mfkit.config import TrainConfig
from mfkit.data import Ratings
from mfkit.doctor.case import Case, Loss
from mfkit.doctor.findings import SEVERITIES, WORDS, Diagnosis, Finding
from mfkit.doctor.judge import JUDGES, ids_out_of_range, out_of_memory, prediction_shape
from mfkit.doctor.look import look_at_batch, look_at_memory
from mfkit.losses import LOSSES
from mfkit.model import MatrixFactorization
from mfkit.objective import model_inside

__all__ = ["WORDS", "Diagnosis", "Finding", "diagnose", "main"]


def diagnose(
    model: nn.Module,
    ratings: Ratings,
    *,
    batch_size: int,
    optimizer: torch.optim.Optimizer | None = None,
    l2: float | None = None,
    reduction: str = "mean",
    loader: DataLoader | None = None,
    penalty: str = "per_rating",
    loss: str | Loss = "mse",
    clip_norm: float | None = None,
    memory: float | None = None,
) -> Diagnosis:
    """What will go wrong if `model` is trained so on `ratings`. Trains nothing; all that it is given stays as it is.

    model: any Module that maps users, items, (B,) int64 each, to (B,); its tables are found by watching what it reads.
        Rates and penalties are taken to be in units of a MatrixFactorization's `scale`, as `train` has them.
    optimizer: the model's; without one (None) nothing is said of steps.
    l2, penalty, reduction, clip_norm: as in TrainConfig, but with torch's clipping. l2=None is unknown, or none: then
        nothing is said of a penalty that is too weak.
    loss: a name as there, or what is called with (prediction, target), as nn.HuberLoss().
    loader: a DataLoader; its dataset is read, its order not drawn. Without one (None) the batches are not timed.
    memory: bytes there are; None asks the machine.

    Takes the memory of a copy of the model and of its gradients. Raises TypeError or ValueError that names argument,
    value and what was wanted; what the model itself raises passes through.
    """
    _check(model, ratings, optimizer, loader, memory)
    config = TrainConfig.textbook(  # which checks them
        loss="mse" if callable(loss) else loss,
        batch_size=batch_size,
        l2=l2,
        penalty=penalty,
        reduction=reduction,
        clip_norm=clip_norm,
    )
    unit = _unit(model)
    case = Case(
        model=getattr(model, "_orig_mod", model),  # the model inside a compiled one
        ratings=ratings if unit == 1 else ratings.with_values(ratings.values / unit),
        batch_size=min(integer("batch_size", batch_size, least=1), len(ratings)),
        loss=loss if callable(loss) else LOSSES[loss],
        optimizer=optimizer,
        l2=config.l2,
        penalty=config.penalty,
        reduction=config.reduction,
        clip_norm=config.clip_norm,
        memory=memory,
        loader=loader,
        unit=unit,
    )
    with _random_states_kept(), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _examine(case)


def _examine(case: Case) -> Diagnosis:
    """Look and judge as far as the model goes: a step that finds no room, or no prediction a rating, ends it."""
    examined = f"{type(case.model).__name__} on {case.ratings}"
    memory = look_at_memory(case)
    findings = list(out_of_memory(case, memory))
    if findings:
        return Diagnosis(findings, examined)
    reply, seen = look_at_batch(case)
    findings += [*ids_out_of_range(reply), *prediction_shape(reply)]
    if seen is not None:
        examined += f": {seen.description}"
        for judge in JUDGES:
            findings += judge(case, seen)
    return Diagnosis(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)), examined)


def _check(model: object, ratings: object, optimizer: object, loader: object, memory: object) -> None:
    """Those of diagnose's arguments that are no fields of a TrainConfig."""
    _require("model", model, nn.Module)
    _require("ratings", ratings, Ratings)
    _require("optimizer", optimizer, torch.optim.Optimizer, optional=True)
    _require("loader", loader, DataLoader, optional=True)
    if isinstance(model, nn.Module) and isinstance(ratings, Ratings):
        ratings.check_same_ids(model_inside(model), "model")
    if memory is not None:
        number("memory", memory, above=0)
    if isinstance(model, nn.Module) and not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"model must have parameters to train, got {model!r}")


def _unit(model: nn.Module) -> float:
    """What `objective` divides the model's errors by."""
    inside = model_inside(model)
    return inside.scale.item() if isinstance(inside, MatrixFactorization) else 1.0


def _require(name: str, value: object, kind: type, *, optional: bool = False) -> None:
    if not isinstance(value, kind) and not (optional and value is None):
        raise TypeError(f"{name} must be {kind.__name__}{' or None' if optional else ''}, got {value!r}")


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Whatever is drawn inside, torch, numpy and Python go on drawing as if nothing had been."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def main(target: str) -> int:
    """The command: diagnose what the reader's function builds, print it, and return the exit status.

    target: module:function, looked for in the current folder first; without a function it is build. It returns a dict
    of diagnose's arguments, or a tuple that starts (model, ratings, batch_size, optimizer, l2).
    Status 1: a finding is high; 2: there is no such module or function, as one sentence on stderr says; else 0.
    What the reader's own code raises passes through.
    """
    sys.path.insert(0, os.getcwd())
    try:
        build = _find(target)
    except _NoSuchFunction as error:
        print(error, file=sys.stderr)
        return 2
    given = build()
    if not isinstance(given, dict):
        given = dict(zip(("model", "ratings", "batch_size", "optimizer", "l2"), given, strict=False))
    diagnosis = diagnose(**given)
    print(diagnosis)
    return 1 if diagnosis.names("high") else 0


class _NoSuchFunction(Exception):
    """Of the command's target, and not to be mistaken for an error of the reader's module."""


def _find(target: str) -> Callable:
    """The function that target, module:function, names; _NoSuchFunction where there is none."""
    name, _, function = target.partition(":")
    function = function or "build"
    if not all(part.isidentifier() for part in name.split(".")):  # nothing, a relative name, a path
        raise _NoSuchFunction(
            f"target must be module:function, as mine:build of mine.py in this folder, got {target!r}"
        )
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        raise _NoSuchFunction(
            f"target must name a module in {os.getcwd()} or an installed one, got {target!r}"
        ) from None
    build = getattr(module, function, None)
    if not callable(build):
        raise _NoSuchFunction(f"target must name a function, and {name} has none called {function!r}, got {target!r}")
    return build
