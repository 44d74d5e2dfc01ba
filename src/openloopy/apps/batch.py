"""Many videos in one call: a table or a folder of pairs, one model, a report; the same command goes on.

A table is CSV or JSON Lines with the columns `portrait` and `audio`, if wanted `out` and any of `VideoSettings`. A
folder holds pictures and sounds of the same names: ann.jpg and ann.wav. Paths in a table are relative to it.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from openloopy.apps.request import GenerateRequest
from openloopy.apps.settings import VideoSettings
from openloopy.inference.options import Say
from openloopy.media.duration import in_words
from openloopy.media.files import MediaError, atomic_write, make_folder, only_writer, require_folder_of
from openloopy.media.text_file import expected, read_table, read_text

if TYPE_CHECKING:
    from openloopy.apps.generate import Progress, Studio

FIELDS = ("portrait", "audio", "number", "seed")
"""What an output's name may be made of: names of the files, the row's number, the seed."""
ROW_EXPECTED = "one object on each line, with `portrait` and `audio`"
REPORT = "report.csv"
REPORT_COLUMNS = ("portrait", "audio", "out", "status", "frames", "seconds", "message")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What to make, and where."""

    pairs: Path
    """A folder, a .csv or a .jsonl."""
    out: str
    """Pattern of the names, such as "out/{portrait}-{audio}.mp4"; rows with an `out` of their own do not need it."""
    settings: VideoSettings = VideoSettings()
    """For rows that say nothing else."""
    has_credentials: bool = True

    def __post_init__(self) -> None:
        names = ", ".join(f"{{{name}}}" for name in FIELDS)
        try:
            fields = {name for _, name, _, _ in Formatter().parse(self.out) if name is not None}
        except ValueError as error:
            raise ValueError(f"{self.out!r} is no pattern ({error}); there are {names}") from error
        if unknown := fields - set(FIELDS):
            raise ValueError(f"unknown {{{min(unknown)}}} in {self.out!r}; there are {names}")
        if not self.out.endswith(".mp4"):
            raise ValueError(f"the pattern must end in .mp4, got {self.out!r}")

    @property
    def report(self) -> Path:
        """Where the report lies: in the folder of the pattern."""
        fixed = self.out.split("{")[0]
        return (Path(fixed) if fixed.endswith("/") else Path(fixed).parent) / REPORT


@dataclass(frozen=True)
class BatchReport:
    """What became of the rows."""

    path: Path
    counts: Counter[str]
    """By status: made, kept (it was there), failed."""
    seconds: float

    def __str__(self) -> str:
        parts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        return f"{parts} in {in_words(self.seconds)}; one line for each in {self.path}"


def make_batch(
    config: BatchConfig,
    studio: Studio,
    *,
    say: Say = print,
    watch: Callable[[Progress], None] | None = None,
) -> BatchReport:
    """Make all videos that are not there yet; what fails is reported, and the next one is made.

    Raises:
        ValueError: the table is not as expected, or two rows would have one name; nothing is made then.
    """
    begun_s, requests = time.perf_counter(), planned(config)
    config.report.parent.mkdir(parents=True, exist_ok=True)
    rows, counts = [], Counter()
    with only_writer(config.report):
        for i, request in enumerate(requests):
            say(f"{i + 1} of {len(requests)}: {request.out}")
            row = _row(request) | _make(request, studio, say, watch)
            counts[row["status"]] += 1
            rows.append(row)
            _write_report(config.report, rows)
    return BatchReport(config.report, counts, time.perf_counter() - begun_s)


def planned(config: BatchConfig) -> list[GenerateRequest]:
    """What `make_batch` would make; loads nothing.

    Raises:
        ValueError: the table is not as expected, or two rows would have one name.
    """
    requests = list(read_requests(config))
    _check_names(requests)
    return requests


def read_requests(config: BatchConfig) -> Iterator[GenerateRequest]:
    """The rows of a table or the pairs of a folder, in order."""
    rows = _folder_rows(config.pairs) if config.pairs.is_dir() else _table_rows(config.pairs)
    home = config.pairs if config.pairs.is_dir() else config.pairs.parent
    for number, row in enumerate(rows):
        try:
            yield _request(config, home, number, row)
        except ValueError as error:
            raise ValueError(f"{config.pairs}, row {number + 1}: {error}") from error


