"""Validation and test RMSE over lr x l2 x factors, for SGD and Adam on five problems: `tuning_surface.json`.

Every node is one run of mfkit.train, so that searches can be replayed on the surface without training: notebook 09
does. Between nodes the RMSE is read off by linear interpolation in the logarithms of lr, l2 and d; a setting has
diverged if the node nearest to it has. The file also holds the Gaussian process's searches, which are slow.

    python benchmarks/tuning_surface.py          a quarter of an hour; one thread; the same numbers each time
"""

import json
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator

import mfkit
from mfkit import predict, tuning
from mfkit.files import replacing

SEEDS = [0, 1, 2, 3, 4]  # of the problem, its split, the weights and the order of the batches
SIZE = {"n_users": 250, "n_items": 350, "n_ratings": 25_000, "rank": 4, "noise": 0.6}
# Training, validation and test part. The test part is large, so that its own noise is small beside that of the
# validation part, from which a search chooses.
FRACTIONS = (0.4, 0.05, 0.55)
CONFIG = mfkit.TrainConfig.textbook(batch_size=512, epochs=8)
LRS = {"sgd": np.r_[np.geomspace(1, 64, 13), 64 * 2 ** np.arange(0.5, 2.5, 0.5)], "adam": np.geomspace(0.003, 0.3, 7)}
L2S = np.geomspace(0.05, 1, 7)  # in units of the collapse point, where zero factors are optimal
FACTORS = np.array([2, 4, 8, 16, 32])
BUDGETS, REPEATS, SHARE = [8, 16, 32, 64], 20, 0.75
GP_TRIALS = 32  # half a second each
PATH = Path(__file__).with_suffix(".json")


def problem(seed: int):
    """(train, validation, test, collapse point of the training part)."""
    ratings, _ = mfkit.synthetic(**SIZE, seed=seed)
    train, validation, test = ratings.split(FRACTIONS, seed=seed)
    return train, validation, test, predict.collapse_l2(train, residual=True, scale=1.0)


def run(parts, optimizer: str, lr: float, l2: float, d: int, seed: int) -> tuple[float, float]:
    """(validation, test) RMSE of one training, `l2` in units of the collapse point; NaN where it diverged."""
    train, validation, test, collapse = parts
    model = mfkit.MatrixFactorization(train.n_users, train.n_items, int(d), mean=train.mean)
    mfkit.initializers.scaled_(model, seed=seed)
    config = mfkit.TrainConfig.textbook(
        **{**vars(CONFIG), "optimizer": optimizer, "lr": float(lr), "l2": float(l2 * collapse), "seed": seed}
    )
    try:
        mfkit.train(model, train, config)
    except mfkit.DivergenceError:
        return np.nan, np.nan
    return mfkit.rmse(model, validation), mfkit.rmse(model, test)


class Surface:
    """One optimizer on one problem. validation, test: (lr, l2, factors), NaN where the run diverged.

    A setting that diverged, or does worse than predicting the mean, scores as the mean does (mean: its RMSE on both
    parts), as in mfkit.tune.
    """

    def __init__(self, optimizer: str, seed: int, collapse_l2: float, mean: dict, validation: list, test: list):
        self.optimizer, self.seed, self.collapse_l2, self.mean = optimizer, seed, collapse_l2, mean
        self.axes = {"lr": LRS[optimizer], "l2_over_collapse": L2S, "n_factors": FACTORS}
        self.validation, self.test = (np.array(part, dtype=float) for part in (validation, test))
        nodes = [np.log(axis) for axis in self.axes.values()]
        self.diverged = np.isnan(self.validation)
        self._at = {
            name: RegularGridInterpolator(nodes, np.fmin(part, mean[name]))
            for name, part in (("validation", self.validation), ("test", self.test))
        }
        self._diverged_at = RegularGridInterpolator(nodes, self.diverged.astype(float), method="nearest")

    def __call__(self, lr, l2_over_collapse, n_factors) -> tuple:
        """(validation RMSE, test RMSE, diverged) of settings, numbers or arrays of one shape."""
        x = np.stack(np.broadcast_arrays(*(np.log(v) for v in (lr, l2_over_collapse, n_factors))), -1)
        nodes = np.array([np.log([axis[0], axis[-1]]) for axis in self.axes.values()])
        x = x.clip(*nodes.T)  # rounding at the edges
        diverged = self._diverged_at(x).reshape(x.shape[:-1]) > 0.5
        scores = {part: at(x).reshape(x.shape[:-1]) for part, at in self._at.items()}
        return *(np.where(diverged, self.mean[part], scores[part]) for part in ("validation", "test")), diverged

    def box(self, seed: int) -> dict[str, tuple]:
        """The ranges that somebody might have written down: three quarters of the lr and l2 axes, in the logarithm."""
        rng, ranges = np.random.default_rng([seed, self.seed]), {}
        for name in ("lr", "l2_over_collapse"):
            low, high = np.log(self.axes[name][[0, -1]])
            start = low + rng.random() * (1 - SHARE) * (high - low)
            ranges[name] = (float(np.exp(start)), float(np.exp(start + SHARE * (high - low))))
        return ranges | {"n_factors": (int(FACTORS[0]), int(FACTORS[-1]))}

    def best(self, box: dict[str, tuple]) -> dict[str, float]:
        """The lowest validation and test RMSE of a box, each on a lattice of its own of 41 x 41 x all d."""
        lr, l2 = (np.geomspace(*box[name], 41) for name in ("lr", "l2_over_collapse"))
        d = np.arange(box["n_factors"][0], box["n_factors"][1] + 1)
        validation, test, _ = self(*np.meshgrid(lr, l2, d, indexing="ij"))
        return {"validation": float(validation.min()), "test": float(test.min())}


