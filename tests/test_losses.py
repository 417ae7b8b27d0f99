"""Losses against torch's own, penalties by hand."""

import pytest
import torch
from torch.nn import functional as F

from mfkit import losses

PREDICTION = torch.tensor([3.0, 1.5, -4.0, 0.0], requires_grad=True)
TARGET = torch.tensor([2.5, 5.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (losses.mse, lambda p, t: F.mse_loss(p, t, reduction="none")),
        (losses.mae, lambda p, t: F.l1_loss(p, t, reduction="none")),
        (
            lambda p, t: losses.huber(p, t, 0.7, scale="torch"),
            lambda p, t: F.huber_loss(p, t, reduction="none", delta=0.7),
        ),
        (lambda p, t: losses.huber(p, t, 0.7), lambda p, t: 2 * F.huber_loss(p, t, reduction="none", delta=0.7)),
        (lambda p, t: losses.huber(p, t, float("inf")), lambda p, t: F.mse_loss(p, t, reduction="none")),
    ],
)
def test_values_and_gradients_are_torchs(ours, theirs):
    for function in (ours, theirs):
        assert function(PREDICTION, TARGET).shape == (4,)
    assert torch.allclose(ours(PREDICTION, TARGET), theirs(PREDICTION, TARGET))
    slopes = [torch.autograd.grad(f(PREDICTION, TARGET).sum(), PREDICTION)[0] for f in (ours, theirs)]
    assert torch.allclose(*slopes)


def test_huber_by_hand():
    """e = 0.5 inside delta = 1: 0.25; e = 3 outside: 1 (2 * 3 - 1) = 5. Half of both in torch's scale."""
    prediction, target = torch.tensor([0.5, -3.0]), torch.zeros(2)
    assert losses.huber(prediction, target).tolist() == [0.25, 5.0]
    assert losses.huber(prediction, target, scale="torch").tolist() == [0.125, 2.5]


@pytest.mark.parametrize("loss", losses.LOSSES.values())
def test_a_column_of_predictions_is_refused(loss):
    with pytest.raises(ValueError, match=r"prediction must have the target's shape \(4,\), got \(4, 1\).*squeeze"):
        loss(PREDICTION.unsqueeze(-1), TARGET)
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(1,\)"):
        loss(PREDICTION[:1], TARGET)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"delta": 0}, "delta must be a number above 0, got 0"),
        ({"delta": float("nan")}, "delta must be a number above 0, got nan"),
        ({"scale": "half"}, "scale must be 'mse' or 'torch', got 'half'"),
    ],
)
def test_huber_refuses(options, says):
    with pytest.raises(ValueError, match=says):
        losses.huber(PREDICTION, TARGET, **options)


def test_power_sum_by_hand():
    tensors = [torch.tensor([[1.0, -2.0]]), torch.tensor([3.0])]
    assert losses.power_sum(tensors, 2) == 14
    assert losses.power_sum(tensors, 1) == 6
