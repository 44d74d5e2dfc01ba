"""Filmed clips for benchmarks/hearing.py: how far the lips are apart, what is said when."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openloopy.face.landmarks import NetworkLandmarker
from openloopy.face.movement import lip_gap
from openloopy.media.audio import SAMPLE_RATE_HZ, open_waveform
from openloopy.media.video import FPS, read_frames
from openloopy.puppet.recorded import ALIGN_FOLDERS, Word, read_align

SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS
SUFFIXES = (".mpg", ".mp4")
MARGIN_S = 0.06
SILENCE = "sil"
OPEN_WORDS = frozenset("at a i r o now nine five white".split())
"""Words whose middle is an open vowel."""


@dataclass(frozen=True, kw_only=True)
class FilmedClip:
    """A talking head."""

    name: str
    person: str
    waveform: np.ndarray
    """As long as the video, 16 kHz."""
    gap: np.ndarray
    """`frames`, in eye distances; NaN where no face was found."""
    words: list[Word]


def filmed_clips(
    folder: Path, kept: Path | None, use: str = "test", held_out: Sequence[str] = ()
) -> list[FilmedClip]:
    """Clips of a folder; where it has a manifest, those of a use, and of people in `held_out` besides.

    kept: lip gaps are read from this folder where they were measured before, and written there.
    """
    gaps = _measured(kept, folder)
    clips = []
    for path, person in _paths(folder, use, held_out):
        if path.stem not in gaps:
            gaps[path.stem] = _gap_of_video(path)
        waveform = np.asarray(open_waveform(path), np.float32)
        num_samples = len(gaps[path.stem]) * SAMPLES_PER_FRAME
        waveform = np.pad(waveform, (0, max(0, num_samples - len(waveform))))[:num_samples]
        clips.append(
            FilmedClip(
                name=path.stem, person=person, waveform=waveform, gap=gaps[path.stem], words=_words(path)
            )
        )
    if not clips:
        raise ValueError(f"{folder} holds no clip ({', '.join(SUFFIXES)}) to test on")
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        np.savez(_kept_path(kept, folder), **gaps)
    return clips


def closure_times_s(words: Sequence[Word]) -> list[float]:
    """When the lips meet: at the start of words with b, m or p, and at the end of the letter m."""
    starts = [word.start_s for word in words if word.text[0] in "bp"]
    return starts + [word.end_s for word in words if word.text == "m"]


def opening_times_s(words: Sequence[Word]) -> list[float]:
    """Middles of open vowels."""
    return [(word.start_s + word.end_s) / 2 for word in words if word.text in OPEN_WORDS]


def silent_frames(words: Sequence[Word], num_frames: int) -> np.ndarray:
    """Frames inside `sil`, a margin away from the words; bool `frames`."""
    time_s = np.arange(num_frames) / FPS
    said = [word for word in words if word.text != SILENCE]
    inside = [(time_s > word.start_s - 2 * MARGIN_S) & (time_s < word.end_s + 2 * MARGIN_S) for word in said]
    return ~np.any(inside, axis=0)


def highest_around(track: np.ndarray, time_s: float) -> float:
    """The highest known value within the margin; NaN if there is none."""
    first, last = (round(t * FPS) for t in (time_s - MARGIN_S, time_s + MARGIN_S))
    values = track[max(first, 0) : last + 1]
    values = values[np.isfinite(values)]
    return float(values.max()) if len(values) else float("nan")


def person_of(name: str) -> str:
    """Named speakers have several clips (grid_s1_...); of the others each clip is a person."""
    prefix = name.rsplit("_", 1)[0]
    return name if prefix.endswith(("_f", "_m")) else prefix


def _paths(folder: Path, use: str, held_out: Sequence[str]) -> list[tuple[Path, str]]:
    manifest = folder / "MANIFEST.csv"
    if not manifest.exists():
        return [(p, person_of(p.stem)) for p in sorted(folder.iterdir()) if p.suffix in SUFFIXES]
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    uses = ["test" if row["use"] == "train" and row["speaker"] in held_out else row["use"] for row in rows]
    wanted = [row for row, found in zip(rows, uses, strict=True) if found == use]
    return [(folder / row["file"], row["speaker"]) for row in wanted]


def _words(path: Path) -> list[Word]:
    places = (path.parent / name / f"{path.stem}.align" for name in ALIGN_FOLDERS)
    return next((read_align(place) for place in places if place.exists()), [])


def _kept_path(kept: Path, folder: Path) -> Path:
    return kept / f"lip_gaps-{folder.resolve().name}.npz"


def _measured(kept: Path | None, folder: Path) -> dict[str, np.ndarray]:
    if kept is None or not _kept_path(kept, folder).exists():
        return {}
    with np.load(_kept_path(kept, folder)) as arrays:
        return dict(arrays)


def _gap_of_video(path: Path) -> np.ndarray:
    faces = NetworkLandmarker().track(read_frames(path))
    gap = np.full(len(faces), np.nan, np.float32)
    found = [i for i, face in enumerate(faces) if face is not None]
    if found:
        gap[found] = lip_gap(np.stack([faces[i].points68 for i in found]))
    return gap
