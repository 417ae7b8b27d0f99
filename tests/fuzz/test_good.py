"""Good input: what is returned is what dense linear algebra, scipy or torch say, on problems that Hypothesis makes."""

import copy
import json
import math
import tempfile
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn

import mfkit
from mfkit import Ratings, TrainConfig, clipping, initializers, losses, measure, optimizers, predict
from mfkit.lab import figures, records
from mfkit.objective import objective
from tests.fuzz.calls import good
from tests.fuzz.problems import all_predictions, dense, models, problems, tables

close = np.testing.assert_allclose
vectors = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=9)


@given(st.data())
def test_rmse_and_predict(data):
    ratings = data.draw(problems())
    model, D = data.draw(models(ratings)), dense(ratings)
    P = all_predictions(model)
    clip = data.draw(st.none() | st.just((-1, 2.5)))
    wanted = P if clip is None else P.clip(*clip)
    close(good(mfkit.rmse, model, ratings, clip, chunk=3), np.sqrt(np.mean((wanted - D.R)[D.W > 0] ** 2)), rtol=1e-6)
    close(good(model.predict, D.users, D.items, chunk=2), P[D.users, D.items], rtol=1e-9)
    close(good(measure.prediction_std, model, ratings), P[D.users, D.items].std(ddof=1) if len(D.users) > 1 else np.nan)


@given(st.data())
def test_top_k(data):
    ratings = data.draw(problems())
    model, D = data.draw(models(ratings)), dense(ratings)
    k = data.draw(st.integers(1, ratings.n_items))
    users = data.draw(st.lists(st.integers(0, ratings.n_users - 1), min_size=1, max_size=6))
    exclude = data.draw(st.sampled_from([None, ratings]))
    scores = np.where((D.W > 0) & (exclude is not None), -np.inf, all_predictions(model))
    best, items = good(model.top_k, users, k, exclude=exclude, chunk=2)
    close(best, -np.sort(-scores[users], axis=1)[:, :k], rtol=1e-9)
    close(best, np.take_along_axis(scores[users], items.numpy(), axis=1), rtol=1e-9)


def full_objective(model, ratings, config):
    """The equation at the head of objective.py over all ratings, written out densely."""
    D, (U, V, b, c), scale = dense(ratings), tables(model), model.scale.item()
    e = ((all_predictions(model) - D.R) / scale)[D.users, D.items]
    loss = {
        "mse": e**2,
        "mae": np.abs(e),
        "huber": 2 * scipy.special.huber(config.delta if config.delta is not None else 1.0, e),
    }[config.loss]
    parts = [(U, D.W.sum(1)), (b, D.W.sum(1)), (V, D.W.sum(0)), (c, D.W.sum(0))]
    if config.penalty == "per_table":
        parts = [(table, np.ones(len(table))) for table, _ in (parts[0], parts[2])]
    penalty = sum(n @ (config.l2 * table**2 + config.l1 * np.abs(table)).sum(1) for table, n in parts)
    size = len(e) if config.reduction == "mean" else 1
    return loss.sum() / size + penalty / (size if config.penalty == "per_rating" else 1)


configs = st.builds(
    TrainConfig.textbook,
    loss=st.sampled_from(["mse", "mae", "huber"]),
    penalty=st.sampled_from(["per_rating", "per_table"]),
    reduction=st.sampled_from(["mean", "sum"]),
    l2=st.sampled_from([0.0, 0.3]),
    l1=st.sampled_from([0.0, 0.2]),
    delta=st.sampled_from([0.5, 2.0]),
)


@given(st.data())
def test_objective(data):
    ratings, config = data.draw(problems()), data.draw(configs)
    model = data.draw(models(ratings, least=1))
    close(good(objective, model, ratings.columns, config).item(), full_objective(model, ratings, config), rtol=1e-6)


