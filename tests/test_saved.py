"""A model in one file: the same again, and nothing but a ValueError for any other file."""

import io

import numpy as np
import pandas as pd
import pytest
import torch

import mfkit
from mfkit import MatrixFactorization, Ratings, files
from mfkit.saved import FIRST_LINE

RATINGS = Ratings.from_frame(
    pd.DataFrame({"user": ["ann", "bob", "ann", "Zoë\n"], "item": [7, 2**40, 2**40, 7], "rating": [1.0, 2, 3, 4]})
)


def fitted(**options):
    model = MatrixFactorization.of(RATINGS, 2, **options)
    mfkit.fit_als(model, RATINGS, l2=0.1, sweeps=2)
    return model


@pytest.mark.parametrize(
    "model",
    [
        fitted(),
        fitted(biases=False),
        fitted(sparse=True),
        fitted().double(),
        MatrixFactorization.of(RATINGS, 0),
        MatrixFactorization(3, 2, 1),
    ],
)
def test_saved_and_loaded_is_the_same_model(model, tmp_path):
    path = tmp_path / "with space ä" / "model.mf"
    path.parent.mkdir()
    state = torch.get_rng_state()
    model.save(path)
    loaded = mfkit.load(path)
    assert torch.equal(state, torch.get_rng_state())
    assert type(loaded) is MatrixFactorization
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert loaded.state_dict()[name].dtype == tensor.dtype
    assert (loaded.n_users, loaded.n_items, loaded.n_factors) == (model.n_users, model.n_items, model.n_factors)
    assert loaded.l2 == model.l2
    for name in ("user_ids", "item_ids"):
        ids, again = getattr(model, name), getattr(loaded, name)
        assert again is None if ids is None else again.tolist() == ids.tolist()
    pairs = ([0, 2], [1, 0])
    assert torch.equal(loaded.predict(*pairs), model.predict(*pairs))
    mfkit.train(loaded, RATINGS, mfkit.TrainConfig(epochs=1))  # goes on as any model


def test_loaded_it_is_asked_by_the_same_ids(tmp_path):
    model = fitted()
    model.save(tmp_path / "model")
    loaded = mfkit.load(str(tmp_path / "model"))
    pd.testing.assert_frame_equal(
        loaded.recommend("ann", 2, exclude=None), model.recommend("ann", 2, exclude=None), check_dtype=False
    )
    assert mfkit.rmse(loaded, RATINGS) == mfkit.rmse(model, RATINGS)
    other = Ratings.from_frame(pd.DataFrame({"user": ["cat"], "item": [7], "rating": [1.0]}))
    with pytest.raises(ValueError, match="must have the same user_ids"):
        mfkit.rmse(loaded, other)


@pytest.mark.parametrize(
    "ids", [np.array([5, 2**64 - 1], np.uint64), np.array([5, -6], np.int32), np.array(["a", "b"])]
)
def test_ids_of_any_kind_come_back(ids, tmp_path):
    ratings = Ratings([0, 1], [0, 0], [1.0, 2.0], 2, 1, ids)
    MatrixFactorization.of(ratings, 1).save(tmp_path / "model")
    loaded = mfkit.load(tmp_path / "model")
    assert loaded.user_ids.tolist() == ids.tolist()
    assert loaded.item_ids is None
    assert mfkit.rmse(loaded, ratings) > 0  # the same numbering


