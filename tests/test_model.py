"""The model against its equation, written densely."""

import numpy as np
import pandas as pd
import pytest
import torch

from mfkit import MatrixFactorization, Ratings


def filled(n_users=9, n_items=7, n_factors=3, **options):
    model = MatrixFactorization(n_users, n_items, n_factors, mean=3.0, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def dense(model):
    """mean + b + c + U V^T, all (m, n) of it."""
    scores = model.mean.expand(model.n_users, model.n_items)
    if model.user_bias is not None:
        scores = scores + model.user_bias.weight + model.item_bias.weight.T
    if model.n_factors:
        scores = scores + model.user_factors.weight @ model.item_factors.weight.T
    return scores.detach()


VARIANTS = [{}, {"biases": False}, {"n_factors": 0}, {"sparse": True}]


def test_by_hand():
    """3 + 0.5 - 1 + (1 * 3 + 2 * -1) = 3.5."""
    model = MatrixFactorization(1, 1, 2, mean=3.0)
    for table, row in (("user_factors", [1, 2]), ("item_factors", [3, -1]), ("user_bias", [0.5]), ("item_bias", [-1])):
        getattr(model, table).weight.data = torch.tensor([row], dtype=torch.float32)
    assert model(torch.tensor([0]), torch.tensor([0])).tolist() == [3.5]


@pytest.mark.parametrize("options", VARIANTS)
def test_forward_and_predict_are_the_equation(options):
    model = filled(**options)
    users, items = torch.cartesian_prod(torch.arange(9), torch.arange(7)).T
    expected = dense(model)[users, items]
    assert torch.allclose(model(users, items), expected, atol=1e-6)
    for chunk in (1, 10, 1000):
        assert torch.allclose(model.predict(users, items, chunk=chunk), expected, atol=1e-6)
    assert not model.predict(users, items).requires_grad
    assert model(users[:, None], items[:, None]).shape == (63, 1)  # not (63, 63)
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "kind", [list, np.array, lambda a: np.array(a, np.uint64), lambda a: pd.Series(a, index=[4, 9])]
)
def test_predict_takes_any_integers(kind):
    model = filled()
    assert torch.allclose(model.predict(kind([8, 0]), kind([6, 1])), dense(model)[[8, 0], [6, 1]], atol=1e-6)
    assert torch.allclose(model.top_k(kind([8, 0]), 1)[0][:, 0], dense(model)[[8, 0]].amax(1), atol=1e-6)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_top_k_is_the_dense_sort_without_the_excluded(options, chunk):
    model, users = filled(**options), torch.tensor([4, 0, 8, 4, 2])  # a user may be asked for twice
    seen = Ratings([4, 4, 0, 3, 8], [0, 5, 1, 2, 6], [1.0] * 5, 9, 7)
    scores = dense(model)
    assert torch.allclose(model.top_k(users, 3, chunk=chunk)[0], scores[users].topk(3).values, atol=1e-6)
    scores[seen.users, seen.items] = -torch.inf
    predictions, items = model.top_k(users, 6, exclude=seen, chunk=chunk)
    assert torch.equal(items, scores[users].topk(6).indices)
    assert torch.allclose(predictions, scores[users].topk(6).values, atol=1e-6)
    assert predictions[0, -1] == -torch.inf  # 5 items were left, 6 wanted


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: m.predict([0, 9], [0, 0]), IndexError, r"users must lie in \[0, 9\), the model.s rows, got 9"),
        (lambda m: m.predict([0], [-1]), IndexError, r"items must lie in \[0, 7\), the model.s rows, got -1"),
        (lambda m: m.predict([0, 1], [0]), ValueError, "must have one length, got 2 and 1"),
        (lambda m: m.predict([[0]], [[0]]), ValueError, r"users must have shape \(N,\), got \(1, 1\)"),
        (lambda m: m.predict([0.5], [0]), TypeError, "users must be integers, got dtype torch.float64"),
        (lambda m: m.predict([0], [0], chunk=0), ValueError, "chunk must be an integer of at least 1, got 0"),
        (lambda m: m.predict(["a"], [0]), TypeError, r"users must be .*'a'; want row numbers: model.user_rows\(ids\)"),
        (lambda m: m.predict([0], "a"), TypeError, r"items must be .*model.item_rows\(ids\) .* model.item_ids"),
        (lambda m: m.predict([0], [0], clip=(5, 1)), ValueError, r"clip must be \(lowest, highest\) rating"),
        (lambda m: m.top_k([0], 1, clip=5), ValueError, r"clip must be \(lowest, highest\) rating, got 5"),
        (lambda m: m.top_k(None, 1), TypeError, "users must be .*None"),
        (lambda m: m.top_k([9], 1), IndexError, r"users must lie in .*got 9"),
        (lambda m: m.top_k([0.0], 1), TypeError, "users must be integers"),
        (lambda m: m.top_k([0], 8), ValueError, r"k must lie in \[1, n_items\] = \[1, 7\], got 8"),
        (lambda m: m.top_k([0], 0), ValueError, "k must be an integer of at least 1, got 0"),
        (
            lambda m: m.top_k([0], 1, exclude=Ratings([0], [7], [1.0], 9, 8)),
            IndexError,
            "exclude.items must lie in .*got 7",
        ),
    ],
)
def test_refusals(call, error, says):
    with pytest.raises(error, match=says):
        call(filled())