@given(st.data())
def test_one_full_step_of_sgd(data):
    """By hand: the gradient of the mean (or sum) of e^2 + l2 (|u|^2 + |v|^2 + b^2 + c^2) in every table."""
    ratings = data.draw(problems())
    model, D = data.draw(models(ratings)), dense(ratings)
    l2, lr, sparse = data.draw(st.sampled_from([0.0, 0.2])), 0.01, data.draw(st.booleans())
    before = U, V, b, c = tables(model)
    if sparse:
        for table in model.children():
            table.sparse = True
    E = D.W * (all_predictions(model) - D.R) / model.scale.item()
    n, k, N = D.W.sum(1, keepdims=True), D.W.sum(0)[:, None], len(D.users)
    gradients = E @ V + l2 * n * U, E.T @ U + l2 * k * V, E.sum(1, keepdims=True) + l2 * n * b
    gradients = *gradients, E.sum(0)[:, None] + l2 * k * c
    config = TrainConfig.textbook(optimizer="sgd", lr=lr, l2=l2, batch_size=N, epochs=1)
    history = good(mfkit.train, model, ratings, config)
    for table, start, gradient in zip(tables(model), before, gradients, strict=True):
        close(table, start - lr * 2 / N * gradient * start.any(), atol=1e-9)
    norm = 2 / N * math.sqrt(sum((g**2).sum() for g, table in zip(gradients, before, strict=True) if table.any()))
    close(history.frame["grad_norm"][0], norm, rtol=1e-5)


