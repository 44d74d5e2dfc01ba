"""How good are the videos? Unseen puppets speak unseen sentences; ours is held against the puppet's own video.

    python benchmarks/quality.py --model mini --data SHARDS --people 10 --out DIR

SHARDS is a puppet corpus with `val` clips: people, voices and sentences that training never saw. For each of the
people the first frame of a clip is the portrait and the clip's sound the speech; landmarks are tracked on our frames
and compared with what the puppet really did. Where a number has a `_truth`, that is the same meter on the puppet's
own frames, so that the meter's errors cancel. DIR gets contact sheets and the videos (ours left, truth right); the
last line printed is one JSON object, which benchmarks/README.md explains.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from provenance import folder_hash, provenance, rounded, save_result

from openloopy.apps.doctor import choose
from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.shards import Sample, read_shards
from openloopy.face.landmarks import MediapipeLandmarker
from openloopy.face.movement import eye_boxes, eye_opening, lip_gap, mouth_box
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline, plan_clips
from openloopy.measures.identity import face_descriptor, face_similarity
from openloopy.measures.motion import (
    blinks_per_minute,
    exp,
    face_found,
    glo,
    head_speed,
    per_frame,
    points_of,
)
from openloopy.measures.quality import flicker, frame_difference, psnr_of_error, sharpness, squared_error
from openloopy.measures.sync import LagCorrelation, lip_gap_correlation, pearson
from openloopy.media.image import write_image
from openloopy.media.video import FPS, VideoWriter, contact_sheet
from openloopy.models.folder import find_model_folder

MAX_LAG_FRAMES = 10
LOOKED_AT_STEP = 5
"""Sharpness and similarity are measured on every so many frames."""
FLICKER_FRAMES = 75
MIN_FACES = 10
MOUTH_DIFFERS = 0.04
"""The mouth's state differs from the reference when the lip gap does by more than this (eye distances)."""
EYES_DIFFER = 0.35
"""The eyes' state differs when their opening does by more than this share of the person's open eyes."""
SHEET_COLUMNS, SHEET_PX = 12, 128
STRIP_FRAMES, STRIP_PX, STRIP_START = 24, 64, 25


@dataclass(frozen=True, kw_only=True)
class Case:
    """One unseen person: portrait, sound, and what the puppet did with them."""

    person: str
    clip: str
    frames: np.ndarray
    """The puppet's video, `f H W 3` uint8; the first frame is the portrait."""
    points: np.ndarray
    """`f 68 2` px, by construction."""
    waveform: np.ndarray
    """`samples`, 16 kHz."""


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """A video and the landmarks found in it."""

    frames: np.ndarray
    points: np.ndarray
    """`f 68 2` px, NaN where no face was found."""


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    started_s = time.monotonic()
    choice = choose(options.device, options.dtype)
    pipeline = LoopyPipeline.from_pretrained(options.model, device=choice.device, dtype=choice.dtype)
    cases = read_cases(options.data, options.people, options.seconds, pipeline.size_px)
    landmarker = MediapipeLandmarker()
    ours = [track(landmarker, generate(pipeline, case, options)) for case in cases]
    truth = [track(landmarker, case.frames) for case in cases]
    people = [judge(*each) for each in zip(cases, ours, truth, strict=True)]
    result = {
        "benchmark": "quality",
        **summary(people),
        "lip_gap_correlation_shuffled": shuffled_correlation(cases, ours),
        **autoencoder(pipeline, cases),
        "people": people,
        **settings(options, pipeline),
        "seconds": time.monotonic() - started_s,
    }
    write_pictures(options.out, cases, ours)
    report(result, options.out)


def read_cases(shards: Path, num_people: int, seconds: float, size_px: int) -> list[Case]:
    """The first val clip of each of `num_people` people, cut to `seconds`."""
    cases: dict[str, Case] = {}
    for sample in read_shards(shards, "val"):
        if sample.record.person_id not in cases:
            cases[sample.record.person_id] = _to_case(sample, round(seconds * FPS), size_px)
        if len(cases) == num_people:
            return list(cases.values())
    raise ValueError(
        f"{shards} has {len(cases)} people of split val, {num_people} were asked for; give fewer"
    )


def generate(pipeline: LoopyPipeline, case: Case, options: argparse.Namespace) -> np.ndarray:
    """Our video for the case's portrait and sound, `f H W 3` uint8."""
    started_s = time.monotonic()
    frames = np.stack(list(pipeline.generate(case.frames[0], case.waveform, options=generation(options))))
    print(f"{case.person}: {len(frames)} frames in {time.monotonic() - started_s:.0f} s", flush=True)
    return frames


def generation(options: argparse.Namespace) -> GenerationOptions:
    return GenerationOptions(
        seed=options.seed,
        steps=options.steps,
        audio_guidance=options.audio_guidance,
        reference_guidance=options.reference_guidance,
    )


def track(landmarker: MediapipeLandmarker, frames: np.ndarray) -> Tracked:
    return Tracked(frames=frames, points=points_of(landmarker.track(frames)))


