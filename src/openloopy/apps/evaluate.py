"""One command for the paper's tables: every metric on folders of videos, as JSON, Markdown, CSV and a page.

Each video is measured once and its numbers are kept in OUT/videos, so that an interrupted run goes on, and so that no
more than one video's landmarks are in memory. Metrics that need weights from outside are computed where the weights
are, and otherwise say how to get them; they are never guessed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track as with_progress

from openloopy import __version__
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
from openloopy.data.footage import SteadyReader, sound_start
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.measures.behaviour import bilabial_spans, interval_distance, lip_closures, read_grid_words
from openloopy.measures.deep3d import expression_coefficients, published_deep3d
from openloopy.measures.expression import e_fid, landmark_expression_distance
from openloopy.measures.fid_fvd import fid, fvd_inc, fvd_res
from openloopy.measures.iqa import image_quality
from openloopy.measures.outside_weights import WeightsMissing, weights_path
from openloopy.measures.smoothness import motion_smoothness
from openloopy.measures.syncnet import load_syncnet, syncnet_crop, syncnet_score
from openloopy.measures.video_numbers import FPS, NUMBERS, Measured, measure_pair, measure_video
from openloopy.media.audio import SAMPLE_RATE_HZ, AudioError, open_waveform
from openloopy.media.files import MediaError, atomic_write, sha256_file
from openloopy.media.video import probe_video

VERSION = 2
"""Of the per-video numbers; those of another version are measured again."""
BOOTSTRAP, SEED = 1000, 0
IQA_EVERY = 10
OUTSIDE = {
    "Sync-C": "higher",
    "Sync-D": "lower",
    "IQA": "higher",
    "Smooth": "truth",
    "FID": "lower",
    "FVD-Res": "lower",
    "FVD-Inc": "lower",
    "E-FID": "lower",
}
"""Metrics of the paper that need weights from outside, and what is better."""
SETS = {"landmark expression distance": "lower", "blink interval distance, s": "lower"}
"""Distances between the two sets that need none."""


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


@dataclass(frozen=True, eq=False)
class _Video:
    """A measured file, and where what was measured lies."""

    path: Path
    stored: Path

    @property
    def measured(self) -> Measured:
        with np.load(self.stored) as arrays:
            numbers = json.loads(str(arrays["numbers"]))
            return Measured(numbers, arrays["points"], arrays["intervals"], arrays["descriptors"])


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
    """Measure everything, write `report.json`, `report.md`, `report.csv` and `report.html`, and return the report.

    Raises:
        ValueError: there is no generated video, or none could be read.
    """
    from openloopy.apps.evaluation_page import evaluation_page

    (config.out / "videos").mkdir(parents=True, exist_ok=True)
    cases = [case for case in config.cases.cases if case.generated is not None]
    if not cases:
        raise ValueError(
            f"there is no generated video among {len(config.cases.cases)} cases; nothing to evaluate"
        )
    landmarker, rows, notes = NetworkLandmarker(), [], list(config.cases.notes)
    videos: dict[str, list[_Video]] = {"generated": [], "real": []}
    for case in with_progress(cases, description="videos"):
        row = _measure_case(config, case, landmarker, videos, notes)
        if row is not None:
            rows.append(row)
    if not rows:
        raise ValueError(f"none of {len(cases)} videos could be measured; the first reason: {notes[-1]}")
    report = {
        "version": VERSION,
        "openloopy": __version__,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "name": config.name,
        "protocol": {"counts": config.cases.counts, "seed": config.cases.seed},
        "notes": notes,
        "numbers": _summary(rows),
        "sets": _set_distances(videos),
        "outside": _outside(config, cases, videos),
        "videos": rows,
    }
    _write(config.out / "report.json", json.dumps(report, indent=1))
    _write(config.out / "report.md", markdown(report))
    _write(config.out / "report.csv", as_csv(rows))
    _write(config.out / "report.html", evaluation_page(report))
    return report


def _measure_case(
    config: EvaluateConfig,
    case: Case,
    landmarker: NetworkLandmarker,
    videos: dict[str, list[_Video]],
    notes: list[str],
) -> dict[str, Any] | None:
    """A row of the report; None, and a note, where the generated video cannot be read."""
    found: dict[str, _Video] = {}
    for kind, path in (("generated", case.generated), ("real", case.truth)):
        if path is None:
            continue
        try:
            found[kind] = _Video(path, _stored(config.out, path, case.audio or path, landmarker))
        except (MediaError, ValueError) as error:
            notes.append(f"{case.name}, {kind}: {error}")
    if "generated" not in found:
        return None
    for kind, video in found.items():
        videos[kind].append(video)
        fps = probe_video(video.path).fps
        if abs(fps - FPS) > 0.1:
            notes.append(f"{case.name}, {kind}: {fps:.2f} frames per second, read at {FPS}")
    measured = {kind: video.measured for kind, video in found.items()}
    row = {"name": case.name, "category": case.category, "generated": measured["generated"].numbers}
    if "real" in measured:
        frames = tuple(partial(_frames, found[kind].path) for kind in ("generated", "real"))
        pair = measure_pair(measured["generated"], measured["real"], frames)
        pair |= _closures(config.align, case.name, measured)
        row |= {"real": measured["real"].numbers, "pair": pair}
    return row


def _closures(align: Path | None, name: str, measured: dict[str, Measured]) -> dict[str, float]:
    """Share of the words with b, m, p in which our lips close as the real ones do; nothing where none is asked for."""
    path = None if align is None else align / f"{name}.align"
    if path is None or not path.exists():
        return {}
    tracks = [measured[kind].points for kind in ("generated", "real")]
    length = min(map(len, tracks))
    spans = bilabial_spans(read_grid_words(path))
    spans = spans[spans[:, 1] * FPS <= length]
    found = lip_closures(*(track[:length] for track in tracks), spans, FPS)
    return {"closures": found.num_closed / found.num_intervals} if found.num_intervals else {}


def _stored(out: Path, path: Path, sound: Path, landmarker: NetworkLandmarker) -> Path:
    """What was measured of this file with this sound, in OUT/videos; measured now where it is not there."""
    key = f"{sha256_file(path)[:16]}-{sha256_file(sound)[:8]}-v{VERSION}"
    stored = out / "videos" / f"{key}.npz"
    if not stored.exists():
        try:
            waveform = _sound_of(path, sound)
        except AudioError:
            waveform = None
        found = measure_video(partial(_frames, path), waveform, landmarker)
        with atomic_write(stored) as partial_path, open(partial_path, "wb") as file:
            np.savez(
                file,
                numbers=json.dumps(found.numbers),
                points=found.points,
                intervals=found.blink_intervals_s,
                descriptors=found.descriptors,
            )
    return stored


def _frames(path: Path) -> Iterator[np.ndarray]:
    """At 25 fps, whatever rate the file has: the picture that is nearest in time."""
    return (frame.rgb for frame in SteadyReader(path))


def _sound_of(path: Path, sound: Path) -> np.ndarray:
    """The sound from the first picture on where it lies in the video itself, whose tracks may begin apart."""
    waveform = open_waveform(sound)
    if sound != path:
        return waveform
    reader = SteadyReader(path)
    next(iter(reader))
    late = round((sound_start(path) - reader.info.first_time_s) * SAMPLE_RATE_HZ)
    return np.pad(waveform, (late, 0)) if late > 0 else waveform[-late:]


def _all_frames(paths: Sequence[Path]) -> Iterator[Iterator[np.ndarray]]:
    return map(_frames, paths)


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


def _set_distances(videos: dict[str, list[_Video]]) -> dict[str, Any]:
    """Distances of the generated and the real set; a text where one cannot be had."""
    sides = [videos[kind] for kind in ("generated", "real")]
    if not sides[1]:
        return dict.fromkeys(SETS, "needs real videos (--truth)")
    points = [(video.measured.points for video in side) for side in sides]
    intervals = [np.concatenate([video.measured.blink_intervals_s for video in side]) for side in sides]
    measures: dict[str, Callable[[], float]] = {
        "landmark expression distance": lambda: landmark_expression_distance(*points),
        "blink interval distance, s": lambda: interval_distance(*intervals),
    }
    return {name: _value_or_text(measure) for name, measure in measures.items()}


def _outside(
    config: EvaluateConfig, cases: Sequence[Case], videos: dict[str, list[_Video]]
) -> dict[str, Any]:
    """The paper's metrics that need weights from outside: values, or what is missing."""
    ours, real = videos["generated"], videos["real"]
    paths = [[video.path for video in side] for side in (ours, real)]
    sounds = {case.generated: case.audio or case.generated for case in cases}
    single = {
        "Sync-C": lambda: _syncnet(ours, sounds, "confidence"),
        "Sync-D": lambda: _syncnet(ours, sounds, "distance"),
        "IQA": lambda: _mean(partial(image_quality, every=IQA_EVERY, device=config.device), paths[0]),
        "Smooth": lambda: _mean(partial(motion_smoothness, device=config.device), paths[0]),
    }
    pairs = {
        "FID": lambda: fid(*map(_all_frames, paths)).distance,
        "FVD-Res": lambda: fvd_res(*map(_all_frames, paths)).distance,
        "FVD-Inc": lambda: fvd_inc(*map(_all_frames, paths)).distance,
        "E-FID": lambda: e_fid(*(_coefficients(side) for side in (ours, real))),
    }
    found = {name: _value_or_text(measure) for name, measure in single.items()}
    for name, measure in pairs.items():
        found[name] = _value_or_text(measure) if real else "needs real videos (--truth)"
    return found


