"""What happens when it is run. Each function has a partner of the same name in `predict`."""

import gc
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from mfkit import predict
from mfkit.data import Ratings
from mfkit.model import MatrixFactorization
from mfkit.modules import rmse
from mfkit.trainer import DivergenceError, TrainConfig, objective, train


@torch.no_grad()
def prediction_std(model: nn.Module, ratings: Ratings) -> float:
    """Std of the model's predictions over the pairs of these ratings, in rating units; on the model's device."""
    ratings = ratings.to(next(model.parameters()).device)
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
    weight, scale = (counts, counts) if penalty == "per_rating" else (np.ones_like(counts), np.ones_like(counts))
    if biases and penalty == "per_table":
        weight[:, d], scale[:, d] = 0, counts[:, d]
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
    with torch.no_grad():
        model.user_factors.weight.copy_(table[:m, :d])
        model.item_factors.weight.copy_(table[m:, :d])
        if biases:
            model.user_bias.weight.copy_(table[:m, d:])
            model.item_bias.weight.copy_(table[m:, d:])
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

    def vanishes(l2: float) -> bool:
        return largest_interaction(minimum(ratings, l2, **options), ratings) < 1e-3

    while vanishes(low):
        low, high = low / 2, low
    while high / low > 1 + precision:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if vanishes(middle) else (middle, high)
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


def is_stable(model: nn.Module, ratings: Ratings, config: TrainConfig, steps: int) -> bool:
    """Whether training `model` in place stays finite for `steps` steps (config.epochs is not looked at)."""

    def stop(record: dict) -> None:
        if record["step"] >= steps:
            raise _Enough

    epochs = math.ceil(steps * config.batch_size / len(ratings)) + 1
    try:
        train(model, ratings, replace(config, epochs=epochs), on_step=stop)
    except DivergenceError:
        return False
    except _Enough:
        return True
    return True


def escape_time(model: nn.Module, ratings: Ratings, config: TrainConfig, *, steps: int = 10_000, mean=None) -> float:
    """Steps until training `model` in place has halved the residual's top mode, p'(R - prediction)q <= s1 / 2.

    Any module and optimizer; p, s1, q: `predict.top_mode`. Looked at after each step, with a straight line between.
    Infinite where it takes more than `steps`, or there is no mode to learn.
    """
    s1, weights = predict.top_mode(ratings, mean)
    weights, shares, found = weights.to(ratings.values), [1.0], [math.inf]

    @torch.no_grad()
    def look(record: dict) -> None:
        residual = ratings.values - model(ratings.users, ratings.items)
        shares.append((residual * weights).sum().item() / (s1 or math.nan))
        if shares[-1] <= 0.5:
            found.append(record["step"] - (0.5 - shares[-1]) / (shares[-2] - shares[-1]))
            raise _Enough
        if record["step"] >= steps:
            raise _Enough

    epochs = math.ceil(steps * config.batch_size / len(ratings)) + 1
    with suppress(_Enough):
        train(model, ratings, replace(config, epochs=epochs), on_step=look)
    return found[-1]


