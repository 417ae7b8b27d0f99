"""The three textbook examples at the article's own size, and what each part of the recipe is worth: `examples.json`.

Two experiments that are too long for notebook 00, which draws them:

1. Examples 1, 2 and 3 with 10,000 users, 5,000 items and 100 factors, on whole stars, the first until it is past its
   best epoch. The article names no ratings, batch size or epochs: 500,000 ratings (1 % of the cells) and 1,024 are
   ours.
2. The whole recipe with one part taken back, on the reference problem and on MovieLens latest-small: the epoch is
   chosen on the validation part, with patience and up to 150 epochs, so that nothing is judged before it is finished.

    python benchmarks/examples.py          most of an hour; one thread; the same numbers each time
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import mfkit
from mfkit import initializers, measure
from mfkit.files import replacing

OUT = Path(__file__).with_suffix(".json")
ARTICLE = dict(n_users=10_000, n_items=5_000, n_ratings=500_000, rank=8, noise=0.85, seed=0, stars=True)
REFERENCE = dict(n_users=943, n_items=1682, n_ratings=80_000, rank=8, noise=0.85, seed=0)
SEEDS = range(5)
TEXTBOOK = mfkit.TrainConfig.textbook(loss="mse", optimizer="adam", lr=0.001, batch_size=1024)
EXAMPLES = {
    "Example 1": replace(TEXTBOOK, lr=0.01, epochs=200, patience=5),  # stops when validation has not fallen five times
    "Example 2": replace(TEXTBOOK, epochs=120),  # ten times slower than Example 1: this is a part of its way
    "Example 3": replace(TEXTBOOK, l2=0.01, penalty="per_table", epochs=25),
}
RECIPE = dict(lr=0.01, start="scaled", mean=True, biases=True, l2=0.12)
TAKEN_BACK = {
    "nothing": {},
    "learning rate": dict(lr=0.001),
    "start": dict(start="N(0, 1)"),
    "mean": dict(mean=False),
    "biases": dict(biases=False),
    "mean and biases": dict(mean=False, biases=False),
    "penalty": dict(l2=0.0),
}


class Textbook(nn.Module):
    """Two tables in nn.Embedding's default start, N(0, 1), and a row-wise dot product."""

    def __init__(self, n_users: int, n_items: int, n_factors: int) -> None:
        super().__init__()
        self.user_factors = nn.Embedding(n_users, n_factors)
        self.item_factors = nn.Embedding(n_items, n_factors)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return (self.user_factors(users) * self.item_factors(items)).sum(dim=1)


def rmse_of(constant: float, ratings: mfkit.Ratings) -> float:
    """The error of predicting one number."""
    return (ratings.values - constant).square().mean().sqrt().item()


def at_the_articles_size() -> dict:
    """Each example's validation and test RMSE and largest prediction, epoch by epoch; and what the mean scores."""
    ratings, _ = mfkit.synthetic(**ARTICLE)
    train, valid, test = ratings.split((0.8, 0.1, 0.1), seed=0)
    curves = {}
    for name, config in EXAMPLES.items():
        torch.manual_seed(0)
        model = Textbook(ratings.n_users, ratings.n_items, 100)
        curve = measure.learning_curve(model, train, config, validation=valid, test=test)
        curves[name] = curve[["epoch", "test_rmse", "largest"]].astype(float).round(5).to_dict("list")
        print(name, curve["test_rmse"].min(), curve["test_rmse"].iloc[-1], flush=True)
    return {"settings": ARTICLE, "mean": rmse_of(train.mean, test), "zero": rmse_of(0.0, test), "curves": curves}


def chosen(parts: dict, train: mfkit.Ratings, valid: mfkit.Ratings, test: mfkit.Ratings, seed: int) -> dict:
    """One run with these parts of the recipe: the epoch that validation chooses, and its test RMSE."""
    mean = train.mean if parts["mean"] else 0.0
    model = mfkit.MatrixFactorization(train.n_users, train.n_items, 20, mean=mean, biases=parts["biases"])
    if parts["start"] == "scaled":
        initializers.scaled_(model, prediction_std=0.1, seed=seed)
    else:
        initializers.normal_(model, std=1.0, seed=seed)
    config = replace(TEXTBOOK, lr=parts["lr"], l2=parts["l2"], epochs=150, patience=3, seed=seed)
    curve = measure.learning_curve(model, train, config, validation=valid, test=test)
    best = curve.loc[curve["validation_rmse"].idxmin()]
    return {"epoch": int(best["epoch"]), "test_rmse": round(float(best["test_rmse"]), 5)}


def one_part_taken_back() -> list[dict]:
    """A row a data set, part and seed: its epoch and test RMSE."""
    reference, _ = mfkit.synthetic(**REFERENCE)
    rows = []
    for name, ratings in (("reference", reference), ("latest-small", mfkit.movielens("latest-small"))):
        for seed in SEEDS:
            train, valid, test = ratings.split((0.8, 0.1, 0.1), seed=0 if name == "reference" else seed)
            for part, change in TAKEN_BACK.items():
                rows.append({"data": name, "without": part, "seed": seed})
                rows[-1] |= chosen(RECIPE | change, train, valid, test, seed)
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    results = {"taken_back": one_part_taken_back(), "article": at_the_articles_size()}
    with replacing(OUT) as partial:
        partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
