"""From videos to numbers: what one person's video scores, and what many people's scores add up to.

Where a number has a `_truth`, that is the same meter on the true video, so that the meter's errors cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from quality_cases import Case, Tracked

from openloopy.face.movement import eye_boxes, eye_opening, lip_gap, mouth_box
from openloopy.measures.behaviour import blink_intervals, interval_distance
from openloopy.measures.identity import face_descriptor, face_similarity, texture_similarity
from openloopy.measures.motion import blinks, border_step_ratio, exp, face_found, glo, head_speed, per_frame
from openloopy.measures.quality import flicker, frame_difference, psnr_of_error, sharpness, squared_error
from openloopy.measures.sync import closures, false_closures, lip_gap_correlation, pearson
from openloopy.media.video import FPS

MAX_LAG_FRAMES = 10
LOOKED_AT_STEP = 5
"""Sharpness and similarity are measured on every so many frames."""
FLICKER_FRAMES = 75
MIN_FACES = 10
MOUTH_DIFFERS = 0.04
"""The mouth's state differs from the reference when the lip gap does by more than this (eye distances)."""
EYES_DIFFER = 0.35
"""The eyes' state differs when their opening does by more than this share of the person's open eyes."""

TOTALS = ("frames", "blinks", "blinks_truth", "closures_asked", "vowels_asked")
TOTALS += tuple(f"{name}_closed{suffix}" for name in ("closures", "vowels") for suffix in ("", "_truth"))
"""Counts: added up over people, since one clip holds few of them."""
RATIOS_OF_MEDIANS = ("glo", "exp", "head_speed", "border_step")
"""Heads move at random, so people are not compared one by one: median of ours over median of the truth."""


def judge(case: Case, ours: Tracked, seen: Tracked | None, clip_frames: int) -> dict[str, Any]:
    """All numbers of one person.

    Args:
        case: what was asked for.
        clip_frames: frames that the model generates at a time.
        ours: our video.
        seen: the true video as the tracker sees it, None where there is none.
    """
    numbers = {"person": case.person, "clip": case.clip, "frames": len(ours.frames)}
    numbers |= {"face_found": face_found(ours.points), **video_measures(ours, case, clip_frames)}
    portrait_sharpness = sharpness(case.portrait, face_box(case.portrait_points))
    numbers["portrait_sharpness_ratio"] = ratio(numbers["sharpness"], portrait_sharpness)
    if case.truth is None or seen is None:
        return numbers
    truth = video_measures(seen, case, clip_frames)
    numbers |= {f"{name}_truth": value for name, value in truth.items()}
    for name in ("sharpness", "face_similarity", "texture_similarity"):
        numbers[f"{name}_ratio"] = ratio(numbers[name], truth[name])
    return numbers | lips(case, ours, seen)


def lips(case: Case, ours: Tracked, seen: Tracked) -> dict[str, float]:
    """Lip gap and closures against the truth."""
    gap, gap_seen, true_gap = (per_frame(lip_gap, video.points) for video in (ours, seen, case.truth))
    in_step = lip_gap_correlation(gap, true_gap, MAX_LAG_FRAMES)
    numbers = {
        "lip_gap_correlation": in_step.r,
        "lip_gap_lag_frames": in_step.best_lag,
        "lip_gap_correlation_best_lag": in_step.best_r,
        "lip_gap_correlation_truth": pearson(gap_seen, true_gap),
        "lip_gap_sd_ratio": ratio(spread(gap), spread(true_gap)),
    }
    for name, count, when in (
        ("closures", closures, case.spoken.closures),
        ("vowels", false_closures, case.spoken.vowels),
    ):
        numbers[f"{name}_asked"] = count(gap, true_gap, when).num_intervals
        numbers[f"{name}_closed"] = count(gap, true_gap, when).num_closed
        numbers[f"{name}_closed_truth"] = count(gap_seen, true_gap, when).num_closed
    return numbers


