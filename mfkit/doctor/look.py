"""What one batch on a copy of the model shows: the rows that it reads, what it predicts, its gradients; and its memory.

Nothing here says whether that is good: judge.py does.    B: pairs in the batch     k: numbers in a row of a table
"""

import copy
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from timeit import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mfkit import predict
from mfkit.checks import machine_bytes, tensor
from mfkit.data import Ratings
from mfkit.doctor.case import Case
from mfkit.looking import ask

PROBE = 4096  # ratings that are predicted: the std of the predictions is then known to about a hundredth


@dataclass(frozen=True)
class Memory:
    """Bytes that a step needs, None where nobody can say, and bytes that there are."""

    needed: float | None
    available: float


@dataclass(frozen=True)
class OutOfRange:
    """An id that a table with this many rows does not hold."""

    table: str
    rows: int
    id: int


@dataclass(frozen=True)
class Reply:
    """What came back for n_pairs pairs: a tensor of this shape, or no tensor (None) because an id is out of range."""

    n_pairs: int
    shape: tuple[int, ...] | None
    out_of_range: OutOfRange | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """A parameter of which rows are read by the ids of users, of items or of both."""

    name: str
    values: Tensor  # all of it, the reader's own
    kinds: frozenset[str]  # "users", "items": whose ids it is asked for
    is_factors: bool  # whether k > 1; else its rows are biases
    gradient: Tensor | None  # of the batch, None where there is none; of a sparse one the rows that it lists
    is_sparse: bool  # whether that gradient is sparse


