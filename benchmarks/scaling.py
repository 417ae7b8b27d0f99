"""What an epoch and a sweep cost as ratings, rows, factors, threads grow, beside the machine's limits: `scaling.json`.

The limits are measured: bandwidth by copying an array larger than any cache, the matmul rate on large float32 squares.
What must move at the least, by formula, N ratings, d factors, m + n table rows, k = d + 1 unknowns of a row:

    epoch (SGD):  N (16 d + 20) bytes: two rows read and written, two ids (int64) and a value;  10 d N flops
    sweep (ALS):  2 N (4 k + 8) bytes: a row, an id (int32) and a value a side;  4 k^2 N + (m + n) k^3 / 3 flops

    python benchmarks/scaling.py          minutes, up to 8 GB; seconds are medians of whole epochs and sweeps
"""

import json
import math
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from peers import machine, write
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mfkit

USERS, ITEMS, BATCH, LARGE_BATCH = 20_000, 5_000, 4096, 16_384
RATINGS, ROWS, FACTORS, THREADS = (10**5, 10**6, 10**7), (10**4, 10**5, 10**6, 10**7), (8, 16, 32, 64), (1, 2)
OPTIMIZERS = {"sgd": 0.1, "adam": 0.01}  # and a step size that stays finite
LOADER_D, LOADER_RATINGS = 64, 200_000  # of the DataLoader's loop; its cost is one of each rating


def ratings_of(n: int, users: int = USERS, items: int = ITEMS) -> mfkit.Ratings:
    """n different cells, evenly spread in a scattered order, whole stars; the same each time."""
    stride = next(s for s in range(int(users * items * 0.618), users * items) if math.gcd(s, users * items) == 1)
    cells = torch.arange(n) * stride % (users * items)
    values = torch.randint(1, 6, (n,), generator=torch.Generator().manual_seed(0))
    return mfkit.Ratings(cells // items, cells % items, values, users, items)


class Enough(Exception):
    """Ends a training run from its on_step."""


def epoch(ratings: mfkit.Ratings, d: int, *, sparse: bool, optimizer: str, batch: int = BATCH) -> float:
    """Seconds from the first step of one epoch to the first of the next: order, steps and flush; median of 3, or 1."""
    torch.manual_seed(0)
    model = mfkit.MatrixFactorization(ratings.n_users, ratings.n_items, d, mean=ratings.mean, sparse=sparse)
    config = dict(optimizer=optimizer, lr=OPTIMIZERS[optimizer], batch_size=batch, epochs=9, l2=0.05)
    times, begun = 3 if len(ratings) <= 10**6 else 1, {}

    def on_step(record: dict) -> None:
        begun.setdefault(record["epoch"], time.perf_counter())
        if len(begun) > times:
            raise Enough

    with suppress(Enough):
        mfkit.train(model, ratings, mfkit.TrainConfig.textbook(**config), on_step=on_step)
    return median(b - a for a, b in pairwise(begun.values()))


def sweep(ratings: mfkit.Ratings, d: int) -> float:
    """Seconds of one ALS sweep, median of 3."""
    model = mfkit.MatrixFactorization(ratings.n_users, ratings.n_items, d, mean=ratings.mean)
    ended = []
    options = dict(l2=0.05, sweeps=4, start="random")
    mfkit.fit_als(model, ratings, on_sweep=lambda *_: ended.append(time.perf_counter()), **options)
    return median(b - a for a, b in pairwise(ended))


def loader_epoch(ratings: mfkit.Ratings, d: int) -> float:
    """The textbook loop: a DataLoader over a TensorDataset, two N(0, 1) tables, Adam."""
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(ratings.users, ratings.items, ratings.values), batch_size=BATCH, shuffle=True)
    U, V = nn.Embedding(ratings.n_users, d), nn.Embedding(ratings.n_items, d)
    optimizer = torch.optim.Adam([*U.parameters(), *V.parameters()], lr=0.01)
    start = time.perf_counter()
    for users, items, values in loader:
        optimizer.zero_grad()
        nn.functional.mse_loss((U(users) * V(items)).sum(1), values).backward()
        optimizer.step()
    return time.perf_counter() - start


def limits(threads: int) -> dict:
    """Best of some: bytes read and written a second by a copy, flops a second by a matrix product."""
    torch.set_num_threads(threads)
    source, target = torch.ones(2**26), torch.empty(2**26)  # 256 MB each
    square, product = torch.ones(2048, 2048), torch.empty(2048, 2048)

    def best(call, times: int) -> float:
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    copied, multiplied = best(lambda: target.copy_(source), 8), best(lambda: torch.mm(square, square, out=product), 8)
    return {"threads": threads, "bytes_per_s": 2 * 4 * 2**26 / copied, "flops_per_s": 2 * 2048**3 / multiplied}


