"""Checkpoints of the trainer: written whole or not at all, read without running code from the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from mfkit.data import Ratings


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; moved to `path` when the block ends, removed where it raises.

    So whoever reads `path` finds the old file or the new one, whole, even after a kill or a power cut.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save(path: str | Path, model: nn.Module, optimizer: Optimizer, records, best, config, ratings: Ratings) -> None:
    """Write the state of a run, as `restore` reads it, to a temporary file beside `path`, then move it into place."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"], "records": records}
    state |= {"best": best, "config": asdict(config), "ratings": _fingerprint(ratings)}
    with replacing(path) as partial:
        torch.save(state, partial)


def restore(path: str | Path | None, resume: bool, model: nn.Module, optimizer: Optimizer, config, ratings: Ratings):
    """Put a saved run back into model and optimizer; its (records, best state), or ([], None) where none is saved.

    Raises ValueError for a file that is there without `resume`, a folder that is not, a broken file, other ratings,
    another model, or a config that differs in more than `epochs`.
    """
    if path is None and resume:
        raise ValueError("resume=True needs a checkpoint, got checkpoint=None")
    if path is not None and not Path(path).parent.is_dir():
        raise ValueError(f"checkpoint={str(path)!r} must lie in a folder that exists")
    if path is None or not Path(path).exists():
        return [], None
    if not resume:
        raise ValueError(f"checkpoint={str(path)!r} exists; want resume=True, or another name")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved, fingerprint = state["config"], state["ratings"]
    except Exception as error:
        raise ValueError(f"checkpoint={str(path)!r} must be a file that train wrote, got: {error}") from error
    for name, value in asdict(config).items():
        if name != "epochs" and saved.get(name) != value:
            raise ValueError(f"config.{name} must be the checkpoint's {saved.get(name)!r} to resume, got {value!r}")
    if fingerprint != _fingerprint(ratings):
        raise ValueError(f"ratings must be the checkpoint's, in their order, to resume, got others: {ratings}")
    shapes = [{name: x.shape for name, x in tensors.items()} for tensors in (state["model"], model.state_dict())]
    if shapes[0] != shapes[1]:
        raise ValueError(f"model must be the checkpoint's, with {shapes[0]}, to resume, got {shapes[1]}")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state["optimizer"]})  # this device's own options
    return state["records"], state["best"]


def _fingerprint(ratings: Ratings) -> list[float]:
    """Sizes and position-weighted sums: different for other ratings or another order, for all practical purposes."""
    weights = torch.arange(len(ratings)) % 1009 + 1
    columns = (ratings.users.cpu(), ratings.items.cpu(), ratings.values.cpu().double())
    return [len(ratings), ratings.n_users, ratings.n_items, *((column * weights).sum().item() for column in columns)]
