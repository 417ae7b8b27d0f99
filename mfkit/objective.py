"""What training minimises, for one batch.

objective = reduce over the batch of [ loss(e) + l2 (|u|^2 + |v|^2 + b^2 + c^2) + l1 (...) ]
e = prediction - rating
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from torch import Tensor, nn

from mfkit.config import TrainConfig
from mfkit.losses import LOSSES, power_sum


def embedding_tables(model: nn.Module) -> dict[str, nn.Embedding]:
    """The lookup tables of a model by their path in it."""
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.Embedding)}


def factor_weights(model: nn.Module) -> list[Tensor]:
    """U and V of a model that names them user_factors and item_factors; every parameter of another one."""
    ours = [getattr(model, name, None) for name in ("user_factors", "item_factors")]
    return [t.weight for t in ours] if all(isinstance(t, nn.Embedding) for t in ours) else list(model.parameters())


def has_sparse_gradients(model: nn.Module) -> bool:
    """Whether a table (nn.Embedding, nn.EmbeddingBag) of the model was made with sparse=True."""
    return any(getattr(module, "sparse", False) is True for module in model.modules())


@contextmanager
def rows_read(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that fills with the rows which the model's tables return inside the block, (B, k) each.

    They are what a per-rating penalty penalises: a matrix that is read in another way (indexing, F.embedding) is left
    out. Raises TypeError for a model that reads no nn.Embedding at all.
    """
    rows: list[Tensor] = []
    with ExitStack() as hooks:
        for table in embedding_tables(model).values():
            hooks.enter_context(table.register_forward_hook(lambda _table, _ids, output: rows.append(output)))
        yield rows
    if not rows:
        got = f"{type(model).__name__}, which reads none; want penalty='per_table' or weight_decay"
        raise TypeError(f"penalty='per_rating' with l2 or l1 needs a model that reads nn.Embedding tables, got {got}")


def objective(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], config: TrainConfig) -> Tensor:
    """What training minimises, for one batch (users, items, values): the equation above, a 0-d tensor."""
    users, items, values = batch
    strengths = [(strength, p) for strength, p in ((config.l2, 2), (config.l1, 1)) if strength]
    per_rating = strengths and config.penalty == "per_rating"

    def penalty(tensors: list[Tensor]) -> Tensor | float:
        return sum(strength * power_sum(tensors, p) for strength, p in strengths)

    with rows_read(model) if per_rating else nullcontext([]) as rows:
        prediction = model(users, items)
    options = {"delta": config.delta} if config.loss == "huber" else {}
    loss = LOSSES[config.loss](prediction, values, **options).sum() + penalty(rows)
    if config.reduction == "mean":
        loss = loss / len(values)
    return loss if config.penalty == "per_rating" else loss + penalty(factor_weights(model))