def test_the_ratings_are_not_in_the_file(tmp_path):
    ratings, _ = mfkit.synthetic(50, 40, 1500, rank=2, seed=0)
    model = MatrixFactorization.of(ratings, 1)
    mfkit.fit_als(model, ratings, l2=0.1, sweeps=1)
    model.save(tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    assert ratings.values.numpy().tobytes()[:400] not in content
    assert len(content) < 4 * len(ratings)


class Own(MatrixFactorization):
    pass


def test_refusals_of_save(tmp_path):
    with pytest.raises(TypeError, match="model must be a MatrixFactorization itself to be saved, got a Own"):
        Own(1, 1, 1).save(tmp_path / "model")
    for path in (tmp_path / "nowhere" / "model", tmp_path):
        with pytest.raises(ValueError, match="must be a file's name in a folder that exists"):
            fitted().save(path)


def test_an_old_file_stays_where_saving_fails(tmp_path, monkeypatch):
    path = tmp_path / "model"
    fitted().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        fitted(biases=False).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_every_damaged_byte_is_seen(tmp_path):
    path = tmp_path / "model"
    fitted().save(path)
    whole = path.read_bytes()
    for k in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :])
        with pytest.raises(ValueError, match=r"must be a file that MatrixFactorization.save wrote"):
            mfkit.load(path)
    for k in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:k])
        with pytest.raises(ValueError, match=r"must be a file that MatrixFactorization.save wrote"):
            mfkit.load(path)


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_a_strangers_code_is_not_run(tmp_path, capsys):
    files.write(tmp_path / "evil", FIRST_LINE, Evil())
    with pytest.raises(ValueError, match=r"must hold what MatrixFactorization.save writes"):
        mfkit.load(tmp_path / "evil")
    assert capsys.readouterr().out == ""


def parts_of(model, tmp_path):
    model.save(tmp_path / "good")
    return files.read(tmp_path / "good", FIRST_LINE, "path", "save")


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts.pop("sparse"),
        lambda parts: parts.update(more=1),
        lambda parts: parts.update(sizes=[3, 2]),
        lambda parts: parts.update(sizes=[3, 2, 2.0]),
        lambda parts: parts.update(sizes=[3, 2, -1]),
        lambda parts: parts.update(sizes=[10**12, 2, 2]),
        lambda parts: parts.update(biases="yes"),
        lambda parts: parts.update(l2=float("nan")),
        lambda parts: parts.update(tensors=[1]),
        lambda parts: parts["tensors"].pop("mean"),
        lambda parts: parts["tensors"].update(mean=torch.tensor(float("nan"))),
        lambda parts: parts["tensors"].update(scale=torch.tensor(0.0)),
        lambda parts: parts["tensors"].update(given=torch.tensor([1, 1])),
        lambda parts: parts["tensors"].update({"item_bias.weight": torch.zeros(2)}),
        lambda parts: parts["tensors"].update({"item_bias.weight": torch.zeros(2, 1).double()}),
        lambda parts: parts["tensors"].update({"item_bias.weight": torch.zeros(2, 1).to_sparse()}),
        lambda parts: parts["tensors"].update({"item_bias.weight": [[0.0], [0.0]]}),
        lambda parts: parts["tensors"].update({"user_factors.weight": torch.zeros(3, 2, device="meta")}),
        lambda parts: parts["tensors"].update({"user_factors.weight": torch.zeros(1, 1).expand(3, 2)}),
        lambda parts: parts.update(user_ids='["a", "b"]'),
        lambda parts: parts.update(user_ids='["a", "b", "b"]'),
        lambda parts: parts.update(user_ids='["a", "b", 3]'),
        lambda parts: parts.update(user_ids='["a", "b", null]'),
        lambda parts: parts.update(user_ids='{"a": 1, "b": 2, "c": 3}'),
        lambda parts: parts.update(user_ids='["a", '),
        lambda parts: parts.update(user_ids=3),
        lambda parts: parts.update(user_ids="[" * 100_000),
    ],
)
def test_a_strangers_content_is_refused(change, tmp_path):
    parts = parts_of(fitted(), tmp_path)
    files.write(tmp_path / "same", FIRST_LINE, parts)
    mfkit.load(tmp_path / "same")
    change(parts)
    files.write(tmp_path / "changed", FIRST_LINE, parts)
    with pytest.raises(ValueError, match=r"must hold what MatrixFactorization.save writes, got"):
        mfkit.load(tmp_path / "changed")


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "other"
    with pytest.raises(ValueError, match=r"path=.* must be a file that can be read"):
        mfkit.load(path)
    buffer = io.BytesIO()
    torch.save(fitted().state_dict(), buffer)
    for content in (b"", b"user,item,rating\n", buffer.getvalue(), b"mfkit checkpoint 2\n" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path="):
            mfkit.load(path)
