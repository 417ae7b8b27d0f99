"""What a public function is given, checked in one line: each check returns the value as plain Python or torch has it.

    epochs = integer("epochs", epochs, least=1)

Every error names the argument, what was wanted and what was given. NumPy's and torch's single numbers are numbers;
booleans are not.
"""

import math
import os
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
LARGEST = torch.finfo(torch.float32).max


def integer(name: str, value: object, *, least: int) -> int:
    """An integer of at least `least` that 64 bits hold, as torch's; ValueError for anything else."""
    number = _unboxed(value)
    if isinstance(number, bool) or not isinstance(number, Integral) or int(number) < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {shown(value)}")
    if int(number) >= 2**63:
        raise ValueError(f"{name} must be an integer below 2^63, got {shown(value)}")
    return int(number)


def number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    infinite: bool = False,
) -> float:
    """A number above `above`, of at least `least`, below `below`, where these are given; ValueError for anything else.

    infinite: whether it may be infinite; NaN it is never. Finite is what float32 holds, up to 3.4e38: tables are.
    """
    wanted = "a number" if infinite else "a finite number"
    if above is not None:
        wanted += f" above {above}"
    if least is not None:
        wanted += f" of at least {least}"
    if below is not None:
        wanted += f" and below {below}"
    real = _unboxed(value)
    if isinstance(real, bool) or not isinstance(real, Real):
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
    try:
        result = float(real)
    except OverflowError:  # an integer beyond 1.8e308
        result = math.inf
    too_low = (above is not None and result <= above) or (least is not None and result < least)
    too_high = below is not None and result >= below
    if math.isnan(result) or (abs(result) > LARGEST and not infinite) or too_low or too_high:
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
    return result


def one_of(name: str, value: object, known: Collection[str]) -> str:
    """One of these words; ValueError for anything else."""
    if not isinstance(value, str) or value not in known:
        *first, last = (repr(word) for word in known)
        wanted = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
    return value


def boolean(name: str, value: object) -> bool:
    """True or False; ValueError for anything else: "no" would be taken for true."""
    flag = _unboxed(value)
    if not isinstance(flag, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {shown(value)}")
    return bool(flag)


def instance(name: str, value: object, kind: type[T]) -> T:
    """An object of this class; TypeError for anything else."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {shown(value)}")
    return value


def function(name: str, value: object) -> None:
    """Something that can be called, or None; TypeError for anything else."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function or None, got {shown(value)}")


def path(name: str, value: object) -> Path:
    """A path, from text or what stands for one; TypeError for anything else, ValueError for text that names no file."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {shown(value)}")
    if not str(value) or "\0" in str(value):
        raise ValueError(f"{name} must be a path, got {shown(value)}")
    return Path(value)


def new_file(name: str, value: object) -> Path:
    """A path that a file can be written to; errors as `path`, and ValueError for one in no folder, or for a folder."""
    wanted = path(name, value)
    if not wanted.parent.is_dir() or wanted.is_dir():
        raise ValueError(f"{name}={str(value)!r} must be a file's name in a folder that exists")
    return wanted


def machine_bytes() -> float:
    """The memory of this machine; infinite where the system does not say (Windows)."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def tensor(name: str, value: object) -> Tensor:
    """A dense tensor of real numbers, itself; TypeError for anything else."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {shown(value)}")
    if value.dtype == torch.bool or value.is_complex():
        raise TypeError(f"{name} must be real numbers, got dtype {value.dtype}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one with layout {value.layout}")
    return value


def tensors(name: str, value: object) -> list[Tensor]:
    """Tensors in a list or another iterable; TypeError for anything else, a tensor by itself included."""
    if isinstance(value, Tensor):
        raise TypeError(f"{name} must be a list of tensors, got a tensor of shape {tuple(value.shape)}")
    members = listed(name, value)
    for each in members:
        if not isinstance(each, Tensor):
            raise TypeError(f"{name} must be tensors, got {shown(each)} among them")
    return members


def listed(name: str, value: object) -> list[Any]:
    """The members of a list or another iterable; TypeError for anything else, a dict or text included."""
    has_no_axis = isinstance(value, np.ndarray | Tensor) and value.ndim == 0
    if has_no_axis or isinstance(value, str | bytes | dict | type) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list, got {shown(value)}")
    return list(value)


def vector(name: str, value: object) -> Tensor:
    """A copy on the CPU of real numbers of shape (N,), in their own dtype.

    Goes through numpy, which reads lists, pandas columns, read-only, reversed and big-endian arrays. Raises TypeError
    for what is not numbers, ValueError for another shape or for masked cells, which numpy would unmask.
    """
    if isinstance(value, np.ma.MaskedArray) and value.mask.any():
        raise ValueError(f"{name} must have no masked cells, got {int(value.mask.sum())}")
    try:
        array = np.array(value.detach().cpu().numpy() if isinstance(value, Tensor) else value, order="C")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must be a vector of numbers, got {type(value).__name__}: {error}") from None
    if array.dtype.kind not in "biufc":
        strange = next((x for x in array.ravel() if isinstance(x, bool) or not isinstance(x, Real)), array)
        raise TypeError(f"{name} must be a vector of numbers, got {type(value).__name__} with {shown(strange)}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (N,), got {array.shape}")
    if array.dtype.kind in "bc":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if isinstance(value, list | tuple) and any(isinstance(x, bool | np.bool_) for x in value):  # numpy made it 0 or 1
        raise TypeError(f"{name} must be real numbers, got a boolean among them")
    if array.dtype == np.longdouble:  # torch has no such dtype
        array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(array.view(array.dtype.str))  # torch knows one of C's two names for 64 bits


def shown(value: object) -> str:
    """repr(value), on one line of at most 80 characters; numpy's numbers as Python's."""
    if isinstance(value, np.number | np.bool_ | np.str_):
        value = value.item()
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _unboxed(value: object) -> object:
    """The number in an array or tensor without dimensions; other values as they are."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        return value.item()
    return value
