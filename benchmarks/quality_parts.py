"""The parts of the quality benchmark: each animates its cases one by one and returns its numbers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality_cases import (
    Case,
    Refused,
    Tracked,
    fit_sound,
    footage_paths,
    pair_up,
    read_footage,
    read_pairs,
    read_puppets,
    track,
)
from quality_numbers import (
    autoencoder_errors,
    autoencoder_psnr,
    blinking,
    face_box,
    judge,
    shuffled_correlation,
    summary,
)
from quality_pictures import SHEET_COLUMNS, STRIP_FRAMES, Sheets, write_video

from openloopy.face.landmarks import NetworkLandmarker
from openloopy.face.movement import lip_gap
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline
from openloopy.measures.drift import Colours, colour_drift, colours_of, mean_colours, relative_change
from openloopy.measures.identity import face_descriptor, face_similarity, texture_similarity
from openloopy.measures.motion import per_frame
from openloopy.measures.quality import cut_box, sharpness
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.media.video import FPS, VideoWriter
from openloopy.models.codec import KLCodec
from openloopy.models.rig_codec import Portrait

DRIFT_STEP = 5
"""Drift is measured on every so many frames; the others are not kept."""
CLOSED_GAP = 0.02
"""Of a portrait whose mouth is closed, eye distances."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The model under test, the eyes that judge it, and where the pictures go."""

    pipeline: LoopyPipeline
    landmarker: NetworkLandmarker
    generation: GenerationOptions
    out: Path

    def frames(self, case: Case) -> Iterator[np.ndarray]:
        """Our video for the case, one `H W 3` uint8 frame after the other."""
        source = Portrait(case.portrait) if case.source is None else case.source
        sound = (case.waveform, SAMPLE_RATE_HZ)
        return self.pipeline.generate(source, sound, options=self.generation)

    def with_seed_of(self, number: int) -> Bench:
        """For one person: whoever is measured moves by a chance of their own."""
        return replace(self, generation=replace(self.generation, seed=self.generation.seed + number))

    @property
    def size_px(self) -> int:
        """Side of the videos."""
        return self.pipeline.output_px(self.generation)


@dataclass(frozen=True)
class Judged:
    """What is kept of one person: numbers and lip gaps, no frames."""

    numbers: dict[str, Any]
    gap: np.ndarray
    true_gap: np.ndarray
    codec_errors: dict[str, list[float]] | None
    """None: its codec does not encode pictures."""
    points: np.ndarray
    true_points: np.ndarray
    """`f 68 2`, as tracked."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one frame of a long video looks like; without a face, only its colours."""

    frame: Colours
    face: Colours | None = None
    sharpness: float = np.nan
    face_similarity: float = np.nan
    texture_similarity: float = np.nan


