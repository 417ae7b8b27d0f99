"""One silent training loop that stops before the first non-finite update.

    loss = reduce over the batch of [ loss(e) + l2 (|u|^2 + |v|^2 + b^2 + c^2) + l1 (...) ],  e = prediction - rating

For any nn.Module that maps (users, items), (B,) int64 each, to predictions (B,). It returns flat records, one a
step; whoever calls it prints or plots.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from mfkit import checkpoint as checkpoints
from mfkit import losses
from mfkit.clipping import clip_coefficient, clip_grad_norm_, grad_norm
from mfkit.data import Ratings
from mfkit.modules import check_fit, embedding_tables, factor_weights, rmse, rows_read

COLUMNS = ["step", "epoch", "loss", "grad_norm", "clip_coef", "seconds", "validation_rmse"]
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
CHOICES = {
    "loss": tuple(losses.LOSSES),
    "optimizer": tuple(OPTIMIZERS),
    "penalty": ("per_rating", "per_table"),
    "reduction": ("mean", "sum"),
}
MASKED_DEVICES = {"cuda"}  # where a diverged update is skipped on the device, so that no step waits for the host
FLUSH_EVERY = 256  # steps between two looks at the records of such a device


@dataclass(frozen=True)
class TrainConfig:
    """A training run but for its data and weights; a variant is dataclasses.replace(config, field=...).

    loss: "mse", "huber" (e^2 within `delta`, in units of the ratings) or "mae".
    optimizer: "sgd" (with `momentum`), "adam" or "adamw"; `weight_decay` is the optimizer's own.
    lr: Adam's first step moves every entry this far; SGD's stability border is `predict.max_stable_lr`.
    batch_size: B; epochs: passes over the ratings. 1024 and 15 suit 1e5 ratings in seconds.
    l2, l1: strengths. penalty="per_rating" (default) penalises the rows that each rating reads, inside
        the mean; "per_table" adds l2 (||U||^2 + ||V||^2) to the reduced loss, as textbook code does.
    reduction: "mean" or "sum" over the batch; "sum" makes gradients B times larger.
    clip_norm: gradients are scaled to at most this norm; None (default) leaves them alone.
    patience: stop after so many epochs without a better validation RMSE, and go back to the best.
    seed: order of the batches, and dropout where the model has any. Weights have their own seed.

    Raises ValueError that names the field.
    """

    loss: str = "mse"
    optimizer: str = "adam"
    lr: float = 1e-2
    batch_size: int = 1024
    epochs: int = 15
    l2: float = 0.0
    l1: float = 0.0
    penalty: str = "per_rating"
    reduction: str = "mean"
    delta: float = 1.0
    clip_norm: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        for name, least in {"batch_size": 1, "epochs": 1, "seed": 0, "patience": 1}.items():
            value = getattr(self, name)
            if not (type(value) is int and value >= least) and (name, value) != ("patience", None):
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        for name in ("lr", "delta", "clip_norm", "l2", "l1", "momentum", "weight_decay"):
            value, positive = getattr(self, name), name in ("lr", "delta", "clip_norm")
            number = isinstance(value, int | float) and math.isfinite(value)
            if not (number and (value > 0 or (value == 0 and not positive))) and (name, value) != ("clip_norm", None):
                raise ValueError(f"{name} must be finite and {'positive' if positive else 'at least 0'}, got {value!r}")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum needs optimizer='sgd', got momentum={self.momentum} with {self.optimizer!r}")


class DivergenceError(ArithmeticError):
    """Loss or gradient stopped being finite. `.record`: that step's row; the parameters are those before it."""

    def __init__(self, record: dict, config: TrainConfig):
        lr, clip, step = config.lr, config.clip_norm, f"step {record['step']} (epoch {record['epoch']})"
        if config.optimizer != "sgd":
            remedy = (
                f"no {config.optimizer} step exceeds 7.27 lr = {7.27 * lr:.3g}: lower lr, or look for NaN in the model"
            )
        elif clip is not None:
            remedy = f"clipping bounds a step by lr * clip_norm = {lr * clip:.3g}: lower lr"
        else:
            remedy = (
                f"lower lr={lr:g} (predict.max_stable_lr gives the border), start from smaller factors "
                "(initializers.scaled_), or bound each step with clip_norm=1.0"
            )
        super().__init__(
            f"training diverged at {step}: loss {record['loss']:.4g}, gradient norm {record['grad_norm']:.4g}; "
            f"the parameters are those before this step. Remedy: {remedy}."
        )
        self.record = record


@dataclass
class History:
    """What happened, one record a step; `.frame` is the table.

    Columns: step and epoch (from 1), loss (the batch's objective), grad_norm before clipping, clip_coef (1: not
    clipped), seconds of training so far, validation_rmse on an epoch's last step and NaN elsewhere.
    """

    records: list[dict] = field(default_factory=list)

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.records, columns=COLUMNS)

    @property
    def best(self) -> int | None:
        """The epoch with the lowest validation RMSE; None without validation."""
        scored = [(r["validation_rmse"], r["epoch"]) for r in self.records if math.isfinite(r["validation_rmse"])]
        return min(scored)[1] if scored else None