def video_measures(video: Tracked, case: Case, clip_frames: int) -> dict[str, float]:
    """What one video looks like beside its portrait; NaN for what needs a face, where too few were found."""
    of_face: dict[str, Callable[[], float]] = {
        "sharpness": lambda: median([sharpness(f, face_box(p)) for f, p in looked_at(video)]),
        "lip_gap_sd": lambda: spread(per_frame(lip_gap, video.points)),
        "blinks": lambda: len(blinks(per_frame(eye_opening, video.points), FPS)),
        "glo": lambda: glo(video.points),
        "exp": lambda: exp(video.points),
        "head_speed": lambda: head_speed(video.points, FPS),
        "border_step": lambda: border_step_ratio(video.points, clip_frames),
    }
    return {
        **{name: measure() if is_measurable(video) else np.nan for name, measure in of_face.items()},
        **similarities(video, case),
        "flicker": flicker(video.frames[:FLICKER_FRAMES]),
        "frame_difference": frame_difference(video.frames[:FLICKER_FRAMES]),
    }


def similarities(video: Tracked, case: Case) -> dict[str, float]:
    """Mean similarity of the video's faces with the portrait, by both measures; 0 where there is no face.

    The first frame is left out: in a true video it is the portrait itself.
    """
    faces = looked_at(video)[1:]
    if not faces:
        return {"face_similarity": 0.0, "texture_similarity": 0.0}
    portrait = face_descriptor(case.portrait, case.portrait_points)
    textures = [texture_similarity(*face, case.portrait, case.portrait_points) for face in faces]
    return {
        "face_similarity": float(np.mean([face_similarity(face_descriptor(*f), portrait) for f in faces])),
        "texture_similarity": float(np.mean(textures)),
    }


