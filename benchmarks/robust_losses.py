"""MSE, Huber and MAE over contamination x magnitude x delta, for five kinds of outliers: `robust_losses.json`.

    minimise   sum over ratings of [ loss(e) + l2 (|u|^2 + |v|^2 + b^2 + c^2) ],    e = median + b + c + u.v - r

by alternating, iteratively reweighted least squares. That loss is at most w e^2 + const with equality where the model
is now, for w = min(1, delta / |e|) (Huber) or 1 / (2 |e|) (MAE), so every half sweep lowers the objective. Many runs go
through at once, as dense matrices with a mask. Judged against the clean truth, on cells that nobody rated.

    python benchmarks/robust_losses.py          some minutes; one thread; the same numbers each time
"""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import mfkit
from mfkit.files import replacing

M, N, RATINGS, RANK, SIGMA = 70, 100, 2600, 3, 0.5
SEEDS = list(range(10))
# Each arm is judged at the strength that suits it best in that cell, on average over seeds.
L2S = [0.05, 0.08, 0.12, 0.3, 0.7]
SHARES, MAGNITUDES = [0.01, 0.02, 0.05, 0.1, 0.2], [1, 2, 4, 8, 16]  # in sigmas, as the deltas are
DELTAS = [0.5, 1.0, 1.345, 2.0, 4.0]
ARMS = {"mse": np.inf, "mae": 0.0} | {f"huber {k}": k for k in DELTAS}
SWEEPS = 20


