"""A training run but for its data and weights: one frozen record, each field with its check beside it."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Self

from mfkit.checks import shown
from mfkit.losses import LOSSES
from mfkit.optimizers import OPTIMIZERS

PENALTIES = ("per_rating", "per_table")
REDUCTIONS = ("mean", "sum")


def one_of(known: Collection[str], default: str) -> Any:
    """A field that holds one of these words."""

    def check(name: str, value: object) -> object:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {shown(value)}")
        return value

    return field(default=default, metadata={"check": check})


def number(default: float | None, *, above: float | None = None) -> Any:
    """A field that holds a finite number of at least 0, or above `above`; or None where that is the default."""
    wanted = "a finite number of at least 0" if above is None else f"a finite number above {above}"

    def fits(value: Any) -> bool:  # numpy's numbers are Real and Integral; a tensor is not
        if not isinstance(value, Real) or not math.isfinite(float(value)):
            return False
        return float(value) >= 0 if above is None else float(value) > above

    return _checked(default, fits, float, wanted)


def integer(default: int | None, *, least: int) -> Any:
    """A field that holds an integer of at least `least`; or None where that is the default."""

    def fits(value: Any) -> bool:
        return isinstance(value, Integral) and int(value) >= least

    return _checked(default, fits, int, f"an integer of at least {least}")


def _checked(default: Any, fits: Callable[[Any], bool], python: Callable[[Any], Any], wanted: str) -> Any:
    """A field whose check makes numpy's numbers Python's, so that a checkpoint can hold them."""

    def check(name: str, value: object) -> object:
        if value is None and default is None:
            return None
        if isinstance(value, bool) or not fits(value):
            raise ValueError(f"{name} must be {wanted}, got {value!r}")
        return python(value)

    return field(default=default, metadata={"check": check})


@dataclass(frozen=True)
class TrainConfig:
    """What `train` does; a variant is dataclasses.replace(config, field=...).

    TrainConfig() is the recipe: what is None is computed from the ratings (recipe.py), in units of their spread. Vary
    l2 first, then the model's n_factors; a smaller lr with more epochs gains a last half per cent.
    TrainConfig.textbook() holds the settings of textbook code, which are in rating units and overfit.
    A config in which l2 is given is taken at its word: lr, l2, delta and clip_norm in units of the model's `scale`,
    which is 1 (rating units) where nobody set it.

    penalty="per_rating" penalises the rows that each rating reads, inside the mean; "per_table" adds
    l2 (||U||^2 + ||V||^2) to the reduced loss, as textbook code does. Raises ValueError that names the field.
    """

    loss: str = one_of(LOSSES, "mse")  # or "huber", "mae"
    optimizer: str = one_of(OPTIMIZERS, "adam")  # or "adamw", "sgd"
    lr: float = number(5e-3, above=0)  # Adam's first step moves every entry this far; SGD: predict.max_stable_lr
    batch_size: int | None = integer(None, least=1)  # B; None: a 128th of the ratings, from 32 to 512
    epochs: int = integer(30, least=1)  # passes over the ratings
    l2: float | None = number(None)  # strength of the squares' penalty; None: half the noise's edge
    l1: float = number(0.0)  # strength of the absolute values' penalty
    penalty: str = one_of(PENALTIES, "per_rating")  # or "per_table": above
    reduction: str = one_of(REDUCTIONS, "mean")  # or "sum" over the batch, which makes gradients B times larger
    delta: float = number(1.0, above=0)  # huber is e^2 within it, in units of the ratings
    clip_norm: float | None = number(None, above=0)  # gradients are scaled to at most this norm; None: left alone
    momentum: float = number(0.0)  # sgd's
    weight_decay: float = number(0.0)  # the optimizer's own
    patience: int | None = integer(None, least=1)  # epochs without a better validation RMSE before going back
    seed: int = integer(0, least=0)  # order of the batches, and dropout if any; weights have their own seed

    @classmethod
    def textbook(cls, **fields: Any) -> Self:
        """A config as textbook code has it, in rating units: no penalty, lr 0.01, 15 epochs of batches of 1024."""
        return cls(**{"lr": 1e-2, "batch_size": 1024, "epochs": 15, "l2": 0.0} | fields)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = each.metadata["check"](each.name, getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum needs optimizer='sgd', got momentum={self.momentum} with {self.optimizer!r}")