def least(what: str, n: int, rows: int, d: int) -> tuple[float, float]:
    """(bytes, flops) that it must move and do, by the formulas above."""
    k = d + 1
    if what == "epoch":
        return n * (16 * d + 20), 10 * d * n
    return 2 * n * (4 * k + 8), 4 * k**2 * n + rows * k**3 / 3


def record(what: str, varied: str, ratings, d: int, threads: int, limit: list[dict], **options) -> dict:
    """One measurement, with its share of the limits at that many threads."""
    torch.set_num_threads(threads)
    seconds = epoch(ratings, d, **options) if what == "epoch" else sweep(ratings, d)
    top = next(x for x in limit if x["threads"] == threads)
    moved, done = least(what, len(ratings), ratings.n_users + ratings.n_items, d)
    row = {"what": what, "varied": varied, "ratings": len(ratings), "users": ratings.n_users, "items": ratings.n_items}
    row |= {"factors": d, "threads": threads, **options, "seconds": round(seconds, 5)}
    row["bandwidth_share"] = round(moved / seconds / top["bytes_per_s"], 4)
    row["matmul_share"] = round(done / seconds / top["flops_per_s"], 4)
    print(row, flush=True)
    return row


def slope(points: list[tuple[float, float]]) -> float:
    """Of log seconds against log size: 1 is linear, 0 is flat."""
    xs, ys = ([math.log(p[k]) for p in points] for k in (0, 1))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def summary(rows: list[dict], loader: dict) -> dict:
    """Slopes and ratios, from the rows alone."""
    found = {}
    for varied, size in (("ratings", "ratings"), ("rows", "users"), ("factors", "factors"), ("threads", "threads")):
        kinds = {(r["what"], r.get("optimizer"), r.get("sparse")) for r in rows if r["varied"] == varied}
        for kind in sorted(kinds, key=str):
            chosen = [r for r in rows if r["varied"] == varied]
            chosen = [r for r in chosen if (r["what"], r.get("optimizer"), r.get("sparse")) == kind]
            name = " ".join(filter(None, (kind[0], kind[1], "sparse" if kind[2] else None)))
            points = [(r[size], r["seconds"]) for r in chosen]
            key = f"{name}: slope in {varied}"
            found[key] = round(slope(points), 3)
    each = loader["seconds"] / loader["ratings"]
    for r in rows:
        if r["varied"] == "loader":
            name = f"{r['optimizer']}{' sparse' if r['sparse'] else ''} batch {r['batch']}"
            found[f"loader over trainer, {name}"] = round(each / (r["seconds"] / r["ratings"]), 1)
    return found


def main() -> None:
    limit = [limits(threads) for threads in THREADS]
    print(limit, flush=True)
    rows, two = [], THREADS[-1]
    for n in RATINGS:
        ratings = ratings_of(n)
        rows.append(
            record("epoch", "ratings", ratings, 16, two, limit, sparse=True, optimizer="sgd", batch=LARGE_BATCH)
        )
        rows.append(record("sweep", "ratings", ratings, 16, two, limit))
    million = ratings_of(10**6)
    for d in FACTORS:
        rows.append(record("epoch", "factors", million, d, two, limit, sparse=False, optimizer="sgd"))
        rows.append(record("sweep", "factors", million, d, two, limit))
    for threads in THREADS:
        rows.append(record("epoch", "threads", million, 16, threads, limit, sparse=False, optimizer="sgd"))
        rows.append(record("sweep", "threads", million, 16, threads, limit))
    for optimizer in OPTIMIZERS:
        for m in ROWS:
            options = dict(sparse=True, optimizer=optimizer, batch=LARGE_BATCH)
            rows.append(record("epoch", "rows", ratings_of(10**6, m), 16, two, limit, **options))
    few = ratings_of(LOADER_RATINGS)
    torch.set_num_threads(two)
    loader = {
        "ratings": len(few),
        "factors": LOADER_D,
        "batch": BATCH,
        "seconds": round(loader_epoch(few, LOADER_D), 4),
    }
    for optimizer, batch in (("adam", BATCH), ("sgd", BATCH), ("sgd", LARGE_BATCH)):
        options = dict(sparse=False, optimizer=optimizer, batch=batch)
        rows.append(record("epoch", "loader", million, LOADER_D, two, limit, **options))
    found = summary(rows, loader)
    settings = {"torch": torch.__version__, "machine": machine()}
    result = {"settings": settings, "limits": limit, "loader": loader, "rows": rows, "summary": found}
    write(result, Path(__file__).with_suffix(".json"))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
