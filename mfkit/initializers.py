"""Where the factors start. Each function fills U (m, d) and V (n, d) of a model with N(0, sU^2), N(0, sV^2).

    std of the initial predictions around mean and biases = sqrt(d) sU sV      (u.v sums d independent products)

That number decides, not the name: it should be small beside the ratings' own spread, and not zero,
because U = V = 0 is a saddle that gradient descent never leaves. Biases start at zero.
"""

import math

import torch
from torch import nn


def normal_(model: nn.Module, std: float = 1.0, seed: int = 0) -> nn.Module:
    """N(0, std^2); std=1 is nn.Embedding's default. Prediction std: sqrt(d) std^2, so 10 at d=100, std=1."""
    return _fill(model, std, std, seed)


def xavier_(model: nn.Module, seed: int = 0) -> nn.Module:
    """torch's xavier_normal_ on a table: std = sqrt(2 / (fan_in + fan_out)) with fan_in = d, fan_out = rows.

    Prediction std: 2 sqrt(d) / sqrt((m + d)(n + d)), which shrinks as users and items are added:
    a table is a lookup, and its rows are not a layer's outputs (Glorot & Bengio 2010, eq. 12, meant a dense layer).
    """
    users, items = _factors(model)
    return _fill(model, math.sqrt(2 / sum(users.weight.shape)), math.sqrt(2 / sum(items.weight.shape)), seed)


def he_(model: nn.Module, seed: int = 0) -> nn.Module:
    """torch's kaiming_normal_ on a table: std = sqrt(2 / d), as torch takes the columns for fan_in.

    Prediction std: 2 / sqrt(d), whatever the number of rows (He et al. 2015, eq. 10, meant a ReLU layer).
    """
    return normal_(model, math.sqrt(2 / _factors(model)[0].embedding_dim), seed)


def scaled_(model: nn.Module, prediction_std: float = 0.1, seed: int = 0) -> nn.Module:
    """A chosen prediction std t: sU = sV = sqrt(t) / d^(1/4).

    prediction_std: in units of the ratings; 0.1 is a tenth of a 1-5-star set's spread, small enough not to be
    unlearned and far enough from the saddle at zero. Raises ValueError where it is not positive.
    """
    if not (prediction_std > 0 and math.isfinite(prediction_std)):
        raise ValueError(f"prediction_std must be positive and finite, got {prediction_std}")
    return normal_(model, math.sqrt(prediction_std) / _factors(model)[0].embedding_dim ** 0.25, seed)


def _factors(model: nn.Module) -> tuple[nn.Embedding, nn.Embedding]:
    tables = getattr(model, "user_factors", None), getattr(model, "item_factors", None)
    if not all(isinstance(table, nn.Embedding) for table in tables):
        wanted = "nn.Embedding tables named user_factors and item_factors"
        raise TypeError(f"model must have {wanted}, got {type(model).__name__} with {tables}")
    return tables


@torch.no_grad()
def _fill(model: nn.Module, user_std: float, item_std: float, seed: int) -> nn.Module:
    """Drawn on the CPU, so that a seed gives the same factors on every device."""
    generator = torch.Generator().manual_seed(seed)
    for table, std in zip(_factors(model), (user_std, item_std), strict=True):
        if not (std >= 0 and math.isfinite(std)):
            raise ValueError(f"std must be finite and at least 0, got {std}")
        table.weight.copy_(torch.randn(table.weight.shape, generator=generator) * std)
    for name in ("user_bias", "item_bias"):
        if isinstance(table := getattr(model, name, None), nn.Embedding):
            table.weight.zero_()
    return model