def train(
    model: nn.Module,
    ratings: Ratings,
    config: TrainConfig,
    *,
    validation: Ratings | None = None,
    on_step: Callable[[dict], None] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> History:
    """Train `model` in place, on the device where its parameters are.

    validation: scored after each epoch (RMSE, predictions not clipped to a rating range).
    on_step: called with each step's record after its update.
    checkpoint: a file, written whole after each epoch; resume=True goes on from it (or starts, where there is none)
        and ends with the same parameters, bit for bit, as a run that was never interrupted.

    Same model, config and machine: the same records, bit for bit, but for `seconds`. The last parameters stay, or
    with `patience` the best. Raises DivergenceError; ValueError, TypeError or IndexError where model and ratings
    do not fit each other; FileExistsError for a checkpoint that is there without resume.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"model must have parameters to train, got {type(model).__name__} with none")
    if config.patience and validation is None:
        raise ValueError(f"patience={config.patience} needs validation ratings, got validation=None")
    device = parameters[0].device
    ratings = ratings.to(device)
    check_fit(model, ratings, "ratings")
    if validation is not None:
        check_fit(model, validation.to(device), "validation")
    sparse = any(table.sparse for table in embedding_tables(model).values())
    if sparse and config.optimizer != "sgd":
        raise ValueError(f"optimizer must be 'sgd' for a model with sparse=True, got {config.optimizer!r}")

    masked = device.type in MASKED_DEVICES and not sparse
    options = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    options |= {"lr": config.lr, "weight_decay": config.weight_decay, "fused": masked or None}
    optimizer = OPTIMIZERS[config.optimizer](parameters, **options)
    history, best_state, pending, diverged = History(), None, [], torch.zeros((), device=device)
    if checkpoint is not None and Path(checkpoint).exists():
        if not resume:
            raise FileExistsError(f"checkpoint={str(checkpoint)!r} exists; want resume=True, or another name")
        state = checkpoints.load(checkpoint, config, ratings)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history.records, best_state = state["records"], state["best"]

    def flush() -> None:
        """Move pending steps to the history, and stop at the first one that is not finite."""
        numbers = torch.stack([torch.stack(scalars) for *_, scalars in pending]).tolist() if pending else []
        for (step, epoch, seconds, _), (loss, norm, coefficient) in zip(pending, numbers, strict=True):
            row = (step, epoch, loss, norm, coefficient, seconds, math.nan)
            history.records.append(dict(zip(COLUMNS, row, strict=True)))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergenceError(history.records[-1], config)
        pending.clear()

    step, done, seconds = (
        [history.records[-1][name] for name in ("step", "epoch", "seconds")] if history.records else (0, 0, 0.0)
    )
    start, was_training = time.perf_counter() - seconds, model.training
    for epoch in range(done + 1, config.epochs + 1):
        if config.patience and history.best and epoch - 1 - history.best >= config.patience:
            break
        model.train()
        seed = config.seed * 1_000_003 + epoch  # each epoch's order by itself, so that a resumed run meets the same
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)  # for dropout; the caller's random state comes back
            for batch in ratings.batches(config.batch_size, torch.Generator().manual_seed(seed)):
                optimizer.zero_grad(set_to_none=True)
                loss = objective(model, batch, config)
                loss.backward()
                if config.clip_norm is None:
                    norm, coefficient = grad_norm(parameters), torch.ones((), device=device)
                else:
                    norm = clip_grad_norm_(parameters, config.clip_norm)
                    coefficient = clip_coefficient(norm, config.clip_norm)
                step += 1
                scalars = tuple(scalar.detach().float() for scalar in (loss, norm, coefficient))
                pending.append((step, epoch, time.perf_counter() - start, scalars))
                if masked:  # fused kernels skip the update where found_inf is 1, as they do for GradScaler
                    diverged = diverged.maximum(1 - (loss.isfinite() & norm.isfinite()).float())
                    optimizer.found_inf = diverged
                else:
                    flush()
                optimizer.step()
                if on_step or len(pending) >= FLUSH_EVERY:
                    flush()
                if on_step:
                    on_step(history.records[-1])
        flush()
        if validation is not None:
            paused = time.perf_counter()
            history.records[-1]["validation_rmse"] = rmse(model, validation)
            start += time.perf_counter() - paused
            if config.patience and history.best == epoch:
                best_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if checkpoint is not None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoints.save(checkpoint, state | {"records": history.records, "best": best_state}, config, ratings)
    if best_state is not None:
        model.load_state_dict(best_state)
    model.train(was_training)
    return history


def objective(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], config: TrainConfig) -> Tensor:
    """What training minimises, for one batch (users, items, values): the equation above, a 0-d tensor."""
    users, items, values = batch
    penalties = [(strength, p) for strength, p in ((config.l2, 2), (config.l1, 1)) if strength]
    options = {"delta": config.delta} if config.loss == "huber" else {}
    if penalties and config.penalty == "per_rating":
        with rows_read(model) as rows:
            prediction = model(users, items)
    else:
        prediction, rows = model(users, items), []
    loss = losses.LOSSES[config.loss](prediction, values, **options).sum()
    if rows:
        loss = loss + sum(strength * losses.power_sum(rows, p) for strength, p in penalties)
    if config.reduction == "mean":
        loss = loss / len(values)
    if penalties and config.penalty == "per_table":
        loss = loss + sum(strength * losses.power_sum(factor_weights(model), p) for strength, p in penalties)
    return loss
