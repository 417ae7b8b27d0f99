"""Looking changes nothing: whatever a model does when it is asked, afterwards it is as it was before.

Some forwards write: nn.Embedding(max_norm=...) rescales the rows that it reads, normalisation keeps running means,
people clamp weights and count calls. A parameter or buffer is copied just before the first operation that writes into
it, so a model that writes nothing costs nothing, and one that does costs a copy of what it writes.
"""

import functools
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

GENERATORS = {torch.Generator, np.random.Generator, np.random.RandomState, random.Random}
WRITTEN_UNSAID = {"running_mean", "running_var"}  # batch_norm's schema does not say that it writes them


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards parameters, buffers, modes and random states are as before.

    Random states: torch's, numpy's, Python's, and those of generators that are attributes of the model's modules. A
    compiled model runs as it was before torch.compile, as a compiled forward writes unseen. What torch does not see
    (numpy's view of a weight) stays as the forward leaves it. Raises RuntimeError, at the end, where a forward wrote
    into a tensor that cannot be put back (a sparse one).
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    kept = KeptTensors(model)
    with ExitStack() as stack:
        stack.callback(kept.restore)
        stack.enter_context(generators_kept(model))
        stack.enter_context(torch.random.fork_rng(list(devices)))
        if is_compiled(model):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(kept)
        stack.enter_context(in_mode(model, False))
        yield


def ask(model: nn.Module, users: Tensor, items: Tensor, *rows: dict[str, Tensor]) -> Any:
    """model(users, items): what a forward raises passes through, with a note of whose it is and what it was asked."""
    try:
        return model(users, items, *rows)
    except Exception as error:
        note = f"raised by the forward of {type(model).__name__}, asked for {len(users)} pairs"
        if len(users) == 1:
            note += "; if it cannot do with one (BatchNorm), want a batch_size that leaves no last batch of one"
        error.add_note(note)
        raise


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


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has been at it or at a part of it: hooks set later do not fire."""
    return any(
        getattr(module, "_orig_mod", None) is not None or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


@contextmanager
def generators_kept(model: nn.Module) -> Iterator[None]:
    """numpy's and Python's random states, and those of the generators that the model's modules hold, as before."""
    own = [held for module in model.modules() for held in vars(module).values() if type(held) in GENERATORS]
    states = [generator_state(held) for held in own]
    global_numpy, global_python = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(global_numpy)
        random.setstate(global_python)
        for held, state in zip(own, states, strict=True):
            set_generator_state(held, state)


def generator_state(generator: Any) -> Any:
    """The state of one of GENERATORS."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def set_generator_state(generator: Any, state: Any) -> None:
    """What `generator_state` gave, put back."""
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


class KeptTensors(TorchDispatchMode):
    """Sees every operation inside its block; copies a tensor of the model before the first one that writes into it.

    A tensor's storage tells it: .data, detach and views share it. names: of the model, by position, as all lists here.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.holders: list[dict[str, Any]] = [
            held for module in model.modules() for held in (module._parameters, module._buffers)
        ]
        self.held = [dict(holder) for holder in self.holders]  # the same tensors under the same names
        found = {id(t): (name, t) for name, t in (*model.named_parameters(), *model.named_buffers()) if not is_lazy(t)}
        self.names = [name for name, _ in found.values()]
        self.tensors = [tensor for _, tensor in found.values()]
        self.contents = [tensor.data for tensor in self.tensors]  # the same storage, whatever becomes of the tensor
        self.copies: dict[int, Tensor] = {}
        self.of_storage: dict[int, list[int]] = {}
        for k, content in enumerate(self.contents):
            self.of_storage.setdefault(_storage(content), []).append(k)
        unkept = self.of_storage.pop(0, [])  # can be watched, not put back
        self.versions = {k: self.tensors[k]._version for k in unkept if self.tensors[k].numel()}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch's question; True would import torch._dynamo, 2 s, at the first look
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        for position, name in written_arguments(func):
            given = args[position] if position < len(args) else kwargs.get(name)
            for tensor in given if isinstance(given, list | tuple) else [given]:
                if isinstance(tensor, Tensor):
                    self.copy(_storage(tensor))
        return func(*args, **kwargs)

    def copy(self, storage: int) -> None:
        """Copy the tensors in this storage, unless that is done already."""
        for k in self.of_storage.get(storage, []):
            if k not in self.copies:
                self.copies[k] = self.contents[k].clone()

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what was written, and the tensors that were replaced."""
        for holder, held in zip(self.holders, self.held, strict=True):
            holder.update(held)
        for k, copied in self.copies.items():
            self.contents[k].copy_(copied)
        for k, (tensor, content) in enumerate(zip(self.tensors, self.contents, strict=True)):
            if _storage(content) != _storage(tensor) or content.shape != tensor.shape:
                tensor.data = content
            elif k in self.versions and tensor._version != self.versions[k]:
                raise RuntimeError(
                    f"model must not write into {self.names[k]} when it is asked, as a tensor of layout "
                    f"{tensor.layout} and dtype {tensor.dtype} cannot be put back; it has changed"
                )


@functools.cache
def written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """(position, name) of the arguments that an operation of torch writes into."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.name in WRITTEN_UNSAID or (argument.alias_info is not None and argument.alias_info.is_write)
    )


def _storage(tensor: Tensor) -> int:
    """Where a tensor's numbers lie; 0 for one that says it not, as a sparse one."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0
