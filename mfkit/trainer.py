"""One silent training loop that stops before the first non-finite update.

    for each batch:  loss = objective(model, batch)     loss.backward()     clip the gradients     step

For any nn.Module that maps (users, items), (B,) int64 each, to predictions (B,). It returns flat records, one a
step; whoever calls it prints or plots.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from mfkit.checkpoint import Checkpoint, read
from mfkit.checks import boolean, function, new_file
from mfkit.clipping import clip_coefficient, clip_grad_norm_, grad_norm
from mfkit.config import TrainConfig
from mfkit.data import Ratings
from mfkit.evaluate import check_fit, rmse
from mfkit.looking import in_mode, is_compiled
from mfkit.model import MatrixFactorization
from mfkit.objective import has_sparse_gradients, model_inside, objective
from mfkit.optimizers import OPTIMIZERS, ROW_OPTIMIZERS, RowOptimizer
from mfkit.progress import bar
from mfkit.recipe import batch_size, choose_l2, complete, doubt_scale

COLUMNS = ["step", "epoch", "loss", "grad_norm", "clip_coef", "seconds", "validation_rmse"]
MASKED_DEVICES = {"cuda"}  # where a diverged update is skipped on the device, so that no step waits for the host
PILOT_EPOCHS = 10  # at twice the rate, to find l2: after them it changes by less than 1 %
FLUSH_EVERY = 256  # steps between two looks at the records of such a device


def train(
    model: nn.Module,
    ratings: Ratings,
    config: TrainConfig | None = None,
    *,
    validation: Ratings | None = None,
    on_step: Callable[[dict], object] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> "History":
    """Train `model` in place, on the device where its parameters are.

    config: a TrainConfig; None is TrainConfig(), the recipe. What it leaves to the ratings is in History.config.
        For SGD, `predict.max_stable_lr` finds the learning rate, without a step.
    validation: Ratings to score after each epoch (RMSE, not clipped to a rating range).
    on_step: a function that is called with each step's record after its update.
    checkpoint: a path, written whole after each epoch; resume=True goes on from it (or starts, where there is none)
        and ends with the same parameters, bit for bit, as a run that was never interrupted.

    Same model, config and machine: the same records, bit for bit, but for `seconds`. The last parameters stay, or with
    `patience` the best. Raises DivergenceError; ValueError, TypeError or IndexError for arguments that do not fit.
    """
    config = TrainConfig() if config is None else config
    check_run(model, ratings, validation, config)
    function("on_step", on_step)
    check_checkpoint(checkpoint, resume)
    config = settle(model, ratings, config, saved_l2(checkpoint, resume))
    optimizer = make_optimizer(model, config)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    ratings = ratings.to(parameters[0].device)
    saved = Checkpoint(checkpoint, model, optimizer, config, ratings, validation) if checkpoint is not None else None
    records, best = saved.restore() if saved and saved.path.exists() else ([], None)
    history = History(records, config)
    steps = math.ceil(len(ratings) / batch_size(config, ratings))
    with bar("train", "step", config.epochs * steps, initial=len(records)) as shown:
        recorder = Recorder(history, optimizer, config, on_step, shown)
        for epoch in range(history.epochs + 1, config.epochs + 1):
            if config.patience and history.epochs_since_best >= config.patience:
                break
            seed = (config.seed * 1_000_003 + epoch) % 2**63  # of this epoch alone: a resumed run meets the same order
            with training_mode(model, optimizer, seed):
                for batch in ratings.batches(batch_size(config, ratings), torch.Generator().manual_seed(seed)):
                    optimizer.zero_grad(set_to_none=True)
                    loss = objective(model, batch, config)
                    loss.backward()
                    norm = clip_grad_norm_(parameters, config.clip_norm) if config.clip_norm else grad_norm(parameters)
                    recorder.before_update(epoch, loss, norm)
                    optimizer.step()
                    recorder.after_update()
                recorder.flush()
            with recorder.clock_stopped():
                if validation is not None:
                    history.records[-1]["validation_rmse"] = rmse(model, validation)
                    if config.patience and history.best == epoch:
                        best = {name: tensor.clone() for name, tensor in model_inside(model).state_dict().items()}
                if saved:
                    saved.save(history.records, best)
    if best is not None:
        model_inside(model).load_state_dict(best)
    return history


@dataclass
class History:
    """What happened, one record a step; `.frame` is the table.

    Columns: step and epoch (from 1), loss (the batch's objective), grad_norm before clipping, clip_coef (1: not
    clipped), seconds of training so far, validation_rmse on an epoch's last step and NaN elsewhere.
    """

    records: list[dict] = field(default_factory=list)
    config: TrainConfig | None = None  # with what it left to the ratings filled in

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.records, columns=COLUMNS)

    def __repr__(self) -> str:
        parts = [f"{self.epochs} epochs", f"{len(self.records):,} steps"]
        if self.records:
            parts.append(f"last loss {self.records[-1]['loss']:.4g}")
        scores = {record["epoch"]: record["validation_rmse"] for record in self.records}
        if self.best is not None:
            parts.append(f"best epoch {self.best} with validation RMSE {scores[self.best]:.4g}")
        return f"History({', '.join(parts)})"

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss of each step, its mean over each epoch and, on an axis of its own, the validation RMSE.

        ax: matplotlib's Axes to draw on; None makes a figure. Returns the Axes. Needs matplotlib, which is imported by
        this call. Raises ValueError where no step was made.
        """
        if not self.records:
            raise ValueError("a history must hold at least one step to be drawn, got none")
        frame = self.frame
        frame["epochs"] = frame["step"] * self.epochs / len(frame)
        ax = frame.plot(x="epochs", y="loss", color="0.75", linewidth=0.8, label="loss of a step", ax=ax)
        by_epoch = frame.groupby("epoch").agg(epochs=("epochs", "last"), loss=("loss", "mean"))
        by_epoch.plot(x="epochs", y="loss", color="C0", marker=".", label="loss, mean of an epoch", ax=ax)
        ax.set(xlabel="epochs", ylabel="loss")
        scored = frame.dropna(subset=["validation_rmse"])
        if len(scored):
            style = {"color": "C1", "marker": "o", "markersize": 4, "label": "validation RMSE"}
            right = scored.plot(x="epochs", y="validation_rmse", ax=ax, secondary_y=True, mark_right=False, **style)
            right.set_ylabel("validation RMSE, rating units")
        return ax

    @property
    def epochs(self) -> int:
        """Epochs that were trained."""
        return self.records[-1]["epoch"] if self.records else 0

    @property
    def best(self) -> int | None:
        """The epoch with the lowest validation RMSE; None without validation."""
        scored = [(r["validation_rmse"], r["epoch"]) for r in self.records if math.isfinite(r["validation_rmse"])]
        return min(scored)[1] if scored else None

    @property
    def epochs_since_best(self) -> int:
        """Epochs that were trained after the best; 0 without validation."""
        return self.epochs - (self.best or self.epochs)


