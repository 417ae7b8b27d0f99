"""What can be known of any nn.Module that maps (users, items), (B,) int64 each, to predictions (B,)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mfkit import losses
from mfkit.data import Ratings


def embedding_tables(model: nn.Module) -> dict[str, nn.Embedding]:
    """The lookup tables of a model by their path in it."""
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.Embedding)}


def factor_weights(model: nn.Module) -> list[Tensor]:
    """U and V of a model that names them user_factors and item_factors; every parameter of another one."""
    ours = [getattr(model, name, None) for name in ("user_factors", "item_factors")]
    return [t.weight for t in ours] if all(isinstance(t, nn.Embedding) for t in ours) else list(model.parameters())


@contextmanager
def rows_read(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that fills with the rows which the model's tables return inside the block, (B, k) each.

    They are what a per-rating penalty penalises. Raises TypeError for a model that reads no nn.Embedding.
    """
    rows: list[Tensor] = []
    hooks = [
        table.register_forward_hook(lambda _table, _ids, output: rows.append(output))
        for table in embedding_tables(model).values()
    ]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()
    if not rows:
        raise TypeError(
            "penalty='per_rating' with l2 or l1 needs a model that reads nn.Embedding tables, "
            f"got {type(model).__name__}, which reads none; want penalty='per_table' or weight_decay"
        )


def check_fit(model: nn.Module, ratings: Ratings, name: str) -> None:
    """Predict the two ratings with the largest ids, so that a misfit is named before it crashes or broadcasts.

    Raises IndexError for a table with too few rows, ValueError for a prediction that is not (B,).
    `name` is what the caller calls these ratings. Parameters, mode and random state stay as they are.
    """
    tables = embedding_tables(model)

    def check(table: nn.Embedding, ids: tuple[Tensor, ...]) -> None:
        if (largest := int(ids[0].max())) >= table.num_embeddings:
            label = next(path for path, module in tables.items() if module is table)
            raise IndexError(
                f"model.{label} must have at least {largest + 1} rows for id {largest} in {name}, "
                f"got {table.num_embeddings}"
            )

    pairs = torch.stack([ratings.users.argmax(), ratings.items.argmax()])
    hooks = [table.register_forward_pre_hook(check) for table in tables.values()]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            prediction = model(ratings.users[pairs], ratings.items[pairs])
        losses.error(prediction, ratings.values[pairs])
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def rmse(model: nn.Module, ratings: Ratings, clip: tuple[float, float] | None = None, *, chunk: int = 65_536) -> float:
    """Root mean squared error in rating units, accumulated in float64.

    clip: rating range to clip predictions to, e.g. (1, 5), as Surprise and most libraries do; None (default)
    scores what the model says. chunk: pairs predicted at a time, which bounds memory.
    """
    parameter = next(model.parameters(), None)
    ratings = ratings if parameter is None else ratings.to(parameter.device)
    columns = (column.split(chunk) for column in (ratings.users, ratings.items, ratings.values))
    was_training, total = model.training, 0.0
    model.eval()
    for users, items, values in zip(*columns, strict=True):
        prediction = model(users, items)
        prediction = prediction if clip is None else prediction.clamp(*clip)
        total += losses.error(prediction, values).cpu().double().square().sum().item()
    model.train(was_training)
    return math.sqrt(total / len(ratings))
