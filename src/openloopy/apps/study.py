"""A blinded study on this machine: methods' videos side by side, raters name the best in six dimensions.

Source: Loopy (arXiv:2409.02634), user study: 20 portraits times 20 sounds, ten raters, the paper's six dimensions. The
paper says nothing of order and blinding; ours: both the cases and the methods within a case are shuffled for each
rater, and neither a method's nor a file's name reaches the browser.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

import av

from openloopy.apps.study_page import results_page
from openloopy.apps.study_server import VIDEO_TYPES, Refusal, StudyServer
from openloopy.measures.votes import (
    DIMENSIONS,
    STUDY_EXPECTED,
    STUDY_FILE,
    VOTES_FILE,
    StudyVotes,
    Vote,
    read_study,
    read_votes,
    study_table,
)
from openloopy.media.files import (
    atomic_write,
    ffmpeg_url,
    make_folder,
    only_run_in,
    require_file,
    sha256_file,
)
from openloopy.media.screen import film_of
from openloopy.media.text_file import expected, read_json, read_table

DEFAULT_PORT = 8350
MAX_NAMED = 10
"""Cases that an error or a remark names; the rest are counted."""
MAX_RATER_CHARACTERS = 60
QUESTIONS = {
    "identity": "Whose face stays the same person from start to end?",
    "quality": "Which picture is the cleanest: sharp, steady, without artefacts?",
    "emotion": "Whose expression fits the feeling in the voice best?",
    "diversity": "Who moves in the most varied way: head, brows, eyes, mouth?",
    "naturalness": "Whose movement looks most like a real person's?",
    "lip_sync": "Whose lips fit the sound best?",
}
"""What the page asks for each dimension; the paper does not print its wording."""
TIE = "="
"""What the page sends for no difference, in place of a letter."""
PLAYABLE = frozenset({"h264", "vp8", "vp9", "av1"})
"""Codecs, by FFmpeg's names, that all current browsers show."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What is compared, and where votes are kept."""

    folders: tuple[Path, ...]
    """One for each method, named as the method; videos in it, or in one subfolder for each category."""
    out: Path
    cases: Literal["all", "common"] = "all"
    """all: a case that a folder lacks is an error; common: such cases are left out, and named."""
    categories: Path | None = None
    """CSV with the columns case and category, in place of subfolders."""
    allows_ties: bool = False
    """Raters may answer "no difference"; in the paper they name one."""
    seed: int = 0

    def __post_init__(self) -> None:
        names = [_name_of(folder) for folder in self.folders]
        if not 2 <= len(names) <= len(ascii_uppercase):
            raise ValueError(
                f"expected 2 to {len(ascii_uppercase)} folders, one for each method, got {names}"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"the folders' names are the methods and must differ, got {names}; rename one")


def _name_of(folder: Path) -> str:
    """A folder's own name, also where it is given as "." or is a link."""
    return Path(os.path.realpath(folder)).name


