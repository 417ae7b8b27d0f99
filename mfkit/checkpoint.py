"""Checkpoints of the trainer: written whole or not at all, read without running code from the file."""

import os
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from mfkit.data import Ratings


def save(path: str | Path, state: dict, config, ratings: Ratings) -> None:
    """Write `state` (tensors, numbers, strings) to a temporary name beside `path`, then move it into place."""
    path = Path(path)
    state = {**state, "config": asdict(config), "ratings": _fingerprint(ratings)}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def load(path: str | Path, config, ratings: Ratings) -> dict:
    """The saved state. ValueError for a broken file, other ratings, or a config that differs in more than `epochs`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved, fingerprint = state["config"], state["ratings"]
    except Exception as error:
        raise ValueError(f"checkpoint={str(path)!r} must be a file that train wrote, got: {error}") from error
    for name, value in asdict(config).items():
        if name != "epochs" and saved[name] != value:
            raise ValueError(f"config.{name} must be the checkpoint's {saved[name]!r} to resume, got {value!r}")
    if fingerprint != _fingerprint(ratings):
        raise ValueError(f"ratings must be the checkpoint's, in their order, to resume, got others: {ratings}")
    return state


def _fingerprint(ratings: Ratings) -> list[float]:
    """Sizes and position-weighted sums: different for other ratings or another order, for all practical purposes."""
    weights = torch.arange(len(ratings)) % 1009 + 1
    columns = (ratings.users.cpu(), ratings.items.cpu(), ratings.values.cpu().double())
    return [len(ratings), ratings.n_users, ratings.n_items, *((column * weights).sum().item() for column in columns)]
