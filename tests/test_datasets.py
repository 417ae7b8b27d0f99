"""The reference problem's law, and MovieLens archives made by hand."""

import functools
import hashlib
import http.server
import itertools
import shutil
import threading
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pooch
import pytest
import torch

from mfkit import datasets, movielens, synthetic
from mfkit.data import Ratings

reference = functools.cache(lambda: synthetic(seed=0))


def test_sizes_and_marginals():
    ratings, _ = reference()
    assert (len(ratings), ratings.n_users, ratings.n_items) == (80_000, 943, 1682)
    assert len((ratings.users * 1682 + ratings.items).unique()) == 80_000
    for ids, size in ((ratings.users, 943), (ratings.items, 1682)):
        counts = np.sort(np.bincount(ids, minlength=size))[::-1]
        assert counts[: size // 10].sum() > 0.3 * 80_000  # a tenth of the rows, far more than a tenth of the ratings


def test_spread_is_the_sum_of_the_parts():
    ratings, truth = reference()
    assert ratings.values.std().item() == pytest.approx(np.sqrt(0.09 + 0.16 + 0.36 + 0.7225), rel=0.04)
    assert ratings.mean == pytest.approx(3.5, abs=0.1)
    assert truth.noise_floor(ratings) == pytest.approx(0.85, rel=0.01)
    interaction = truth.P @ truth.Q.T
    parts = [truth.user_bias.std(), truth.item_bias.std(), interaction.std()]
    assert parts == pytest.approx([0.3, 0.4, 0.6], rel=0.08)
    assert truth.P.shape[1] == truth.Q.shape[1] == 8
    biases = ratings.values.double() - torch.from_numpy(
        3.5 + truth.user_bias[ratings.users] + truth.item_bias[ratings.items]
    )
    assert biases.std().item() == pytest.approx(np.sqrt(0.36 + 0.7225), rel=0.04)


def test_noiseless_and_stars():
    ratings, truth = synthetic(30, 20, 200, rank=2, noise=0.0, seed=1)
    assert truth.noise_floor(ratings) < 1e-6
    assert torch.allclose(truth(ratings).float(), ratings.values)
    stars, same = synthetic(30, 20, 200, rank=2, noise=0.0, seed=1, stars=True)
    assert set(stars.values.tolist()) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert torch.equal(stars.values, ratings.values.double().round().clamp(1, 5).float())
    assert np.array_equal(same.P, truth.P)


def test_a_seed_gives_the_same_data():
    (first, _), (again, _), (other, _) = (synthetic(30, 20, 200, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.users, again.users)
    assert not torch.equal(first.values, other.values)


@pytest.mark.parametrize("exact_cells", [0, 100], ids=["reject-repeats", "exponential-keys"])
def test_both_samplers_draw_one_after_the_other(exact_cells, monkeypatch):
    """Six cells, three draws: inclusion frequencies against the law enumerated over all 120 orders."""
    monkeypatch.setattr(datasets, "EXACT_CELLS", exact_cells)
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.8, 0.2])
    weights, law = np.outer(p, q).ravel(), np.zeros(6)
    for a, b, c in itertools.permutations(range(6), 3):
        chance = weights[a] * weights[b] / (1 - weights[a]) * weights[c] / (1 - weights[a] - weights[b])
        law[[a, b, c]] += chance
    rng, trials = np.random.default_rng(0), 4000
    drawn = [datasets._draw_cells(p, q, 3, rng) for _ in range(trials)]
    assert all(len(set(cells)) == 3 for cells in drawn)
    frequency = np.bincount(np.concatenate(drawn), minlength=6) / trials
    assert (abs(frequency - law) < 4.5 * np.sqrt(law * (1 - law) / trials)).all()
    first = np.bincount([cells[0] for cells in drawn], minlength=6) / trials  # in random order: no trace of the draws
    assert (abs(first - law / 3) < 4.5 * np.sqrt(law / 3 / trials)).all()


def test_both_samplers_agree_where_draws_are_left_over(monkeypatch):
    """Sixteen of 27 cells: rejection draws more than it needs, and must keep the first ones."""
    p, q, rng, trials = np.full(9, 1 / 9), np.array([0.2, 0.3, 0.5]), np.random.default_rng(1), 3000
    frequency = []
    for exact_cells in (0, 100):
        monkeypatch.setattr(datasets, "EXACT_CELLS", exact_cells)
        drawn = np.concatenate([datasets._draw_cells(p, q, 16, rng) for _ in range(trials)])
        frequency.append(np.bincount(drawn, minlength=27) / trials)
    spread = np.sqrt(2 * frequency[1] * (1 - frequency[1]) / trials)
    assert (abs(frequency[0] - frequency[1]) < 4.5 * spread + 1e-3).all()


def test_every_cell_can_be_asked_for(monkeypatch):
    for exact_cells in (0, 100):
        monkeypatch.setattr(datasets, "EXACT_CELLS", exact_cells)
        assert len(synthetic(4, 3, 12, rank=1)[0]) == 12


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_users": 0}, "n_users must be a positive integer, got 0"),
        ({"rank": 2.5}, "rank must be a positive integer, got 2.5"),
        ({"n_users": 2, "n_items": 3, "n_ratings": 7}, r"n_ratings must be at most n_users \* n_items = 6, got 7"),
        ({"noise": -1.0}, "noise must be finite and at least 0, got -1.0"),
        ({"noise": float("nan")}, "noise must be finite and at least 0, got nan"),
    ],
)
def test_synthetic_refuses(options, says):
    with pytest.raises(ValueError, match=says):
        synthetic(**options)


