"""What a newcomer gets who sets nothing: the three fits, beside biases alone, a tuned search and peers.

    test RMSE over that of predicting the training mean: below 1 is better than the mean, and no unit is left in it

Sets: MovieLens-100K (where `data_dir()` has u.data), a third of it, latest-small, and synthetic ratings whose truth is
known, of several sizes, noises and shapes; each on other scales too, a r + b. `searched` is the best of a grid over l2,
each end scored on the test part: lower than any search on validation ratings could come out.

python benchmarks/defaults.py          writes defaults.json; Surprise and LensKit where they are installed
"""

import json
import math
import platform
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import mfkit
from mfkit.data import Ratings
from mfkit.files import replacing
from mfkit.movielens import data_dir

FACTORS = 20
MAPS = {
    "as they are": (1.0, 0.0),
    "0..1": (0.25, -0.25),
    "0..100": (25.0, -25.0),
    "thousandths": (1e-3, 0.0),
    "1e6": (1e6, 0.0),
}
GRID = (0.1, 0.14, 0.19, 0.25, 0.32, 0.4, 0.5, 0.6, 0.75)  # of l2, over 1/sqrt(c_u) + 1/sqrt(c_i), in units of the std
BIASES_GRID = (0.01, 0.02, 0.05, 0.1, 0.2)


def sets() -> dict[str, tuple[Ratings, Ratings]]:
    """Name -> (train, test)."""
    found = {}
    path = data_dir() / "ml-100k" / "u.data"
    if path.exists():
        columns = ["user", "item", "rating"]
        table = pd.read_csv(path, sep="\t", header=None, usecols=[0, 1, 2], names=columns)
        whole = Ratings.from_frame(table)
        found["MovieLens-100K"] = whole.split((0.9, 0.1), seed=0)
        found["a third of it"] = whole.split((0.3, 0.1), seed=0)
    try:
        found["latest-small"] = mfkit.movielens("latest-small").split((0.9, 0.1), seed=0)
    except (ValueError, ConnectionError) as error:
        print(f"without latest-small: {error}")
    synthetic = {
        "reference": dict(seed=0),
        "little noise": dict(seed=0, noise=0.3),
        "stars, 1500 x 1500": dict(n_users=1500, n_items=1500, n_ratings=60_000, seed=5, stars=True),
        "stars, 300 x 400": dict(n_users=300, n_items=400, n_ratings=20_000, rank=4, noise=0.8, seed=1, stars=True),
        "1,500 ratings": dict(n_users=100, n_items=120, n_ratings=1500, rank=3, seed=2),
    }
    for name, options in synthetic.items():
        found[f"synthetic: {name}"] = mfkit.synthetic(**options)[0].split((0.9, 0.1), seed=0)
    return found


def mapped(part: Ratings, scale: float, shift: float) -> Ratings:
    values = part.values.double() * scale + shift
    return Ratings(part.users, part.items, values, part.n_users, part.n_items, part.user_ids, part.item_ids)


def mean_rmse(train: Ratings, test: Ratings) -> float:
    return (test.values.double() - train.mean).square().mean().sqrt().item()


def fresh(train: Ratings, n_factors: int = FACTORS, **options) -> mfkit.MatrixFactorization:
    torch.manual_seed(0)
    return mfkit.MatrixFactorization(train.n_users, train.n_items, n_factors, mean=train.mean, **options)


def defaults(train: Ratings, test: Ratings) -> dict[str, float]:
    """The three fits with nothing given; RMSE over the mean's, and seconds."""
    base, found = mean_rmse(train, test), {}
    for name, fit in (("train", mfkit.train), ("fit_als", mfkit.fit_als)):
        model, start = fresh(train), time.perf_counter()
        fit(model, train)
        found[f"{name} seconds"] = time.perf_counter() - start
        found[name] = mfkit.rmse(model, test) / base
    start = time.perf_counter()
    posterior = mfkit.sample_posterior(fresh(train), train)
    found["sample_posterior seconds"] = time.perf_counter() - start
    mean, _ = posterior.predict(test.users, test.items)
    found["sample_posterior"] = (mean - test.values).double().square().mean().sqrt().item() / base
    return found