@dataclass(frozen=True)
class Product:
    """u . v, where the model is that plus something that does not read factors (mean and biases)."""

    n_factors: int
    user_scale: float  # root mean square of the entries of u
    item_scale: float  # of v
    absolute_sum: float  # |u|_1 + |v|_1 of a pair, on average
    base: float  # what the model predicts without u . v, on average


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch's worth of facts, of a model with one prediction a pair; all in the case's unit."""

    prediction: Tensor  # (B,) float32
    tables: tuple[Table, ...]
    has_biases: bool  # of users and of items
    product: Product | None  # None: the model is no plain u . v
    curvature: float  # c, where the loss is c e^2 near its optimum; 0 where it is not
    has_sparse_gradients: bool
    not_held: tuple[str, ...] = ()  # tables that get a gradient and are not among the optimizer's
    sparse_error: str | None = None  # what the optimizer says to a sparse gradient; None: takes it, or meets none
    loader_ratio: float | None = None  # time of its batch over that of three slices of tensors; None: no loader

    @property
    def factors(self) -> list[Table]:
        return [table for table in self.tables if table.is_factors]

    @property
    def lawful_product(self) -> Product | None:
        """The product, where the loss is c e^2 as well: the model that the laws of `predict` are about."""
        return self.product if self.curvature else None

    @property
    def description(self) -> str:
        names = sorted(f"{table.name} {tuple(table.values.shape)}" for table in self.tables)
        return f"rows of {', '.join(names) or 'no table'}; {'u . v' if self.product else 'not a plain u . v'}"


def look_at_memory(case: Case) -> Memory:
    """What a step needs, from a dry run that allocates nothing; first, as all other looks need about as much."""
    try:
        batch = predict.peak_bytes(predict.dry_step(case.model, case.batch_size, case.batch_loss))
        needed = case.state_bytes["state"] + batch
    except Exception:  # whatever a model raises that looks at values: it does not run without them
        needed = None
    return Memory(needed, case.memory or _free_bytes(next(case.model.parameters()).is_cuda))


def _free_bytes(cuda: bool) -> float:
    return torch.cuda.mem_get_info()[0] if cuda else machine_bytes()


def look_at_batch(case: Case) -> tuple[Reply, Seen | None]:
    """Ask a copy of the model for a batch, and look at all the rest where one prediction a pair comes back."""
    model = copy.deepcopy(case.model)
    model.eval()
    probe = _probe(case.ratings).to(next(model.parameters()).device)
    watch = _Reads(model, probe)
    try:
        with torch.no_grad(), watch:
            prediction = tensor("prediction", ask(model, probe.users, probe.items))  # in rating units
    except IndexError:
        if watch.out_of_range is None:
            raise
        return Reply(len(probe), None, watch.out_of_range), None
    reply = Reply(len(probe), tuple(prediction.shape))
    if prediction.numel() != len(probe):
        return reply, None

    prediction = prediction.reshape(-1) / case.unit
    gradients = _gradients(case, model, probe)
    tables = tuple(_tables(case.model, watch.lookups, gradients))
    sparse = any(gradient.is_sparse for gradient in gradients.values())
    seen = Seen(
        prediction=prediction.float(),
        tables=tables,
        has_biases={lookup.kind for lookup in watch.lookups if lookup.width == 1} == {"users", "items"},
        product=_product(case, model, probe, prediction, watch.lookups),
        curvature=_curvature(case),
        has_sparse_gradients=sparse,
        not_held=_not_held(case, tables),
        sparse_error=_sparse_error(case) if sparse else None,
        loader_ratio=_loader_ratio(case),
    )
    return reply, seen


def _probe(ratings: Ratings) -> Ratings:
    """Up to PROBE ratings at random, and before them those of the largest ids."""
    picks = np.random.default_rng(0).permutation(len(ratings))[:PROBE]
    largest = [ratings.users.argmax().item(), ratings.items.argmax().item()]
    return ratings.take(np.concatenate([np.array(largest), picks]))


def _gradients(case: Case, model: nn.Module, probe: Ratings) -> dict[str, Tensor]:
    """Of the loss of one batch, of all parameters that get one, by name."""
    size = min(case.batch_size, len(probe))
    batch = probe.take(torch.arange(size))
    loss = case.batch_loss(case.predict(model, batch).reshape(size), batch.values)
    if not loss.requires_grad:
        raise ValueError("model's prediction must carry a gradient, got none: a detach, .data or no_grad?")
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@dataclass(frozen=True, eq=False)
class _Lookup:
    table: str
    kind: str  # "users" or "items"
    rows: Tensor  # (B, k)

    @property
    def width(self) -> int:
        return self.rows.shape[1]


class _Reads(TorchDispatchMode):
    """Notes which rows are read of which parameter, and by whose ids; stops a read that is out of range.

    Under it a model runs as it is, operation by operation: also one that indexes its matrices, or reads one table for
    users and items, with an offset for the items.
    """

    def __init__(self, model: nn.Module, probe: Ratings):
        super().__init__()
        self.asked = {"users": probe.users, "items": probe.items}
        self.owners = {p.untyped_storage().data_ptr(): name for name, p in model.named_parameters()}
        self.lookups: list[_Lookup] = []
        self.out_of_range: OutOfRange | None = None

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kind = operation.overloadpacket.__name__
        if kind == "index":  # table[ids], table[:, ids]: a tensor of ids, or None, for each dimension
            self._note(args[0], args[1])
        elif kind in ("embedding", "_embedding_bag", "_embedding_bag_forward_only"):
            self._note(args[0], [args[1]])
        return operation(*args, **(kwargs or {}))

    def _note(self, table: Tensor, ids_by_dimension: list[Tensor | None]) -> None:
        name = self.owners.get(table.untyped_storage().data_ptr())
        if name is None:
            return
        for dimension, ids in enumerate(ids_by_dimension):
            if ids is None or ids.dtype == torch.bool:
                continue
            rows = table.detach().movedim(dimension, 0)
            wrong = ids[(ids < 0) | (ids >= len(rows))]
            if len(wrong):
                self.out_of_range = OutOfRange(name, len(rows), int(wrong[0]))
                raise IndexError(self.out_of_range)
            for column, kind in self._columns(ids):
                self.lookups.append(_Lookup(name, kind, rows[column].reshape(len(column), -1)))

    def _columns(self, ids: Tensor) -> Iterator[tuple[Tensor, str]]:
        """The columns of ids, (B, ...), that are those of users or of items, or a constant apart from them."""
        n_pairs = len(self.asked["users"])
        if ids.numel() % n_pairs:
            return
        for column in ids.reshape(n_pairs, -1).T:
            for kind, asked in self.asked.items():
                if len((column - asked).unique()) == 1:  # the offset of the items where both share a table
                    yield column, kind


def _tables(model: nn.Module, lookups: list[_Lookup], gradients: dict[str, Tensor]) -> Iterator[Table]:
    """The tables in the order in which they are read first."""
    parameters = dict(model.named_parameters())
    for name in dict.fromkeys(lookup.table for lookup in lookups):
        reads = [lookup for lookup in lookups if lookup.table == name]
        gradient = gradients.get(name)
        is_sparse = gradient is not None and gradient.is_sparse
        yield Table(
            name=name,
            values=parameters[name].detach(),
            kinds=frozenset(lookup.kind for lookup in reads),
            is_factors=any(lookup.width > 1 for lookup in reads),
            gradient=gradient.coalesce().values() if gradient is not None and is_sparse else gradient,
            is_sparse=is_sparse,
        )


@torch.no_grad()
def _product(
    case: Case, model: nn.Module, probe: Ratings, prediction: Tensor, lookups: list[_Lookup]
) -> Product | None:
    """u . v, if that and what the model predicts with all factors at zero make the prediction, (B,).

    The copy has zeros for factors afterwards.
    """
    wide = [lookup for lookup in lookups if lookup.width > 1]
    rows = {lookup.kind: lookup.rows.float() for lookup in wide}
    if len(rows) != 2 or rows["users"].shape != rows["items"].shape:
        return None
    U, V = rows["users"], rows["items"]
    factors = {lookup.table for lookup in wide}
    for name, p in model.named_parameters():
        if name in factors:
            p.zero_()
    base = case.predict(model, probe).reshape(-1).float()
    unexplained = (U * V).sum(1) + base - prediction.float()
    rounding = torch.finfo(prediction.dtype).eps * prediction.float().abs().max()
    if not unexplained.std() <= 0.02 * prediction.float().std() + rounding:  # nor where one is not a number
        return None
    return Product(
        n_factors=U.shape[1],
        user_scale=U.square().mean().sqrt().item(),
        item_scale=V.square().mean().sqrt().item(),
        absolute_sum=(U.abs() + V.abs()).sum(1).mean().item(),
        base=base.mean().item(),
    )


def _curvature(case: Case) -> float:
    """c, if the loss is c e^2 at two small errors e; else 0."""
    first, second = (case.batch_loss(torch.tensor([e]), torch.zeros(1)).item() / e**2 for e in (0.01, 0.02))
    return first if math.isclose(first, second, rel_tol=1e-3) else 0.0


def _not_held(case: Case, tables: tuple[Table, ...]) -> tuple[str, ...]:
    if case.optimizer is None:
        return ()
    held = {id(p) for group in case.optimizer.param_groups for p in group["params"]}
    parameters = dict(case.model.named_parameters())
    missing = {t.name for t in tables if t.gradient is not None and id(parameters[t.name]) not in held}
    return tuple(sorted(missing))


def _sparse_error(case: Case) -> str | None:
    """The first line of what such an optimizer, set as the reader's, says to the sparse gradient of a tiny table."""
    if case.optimizer is None:
        return None
    make = type(case.optimizer)
    known = inspect.signature(make).parameters.keys() - {"params"}
    settings = {name: value for name, value in case.group.items() if name in known}
    table = nn.Embedding(2, 2, sparse=True)
    table(torch.tensor([0])).sum().backward()

    def closure() -> Any:  # some optimizers ask for one; torch's annotation says float, and its own code a tensor
        return torch.zeros(())

    try:
        make(list(table.parameters()), **settings).step(closure)
    except (RuntimeError, TypeError) as error:
        return str(error).splitlines()[0]
    return None


def _loader_ratio(case: Case) -> float | None:
    """How many times longer the loader takes for a batch than slices of the ratings' three tensors, at best."""
    if case.loader is None or len(case.loader) == 0:
        return None
    loader, ratings = case.loader, case.ratings
    data: Any = loader.dataset  # with a length and an index, which torch's Dataset need not have
    rows = torch.arange(case.batch_size)
    ids = [k % len(data) for k in rows.tolist()]

    def from_loader() -> object:
        if loader.batch_size:
            return loader.collate_fn([data[k] for k in ids])
        return data[ids]  # it has no batches of its own: its dataset takes many ids at once

    def from_slices() -> object:
        return [column[rows] for column in (ratings.users, ratings.items, ratings.values)]

    return min(repeat(from_loader, number=1, repeat=3)) / min(repeat(from_slices, number=1, repeat=9))
