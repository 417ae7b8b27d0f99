"""What happens when it is run. Functions that have a formula have a partner of the same name in `predict`."""

import gc
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from mfkit import predict
from mfkit.config import TrainConfig
from mfkit.data import Ratings
from mfkit.evaluate import rmse
from mfkit.model import MatrixFactorization
from mfkit.objective import objective
from mfkit.trainer import DivergenceError, train


@torch.no_grad()
def prediction_std(model: nn.Module, ratings: Ratings) -> float:
    """Std of the model's predictions over the pairs of these ratings, in rating units; on the model's device."""
    ratings = ratings.to(next(model.parameters()).device)
    return model(ratings.users, ratings.items).double().std().item()


def minimum(
    ratings: Ratings, l2: float, penalty: str = "per_rating", *, n_factors=2, biases=False, std=0.3, seed=0
) -> MatrixFactorization:
    """The model to which the MSE objective with this l2 leads, in float64: a reference without a learning rate.

    scipy's L-BFGS over all ratings at once from factors N(0, std^2), until the objective stops falling at all.
    biases=True: mean=ratings.mean and biases (unpenalised under "per_table", as in `train`); False: neither.
    Rows scaled by the root of their counts, as a change of variables. Raises ValueError for another penalty.
    """
    if penalty not in ("per_rating", "per_table"):
        raise ValueError(f"penalty must be 'per_rating' or 'per_table', got {penalty!r}")
    m, n, d, N = ratings.n_users, ratings.n_items, n_factors, len(ratings)
    order = np.argsort(ratings.users.cpu().numpy(), kind="stable")
    users, items, values = (c.cpu().numpy()[order] for c in (ratings.users, ratings.items, ratings.values))
    per_user, per_item = np.bincount(users, minlength=m), np.bincount(items, minlength=n)
    mean = ratings.mean if biases else 0.0
    target = values.astype(float) - mean
    error = sp.csr_array((target.copy(), items, np.r_[0, per_user.cumsum()]), shape=(m, n))
    counts = np.repeat(np.r_[per_user, per_item][:, None] / N, d + biases, axis=1)  # (m + n, d), biases last
    weight = scale = counts
    if penalty == "per_table":
        factors = np.arange(d + biases) < d
        weight, scale = 1.0 * factors, np.where(factors, 1.0, counts)
    scale = np.sqrt(scale.clip(1 / N))

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        table = z.reshape(scale.shape) / scale
        U, V = np.ascontiguousarray(table[:m, :d]), np.ascontiguousarray(table[m:, :d])
        e = np.einsum("nd,nd->n", U[users], V[items]) - target
        if biases:
            e += table[users, d] + table[m + items, d]
        error.data[:] = 2 / N * e
        ones = np.ones((max(m, n), int(biases)))
        gradient = np.r_[error @ np.c_[V, ones[:n]], error.T @ np.c_[U, ones[:m]]] + 2 * l2 * weight * table
        return np.square(e).mean() + l2 * (weight * table**2).sum(), (gradient / scale).ravel()

    start = np.random.default_rng(seed).standard_normal(scale.shape) * std * scale
    start[:, d:] = 0
    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 0, "gtol": 1e-11, "maxcor": 20}
    table = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(scale.shape)
    model = MatrixFactorization(m, n, d, mean=mean, biases=biases).double()
    model.mean.fill_(mean)
    table = torch.from_numpy(table / scale)
    parts = table[:m, :d], table[m:, :d], table[:m, d:], table[m:, d:]
    for parameter, part in zip(model.parameters(), parts, strict=False):  # two without biases
        parameter.data.copy_(part)
    return model


@torch.no_grad()
def largest_interaction(model: MatrixFactorization, ratings: Ratings) -> float:
    """The largest |u . v| over the pairs of these ratings, in rating units: what is left of the factors."""
    U, V = model.user_factors.weight, model.item_factors.weight
    ratings = ratings.to(U.device)
    return (U[ratings.users] * V[ratings.items]).sum(-1).abs().max().item()