def problem(kind: str, share: float, magnitude: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(ratings, observed, truth, judged), each (M, N). kind: "real ..." or "stars ..." and how ratings are corrupted.

    symmetric, one-sided: `share` of the ratings get +-magnitude or +magnitude sigmas added. flips: r -> 6 - r.
    users: `share` of the users get +-magnitude sigmas on each of their ratings; only the others are judged.
    """
    values, how = kind.split()
    ratings, truth = mfkit.synthetic(M, N, RATINGS, rank=RANK, noise=SIGMA, seed=seed)
    rng = np.random.default_rng(seed + 1000)
    users, items, r = ratings.users.numpy(), ratings.items.numpy(), ratings.values.double().numpy().copy()
    if values == "stars":
        r = r.round().clip(1, 5)
    hit = rng.permutation(RATINGS) < round(share * RATINGS)
    sign = np.where(rng.random(RATINGS) < 0.5, -1, 1)
    bad_users = rng.permutation(M) < (round(share * M) if how == "users" else 0)
    if how == "users":
        hit = bad_users[users]
    r = np.where(hit, 6 - r if how == "flips" else r + (1 if how == "one-sided" else sign) * magnitude * SIGMA, r)
    clean = truth.mean + truth.user_bias[:, None] + truth.item_bias + truth.P @ truth.Q.T
    if values == "stars":
        r, clean = r.round().clip(1, 5), clean.clip(1, 5)
    R, observed = np.zeros((M, N)), np.zeros((M, N))
    R[users, items], observed[users, items] = r, 1
    judged = (1 - observed) * ~bad_users[:, None]
    return tuple(torch.from_numpy(x).float() for x in (R, observed, clean, judged))


def weights(E: Tensor, delta: float) -> Tensor:
    """delta=inf: MSE; 0: MAE, rounded off within a tenth of the noise, without which reweighting takes 200 sweeps."""
    if delta == 0:
        return 1 / (2 * E.abs().clamp(min=SIGMA / 10))
    return (delta / E.abs().clamp(min=1e-3)).clamp(max=1.0)


def solve_rows(R, observed, W, own, other, l2):
    """New [u | b] of every row, given the columns' [v | c]: one weighted ridge regression a row; (K, rows, d + 1)."""
    X = torch.cat([other[..., :-1], torch.ones_like(other[..., :1])], -1)  # (K, columns, d + 1)
    k = X.shape[-1]
    A = (W @ (X.unsqueeze(-1) * X.unsqueeze(-2)).flatten(-2)).unflatten(-1, (k, k))
    A = A + (l2 * observed.sum(-1)).add(1e-6)[..., None, None] * torch.eye(k)
    return torch.linalg.solve(A, (W * (R - other[..., -1].unsqueeze(-2))) @ X)


def fit(R, observed, delta: float, l2, sweeps: int = SWEEPS, seed: int = 0) -> Tensor:
    """Predictions (K, rows, columns) of K runs; R, observed: (K, rows, columns), l2: a number or (K, 1)."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.stack([r[o > 0].median() for r, o in zip(R, observed, strict=True)])[:, None, None]
    K, rows, columns = R.shape
    P, Q = (0.3 * torch.randn(1, size, RANK + 1, generator=generator).expand(K, -1, -1) for size in (rows, columns))
    P, Q = (torch.cat([table[..., :-1], torch.zeros_like(table[..., :1])], -1) for table in (P, Q))
    R = (R - middle) * observed

    def predict() -> Tensor:
        return P[..., :-1] @ Q[..., :-1].mT + P[..., -1:] + Q[..., -1:].mT

    for _ in range(sweeps):
        W = observed * weights(predict() - R, delta)
        P = solve_rows(R, observed, W, P, Q, l2)
        W = observed * weights(predict() - R, delta)
        Q = solve_rows(R.mT, observed.mT, W.mT, Q, P, l2)
    return middle + predict()


def cell(kind: str, share: float, magnitude: float, arms=ARMS, seeds=SEEDS) -> dict[str, dict]:
    """For each arm its best strength and its RMSE against the clean truth there, one number a seed."""
    R, observed, clean, judged = (
        torch.stack(x) for x in zip(*(problem(kind, share, magnitude, s) for s in seeds), strict=True)
    )
    repeat = [x.repeat(len(L2S), 1, 1) for x in (R, observed)]
    l2 = torch.tensor(L2S).repeat_interleave(len(seeds))[:, None]
    found = {}
    for name, k in arms.items():
        prediction = fit(*repeat, k * SIGMA, l2).unflatten(0, (len(L2S), len(seeds)))
        if kind.startswith("stars"):
            prediction = prediction.clamp(1, 5)
        square = (prediction - clean).square() * judged
        rmse = (square.sum((2, 3)) / judged.sum((1, 2))).sqrt().double()
        best = int(rmse.mean(1).argmin())
        found[name] = {"l2": L2S[best], "rmse": [round(x, 5) for x in rmse[best].tolist()]}
    return found


def grid() -> list[tuple[str, float, float]]:
    """(kind, share, magnitude) of every cell; magnitude 0: there is none, or nothing is corrupted."""
    cells = [("real symmetric", 0.0, 0.0), ("stars symmetric", 0.0, 0.0)]
    for kind in ("real symmetric", "real one-sided", "real users", "stars symmetric", "stars one-sided"):
        cells += [(kind, *x) for x in itertools.product(SHARES, MAGNITUDES[: 4 if kind[0] == "s" else None])]
    cells = [c for c in cells if c[0] != "real users" or c[1] >= 0.02]  # 0.01 and 0.02 of the users are the same one
    return cells + [("stars flips", share, 0.0) for share in SHARES]


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for kind, share, magnitude in grid():
        found = cell(kind, share, magnitude)
        rows += [{"kind": kind, "share": share, "magnitude": magnitude, "arm": a, **x} for a, x in found.items()]
    settings = {"users": M, "items": N, "ratings": RATINGS, "rank": RANK, "sigma": SIGMA, "l2": L2S}
    head = json.dumps(
        settings | {"seeds": SEEDS, "sweeps": SWEEPS, "judged_on": "RMSE to the clean truth, unrated cells"}
    )
    body = ",\n".join("    " + json.dumps(row) for row in rows)
    with replacing(Path(__file__).with_suffix(".json")) as partial:
        partial.write_text(f'{{\n  "settings": {head},\n  "rows": [\n{body}\n  ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
