"""The programs that peers.py compares: each fits the same ratings through its own documented interface.

A program is a function (data, settings, clock). It imports what it needs and says `clock.imported()`, builds its data
structures and says `clock.built()`, and each time it has something to show says `clock.score(iterations, predict)`,
predict(users, items) -> (K,) predictions. The clock stands still while it scores. settings["iterations"] is how far
to go; `LADDERS` names the programs that cannot be watched on their way, and are run once for each of its numbers.

data: users, items (N,) int64, values (N,) float32, n_users, n_items.
"""

import math
import types
from dataclasses import dataclass

import numpy as np

THREADS = 2


@dataclass
class Data:
    users: np.ndarray
    items: np.ndarray
    values: np.ndarray
    n_users: int
    n_items: int


def dot(mean, user_bias, item_bias, P, Q):
    """predict for mean + b_i + c_j + u_i . v_j: one way of reading the tables, whichever program filled them."""

    def predict(users, items):
        return mean + user_bias[users] + item_bias[items] + np.einsum("nk,nk->n", P[users], Q[items])

    return predict


def spread(rows, n, table):
    """A table with n rows, that of a program which numbers rows in its own way; zero for rows that it never saw."""
    full = np.zeros((n, *np.shape(table)[1:]))
    full[np.asarray(rows)] = table
    return full


def global_mean(data, settings, clock):
    clock.imported()
    clock.built()
    mean = float(data.values.mean(dtype=np.float64))
    clock.score(1, lambda users, items: np.full(len(users), mean))


def biases_alone(data, settings, clock):
    """mean + b_i + c_j by alternating damped means, sum of the residuals / (count + damping)."""
    clock.imported()
    clock.built()
    mean = data.values.mean(dtype=np.float64)
    b, c, centred = np.zeros(data.n_users), np.zeros(data.n_items), data.values - mean
    n_u, n_i = np.bincount(data.users, minlength=len(b)), np.bincount(data.items, minlength=len(c))
    for k in range(1, settings["iterations"] + 1):
        c = np.bincount(data.items, centred - b[data.users], len(c)) / (n_i + settings["damping"])
        b = np.bincount(data.users, centred - c[data.items], len(b)) / (n_u + settings["damping"])
        clock.score(k, lambda users, items, b=b, c=c: mean + b[users] + c[items])


def surprise_svd(data, settings, clock):
    import pandas as pd
    from surprise import SVD, Dataset, Reader

    clock.imported()
    frame = pd.DataFrame({"user": data.users, "item": data.items, "rating": data.values})
    train = Dataset.load_from_df(frame, Reader(rating_scale=(1, 5))).build_full_trainset()
    clock.built()
    model = SVD(n_epochs=settings["iterations"], random_state=settings["seed"]).fit(train)
    rows = [train.to_raw_uid(k) for k in range(train.n_users)], [train.to_raw_iid(k) for k in range(train.n_items)]
    b, P = (spread(rows[0], data.n_users, table) for table in (model.bu, model.pu))
    c, Q = (spread(rows[1], data.n_items, table) for table in (model.bi, model.qi))
    clock.score(settings["iterations"], dot(train.global_mean, b, c, P, Q))


def lenskit_als(data, settings, clock):
    import pandas as pd
    from lenskit.als import BiasedMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions

    clock.imported()
    frame = pd.DataFrame({"user_id": data.users, "item_id": data.items, "rating": data.values})
    dataset = from_interactions_df(frame)
    clock.built()
    model = BiasedMFScorer(embedding_size=settings["factors"], regularization=settings["regularization"])
    trainer = model.create_trainer(dataset, TrainingOptions(rng=settings["seed"]))
    for k in range(1, settings["iterations"] + 1):
        trainer.train_epoch()
        users, items = model.users.ids(), model.items.ids()
        b, P = (spread(users, data.n_users, t) for t in (model.bias.user_biases, model.user_embeddings))
        c, Q = (spread(items, data.n_items, t) for t in (model.bias.item_biases, model.item_embeddings))
        clock.score(k, dot(model.bias.global_bias, b, c, P, Q))


