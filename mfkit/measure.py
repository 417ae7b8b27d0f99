"""What happens when it is run. Functions that have a formula have a partner of the same name in `predict`."""

import gc
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from mfkit import checks, predict
from mfkit.config import PENALTIES, TrainConfig
from mfkit.data import Ratings
from mfkit.evaluate import check_fit, rmse
from mfkit.model import MatrixFactorization
from mfkit.objective import objective
from mfkit.recipe import batch_size
from mfkit.trainer import DivergenceError, check_run, train

FINEST = 1e-6  # relative: how close a bisection may be asked to come


@torch.no_grad()
def prediction_std(model: nn.Module, ratings: Ratings) -> float:
    """Std of the model's predictions over the pairs of these ratings, in rating units; on the model's device."""
    checks.instance("model", model, nn.Module)
    check_fit(model, ratings, "ratings")
    ratings = ratings.to(next(model.parameters(), ratings.values).device)
    return model(ratings.users, ratings.items).double().std().item()


def minimum(
    ratings: Ratings,
    l2: float,
    penalty: str = "per_rating",
    *,
    n_factors: int = 2,
    biases: bool = False,
    std: float = 0.3,
    seed: int = 0,
) -> MatrixFactorization:
    """The model to which the MSE objective with this l2 leads, in float64: a reference without a learning rate.

    scipy's L-BFGS over all ratings at once from factors N(0, std^2), until the objective stops falling at all.
    biases=True: mean=ratings.mean and biases (unpenalised under "per_table", as in `train`); False: neither.
    Rows scaled by the root of their counts, as a change of variables. Raises ValueError for another penalty.
    """
    checks.instance("ratings", ratings, Ratings)
    penalty, l2 = checks.one_of("penalty", penalty, PENALTIES), checks.number("l2", l2, least=0)
    n_factors, seed = checks.integer("n_factors", n_factors, least=1), checks.integer("seed", seed, least=0)
    std, biases = checks.number("std", std, least=0), checks.boolean("biases", biases)
    m, n, d, N = ratings.n_users, ratings.n_items, n_factors, len(ratings)
    mean = ratings.mean if biases else 0.0
    per_user = np.bincount(ratings.users.cpu().numpy(), minlength=m)
    per_item = np.bincount(ratings.items.cpu().numpy(), minlength=n)
    share = np.r_[per_user, per_item][:, None] / N
    weight = np.repeat(share, d + 1 if biases else d, axis=1)
    curvature = weight.copy()
    if penalty == "per_table":  # the tables as wholes, the biases not at all
        weight[:, :d] = curvature[:, :d] = 1.0
        weight[:, d:] = 0.0
    scale = np.sqrt(curvature.clip(1 / N))
    unscaled = _FullObjective(ratings, mean, l2, weight, d)

    def scaled(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = unscaled(z.reshape(scale.shape) / scale)
        return value, (gradient / scale).ravel()

    start = np.random.default_rng(seed).standard_normal(scale.shape) * std * scale
    start[:, d:] = 0
    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 0, "gtol": 1e-11, "maxcor": 20}
    found = minimize(scaled, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    table = torch.from_numpy(found.x.reshape(scale.shape) / scale)
    model = MatrixFactorization(m, n, d, mean=mean, scale=1.0, biases=biases).double()
    state = model.state_dict() | {"mean": torch.tensor(mean, dtype=torch.float64)}  # not rounded to float32
    state |= {"user_factors.weight": table[:m, :d], "item_factors.weight": table[m:, :d]}
    if biases:
        state |= {"user_bias.weight": table[:m, d:], "item_bias.weight": table[m:, d:]}
    model.load_state_dict(state)  # by name, whatever the order
    return model


class _FullObjective:
    """(mean over all ratings of e^2) + l2 (sum of weight * table^2), and its gradient, as a function of one table.

    table, weight, gradient: (m + n, k), users first; columns: n_factors factors, then a bias if k = n_factors + 1
    """

    def __init__(self, ratings: Ratings, mean: float, l2: float, weight: np.ndarray, n_factors: int):
        order = np.argsort(ratings.users.cpu().numpy(), kind="stable")
        self.users, self.items = ratings.users.cpu().numpy()[order], ratings.items.cpu().numpy()[order]
        self.target = ratings.values.cpu().numpy()[order].astype(float) - mean
        self.m, self.n, self.d = ratings.n_users, ratings.n_items, n_factors
        self.l2, self.weight, self.biases = l2, weight, weight.shape[1] > n_factors
        rows = np.r_[0, np.bincount(self.users, minlength=self.m).cumsum()]
        cells = (self.target.copy(), self.items, rows)
        self.slope = sp.csr_array(cells, shape=(self.m, self.n))  # the loss's, in each prediction

    def __call__(self, table: np.ndarray) -> tuple[float, np.ndarray]:
        m, d = self.m, self.d
        U, V = np.ascontiguousarray(table[:m, :d]), np.ascontiguousarray(table[m:, :d])
        e = np.einsum("nd,nd->n", U[self.users], V[self.items]) - self.target
        if self.biases:
            e += table[self.users, d] + table[m + self.items, d]
            U, V = np.c_[U, np.ones(m)], np.c_[V, np.ones(self.n)]
        self.slope.data[:] = 2 / len(e) * e
        gradient = np.r_[self.slope @ V, self.slope.T @ U] + 2 * self.l2 * self.weight * table
        return np.square(e).mean() + self.l2 * (self.weight * table**2).sum(), gradient


@torch.no_grad()
def largest_interaction(model: MatrixFactorization, ratings: Ratings) -> float:
    """The largest |u . v| over the pairs of these ratings, in rating units: what is left of the factors."""
    checks.instance("model", model, nn.Module)
    if not (hasattr(model, "user_factors") and hasattr(model, "item_factors")):
        raise TypeError(f"model must have user_factors and item_factors, got {type(model).__name__}")
    check_fit(model, ratings, "ratings")
    if model.user_factors is None:
        return 0.0
    U, V = model.get_parameter("user_factors.weight"), model.get_parameter("item_factors.weight")
    ratings = ratings.to(U.device)
    return (U[ratings.users] * V[ratings.items]).sum(-1).abs().max().item()


def collapse_l2(
    ratings: Ratings,
    penalty: str = "per_rating",
    residual: bool = False,
    *,
    scale: float | None = None,
    precision: float = 0.005,
    seed: int = 0,
) -> float:
    """The l2 at which `minimum` goes to zero factors, by bisection to this relative precision; partner of `predict`'s.

    scale: the model's, as there; without residual of no effect. In rating units, as there.
    Zero: no interaction above 1e-3 scale is left, by the end, of a start with predictions of std 0.4 scale.
    0 where it lies below a millionth of the largest rating. Slower toward a small `precision`: at the border itself
    the objective is flat.
    """
    checks.instance("ratings", ratings, Ratings)
    penalty = checks.one_of("penalty", penalty, PENALTIES)
    precision, residual = checks.number("precision", precision, least=FINEST), checks.boolean("residual", residual)
    scale = (ratings.std or 1.0) if scale is None else checks.number("scale", scale, above=0)
    if not residual:
        scale = 1.0
    ratings = ratings.with_values(ratings.values.double() / scale)
    spread = ratings.values.double().abs().max().item()
    high = spread if penalty == "per_rating" else spread / math.sqrt(len(ratings))  # no border lies above
    low, smallest = high / 2, 1e-6 * high
    options = {"penalty": penalty, "biases": residual, "std": 0.5, "seed": seed}

    def survives(l2: float) -> bool:
        return largest_interaction(minimum(ratings, l2, **options), ratings) >= 1e-3

    while low > smallest:
        if survives(low):
            return scale * _border(survives, low, high, 1 + precision)
        low, high = low / 2, low
    return 0.0


def _border(below: Callable[[float], bool], low: float, high: float, ratio: float) -> float:
    """Where `below` turns from true (at low) to false (at high), halved in log until high / low <= ratio."""
    while high / low > ratio:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if below(middle) else (low, middle)
    return math.sqrt(low * high)


def learning_curve(
    model: nn.Module, ratings: Ratings, config: TrainConfig, *, validation: Ratings, test: Ratings
) -> pd.DataFrame:
    """Train, and look at every epoch: columns epoch, step, validation_rmse, test_rmse, largest; one row an epoch.

    largest: the largest absolute prediction over the test pairs, in rating units. Errors as `train`.
    """
    check_run(model, ratings, checks.instance("validation", validation, Ratings), config)
    check_fit(model, test, "test")
    steps = math.ceil(len(ratings) / batch_size(config, ratings))
    rows: list[tuple[float, float]] = []

    def look(record: dict) -> None:
        if record["step"] % steps == 0:
            with torch.no_grad():
                rows.append((rmse(model, test), model(test.users, test.items).abs().max().item()))

    frame = train(model, ratings, config, validation=validation, on_step=look).frame
    epochs = frame.dropna(subset="validation_rmse")[["epoch", "step", "validation_rmse"]].reset_index(drop=True)
    return epochs.join(pd.DataFrame(rows, columns=["test_rmse", "largest"]))


class _Enough(Exception):
    """Ends a run from within on_step."""


def _run(
    model: nn.Module,
    ratings: Ratings,
    config: TrainConfig,
    steps: int,
    enough: Callable[[dict], bool] | None = None,
) -> None:
    """Train `model` in place until `enough(record)`, at most `steps` steps (config.epochs is not looked at)."""
    steps = checks.integer("steps", steps, least=1)
    check_run(model, ratings, None, checks.instance("config", config, TrainConfig))

    def look(record: dict) -> None:
        if (enough is not None and enough(record)) or record["step"] >= steps:
            raise _Enough

    epochs = math.ceil(steps * batch_size(config, ratings) / len(ratings)) + 1
    with suppress(_Enough):
        train(model, ratings, replace(config, epochs=epochs), on_step=look)


def is_stable(model: nn.Module, ratings: Ratings, config: TrainConfig, steps: int) -> bool:
    """Whether training `model` in place stays finite for `steps` steps (config.epochs is not looked at)."""
    try:
        _run(model, ratings, config, steps)
    except DivergenceError:
        return False
    return True


def escape_time(
    model: nn.Module, ratings: Ratings, config: TrainConfig, *, steps: int = 10_000, mean: float | None = None
) -> float:
    """Steps until training `model` in place has halved the residual's top mode, p'(R - prediction)q <= s1 / 2.

    Any module and optimizer; p, s1, q: `predict.top_mode`. Looked at after each step, with a straight line between.
    Infinite where it takes more than `steps`, or there is no mode to learn.
    """
    check_run(model, ratings, None, config)
    s1, weights = predict.top_mode(ratings, mean)
    weights = weights.to(ratings.values)
    before, found = 1.0, math.inf

    @torch.no_grad()
    def half_learnt(record: dict) -> bool:
        nonlocal before, found
        residual = ratings.values - model(ratings.users, ratings.items)
        share = (residual * weights).sum().item() / (s1 or math.nan)  # of the mode that is still to be learnt
        if share <= 0.5:
            found = record["step"] - (0.5 - share) / (before - share)
        before = share
        return share <= 0.5

    _run(model, ratings, config, steps, half_learnt)
    return found


def max_stable_lr(
    make_model: Callable[[], nn.Module], ratings: Ratings, config: TrainConfig, *, steps: int = 150, ratio: float = 1.1
) -> float:
    """The learning rate between a run that stays finite for `steps` steps and one that does not, by bisection.

    make_model: returns a fresh model, the same start each time. config.lr: the first guess; from there doubled or
    halved to a bracket, then halved in log until hi / lo <= ratio; their geometric mean. Finite is not good: a run
    below the border may still not learn. Raises ArithmeticError where no border lies within 2^40 of the guess.
    """

    if not callable(make_model):
        raise TypeError(f"make_model must be callable, got {checks.shown(make_model)}")
    checks.instance("config", config, TrainConfig)
    ratio = checks.number("ratio", ratio, least=1 + FINEST)

    def stable(lr: float) -> bool:
        return is_stable(make_model(), ratings, replace(config, lr=lr), steps)

    lr, start = config.lr, stable(config.lr)
    factor = 2.0 if start else 0.5
    for _ in range(40):
        lr *= factor
        if stable(lr) != start:
            low, high = min(lr, lr / factor), max(lr, lr / factor)
            return _border(stable, low, high, ratio)
    kind = "stays finite" if start else "diverges"
    raise ArithmeticError(f"lr must have a border near config.lr={config.lr:g}, got a run that always {kind}")


def sharpness(
    model: nn.Module, ratings: Ratings, config: TrainConfig, *, iterations: int = 500, tolerance: float = 1e-5
) -> float:
    """The largest eigenvalue of the objective's Hessian over all these ratings; any module.

    Full-batch gradient descent can only stay at a minimum where this is below 2 / lr. Lanczos' method on
    Hessian-vector products, from a seeded start to this relative tolerance, in at most `iterations` restarts.
    """
    check_run(model, ratings, None, config)
    iterations = checks.integer("iterations", iterations, least=1)
    tolerance = checks.number("tolerance", tolerance, least=0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ratings = ratings.to(parameters[0].device)
    loss = objective(model, (ratings.users, ratings.items, ratings.values), config)
    gradient = torch.cat([g.ravel() for g in torch.autograd.grad(loss, parameters, create_graph=True)])

    def product(vector: np.ndarray) -> np.ndarray:
        direction = torch.from_numpy(vector.ravel()).to(gradient)
        parts = torch.autograd.grad(gradient, parameters, direction, retain_graph=True, materialize_grads=True)
        return torch.cat([part.ravel() for part in parts]).double().cpu().numpy()

    start = np.random.default_rng(0).standard_normal(len(gradient))
    if len(start) < 2 or not product(start).any():  # nothing for Lanczos to do
        return (start @ product(start) / (start @ start)).item()
    shape = (len(start), len(start))
    hessian = LinearOperator(shape, matvec=product, dtype=float)  # pyright: ignore[reportCallIssue]
    options = {"which": "LA", "v0": start, "tol": tolerance, "maxiter": iterations, "return_eigenvectors": False}
    return float(np.max(eigsh(hessian, 1, **options)))


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer state as they are now: ask after a step, when all are there."""
    checks.instance("model", model, nn.Module)
    checks.instance("optimizer", optimizer, torch.optim.Optimizer)
    return {
        "parameters": sum(map(_nbytes, model.parameters())),
        "gradients": sum(_nbytes(p.grad) for p in model.parameters() if p.grad is not None),
        "state": sum(_nbytes(x) for s in optimizer.state.values() for x in s.values() if isinstance(x, Tensor)),
    }


def _nbytes(tensor: Tensor) -> int:
    parts = (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,)
    return sum(part.numel() * part.element_size() for part in parts)


def peak_bytes(function: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Most bytes newly allocated at once while `function()` runs, as the device's allocator counts them.

    On the CPU exact: every allocation and release that torch's profiler reports, summed up in order. On CUDA
    torch.cuda.max_memory_allocated, in blocks of 512 bytes. Raises ValueError for another kind of device.
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {checks.shown(function)}")
    try:
        device = torch.device(device)
    except (TypeError, RuntimeError):
        raise ValueError(f"device must be a cpu or cuda device, got {checks.shown(device)}") from None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        raise ValueError(f"device must be a cpu or cuda device, got {str(device)!r}")
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with _undisturbed(), torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        function()
    profiler: Any = profile.profiler
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(max(np.cumsum(sizes), default=0))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No log lines of the profiler's C++ code on file descriptor 2, no garbage collection: its frees would count."""
    sys.stderr.flush()
    kept, collects = os.dup(2), gc.isenabled()
    gc.disable()
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        if collects:
            gc.enable()
