"""What training minimises, for one batch: the same for a model, and for that model in a wrapper.

objective = reduce over the batch of [ loss(e) + l2 (|u|^2 + |v|^2 + b^2 + c^2) + l1 (...) ]   "per_rating"
          = reduce over the batch of [ loss(e) ] + l2 (||U||^2 + ||V||^2) + l1 (...)           "per_table"
e = (prediction - rating) / scale        scale: the model's unit; 1 for the textbook's, and for a foreign model
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mfkit.config import TrainConfig
from mfkit.looking import ask, is_compiled
from mfkit.losses import LOSSES, power_sum
from mfkit.model import MatrixFactorization


def objective(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], config: TrainConfig) -> Tensor:
    """The equation above for one batch (users, items, values), (B,) each: a 0-d tensor.

    The prediction comes from `model` as it was given; what is penalised, from the model inside.
    Raises TypeError or ValueError where it cannot be told what to penalise.
    """
    users, items, values = batch
    penalised = bool(config.l2 or config.l1)
    rows: list[Tensor] = []
    if penalised and config.penalty == "per_rating":
        prediction, rows = prediction_and_rows(model, users, items)
    else:
        prediction = ask(model, users, items)
    options = {"delta": config.delta} if config.loss == "huber" else {}
    inside = model_inside(model)
    if isinstance(inside, MatrixFactorization):
        prediction, values = prediction / inside.scale, values / inside.scale
    loss = LOSSES[config.loss](prediction, values, **options).sum()
    if rows:
        loss = loss + penalty(rows, config)
    if config.reduction == "mean":
        loss = loss / len(values)
    if penalised and config.penalty == "per_table":
        loss = loss + penalty(penalised_tables(model), config)
    return loss


def penalty(tensors: list[Tensor], config: TrainConfig) -> Tensor | float:
    """l2 times the sum of squares plus l1 times the sum of absolute values, over all tensors."""
    total: Tensor | float = 0.0
    for strength, power in ((config.l2, 2), (config.l1, 1)):
        if strength:
            total = total + strength * power_sum(tensors, power)
    return total


def unwrap(model: nn.Module) -> nn.Module:
    """The module in torch.compile's, DataParallel's and DistributedDataParallel's wrappers, which pass on arguments."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(inside := getattr(model, "_orig_mod", None), nn.Module):  # torch.compile's
            model = inside
        else:
            return model


def model_inside(model: nn.Module) -> nn.Module:
    """The model that carries all parameters and buffers: penalty, names and checkpoints are its.

    Wrappers are taken off; so is a module that does nothing but hold one factorization. Anything else is itself.
    """
    model = unwrap(model)
    if not is_factorization(model):
        held = factorizations(model)
        if len(held) == 1 and _tensors(held[0]) == _tensors(model):
            return held[0]
    return model


def is_factorization(module: nn.Module) -> bool:
    """Whether it is ours, or names its tables user_factors and item_factors as ours does."""
    tables = (getattr(module, "user_factors", None), getattr(module, "item_factors", None))
    return isinstance(module, MatrixFactorization) or all(isinstance(table, nn.Embedding) for table in tables)


def factorizations(model: nn.Module) -> list[nn.Module]:
    """The factorizations in it, itself included."""
    return [module for module in model.modules() if is_factorization(module)]


def _tensors(module: nn.Module) -> set[int]:
    return {id(tensor) for tensor in (*module.parameters(), *module.buffers())}


def penalised_tables(model: nn.Module) -> list[Tensor]:
    """What penalty="per_table" penalises: U and V of a factorization; every parameter of a foreign model.

    Raises ValueError for a model that holds a factorization beside other parameters, or several: nobody said which.
    """
    inside = model_inside(model)
    if is_factorization(inside):
        tables = (getattr(inside, "user_factors", None), getattr(inside, "item_factors", None))
        return [table.weight for table in tables if isinstance(table, nn.Embedding)]
    if held := factorizations(inside):
        name = type(inside).__name__
        raise ValueError(
            f"penalty='per_table' with l2 or l1 needs one factorization, or a model without any, got {name}, which "
            f"holds {len(held)} and other parameters; want penalty='per_rating', or the optimizer's weight_decay"
        )
    return list(inside.parameters())


def prediction_and_rows(model: nn.Module, users: Tensor, items: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The prediction (B,), and the rows that these ratings read, (B, k) each: what penalty="per_rating" penalises.

    Our model says which (`rows`); its subclass with a forward of its own and a foreign model are watched: the rows
    that their nn.Embedding tables return. A matrix that is read in another way (indexing, F.embedding) is left out.
    Raises TypeError for a model that reads no nn.Embedding, or is compiled, as then nobody can watch.
    """
    inside = model_inside(model)
    if isinstance(inside, MatrixFactorization) and says_what_it_reads(inside):
        rows = inside.rows(users, items)
        ours = getattr(inside.forward, "__func__", None) is MatrixFactorization.forward
        if ours and unwrap(model) is inside:  # read once: a wrapper passes them on
            return ask(model, users, items, rows), list(rows.values())
        return ask(model, users, items), list(rows.values())
    if is_compiled(model):
        raise TypeError(
            f"penalty='per_rating' with l2 or l1 cannot see which rows a compiled {type(inside).__name__} reads; "
            "want the model before torch.compile, penalty='per_table' or weight_decay"
        )
    with rows_read(inside) as watched:
        prediction = ask(model, users, items)
    return prediction, watched


def says_what_it_reads(model: MatrixFactorization) -> bool:
    """Whether `rows` can be believed: a subclass with a forward of its own needs rows of its own."""
    own_forward = getattr(model.forward, "__func__", None) is not MatrixFactorization.forward
    own_rows = getattr(model.rows, "__func__", None) is not MatrixFactorization.rows
    return own_rows or not own_forward


@contextmanager
def rows_read(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that fills with the rows that the model's nn.Embedding tables return inside the block, (B, k) each.

    Raises TypeError, at the end of the block, for a model that reads none.
    """
    rows: list[Tensor] = []

    def note(_table: nn.Module, _ids: object, output: Tensor) -> None:
        rows.append(output)

    with ExitStack() as hooks:
        for table in embedding_tables(model).values():
            hooks.enter_context(table.register_forward_hook(note))
        yield rows
    if not rows:
        got = f"{type(model).__name__}, which reads none; want penalty='per_table' or weight_decay"
        raise TypeError(f"penalty='per_rating' with l2 or l1 needs a model that reads nn.Embedding tables, got {got}")


def embedding_tables(model: nn.Module) -> dict[str, nn.Embedding]:
    """The lookup tables of a model by their path in it."""
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.Embedding)}


def has_sparse_gradients(model: nn.Module) -> bool:
    """Whether a table (nn.Embedding, nn.EmbeddingBag) of the model was made with sparse=True."""
    return any(getattr(module, "sparse", False) is True for module in model.modules())
