"""Folders made worse: a file is damaged as its kind can be, missing, empty, a folder, or in another's place."""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.campaign.damage import damaged
from tests.campaign.damage_text import damaged_json, damaged_lines, damaged_table, damaged_text

TEXTS = {
    ".json": lambda text, rng: damaged_json(text, rng, rng.choice([1, 1, 3])),
    ".jsonl": damaged_lines,
    ".csv": damaged_table,
    ".align": damaged_lines,
    ".textgrid": damaged_lines,
    ".txt": damaged_lines,
}


def spoil(path: Path, rng: random.Random) -> None:
    """Damage one file."""
    path.write_bytes(spoiled(path.suffix.lower(), path.read_bytes(), rng))


def spoil_one_of(folder: Path, rng: random.Random, patterns: Sequence[str] = ("*",)) -> None:
    """Damage one file of a folder, or what the folder holds."""
    files = sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()})
    path = rng.choice(files)
    if rng.random() < 0.75:
        spoil(path, rng)
        return
    other = rng.choice(files)
    kinds: tuple[Callable[[], object], ...] = (
        path.unlink,
        lambda: path.write_bytes(b""),
        lambda: _replace_by_folder(path),
        lambda: path.write_bytes(other.read_bytes()),
        lambda: shutil.copy(other, path.with_name(f"{path.stem}-2{path.suffix}")),
        lambda: _replace_by_link(path),
    )
    rng.choice(kinds)()


def spoiled(suffix: str, data: bytes, rng: random.Random) -> bytes:
    """Damaged by what the ending says that it is; one in four as bytes."""
    if rng.random() < 0.25:
        return damaged(data, rng, rng.choice([1, 2]))
    if suffix in TEXTS:
        return TEXTS[suffix](data.decode("utf-8", "replace"), rng)
    if suffix == ".tar":
        return _spoiled_tar(data, rng)
    if suffix == ".npz":
        return _spoiled_npz(data, rng)
    if suffix == ".npy":
        return _array_bytes(_spoiled_array(np.load(io.BytesIO(data)), rng))
    if suffix == ".safetensors":
        return _spoiled_safetensors(data, rng)
    if suffix in (".pt", ".pth") and zipfile.is_zipfile(io.BytesIO(data)):
        return damaged(data, rng)
    return damaged(data, rng, rng.choice([1, 1, 2]))


def _spoiled_tar(data: bytes, rng: random.Random) -> bytes:
    """Members spoiled by their own kind, missing, twice, renamed, of another type."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar if member.isfile()]
    i = rng.randrange(len(members))
    info, content = members[i]
    kind = rng.randrange(7)
    if kind <= 2:
        members[i] = info, spoiled("." + info.name.rpartition(".")[2], content, rng)
    elif kind == 3:
        del members[i]
    elif kind == 4:
        members.insert(rng.randrange(len(members) + 1), members[i])
    elif kind == 5:
        info.name = rng.choice(
            ["x", "", "../up.json", "/etc/x.json", info.name + "2", "a.b.c", f"other.{info.name}"]
        )
    else:
        info.type, info.linkname, members[i] = (
            rng.choice([tarfile.SYMTYPE, tarfile.DIRTYPE]),
            "x",
            (info, b""),
        )
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _spoiled_npz(data: bytes, rng: random.Random) -> bytes:
    with np.load(io.BytesIO(data)) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = rng.choice(sorted(arrays))
    kind = rng.randrange(6)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name + "2"] = arrays.pop(name)
    else:
        arrays[name] = _spoiled_array(arrays[name], rng)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _spoiled_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Of another shape or type, shorter, not numbers."""
    kinds = (
        lambda: array[: len(array) // 2] if array.ndim else array,
        lambda: array.reshape(-1),
        lambda: array[None],
        lambda: (
            array.astype(rng.choice([np.float64, np.int64, np.float16]))
            if array.dtype.kind in "fiu"
            else array
        ),
        lambda: (
            np.full(array.shape, np.nan, np.float32)
            if array.dtype.kind == "f"
            else np.full_like(array, -1)
            if array.dtype.kind == "i"
            else array[:0]
        ),
        lambda: np.zeros((0, *array.shape[1:]), array.dtype),
        lambda: np.concatenate([array, array]) if array.ndim else array,
        lambda: array * 1e30 if array.dtype.kind == "f" else array,
        lambda: np.array(["text"]),
    )
    return np.asarray(rng.choice(kinds)())


def _array_bytes(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _spoiled_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Its header is JSON: names, types, shapes and places that are not so; its length is made to fit."""
    size = int.from_bytes(data[:8], "little")
    header = damaged_json(data[8 : 8 + size].decode("utf-8"), rng, rng.choice([1, 1, 4]))
    said = len(header) if rng.random() < 0.9 else rng.choice([0, 2**62, len(header) + 1])
    return said.to_bytes(8, "little") + header + data[8 + size :]


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _replace_by_link(path: Path) -> None:
    """To itself."""
    path.unlink()
    path.symlink_to(path.name)


def spoil_text(path: Path, rng: random.Random) -> None:
    """Damage a file as a text, whatever its ending says."""
    path.write_bytes(damaged_text(path.read_text("utf-8"), rng))


def changed_settings(path: Path, rng: random.Random, times: int = 1) -> None:
    """Change a JSON file by its structure and nothing else: it stays JSON."""
    text = path.read_text("utf-8")
    for _ in range(50):
        data = damaged_json(text, rng, times)
        try:
            json.loads(data)
        except (ValueError, RecursionError):
            continue
        path.write_bytes(data)
        return
