"""Where the factors start. Each function fills U (m, d) and V (n, d) of a model with N(0, sU^2), N(0, sV^2).

    std of the initial predictions around mean and biases = sqrt(d) sU sV      (u.v sums d independent products)

That number decides, not the name: it should be small beside the ratings' own spread, and not zero,
because U = V = 0 is a saddle that gradient descent never leaves. Biases start at zero.
"""

import math

import scipy.sparse.linalg
import torch
from torch import nn


def factor_std(n_factors: int, prediction_std: float = 0.1) -> float:
    """s = sqrt(t) / d^(1/4): factors from N(0, s^2) make predictions of std t = prediction_std around mean and biases.

    The law above solved for sU = sV. The default, 0.1 in rating units, is a tenth of the spread of stars.
    Raises ValueError for a prediction_std that is not positive and finite.
    """
    if not (prediction_std > 0 and math.isfinite(prediction_std)):
        raise ValueError(f"prediction_std must be positive and finite, got {prediction_std}")
    return math.sqrt(prediction_std) / n_factors**0.25


def normal_(model: nn.Module, std: float = 1.0, seed: int = 0) -> nn.Module:
    """N(0, std^2); std=1 is nn.Embedding's default. Prediction std: sqrt(d) std^2, so 10 at d=100, std=1."""
    return _fill(model, std, std, seed)


def xavier_(model: nn.Module, seed: int = 0) -> nn.Module:
    """torch's xavier_normal_ on a table: std = sqrt(2 / (fan_in + fan_out)) with fan_in = d, fan_out = rows.

    Prediction std: 2 sqrt(d) / sqrt((m + d)(n + d)), which shrinks as users and items are added:
    a table is a lookup, and its rows are not a layer's outputs (Glorot & Bengio 2010, eq. 12, meant a dense layer).
    """
    return _fill(model, *(math.sqrt(2 / sum(table.weight.shape)) for table in _factors(model)), seed)


def he_(model: nn.Module, seed: int = 0) -> nn.Module:
    """torch's kaiming_normal_ on a table: std = sqrt(2 / d), as torch takes the columns for fan_in.

    Prediction std: 2 / sqrt(d), whatever the number of rows (He et al. 2015, eq. 10, meant a ReLU layer).
    """
    return normal_(model, math.sqrt(2 / _factors(model)[0].embedding_dim), seed)


def scaled_(model: nn.Module, prediction_std: float = 0.1, seed: int = 0) -> nn.Module:
    """A chosen prediction std t: sU = sV = sqrt(t) / d^(1/4).

    prediction_std: in rating units; 0.1, a tenth of stars' spread, is not much to unlearn and far from the saddle.
    """
    return normal_(model, factor_std(_factors(model)[0].embedding_dim, prediction_std), seed)


@torch.no_grad()
def spectral_(model: nn.Module, ratings, l2: float = 0.0) -> nn.Module:
    """U = A^-1/2 P sqrt(N (S - l2)+), V = C^-1/2 Q sqrt(N (S - l2)+): P S Q' the top d triplets of A^-1/2 E C^-1/2.

    E: the ratings less mean and biases (set too), else 0. A, C: counts plus their mean (else rows rated once win). Near
    a per-rating l2's optimum; columns with S <= l2 start, so stay, at 0. Needs d < m, n. Prediction std: the data's.
    """
    tables, shape, ids = _factors(model), (model.n_users, model.n_items), (ratings.users.cpu(), ratings.items.cpu())
    e, roots = ratings.values.cpu().double() - model.mean.cpu(), []
    for x, rows, biases in zip(ids, shape, (model.user_bias, model.item_bias), strict=True):
        roots += [(torch.bincount(x, minlength=rows) + len(e) / rows).sqrt()[:, None]]
        if biases is not None:
            biases.weight[:] = torch.bincount(x, e, rows)[:, None] / roots[-1] ** 2
            e = e - biases.weight.cpu()[x, 0]
    E = scipy.sparse.csr_array((e / (roots[0][ids[0]] * roots[1][ids[1]])[:, 0], ids), shape)
    P, S, Q = scipy.sparse.linalg.svds(E, model.n_factors, v0=torch.linspace(1, 2, min(shape)).numpy())
    for factors, vectors, root in zip(tables, (P, Q.T), roots, strict=True):
        factors.weight[:] = torch.from_numpy(vectors * (len(e) * (S - l2).clip(0)) ** 0.5) / root
    return model


def _factors(model: nn.Module) -> tuple[nn.Embedding, nn.Embedding]:
    tables = getattr(model, "user_factors", None), getattr(model, "item_factors", None)
    if not all(isinstance(table, nn.Embedding) for table in tables):
        raise TypeError(f"model must have user_factors and item_factors, nn.Embedding, got {type(model).__name__}")
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
