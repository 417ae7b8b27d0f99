"""Clipping: dense as torch does it, sparse as if it were dense."""

import pytest
import torch
from torch import nn

from mfkit import clip_grad_norm_
from mfkit.clipping import clip_coefficient, grad_norm


def tables(sparse, dtype=torch.float32):
    """Two tables and a bias with gradients in which rows repeat; uncoalesced where sparse."""
    generator = torch.Generator().manual_seed(0)
    users = torch.tensor([0, 3, 3, 0, 1, 3])
    made = [nn.Embedding(5, k, sparse=sparse, dtype=dtype) for k in (4, 1)]
    unused = nn.Parameter(torch.zeros(2, dtype=dtype))
    weights = [torch.randn(6, k, generator=generator, dtype=torch.float64).to(dtype) for k in (4, 1)]
    sum((table(users) * weight).sum() for table, weight in zip(made, weights, strict=True)).backward()
    return [table.weight for table in made] + [unused]


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e6])
def test_dense_is_torchs_and_sparse_is_dense(max_norm):
    reference, dense, sparse = tables(False), tables(False), tables(True)
    assert not sparse[0].grad.is_coalesced()
    norms = [nn.utils.clip_grad_norm_(reference, max_norm)] + [clip_grad_norm_(p, max_norm) for p in (dense, sparse)]
    assert torch.equal(norms[0], norms[1])
    assert torch.allclose(norms[0], norms[2], rtol=1e-6)
    for theirs, ours, rows in zip(reference[:2], dense, sparse, strict=False):
        assert torch.equal(theirs.grad, ours.grad)
        assert torch.allclose(theirs.grad, rows.grad.to_dense(), rtol=1e-6, atol=1e-7)
    assert dense[2].grad is None


def test_by_hand():
    """Two reads of one row with gradient 3 each and one entry 8: the norm is sqrt(6^2 + 8^2) = 10, not sqrt(82)."""
    table = nn.Embedding(1, 1, sparse=True)
    bias = nn.Parameter(torch.zeros(1))
    (3 * table(torch.tensor([0, 0])).sum() + 8 * bias.sum()).backward()
    assert clip_grad_norm_([table.weight, bias], 5.0) == 10
    assert table.weight.grad.to_dense().item() == pytest.approx(3, rel=1e-6)
    assert bias.grad.item() == pytest.approx(4, rel=1e-6)


def test_generators_and_other_dtypes():
    for dtype in (torch.float64, torch.bfloat16):
        parameters = tables(True, dtype)
        assert clip_grad_norm_((p for p in parameters), 0.5) > 0.5
        assert grad_norm(parameters).item() == pytest.approx(0.5, rel=0.02)
    assert grad_norm([nn.Parameter(torch.zeros(2))]) == 0


def test_a_norm_that_is_not_finite_leaves_the_gradient():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, float("nan")])
    assert clip_grad_norm_([parameter], 1.0).isnan()
    assert parameter.grad[0] == 1
    assert clip_coefficient(torch.tensor(float("inf")), 1.0) == 1


@pytest.mark.parametrize("max_norm", [0, -1.0, float("nan")])
def test_max_norm_must_be_positive(max_norm):
    with pytest.raises(ValueError, match="max_norm must be a number above 0, got"):
        clip_grad_norm_(tables(False), max_norm)
