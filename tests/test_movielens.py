"""MovieLens archives made by hand: read, verified, downloaded, refused."""

import functools
import hashlib
import http.server
import shutil
import sys
import threading
import zipfile
from pathlib import PurePosixPath

import pooch
import pytest

from mfkit import movielens
from mfkit.data import Ratings

module = sys.modules["mfkit.movielens"]  # mfkit.movielens is the function

TABLES = {  # four ratings, three users, two items, as each MovieLens edition writes them
    "latest-small": "userId,movieId,rating,timestamp\n7,31,2.5,1\n7,99,3.0,2\n9,31,4.0,3\n12,99,0.5,4\n",
    "100k": "7\t31\t2.5\t1\n7\t99\t3\t2\n9\t31\t4\t3\n12\t99\t0.5\t4\n",
    "10m": "7::31::2.5::1\n7::99::3::2\n9::31::4::3\n12::99::0.5::4\n",
}


def make(folder, monkeypatch, name, table=None):
    """A tiny archive in `folder`, and SOURCES that knows its hash."""
    path, member = folder / f"ml-{name}.zip", module.SOURCES[name][1]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, TABLES[name] if table is None else table)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(module.SOURCES, name, (digest, member))
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
    assert list(module.SOURCES) == ["latest-small", "100k", "1m", "10m", "20m", "25m", "32m"]
    for sha256, member in module.SOURCES.values():
        assert len(bytes.fromhex(sha256)) == 32
        assert PurePosixPath(member).suffix in module.LAYOUTS
    assert len({sha256 for sha256, _ in module.SOURCES.values()}) == 7
    assert module.BASE_URL == "https://files.grouplens.org/datasets/movielens"


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
        module.read_archive(path, module.SOURCES["1m"][1])
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"must be a zip archive"):
        module.read_archive(path, module.SOURCES["1m"][1])


def test_a_table_too_large_for_any_edition_is_not_unpacked(cache, offline, monkeypatch):
    path, _ = make(cache, monkeypatch, "1m", "1::2::3::4")
    monkeypatch.setattr(module, "LARGEST", 9)
    with pytest.raises(ValueError, match=r"must hold a ml-1m/ratings.dat of at most 9 bytes, got 10"):
        module.read_archive(path, module.SOURCES["1m"][1])


def test_a_bomb_under_the_right_name_is_known_by_its_hash_and_not_opened(cache, offline, monkeypatch):
    path, _ = make(cache, monkeypatch, "1m", "1::2::3::4")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(module.SOURCES["1m"][1], b"0" * 10_000_000)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(ValueError, match=r"must have sha256"):
        movielens("1m")


def test_unknown_names_list_the_known():
    with pytest.raises(KeyError, match=r"latest-small, 100k, 1m, 10m, 20m, 25m, 32m; got '5m'"):
        movielens("5m")


def test_unreachable_says_what_to_do(cache, monkeypatch):
    monkeypatch.setattr(module, "BASE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
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
    monkeypatch.setattr(module, "BASE_URL", f"http://127.0.0.1:{listening.server_port}")
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