def max_stable_lr(
    make_model: Callable[[], nn.Module],
    ratings: Ratings,
    config: TrainConfig,
    *,
    steps: int = 150,
    ratio: float = 1.1,
) -> float:
    """The learning rate between a run that stays finite for `steps` steps and one that does not, by bisection.

    make_model: returns a fresh model, the same start each time. config.lr: the first guess; from there doubled or
    halved to a bracket, then halved in log until hi / lo <= ratio; their geometric mean. Finite is not good: a run
    below the border may still not learn. Raises ArithmeticError where no border lies within 2^40 of the guess.
    """
    low = high = config.lr
    stable = start = is_stable(make_model(), ratings, config, steps)
    while stable == start:
        low, high = (high, 2 * high) if start else (low / 2, low)
        if not 2.0**-40 <= high / config.lr <= 2.0**40:
            kind = "stays finite" if start else "diverges"
            raise ArithmeticError(f"lr must have a border near config.lr={config.lr:g}, got a run that always {kind}")
        stable = is_stable(make_model(), ratings, replace(config, lr=high if start else low), steps)
    while high / low > ratio:
        middle = math.sqrt(low * high)
        if is_stable(make_model(), ratings, replace(config, lr=middle), steps):
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def sharpness(
    model: nn.Module, ratings: Ratings, config: TrainConfig, *, iterations: int = 500, tolerance: float = 1e-5
) -> float:
    """The largest eigenvalue of the objective's Hessian over all these ratings, by power iteration; any module.

    Full-batch gradient descent can only stay at a minimum where this is below 2 / lr. One Hessian-vector product
    an iteration, until the eigenvalue moves less than `tolerance`, relative. A saddle has negative eigenvalues of
    the same size: ten iterations find that size, and the Hessian is shifted by 0.6 of it, so that the largest wins.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    ratings = ratings.to(parameters[0].device)
    loss = objective(model, (ratings.users, ratings.items, ratings.values), config)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    vector = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) for p in parameters]
    shift = value = 0.0
    for iteration in range(iterations):
        size = torch.stack([v.square().sum() for v in vector]).sum().sqrt()
        vector = [v / size for v in vector]
        product = torch.autograd.grad(gradients, parameters, vector, retain_graph=True, materialize_grads=True)
        if iteration == 10:
            shift = 0.6 * torch.stack([h.square().sum() for h in product]).sum().sqrt().item()
        before, value = value, sum((v * h).sum() for v, h in zip(vector, product, strict=True)).item()
        if iteration > 20 and abs(value - before) <= tolerance * abs(value):
            break
        vector = [h + shift * v for h, v in zip(product, vector, strict=True)]
        if not any(v.any() for v in vector):
            return 0.0
    return value


def huber_efficiency(k: float, *, n_ratings=400, n_factors=2, replications=10_000, seed=0) -> float:
    """The same ratio measured: one row's regression on fixed factors, for this many Gaussian noises at once.

    Float64, no penalty, by iterative reweighting from least squares. Its own error, relative: about
    2 sqrt((1 - efficiency) / (replications n_factors)) at random, and n_factors / n_ratings.
    """
    rng = np.random.default_rng(seed)
    V = rng.standard_normal((n_ratings, n_factors))
    products = (V[:, :, None] * V[:, None, :]).reshape(n_ratings, -1)
    squares = np.zeros(2)  # of the errors of least squares, and of Huber; the true row is zero
    for size in [500] * (replications // 500):
        noise = rng.standard_normal((size, n_ratings))
        row = start = np.linalg.lstsq(V, noise.T, rcond=None)[0].T
        for _ in range(25):
            W = np.minimum(1.0, k / np.maximum(np.abs(noise - row @ V.T), 1e-12))
            row = np.linalg.solve((W @ products).reshape(size, n_factors, n_factors), ((W * noise) @ V)[..., None])[
                ..., 0
            ]
        squares += np.square(start).sum(), np.square(row).sum()
    return squares[0] / squares[1]


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


def saved_bytes(function: Callable[[], object], parameters: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps alive for the backward pass of what `function()` computes.

    Distinct storages, each counted whole and once; those of `parameters` are not counted, the data's are.
    """
    own, kept = {id(p.untyped_storage()) for p in parameters}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


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
    cpu, collects = [torch.profiler.ProfilerActivity.CPU], gc.isenabled()
    gc.disable()  # what a collection frees now and then would be booked here
    try:
        with _silent_stderr(), torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
            function()
    finally:
        if collects:
            gc.enable()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(max(np.cumsum(sizes), default=0))


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """The profiler's C++ code writes log lines to file descriptor 2 on some machines."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


_LIMIT = """
import resource, torch
torch.set_num_threads(1)
torch.nn.functional.mse_loss(torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2), torch.ones(2, 2)).backward()
{setup}
size = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (size + {extra_bytes},) * 2)
"""


def run_limited(code: str, extra_bytes: int, setup: str = "") -> tuple[str, str]:
    """Run Python code in a child process that may take `extra_bytes` more address space than its imports did.

    setup: code that runs before the limit is set; a first Adam step, for one, loads much of torch. One thread.
    Returns (outcome, message): "finished" and the last line printed; "out of memory" or "failed" and the last line
    of the error; "skipped" and why, where the system sets no such limit.
    """
    if not sys.platform.startswith("linux"):
        return "skipped", f"RLIMIT_AS bounds a process's memory on Linux only, this is {sys.platform}"
    command = [sys.executable, "-c", _LIMIT.format(setup=setup, extra_bytes=int(extra_bytes)) + code]
    child = subprocess.run(command, capture_output=True, text=True)
    text = child.stdout if child.returncode == 0 else child.stderr
    last = (text.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
    if child.returncode == 0:
        return "finished", last
    words = ("allocate memory", "not enough memory", "MemoryError")
    return "out of memory" if any(word in text for word in words) else "failed", last
