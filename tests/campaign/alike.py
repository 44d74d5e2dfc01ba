"""Do two folders hold the same? Bytes, or numbers within a tolerance, but for what tells when and how fast."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from tests.campaign.whole import snapshot

OF_THE_RUN = frozenset(
    "created created_s finished_s date timings seconds seconds_this_run clips_this_run steps_per_s attempts".split()
)
"""Keys whose values are another run's."""
OF_BYTES = frozenset({"sha256"})
"""Keys whose values follow from bytes, where numbers need not be the same to the last digit."""
MAX_TOLD = 5


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How much alike two runs' results must be."""

    but: str = r"$^"
    """Regular expression of names that are not compared: logs, pages, caches."""
    tolerance: float = 0.0
    """Of numbers, relative and absolute; 0: equal bytes."""


def differences(expected: Path, found: Path, likeness: Likeness = Likeness()) -> list[str]:
    """What is missing, what is too much, what is not the same; one sentence each."""
    names = [_names(folder, likeness.but) for folder in (expected, found)]
    told = [f"{name} is missing" for name in sorted(names[0] - names[1])]
    told += [f"{name} is too much" for name in sorted(names[1] - names[0])]
    for name in sorted(names[0] & names[1]):
        told += [f"{name}: {what}" for what in _file_differences(expected / name, found / name, likeness)][
            :MAX_TOLD
        ]
    return told


def value_differences(expected: Any, found: Any, tolerance: float = 0.0, place: str = "") -> Iterator[str]:
    """Where two JSON values differ, but for `OF_THE_RUN`."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found} - OF_THE_RUN - (OF_BYTES if tolerance else set())):
            if key not in expected or key not in found:
                yield f"{place}.{key} is only in one of them"
            else:
                yield from value_differences(expected[key], found[key], tolerance, f"{place}.{key}")
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{place}: {len(found)} items, expected {len(expected)}"
        for i, pair in enumerate(zip(expected, found, strict=False)):
            yield from value_differences(*pair, tolerance, f"{place}[{i}]")
    elif not _same(expected, found, tolerance):
        yield f"{place}: {found!r}, expected {expected!r}"


def _names(folder: Path, but: str) -> set[str]:
    return {
        name
        for name, facts in snapshot(folder).items()
        if not re.search(but, name) and (folder / name).is_file()
    }


def _file_differences(expected: Path, found: Path, likeness: Likeness) -> Iterator[str]:
    data = expected.read_bytes(), found.read_bytes()
    if data[0] == data[1]:
        return
    read = READERS.get(expected.suffix)
    if read is not None:
        yield from value_differences(*(read(each) for each in data), likeness.tolerance)
    elif likeness.tolerance and expected.suffix in (".npz", ".tar"):
        members = [dict(_members(expected.suffix, each)) for each in data]
        yield from value_differences(*members, likeness.tolerance)
    else:
        yield f"{len(data[1])} other bytes, expected {len(data[0])}"


def _lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.decode("utf-8").splitlines()]


def _table(data: bytes) -> list[dict[str, str]]:
    """What a batch says of a row that was there already is another run's."""
    rows = csv.DictReader(io.StringIO(data.decode("utf-8")))
    return [{k: v for k, v in row.items() if k not in ("status", "frames", "message")} for row in rows]


def _members(suffix: str, data: bytes) -> Iterator[tuple[str, Any]]:
    """Of an archive: arrays as lists, JSON as it is, pictures and sound as bytes."""
    if suffix == ".npz":
        with np.load(io.BytesIO(data)) as arrays:
            for name in arrays.files:
                yield (
                    name,
                    json.loads(str(arrays[name]))
                    if arrays[name].dtype.kind == "U"
                    else arrays[name].tolist(),
                )
        return
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            content = tar.extractfile(member).read()
            if member.name.endswith(".npz"):
                yield member.name, dict(_members(".npz", content))
            elif member.name.endswith(".mp4"):
                yield member.name, _count_frames(content)
            else:
                yield member.name, json.loads(content) if member.name.endswith(".json") else content


def _count_frames(content: bytes) -> int:
    with av.open(io.BytesIO(content)) as container:
        return sum(1 for _ in container.decode(video=0))


def _checkpoint(data: bytes) -> Any:
    """Its values, tensors by their digests: how pickle writes equal values depends on which of them are one object."""
    return _digested(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))


def _digested(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), hashlib.sha256(value.numpy().tobytes()).hexdigest()]
    if isinstance(value, dict):
        return {key: _digested(each) for key, each in value.items()}
    return [_digested(each) for each in value] if isinstance(value, list | tuple) else value


READERS = {".json": json.loads, ".jsonl": _lines, ".csv": _table, ".pt": _checkpoint}


def _same(expected: Any, found: Any, tolerance: float) -> bool:
    if expected == found:
        return True
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (expected, found))
    if not numbers or not tolerance:
        return numbers and all(math.isnan(each) for each in (expected, found))
    both_nan = math.isnan(expected) and math.isnan(found)
    return both_nan or math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance)
