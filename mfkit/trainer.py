"""One silent training loop that stops before the first non-finite update.

    loss = reduce over the batch of [ loss(e) + l2 (|u|^2 + |v|^2 + b^2 + c^2) + l1 (...) ],  e = prediction - rating

For any nn.Module that maps (users, items), (B,) int64 each, to predictions (B,). It returns flat records, one a
step; whoever calls it prints or plots.
"""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import nn

from mfkit import checkpoint as checkpoints
from mfkit.clipping import clip_coefficient, clip_grad_norm_, grad_norm
from mfkit.config import TrainConfig
from mfkit.data import Ratings
from mfkit.evaluate import check_fit, in_mode, rmse
from mfkit.objective import has_sparse_gradients, objective
from mfkit.optimizers import OPTIMIZERS, ROW_OPTIMIZERS

COLUMNS = ["step", "epoch", "loss", "grad_norm", "clip_coef", "seconds", "validation_rmse"]
MASKED_DEVICES = {"cuda"}  # where a diverged update is skipped on the device, so that no step waits for the host
FLUSH_EVERY = 256  # steps between two looks at the records of such a device


class DivergenceError(ArithmeticError):
    """Loss or gradient stopped being finite. `.record`: that step's row; the parameters are those before it."""

    def __init__(self, record: dict, config: TrainConfig):
        lr, clip, self.record, self.config = config.lr, config.clip_norm, record, config
        if record["step"] == 1:
            remedy = "nothing was updated yet: start from smaller factors (initializers.scaled_), look for NaN"
        elif config.optimizer != "sgd":
            remedy = f"no {config.optimizer} step exceeds 7.27 lr = {7.27 * lr:.3g}: lower lr, look for NaN"
        elif clip is not None:
            remedy = f"clipping bounds lr * gradient by lr * clip_norm = {lr * clip:.3g}: lower lr"
        else:
            border = "predict.max_stable_lr gives the border"
            remedy = f"lower lr={lr:g} ({border}), start smaller (initializers.scaled_), or set clip_norm=1.0"
        what = f"loss {record['loss']:.4g}, gradient norm {record['grad_norm']:.4g}"
        where = f"step {record['step']} (epoch {record['epoch']}): {what}; the parameters are those before this step"
        super().__init__(f"training diverged at {where}. Remedy: {remedy}.")

    def __reduce__(self):  # so that it crosses processes
        return type(self), (self.record, self.config)


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
    model: nn.Module, ratings: Ratings, config, *, validation=None, on_step=None, checkpoint=None, resume=False
) -> History:
    """Train `model` in place, on the device where its parameters are.

    config: a TrainConfig. validation: Ratings to score after each epoch (RMSE, not clipped to a rating range).
    on_step: a function that is called with each step's record after its update.
    checkpoint: a path, written whole after each epoch; resume=True goes on from it (or starts, where there is none)
        and ends with the same parameters, bit for bit, as a run that was never interrupted.

    Same model, config and machine: the same records, bit for bit, but for `seconds`. The last parameters stay, or with
    `patience` the best. Raises DivergenceError; ValueError, TypeError or IndexError for arguments that do not fit.
    """
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}")
    check_run(model, ratings, validation, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    sparse = has_sparse_gradients(model)
    ratings, masked = ratings.to(device), device.type in MASKED_DEVICES and not sparse
    options = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    if not sparse:  # fused: one kernel a parameter saves a third of a small step
        options |= {"fused": device.type in ("cpu", "cuda") or None}
    make = (ROW_OPTIMIZERS if sparse else OPTIMIZERS)[config.optimizer]
    optimizer = make(parameters, lr=config.lr, weight_decay=config.weight_decay, **options)
    history, pending, diverged = History(), [], torch.zeros((), device=device)
    one = torch.ones((), device=device)
    history.records, best = checkpoints.restore(checkpoint, resume, model, optimizer, config, ratings)

    def flush() -> None:
        """Move pending steps to the history, and stop at the first one that is not finite."""
        numbers = torch.stack([numbers for *_, numbers in pending]).tolist() if pending else []
        for (step, epoch, seconds, _), measured in zip(pending, numbers, strict=True):
            row = (step, epoch, *measured, seconds, math.nan)
            history.records.append(dict(zip(COLUMNS, row, strict=True)))
            if not all(map(math.isfinite, measured)):
                raise DivergenceError(history.records[-1], config)
        pending.clear()

    last = history.records[-1] if history.records else {"step": 0, "epoch": 0, "seconds": 0.0}
    step, clip, start = last["step"], config.clip_norm, time.perf_counter() - last["seconds"]
    for epoch in range(last["epoch"] + 1, config.epochs + 1):
        if config.patience and history.best and epoch - 1 - history.best >= config.patience:
            break
        seed = (config.seed * 1_000_003 + epoch) % 2**63  # of this epoch alone: a resumed run meets the same order
        fork = torch.random.fork_rng([device] if device.type == "cuda" else [])
        with in_mode(model, True), fork, optimizer.watch(model) if sparse else nullcontext():
            torch.manual_seed(seed)  # for dropout; the caller's random state comes back
            for batch in ratings.batches(config.batch_size, torch.Generator().manual_seed(seed)):
                optimizer.zero_grad(set_to_none=True)
                loss = objective(model, batch, config)
                loss.backward()
                norm = clip_grad_norm_(parameters, clip) if clip else grad_norm(parameters)
                measured = (loss.detach(), norm, clip_coefficient(norm, clip) if clip else one)
                numbers, step = torch.stack([number.float() for number in measured]), step + 1
                pending.append((step, epoch, time.perf_counter() - start, numbers))
                if masked:  # fused kernels skip the update where found_inf is 1, as they do for GradScaler
                    diverged = diverged.maximum(1 - numbers.isfinite().all().float())
                    optimizer.found_inf = diverged
                else:
                    flush()
                optimizer.step()
                if on_step or len(pending) >= FLUSH_EVERY:
                    flush()
                if on_step:
                    on_step(history.records[-1])
            flush()
        paused = time.perf_counter()
        if validation is not None:
            history.records[-1]["validation_rmse"] = rmse(model, validation)
            if config.patience and history.best == epoch:
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if checkpoint is not None:
            checkpoints.save(checkpoint, model, optimizer, history.records, best, config, ratings)
        start += time.perf_counter() - paused
    if best is not None:
        model.load_state_dict(best)
    return history


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
