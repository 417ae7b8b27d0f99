"""A model asked by the ids of somebody's own table, against numpy; the README's six lines."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

import mfkit
from mfkit import MatrixFactorization, Ratings, repository
from mfkit.als import Problem

README = (repository.root() / "README.md").read_text(encoding="utf-8")


def own_table(n_ratings=900):
    """Thirty users u_0 ..., forty items i_0 ..., each with ratings; in no order."""
    ratings, _ = mfkit.synthetic(30, 40, n_ratings, rank=2, seed=0, stars=True)
    table = pd.DataFrame({"user": ratings.users, "item": ratings.items, "rating": ratings.values})
    table["user"], table["item"] = "u_" + table["user"].astype(str), "i_" + table["item"].astype(str)
    return table.sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def ratings():
    return Ratings.from_frame(own_table())


@pytest.fixture(scope="module")
def model(ratings):
    made = MatrixFactorization.of(ratings, n_factors=3)
    mfkit.fit_als(made, ratings, l2=0.1)
    return made


@pytest.fixture(scope="module")
def numbers(model):
    """U (m, d), V (n, d), b (m,), c (n,), mean, scale, float64."""
    tables = (model.user_factors, model.item_factors, model.user_bias, model.item_bias)
    U, V, b, c = (table.weight.detach().double().numpy() for table in tables)
    return U, V, b[:, 0], c[:, 0], model.mean.item(), model.scale.item()


def test_recommend_is_the_sorted_table_without_what_was_rated(model, ratings, numbers):
    U, V, b, c, mean, scale = numbers
    table, row = own_table(), list(model.user_ids).index("u_7")
    scores = pd.Series(mean + scale * (b[row] + c + V @ U[row]), index=model.item_ids)
    unrated = scores.drop(table[table["user"] == "u_7"]["item"]).sort_values(ascending=False)
    found = model.recommend("u_7", k=5, exclude=ratings)
    assert list(found.columns) == ["item", "prediction"]
    assert found["item"].tolist() == unrated.index[:5].tolist()
    assert found["prediction"].to_numpy() == pytest.approx(unrated.to_numpy()[:5], abs=1e-5)
    everything = model.recommend("u_7", k=1000, exclude=ratings)
    assert set(everything["item"]) == set(unrated.index)  # fewer than asked for, and none twice
    assert model.recommend("u_7", k=40, exclude=None)["item"].nunique() == len(scores)
    assert model.recommend("u_7", k=5, exclude=ratings, clip=(1, 3))["prediction"].max() <= 3


def test_similar_is_the_cosine(model, numbers):
    V = numbers[1]
    row = list(model.item_ids).index("i_3")
    cosine = pd.Series(V @ V[row] / np.linalg.norm(V, axis=1) / np.linalg.norm(V[row]), index=model.item_ids)
    expected = cosine.drop("i_3").sort_values(ascending=False)
    found = model.similar("i_3", k=4)
    assert found["item"].tolist() == expected.index[:4].tolist()
    assert found["similarity"].to_numpy() == pytest.approx(expected.to_numpy()[:4], abs=1e-5)
    assert len(model.similar("i_3", k=1000)) == len(expected)


def test_items_without_factors_are_similar_to_nothing():
    empty = MatrixFactorization(2, 3, 2)
    empty.item_factors.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    assert empty.similar(0, k=2)["item"].tolist() == [2]
    assert empty.similar(0, k=2)["similarity"].tolist() == pytest.approx([0.6])
    with pytest.raises(ValueError, match="item must have factors to be compared, got 1"):
        empty.similar(1)
    with pytest.raises(ValueError, match="got n_factors=0"):
        MatrixFactorization(2, 3, 0).similar(0)


@pytest.mark.parametrize("biases", [True, False])
def test_somebody_new_gets_the_row_that_alternating_least_squares_gives(ratings, biases):
    """One half sweep with the items held is what every user's own ratings, folded in, come to."""
    model = MatrixFactorization.of(ratings, n_factors=3, biases=biases)
    mfkit.fit_als(model, ratings, l2=0.1)
    problem = Problem(
        model, ratings, mean=model.mean.item(), scale=model.scale.item(), dtype=torch.float64, max_bytes=None
    )
    problem.read(model)
    counts = problem.sides[0].counts[:, None].double()
    problem.half_sweep(0, 0.1 * counts)
    for user in (0, 7, 29):
        own = ratings.take(ratings.users == user)
        guest = model.fold_in(model.item_ids[own.items], own.values)
        assert torch.allclose(guest.z, problem.tables[0][user], atol=1e-6)