def cornac_mf(data, settings, clock):
    from cornac.data import Dataset
    from cornac.models import MF

    clock.imported()
    triplets = zip(data.users.tolist(), data.items.tolist(), data.values.tolist(), strict=True)
    dataset = Dataset.from_uir(list(triplets))
    clock.built()
    options = dict(k=settings["factors"], learning_rate=settings["lr"], lambda_reg=settings["regularization"])
    model = MF(max_iter=settings["iterations"], num_threads=THREADS, **options).fit(dataset)
    rows = list(dataset.uid_map), list(dataset.iid_map)  # in the order of their numbers
    b, P = (spread(rows[0], data.n_users, table) for table in (model.u_biases, model.u_factors))
    c, Q = (spread(rows[1], data.n_items, table) for table in (model.i_biases, model.i_factors))
    clock.score(settings["iterations"], dot(model.global_mean, b, c, P, Q))


def cmfrec_als(data, settings, clock):
    import pandas as pd
    from cmfrec import CMF

    clock.imported()
    frame = pd.DataFrame({"UserId": data.users, "ItemId": data.items, "Rating": data.values})
    clock.built()
    options = dict(k=settings["factors"], lambda_=settings["regularization"], scale_lam=settings["scaled"])
    quick = dict(precompute_for_predictions=False, verbose=False, nthreads=THREADS)
    model = CMF(niter=settings["iterations"], random_state=settings["seed"] + 1, **options, **quick).fit(frame)
    b, P = (spread(model.user_mapping_, data.n_users, table) for table in (model.user_bias_, model.A_))
    c, Q = (spread(model.item_mapping_, data.n_items, table) for table in (model.item_bias_, model.B_))
    clock.score(settings["iterations"], dot(model.glob_mean_, b, c, P, Q))


def libmf_sgd(data, settings, clock):
    """0.9.2 reads row-major arrays when it fits and column-major ones when it predicts: its tables are read here."""
    from libmf.mf import MF

    clock.imported()
    X = np.stack([data.users, data.items, data.values], 1).astype(np.float32)
    clock.built()
    l2 = settings["regularization"]
    options = dict(k=settings["factors"], lambda_p2=l2, lambda_q2=l2, eta=settings["lr"], nr_threads=THREADS)
    fitted = MF(nr_iters=settings["iterations"], quiet=True, **options)
    fitted.fit(X)
    m = fitted.model
    P, Q = (np.ctypeslib.as_array(t, (n, m.k)).copy() for t, n in ((m.P, m.m), (m.Q, m.n)))
    P, Q = (np.pad(t, ((0, n - len(t)), (0, 0))) for t, n in ((P, data.n_users), (Q, data.n_items)))
    tables = dot(0.0, np.zeros(data.n_users), np.zeros(data.n_items), P, Q)

    def predict(users, items):  # rows without ratings are NaN there, and its own predict gives the mean for them
        p = tables(users, items)
        return np.where(np.isnan(p), m.b, p)

    clock.score(settings["iterations"], predict)


def myfm_gibbs(data, settings, clock):
    import scipy.sparse as sp
    from myfm import MyFMRegressor

    clock.imported()

    m = data.n_users
    columns = np.stack([data.users, m + data.items], 1).ravel()  # one row a rating, 1 for its user and its item
    rows = np.arange(0, len(columns) + 1, 2)
    X = sp.csr_matrix((np.ones(len(columns)), columns, rows), (len(data.users), m + data.n_items))
    clock.built()
    kept = []

    def predict(users, items):
        return sum(dot(w0, w[:m], w[m:], V[:m], V[m:])(users, items) for w0, w, V in kept) / len(kept)

    def on_sample(k, draw, *_):
        if k >= settings["burn_in"]:
            kept.append((draw.w0, np.array(draw.w), np.array(draw.V)))
            if len(kept) in (1, 2, 5) or len(kept) % 10 == 0:
                clock.score(k + 1, predict)
        return False, None

    model = MyFMRegressor(rank=settings["factors"], random_seed=settings["seed"])
    options = dict(n_iter=settings["iterations"], n_kept_samples=1, group_shapes=[m, data.n_items])
    model.fit(X, data.values, callback=on_sample, **options)