@given(st.data())
def test_a_resumed_run_is_the_one_that_never_stopped(data):
    """Bit for bit, and with the same records: the optimizer's state is that of the last step, row-wise ones too."""
    ratings, sparse = data.draw(problems()), data.draw(st.booleans())
    whole, seed = data.draw(models(ratings)), data.draw(st.integers(0, 99))
    for table in whole.children():
        table.sparse = sparse
    stopped = copy.deepcopy(whole)
    options = data.draw(st.sampled_from([{"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9}]))
    config = TrainConfig.textbook(lr=0.01, l2=0.1, batch_size=2, epochs=3, seed=seed, **options)
    expected = good(mfkit.train, whole, ratings, config)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/run"
        good(mfkit.train, stopped, ratings, replace(config, epochs=data.draw(st.integers(1, 2))), checkpoint=path)
        resumed = good(mfkit.train, stopped, ratings, config, checkpoint=path, resume=True)
    for name, tensor in whole.state_dict().items():
        np.testing.assert_array_equal(stopped.state_dict()[name], tensor, err_msg=name)
    pd.testing.assert_frame_equal(resumed.frame.drop(columns="seconds"), expected.frame.drop(columns="seconds"))


@given(st.data())
def test_als_solves_the_normal_equations(data):
    """After a sweep every item's row is a ridge regression on the users' rows, the objective is the dense one."""
    ratings, l2 = data.draw(problems()), data.draw(st.sampled_from([0.01, 0.3, 2.0]))
    model = data.draw(models(ratings))
    start = data.draw(st.sampled_from(["random", "spectral", "model"]))
    history = good(mfkit.fit_als, model, ratings, l2=l2, sweeps=3, start=start, dtype=torch.float64)
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(history))
    close(history[-1], full_objective(model, ratings, TrainConfig(l2=l2)), rtol=1e-6)
    (U, V, b, c), D = tables(model), dense(ratings)
    X = np.hstack([U, np.ones_like(b)]) if model.user_bias is not None else U
    q = np.hstack([V, c]) if model.user_bias is not None else V
    for j in range(ratings.n_items):
        rows = X[D.W[:, j] > 0]
        target = (D.R[:, [j]] - model.mean.item()) / model.scale.item() - b
        wanted = rows.T @ target[D.W[:, j] > 0]
        close((rows.T @ rows + l2 * len(rows) * np.eye(X.shape[1])) @ q[[j]].T, wanted, atol=1e-6)


@given(problems(), st.integers(0, 2**40), st.sampled_from(["rating", "user"]), st.integers(1, 9))
def test_parts_and_batches_are_partitions(ratings, seed, by, size):
    try:
        parts = good(ratings.split, (0.5, 0.3, 0.2), seed, by=by)
    except ValueError as error:  # too few ratings for three parts
        assert "leave no part empty" in str(error)
        parts = []
    generator = torch.Generator().manual_seed(seed)
    batches = list(good(ratings.batches, size, generator))
    assert [len(users) for users, _, _ in batches[:-1]] == [size] * (len(batches) - 1)
    for columns in ([part.columns for part in parts], batches):
        if columns:
            together = [torch.cat(column).tolist() for column in zip(*columns, strict=True)]
            whole = [column.tolist() for column in ratings.columns]
            assert sorted(zip(*together, strict=True)) == sorted(zip(*whole, strict=True))


@given(problems(), st.sampled_from([str, int, lambda k: k * 2**40 - 3]), st.randoms(use_true_random=False))
def test_a_table_comes_back_with_its_ids(ratings, kind, random):
    D = dense(ratings)
    names = random.sample(range(50), 7)
    frame = pd.DataFrame({"item": [kind(names[j]) for j in D.items], "user": [kind(names[i]) for i in D.users]})
    frame["rating"] = D.values
    read = good(Ratings.from_frame, frame)
    assert list(read.user_ids[read.users.numpy()]) == list(frame["user"])
    assert list(read.item_ids[read.items.numpy()]) == list(frame["item"])
    assert list(read.user_ids) == sorted(set(frame["user"])) and read.values.tolist() == D.values.tolist()
    close([read.mean, read.std], [D.values.mean(), D.values.std()], atol=1e-12)
    rows = random.choices(range(len(read)), k=3)
    assert good(read.take, rows).values.tolist() == D.values[rows].tolist()
    assert good(read.with_values, -D.values).values.tolist() == (-D.values).tolist()


@given(problems())
def test_collapse_and_top_mode_are_singular_values(ratings):
    D, N = dense(ratings), len(ratings)
    top = np.linalg.svd(D.R, compute_uv=False)[0]
    weights = 1 / np.sqrt(np.outer(D.W.sum(1).clip(1), D.W.sum(0).clip(1)))
    close(good(predict.collapse_l2, ratings, "per_table"), top / N, atol=1e-9)
    close(good(predict.collapse_l2, ratings), np.linalg.svd(D.R * weights, compute_uv=False)[0], atol=1e-9)
    close(good(predict.top_mode, ratings, 0.0)[0], top, atol=1e-9)
    design = np.zeros((N, sum(D.W.shape)))
    design[np.arange(N), D.users] = design[np.arange(N), len(D.W) + D.items] = 1
    centred = D.values - D.values.mean()

    def rest(l2):
        """R less its mean and biases, which minimise the sum of e^2 + l2 (b^2 + c^2): dense least squares."""
        penalty = np.diag(math.sqrt(l2) * np.sqrt(design.sum(0)))
        solved = np.linalg.lstsq(np.vstack([design, penalty]), np.r_[centred, np.zeros(len(penalty))], rcond=None)[0]
        left = np.zeros_like(D.R)
        left[D.users, D.items] = centred - design @ solved
        return left

    close(good(predict.bias_residual, ratings, 0.3), rest(0.3)[D.users, D.items], atol=1e-6)
    residual = good(predict.collapse_l2, ratings, residual=True, scale=1.0)
    close(np.linalg.svd(rest(residual) * weights, compute_uv=False)[0], residual, rtol=1e-3, atol=1e-6)


@given(problems(least=2), st.integers(1, 5), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_sharpness_formulas(ratings, d, scale, biases):
    D, N = dense(ratings), len(ratings)
    s1 = np.linalg.svd(np.where(D.W > 0, D.R - D.values.mean(), 0), compute_uv=False)[0]
    hits = max(D.W.sum(0).max(), D.W.sum(1).max())
    K = scale**2 * (d + 2 + hits) + 2 * s1
    wanted = 2 * (np.hypot(K, 1 + hits) if biases else K) / N
    close(good(predict.sharpness, ratings, d, scale, biases=biases), wanted, rtol=1e-6, atol=1e-9)
    lr = good(predict.max_stable_lr, ratings, d, scale, reduction="sum", biases=biases)
    assert lr == math.inf if wanted < 1e-9 else lr == pytest.approx(2 / wanted / N)


@given(st.data())
def test_measured_sharpness_is_the_hessian_s_largest_eigenvalue(data):
    ratings, config = data.draw(problems()), TrainConfig.textbook(l2=data.draw(st.sampled_from([0.0, 0.3])))
    model = data.draw(models(ratings))
    names, values = zip(*model.named_parameters(), strict=True)

    def f(*tables):
        users, items, target = ratings.columns
        rows = dict(zip(names, tables, strict=True))
        ids = {name: items if name.startswith("item") else users for name in names}
        read = [rows[name][ids[name]] for name in names]
        out = torch.func.functional_call(model, rows, (users, items))
        e = (out - target) / model.scale
        return (e.square().sum() + config.l2 * sum(row.square().sum() for row in read)) / len(target)

    blocks = torch.autograd.functional.hessian(f, values)
    sizes = [value.numel() for value in values]
    rows = [
        torch.cat([x.reshape(a, b) for x, b in zip(row, sizes, strict=True)], 1)
        for row, a in zip(blocks, sizes, strict=True)
    ]
    wanted = torch.linalg.eigvalsh(torch.cat(rows))[-1]
    close(good(measure.sharpness, model, ratings, config), wanted, rtol=1e-3, atol=1e-6)


@given(st.floats(0.05, 5))
def test_huber_efficiency_is_the_ratio_of_two_integrals(k):
    normal = scipy.stats.norm.pdf
    slope, _ = scipy.integrate.quad(normal, -k, k)
    inside, _ = scipy.integrate.quad(lambda x: x**2 * normal(x), -k, k)
    outside, _ = scipy.integrate.quad(normal, k, math.inf)
    square = inside + 2 * k**2 * outside
    close(good(predict.huber_efficiency, k), slope**2 / square, rtol=1e-5)


@given(vectors, st.floats(0.01, 1e3), st.sampled_from(["mse", "torch"]), st.randoms(use_true_random=False))
def test_losses(x, delta, scale, random):
    prediction = torch.tensor(x, dtype=torch.float64)
    target = torch.tensor(random.sample(x, len(x)), dtype=torch.float64)
    e = (prediction - target).numpy()
    close(good(losses.mse, prediction, target), e**2)
    close(good(losses.mae, prediction, target), np.abs(e))
    wanted = scipy.special.huber(delta, e) * (2 if scale == "mse" else 1)
    close(good(losses.huber, prediction, target, delta, scale), wanted, rtol=1e-9, atol=1e-9)
    for p in (1, 2):
        close(good(losses.power_sum, [prediction, target], p), sum(np.abs(y) ** p for y in [*x, *x]), rtol=1e-9)


@given(vectors, st.floats(0, 1e3))
def test_prox_is_soft_thresholding(x, t):
    tensor = torch.tensor(x, dtype=torch.float64)
    good(optimizers.prox_l1_, [tensor], [t])
    close(tensor, np.sign(x) * np.maximum(np.abs(x) - t, 0), atol=1e-9)


@given(st.data(), st.floats(1e-3, 1e2))
def test_clipping_is_torch_s_for_sparse_gradients_too(data, max_norm):
    ids = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=8)))
    made = []
    for sparse in (False, True):
        table = nn.Embedding(5, 2, sparse=sparse, _weight=torch.arange(10.0).reshape(5, 2))
        table(ids).square().sum().backward()
        made.append(table.weight)
    ours = good(clipping.clip_grad_norm_, [made[1]], max_norm)
    close(ours, nn.utils.clip_grad_norm_([made[0]], max_norm), rtol=1e-5)
    close(made[1].grad.to_dense(), made[0].grad, rtol=1e-5, atol=1e-7)
    close(good(clipping.grad_norm, [made[1]]), made[0].grad.norm(), rtol=1e-4)


def two_tables(data):
    """One start, a list of batches (ids, gradients of the rows read), as a dense and as a sparse table."""
    start = torch.arange(8.0, dtype=torch.float64).reshape(4, 2) / 4 - 1
    ids = st.lists(st.integers(0, 3), min_size=1, max_size=4)
    batches = [torch.tensor(x) for x in data.draw(st.lists(ids, min_size=1, max_size=8))]
    return [nn.Embedding(4, 2, sparse=sparse, _weight=start.clone()) for sparse in (False, True)], batches


@given(st.data(), st.sampled_from([0.0, 0.9]), st.sampled_from([0.0, 0.3]))
def test_row_sgd_is_torch_s_dense_sgd(data, momentum, weight_decay):
    (dense_table, table), batches = two_tables(data)
    settings = dict(lr=0.1, momentum=momentum, weight_decay=weight_decay)
    theirs, ours = torch.optim.SGD([dense_table.weight], **settings), optimizers.RowSGD([table.weight], **settings)
    with ours.watch(table):
        for ids in batches:
            for each, optimizer in ((dense_table, theirs), (table, ours)):
                optimizer.zero_grad()
                (each(ids) - 1).square().sum().backward()
                good(optimizer.step)
    close(table.weight.detach(), dense_table.weight.detach(), atol=1e-9)


@given(st.data(), st.sampled_from([0.0, 0.3]))
def test_row_adam_is_an_adamw_for_each_row(data, weight_decay):
    """The reference: each row is a parameter of its own, with torch's AdamW; where it is not read it only decays."""
    (_, table), batches = two_tables(data)
    ours = optimizers.RowAdam([table.weight], lr=0.1, weight_decay=weight_decay)
    rows = [nn.Parameter(row.clone()) for row in table.weight.detach()]
    theirs = [torch.optim.AdamW([row], lr=0.1, weight_decay=weight_decay) for row in rows]
    with ours.watch(table):
        for ids in batches:
            ours.zero_grad()
            (table(ids) - 1).square().sum().backward()
            good(ours.step)
            for k, (row, optimizer) in enumerate(zip(rows, theirs, strict=True)):
                if k in ids:
                    row.grad = 2 * int((ids == k).sum()) * (row.detach() - 1)
                    optimizer.step()
                else:
                    row.data *= 1 - 0.1 * weight_decay
    close(table.weight.detach(), torch.stack(rows).detach(), atol=1e-9)


@given(st.integers(1, 40), st.floats(0.01, 3), st.integers(0, 2**40))
def test_initializers_have_the_std_they_say(d, std, seed):
    model = mfkit.MatrixFactorization(300, 200, d)
    wanted = [
        (initializers.normal_, {"std": std}, std, std),
        (initializers.scaled_, {"prediction_std": std}, math.sqrt(std) / d**0.25, math.sqrt(std) / d**0.25),
        (initializers.he_, {}, math.sqrt(2 / d), math.sqrt(2 / d)),
        (initializers.xavier_, {}, math.sqrt(2 / (300 + d)), math.sqrt(2 / (200 + d))),
    ]
    for initializer, options, user_std, item_std in wanted:
        good(initializer, model, seed=seed, **options)
        for table, expected in ((model.user_factors, user_std), (model.item_factors, item_std)):
            off = 5 * expected / math.sqrt(2 * table.weight.numel())
            assert abs(table.weight.std().item() - expected) < off and abs(table.weight.mean().item()) < 2 * off
        assert not model.user_bias.weight.any()
    close(good(predict.prediction_std, d, std, 2.0), math.sqrt(d) * std * 2)


@given(problems(least=3))
def test_the_spectral_start_is_a_singular_value_decomposition(ratings):
    """U V' = N A^-1/2 (the best rank d of A^-1/2 R C^-1/2) C^-1/2, where that is unique."""
    D = dense(ratings)
    model = mfkit.MatrixFactorization(*D.R.shape, min(D.R.shape) - 1, mean=0.0, scale=1.0, biases=False).double()
    good(initializers.spectral_, model, ratings, powers=200)
    A, C = (counts + counts.mean() for counts in (D.W.sum(1), D.W.sum(0)))
    scaled = D.R / np.sqrt(np.outer(A, C))
    P, S, Q = np.linalg.svd(scaled)
    d = model.n_factors
    U, V, _, _ = tables(model)
    if S[d - 1] > 1.2 * S[d]:
        wanted = len(D.users) * (P[:, :d] * S[:d]) @ Q[:d] / np.sqrt(np.outer(A, C))
        close(U @ V.T, wanted, atol=1e-5 * max(1, np.abs(wanted).max()))


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 3), st.integers(0, 2**40), st.booleans())
def test_the_reference_problem(m, n, rank, seed, stars):
    ratings, truth = good(mfkit.synthetic, m, n, m * n // 2, rank, 0.0, seed, stars)
    D = dense(ratings)
    wanted = truth.mean + truth.user_bias[:, None] + truth.item_bias + truth.P @ truth.Q.T
    wanted = wanted.round().clip(1, 5) if stars else wanted
    assert D.W.sum() == m * n // 2
    close(D.R, wanted * D.W, atol=1e-5)
    assert stars or good(truth.noise_floor, ratings) < 1e-5
    again, _ = good(mfkit.synthetic, m, n, m * n // 2, rank, 0.0, seed, stars)
    assert all(torch.equal(x, y) for x, y in zip(ratings.columns, again.columns, strict=True))


@given(st.data())
def test_a_posterior_s_mean_and_std(data):
    ratings = data.draw(problems())
    samples = [data.draw(models(ratings, least=1, mean=2.0, scale=3.0)) for _ in range(2)]
    samples[1] = copy.deepcopy(samples[0])
    for parameter in samples[1].parameters():
        parameter.data *= -0.7
    has = samples[0].user_bias is not None
    stacked = []
    for k in (0, 1):
        rows = [np.hstack([tables(s)[k], tables(s)[k + 2]] if has else [tables(s)[k]]) for s in samples]
        stacked.append(torch.from_numpy(np.stack(rows)))
    posterior = mfkit.Posterior(2.0, 3.0, has, *stacked, torch.ones(2))
    users, items, _ = (column.numpy() for column in ratings.columns)
    mean, std = good(posterior.predict, ratings.users, ratings.items, chunk=3)
    drawn = np.stack([all_predictions(s)[users, items] for s in samples])
    close(mean, drawn.mean(0), rtol=1e-6, atol=1e-6)
    close(std, drawn.std(0), rtol=1e-6, atol=1e-6)


@given(st.data(), st.sampled_from(["sgd", "momentum", "adam", "adamw"]))
def test_bytes_are_those_that_a_step_leaves(data, name):
    ratings = data.draw(problems())
    model = data.draw(models(ratings)).float()
    make = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = make[name](model.parameters(), **({"momentum": 0.9} if name == "momentum" else {}))
    predicted = good(predict.state_bytes, model, name)
    users, items, values = ratings.columns
    dry = good(predict.peak_bytes, good(predict.dry_step, model, len(values)))
    assert dry > 0
    (model(users, items) - values).square().mean().backward()
    optimizer.step()
    assert good(measure.state_bytes, model, optimizer) == predicted


numbers = st.floats(-1e6, 1e6)


@given(numbers, numbers, st.floats(0, 2), st.sampled_from(["<", ">", "<=", ">="]))
def test_a_claim_s_verdict(predicted, measured, tolerance, sign):
    near = good(figures.claim, "prediction", "it-is", "It is.", predicted, measured, tolerance)
    assert (near.verdict == "HOLDS") == (abs(measured - predicted) <= tolerance * (abs(predicted) or 1))
    bound = good(figures.claim, "prediction", "it-is", "It is.", (sign, predicted), np.float64(measured))
    assert (bound.verdict == "HOLDS") == eval(f"{measured!r} {sign} {predicted!r}")


def test_a_figure_is_four_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MFKIT_FIGURES", str(tmp_path / "ä b"))
    data = pd.DataFrame({"x": [1.0, math.nan], "y": ["a", "b"]})
    good(
        figures.publish,
        Figure(),
        "99_it",
        data,
        [records.claim("theorem", "it-is", "It is.", 1, 1)],
        "It.",
        config={"lr": np.float32(1)},
    )
    record = json.loads((tmp_path / "ä b" / "99_it.json").read_text(encoding="utf-8"))
    assert record["claims"][0]["verdict"] == "HOLDS" and record["config"] == {"lr": 1.0}
    assert sorted(path.suffix for path in (tmp_path / "ä b").iterdir()) == [".csv", ".json", ".png", ".svg"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "ä b" / "99_it.csv"), data)