def run_puppets(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Unseen puppets speak unseen sentences; the truth is exact."""
    cases = read_puppets(options.data, options.people, options.seconds, bench.size_px)
    return against_truth(bench, cases, bench.out / "puppets", has_exact_points=True)


def run_real(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Filmed speakers from their first frame and their sound."""
    paths = footage_paths(options.videos, options.held_out)
    cases = read_footage(paths, options.seconds, bench.landmarker, bench.size_px)
    return against_truth(bench, cases, bench.out / "real", has_exact_points=False)


def run_portraits(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Portraits of all kinds with sounds of all kinds; there is no truth."""
    refused: list[Refused] = []
    pairs = pair_up(options.portraits, options.sounds, options.pairs)
    cases = read_pairs(
        pairs,
        options.portrait_seconds,
        bench.landmarker,
        bench.size_px,
        refused.append,
        source_px=bench.pipeline.source_px(bench.generation),
    )
    sheets, folder, people = Sheets(), bench.out / "portraits", []
    for number, case in enumerate(cases):
        ours = generate(bench.with_seed_of(number), case)
        people.append(judge(case, ours, None, bench.pipeline.model.config.clip_frames))
        sheets.add(case, ours)
        write_video(folder / f"{case.clip}.mp4", case, ours)
    sheets.write(folder)
    numbers = summary(people) if people else {}
    return {**numbers, "refused": [asdict(each) for each in refused], "people": people}


def run_quiet(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Closed portraits with speech, the same 30 dB softer, digital silence, and white noise at -50 dB."""
    pairs = pair_up(options.portraits, options.sounds, options.pairs)
    cases = read_pairs(
        pairs,
        options.portrait_seconds,
        bench.landmarker,
        bench.size_px,
        lambda refused: None,
        source_px=bench.pipeline.source_px(bench.generation),
    )
    closed = (case for case in cases if lip_gap(case.portrait_points[None])[0] < CLOSED_GAP)
    people = []
    for number, case in enumerate(islice(closed, options.quiet_people)):
        gaps = {}
        for name, waveform in quiet_sounds(case.waveform).items():
            heard = replace(case, clip=f"{case.clip}__{name}", waveform=waveform)
            ours = generate(bench.with_seed_of(number), heard)
            write_video(bench.out / "quiet" / f"{heard.clip}.mp4", heard, ours)
            gaps[name] = per_frame(lip_gap, ours.points)
        people.append({"person": case.person, "clip": case.clip, **quiet_numbers(gaps)})
    if not people:
        raise ValueError(f"none of {len(pairs)} portraits has a closed mouth, which the part `quiet` needs")
    return {**summary(people), "people": people}


def quiet_sounds(speech: np.ndarray) -> dict[str, np.ndarray]:
    """What is played to a portrait, all as long as the speech: 16 bits, as in files."""
    loud = speech / max(float(np.abs(speech).max()), 1e-6)
    noise = np.random.default_rng(0).standard_normal(len(speech)) * 10 ** (-50 / 20)
    sounds = {"speech": loud, "soft": loud * 10 ** (-30 / 20), "silence": 0 * loud, "noise": noise}
    return {name: (np.round(sound * 32767) / 32767).astype(np.float32) for name, sound in sounds.items()}


def quiet_numbers(gaps: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean lip gaps over speech's, and how far the curve of soft speech lies from that of loud speech, of its range."""
    speech = np.nanmean(gaps["speech"])
    low, high = np.nanpercentile(gaps["speech"], (5, 95))
    return {
        "face_found": float(np.mean(np.isfinite(np.concatenate(list(gaps.values()))))),
        "silence_gap_ratio": float(np.nanmean(gaps["silence"]) / speech),
        "noise_gap_ratio": float(np.nanmean(gaps["noise"]) / speech),
        "level_difference": float(np.nanmean(np.abs(gaps["soft"] - gaps["speech"])) / (high - low)),
    }


def run_drift(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Long videos of puppets: their sounds one after the other, over and over; second half against first."""
    num_frames = 2 * round(options.drift_minutes * 60 * FPS / 2)
    if options.drift_steps is not None:
        bench = replace(bench, generation=replace(bench.generation, steps=options.drift_steps))
    cases = list(read_puppets(options.data, options.people, options.seconds, bench.size_px))
    sounds = [case.waveform for case in cases]
    sheets, people = Sheets(), []
    for i, case in enumerate(cases[: options.drift_people]):
        speech = np.concatenate(sounds[i:] + sounds[:i])
        waveform = np.resize(speech, len(fit_sound(speech, num_frames)))
        people.append(long_video(bench, replace(case, waveform=waveform, truth=None), num_frames, sheets))
    sheets.write(bench.out / "drift")
    steps = bench.generation.steps or bench.pipeline.model.config.defaults.steps
    return {**summary(people), "minutes": options.drift_minutes, "steps": steps, "people": people}


def against_truth(
    bench: Bench, cases: Iterable[Case], folder: Path, *, has_exact_points: bool
) -> dict[str, Any]:
    """Our videos held against the true ones; with exact points the tracker is tried on the true video as well."""
    sheets, people = Sheets(), []
    for number, case in enumerate(cases):
        ours = generate(bench.with_seed_of(number), case)
        seen = track(bench.landmarker, case.truth.frames) if has_exact_points else case.truth
        codec = bench.pipeline.model.codec
        decoded = reconstructions(codec, case.truth.frames) if isinstance(codec, KLCodec) else None
        people.append(
            Judged(
                judge(case, ours, seen, bench.pipeline.model.config.clip_frames),
                per_frame(lip_gap, ours.points),
                per_frame(lip_gap, case.truth.points),
                None if decoded is None else autoencoder_errors(case.truth, decoded),
                ours.points,
                seen.points,
            )
        )
        sheets.add(case, ours)
        write_video(folder / f"{case.clip}.mp4", case, ours)
    sheets.write(folder)
    gaps, true_gaps = [person.gap for person in people], [person.true_gap for person in people]
    return {
        **summary([person.numbers for person in people]),
        "lip_gap_correlation_shuffled": shuffled_correlation(gaps, true_gaps),
        **blinking([person.points for person in people], [person.true_points for person in people]),
        **autoencoder_psnr([person.codec_errors for person in people if person.codec_errors is not None]),
        "people": [person.numbers for person in people],
    }


def generate(bench: Bench, case: Case) -> Tracked:
    """Our video for the case, tracked."""
    started_s = time.monotonic()
    frames = np.stack(list(bench.frames(case)))
    print(f"{case.clip}: {len(frames)} frames in {time.monotonic() - started_s:.0f} s", flush=True)
    return track(bench.landmarker, frames)


def long_video(bench: Bench, case: Case, num_frames: int, sheets: Sheets) -> dict[str, Any]:
    """One long video, written as it comes; only the looks of some frames and a few pictures are kept."""
    started_s, (height, width) = time.monotonic(), case.portrait.shape[:2]
    descriptor = face_descriptor(case.portrait, case.portrait_points)
    moments = set(np.linspace(0, num_frames - 1, SHEET_COLUMNS).round().astype(int).tolist())
    ends = {*range(STRIP_FRAMES), *range(num_frames - STRIP_FRAMES, num_frames)}
    looks, shown = [], {}
    with VideoWriter(
        bench.out / "drift" / f"{case.clip}.mp4", size=(width, height), sound=case.waveform
    ) as writer:
        for i, frame in enumerate(bench.frames(case)):
            writer.write(frame)
            if i % DRIFT_STEP == 0:
                looks.append(look_of(frame, case, descriptor, bench.landmarker))
            if i in moments | ends:
                shown[i] = frame
    print(f"{case.clip}: {num_frames} frames in {time.monotonic() - started_s:.0f} s", flush=True)
    pictures = [np.stack([shown[i] for i in sorted(chosen)]) for chosen in (moments, ends)]
    sheets.add_long(case, *(track(bench.landmarker, frames) for frames in pictures))
    return {"person": case.person, "clip": case.clip, "frames": num_frames, **drift_numbers(looks)}


def look_of(frame: np.ndarray, case: Case, descriptor: np.ndarray, landmarker: NetworkLandmarker) -> Look:
    """One frame of a long video, `H W 3` uint8."""
    faces = landmarker.detect(frame)
    if not faces:
        return Look(frame=colours_of(frame))
    points = faces[0].points68
    return Look(
        frame=colours_of(frame),
        face=colours_of(cut_box(frame, face_box(points))),
        sharpness=sharpness(frame, face_box(points)),
        face_similarity=face_similarity(face_descriptor(frame, points), descriptor),
        texture_similarity=texture_similarity(frame, points, case.portrait, case.portrait_points),
    )


def drift_numbers(looks: list[Look]) -> dict[str, float]:
    """The second half of a video against the first, as shares; similarity drifts only where it falls."""
    halves = looks[: len(looks) // 2], looks[len(looks) // 2 :]
    numbers = {"face_found": float(np.mean([look.face is not None for look in looks]))}
    for name in ("frame", "face"):
        colours = [[c for look in half if (c := getattr(look, name)) is not None] for half in halves]
        if all(colours):
            drift = colour_drift(*(mean_colours(half) for half in colours))
            numbers |= {f"{name}_{what}_drift": value for what, value in asdict(drift).items()}
        else:
            numbers |= {f"{name}_{what}_drift": np.nan for what in ("colour", "saturation", "contrast")}
    for name in ("sharpness", "face_similarity", "texture_similarity"):
        first, second = (_mean([getattr(look, name) for look in half]) for half in halves)
        numbers |= {f"{name}_first": first, f"{name}_second": second}
        numbers[f"{name}_drift"] = relative_change(first, second)
    # np.max, since what is not known must stay NaN
    numbers["colour_drift"] = np.max([numbers["frame_colour_drift"], numbers["face_colour_drift"]])
    numbers["identity_drift"] = np.max(
        [0.0, -numbers["face_similarity_drift"], -numbers["texture_similarity_drift"]]
    )
    return numbers


@torch.inference_mode()
def reconstructions(codec: KLCodec, frames: np.ndarray) -> np.ndarray:
    """Each frame encoded and decoded, `f H W 3` uint8."""
    side, decoded = frames.shape[1], []
    for frame in frames:
        prepared = codec.prepare(Portrait(frame), side)
        decoded += codec.decode(prepared.latents, prepared, 1)
    return np.stack(decoded)


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