@dataclass(frozen=True, kw_only=True)
class Material:
    """The videos of a study."""

    videos: Mapping[str, Mapping[str, Path]]
    """Case -> method -> file."""
    categories: Mapping[str, str]
    """Case -> category; "" for none."""
    left_out: tuple[str, ...]
    """Cases that some method lacks."""

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order of the folders."""
        return tuple(next(iter(self.videos.values())))


def find_material(config: StudyConfig) -> Material:
    """The videos that are to be compared; one that a browser would not show is an error."""
    found = {_name_of(folder): _videos_of(folder) for folder in config.folders}
    everything = sorted(set().union(*found.values()))
    lacking = {method: [case for case in everything if case not in found[method]] for method in found}
    if config.cases == "all" and any(lacking.values()):
        told = "; ".join(f"{method} lacks {_named(cases)}" for method, cases in lacking.items() if cases)
        raise ValueError(
            f"not all folders hold the same cases: {told}; make them, or leave them out (--common)"
        )
    cases = [case for case in everything if all(case in videos for videos in found.values())]
    if not cases:
        raise ValueError(
            f"no video has the same name in all of {_named(found)}; expected {_suffixes()} files"
        )
    videos = {case: {method: found[method][case] for method in found} for case in cases}
    _require_playable([path for files in videos.values() for path in files.values()])
    return Material(
        videos=videos,
        categories=_categories(config, cases),
        left_out=tuple(case for case in everything if case not in videos),
    )


@dataclass
class Booth:
    """Where votes are cast: it shuffles, keeps, and says nothing of names. Methods may run in several threads."""

    material: Material
    out: Path
    allows_ties: bool
    seed: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, name: str) -> dict[str, Any]:
        """What the page needs to show a rater's study, with the votes so far."""
        rater = rater_from(name)
        letters = ascii_uppercase[: len(self.material.methods)]
        return {
            "rater": rater,
            "letters": list(letters),
            "tie": TIE if self.allows_ties else None,
            "dimensions": [
                {"key": key, "label": label, "question": QUESTIONS[key]} for key, label in DIMENSIONS.items()
            ],
            "votes": self._votes_of(rater),
        }

    def vote(self, facts: Mapping[str, Any]) -> None:
        """Keep one vote; it is on disk when this returns."""
        rater, case, shown = self._place(str(facts.get("rater", "")), facts.get("case"))
        dimension, letter = str(facts.get("dimension")), str(facts.get("choice"))
        options = dict(zip(ascii_uppercase, shown, strict=False)) | ({TIE: None} if self.allows_ties else {})
        if dimension not in DIMENSIONS or letter not in options:
            raise Refusal(400, f"no such vote: {dimension!r}, {letter!r}")
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._keep(Vote(rater, case, dimension, options[letter], shown, time))

    def video(self, name: str, index: int, letter: str) -> Path:
        """The file that a rater sees under a letter."""
        _, case, shown = self._place(name, index)
        if letter not in ascii_uppercase[: len(shown)]:
            raise Refusal(404, f"no such video: {letter!r}")
        return self.material.videos[case][shown[ascii_uppercase.index(letter)]]

    def _place(self, name: str, index: object) -> tuple[str, str, tuple[str, ...]]:
        """A rater's id, a case by its place in the rater's order, and the methods from A on."""
        rater = rater_from(name)
        cases = self._order(rater)
        if type(index) is not int or not 0 <= index < len(cases):
            raise Refusal(404, f"no such case: {index!r} of {len(cases)}")
        case = cases[index]
        return rater, case, shuffled(self.material.methods, self.seed, rater, case)

    def _order(self, rater: str) -> tuple[str, ...]:
        return shuffled(self.material.videos, self.seed, rater)

    def _votes_of(self, rater: str) -> list[dict[str, str]]:
        """For each case in the rater's order: dimension -> letter."""
        cases = self._order(rater)
        votes: list[dict[str, str]] = [{} for _ in cases]
        places = {case: i for i, case in enumerate(cases)}
        for vote in read_votes(self.out / VOTES_FILE):
            if vote.rater == rater:
                shown = shuffled(self.material.methods, self.seed, rater, vote.case)
                letter = TIE if vote.best is None else ascii_uppercase[shown.index(vote.best)]
                votes[places[vote.case]][vote.dimension] = letter
        return votes

    def _keep(self, vote: Vote) -> None:
        """Append a line, whole or not at all."""
        line = (json.dumps(asdict(vote), ensure_ascii=False) + "\n").encode()
        with self.lock, open(self.out / VOTES_FILE, "ab", buffering=0) as stream:
            start = stream.seek(0, os.SEEK_END)
            try:
                if stream.write(line) != len(line):
                    raise OSError(f"{VOTES_FILE} could not take a whole line; is the disk full?")
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(start)
                raise


def open_booth(config: StudyConfig) -> Booth:
    """Find the videos and begin a study in `config.out`, or go on with the one that is there."""
    material = find_material(config)
    make_folder(config.out)
    _begin_or_compare(config.out / STUDY_FILE, _study_facts(config, material))
    _mend(config.out / VOTES_FILE)
    read_study(config.out)  # what is wrong with the votes so far is said now, not to a rater
    return Booth(material, config.out, config.allows_ties, config.seed)


def serve_study(config: StudyConfig, port: int = DEFAULT_PORT) -> StudyServer:
    """Serve a study on 127.0.0.1 in the background, until `close` or the end of a `with`. Port 0: any free one."""
    return StudyServer(open_booth(config), port)


def run_study(config: StudyConfig, port: int = DEFAULT_PORT, say: Callable[[str], None] = print) -> None:
    """Serve a study until Ctrl-C, then write the results."""
    # A refused study leaves no folder; in one that is there, nothing is read or mended beside another run.
    with only_run_in(config.out) if config.out.is_dir() else contextlib.nullcontext():
        booth = open_booth(config)
        with contextlib.suppress(KeyboardInterrupt), StudyServer(booth, port) as server:
            for line in _opening(booth, server.address):
                say(line)
            server.wait()
    votes = read_study(config.out)
    if votes.votes:
        say(f"wrote {write_results(config.out, votes)}")
    else:
        say("nobody voted; the same command goes on from here")