def replay(surface: Surface, sampler: str, n_trials: int, seed: int) -> np.ndarray:
    """A search on the surface by the code of mfkit.tune: (trials, 3), the settings in the order of the trials."""
    found = tuning.search(
        lambda trial: float(surface(**trial.params)[0]),
        surface.box(seed),
        sampler=sampler,
        n_trials=n_trials,
        seed=seed,
    )
    return np.array([[trial.params[name] for name in surface.axes] for trial in found.trials])


def load() -> tuple[dict[tuple[str, int], Surface], dict[int, np.ndarray]]:
    """Surfaces by (optimizer, seed), and the settings that the Gaussian process tried, by repeat."""
    record = json.loads(PATH.read_text(encoding="utf-8"))
    surfaces = {(row["optimizer"], row["seed"]): Surface(**row) for row in record["surfaces"]}
    return surfaces, {repeat: np.array(rows) for repeat, rows in enumerate(record["gp_on_sgd"])}


def surface_row(parts, optimizer: str, seed: int, scores: list) -> dict:
    """What the file holds of one surface. scores: (lr, l2, factors, 2), validation and test RMSE."""
    train, validation, test, collapse = parts
    mean = {
        name: round((part.values.double() - train.mean).square().mean().sqrt().item(), 5)
        for name, part in (("validation", validation), ("test", test))
    }
    row = {"optimizer": optimizer, "seed": seed, "collapse_l2": round(collapse, 5), "mean": mean}
    validation_rmse, test_rmse = np.moveaxis(np.array(scores), -1, 0).round(5)
    return row | {"validation": _plain(validation_rmse), "test": _plain(test_rmse)}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for seed in SEEDS:
        parts = problem(seed)
        for optimizer, lrs in LRS.items():
            scores = [[[run(parts, optimizer, lr, l2, d, seed) for d in FACTORS] for l2 in L2S] for lr in lrs]
            rows.append(surface_row(parts, optimizer, seed, scores))
    surfaces = [Surface(**row) for row in rows if row["optimizer"] == "sgd"]
    write(rows, [replay(surfaces[r % len(SEEDS)], "gp", GP_TRIALS, r).round(6).tolist() for r in range(REPEATS)])


def write(rows: list[dict], searches: list) -> None:
    settings = SIZE | {"fractions": FRACTIONS, "seeds": SEEDS, "batch_size": CONFIG.batch_size, "epochs": CONFIG.epochs}
    settings |= {
        "lr": {name: x.round(6).tolist() for name, x in LRS.items()},
        "l2_over_collapse": L2S.round(6).tolist(),
    }
    head = json.dumps(settings | {"n_factors": FACTORS.tolist(), "diverged": "null", "gp_trials": GP_TRIALS})
    body, gp = (",\n".join("    " + json.dumps(row) for row in part) for part in (rows, searches))
    text = f'{{\n  "settings": {head},\n  "surfaces": [\n{body}\n  ],\n  "gp_on_sgd": [\n{gp}\n  ]\n}}\n'
    with replacing(PATH) as partial:
        partial.write_text(text, encoding="utf-8")


def _plain(values: np.ndarray) -> list:
    """Nested lists for JSON, which has no NaN: null."""
    return json.loads(json.dumps(values.tolist()).replace("NaN", "null"))


if __name__ == "__main__":
    main()