def fastai_collab(data, settings, clock):
    import torch

    try:
        import torchvision
    except RuntimeError:  # the index's build is for CUDA's torch: elsewhere its operators, not needed here, are missing
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
    import pandas as pd
    from fastai.callback.core import Callback
    from fastai.collab import CollabDataLoaders, collab_learner

    clock.imported()
    torch.manual_seed(settings["seed"])
    frame = pd.DataFrame({"user": data.users, "item": data.items, "rating": data.values})
    loaders = CollabDataLoaders.from_df(frame, bs=settings["batch_size"], valid_pct=1 / len(frame))
    clock.built()
    learner = collab_learner(loaders, n_factors=settings["factors"], y_range=(0.5, 5.5))
    numbers = {}  # our row -> theirs, which is 0 for rows it never saw
    for name, n in (("user", data.n_users), ("item", data.n_items)):
        numbers[name] = np.array([loaders.classes[name].o2i[k] for k in range(n)])

    @torch.no_grad()
    def predict(users, items):
        pairs = np.stack([numbers["user"][users], numbers["item"][items]], 1)
        return learner.model(torch.from_numpy(pairs)).numpy()

    class Score(Callback):
        def after_epoch(self):
            clock.score(self.epoch + 1, predict)

    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(settings["iterations"], settings["lr"], wd=settings["wd"], cbs=Score())


