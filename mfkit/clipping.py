"""Gradient-norm clipping for dense and sparse gradients alike.

    norm = sqrt(sum over parameters of ||grad||^2),   coefficient = min(1, max_norm / (norm + 1e-6))

torch.nn.utils.clip_grad_norm_ raises on sparse gradients (pytorch#4829). A sparse gradient lists
a row once for each time it was read; the entries must be summed (coalesced) before any norm is taken.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from mfkit.checks import instance, number, tensors


def grad_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients together, a 0-d tensor. Coalesces sparse gradients in place (same gradient, summed)."""
    norms = []
    for parameter in tensors("parameters", parameters):
        grad = parameter.grad
        if grad is None:
            continue
        if grad.is_sparse:
            parameter.grad = grad = grad.coalesce()
            grad = grad.values()
        norms.append(torch.linalg.vector_norm(grad))
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def clip_coefficient(norm: Tensor, max_norm: float) -> Tensor:
    """min(1, max_norm / (norm + 1e-6)), as in torch; 1 where the norm is not finite: there is nothing to scale back."""
    instance("norm", norm, Tensor)
    max_norm = number("max_norm", max_norm, above=0, infinite=True)
    return torch.where(norm.isfinite(), (max_norm / (norm + 1e-6)).clamp(max=1.0), 1.0)


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by one coefficient so that their norm is at most max_norm; the norm *before*, a 0-d tensor.

    max_norm: in units of the gradient, so of the objective: under reduction="sum" it must grow with the batch.
    Raises ValueError for a max_norm that is not positive, TypeError for what is no tensors.
    """
    max_norm = number("max_norm", max_norm, above=0, infinite=True)
    with_gradient = [parameter for parameter in tensors("parameters", parameters) if parameter.grad is not None]
    norm = grad_norm(with_gradient)
    coefficient = clip_coefficient(norm, max_norm)
    for parameter in with_gradient:
        assert parameter.grad is not None
        parameter.grad.mul_(coefficient)
    return norm