class DivergenceError(ArithmeticError):
    """Loss or gradient stopped being finite. `.record`: that step's row; the parameters are those before it."""

    def __init__(self, record: dict, config: TrainConfig) -> None:
        self.record, self.config = record, config
        lr, clip = config.lr, config.clip_norm
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

    def __reduce__(self) -> tuple:  # so that it crosses processes
        return type(self), (self.record, self.config)


class Recorder:
    """Makes a record of each step, and stops the run at the first one whose loss or gradient is not finite.

    On the CPU a step's numbers are looked at before its update. On CUDA that would make each step wait for the device,
    so the numbers stay there, a fused optimizer skips the update where `found_inf` is 1 (as it does for GradScaler),
    and the error comes when the numbers are read together: every FLUSH_EVERY steps, and at the end of an epoch.
    """

    def __init__(
        self,
        history: History,
        optimizer: Optimizer,
        config: TrainConfig,
        on_step: Callable[[dict], object] | None,
        shown: tqdm,
    ) -> None:
        self.shown = shown
        self.history, self.optimizer, self.config, self.on_step = history, optimizer, config, on_step
        device = optimizer.param_groups[0]["params"][0].device
        self.masked = device.type in MASKED_DEVICES and not isinstance(optimizer, RowOptimizer)
        self.diverged = torch.zeros((), device=device)  # 1 from the first bad step on
        self.unclipped = torch.ones((), device=device)
        self.pending: list[tuple[int, int, float, Tensor]] = []  # step, epoch, seconds, numbers on the device
        last = history.records[-1] if history.records else {"step": 0, "seconds": 0.0}
        self.step, self.start = last["step"], time.perf_counter() - last["seconds"]

    def before_update(self, epoch: int, loss: Tensor, norm: Tensor) -> None:
        """Note a step; raises DivergenceError, or on CUDA sees to it that the update is skipped.

        Raises ValueError for a gradient that the optimizer cannot take: a model may look up rows in its own way.
        """
        check_gradients(self.optimizer)
        clip = self.config.clip_norm
        coefficient = clip_coefficient(norm, clip) if clip else self.unclipped
        numbers = torch.stack([number.float() for number in (loss.detach(), norm, coefficient)])
        self.step += 1
        self.pending.append((self.step, epoch, time.perf_counter() - self.start, numbers))
        if self.masked:
            self.diverged = self.diverged.maximum(1 - numbers.isfinite().all().float())
            self.optimizer.found_inf = self.diverged  # pyright: ignore[reportAttributeAccessIssue]
        else:
            self.flush()

    def after_update(self) -> None:
        self.shown.update()
        if self.on_step or len(self.pending) >= FLUSH_EVERY:
            self.flush()
        if self.on_step:
            self.on_step(self.history.records[-1])

    def flush(self) -> None:
        """Move pending steps to the history; DivergenceError at the first one that is not finite."""
        if not self.pending:
            return
        measured = torch.stack([numbers for *_, numbers in self.pending]).tolist()
        for (step, epoch, seconds, _), numbers in zip(self.pending, measured, strict=True):
            row = (step, epoch, *numbers, seconds, math.nan)
            self.history.records.append(dict(zip(COLUMNS, row, strict=True)))
            if not all(map(math.isfinite, numbers)):
                raise DivergenceError(self.history.records[-1], self.config)
        self.pending.clear()

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """What happens inside does not count as training."""
        stopped = time.perf_counter()
        yield
        self.start += time.perf_counter() - stopped