def collapse_l2(
    ratings: Ratings, penalty: str = "per_rating", residual: bool = False, *, precision: float = 0.005, seed: int = 0
) -> float:
    """The l2 at which `minimum` goes to zero factors, by bisection to this relative precision; partner of `predict`'s.

    Zero: no interaction above 1e-3 rating units is left, by the end, of a start with predictions of std 0.4.
    Slower toward a small `precision`: at the border itself the objective is flat.
    """
    spread = ratings.values.double().abs().max().item()
    high = spread if penalty == "per_rating" else spread / math.sqrt(len(ratings))  # no border lies above
    low = high / 2
    options = {"penalty": penalty, "biases": residual, "std": 0.5, "seed": seed}

    def survives(l2: float) -> bool:
        return largest_interaction(minimum(ratings, l2, **options), ratings) >= 1e-3

    while not survives(low):
        low, high = low / 2, low
    return _border(survives, low, high, 1 + precision)


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
    steps, rows = math.ceil(len(ratings) / config.batch_size), []

    def look(record: dict) -> None:
        if record["step"] % steps == 0:
            with torch.no_grad():
                rows.append((rmse(model, test), model(test.users, test.items).abs().max().item()))

    frame = train(model, ratings, config, validation=validation, on_step=look).frame
    epochs = frame.dropna(subset="validation_rmse")[["epoch", "step", "validation_rmse"]].reset_index(drop=True)
    return epochs.join(pd.DataFrame(rows, columns=["test_rmse", "largest"]))


class _Enough(Exception):
    """Ends a run from within on_step."""


def _run(model: nn.Module, ratings: Ratings, config: TrainConfig, steps: int, enough=lambda record: False) -> None:
    """Train `model` in place until `enough(record)`, at most `steps` steps (config.epochs is not looked at)."""

    def look(record: dict) -> None:
        if enough(record) or record["step"] >= steps:
            raise _Enough

    epochs = math.ceil(steps * config.batch_size / len(ratings)) + 1
    with suppress(_Enough):
        train(model, ratings, replace(config, epochs=epochs), on_step=look)


def is_stable(model: nn.Module, ratings: Ratings, config: TrainConfig, steps: int) -> bool:
    """Whether training `model` in place stays finite for `steps` steps (config.epochs is not looked at)."""
    try:
        _run(model, ratings, config, steps)
    except DivergenceError:
        return False
    return True


def escape_time(model: nn.Module, ratings: Ratings, config: TrainConfig, *, steps: int = 10_000, mean=None) -> float:
    """Steps until training `model` in place has halved the residual's top mode, p'(R - prediction)q <= s1 / 2.

    Any module and optimizer; p, s1, q: `predict.top_mode`. Looked at after each step, with a straight line between.
    Infinite where it takes more than `steps`, or there is no mode to learn.
    """
    s1, weights = predict.top_mode(ratings, mean)
    weights, shares, found = weights.to(ratings.values), [1.0], math.inf

    @torch.no_grad()
    def half_learnt(record: dict) -> bool:
        nonlocal found
        residual = ratings.values - model(ratings.users, ratings.items)
        shares.append((residual * weights).sum().item() / (s1 or math.nan))
        if shares[-1] <= 0.5:
            found = record["step"] - (0.5 - shares[-1]) / (shares[-2] - shares[-1])
        return shares[-1] <= 0.5

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

    def stable(lr: float) -> bool:
        return is_stable(make_model(), ratings, replace(config, lr=lr), steps)

    lr, start = config.lr, stable(config.lr)
    factor = 2.0 if start else 0.5
    for _ in range(40):
        lr *= factor
        if stable(lr) != start:
            return _border(stable, *sorted((lr, lr / factor)), ratio)
    kind = "stays finite" if start else "diverges"
    raise ArithmeticError(f"lr must have a border near config.lr={config.lr:g}, got a run that always {kind}")


def sharpness(
    model: nn.Module, ratings: Ratings, config: TrainConfig, *, iterations: int = 500, tolerance: float = 1e-5
) -> float:
    """The largest eigenvalue of the objective's Hessian over all these ratings; any module.

    Full-batch gradient descent can only stay at a minimum where this is below 2 / lr. Lanczos' method on
    Hessian-vector products, from a seeded start to this relative tolerance, in at most `iterations` restarts.
    """
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
    hessian = LinearOperator((len(start), len(start)), product, dtype=float)
    return eigsh(hessian, 1, which="LA", v0=start, tol=tolerance, maxiter=iterations, return_eigenvectors=False).item()


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer state as they are now: ask after a step, when all are there."""
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
    device = torch.device(device)
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
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
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
