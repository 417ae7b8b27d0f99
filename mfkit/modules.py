"""What can be known of a run before it starts, and of any nn.Module that maps (users, items) to predictions.

users, items: (B,) int64      prediction: (B,)
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from numbers import Integral, Real

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


def has_sparse_gradients(model: nn.Module) -> bool:
    """Whether a table (nn.Embedding, nn.EmbeddingBag) of the model was made with sparse=True."""
    return any(getattr(module, "sparse", False) is True for module in model.modules())


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


def check_fit(model: nn.Module, ratings: Ratings, name: str, *, trains: bool = False) -> None:
    """Predict the two ratings with the largest ids, so that a misfit is named before it crashes or broadcasts.

    name: what the caller calls these ratings. trains: whether the prediction must carry a gradient.
    Raises IndexError for a table with too few rows, ValueError for a prediction that is not (B,), TypeError for one
    that is no tensor. Parameters, mode and random state stay as they are.
    """
    if not isinstance(ratings, Ratings):
        raise TypeError(f"{name} must be a Ratings, got {type(ratings).__name__}")
    model = getattr(model, "_orig_mod", model)  # of torch.compile, which must not compile the hooks below
    paths = {table: path for path, table in embedding_tables(model).items()}

    def check(table: nn.Embedding, given: tuple[Tensor, ...]) -> None:
        for ids in given:
            if (largest := int(ids.max())) >= table.num_embeddings:
                needs = f"at least {largest + 1} rows for id {largest} in {name}"
                raise IndexError(f"model.{paths[table]} must have {needs}, got {table.num_embeddings}")

    pairs = torch.stack([ratings.users.argmax(), ratings.items.argmax()])
    parameter = next(model.parameters(), ratings.values)
    users, items, values = (c[pairs].to(parameter.device) for c in (ratings.users, ratings.items, ratings.values))
    grad = torch.set_grad_enabled(trains and torch.is_grad_enabled())
    with ExitStack() as hooks, in_mode(model, False), grad:
        for table in paths:
            hooks.enter_context(table.register_forward_pre_hook(check))
        try:
            prediction = model(users, items)
        except IndexError as error:
            if str(error).startswith("model."):
                raise
            largest = f"user {users.max()} and item {items.max()}"
            raise IndexError(f"model must have rows for {largest} of {name}, got: {error}") from error
    if not isinstance(prediction, Tensor):
        raise TypeError(f"model must return a tensor of predictions, got {type(prediction).__name__}")
    losses.error(prediction, values)
    if trains and not prediction.requires_grad:
        hint = "is there a detach, .data or no_grad in forward or around?"
        raise ValueError(f"prediction must carry a gradient, got none: {hint}")


NUMBERS = (  # fields of a TrainConfig, in words what each must be, its type, its least value
    (("batch_size", "epochs", "patience"), "an integer of at least 1", (int, Integral), 1),
    (("seed",), "an integer of at least 0", (int, Integral), 0),
    (("l2", "l1", "momentum", "weight_decay"), "a finite number of at least 0", (float, Real), 0),
    (("lr", "delta", "clip_norm"), "a finite number above 0", (float, Real), math.ulp(0)),  # the least float above 0
)


def check_config(config, choices: dict) -> None:
    """Each field of a TrainConfig by itself: ValueError that names it. numpy's numbers become Python's.

    choices: the names that a field may hold, by field. None is fine where it is the field's default.
    """
    for name, known in choices.items():
        if (value := getattr(config, name)) not in list(known):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    for names, wanted, (python, kind), least in NUMBERS:
        for name in names:
            value = getattr(config, name)
            if value is None and getattr(type(config), name) is None:
                continue
            if not isinstance(value, kind) or isinstance(value, bool) or not least <= value < math.inf:
                raise ValueError(f"{name} must be {wanted}, got {value!r}")
            object.__setattr__(config, name, python(value))
    if config.momentum and config.optimizer != "sgd":
        raise ValueError(f"momentum needs optimizer='sgd', got momentum={config.momentum} with {config.optimizer!r}")


def check_run(model: nn.Module, ratings: Ratings, validation: Ratings | None, config) -> None:
    """The arguments of `train` against each other: TypeError, ValueError or IndexError for what does not fit."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a Module, got {type(model).__name__}")
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if not dtypes:
        raise ValueError(f"model must have parameters to train, got {type(model).__name__} with none")
    if torch.float16 in dtypes:  # Adam's eps = 1e-8 is 0 there, so that untouched rows become 0 / 0
        raise ValueError("model must have float32, float64 or bfloat16 parameters, got torch.float16")
    check_fit(model, ratings, "ratings", trains=True)
    if validation is not None:
        check_fit(model, validation, "validation")
    elif config.patience:
        raise ValueError(f"patience={config.patience} needs validation ratings, got validation=None")
    if has_sparse_gradients(model) and config.optimizer == "adam" and config.weight_decay:
        wanted = "optimizer='adamw' or l2 for a model with sparse gradients: Adam's own is a gradient of every row"
        raise ValueError(f"weight_decay needs {wanted}; got 'adam' with weight_decay={config.weight_decay}")


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
    columns = (column.split(chunk) for column in (ratings.users, ratings.items, ratings.values))
    with in_mode(model, False):
        for users, items, values in zip(*columns, strict=True):
            prediction = model(users, items)
            prediction = prediction if clip is None else prediction.clamp(*clip)
            total += losses.error(prediction, values).cpu().double().square().sum().item()
    return math.sqrt(total / len(ratings))
