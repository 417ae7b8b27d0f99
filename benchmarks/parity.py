"""Surprise's SVD at its defaults, and the same model in mfkit, on ml-latest-small: `parity.json`.

Surprise steps rating by rating, u += lr (e v - reg u) with e = rating - prediction: gradient descent on
e^2 / 2 + reg / 2 (|u|^2 + |v|^2 + b^2 + c^2). mfkit's objective has no 1/2, so the same step is lr / 2, with l2 = reg.
reduction="sum" gives every rating of a batch its full step, from the parameters before the batch: the smaller the
batch, the nearer to one rating at a time. `batches` in the result shows how little is left of that at 256.
The order differs: Surprise goes through the ratings user by user, mfkit shuffles them each epoch. Random starts alone
move the RMSE by .002 from seed to seed, in either program; `same_start` begins with the very numbers of Surprise's.

    python benchmarks/parity.py          minutes; needs scikit-surprise and ml-latest-small
"""

import json
import math
import time
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pandas as pd
import torch
from programs import dot, spread
from surprise import SVD, Dataset, Reader

import mfkit
from mfkit.files import replacing

SEEDS, SHARES, CLIP = list(range(10)), (0.8, 0.2), (0.5, 5.0)
FACTORS, EPOCHS, LR, REG, INIT_STD = 100, 20, 0.005, 0.02, 0.1  # Surprise 1.1.5's defaults
BATCH, OTHER_BATCHES = 256, [1024, 64]  # the others on the first seed only


def score(predict, test: mfkit.Ratings) -> float:
    p = np.asarray(predict(test.users.numpy(), test.items.numpy()), np.float64).clip(*CLIP)
    return float(np.sqrt(np.square(p - test.values.double().numpy()).mean()))


def surprise(train: mfkit.Ratings, test: mfkit.Ratings, seed: int) -> tuple[float, list[np.ndarray]]:
    """Its RMSE, and the tables that it started from, zero where it has seen no rating."""
    columns = (train.users.numpy(), train.items.numpy(), train.values.numpy())
    frame = pd.DataFrame(dict(zip(("user", "item", "rating"), columns, strict=True)))
    known = Dataset.load_from_df(frame, Reader(rating_scale=CLIP)).build_full_trainset()
    model = SVD(random_state=seed).fit(known)
    rows = [known.to_raw_uid(k) for k in range(known.n_users)], [known.to_raw_iid(k) for k in range(known.n_items)]
    b, P = (spread(rows[0], train.n_users, table) for table in (model.bu, model.pu))
    c, Q = (spread(rows[1], train.n_items, table) for table in (model.bi, model.qi))
    rng, sizes = np.random.RandomState(seed), (train.n_users, train.n_items)
    start = [spread(r, n, rng.normal(0, INIT_STD, (len(r), FACTORS))) for r, n in zip(rows, sizes, strict=True)]
    return score(dot(known.global_mean, b, c, P, Q), test), start


def ours(train: mfkit.Ratings, test: mfkit.Ratings, seed: int, start=None, batch: int = BATCH) -> float:
    model = mfkit.MatrixFactorization(train.n_users, train.n_items, FACTORS, mean=train.mean)
    mfkit.initializers.normal_(model, INIT_STD, seed)
    tables = model.user_factors.weight, model.item_factors.weight
    with torch.no_grad():
        for k, (table, ids) in enumerate(zip(tables, (train.users, train.items), strict=True)):
            if start is not None:
                table.copy_(torch.from_numpy(start[k]))
            # Surprise leaves the dot product out where it has not seen the user or the item
            table[torch.bincount(ids, minlength=len(table)) == 0] = 0
    shared = dict(optimizer="sgd", reduction="sum", epochs=EPOCHS, seed=seed)
    mfkit.train(model, train, mfkit.TrainConfig.textbook(lr=LR / 2, l2=REG, batch_size=batch, **shared))
    return score(lambda users, items: model.predict(torch.from_numpy(users), torch.from_numpy(items)).numpy(), test)


def summary(rows: list[dict]) -> dict:
    """Paired differences of the RMSEs, ours - Surprise's, with standard errors, and how many of those they are."""
    found = {"surprise": round(mean(row["surprise"] for row in rows), 6)}
    for name in ("mfkit", "same_start"):
        differences = [row[name] - row["surprise"] for row in rows]
        difference, error = mean(differences), stdev(differences) / math.sqrt(len(differences))
        numbers = {"difference": round(difference, 6), "standard_error": round(error, 6)}
        found[name] = {"rmse": round(mean(row[name] for row in rows), 6), **numbers}
        found[name]["standard_errors_away"] = round(abs(difference) / error, 2)
    return found


def main() -> None:
    torch.set_num_threads(1)  # steps of 256 ratings are too small to share
    ratings, rows, batches = mfkit.movielens("latest-small"), [], {}
    for seed in SEEDS:
        train, test = ratings.split(SHARES, seed)
        row = {"seed": seed}
        begun = time.perf_counter()
        row["surprise"], start = surprise(train, test, seed)
        middle = time.perf_counter()
        row["mfkit"] = ours(train, test, seed)
        row |= {"surprise_seconds": middle - begun, "mfkit_seconds": time.perf_counter() - middle}
        row["same_start"] = ours(train, test, seed, start)
        rows.append({name: round(value, 6) for name, value in row.items()})
        print(rows[-1], flush=True)
        if seed == SEEDS[0]:
            batches = {str(b): round(ours(train, test, seed, start, b), 6) for b in OTHER_BATCHES}
            batches[str(BATCH)] = rows[0]["same_start"]
    settings = {"data": "ml-latest-small", "shares": SHARES, "clip": CLIP, "factors": FACTORS, "epochs": EPOCHS}
    settings |= {"surprise_lr": LR, "mfkit_lr": LR / 2, "l2": REG, "init_std": INIT_STD, "batch_size": BATCH}
    found = summary(rows)
    body = ",\n".join("    " + json.dumps(row) for row in rows)
    head = f'  "settings": {json.dumps(settings)},\n  "batches": {json.dumps(batches)},\n'
    tail = f'  "rows": [\n{body}\n  ],\n  "summary": {json.dumps(found)}\n'
    with replacing(Path(__file__).with_suffix(".json")) as partial:
        partial.write_text("{\n" + head + tail + "}\n", encoding="utf-8")
    print(found, batches)


if __name__ == "__main__":
    main()