def _request(config: BatchConfig, home: Path, number: int, row: dict[str, str]) -> GenerateRequest:
    row = {name: text for name, text in row.items() if text not in (None, "")}
    missing = [name for name in ("portrait", "audio") if name not in row]
    if missing:
        raise ValueError(f"expected a column {missing[0]!r}, got {sorted(row)}")
    portrait, audio = home / row.pop("portrait"), home / row.pop("audio")
    own = row.pop("out", None)
    settings = VideoSettings.from_text(config.settings.as_text() | row)
    name = config.out.format(portrait=portrait.stem, audio=audio.stem, number=number, seed=settings.seed)
    return GenerateRequest(
        portrait=portrait,
        audio=audio,
        out=home / own if own else Path(name),
        settings=settings,
        has_credentials=config.has_credentials,
    )


def _folder_rows(folder: Path) -> Iterator[dict[str, str]]:
    # Brings numpy, which a table does not need.
    from openloopy.media.picture_file import PICTURE_ENDINGS

    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in files if path.suffix.lower() in PICTURE_ENDINGS]
    sounds = {}
    for path in files:
        if path.suffix.lower() not in PICTURE_ENDINGS and path.suffix.lower() not in (
            ".json",
            ".csv",
            ".txt",
        ):
            if path.stem in sounds:
                raise ValueError(
                    f"{folder} has two sounds {path.stem!r}: {sounds[path.stem].name} and {path.name}"
                )
            sounds[path.stem] = path
    alone = {path.stem for path in pictures} ^ set(sounds)
    if not pictures or alone:
        what = f"without a partner: {', '.join(sorted(alone)[:5])}" if alone else "it holds no picture"
        raise ValueError(
            f"{folder}: expected pictures and sounds of the same names, ann.jpg and ann.wav; {what}"
        )
    for path in pictures:
        yield {"portrait": path.name, "audio": sounds[path.stem].name}


def _table_rows(path: Path) -> Iterator[dict[str, str]]:
    if path.suffix.lower() == ".csv":
        yield from read_table(path, "a table with the columns portrait and audio")
    elif path.suffix.lower() == ".jsonl":
        for number, line in enumerate(read_text(path, ROW_EXPECTED).splitlines(), 1):
            if line.strip():
                with expected(f"{path}, line {number}", ROW_EXPECTED):
                    row = dict(json.loads(line))
                yield {name: "" if value is None else str(value) for name, value in row.items()}
    else:
        raise ValueError(f"{path}: expected a folder, a .csv or a .jsonl")


def _check_names(requests: list[GenerateRequest]) -> None:
    if not requests:
        raise ValueError("there is nothing to make: the table has no rows")
    # By their sidecars: a.mp4 and a.MP4 would share one. As files, since ./a.mp4 is a.mp4.
    places = Counter(os.path.realpath(request.sidecar) for request in requests)
    place, count = places.most_common(1)[0]
    if count > 1:
        name = next(request.out for request in requests if os.path.realpath(request.sidecar) == place)
        raise ValueError(
            f"{count} rows would be written to {name}; use {{portrait}}, {{audio}} or {{number}} in -o"
        )


def _make(
    request: GenerateRequest, studio: Studio, say: Say, watch: Callable[[Progress], None] | None
) -> dict[str, Any]:
    begun_s, notes = time.perf_counter(), []
    try:
        make_folder(request.out.parent)
        if require_folder_of(request.out).exists() and request.sidecar.exists():
            return {"status": "kept", "message": "it was there already"}
        # One without the other is left of something that was moved: it is not ours to overwrite.
        report = studio.make(request, say=notes.append, watch=watch)
    except (ValueError, MediaError, OSError) as error:
        say(f"  failed: {error}")
        return {"status": "failed", "message": str(error)}
    seconds = round(time.perf_counter() - begun_s, 2)
    return {"status": "made", "frames": report.num_frames, "seconds": seconds, "message": "; ".join(notes)}


def _row(request: GenerateRequest) -> dict[str, Any]:
    return {"portrait": request.portrait, "audio": request.audio, "out": request.out}


def _write_report(path: Path, rows: list[dict[str, Any]]) -> None:
    # Names of files may be no text.
    text = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with atomic_write(path) as partial, open(partial, "w", **text) as file:
        writer = csv.DictWriter(file, REPORT_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