def searched(train: Ratings, test: Ratings) -> dict[str, float]:
    """The best of a grid over l2, by ALS and by the trainer, and of biases alone, each judged by the test part."""
    base, edge = mean_rmse(train, test), 0.0
    for ids in (train.users, train.items):
        edge += 1 / math.sqrt(len(train) / len(ids.unique()))
    als, gradients, biases = [], [], []
    for share in GRID:
        model = fresh(train, scale=train.std)
        mfkit.fit_als(model, train, l2=share * edge)
        als.append(mfkit.rmse(model, test) / base)
        model = fresh(train, scale=train.std)
        mfkit.train(model, train, mfkit.TrainConfig(l2=share * edge))
        gradients.append(mfkit.rmse(model, test) / base)
    for l2 in BIASES_GRID:
        model = fresh(train, 0, scale=train.std)
        mfkit.fit_als(model, train, l2=l2)
        biases.append(mfkit.rmse(model, test) / base)
    return {"searched ALS": min(als), "searched gradients": min(gradients), "biases alone": min(biases)}


def surprise_default(train: Ratings, test: Ratings) -> float:
    from surprise import SVD, Dataset, Reader

    frame = pd.DataFrame({"user": train.users.numpy(), "item": train.items.numpy(), "rating": train.values.numpy()})
    scale = (float(train.values.min()), float(train.values.max()))
    fitted = SVD(random_state=0).fit(Dataset.load_from_df(frame, Reader(rating_scale=scale)).build_full_trainset())
    pairs = zip(test.users.tolist(), test.items.tolist(), strict=True)
    predictions = np.array([fitted.predict(user, item, clip=False).est for user, item in pairs])
    return float(np.sqrt(np.mean((predictions - test.values.double().numpy()) ** 2)) / mean_rmse(train, test))


def lenskit_default(train: Ratings, test: Ratings) -> float:
    from lenskit.als import BiasedMFScorer
    from lenskit.data import ItemList, RecQuery, from_interactions_df
    from lenskit.training import TrainingOptions

    columns = {"user_id": train.users.numpy(), "item_id": train.items.numpy(), "rating": train.values.numpy()}
    model = BiasedMFScorer()
    model.train(from_interactions_df(pd.DataFrame(columns)), TrainingOptions(rng=0))
    predictions = torch.full((len(test),), train.mean, dtype=torch.float64)  # where it has no score
    for user in test.users.unique().tolist():
        at = (test.users == user).nonzero()[:, 0]
        scores = model(RecQuery(user_id=user), ItemList(item_ids=test.items[at].numpy())).scores()
        scores = torch.as_tensor(np.asarray(scores), dtype=torch.float64)
        predictions[at] = torch.where(scores.isnan(), predictions[at], scores)
    return (predictions - test.values).square().mean().sqrt().item() / mean_rmse(train, test)


PEERS = {"surprise": surprise_default, "lenskit": lenskit_default}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, (train, test) in sets().items():
        reference = searched(train, test)
        peers = {f"{peer} default": run(train, test) for peer, run in PEERS.items() if find_spec(peer)}
        for scale_name, (scale, shift) in MAPS.items():
            row = {"set": name, "scale": scale_name} | defaults(mapped(train, scale, shift), mapped(test, scale, shift))
            rows.append(row | reference | (peers if scale_name == "as they are" else {}))
            print({key: round(x, 4) if isinstance(x, float) else x for key, x in rows[-1].items()}, flush=True)
    made = {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "factors": FACTORS,
        "rows": rows,
    }
    with replacing(Path(__file__).with_suffix(".json")) as partial:
        partial.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
