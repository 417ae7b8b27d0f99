"""The official MovieLens files: downloaded once, verified each time, parsed in memory."""

import hashlib
import io
import os
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pandas as pd

from mfkit import repository
from mfkit.data import Ratings

BASE_URL = "https://files.grouplens.org/datasets/movielens"
SOURCES = {  # of ml-<name>.zip: the archive's sha256, and the table in it, whose suffix says how it is written
    "latest-small": ("696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436", "ml-latest-small/ratings.csv"),
    "100k": ("50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229", "ml-100k/u.data"),
    "1m": ("a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20", "ml-1m/ratings.dat"),
    "10m": ("813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862", "ml-10M100K/ratings.dat"),
    "20m": ("96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3", "ml-20m/ratings.csv"),
    "25m": ("8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa", "ml-25m/ratings.csv"),
    "32m": ("e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee", "ml-32m/ratings.csv"),
}
LARGEST = 2**31  # bytes of a table; the largest edition's has 0.9e9
LAYOUTS = {
    ".csv": {"sep": ",", "header": 0, "usecols": [0, 1, 2]},
    ".data": {"sep": "\t", "header": None, "usecols": [0, 1, 2]},
    ".dat": {"sep": ":", "header": None, "usecols": [0, 2, 4]},  # "::"; the fast parser takes one character only
}


def movielens(name: str) -> Ratings:
    """An official MovieLens set: "latest-small", "100k", "1m", "10m", "20m", "25m" or "32m".

    Downloaded from GroupLens on first use into `data_dir()`, its sha256 verified each time, parsed in memory; a
    verified archive that is there already needs no network. Original ids are kept. Raises KeyError for
    an unknown name, ValueError for a file that is not the expected one, ConnectionError where it cannot be had.
    """
    return read_archive(fetch(name), SOURCES[name][1])


def data_dir() -> Path:
    """Where archives are kept: $MFKIT_DATA, or data/ in the repository, or the user's cache."""
    if given := os.environ.get("MFKIT_DATA"):
        return Path(given).expanduser()
    import pooch  # here, because it imports tqdm's notebook bar, which warns where there are no widgets

    checkout = repository.find()
    return checkout / "data" if checkout else Path(pooch.os_cache("mfkit"))


def fetch(name: str) -> Path:
    """The verified archive of a MovieLens set on disk, downloaded where it is missing; errors as `movielens`."""
    if not isinstance(name, str) or name not in SOURCES:
        raise KeyError(f"name must be one of {', '.join(SOURCES)}; got {name!r}")
    path, (sha256, _) = data_dir() / f"ml-{name}.zip", SOURCES[name]
    url, note = f"{BASE_URL}/{path.name}", f"A newer edition's hash belongs into {__name__}.SOURCES."
    if path.exists():
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual == sha256:
            return path
        with suppress(OSError):  # a read-only folder: the error below says the same
            path.replace(path.with_suffix(".zip.bad"))
        raise ValueError(
            f"{path} must have sha256 {sha256}, got {actual}: truncated, altered, or newer. Moved aside to "
            f"{path.name}.bad where the folder allows it; call again to download it anew. {note}"
        )
    import pooch

    pooch.get_logger().setLevel("WARNING")  # no text into notebooks; on a terminal, a bar
    try:
        pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, progressbar=sys.stderr.isatty())
    except ValueError as error:  # pooch's: the hash differs; nothing was kept under the archive's name
        raise ValueError(f"{url} is not the file with sha256 {sha256}: {error} {note}") from error
    except Exception as error:
        raise ConnectionError(
            f"cannot download {url} ({type(error).__name__}: {error}). Remedy: put that file into {path.parent} "
            "yourself, or set MFKIT_DATA to a folder that holds it. GroupLens's certificate has been reported "
            "expired at times; the sha256 is checked however the file came."
        ) from error
    return path


def read_archive(path: Path, member: str) -> Ratings:
    """Parse this ratings table of an archive, in memory. ValueError where it is not there, or too large."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(member).file_size  # beyond which zipfile does not read
            if size > LARGEST:
                raise ValueError(f"{path} must hold a {member} of at most {LARGEST} bytes, got {size}")
            table = io.BytesIO(archive.read(member))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path} must be a zip archive with {member}, got: {error}") from error
    frame = pd.read_csv(table, **LAYOUTS[Path(member).suffix])
    return Ratings.from_frame(frame.set_axis(["user", "item", "rating"], axis=1))
