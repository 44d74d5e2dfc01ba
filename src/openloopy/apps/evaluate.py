"""One command for the paper's tables: every metric on folders of videos, as JSON, Markdown, CSV and a page.

Each video is measured once and its numbers are kept in OUT/videos (`evaluation_videos`). Metrics that need weights
from outside are computed where the weights are, and otherwise say how to get them (`evaluation_sets`); they are never
guessed. A video that a number cannot be had of is left out of its mean, counted and named (`evaluation_notes`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track as with_progress

from openloopy import __version__
from openloopy.apps.evaluation_notes import Facts, LeftOut, mismatches
from openloopy.apps.evaluation_page import evaluation_page
from openloopy.apps.evaluation_sets import outside_measures, set_distances
from openloopy.apps.evaluation_tables import markdown, means_csv, videos_csv
from openloopy.apps.evaluation_videos import EvaluatedVideo, load_measured, read_steady, save_measured
from openloopy.apps.protocols import (
    Case,
    Cases,
    Outputs,
    adapt_outputs,
    celebv_hq_cases,
    hdtf_cases,
    open_set_cases,
    plain_cases,
    ravdess_cases,
    sample,
    with_generated,
)
from openloopy.data.footage import SteadyReader
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.measures.video_numbers import (
    NUMBERS,
    Found,
    Measured,
    measure_closures,
    measure_pair,
    measure_video,
)
from openloopy.media.audio import SAMPLE_RATE_HZ, AudioError, open_sound
from openloopy.media.files import (
    MediaError,
    atomic_write,
    make_folder,
    only_run_in,
    remove_partial_files,
    sha256_file,
)
from openloopy.media.video import probe_video

VERSION = 3
"""Of the per-video numbers; those of another version are measured again."""
BOOTSTRAP, SEED = 1000, 0


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to evaluate."""

    cases: Cases
    out: Path
    name: str
    """Of the method, for tables."""
    device: str = "cpu"
    """For networks from outside."""
    align: Path | None = None
    """Folder of word times in GRID's form, `<case>.align`: lips are asked to close in words with b, m, p."""


@dataclass(kw_only=True)
class _Evaluation:
    """What has been measured so far, and what is to be said about it."""

    config: EvaluateConfig
    landmarker: NetworkLandmarker
    videos: dict[str, list[EvaluatedVideo]] = field(default_factory=lambda: {"generated": [], "real": []})
    facts: dict[str, dict[str, Facts]] = field(default_factory=lambda: {"generated": {}, "real": {}})
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: list[str] = field(default_factory=list)


def cases_of(
    generated: Path,
    truth: Path | None,
    audio: Path | None,
    *,
    protocol: str = "plain",
    method: str = "plain",
    count: int | None = None,
    seed: int = 0,
) -> Cases:
    """The cases of a folder of generated videos under a protocol; see `apps.protocols`."""
    layouts = {
        "celebv-hq": lambda: celebv_hq_cases(truth, seed=seed, **({"count": count} if count else {})),
        "ravdess": lambda: ravdess_cases(truth),
        "hdtf": lambda: hdtf_cases(truth, audio=audio),
    }
    if protocol == "open-set":
        if truth is None or audio is None:
            raise ValueError("the open set needs its portraits (--truth) and its sounds (--audio)")
        open_set = open_set_cases(truth, audio, seed=seed, count=count)
        return _with_videos(open_set, generated, method)
    if protocol == "plain" and method == "plain":
        cases = plain_cases(generated, truth, audio)
    else:
        if truth is None:
            raise ValueError("a protocol or a method's file names need the real videos: give --truth")
        cases = layouts[protocol]() if protocol != "plain" else plain_cases(truth, truth, audio)
        cases = _with_videos(cases, generated, method)
    return cases if count is None or protocol == "celebv-hq" else sample(cases, count, seed)


