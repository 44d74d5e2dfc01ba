"""Is what lies in a folder whole? Files under final names must be complete, and nothing unfinished may stay."""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

LOCKS = re.compile(r"\.(.*\.)?lock$")
"""Hidden files that may stay: they are empty, and say nothing."""
UNFINISHED = re.compile(r"\.partial|\.tmp$|\.new$|\.work-")
Snapshot = dict[str, tuple[int, int, int]]
"""Name -> type, size and time of the last change."""


def snapshot(folder: Path) -> Snapshot:
    """Everything that lies in a folder."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            facts = path.lstat()
            is_folder = stat.S_ISDIR(facts.st_mode)
            times = (0, 0) if is_folder else (facts.st_size, facts.st_mtime_ns)
            found[path.relative_to(folder).as_posix()] = (stat.S_IFMT(facts.st_mode), *times)
    return found


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """What is new or other."""
    return sorted(name for name, facts in after.items() if before.get(name) != facts)


def leftovers(names: list[str]) -> list[str]:
    """Names of what is not finished."""
    return [name for name in names if _is_left_over(name)]


def flaws(folder: Path, names: list[str]) -> Iterator[str]:
    """What is wrong with files under final names: one sentence each."""
    for name in names:
        path = folder / name
        check = CHECKS.get(path.suffix.lower())
        if check is None or not path.is_file() or path.is_symlink() or _is_left_over(name):
            continue
        try:
            check(path)
        except Exception as error:  # of whatever library: the file is not whole
            yield f"{name} is not whole: {type(error).__name__}: {error}"


def read_json(path: Path) -> object:
    """Strictly: JSON knows neither NaN nor Infinity."""
    return json.loads(path.read_text("utf-8"), parse_constant=_refuse)


def num_frames(path: Path) -> int:
    """Pictures that can be decoded."""
    with av.open(f"file:{path}") as container:
        return sum(1 for _ in container.decode(video=0))


def _is_left_over(name: str) -> bool:
    parts = name.split("/")
    return any(UNFINISHED.search(part) for part in parts) or any(
        part.startswith(".") and not LOCKS.match(part) for part in parts
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _check_lines(path: Path) -> None:
    for line in path.read_text("utf-8").splitlines():
        json.loads(line, parse_constant=_refuse)


def _check_table(path: Path) -> None:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if len({len(row) for row in rows}) > 1:
        raise ValueError("rows of different lengths")


def _check_film(path: Path) -> None:
    if not num_frames(path):
        raise ValueError("no pictures")


def _check_tar(path: Path) -> None:
    with tarfile.open(path) as tar:
        for member in tar:
            tar.extractfile(member).read()
    if path.stat().st_size % 512:
        raise ValueError("no whole blocks")


def _check_arrays(path: Path) -> None:
    with np.load(path) as arrays:
        for name in arrays.files:
            _ = arrays[name]


def _check_weights(path: Path) -> None:
    from safetensors.numpy import load_file

    load_file(path)


def _check_checkpoint(path: Path) -> None:
    import torch

    torch.load(path, map_location="cpu", weights_only=True)


def _check_picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _check_page(path: Path) -> None:
    if "</html>" not in path.read_text("utf-8")[-200:].lower():
        raise ValueError("the page does not end")


CHECKS: dict[str, Callable[[Path], object]] = {
    ".json": read_json,
    ".jsonl": _check_lines,
    ".csv": _check_table,
    ".mp4": _check_film,
    ".tar": _check_tar,
    ".npz": _check_arrays,
    ".safetensors": _check_weights,
    ".pt": _check_checkpoint,
    ".jpg": _check_picture,
    ".png": _check_picture,
    ".html": _check_page,
}
