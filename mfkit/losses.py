"""Losses of one rating and penalties of the rows it reads.

    objective = mean over the batch of [ loss(e) + l2 (|u|^2 + |v|^2 + b^2 + c^2) + l1 (|u| + |v| + |b| + |c|) ]
    e = prediction - target                                                        prediction, target: (B,)

No 1/2 anywhere. Losses are elementwise, (B,) -> (B,); the trainer reduces once, in plain sight.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from mfkit import checks
from mfkit.checks import integer, number, one_of, tensor


def error(prediction: Tensor, target: Tensor) -> Tensor:
    """e = prediction - target, (B,), real numbers.

    Raises ValueError where shapes differ: (B, 1) - (B,) broadcasts to (B, B). TypeError for what is no dense tensor.
    """
    prediction, target = tensor("prediction", prediction), tensor("target", target)
    if prediction.shape != target.shape:
        shapes = f"{tuple(target.shape)}, got {tuple(prediction.shape)}"
        hint = "; return prediction.squeeze(-1)" if prediction.shape == (*target.shape, 1) else ""
        raise ValueError(f"prediction must have the target's shape {shapes}{hint}")
    return prediction - target


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """e^2, elementwise. Gradient 2e."""
    return error(prediction, target).square()


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """|e|, elementwise. Gradient sign(e): its optimum is a median."""
    return error(prediction, target).abs()


def huber(prediction: Tensor, target: Tensor, delta: float = 1.0, scale: str = "mse") -> Tensor:
    """Quadratic inside |e| <= delta, linear outside (Huber 1964, eq. 2.1 has the "torch" scale).

    delta: in units of the ratings; 1.345 sigma keeps 95 % of least squares' efficiency under Gaussian noise.
    scale="mse" (default): e^2 inside, delta (2|e| - delta) outside, so that l2 means what it means under mse.
    scale="torch": half of that, as torch.nn.HuberLoss; swapping it in for MSE doubles the effective l2.
    Raises ValueError for a delta that is not positive or another scale.
    """
    delta = number("delta", delta, above=0, infinite=True)
    one_of("scale", scale, ("mse", "torch"))
    size = error(prediction, target).abs()
    if size.is_floating_point() and delta > torch.finfo(size.dtype).max:
        delta = math.inf
    inside = size.clamp(max=delta)
    loss = inside * (2 * size - inside)  # both branches at once, so that delta = inf is exactly mse
    return loss if scale == "mse" else loss / 2


LOSSES = {"mse": mse, "huber": huber, "mae": mae}


def power_sum(tensors: Iterable[Tensor], p: int) -> Tensor | float:
    """The sum of |entry|^p over all tensors, for p = 1 or 2: the penalty before its strength. 0-d; 0.0 of no tensors.

    Of the rows that a batch looked up, (B, k) each (`per_rating`): |u|^2 + |v|^2 + ... summed over the ratings, to be
    reduced as the loss is; a row read by c ratings counts c times (Zhou et al. 2008, "weighted-lambda").
    Of whole tables (`per_table`): ||U||^2 + ||V||^2, squared Frobenius norms, whatever the batch. Beside a mean loss
    that is stronger on a row with n of the N ratings by a factor N / n. Raises ValueError for another p.
    """
    if integer("p", p, least=1) > 2:
        raise ValueError(f"p must be 1 or 2, got {p}")
    total: Tensor | float = 0.0
    for each in checks.tensors("tensors", tensors):
        total = total + (each.square().sum() if p == 2 else each.abs().sum())
    return total
