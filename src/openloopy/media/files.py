"""Files: complete under their final name or not there at all, one writer at a time, and errors a user can act on.

A file is written under a hidden name beside its final one, `.NAME.DIGEST-0.partial.SUFFIX`. Whoever writes it holds a
lock (flock) on it, which the system takes away from a killed process: the next one that writes a file of this name
takes over or deletes what was left. Where there are no such locks (Windows, some network disks), it stays.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HASH_BLOCK_BYTES = 1 << 20
MAX_NAME_BYTES = 255
"""Of a file's name on nearly all file systems: bytes, not characters."""
HIDDEN_STEM_BYTES = 64
"""Of a name that its hidden companions repeat, for people; a digest tells names with one beginning apart."""
MAX_SUFFIX_BYTES = 16
LOCK_NAME = ".lock"
"""In a folder that one run at a time may write to."""
Held = Literal["ours", "others", "unknown"]
"""Who has a file's lock; unknown: there are no locks here."""


class MediaError(ValueError):
    """A file that cannot be read or written as asked; the message says what came and what to do."""


class WriteError(OSError):
    """Something that the system does not let us write; `errno` is its own, the message names the place."""

    def __str__(self) -> str:
        return self.strerror


class BusyError(MediaError):
    """Another run writes there at this moment."""


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
    """The path, if the folder it is to be written to exists and the name is one that it can have."""
    path = Path(path)
    if (length := len(os.fsencode(path.name))) > MAX_NAME_BYTES:
        raise MediaError(
            f"cannot write {path}: the name has {length} bytes, at most {MAX_NAME_BYTES} work; shorten it"
        )
    if not path.parent.is_dir():
        raise MediaError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise MediaError(f"cannot write {path}: it is a folder; give a file name inside it")
    return path