def write_results(out: Path, votes: StudyVotes) -> Path:
    """Write results.html, results.md and results.json to a folder; returns the page."""
    markdown, facts = study_table(votes)
    texts = {
        "results.json": json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "results.md": markdown,
        "results.html": results_page(facts),
    }
    for name, text in texts.items():
        with atomic_write(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / "results.html"


def rater_from(name: str) -> str:
    """A rater's id: the name as typed, but for case and spaces, so that a rater finds the votes again."""
    rater = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    if not 0 < len(rater) <= MAX_RATER_CHARACTERS or not rater.isprintable():
        raise Refusal(400, f"expected a name of 1 to {MAX_RATER_CHARACTERS} characters")
    return rater


def shuffled(things: Iterable[str], *key: object) -> tuple[str, ...]:
    """A random order that the key alone decides, whatever the order they come in, on any machine."""

    def place(thing: str) -> bytes:
        return hashlib.sha256(json.dumps([*key, thing]).encode()).digest()

    return tuple(sorted(things, key=place))


def _videos_of(folder: Path) -> dict[str, Path]:
    """Case -> file; the case is the name without suffix, behind the subfolder if there is one."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one folder of videos for each method")
    videos: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in VIDEO_TYPES or any(part.startswith(".") for part in parts):
            continue
        if len(parts) > 2:
            raise ValueError(
                f"{path} lies too deep; expected {folder}/CASE.mp4 or {folder}/CATEGORY/CASE.mp4"
            )
        case = "/".join((*parts[:-1], path.stem))
        if case in videos:
            raise ValueError(f"{path} and {videos[case]} are the same case; keep one of them")
        videos[case] = require_file(path, "a video")
    return videos


def _categories(config: StudyConfig, cases: Sequence[str]) -> dict[str, str]:
    if config.categories is None:
        return {case: case.rpartition("/")[0] for case in cases}
    rows = read_table(config.categories, "a list of categories", ("case", "category"))
    category = {row["case"].strip(): row["category"].strip() for row in rows}
    missing = [case for case in cases if not category.get(case)]
    if missing:
        raise ValueError(f"{config.categories} gives no category for {_named(missing)}; add them")
    return {case: category[case] for case in cases}


def _require_playable(paths: Sequence[Path]) -> None:
    codecs = {path: _codec(path) for path in paths}
    refused = [f"{path} ({codec})" for path, codec in codecs.items() if codec not in PLAYABLE]
    if refused:
        raise ValueError(
            f"browsers do not show {_named(refused)}; convert them, for example with "
            "ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p -c:a aac OUT.mp4"
        )


def _codec(path: Path) -> str:
    try:
        with av.open(ffmpeg_url(path), metadata_errors="replace") as container:
            film = film_of(container)
            return film.codec_context.name if film else "no picture"
    except (av.error.FFmpegError, ValueError):
        return "not a video"


def _study_facts(config: StudyConfig, material: Material) -> dict[str, Any]:
    return {
        "methods": list(material.methods),
        "categories": dict(material.categories),
        "left_out": list(material.left_out),
        "allows_ties": config.allows_ties,
        "seed": config.seed,
        "sha256": {
            case: {method: sha256_file(path) for method, path in files.items()}
            for case, files in material.videos.items()
        },
    }


def _begin_or_compare(path: Path, facts: dict[str, Any]) -> None:
    """Votes on other videos or under other rules must not mix."""
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    before = read_json(path, STUDY_EXPECTED)
    same_order = {**facts, "methods": sorted(facts["methods"])}
    with expected(path, STUDY_EXPECTED):
        before = before | {"methods": sorted(before["methods"])}
    changed = [key for key, value in same_order.items() if before.get(key) != value]
    if changed:
        raise ValueError(
            f"{path.parent} holds another study: its {', '.join(changed)} differ from what is given now; "
            "give the same folders and options, or another folder for the votes"
        )


def _mend(path: Path) -> None:
    """Take away a last line that was cut off, whose rater was never told that it is kept."""
    text = path.read_bytes() if path.exists() else b""
    if text and not text.endswith(b"\n"):
        votes = len(read_votes(path))
        whole = text.count(b"\n")
        with open(path, "ab") as stream:
            if votes > whole:
                stream.write(b"\n")
            else:
                stream.truncate(text.rfind(b"\n") + 1)


def _opening(booth: Booth, address: str) -> list[str]:
    """What whoever runs a study is told at its start."""
    methods, cases, left_out = (
        len(booth.material.methods),
        len(booth.material.videos),
        booth.material.left_out,
    )
    lines = [f"left out, for not being in all folders: {_named(left_out)}"] if left_out else []
    lines.append(f"{methods} methods, {cases} cases, {cases * len(DIMENSIONS)} votes for each rater")
    lines.append(f"raters open {address} on this machine; votes go to {booth.out / VOTES_FILE}; Ctrl-C ends")
    return lines


def _suffixes() -> str:
    return ", ".join(VIDEO_TYPES)


def _named(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