def judge(case: Case, ours: Tracked, truth: Tracked) -> dict[str, Any]:
    """All numbers of one person."""
    true_gap = lip_gap(case.points)
    lips = correlation(ours, true_gap)
    portrait = face_descriptor(case.frames[0], case.points[0])
    return {
        "person": case.person,
        "clip": case.clip,
        "lip_gap_correlation": lips.r,
        "lip_gap_lag_frames": lips.best_lag,
        "lip_gap_correlation_best_lag": lips.best_r,
        "lip_gap_correlation_truth": correlation(truth, true_gap).r,
        "lip_gap_sd_ratio": spread(per_frame(lip_gap, ours.points)) / true_gap.std(),
        "face_found": face_found(ours.points),
        "face_similarity": similarity(ours, portrait),
        "face_similarity_true_pair": similarity(truth, portrait),
        **with_truth(ours, truth),
    }


def correlation(video: Tracked, true_gap: np.ndarray) -> LagCorrelation:
    """The lip gap measured in a video against the true one."""
    return lip_gap_correlation(per_frame(lip_gap, video.points), true_gap, MAX_LAG_FRAMES)


def spread(track: np.ndarray) -> float:
    """Standard deviation over the frames with a face; 0 where there is none."""
    known = track[np.isfinite(track)]
    return float(known.std()) if len(known) else 0.0


def with_truth(ours: Tracked, truth: Tracked) -> dict[str, float]:
    """Each measure of appearance and motion on our video, and as `_truth` on the puppet's."""
    both = {"": video_measures(ours), "_truth": video_measures(truth)}
    return {name + suffix: both[suffix][name] for name in both[""] for suffix in both}


def video_measures(video: Tracked) -> dict[str, float]:
    """What one video looks like by itself; NaN for what needs a face, where too few were found."""
    of_face = {
        "sharpness": lambda: median([sharpness(f, face_box(p)) for f, p in looked_at(video)]),
        "blinks_per_minute": lambda: blinks_per_minute(per_frame(eye_opening, video.points), FPS),
        "glo": lambda: glo(video.points),
        "exp": lambda: exp(video.points),
        "head_speed": lambda: head_speed(video.points, FPS),
    }
    return {
        **{name: measure() if is_measurable(video) else np.nan for name, measure in of_face.items()},
        "flicker": flicker(video.frames[:FLICKER_FRAMES]),
        "frame_difference": frame_difference(video.frames[:FLICKER_FRAMES]),
    }


def is_measurable(video: Tracked) -> bool:
    """Whether a face was found in enough frames to speak of its motion."""
    return face_found(video.points) * len(video.points) >= MIN_FACES


def similarity(video: Tracked, portrait: np.ndarray) -> float:
    """Mean similarity of the video's faces with the portrait's descriptor; 0 where there is none."""
    faces = looked_at(video)
    return (
        float(np.mean([face_similarity(face_descriptor(*face), portrait) for face in faces]))
        if faces
        else 0.0
    )


def looked_at(video: Tracked) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every `LOOKED_AT_STEP`-th frame with its 68 points, where a face was found."""
    known = np.flatnonzero(np.isfinite(video.points).all(axis=(1, 2)))
    return [(video.frames[i], video.points[i]) for i in known[::LOOKED_AT_STEP]]


def face_box(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points.min(0), points.max(0)])


def shuffled_correlation(cases: list[Case], ours: list[Tracked]) -> float:
    """The control: our mouths against the next person's sound. Anything but about 0 would be a flaw."""
    others = cases[1:] + cases[:1]
    values = [
        pearson(per_frame(lip_gap, video.points), lip_gap(other.points))
        for video, other in zip(ours, others, strict=True)
    ]
    return median(values)


