"""How good a model is, and whether it fits its ratings at all: any nn.Module that maps (users, items) to predictions.

users, items: (B,) int64      prediction: (B,)
"""

import math
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from mfkit import losses
from mfkit.data import Ratings
from mfkit.objective import embedding_tables, unwrap


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """model.train(training) inside the block; afterwards each submodule is in the mode it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; modes and random states (torch's, numpy's, Python's) afterwards as before."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    numpys, pythons = np.random.get_state(), random.getstate()
    try:
        with in_mode(model, False), torch.random.fork_rng(list(devices)):
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


def check_fit(model: nn.Module, ratings: Ratings, name: str, *, trains: bool = False) -> None:
    """Predict the two ratings with the largest ids, so that a misfit is named before it crashes or broadcasts.

    name: what the caller calls these ratings. trains: whether the prediction must carry a gradient.
    Raises IndexError for a table with too few rows, ValueError for a prediction that is not (B,), TypeError for one
    that is no tensor. Parameters, mode and random state stay as they are.
    """
    if not isinstance(ratings, Ratings):
        raise TypeError(f"{name} must be a Ratings, got {type(ratings).__name__}")
    model = unwrap(model)  # torch.compile must not compile the hooks, DDP not wait for a backward that never comes
    pairs = torch.stack([ratings.users.argmax(), ratings.items.argmax()])
    device = next(model.parameters(), ratings.values).device
    users, items, values = (column.to(device) for column in ratings.take(pairs).columns)
    with looking(model), table_sizes_checked(model, name), torch.set_grad_enabled(trains and torch.is_grad_enabled()):
        try:
            prediction = model(users, items)
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
def rmse(model: nn.Module, ratings: Ratings, clip: tuple[float, float] | None = None, *, chunk: int = 65_536) -> float:
    """Root mean squared error in rating units, accumulated in float64.

    clip: rating range to clip predictions to, e.g. (1, 5), as Surprise and most libraries do; None (default)
    scores what the model says. chunk: pairs predicted at a time, which bounds memory. Errors as `check_fit`.
    """
    if clip is not None and not (isinstance(clip, tuple | list) and len(clip) == 2 and clip[0] < clip[1]):
        raise ValueError(f"clip must be (lowest, highest) rating, got {clip}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    check_fit(model, ratings, "ratings")
    ratings, total = ratings.to(next(model.parameters(), ratings.values).device), 0.0
    columns = (column.split(chunk) for column in ratings.columns)
    with looking(model):
        for users, items, values in zip(*columns, strict=True):
            prediction = model(users, items)
            prediction = prediction if clip is None else prediction.clamp(*clip)
            total += losses.error(prediction, values).cpu().double().square().sum().item()
    return math.sqrt(total / len(ratings))