def test_fold_in_by_hand():
    """Item factors 1 and 2, biases 0 and 1, mean 3, scale 2: X = [[1, 1], [2, 1]], y = (5 - 3)/2 - 0, (1 - 3)/2 - 1."""
    model = MatrixFactorization(1, 3, 1, mean=3.0, scale=2.0)
    model.item_factors.weight.data = torch.tensor([[1.0], [2.0], [-1.0]])
    model.item_bias.weight.data = torch.tensor([[0.0], [1.0], [0.5]])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    X, y = np.array([[1.0, 1.0], [2.0, 1.0]]), np.array([1.0, -2.0])
    for l2 in (0.0, 0.05):
        u, b = np.linalg.solve(X.T @ X + l2 * 2 * np.eye(2), X.T @ y)
        guest = model.fold_in([0, 1], [5, 1], l2=l2)
        assert guest.z.numpy() == pytest.approx([u, b])
        assert guest.predict([2, 0]).tolist() == pytest.approx([3 + 2 * (0.5 + b - u), 3 + 2 * (b + u)], abs=1e-5)
        assert guest.recommend().to_dict("list") == {
            "item": [2],
            "prediction": [pytest.approx(3 + 2 * (0.5 + b - u), abs=1e-5)],
        }
        assert guest.recommend(clip=(1, 5))["prediction"].tolist() == [5.0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    alone = model.fold_in([1], [1], l2=0)  # one rating, two unknowns: the smallest row that fits it
    assert alone.predict([1]).item() == pytest.approx(1, abs=1e-5)
    assert alone.z.numpy() == pytest.approx(np.linalg.pinv(X[1:]) @ y[1:])


def test_a_model_of_biases_alone_folds_in():
    model = MatrixFactorization(1, 2, 0, mean=3.0)
    guest = model.fold_in([0], [5], l2=1.0)
    assert guest.z.tolist() == pytest.approx([1.0])  # 2 / (1 + 1)
    assert guest.recommend(1)["prediction"].tolist() == pytest.approx([4.0])


def test_rows_of_ids_are_what_predict_takes(model, numbers):
    users, items = model.user_rows(["u_7", "u_0"]), model.item_rows(pd.Series(["i_3", "i_39"]))
    assert model.user_ids[users].tolist() == ["u_7", "u_0"]
    U, V, b, c, mean, scale = numbers
    expected = mean + scale * (b[users] + c[items] + (U[users] * V[items]).sum(1))
    assert model.predict(users, items).numpy() == pytest.approx(expected, abs=1e-5)
    assert model.user_rows([]).tolist() == []


@pytest.mark.parametrize("ids", [[10, 1, 20], np.array([10, 1, 20], np.uint64), [2**63 - 1, -5, 2**62]])
def test_integers_as_ids(ids):
    ratings = Ratings([0, 1, 2], [0, 0, 1], [1.0, 2.0, 3.0], 3, 2, np.asarray(ids), np.array(["x", "y"]))
    model = MatrixFactorization.of(ratings, 2)
    assert model.user_rows(ids).tolist() == [0, 1, 2]
    assert model.user_rows([np.int64(ids[1])]).tolist() == [1]
    for strange in (0, str(ids[0]), None, 1.5, True, float("nan"), 2**70):
        with pytest.raises(KeyError, match=r"user must be one of model.user_ids, such as"):
            model.recommend(strange, 1, exclude=None)


def test_without_ids_the_rows_are_the_ids():
    model = MatrixFactorization(3, 2, 1)
    assert model.recommend(2, exclude=None)["item"].tolist() == model.top_k([2], 2)[1][0].tolist()
    for strange in (3, -1, "2"):
        with pytest.raises(KeyError, match="a row number below 3, as this model has no ids"):
            model.recommend(strange, exclude=None)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: m.recommend("u_99", exclude=None), KeyError, "user must be one of model.user_ids, .*'u_0'.*'u_99'"),
        (lambda m: m.recommend(["u_7"], exclude=None), TypeError, r"user must be an id.*\['u_7'\]"),
        (lambda m: m.recommend("u_7"), TypeError, "exclude"),
        (lambda m: m.recommend("u_7", exclude=own_table()), TypeError, "exclude must be a Ratings"),
        (lambda m: m.recommend("u_7", 0, exclude=None), ValueError, "k must be an integer of at least 1, got 0"),
        (lambda m: m.similar("u_7"), KeyError, "item must be one of model.item_ids, .*'i_0'.*'u_7'"),
        (lambda m: m.similar("i_3", k="all"), ValueError, "k must be an integer of at least 1, got 'all'"),
        (lambda m: m.user_rows("u_7"), TypeError, "users must be a list of ids, got 'u_7'"),
        (lambda m: m.fold_in("i_3", [5]), TypeError, "items must be a list of ids, got 'i_3'"),
        (lambda m: m.fold_in(["i_3"], [5, 4]), ValueError, r"ratings must be one finite number an item, 1 in all"),
        (lambda m: m.fold_in(["i_3"], [np.inf]), ValueError, "ratings must be one finite number an item"),
        (lambda m: m.fold_in([], []), ValueError, "ratings must be one finite number an item"),
        (lambda m: m.fold_in(["i_3"], ["5"]), TypeError, "ratings must be a vector of numbers"),
        (lambda m: m.fold_in(["i_3", "i_3"], [5, 4]), ValueError, "items must name each item once"),
        (lambda m: m.fold_in(["i_3"], [5], l2=-1), ValueError, "l2 must be a finite number of at least 0, got -1"),
        (lambda m: MatrixFactorization(1, 1, 1).fold_in([0], [5]), ValueError, "l2 must be given for a model whose"),
        (lambda m: m.fold_in(["i_3"], [5]).predict(["x"]), KeyError, "item must be one of model.item_ids"),
        (lambda m: m.fold_in(["i_3"], [5]).recommend(0), ValueError, "k must be an integer of at least 1, got 0"),
    ],
)
def test_refusals(model, call, error, says):
    with pytest.raises(error, match=says):
        call(model)


def test_asking_changes_nothing(model, ratings):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    model.recommend("u_7", exclude=ratings)
    model.similar("i_3")
    model.fold_in(["i_3"], [5]).recommend()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_six_lines_of_the_readme(tmp_path, monkeypatch):
    section = README.partition("## Your own ratings in six lines")[2].partition("\n## ")[0]
    block, more = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    lines = [line for line in block.splitlines() if line and not line.startswith("import ")]
    assert len(lines) == 6
    table = own_table()
    table.to_csv(tmp_path / "ratings.csv", index=False)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    model, ratings = names["model"], names["ratings"]
    rated = set(table[table["user"] == "u_7"]["item"])
    found = model.recommend("u_7", k=10, exclude=ratings)
    assert len(found) == 10 - max(0, 10 - (table["item"].nunique() - len(rated)))
    assert not rated & set(found["item"])
    assert mfkit.rmse(model, ratings) < ratings.std
    exec(more, names)
