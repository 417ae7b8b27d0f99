"""What happens when it is run. Each function has a partner of the same name in `predict`."""

import torch
from torch import nn

from mfkit.data import Ratings


@torch.no_grad()
def prediction_std(model: nn.Module, ratings: Ratings) -> float:
    """Std of the model's predictions over the pairs of these ratings, in rating units; on the model's device."""
    ratings = ratings.to(next(model.parameters()).device)
    return model(ratings.users, ratings.items).double().std().item()
