"""One training run, but for its data and weights: a frozen record of settings, each checked."""

import math
from dataclasses import dataclass
from numbers import Integral, Real

from mfkit.losses import LOSSES
from mfkit.optimizers import OPTIMIZERS

PENALTIES, REDUCTIONS = ("per_rating", "per_table"), ("mean", "sum")
CHOICES = {"loss": LOSSES, "optimizer": OPTIMIZERS, "penalty": PENALTIES, "reduction": REDUCTIONS}
NUMBERS = (  # fields of a TrainConfig, in words what each must be, its type, its least value
    (("batch_size", "epochs", "patience"), "an integer of at least 1", (int, Integral), 1),
    (("seed",), "an integer of at least 0", (int, Integral), 0),
    (("l2", "l1", "momentum", "weight_decay"), "a finite number of at least 0", (float, Real), 0),
    (("lr", "delta", "clip_norm"), "a finite number above 0", (float, Real), math.ulp(0)),  # the least float above 0
)


@dataclass(frozen=True)
class TrainConfig:
    """A training run but for its data and weights; a variant is dataclasses.replace(config, field=...).

    penalty="per_rating" penalises the rows that each rating reads, inside the mean; "per_table" adds
    l2 (||U||^2 + ||V||^2) to the reduced loss, as textbook code does. Raises ValueError that names the field;
    numpy's numbers become Python's, so that a checkpoint can hold them.
    """

    loss: str = "mse"  # or "huber", "mae"
    optimizer: str = "adam"  # or "adamw", "sgd"
    lr: float = 1e-2  # Adam's first step moves every entry this far; SGD's stability border: predict.max_stable_lr
    batch_size: int = 1024  # B; with the epochs below, seconds for 1e5 ratings
    epochs: int = 15  # passes over the ratings
    l2: float = 0.0  # strength of the squares' penalty; and of the absolute values':
    l1: float = 0.0
    penalty: str = "per_rating"  # or "per_table": above
    reduction: str = "mean"  # or "sum" over the batch, which makes gradients B times larger
    delta: float = 1.0  # huber is e^2 within it, in units of the ratings
    clip_norm: float | None = None  # gradients are scaled to at most this norm; None leaves them alone
    momentum: float = 0.0  # sgd's
    weight_decay: float = 0.0  # the optimizer's own
    patience: int | None = None  # epochs without a better validation RMSE before stopping and going back to the best
    seed: int = 0  # order of the batches, and dropout where the model has any; weights have their own seed

    def __post_init__(self) -> None:
        check_config(self, CHOICES)


def check_config(config, choices: dict) -> None:
    """Each field of a TrainConfig by itself: ValueError that names it. numpy's numbers become Python's.

    choices: the names that a field may hold, by field. None is fine where it is the field's default.
    """
    for name, known in choices.items():
        if (value := getattr(config, name)) not in list(known):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    for names, wanted, (python, kind), least in NUMBERS:
        for name in names:
            value = getattr(config, name)
            if value is None and getattr(type(config), name) is None:
                continue
            if not isinstance(value, kind) or isinstance(value, bool) or not least <= value < math.inf:
                raise ValueError(f"{name} must be {wanted}, got {value!r}")
            object.__setattr__(config, name, python(value))
    if config.momentum and config.optimizer != "sgd":
        raise ValueError(f"momentum needs optimizer='sgd', got momentum={config.momentum} with {config.optimizer!r}")