def settle(model: nn.Module, ratings: Ratings, config: TrainConfig, l2: float | None = None) -> TrainConfig:
    """The config with everything that it leaves to the ratings; `l2` is its l2, where it is known already.

    A MatrixFactorization notes which rows they have. Where l2 is left to them, it also takes their mean and std for
    what it was not given, and rows that no fit has met become zero (`meet`).
    """
    config = complete(config, ratings)
    recipe = config.l2 is None
    inside = model_inside(model)

    def one_epoch(pilot: nn.Module, part: Ratings, l2: float, number: int) -> None:
        quick = replace(config, l2=l2, epochs=1, lr=2 * config.lr, patience=None, seed=config.seed + number)
        train(pilot, part, quick)
        shown.update()

    if recipe and isinstance(inside, MatrixFactorization):
        inside.use_units(ratings)
    if recipe and l2 is None:
        with bar("train finds l2", "epoch", PILOT_EPOCHS) as shown:
            l2 = choose_l2(inside, ratings, one_epoch, PILOT_EPOCHS)
    if recipe:
        config = replace(config, l2=l2)
    per_rating = config.l2 if config.penalty == "per_rating" and config.l2 else None
    if per_rating and not recipe:
        doubt_scale(inside, ratings, per_rating)
    if isinstance(inside, MatrixFactorization):
        inside.meet(ratings, per_rating, clear=recipe)
    return config


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """torch's own, fused where it can be (one kernel a parameter saves a third of a small step), or a row-wise one."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    options: dict = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        options["momentum"] = config.momentum
    if has_sparse_gradients(model):
        return ROW_OPTIMIZERS[config.optimizer](parameters, **options)
    fused = parameters[0].device.type in ("cpu", "cuda") or None
    return OPTIMIZERS[config.optimizer](parameters, fused=fused, **options)


def check_gradients(optimizer: Optimizer) -> None:
    """ValueError for a sparse gradient and an optimizer of torch's, which would raise a RuntimeError of its own."""
    if isinstance(optimizer, RowOptimizer):
        return
    if any(p.grad is not None and p.grad.is_sparse for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            f"model must have dense gradients for the optimizer {type(optimizer).__name__}, got sparse ones "
            "(F.embedding(sparse=True)?); want nn.Embedding(sparse=True), which train knows, or sparse=False"
        )


@contextmanager
def training_mode(model: nn.Module, optimizer: Optimizer, seed: int) -> Iterator[None]:
    """Training mode, dropout's random numbers from `seed`, and rows caught up as they are read; then all as before."""
    device = next(model.parameters()).device
    with ExitStack() as stack:
        stack.enter_context(in_mode(model, True))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if isinstance(optimizer, RowOptimizer):
            stack.enter_context(optimizer.watch(model))
        torch.manual_seed(seed)
        yield


def check_checkpoint(path: str | Path | None, resume: bool) -> None:
    """ValueError or TypeError where no run can be saved so, or go on so; before anything of the model changes."""
    resume = boolean("resume", resume)
    if path is None:
        if resume:
            raise ValueError("resume=True needs a checkpoint, got checkpoint=None")
        return
    if new_file("checkpoint", path).exists() and not resume:
        raise ValueError(f"checkpoint={str(path)!r} exists; want resume=True, or another name")


def saved_l2(path: str | Path | None, resume: bool) -> float | None:
    """The l2 of the run that is to be resumed, so that its pilot need not run again; None where there is none."""
    if path is None or not resume or not Path(path).exists():
        return None
    return read(path)["config"].get("l2")


def check_run(model: nn.Module, ratings: Ratings, validation: Ratings | None, config: TrainConfig) -> None:
    """The arguments of `train` against each other: TypeError, ValueError or IndexError for what does not fit."""
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}")
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
        ratings.check_same_ids(validation, "validation")
    elif config.patience:
        raise ValueError(f"patience={config.patience} needs validation ratings, got validation=None")
    if not has_sparse_gradients(model):
        return
    if config.optimizer == "adam" and config.weight_decay:
        wanted = "optimizer='adamw' or l2 for a model with sparse gradients: Adam's own is a gradient of every row"
        raise ValueError(f"weight_decay needs {wanted}; got 'adam' with weight_decay={config.weight_decay}")
    if is_compiled(model):
        raise TypeError("model with sparse gradients must not be compiled: its rows are caught up as they are read")