def _value_or_text(measure: Callable[[], float]) -> float | str:
    try:
        return float(measure())
    except (WeightsMissing, ValueError) as error:
        return str(error)


def _mean(measure: Callable[[Iterator[np.ndarray]], float], paths: Sequence[Path]) -> float:
    return float(np.mean([measure(_frames(path)) for path in paths]))


def _syncnet(videos: Sequence[_Video], sounds: dict[Path, Path], field: str) -> float:
    network = load_syncnet(weights_path("syncnet"))
    scores = []
    for video in videos:
        crops = syncnet_crop(_frames(video.path), video.measured.points)
        waveform = _sound_of(video.path, sounds[video.path])
        scores.append(getattr(syncnet_score(network, crops, waveform), field))
    return float(np.mean(scores))


def _coefficients(videos: Sequence[_Video]) -> Iterator[np.ndarray]:
    network = published_deep3d()
    for video in videos:
        yield expression_coefficients(_frames(video.path), video.measured.points, network=network)


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown page."""
    counts = [row["num_videos"] for number in report["numbers"].values() for row in number.values()]
    lines = [f"# {report['name']}", "", f"{len(report['videos'])} videos, {report['date']}.", ""]
    lines += ["| measure | generated | real | better | unit |", "|---|---|---|---|---|"]
    for name, sides in report["numbers"].items():
        number = NUMBERS[name]
        cells = [_cell(sides.get(side)) for side in ("generated", "real")]
        cells[0] = _cell(sides["pair"]) if "pair" in sides else cells[0]
        lines.append(f"| {number.title} | {cells[0]} | {cells[1]} | {number.better} | {number.unit} |")
    for title, values, better in (
        ("Between the sets", report["sets"], SETS),
        ("Networks from outside", report["outside"], OUTSIDE),
    ):
        lines += ["", f"## {title}", "", "| measure | value | better |", "|---|---|---|"]
        lines += [f"| {name} | {_value(value)} | {better[name]} |" for name, value in values.items()]
    lines += [
        "",
        f"Means over videos (at most {max(counts, default=0)}) with 95 % bootstrap intervals over videos.",
    ]
    lines += ["", *(f"- {note}" for note in report["notes"])]
    return "\n".join(lines).rstrip() + "\n"


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """One line per video and side."""
    text = io.StringIO()
    names = list(NUMBERS)
    writer = csv.writer(text)
    writer.writerow(["name", "category", "side", *names])
    for row in rows:
        for side in ("generated", "real", "pair"):
            if side in row:
                writer.writerow(
                    [row["name"], row["category"], side, *(row[side].get(name, "") for name in names)]
                )
    return text.getvalue()


def _cell(summary: dict[str, float] | None) -> str:
    if summary is None:
        return ""
    return f"{summary['mean']:.4g} [{summary['low']:.4g}, {summary['high']:.4g}]"


def _value(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial_path:
        partial_path.write_text(text, "utf-8")
