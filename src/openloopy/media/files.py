"""Files: complete under their final name or not there at all, and errors a user can act on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

HASH_BLOCK_BYTES = 1 << 20
MAX_TEMPORARY_STEM = 100


class MediaError(ValueError):
    """A file that cannot be read or written as asked; the message says what came and what to do."""


def require_file(path: Path | str, what: str) -> Path:
    """The path, if a non-empty regular file is there."""
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path} is a folder; expected {what} file")
    if not path.exists():
        raise MediaError(f"{path} does not exist; expected {what} file")
    if not path.is_file():
        raise MediaError(f"{path} is not a regular file (a pipe or a device?); save it to disk first")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes); expected {what} file")
    return path


def require_folder_of(path: Path | str) -> Path:
    """The path, if the folder it is to be written to exists."""
    path = Path(path)
    if not path.parent.is_dir():
        raise MediaError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise MediaError(f"cannot write {path}: it is a folder; give a file name inside it")
    return path


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it gets the final name only if the block ends well.

    On any exception, an interrupt included, the temporary file is deleted and the final name is untouched.
    """
    path = require_folder_of(path)
    name = f".{path.stem[:MAX_TEMPORARY_STEM]}.{secrets.token_hex(4)}.partial{path.suffix}"
    temporary = path.with_name(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_file(path: Path | str) -> str:
    """Hex digest of the file's bytes, read block by block."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
