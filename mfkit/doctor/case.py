"""What the reader gave to `diagnose`, and what follows from it alone: sizes, spread, the optimizer's settings.

All in the unit of the model's biases and factors: a MatrixFactorization's `scale`, by which `objective` divides its
errors; 1 for other models. The words of a finding are in rating units.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mfkit import predict
from mfkit.data import Ratings
from mfkit.looking import ask
from mfkit.optimizers import RowOptimizer, RowSGD

Loss = Callable[[Tensor, Tensor], Tensor]  # prediction (B,), target (B,) -> (B,) or 0-d


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its ratings and how it is to be trained; the fields are `diagnose`'s arguments."""

    model: nn.Module
    ratings: Ratings  # in units
    batch_size: int  # B, at most the number of ratings
    loss: Loss
    optimizer: torch.optim.Optimizer | None = None
    l2: float | None = None  # None: not said
    penalty: str = "per_rating"
    reduction: str = "mean"
    clip_norm: float | None = None
    memory: float | None = None  # bytes
    loader: DataLoader | None = None
    unit: float = 1.0  # in rating units

    def predict(self, model: nn.Module, pairs: Ratings) -> Tensor:
        """What the model, or a copy of it, says to these pairs, in units."""
        return ask(model, pairs.users, pairs.items) / self.unit

    def batch_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, reduced as in the training, without penalties: a 0-d tensor."""
        loss = self.loss(prediction, target)
        return loss.sum() if self.reduction == "sum" else loss.mean()

    @property
    def loss_over_mean(self) -> int:
        """How many times the mean over the batch the reduced loss is."""
        return self.batch_size if self.reduction == "sum" else 1

    @property
    def rows_per_count(self) -> float:
        """Ratings there are for one of the row with the median count: what a table's l2 is to that row, per rating."""
        counts = torch.cat([self.ratings.users.bincount(), self.ratings.items.bincount()])
        return len(self.ratings) / counts[counts > 0].median().item()

    @property
    def steps_per_epoch(self) -> float:
        return len(self.ratings) / self.batch_size

    @property
    def rating_std(self) -> float:
        """Std of the ratings, in units; 1 where all are equal."""
        return self.ratings.values.std(correction=0).item() or 1.0

    @cached_property
    def noise_std(self) -> float:
        """Std of what mean and biases leave over, each bias counted as one number that was fitted; in units.

        Where they outnumber the ratings nothing is left to tell it from: there, the std of the ratings.
        """
        biases = len(self.ratings.users.unique()) + len(self.ratings.items.unique())
        free = len(self.ratings) - biases
        if free <= 0:
            return self.rating_std
        left = predict.bias_residual(self.ratings, 0.0)
        return math.sqrt(float(left @ left) / free)

    @property
    def bias_std(self) -> float:
        """Std of a user's or an item's bias, if both explain as much of the ratings; in units."""
        return math.sqrt(max(self.rating_std**2 - self.noise_std**2, 0.0) / 2)

    @property
    def group(self) -> dict:
        """The optimizer's settings for the tables: its parameter group with the most numbers; empty without one."""
        if self.optimizer is None:
            return {}
        return max(self.optimizer.param_groups, key=lambda group: sum(p.numel() for p in group["params"]))

    @property
    def lr(self) -> float:
        return float(self.group.get("lr") or 0.0)

    @property
    def momentum(self) -> float:
        return float(self.group.get("momentum") or 0.0)

    @property
    def weight_decay(self) -> float:
        return float(self.group.get("weight_decay") or 0.0)

    @property
    def decay_is_decoupled(self) -> bool:
        """Whether weight_decay shrinks the weights beside the gradient's step (AdamW) and is no part of the loss."""
        return isinstance(self.optimizer, RowOptimizer) or bool(self.group.get("decoupled_weight_decay"))

    @property
    def optimizer_name(self) -> str:
        return type(self.optimizer).__name__

    @property
    def is_sgd(self) -> bool:
        return isinstance(self.optimizer, torch.optim.SGD | RowSGD)

    @property
    def has_bounded_steps(self) -> bool:
        """Whether a step moves an entry by about lr, however large its gradient is."""
        return any(word in self.optimizer_name for word in ("Adam", "RMSprop", "Adagrad"))

    @property
    def steps_are_known(self) -> bool:
        """Whether the laws of `predict` say anything of this optimizer's steps."""
        return (self.is_sgd or self.has_bounded_steps) and self.lr != 0

    @property
    def state_bytes(self) -> dict[str, int]:
        """Bytes that stay for the whole training: "parameters", "gradients", "state" of the optimizer."""
        if self.optimizer is not None and not self.is_sgd:
            return predict.state_bytes(self.model, "adam")
        return predict.state_bytes(self.model, "momentum" if self.momentum else "sgd")
