"""How good a model is, and whether it fits its ratings at all: any nn.Module that maps (users, items) to predictions.

users, items: (B,) int64      prediction: (B,)
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from mfkit import losses
from mfkit.catalogue import Clip, check_clip, clipped
from mfkit.checks import instance, integer
from mfkit.data import Ratings
from mfkit.looking import ask, looking
from mfkit.objective import embedding_tables, model_inside, unwrap


def check_fit(model: nn.Module, ratings: Ratings, name: str, *, trains: bool = False) -> None:
    """Predict the two ratings with the largest ids, so that a misfit is named before it crashes or broadcasts.

    name: what the caller calls these ratings. trains: whether the prediction must carry a gradient.
    Raises IndexError for a table with too few rows, ValueError for a prediction that is not (B,), TypeError for one
    that is no tensor, ValueError for ratings whose ids are not the model's. Nothing of the model changes (looking.py).
    """
    instance("model", model, nn.Module)
    if not isinstance(ratings, Ratings):
        raise TypeError(f"{name} must be a Ratings, got {type(ratings).__name__}")
    ratings.check_same_ids(model_inside(model), "model", name)
    model = unwrap(model)  # torch.compile must not compile the hooks, DDP not wait for a backward that never comes
    pairs = torch.stack([ratings.users.argmax(), ratings.items.argmax()])
    device = next(model.parameters(), ratings.values).device
    users, items, values = (column.to(device) for column in ratings.take(pairs).columns)
    with looking(model), table_sizes_checked(model, name), torch.set_grad_enabled(trains and torch.is_grad_enabled()):
        try:
            prediction = ask(model, users, items)
        except TableTooSmall:
            raise
        except IndexError as error:
            largest = f"user {users.max()} and item {items.max()}"
            raise IndexError(f"model must have rows for {largest} of {name}, got: {error}") from error
    if not isinstance(prediction, Tensor):
        raise TypeError(f"model must return a tensor of predictions, got {type(prediction).__name__}")
    losses.error(prediction, values)
    if trains and not prediction.requires_grad:
        hint = "is there a detach, .data or no_grad in forward or around?"
        raise ValueError(f"prediction must carry a gradient, got none: {hint}")


class TableTooSmall(IndexError):
    """A lookup beyond the last row, before it happens."""


@contextmanager
def table_sizes_checked(model: nn.Module, name: str) -> Iterator[None]:
    """Inside the block, a lookup beyond a table's rows raises an error that names the table, the id and the rows."""
    paths = {table: path for path, table in embedding_tables(model).items()}

    def check(table: nn.Embedding, given: tuple[Tensor, ...]) -> None:
        for ids in given:
            if (largest := int(ids.max())) >= table.num_embeddings:
                needs = f"at least {largest + 1} rows for id {largest} in {name}"
                raise TableTooSmall(f"model.{paths[table]} must have {needs}, got {table.num_embeddings}")

    with ExitStack() as hooks:
        for table in paths:
            hooks.enter_context(table.register_forward_pre_hook(check))
        yield


@torch.no_grad()
def rmse(model: nn.Module, ratings: Ratings, clip: Clip | None = None, *, chunk: int = 65_536) -> float:
    """Root mean squared error in rating units, accumulated in float64.

    clip: rating range to clip predictions to, e.g. (1, 5), as Surprise and most libraries do; None (default)
    scores what the model says. chunk: pairs predicted at a time, which bounds memory. Errors as `check_fit`.
    """
    check_clip(clip)
    chunk = integer("chunk", chunk, least=1)
    check_fit(model, ratings, "ratings")
    ratings, total = ratings.to(next(model.parameters(), ratings.values).device), 0.0
    columns = (column.split(chunk) for column in ratings.columns)
    with looking(model):
        for users, items, values in zip(*columns, strict=True):
            prediction = clipped(ask(model, users, items), clip)
            total += losses.error(prediction, values).cpu().double().square().sum().item()
    return math.sqrt(total / len(ratings))