def example_1(data, settings, clock):
    """The article's Example 1 as it stands, on these ratings: no mean, no biases, N(0, 1) tables, a DataLoader."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    clock.imported()
    torch.manual_seed(settings["seed"])
    columns = (torch.from_numpy(x) for x in (data.users, data.items, data.values))
    loader = DataLoader(TensorDataset(*columns), batch_size=settings["batch_size"], shuffle=True)
    clock.built()
    U, V = nn.Embedding(data.n_users, settings["factors"]), nn.Embedding(data.n_items, settings["factors"])
    optimizer = torch.optim.Adam([*U.parameters(), *V.parameters()], lr=settings["lr"])

    @torch.no_grad()
    def predict(users, items):
        return (U(torch.from_numpy(users)) * V(torch.from_numpy(items))).sum(1).numpy()

    for epoch in range(1, settings["iterations"] + 1):
        for users, items, values in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss((U(users) * V(items)).sum(1), values).backward()
            optimizer.step()
        clock.score(epoch, predict)


def _mfkit_model(data, settings, clock):
    """(model, ratings); the clock is told."""
    import torch

    import mfkit

    clock.imported()
    torch.manual_seed(settings["seed"])
    ratings = mfkit.Ratings(data.users, data.items, data.values, data.n_users, data.n_items)
    model = mfkit.MatrixFactorization(data.n_users, data.n_items, settings["factors"], mean=ratings.mean)
    clock.built()
    return model, ratings


def _mfkit_predict(model):
    import torch

    return lambda users, items: model.predict(torch.from_numpy(users), torch.from_numpy(items)).numpy()


def mfkit_als(data, settings, clock):
    import mfkit

    model, ratings = _mfkit_model(data, settings, clock)

    def on_sweep(sweep, _):
        clock.score(sweep, _mfkit_predict(model))

    options = dict(l2=settings["l2"], sweeps=settings["iterations"], seed=settings["seed"])
    mfkit.fit_als(model, ratings, on_sweep=on_sweep, **options)


def mfkit_bayes(data, settings, clock):
    import torch

    import mfkit

    model, ratings = _mfkit_model(data, settings, clock)

    def on_sample(sweep, posterior):
        kept = len(posterior.users)
        if kept in (1, 2, 5) or kept % 10 == 0:
            predict = posterior.predict
            clock.score(sweep, lambda u, i: predict(torch.from_numpy(u), torch.from_numpy(i))[0].numpy())

    samples, burn_in = settings["iterations"] - settings["burn_in"], settings["burn_in"]
    options = dict(samples=samples, burn_in=burn_in, seed=settings["seed"])
    mfkit.sample_posterior(model, ratings, on_sample=on_sample, **options)


def mfkit_train(data, settings, clock):
    import mfkit

    model, ratings = _mfkit_model(data, settings, clock)
    steps = math.ceil(len(ratings) / settings["batch_size"])
    names = ("optimizer", "lr", "l2", "batch_size", "seed")
    config = mfkit.TrainConfig.textbook(epochs=settings["iterations"], **{name: settings[name] for name in names})

    def on_step(record):
        if record["step"] % steps == 0:
            clock.score(record["epoch"], _mfkit_predict(model))

    mfkit.train(model, ratings, config, on_step=on_step)


def combine(**choices):
    """The settings that these lists of choices span, in order."""
    found = [{}]
    for name, values in choices.items():
        found = [{**one, name: value} for one in found for value in (values if isinstance(values, list) else [values])]
    return found


@dataclass(frozen=True)
class Program:
    """label; fit, above; package, whose version is reported; grid, the settings that the validation part chooses
    from; ladder, further numbers of iterations to run where it cannot be watched on its way."""

    label: str
    fit: types.FunctionType
    package: str | None
    grid: list[dict]
    ladder: tuple[int, ...] = ()


PROGRAMS = {
    "mean": Program("global mean", global_mean, None, [dict(iterations=1)]),
    "biases": Program("biases alone", biases_alone, None, combine(iterations=5, damping=[2, 5, 10])),
    "libmf": Program(
        "LIBMF",
        libmf_sgd,
        "libmf",
        combine(iterations=20, factors=[16, 32, 64], lr=0.1, regularization=[0.01, 0.02, 0.05]),
        (1, 2, 3, 4, 6, 8, 12, 16),
    ),
    "libmf_quick": Program(  # not its best last RMSE, but sooner at a modest one
        "LIBMF, few factors",
        libmf_sgd,
        "libmf",
        [dict(iterations=20, factors=16, lr=0.1, regularization=0.02)],
        (1, 2, 3, 4, 6, 8, 10, 12, 14, 16),
    ),
    "cornac": Program(
        "cornac MF",
        cornac_mf,
        "cornac",
        combine(iterations=20, factors=[10, 20], lr=[0.005, 0.01, 0.02], regularization=[0.01, 0.02, 0.05]),
        (1, 2, 4, 6, 8, 12, 16),
    ),
    "cornac_quick": Program(
        "cornac MF, large steps",
        cornac_mf,
        "cornac",
        [dict(iterations=10, factors=10, lr=0.02, regularization=0.05)],
        (1, 2, 3, 4, 6, 8),
    ),
    "cmfrec": Program(
        "cmfrec",
        cmfrec_als,
        "cmfrec",
        [
            *combine(iterations=10, factors=[10, 40], regularization=10.0, scaled=False),  # 40 and 10: its defaults
            *combine(iterations=10, factors=[10, 20], regularization=[0.03, 0.05, 0.1], scaled=True),
        ],
        (1, 2, 3, 4, 6),
    ),
    "lenskit": Program(
        "LensKit BiasedMF",
        lenskit_als,
        "lenskit",
        combine(iterations=10, factors=[10, 20, 50], regularization=[0.03, 0.05, 0.1]),
    ),
    "surprise": Program("Surprise SVD, defaults", surprise_svd, "scikit-surprise", [dict(iterations=20)], (1, 5, 10)),
    "fastai": Program(
        "fastai collab",
        fastai_collab,
        "fastai",
        combine(iterations=5, factors=[10, 50], lr=5e-3, wd=[0.1, 0.2], batch_size=4096),
    ),
    "myfm": Program("myfm", myfm_gibbs, "myfm", combine(iterations=100, factors=[10, 14], burn_in=10)),
    "example_1": Program(
        "Example 1 of the article",
        example_1,
        "torch",
        [dict(iterations=1, factors=100, lr=0.01, batch_size=1024)],
    ),
    "mfkit_als": Program(
        "mfkit, ALS", mfkit_als, "mfkit", combine(iterations=8, factors=[6, 10, 14], l2=[0.03, 0.05, 0.08])
    ),
    "mfkit_bayes": Program(
        "mfkit, Bayesian", mfkit_bayes, "mfkit", combine(iterations=60, burn_in=10, factors=[10, 14])
    ),
    "mfkit_train": Program(
        "mfkit, gradients",
        mfkit_train,
        "mfkit",
        combine(iterations=10, factors=15, optimizer="adam", lr=[3e-3, 1e-2], l2=[0.02, 0.04, 0.07], batch_size=[4096]),
    ),
}
