"""Checkpoints of the trainer: written whole or not at all, verified before they are read, refused if anything differs.

The state names every tensor of model and optimizer by its parameter, so nothing is matched by position.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mfkit import checks, files
from mfkit.config import TrainConfig
from mfkit.data import Ratings
from mfkit.objective import model_inside

FIRST_LINE = b"mfkit checkpoint 2\n"
KEYS = {"model", "optimizer", "trained", "records", "best", "config", "ratings", "validation"}


def digest(ratings: Ratings | None) -> str | None:
    """sha256 of the ratings in their order, and of the table sizes; None for None."""
    if ratings is None:
        return None
    hashed = hashlib.sha256(f"{len(ratings)} {ratings.n_users} {ratings.n_items}".encode())
    for column in (ratings.users, ratings.items, ratings.values):
        hashed.update(column.cpu().contiguous().numpy().data)
    return hashed.hexdigest()


def read(path: str | Path) -> dict[str, Any]:
    """The state in a checkpoint, its checksum verified and its parts checked; ValueError for anything else."""
    state = files.read(path, FIRST_LINE, "checkpoint", "train")
    try:
        check_parts(state)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"checkpoint={str(path)!r} must hold what train writes, got: {error}") from error
    return state


def check_parts(state: Any) -> None:
    """What no checksum knows: that the parts are those of `save`, and the optimizer's fit their parameters."""
    if not isinstance(state, dict) or set(state) != KEYS:
        raise ValueError(f"parts other than {sorted(KEYS)}")
    for name in ("model", "optimizer", "config"):
        if not isinstance(state[name], dict):
            raise ValueError(f"{name} that is no dict")
    for record in state["records"]:
        if not isinstance(record["epoch"], int) or not isinstance(record["validation_rmse"], float):
            raise ValueError("records that are not the trainer's")
    for name, parts in state["optimizer"].items():
        shape = state["model"][name].shape
        for part, value in parts.items():
            if isinstance(value, Tensor) and value.shape not in (shape, shape[:1], torch.Size()):
                raise ValueError(f"{part} of {name} with shape {tuple(value.shape)} for {tuple(shape)}")


class Checkpoint:
    """The file of one run. The ratings are hashed once, here: saving after an epoch writes the state and no more.

    model: through any wrapper; the names are those of the model inside. validation: matters to `patience`, which
    compares one epoch's RMSE with another's.
    """

    def __init__(
        self,
        path: str | Path,
        model: nn.Module,
        optimizer: Optimizer,
        config: TrainConfig,
        ratings: Ratings,
        validation: Ratings | None,
    ) -> None:
        self.path, self.optimizer, self.config = checks.new_file("checkpoint", path), optimizer, config
        self.model = model_inside(model)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        self.trained = [names[p] for group in optimizer.param_groups for p in group["params"]]
        self.ratings = digest(ratings)
        self.validation = digest(validation) if config.patience else None

    def save(self, records: list[dict], best: dict[str, Tensor] | None) -> None:
        """Write the state of the run."""
        by_position = self.optimizer.state_dict()["state"]
        state = {
            "model": self.model.state_dict(),
            "optimizer": {name: by_position[k] for k, name in enumerate(self.trained) if k in by_position},
            "trained": self.trained,
            "records": records,
            "best": best,
            "config": asdict(self.config),
            "ratings": self.ratings,
            "validation": self.validation,
        }
        files.write(self.path, FIRST_LINE, state)

    def restore(self) -> tuple[list[dict], dict[str, Tensor] | None]:
        """Put the saved run back into model and optimizer; its records and best state.

        Raises ValueError, and changes nothing, for content that `save` did not write so, other ratings, another
        model, other trained parameters, or a config that differs in more than `epochs`.
        """
        state = read(self.path)
        for name, value in asdict(self.config).items():
            if name != "epochs" and state["config"].get(name) != value:
                saved = state["config"].get(name)
                raise ValueError(f"config.{name} must be the checkpoint's {saved!r} to resume, got {value!r}")
        if state["ratings"] != self.ratings:
            raise ValueError("ratings must be the checkpoint's, in their order, to resume, got others")
        if state["validation"] != self.validation:
            raise ValueError("validation must be the checkpoint's, to resume with patience, got others")
        shapes = {name: (tuple(x.shape), x.dtype) for name, x in self.model.state_dict().items()}
        saved = {name: (tuple(x.shape), x.dtype) for name, x in state["model"].items()}
        if saved != shapes:
            raise ValueError(f"model must be the checkpoint's, with {saved}, to resume, got {shapes}")
        if set(state["trained"]) != set(self.trained):
            raise ValueError(f"model must train the checkpoint's {state['trained']} to resume, got {self.trained}")
        self.model.load_state_dict(state["model"])
        by_position = {k: state["optimizer"][name] for k, name in enumerate(self.trained) if name in state["optimizer"]}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": by_position})  # this device's options
        return state["records"], state["best"]