def summary(people: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over people; `face_found` is a mean, since it must not hide the one who was lost."""
    numbers = [name for name, value in people[0].items() if not isinstance(value, str)]
    medians = {name: float(np.nanmedian([person[name] for person in people])) for name in numbers}
    return {**medians, "face_found": float(np.mean([person["face_found"] for person in people]))}


def autoencoder(pipeline: LoopyPipeline, cases: list[Case]) -> dict[str, float]:
    """PSNR of decoded true latents in mouth and eyes, where the state differs from the reference and where not.

    dB of the mean squared error over all such frames of all people.
    """
    errors: dict[str, list[float]] = {
        name: [] for name in ("mouth", "eyes", "mouth_like", "eyes_like", "all")
    }
    for case in cases:
        mouth_differs, eyes_differ = differing_frames(case)
        for i, decoded in enumerate(reconstructions(pipeline, case.frames)):
            mouth = squared_error(decoded, case.frames[i], mouth_box(case.points[i]))
            eyes = [squared_error(decoded, case.frames[i], box) for box in eye_boxes(case.points[i])]
            errors["mouth" if mouth_differs[i] else "mouth_like"].append(mouth)
            errors["eyes" if eyes_differ[i] else "eyes_like"].append(float(np.mean(eyes)))
            errors["all"].append(squared_error(decoded, case.frames[i]))
    psnr = {
        f"autoencoder_psnr_{name}": psnr_of_error(np.mean(found)) for name, found in errors.items() if found
    }
    share = {f"share_{name}_differ": len(errors[name]) / len(errors["all"]) for name in ("mouth", "eyes")}
    return {**psnr, **share}


def differing_frames(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Frames `f` bool whose mouth, and whose eyes, are in another state than in the portrait."""
    gap, opening = lip_gap(case.points), eye_opening(case.points)
    open_eyes = np.percentile(opening, 90)
    return abs(gap - gap[0]) > MOUTH_DIFFERS, abs(opening - opening[0]) > EYES_DIFFER * open_eyes


@torch.inference_mode()
def reconstructions(pipeline: LoopyPipeline, frames: np.ndarray) -> np.ndarray:
    """Each frame encoded and decoded with the first as reference, `f H W 3` uint8."""
    codec, device, dtype = pipeline.model.codec, pipeline.model.device, pipeline.model.dtype
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).to(device) / 127.5 - 1
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        reference = codec.prepare_reference(pixels[:1])
        decoded = torch.cat([codec.decode(codec.encode(few), reference).float() for few in pixels.split(4)])
    return ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def settings(options: argparse.Namespace, pipeline: LoopyPipeline) -> dict[str, Any]:
    """Model, command and machine."""
    folder = find_model_folder(options.model)
    plan = plan_clips(pipeline.model.config, generation(options), pipeline.model.device)
    return {
        "model": options.model,
        "model_hash": folder_hash(folder),
        "device": str(pipeline.model.device),
        "dtype": str(pipeline.model.dtype).removeprefix("torch."),
        "threads": options.threads,
        "seed": plan.seed,
        "steps": plan.sampler.steps,
        "audio_guidance": plan.guidance.audio,
        "reference_guidance": plan.guidance.reference,
        "seconds_per_clip": options.seconds,
        **provenance(),
    }


def write_pictures(out: Path, cases: list[Case], ours: list[Tracked]) -> None:
    """frames.png, mouths.png (ours above truth) and one video per person (ours left, truth right)."""
    out.mkdir(parents=True, exist_ok=True)
    whole, mouths = [], []
    for case, video in zip(cases, ours, strict=True):
        chosen = np.linspace(0, len(case.frames) - 1, SHEET_COLUMNS).round().astype(int)
        whole += [_resized(frames[i], SHEET_PX) for frames in (video.frames, case.frames) for i in chosen]
        found = np.where(np.isfinite(video.points), video.points, case.points)
        mouths += [_mouth(video.frames[i], found[i]) for i in strip(case)]
        mouths += [_mouth(case.frames[i], case.points[i]) for i in strip(case)]
        write_video(out / f"{case.clip}.mp4", case, video)
    write_image(out / "frames.png", contact_sheet(whole, SHEET_COLUMNS))
    write_image(out / "mouths.png", contact_sheet(mouths, STRIP_FRAMES))


def write_video(path: Path, case: Case, ours: Tracked) -> None:
    height, width = case.frames.shape[1:3]
    with VideoWriter(path, size=(2 * width, height), sound=case.waveform) as writer:
        for pair in zip(ours.frames, case.frames, strict=True):
            writer.write(np.hstack(pair))


def strip(case: Case) -> range:
    """Consecutive frames for a look at the mouth."""
    start = min(STRIP_START, max(0, len(case.frames) - STRIP_FRAMES))
    return range(start, min(start + STRIP_FRAMES, len(case.frames)))


def report(result: dict[str, Any], out: Path) -> None:
    """Keep the result beside the pictures and among the dated results; print it as the last line."""
    result = rounded(result)
    (out / "quality.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    save_result("quality", result)
    print(json.dumps(result))


def _to_case(sample: Sample, max_frames: int, size_px: int) -> Case:
    frames = decode_frames(sample.mp4, size_px)[:max_frames]
    return Case(
        person=sample.record.person_id,
        clip=sample.record.clip_id,
        frames=frames,
        points=sample.arrays["points68"][:max_frames] * (size_px / sample.record.size_px),
        waveform=decode_sound(sample.flac)[: round(len(frames) / FPS * 16_000)],
    )


def _resized(frame: np.ndarray, size_px: int) -> np.ndarray:
    return cv2.resize(frame, (size_px, size_px), interpolation=cv2.INTER_AREA)


def _mouth(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A square about the mouth of the 68 points."""
    x0, y0, x1, y1 = mouth_box(points)
    corner = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) - (x1 - x0) / 2
    matrix = np.column_stack([np.eye(2) * STRIP_PX / (x1 - x0), -corner * STRIP_PX / (x1 - x0)])
    return cv2.warpAffine(frame, matrix, (STRIP_PX, STRIP_PX), borderMode=cv2.BORDER_REPLICATE)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", help='"mini", a model folder or a hub id')
    parser.add_argument("--data", type=Path, required=True, help="shards with val clips")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each clip, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--audio-guidance", type=float)
    parser.add_argument("--reference-guidance", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
