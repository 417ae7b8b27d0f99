"""Files that are written whole or not at all, and verified before they are read.

    first line: what the file is · 32 bytes: sha256 of the rest · the rest: the state, as torch.save writes it

Nothing in such a file is code: it is read with weights_only=True, so one from a stranger can be opened.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mfkit import checks

DIGEST_BYTES = hashlib.sha256().digest_size
ZIP_FIRST_BYTES = b"PK"  # torch.save's own archive, which version 0.1.0 wrote as it is


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; moved to `path` when the block ends, removed where it raises.

    So whoever reads `path` finds the old file or the new one, whole, even after a kill or a power cut.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: str | Path, first_line: bytes, state: dict[str, Any]) -> None:
    """`state`, tensors and plain values, under a first line that says what the file is."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    with replacing(path) as partial:
        partial.write_bytes(first_line + hashlib.sha256(content).digest() + content)


def read(path: str | Path, first_line: bytes, name: str, made_by: str) -> Any:
    """What `write` wrote under this first line; ValueError for anything else.

    name: what the caller calls the path. made_by: who writes such files.
    """
    path = checks.path(name, path)
    got = f"{name}={str(path)!r}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{got} must be a file that can be read, got: {error}") from error
    if content.startswith(ZIP_FIRST_BYTES):
        raise ValueError(
            f"{got} was written by torch.save or by mfkit 0.1, and such files cannot be verified; want one that "
            f"{made_by} of this version wrote"
        )
    start = len(first_line) + DIGEST_BYTES
    checksum = hashlib.sha256(content[start:]).digest()
    if not content.startswith(first_line) or content[len(first_line) : start] != checksum:
        raise ValueError(
            f"{got} must be a file that {made_by} wrote, whole and unaltered, got one whose checksum differs"
        )
    try:
        return torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its parsers raise
        raise ValueError(f"{got} must hold what {made_by} writes, got: {error}") from error
