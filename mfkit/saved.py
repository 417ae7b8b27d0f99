"""A model in one file: weights, sizes, mean, scale and the ids of its rows; safe to read from strangers (files.py).

    {"sizes": [n_users, n_items, n_factors], "biases": bool, "sparse": bool, "l2": float or None,
     "tensors": {name: tensor}, "user_ids": JSON text or None, "item_ids": JSON text or None}

The ratings are not in it.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mfkit import checks, files
from mfkit.ids import row_ids

FIRST_LINE = b"mfkit model 1\n"
KEYS = {"sizes", "biases", "sparse", "l2", "tensors", "user_ids", "item_ids"}
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def write(path: str | Path, parts: dict[str, Any]) -> None:
    """The parts above, ids as arrays or None, written whole or not at all; errors as `checks.new_file`."""
    path = checks.new_file("path", path)
    texts = {}
    for name in ("user_ids", "item_ids"):
        ids = parts[name]
        texts[name] = None if ids is None else json.dumps([_plain(x) for x in ids])
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in parts["tensors"].items()}
    files.write(path, FIRST_LINE, parts | texts | {"tensors": tensors})


def read(path: str | Path) -> dict[str, Any]:
    """The parts above, verified, with ids as arrays or None; ValueError for a file that `write` did not write."""
    parts = files.read(path, FIRST_LINE, "path", "MatrixFactorization.save")
    try:
        check_parts(parts)
        n_users, n_items, *_ = parts["sizes"]
        parts["user_ids"] = read_ids("user_ids", parts["user_ids"], n_users)
        parts["item_ids"] = read_ids("item_ids", parts["item_ids"], n_items)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"path={str(path)!r} must hold what MatrixFactorization.save writes, got {error}") from error
    return parts


def check_parts(parts: Any) -> None:
    """What no checksum knows: a stranger's file may hold anything. Nothing of the sizes is made before this."""
    if not isinstance(parts, dict) or set(parts) != KEYS:
        raise ValueError(f"parts other than {sorted(KEYS)}")
    sizes, biases = parts["sizes"], parts["biases"]
    if not isinstance(sizes, list) or len(sizes) != 3 or not all(type(size) is int for size in sizes):
        raise ValueError(f"sizes={sizes!r}")
    for name in ("biases", "sparse"):
        if not isinstance(parts[name], bool):
            raise ValueError(f"{name}={parts[name]!r}")
    l2 = parts["l2"]
    if l2 is not None and not (isinstance(l2, float) and l2 >= 0 and math.isfinite(l2)):
        raise ValueError(f"l2={l2!r}")
    m, n, d = sizes
    if m < 1 or n < 1 or d < 0 or not (d or biases):
        raise ValueError(f"sizes={sizes!r} with biases={biases}")
    shapes: dict[str, tuple[int, ...]] = {"given": (2,), "user_seen": (m,), "item_seen": (n,), "mean": (), "scale": ()}
    if d:
        shapes |= {"user_factors.weight": (m, d), "item_factors.weight": (n, d)}
    if biases:
        shapes |= {"user_bias.weight": (m, 1), "item_bias.weight": (n, 1)}
    tensors = parts["tensors"]
    if not isinstance(tensors, dict) or set(tensors) != set(shapes):
        raise ValueError(f"tensors other than {sorted(shapes)}")
    for name, shape in shapes.items():
        kinds = {torch.bool} if name in ("given", "user_seen", "item_seen") else FLOATS & {tensors["mean"].dtype}
        check_tensor(name, tensors[name], shape, kinds)
    if not (tensors["mean"].isfinite() and tensors["scale"].isfinite() and tensors["scale"] > 0):
        raise ValueError(f"mean {tensors['mean'].item()} and scale {tensors['scale'].item()}")


def check_tensor(name: str, tensor: Any, shape: tuple[int, ...], kinds: set[torch.dtype]) -> None:
    """A plain tensor of this shape whose numbers are really there: a view can claim any size."""
    plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or not tensor.is_contiguous():
        raise ValueError(f"{name} that is no plain tensor")
    if tuple(tensor.shape) != shape or tensor.dtype not in kinds:
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} and {tensor.dtype}, not {shape}")


def read_ids(name: str, text: Any, size: int) -> np.ndarray | None:
    """The ids in a JSON list, (size,); errors as `row_ids`."""
    if text is None:
        return None
    ids = json.loads(text)
    if not isinstance(ids, list):
        raise ValueError(f"{name} that are no list")
    return row_ids(name, ids, size)


def _plain(x: Any) -> str | int:
    """An id as JSON has it; TypeError for what is neither a string nor an integer."""
    if isinstance(x, str):
        return str(x)
    if isinstance(x, bool | np.bool_) or not isinstance(x, int | np.integer):
        raise TypeError(f"ids must be strings or integers to be saved, got {x!r}")
    return int(x)
