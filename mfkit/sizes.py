"""What a problem of given sizes will need, before there is any: memory from the formulas of predict.py, and time.

    P = (d + 1)(m + n) trained numbers      one epoch: N / B steps      K = d + 3, rounded up to a multiple of 4

m, n: users, items      d: factors      N: ratings      B: batch size
"""

import math

import torch

from mfkit import checks, predict
from mfkit.model import MatrixFactorization
from mfkit.recipe import LARGEST_BATCH

SPEED = 10e9  # bytes moved, or multiplications and additions done, in a second: one core of a laptop
STEP, SPARSE_STEP = 0.4e-3, 1.2e-3  # seconds of a step however small it is
MOVED = {"sgd": 3, "momentum": 5, "adam": 7, "adamw": 7}  # numbers that a dense step reads and writes, a parameter
ALS_BYTES = 2**28  # fit_als's max_bytes where none is given
SAMPLES = 40  # sample_posterior's
CHUNK = 1024  # top_k's
LARGEST = {"users": 10**12, "items": 10**12, "ratings": 10**12, "factors": 10**6}  # beyond, bytes pass 2^63

Row = tuple[str, float, str]  # what, how much, formula


def memory(users: int, items: int, ratings: int, factors: int, batch: int, optimizer: str) -> list[Row]:
    """Bytes, by what needs them; the model is on torch's device "meta", where tensors hold no memory."""
    with torch.device("meta"):
        model = MatrixFactorization(users, items, factors)
    state = predict.state_bytes(model, optimizer)
    step = predict.peak_bytes(predict.dry_step(model, batch))
    table = state["parameters"]
    beside = max(28 * ratings, 20 * ratings + state["state"] + step)  # first the epoch's order, then the steps
    solve = 60 * ratings + 2 * table + min(ALS_BYTES, 32 * columns(factors) ** 2 * max(users, items))
    return [
        ("ratings", 20 * ratings, "20 N"),
        ("model", table, "4 P"),
        (f"{optimizer}'s state", state["state"], f"{4 * round(state['state'] / table)} P"),
        ("one step, with its gradients", step, "predict.dry_step"),
        ("train, in all", 20 * ratings + table + beside, "20 N + 4 P + max(28 N, 20 N + state + step)"),
        ("fit_als, in all, at most", solve, "60 N + 8 P + 32 K^2 max(m, n), no more than max_bytes, 256 MiB"),
        ("sample_posterior, at most", solve + SAMPLES * table, "the same + 40 samples, 4 P each"),
        ("top_k, beside the model", 8 * CHUNK * items, "8 n for each of 1,024 users at a time"),
        ("for comparison: one dense U V'", 4 * users * items, "4 m n"),
        ("training on dense U V'", 16 * users * items, "16 m n: product, error, its square, gradient"),
    ]


def seconds(users: int, items: int, ratings: int, factors: int, batch: int, optimizer: str) -> list[Row]:
    """Seconds on one core at SPEED, to a factor of five: enough to see what is out of reach."""
    rows, width, steps = users + items, factors + 1, math.ceil(ratings / batch)
    moved = 4 * MOVED[optimizer]
    every_row = steps * (STEP + moved * rows * width / SPEED)
    own_rows = steps * (SPARSE_STEP + moved * 2 * batch * width / SPEED)
    K = columns(factors)
    sweep = (4 * ratings * K**2 + rows * K**3) / SPEED
    return [
        ("train, an epoch", every_row, f"N/B steps of 0.4 ms, each moves {moved} P bytes"),
        ("the same with sparse=True", own_rows, "N/B steps of 1.2 ms, each moves only the batch's rows"),
        ("fit_als, a sweep", sweep, "4 N K^2 + (m + n) K^3 operations"),
    ]


def columns(factors: int) -> int:
    """K, of a row's equations in `fit_als`."""
    return 4 * math.ceil((factors + 3) / 4)


def report(
    users: int, items: int, ratings: int, factors: int, batch: int | None = None, optimizer: str = "adam"
) -> str:
    """Both tables as text. Raises ValueError for sizes that cannot be."""
    sizes = {"users": users, "items": items, "ratings": ratings, "factors": factors}
    for name, size in sizes.items():
        if checks.integer(name, size, least=1) > LARGEST[name]:
            raise ValueError(f"{name} must be at most {LARGEST[name]:,}, got {size:,}")
    checks.one_of("optimizer", optimizer, MOVED)
    if ratings > users * items:
        raise ValueError(f"ratings must be at most users * items = {users * items}, got {ratings}")
    batch = LARGEST_BATCH if batch is None else checks.integer("batch", batch, least=1)
    given = (users, items, ratings, factors, min(batch, ratings), optimizer)
    lines = [
        f"m = {users:,} users, n = {items:,} items, N = {ratings:,} ratings, d = {factors} factors, "
        f"batches of B = {min(batch, ratings):,}, {optimizer}",
        "",
    ]
    lines += [f"{what:<32}{_bytes(size):>10}   {formula}" for what, size, formula in memory(*given)]
    lines += ["", "Time on one core, at 10 GB/s and 10 GFLOP/s, to a factor of five", ""]
    lines += [f"{what:<32}{_time(size):>10}   {formula}" for what, size, formula in seconds(*given)]
    return "\n".join(lines)


def _bytes(size: float) -> str:
    return _with_unit(size, {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15})


def _time(size: float) -> str:
    return _with_unit(size, {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "days": 86400})


def _with_unit(size: float, units: dict[str, float]) -> str:
    """Two digits or more, in the largest unit of which there is at least one."""
    name = next(iter(units))
    for larger, least in units.items():
        if size >= least:
            name = larger
    count = size / units[name]
    return f"{count:,.{1 if count < 100 else 0}f} {name}"