def summary(people: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over people; counts are added up, and `face_found` is a mean over all frames: it hides nobody."""
    names = [name for name, value in people[0].items() if not isinstance(value, str)]
    columns = {name: np.array([person[name] for person in people], np.float64) for name in names}
    totals = {name: float(np.nansum(columns[name])) for name in names if name in TOTALS}
    medians = {name: _nanmedian(columns[name]) for name in names if name not in TOTALS}
    found = {"face_found": float(np.average(columns["face_found"], weights=columns.get("frames")))}
    return {**medians, **totals, **found, **rates({**medians, **totals})}


def rates(numbers: dict[str, float]) -> dict[str, float]:
    """What sums and medians over people give together."""
    per_minute = 60 * FPS / numbers["frames"] if numbers.get("frames") else np.nan
    found = {
        f"blinks_per_minute{suffix}": numbers[f"blinks{suffix}"] * per_minute
        for suffix in ("", "_truth")
        if f"blinks{suffix}" in numbers
    }
    if "blinks_truth" in numbers:
        found["blink_ratio"] = ratio(numbers["blinks"], numbers["blinks_truth"])
    for name in RATIOS_OF_MEDIANS:
        if f"{name}_truth" in numbers:
            found[f"{name}_ratio"] = ratio(numbers[name], numbers[f"{name}_truth"])
    for name, rate in (("closures", "closure_rate"), ("vowels", "false_closure_rate")):
        for suffix in ("", "_truth"):
            if f"{name}_closed{suffix}" in numbers:
                found[rate + suffix] = ratio(numbers[f"{name}_closed{suffix}"], numbers[f"{name}_asked"])
    return found


def blinking(ours: list[np.ndarray], true: list[np.ndarray]) -> dict[str, float]:
    """How far our intervals between blinks lie from the true ones, in seconds, and how far people lie from people.

    Args:
        ours, true: landmarks `f 68 2` of each video.
    """
    found, real = ([blink_intervals(points, FPS) for points in videos] for videos in (ours, true))
    halves = np.concatenate(real[::2]), np.concatenate(real[1::2]) if len(real) > 1 else np.array([])
    distance, spread_of_people = np.nan, np.nan
    if sum(map(len, found)) and sum(map(len, real)):
        distance = interval_distance(np.concatenate(found), np.concatenate(real))
    if all(map(len, halves)):
        spread_of_people = interval_distance(*halves)
    return {"blink_interval_distance": distance, "blink_interval_distance_people": spread_of_people}


def shuffled_correlation(ours: list[np.ndarray], true: list[np.ndarray]) -> float:
    """The control: our lip gaps `f` against the next person's truth. Anything but about 0 would be a flaw."""
    if len(ours) < 2:
        return float("nan")
    pairs = zip(ours, true[1:] + true[:1], strict=True)
    shared = [(a, b, min(len(a), len(b))) for a, b in pairs]
    return median([pearson(a[:length], b[:length]) for a, b, length in shared])


def autoencoder_errors(truth: Tracked, decoded: np.ndarray) -> dict[str, list[float]]:
    """Squared errors of decoded true latents, by place and by whether its state differs from the first frame's.

    Args:
        truth: the true video; frames without a face are left out.
        decoded: the same frames encoded and decoded, `f H W 3` uint8.
    """
    errors: dict[str, list[float]] = {
        name: [] for name in ("mouth", "eyes", "mouth_like", "eyes_like", "all")
    }
    mouth_differs, eyes_differ = differing_frames(truth.points)
    for i in np.flatnonzero(np.isfinite(truth.points).all(axis=(1, 2))):
        mouth = squared_error(decoded[i], truth.frames[i], mouth_box(truth.points[i]))
        eyes = [squared_error(decoded[i], truth.frames[i], box) for box in eye_boxes(truth.points[i])]
        errors["mouth" if mouth_differs[i] else "mouth_like"].append(mouth)
        errors["eyes" if eyes_differ[i] else "eyes_like"].append(float(np.mean(eyes)))
        errors["all"].append(squared_error(decoded[i], truth.frames[i]))
    return errors


def autoencoder_psnr(people: list[dict[str, list[float]]]) -> dict[str, float]:
    """dB of the mean squared error over all frames of all people, and how many frames differed; NaN: none.

    Of nobody, as with a codec whose portrait itself moves: nothing.
    """
    if not people:
        return {}
    errors = {name: [error for person in people for error in person[name]] for name in people[0]}
    psnr = {
        f"autoencoder_psnr_{name}": psnr_of_error(float(np.mean(found))) if found else np.nan
        for name, found in errors.items()
    }
    share = {
        f"share_{name}_differ": ratio(len(errors[name]), len(errors["all"])) for name in ("mouth", "eyes")
    }
    return {**psnr, **share}


def differing_frames(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames `f` bool whose mouth, and whose eyes, are in another state than in the first; points `f 68 2`."""
    gap, opening = per_frame(lip_gap, points), per_frame(eye_opening, points)
    open_eyes = np.nanpercentile(opening, 90)
    return abs(gap - gap[0]) > MOUTH_DIFFERS, abs(opening - opening[0]) > EYES_DIFFER * open_eyes


def looked_at(video: Tracked) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every `LOOKED_AT_STEP`-th frame with its 68 points, where a face was found."""
    known = np.flatnonzero(np.isfinite(video.points).all(axis=(1, 2)))
    return [(video.frames[i], video.points[i]) for i in known[::LOOKED_AT_STEP]]


def is_measurable(video: Tracked) -> bool:
    """Whether a face was found in enough frames to speak of its motion."""
    return face_found(video.points) * len(video.points) >= MIN_FACES


def face_box(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points.min(0), points.max(0)])


def spread(track: np.ndarray) -> float:
    """Standard deviation over the frames with a face; 0 where there is none."""
    known = track[np.isfinite(track)]
    return float(known.std()) if len(known) else 0.0


def ratio(ours: float, truth: float) -> float:
    return ours / truth if truth else float("nan")


def _nanmedian(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")