def test_clip_moves_predictions_into_the_rating_range_and_leaves_the_order():
    model, seen = filled(), Ratings([0, 0, 1], [2, 3, 0], [1.0] * 3, 9, 7)
    users, items = torch.cartesian_prod(torch.arange(9), torch.arange(7)).T
    expected = dense(model)[users, items].clamp(2.5, 3.5)
    assert torch.allclose(model.predict(users, items, clip=(2.5, 3.5)), expected, atol=1e-6)
    plain, clipped = model.top_k([0, 1], 7, exclude=seen), model.top_k([0, 1], 7, exclude=seen, clip=(2.5, 3.5))
    assert torch.equal(plain[1], clipped[1])
    assert torch.equal(clipped[0][:, :5], plain[0][:, :5].clamp(2.5, 3.5))
    assert torch.equal(clipped[0].isinf(), plain[0].isinf())  # what is left out stays out
    assert clipped[0].isinf().sum() == 3


def test_predict_leaves_a_model_as_it_was():
    model = filled()
    model.user_factors = torch.nn.Embedding(9, 3, max_norm=0.1)  # rescales the rows that it reads
    before = model.user_factors.weight.clone()
    small = before * (0.1 / before.norm(dim=1, keepdim=True))
    model.item_factors.weight.data.fill_(1.0)
    biases = model.user_bias.weight[:, 0] + model.item_bias.weight[0]
    expected = 3 + biases + small.sum(1)
    assert torch.allclose(model.predict(torch.arange(9), [0] * 9), expected, atol=1e-5)
    assert torch.equal(model.user_factors.weight, before)


def test_meeting_ratings_clears_the_factors_of_rows_that_no_fit_has_met():
    model = filled()
    before = model.user_factors.weight.clone()
    model.meet(Ratings([0, 2], [1, 3], [1.0, 2.0], 9, 7), clear=False)
    assert torch.equal(model.user_factors.weight, before)
    model.meet(Ratings([4, 4], [1, 0], [1.0, 2.0], 9, 7))
    kept = torch.tensor([True, False, True, False, True, False, False, False, False])
    assert torch.equal(model.user_seen, kept)
    assert torch.equal(model.user_factors.weight, before * kept[:, None])
    assert model.item_seen.nonzero()[:, 0].tolist() == [0, 1, 3]
    frozen = filled()
    frozen.item_factors.weight.requires_grad_(False)
    items = frozen.item_factors.weight.clone()
    frozen.meet(Ratings([0], [0], [1.0], 9, 7))
    assert torch.equal(frozen.item_factors.weight, items)


def test_of_takes_sizes_units_and_ids_from_the_ratings():
    frame = pd.DataFrame({"user": ["b", "a", "a"], "item": [30, 10, 30], "rating": [1.0, 2.0, 6.0]})
    ratings = Ratings.from_frame(frame)
    model = MatrixFactorization.of(ratings, n_factors=4, biases=False)
    assert (model.n_users, model.n_items, model.n_factors, model.user_bias) == (2, 2, 4, None)
    assert model.mean.item() == 3.0
    assert model.scale.item() == pytest.approx(np.std([1, 2, 6]))
    assert model.given.all()
    assert model.user_ids.tolist() == ["a", "b"]
    assert model.item_ids.tolist() == [10, 30]
    assert MatrixFactorization.of(ratings, mean=1.0, scale=2.0).scale.item() == 2.0
    assert MatrixFactorization.of(ratings.with_values(torch.ones(3))).scale.item() == 1.0
    plain = MatrixFactorization.of(Ratings([0], [1], [1.0], 2, 3))
    assert (plain.n_users, plain.n_items, plain.n_factors, plain.user_ids) == (2, 3, 20, None)
    with pytest.raises(TypeError, match="ratings must be a Ratings"):
        MatrixFactorization.of(frame)


def test_nothing_asked_nothing_given():
    model = filled()
    assert model.predict([], []).shape == (0,)
    assert model.top_k([], 2)[1].shape == (0, 2)


@pytest.mark.parametrize(
    ("sizes", "options", "says"),
    [
        ((0, 5, 2), {}, "n_users must be an integer of at least 1, got 0"),
        ((5, 5, -1), {}, "n_factors must be an integer of at least 0, got -1"),
        ((5, 2.5, 1), {}, "n_items must be an integer of at least 1, got 2.5"),
        ((5, 5, 2.0), {}, "n_factors must be an integer of at least 0, got 2.0"),
        ((5, "5", 2), {}, "n_items must be an integer of at least 1, got '5'"),
        ((5, 5, 0), {"biases": False}, "n_factors=0 with biases=False"),
        ((5, 5, 1), {"mean": float("nan")}, "mean must be a finite number, got nan"),
    ],
)
def test_sizes_that_make_no_model(sizes, options, says):
    with pytest.raises(ValueError, match=says):
        MatrixFactorization(*sizes, **options)


def test_numpy_sizes_and_the_mean_that_travels_with_the_state():
    model = MatrixFactorization(np.int64(3), np.int32(4), np.int64(2), mean=torch.tensor(2.5))
    assert model.state_dict()["mean"] == 2.5
    assert [p.numel() for p in model.parameters()] == [6, 8, 3, 4]
    assert model.double()(torch.tensor([0]), torch.tensor([0])).dtype == torch.float64


def test_sparse_gradients_touch_only_the_batch():
    model = filled(sparse=True)
    model(torch.tensor([1, 1]), torch.tensor([2, 3])).sum().backward()
    assert model.user_factors.weight.grad.is_sparse
    assert model.item_bias.weight.grad.coalesce().indices().tolist() == [[2, 3]]
