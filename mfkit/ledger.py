"""Bytes that a function would allocate, counted operation by operation on tensors that need hold no memory.

`predict.peak_bytes` and `predict.dry_step` are these; `measure.peak_bytes` asks the allocator.
"""

import copy
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mfkit import checks

LARGEST_BATCH = 10**12  # beyond, the bytes of a dry step pass 2^63


def peak_bytes(function: Callable[[], object]) -> int:
    """Most bytes alive at once among the tensors that `function()` makes, summed operation by operation.

    Needs no memory where its tensors are on torch.device("meta"): a size far beyond the machine can be asked for;
    `dry_step` makes such a function of any model. Buffers inside one kernel are not seen (mse_loss's backward:
    12 bytes a rating; an indexed dense product is counted twice).
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {checks.shown(function)}")
    with _Ledger() as ledger:
        function()
    return ledger.peak


def dry_step(
    model: nn.Module, batch_size: int, loss: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Callable[[], None]:
    """Forward and backward of one batch as a function for `peak_bytes`, on stand-ins that hold no memory.

    model: any module that maps (users, items), (B,) int64 each, to (B,), and looks at no value of theirs.
    loss: (B,), (B,) -> 0-d tensor; the mean squared error where it is None.
    """
    checks.instance("model", model, nn.Module)
    if checks.integer("batch_size", batch_size, least=1) > LARGEST_BATCH:
        raise ValueError(f"batch_size must be at most 10^12, got {batch_size}")
    batch_size = int(batch_size)
    checks.function("loss", loss)
    stand_ins: dict[int, Tensor] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        stand_ins[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in model.buffers():
        stand_ins[id(buffer)] = torch.empty_like(buffer, device="meta")
    dry_model = copy.deepcopy(model, stand_ins)  # deepcopy takes for copied what stands in its memo
    users, items = torch.empty(2, batch_size, dtype=torch.int64, device="meta")
    values = torch.empty(batch_size, device="meta")

    def step() -> None:
        prediction = dry_model(users, items)
        scalar = (prediction - values).square().mean() if loss is None else loss(prediction, values)
        scalar.backward()

    return step


class _Ledger(TorchDispatchMode):
    """Adds a storage when an operation returns it for the first time, and takes it off when nothing holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0  # bytes
        self.known: set[int] = set()  # ids of storages

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self._enter((args, kwargs), new=False)
        result = operation(*args, **(kwargs or {}))
        self._enter(result, new=True)
        return result

    def _enter(self, tree: object, new: bool) -> None:
        """Note the storages in what an operation was given (not new: they count nothing) or returned."""
        for tensor in tree_leaves(tree):
            if not isinstance(tensor, Tensor):
                continue
            parts = [tensor._indices(), tensor._values()] if tensor.is_sparse else [tensor]
            for part in parts:
                storage = part.untyped_storage()
                if id(storage) not in self.known:
                    size = storage.nbytes() if new else 0
                    self.known.add(id(storage))
                    self.now += size
                    weakref.finalize(storage, self._leave, id(storage), size)
        self.peak = max(self.peak, self.now)

    def _leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