TABLES = {  # four ratings, three users, two items, as each MovieLens edition writes them
    "latest-small": "userId,movieId,rating,timestamp\n7,31,2.5,1\n7,99,3.0,2\n9,31,4.0,3\n12,99,0.5,4\n",
    "100k": "7\t31\t2.5\t1\n7\t99\t3\t2\n9\t31\t4\t3\n12\t99\t0.5\t4\n",
    "10m": "7::31::2.5::1\n7::99::3::2\n9::31::4::3\n12::99::0.5::4\n",
}


def make(folder, monkeypatch, name, table=None):
    """A tiny archive in `folder`, and SOURCES that knows its hash."""
    path, member = folder / f"ml-{name}.zip", datasets.SOURCES[name][1]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, TABLES[name] if table is None else table)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(datasets.SOURCES, name, (digest, member))
    return path, digest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("MFKIT_DATA", str(folder))
    return folder


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_args, **_options):
        raise OSError("no network here")

    monkeypatch.setattr(pooch, "retrieve", refuse)


@pytest.mark.parametrize("name", TABLES)
def test_each_format_without_network(name, cache, offline, monkeypatch):
    make(cache, monkeypatch, name)
    cache.chmod(0o555)  # a read-only folder will do
    ratings = movielens(name)
    assert isinstance(ratings, Ratings)
    assert ratings.user_ids.tolist() == [7, 9, 12]
    assert ratings.item_ids.tolist() == [31, 99]
    held = zip(ratings.users.tolist(), ratings.items.tolist(), ratings.values.tolist(), strict=True)
    assert set(held) == {(0, 0, 2.5), (0, 1, 3.0), (1, 0, 4.0), (2, 1, 0.5)}


def test_every_edition_names_a_hash_and_a_known_layout():
    assert list(datasets.SOURCES) == ["latest-small", "100k", "1m", "10m", "20m", "25m", "32m"]
    for sha256, member in datasets.SOURCES.values():
        assert len(bytes.fromhex(sha256)) == 32
        assert PurePosixPath(member).suffix in datasets.LAYOUTS
    assert len({sha256 for sha256, _ in datasets.SOURCES.values()}) == 7
    assert datasets.BASE_URL == "https://files.grouplens.org/datasets/movielens"


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:60] + b"!" + b[61:], lambda b: b""])
def test_a_damaged_archive_is_named_and_not_kept(damage, cache, offline, monkeypatch):
    path, expected = make(cache, monkeypatch, "100k")
    path.write_bytes(damage(path.read_bytes()))
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"sha256 {expected}, got {actual}"):
        movielens("100k")
    assert not path.exists()
    assert path.with_suffix(".zip.bad").exists()  # nothing is lost
    with pytest.raises(ConnectionError, match=r"no network here"):  # and the damaged file is not taken the next time
        movielens("100k")


def test_an_archive_without_its_table(cache, offline, monkeypatch):
    path, _ = make(cache, monkeypatch, "1m", "")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something/else.txt", "")
    with pytest.raises(ValueError, match=r"must be a zip archive with ml-1m/ratings.dat"):
        datasets.read_archive(path, datasets.SOURCES["1m"][1])
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"must be a zip archive"):
        datasets.read_archive(path, datasets.SOURCES["1m"][1])


def test_unknown_names_list_the_known():
    with pytest.raises(KeyError, match=r"latest-small, 100k, 1m, 10m, 20m, 25m, 32m; got '5m'"):
        movielens("5m")


def test_unreachable_says_what_to_do(cache, monkeypatch):
    monkeypatch.setattr(datasets, "BASE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(ConnectionError, match=r"cannot download http://127.0.0.1:9/ml-100k.zip.*MFKIT_DATA"):
        movielens("100k")
    assert list(cache.iterdir()) == []


@pytest.fixture
def server(tmp_path, monkeypatch):
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    monkeypatch.setattr(datasets, "BASE_URL", f"http://127.0.0.1:{listening.server_port}")
    yield folder
    listening.shutdown()
    listening.server_close()


def test_download_verify_and_cache(server, cache, monkeypatch):
    path, expected = make(server, monkeypatch, "latest-small")
    shutil.rmtree(cache)  # a folder that is not there yet is made
    assert len(movielens("latest-small")) == 4
    assert hashlib.sha256((cache / path.name).read_bytes()).hexdigest() == expected
    path.unlink()
    assert len(movielens("latest-small")) == 4  # from the cache


def test_a_wrong_download_is_not_kept(server, cache, monkeypatch):
    path, expected = make(server, monkeypatch, "latest-small")
    path.write_bytes(b"a newer edition")
    actual = hashlib.sha256(b"a newer edition").hexdigest()
    with pytest.raises(ValueError, match=r"sha256") as info:
        movielens("latest-small")
    assert expected in str(info.value)
    assert actual in str(info.value)
    assert list(cache.iterdir()) == []
