"""Where raw footage lies: a folder, a list of files, or a bucket (any address that fsspec opens)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from openloopy.data.records import Split

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v", ".ts", ".mts", ".flv", ".wmv", ".3gp"}
)
MAX_ID = 80
"""Characters of a video's id: with frame and ending it is a name in a tar archive, which has a hundred."""
LIST_SUFFIXES = frozenset({".txt", ".lst"})


@dataclass(frozen=True, kw_only=True)
class Footage:
    """One raw video: where it is, and what it will be called."""

    address: str
    """A path, or an address with a protocol."""
    name: str
    """Path within the raw folder or bucket; never an absolute path."""
    size_bytes: int
    video_id: str
    """Letters, digits, - and _; clips are named after it."""
    person_id: str
    split: Split


def list_footage(raw: str, *, person_pattern: str | None, held_out: Sequence[str]) -> list[Footage]:
    """All videos, by name, with their people and splits. Splits never part a person.

    Args:
        raw: a folder (searched with its subfolders), a .txt or .lst file with one path or address per line, or an
            address such as s3://bucket/folder.
        person_pattern: regular expression whose first group, in a file's name, is the person; None: each its own.
        held_out: people for `val`; the name of a video stands for its person.
    """
    found = sorted(_list(raw), key=lambda item: item[1])
    if not found:
        raise ValueError(f"no video file in {raw}; looked for {', '.join(sorted(VIDEO_SUFFIXES))}")
    ids = _distinct_ids([name for _, name, _ in found])
    people = [_person_id(PurePosixPath(name), person_pattern) for _, name, _ in found]
    val = _held_out_people(held_out, dict(zip(ids, people, strict=True)))
    return [
        Footage(
            address=address,
            name=name,
            size_bytes=size,
            video_id=video,
            person_id=person,
            split="val" if person in val else "train",
        )
        for (address, name, size), video, person in zip(found, ids, people, strict=True)
    ]


def video_id(name: str) -> str:
    """A file's name as the start of clip names; of a long one the start, and a digest."""
    plain = re.sub(r"[^\w-]+", "_", str(PurePosixPath(name).with_suffix("")), flags=re.ASCII)
    return plain if len(plain) <= MAX_ID else f"{plain[: MAX_ID - 9]}-{_digest(name)}"


@contextlib.contextmanager
def local_copy(footage: Footage, folder: Path) -> Iterator[Path]:
    """The video as a file on this machine; a remote one is copied into `folder` for as long as the block lasts."""
    if not _is_remote(footage.address):
        yield Path(footage.address)
        return
    import fsspec

    with tempfile.TemporaryDirectory(prefix=".copy-", dir=folder) as place:
        path = Path(place) / f"{footage.video_id}{PurePosixPath(footage.name).suffix}"
        with fsspec.open(footage.address, "rb") as source, open(path, "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        yield path


def _distinct_ids(names: Sequence[str]) -> list[str]:
    """An id for each video; names that give the same one (in other scripts than Latin, many do) get a digest."""
    ids = [video_id(name) for name in names]
    shared = {each for each, count in Counter(ids).items() if count > 1}
    return [
        f"{each[: MAX_ID - 9]}-{_digest(name)}" if each in shared else each
        for each, name in zip(ids, names, strict=True)
    ]


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:8]


def check_pattern(pattern: str | None) -> None:
    """A ValueError where a person pattern is not usable."""
    if pattern is not None and _compiled(pattern).groups < 1:
        raise ValueError(f"the person pattern {pattern!r} has no group; put the id in parentheses")


def _list(raw: str) -> list[tuple[str, str, int]]:
    """Address, name and size of every video."""
    if _is_remote(raw):
        return _list_remote(raw)
    path = Path(raw)
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file())
        return [(str(file), file.relative_to(path).as_posix(), file.stat().st_size) for file in files]
    if path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        return [_listed(line, path) for line in lines if line and not line.startswith("#")]
    if path.exists():
        raise ValueError(
            f"{raw} is neither a folder nor a list; give the folder that the video is in, or a .txt file with one path "
            "per line"
        )
    raise ValueError(
        f"{raw} does not exist; expected a folder, a list of files or an address such as s3://..."
    )


def _listed(line: str, listed_in: Path) -> tuple[str, str, int]:
    """One line of a list; relative paths start where the list lies."""
    if _is_remote(line):
        import fsspec

        system, inside = fsspec.core.url_to_fs(line)
        if not system.exists(inside):
            raise ValueError(f"{listed_in} lists {line}, which does not exist")
        return line, PurePosixPath(inside).name, int(system.size(inside) or 0)
    path = listed_in.parent / line
    if not path.is_file():
        raise ValueError(f"{listed_in} lists {line}, which does not exist; correct the list")
    return (
        str(path),
        path.name if Path(line).is_absolute() else PurePosixPath(line).as_posix(),
        path.stat().st_size,
    )


def _list_remote(address: str) -> list[tuple[str, str, int]]:
    import fsspec

    system, root = fsspec.core.url_to_fs(address)
    found = system.find(root, detail=True)
    return [
        (
            system.unstrip_protocol(path),
            path[len(root) :].lstrip("/") or PurePosixPath(path).name,
            int(about["size"]),
        )
        for path, about in found.items()
        if PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES
    ]


def _is_remote(address: str) -> bool:
    return "://" in address


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"the person pattern {pattern!r} is no regular expression ({error}); correct it"
        ) from error


def _person_id(path: PurePosixPath, pattern: str | None) -> str:
    if pattern is None:
        return path.stem
    match = _compiled(pattern).search(path.name)
    if match is None or not match[1]:
        raise ValueError(
            f"the person pattern {pattern!r} finds no id in {path.name}; make it fit all files, "
            "or move this one away"
        )
    return match[1]


def _held_out_people(names: Sequence[str], person_of: dict[str, str]) -> set[str]:
    """The people that these names mean; a video's name stands for its person."""
    people = set(person_of.values())
    unknown = [name for name in names if name not in people and name not in person_of]
    if unknown:
        raise ValueError(
            f"held out are {unknown}, who are neither a person nor a video; there are {sorted(people)}"
        )
    return {name if name in people else person_of[name] for name in names}