def require_writable(path: Path | str) -> Path:
    """The file that a name stands for, if it may be written whole: links are followed, none is ever replaced."""
    path = require_folder_of(path)
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise MediaError(f"cannot write {path}: its symbolic links lead round in a circle; remove it")
        try:
            path = require_folder_of(target)
        except MediaError as error:
            raise MediaError(f"{path} is a link to {target}; {error}") from error
    if path.exists() and not path.is_file():
        raise MediaError(
            f"cannot write {path}: it is no regular file (a pipe or a device?); give another name"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise MediaError(
            f"cannot write {path}: the folder {path.parent.absolute()} may not be written to (permissions, or a "
            "read-only disk); write elsewhere"
        )
    return path


def make_folder(path: Path | str) -> Path:
    """The folder, made with those that it lies in where it is not there.

    Raises:
        MediaError: something else has its name, or a name on the way to it.
        WriteError: the system refuses.
    """
    path = Path(path)
    with write_errors_named(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            other = next(place for place in (path, *path.parents) if os.path.lexists(place))
            raise MediaError(
                f"{path} cannot be a folder: {other} is something else; give another name"
            ) from error
    return path


def ffmpeg_url(path: Path | str) -> str:
    """A file's name as FFmpeg takes it for nothing else: "take:1.wav" would be a protocol, "-" a pipe."""
    return f"file:{path}"


def with_suffix_that_fits(path: Path, suffix: str) -> Path:
    """As `path.with_suffix`; where the name would get too long, its stem is cut, and a digest tells it from others."""
    name = path.with_suffix(suffix).name if path.suffix else path.name + suffix
    if len(os.fsencode(name)) <= MAX_NAME_BYTES:
        return path.with_name(name)
    ending = f".{_digest(path.name)}{suffix}"
    return path.with_name(_cut(path.stem, MAX_NAME_BYTES - len(os.fsencode(ending))) + ending)


def hidden_beside(path: Path, ending: str) -> Path:
    """A hidden companion of a file, whose name is no longer than the file system allows: `.NAME.DIGESTending`."""
    return path.with_name(f".{_cut(path.stem, HIDDEN_STEM_BYTES)}.{_digest(path.name)}{ending}")


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it gets the final name only if the block ends well.

    On any exception, an interrupt included, the temporary file is deleted and the final name is untouched. What a
    killed run left of this name is deleted. A symbolic link is followed.

    Raises:
        MediaError: the name cannot be written to.
        WriteError: the system refuses: the disk is full, a quota is used up, ...
    """
    path = require_writable(path)
    with write_errors_named(path):
        temporary, descriptor = _begin(path)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            # Not after the replacement: by then it may be another's name.
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def only_writer(path: Path | str) -> Iterator[None]:
    """Refuse to write a file that another run is writing, for as long as the block lasts.

    Raises:
        BusyError: another one does.
    """
    path = require_writable(path)
    refusal = f"another run is writing {path}; wait for it, or choose another name"
    with _alone(hidden_beside(path, LOCK_NAME), refusal):
        yield


@contextlib.contextmanager
def only_maker(folder: Path | str) -> Iterator[None]:
    """Refuse to make a folder, which appears as a whole, that another run is making.

    Raises:
        BusyError: another one does.
    """
    folder = Path(os.path.realpath(folder))
    refusal = f"another run is making {folder}; wait for it, or choose another name"
    with _alone(hidden_beside(folder, LOCK_NAME), refusal):
        yield


@contextlib.contextmanager
def only_run_in(folder: Path | str) -> Iterator[None]:
    """Refuse to work in a folder in which another run is at work, for as long as the block lasts.

    Raises:
        BusyError: another one is.
    """
    folder = Path(folder)
    refusal = f"another run is at work in {folder}; wait for it, or choose another folder"
    with _alone(folder / LOCK_NAME, refusal):
        yield


@contextlib.contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """A folder beside a file for what it is made of, gone at the end; for the file's `only_writer` alone.

    What a killed run left there is deleted first.
    """
    folder = hidden_beside(path, ".work")
    shutil.rmtree(folder, ignore_errors=True)
    with write_errors_named(path):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_partial_files(folder: Path) -> None:
    """Delete what killed runs left of files that they were writing, right in a folder; for its `only_run_in`."""
    for path in folder.glob(".*.partial*"):
        descriptor, held = _open_locked(path)
        if held == "ours":
            path.unlink(missing_ok=True)
        _close(descriptor)


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Delete folders in which a run was at work (`only_run_in`) when it was killed."""
    for folder in folders:
        descriptor, held = _open_locked(folder / LOCK_NAME)
        if held == "ours":
            shutil.rmtree(folder, ignore_errors=True)
        _close(descriptor)


@contextlib.contextmanager
def write_errors_named(path: Path) -> Iterator[None]:
    """The system's refusals to write become a `WriteError` that names the place and says what to do."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if (named := named_write_error(error, path)) is None:
            raise
        raise named from error


def named_write_error(error: OSError, path: Path) -> WriteError | None:
    """What is told instead of the system's refusal to write a file or beside it; None for other errors."""
    name = error.filename if isinstance(error.filename, str | bytes) else None
    elsewhere = name is not None and not Path(_plain(name)).is_relative_to(path.parent)
    folder = path.parent.absolute()
    reasons = {
        errno.ENOSPC: f"no space is left in {folder}; make room there, or write elsewhere",
        errno.EDQUOT: f"your share of the disk of {folder} is used up; make room there, or write elsewhere",
        errno.EFBIG: f"files in {folder} may not become so large (a limit of the disk, or `ulimit -f`); "
        "write elsewhere, or raise it",
        errno.EROFS: f"{folder} lies on a read-only disk; write elsewhere",
        errno.EACCES: f"{folder} may not be written to; give it other permissions, or write elsewhere",
        errno.EPERM: f"{folder} may not be written to; give it other permissions, or write elsewhere",
        errno.ENAMETOOLONG: "the name is longer than this disk allows; shorten it",
        errno.EIO: f"the disk of {folder} reports an error; write elsewhere",
    }
    if elsewhere or error.errno not in reasons:
        return None
    return WriteError(error.errno, f"cannot write {path}: {reasons[error.errno]}")


def sha256_file(path: Path | str) -> str:
    """Hex digest of the file's bytes, read block by block."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _begin(path: Path) -> tuple[Path, int]:
    """A hidden file to write, empty, and the descriptor that holds its lock."""
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= MAX_SUFFIX_BYTES else ""
    for number in itertools.count():
        temporary = hidden_beside(path, f"-{number}.partial{suffix}")
        if (descriptor := _taken(temporary)) is not None:
            _remove_left_over(path, number + 1, suffix)
            return temporary, descriptor


def _taken(path: Path) -> int | None:
    """The descriptor of a file that is new, or was left by a killed run; None: another run writes it."""
    try:
        descriptor, held = _open_locked(path, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        descriptor, held = _open_locked(path)
        held = "others" if held == "unknown" else held
    if held == "others":
        _close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    return descriptor


def _remove_left_over(path: Path, number: int, suffix: str) -> None:
    """Files of killed runs that wrote beside another: usually there is none."""
    while (left_over := hidden_beside(path, f"-{number}.partial{suffix}")).exists():
        descriptor, held = _open_locked(left_over)
        if held == "ours":
            left_over.unlink(missing_ok=True)
        _close(descriptor)
        number += 1


@contextlib.contextmanager
def _alone(lock: Path, refusal: str) -> Iterator[None]:
    with write_errors_named(lock):
        descriptor, held = _open_locked(lock, os.O_CREAT)
    if held == "others":
        _close(descriptor)
        raise BusyError(refusal)
    try:
        yield
    finally:
        # Deleted before the lock goes: whoever waits for this file notices that it is another's name by now.
        lock.unlink(missing_ok=True)
        _close(descriptor)


def _open_locked(path: Path, flags: int = 0) -> tuple[int | None, Held]:
    """A descriptor of a file and who has its lock; None: it is not there (any more), or not ours to open."""
    while True:
        try:
            descriptor = os.open(path, flags | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileExistsError:
            raise
        except OSError:
            if flags and not path.exists():
                raise
            return None, "others"  # gone, or of another user
        held = _lock(descriptor)
        if held != "ours" or _is_named(descriptor, path):
            return descriptor, held
        os.close(descriptor)  # deleted between opening and locking, by whoever had it


def _lock(descriptor: int) -> Held:
    if fcntl is None:
        return "unknown"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return "others" if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else "unknown"
    return "ours"


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _plain(name: str | bytes) -> str:
    """A file's name in an error, as it was before `ffmpeg_url`."""
    return os.fsdecode(name).removeprefix("file:")


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:8]


def _cut(text: str, num_bytes: int) -> str:
    """At most so many bytes of a name, in whole characters."""
    return os.fsencode(text)[:num_bytes].decode("utf-8", "ignore")