def _with_videos(cases: Cases, generated: Path, method: str) -> Cases:
    """The cases with their generated videos, by name or by a method's file names."""
    if method != "plain":
        return with_generated(cases, adapt_outputs(generated, method, cases.cases))
    videos = plain_cases(generated, None, None)
    paths = {case.name: case.generated for case in videos.cases}
    return with_generated(cases, Outputs(paths=paths, notes=videos.notes))


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure everything, write `report.json`, .md, .csv and .html and `means.csv`, and return the report.

    Raises:
        ValueError: there is no generated video, or none could be read.
    """
    make_folder(config.out / "videos")
    with only_run_in(config.out):
        remove_partial_files(config.out / "videos")
        return _evaluated(config)


def _evaluated(config: EvaluateConfig) -> dict[str, Any]:
    cases = [case for case in config.cases.cases if case.generated is not None]
    if not cases:
        raise ValueError(
            f"there is no generated video among {len(config.cases.cases)} cases; nothing to evaluate"
        )
    evaluation = _Evaluation(config=config, landmarker=NetworkLandmarker(), notes=list(config.cases.notes))
    for case in with_progress(cases, description="videos"):
        _measure_case(evaluation, case)
    if not evaluation.rows:
        raise ValueError(
            f"none of {len(cases)} videos could be measured; the first reason: "
            f"{evaluation.notes[len(config.cases.notes)]}"
        )
    report = _report(evaluation, cases)
    # A number that is none would make the file no JSON: each was looked at when it was measured.
    _write(config.out / "report.json", json.dumps(report, indent=1, allow_nan=False))
    _write(config.out / "report.md", markdown(report))
    _write(config.out / "report.csv", videos_csv(report["videos"]))
    _write(config.out / "means.csv", means_csv(report))
    _write(config.out / "report.html", evaluation_page(report))
    return report


def _report(evaluation: _Evaluation, cases: Sequence[Case]) -> dict[str, Any]:
    config, left_out = evaluation.config, evaluation.left_out
    num_real = sum(case.truth is not None for case in cases)
    counts = {"generated": len(cases), "real": num_real, "pair": num_real}
    sets = set_distances(evaluation.videos, left_out)
    outside = outside_measures(evaluation.videos, config.device, left_out)
    return {
        "version": VERSION,
        "openloopy": __version__,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "name": config.name,
        "protocol": {"counts": config.cases.counts, "seed": config.cases.seed},
        "notes": [*evaluation.notes, *mismatches(evaluation.facts), *left_out.notes()],
        "cases": counts,
        "numbers": _summary(evaluation.rows),
        "sets": sets.values,
        "outside": outside.values,
        "used": sets.used | outside.used,
        "left_out": left_out.reasons,
        "videos": evaluation.rows,
    }


def _measure_case(evaluation: _Evaluation, case: Case) -> None:
    """A row of the report; a note, and none, where the generated video cannot be read."""
    found: dict[str, EvaluatedVideo] = {}
    for side, path in (("generated", case.generated), ("real", case.truth)):
        if path is None:
            continue
        try:
            found[side] = _measured_file(evaluation, case, side, path)
        except (MediaError, ValueError) as error:
            evaluation.notes.append(f"{case.name}, {side}: {error}")
    if "generated" not in found:
        evaluation.facts["real"].pop(case.name, None)
        return
    measured = {side: video.measured for side, video in found.items()}
    row: dict[str, Any] = {"name": case.name, "category": case.category, "files": {}}
    for side, video in found.items():
        evaluation.videos[side].append(video)
        row["files"][side] = evaluation.facts[side][case.name].key
        row[side] = _told(evaluation, case, side, Found(measured[side].numbers, measured[side].left_out))
    if "real" in found:
        row["pair"] = _told(evaluation, case, "pair", _pair(evaluation.config.align, case, found, measured))
    evaluation.rows.append(row)


def _measured_file(evaluation: _Evaluation, case: Case, side: str, path: Path) -> EvaluatedVideo:
    """A file of a case, measured."""
    sound = case.audio or path
    stored = _stored(evaluation, path, sound)
    evaluation.notes += [f"{case.name}, {side}: {note}" for note in _sound_notes(sound)]
    fps = probe_video(path).fps
    key = stored.stem.removesuffix(f"-v{VERSION}")
    evaluation.facts[side][case.name] = Facts.of(load_measured(stored), fps, key)
    return EvaluatedVideo(case.name, path, stored, partial(_sound_of, path, sound))


def _told(evaluation: _Evaluation, case: Case, side: str, found: Found) -> dict[str, float]:
    """The numbers; what is missing among them goes to the notes."""
    for name, reason in found.left_out.items():
        evaluation.left_out.add(name, side, case.name, reason)
    return found.numbers


def _pair(
    align: Path | None, case: Case, videos: Mapping[str, EvaluatedVideo], measured: Mapping[str, Measured]
) -> Found:
    """Numbers of the generated video beside the real one; closures where word times are asked for."""
    generated, real = measured["generated"], measured["real"]
    found = measure_pair(generated, real, (videos["generated"].frames, videos["real"].frames))
    if align is None:
        return found
    path = align / f"{case.name}.align"
    if not path.is_file():
        found.leave_out(["closures"], f"no word times (NAME.align) in {align}")
        return found
    closed = measure_closures(generated, real, path)
    return Found(found.numbers | closed.numbers, found.left_out | closed.left_out)


def _stored(evaluation: _Evaluation, path: Path, sound: Path) -> Path:
    """What was measured of this file with this sound, in OUT/videos; measured now where it is not there."""
    key = f"{sha256_file(path)[:16]}-{sha256_file(sound)[:8]}-v{VERSION}"
    stored = evaluation.config.out / "videos" / f"{key}.npz"
    if stored.exists():
        try:
            load_measured(stored)
            return stored
        except ValueError as error:
            evaluation.notes.append(f"{path.name} is measured again: {error}")
    save_measured(_measure_file(path, sound, evaluation.landmarker), stored)
    return stored


def _measure_file(path: Path, sound: Path, landmarker: NetworkLandmarker) -> Measured:
    try:
        waveform = _sound_of(path, sound)
    except AudioError as error:
        waveform = f"sound: {str(error).removeprefix(f'{path} ')}"
    return measure_video(partial(read_steady, path), waveform, landmarker)


def _sound_notes(sound: Path) -> list[str]:
    """What is to be known of a sound, such as where it is damaged; where there is none, the numbers say so."""
    try:
        return [note.replace(f"{sound}", sound.name) for note in open_sound(sound).notes]
    except AudioError:
        return []


def _sound_of(path: Path, sound: Path) -> np.ndarray:
    """The sound from the first picture on where it lies in the video itself, whose tracks may begin apart."""
    opened = open_sound(sound)
    waveform = opened.waveform.whole()
    if sound != path:
        return waveform
    reader = SteadyReader(path)
    next(iter(reader))
    late = round((opened.start_s - reader.info.first_time_s) * SAMPLE_RATE_HZ)
    return np.pad(waveform, (late, 0)) if late > 0 else waveform[-late:]


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each number's mean over the videos, with a bootstrap interval over videos."""
    summary: dict[str, Any] = {}
    for name in NUMBERS:
        for side in ("generated", "real", "pair"):
            values = [row[side][name] for row in rows if name in row.get(side, {})]
            if values:
                summary.setdefault(name, {})[side] = interval(values)
    return summary


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean, its 95 % bootstrap interval over videos (seeded), deviation and count."""
    array = np.asarray(values, float)
    rng = np.random.default_rng(SEED)
    means = array[rng.integers(len(array), size=(BOOTSTRAP, len(array)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": float(array.mean()),
        "low": float(low),
        "high": float(high),
        "sd": float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        "num_videos": len(array),
    }


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial_path:
        partial_path.write_text(text, "utf-8", newline="")
