"""Everything that is measured of one video without weights from outside, and of a generated video beside the real one.

Every number has a name, a unit and a direction; `NUMBERS` lists them. Videos are read at 25 fps. A number that cannot
be had of a video is left out and says why: it is neither 0 nor NaN, which would count in a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from openloopy.face.landmarks import NetworkLandmarker
from openloopy.face.movement import lip_gap
from openloopy.measures.behaviour import (
    bilabial_spans,
    blink_intervals,
    blink_rate,
    drift,
    jitter,
    lip_closures,
    read_grid_words,
)
from openloopy.measures.identity import face_descriptor, face_similarity
from openloopy.measures.lip_sync import MIN_FRAMES, SAMPLES_PER_FRAME, lip_sync
from openloopy.measures.motion import exp, face_found, glo, head_speed, per_frame
from openloopy.measures.quality import flicker, frame_difference, psnr, sharpness
from openloopy.measures.smoothness import smooth_blend
from openloopy.measures.sync import CLOSURE_MARGIN_FRAMES, lip_gap_correlation
from openloopy.media.audio import SAMPLE_RATE_HZ

FPS = 25
SAMPLED_EVERY = 10
"""Frames between those that sharpness and identity look at."""
MAX_LAG = 10
FACE_MARGIN = 0.1
MIN_FACE_FRAMES = MIN_FRAMES
"""With a face in fewer frames than these a video says nothing about motion."""
MIN_FACE_SHARE = 0.5
"""Of the frames, for lip synchrony: frames without a face take part there, with lips that stand still."""
STILL_GAP = 1e-3
"""Lips whose gap has a smaller standard deviation (eye distances) stand still: speech has .03 to .06, a still picture
as a video 1e-5."""
SILENT_RMS = 1e-4
"""Of full scale, -80 dB: a sound below it is none. Rounding to 16 bits lies at -101 dB, a quiet room above -70."""
NO_SOUND = "no sound"
SILENT = "the sound is silent"
NO_FACE = "no face was found"
FEW_FACES = f"a face was found in fewer than {MIN_FACE_FRAMES} frames"
Direction = Literal["higher", "lower", "truth", "none"]
Frames = Callable[[], Iterator[np.ndarray]]
"""Reads a video from its start: `H W 3` uint8 each."""


class Number(NamedTuple):
    """What a number is."""

    title: str
    unit: str
    better: Direction
    """"truth": nearer to the real video's."""


NUMBERS = {
    "num_frames": Number("frames", "", "none"),
    "face_found": Number("frames with a face", "share", "higher"),
    "sharpness": Number("sharpness of the face", "Laplacian over luma variance", "truth"),
    "flicker": Number("flicker", "warping error", "truth"),
    "frame_difference": Number("change from frame to frame", "luma levels", "truth"),
    "smooth_blend": Number("Smooth-blend", "1 - error of blended frames", "truth"),
    "jitter": Number("trembling of landmarks", "1/100 eye distance per frame^2", "truth"),
    "colour_drift": Number("colour drift", "share of black to white", "lower"),
    "identity_drift": Number("identity, last second against the first", "similarity", "higher"),
    "glo": Number("Glo", "(1/100 eye distance)^2", "truth"),
    "exp": Number("Exp", "(1/100 eye distance)^2", "truth"),
    "head_speed": Number("head speed", "eye distances per s", "truth"),
    "blinks_per_minute": Number("blinks", "per minute", "truth"),
    "lip_sync": Number("lip synchrony (our network)", "evidence", "higher"),
    "lip_sync_offset": Number("sound late by", "frames", "none"),
    "d_glo": Number("DGlo", "(1/100 eye distance)^2", "lower"),
    "d_exp": Number("DExp", "(1/100 eye distance)^2", "lower"),
    "lip_gap_r": Number("lip opening, correlation with the real video's", "", "higher"),
    "lip_gap_lag": Number("lips late by", "frames", "none"),
    "closures": Number("lips closed where b, m, p close the real ones", "share", "higher"),
    "identity": Number("identity, against the real video", "similarity", "higher"),
    "psnr": Number("PSNR against the real video", "dB", "higher"),
}


@dataclass
class Found:
    """Numbers, and why others could not be had."""

    numbers: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Reasons by number, without figures of the video where that can be helped, so that equal ones are told once."""

    def take(self, name: str, measure: Callable[[], float]) -> None:
        """Measure a number, or keep the reason why there is none."""
        try:
            value = float(measure())
        except ValueError as error:
            self.left_out[name] = str(error)
            return
        if np.isfinite(value):
            self.numbers[name] = value
        else:
            self.left_out[name] = f"it came out as {value}"

    def leave_out(self, names: Iterable[str], reason: str) -> None:
        self.left_out |= dict.fromkeys(names, reason)


@dataclass(frozen=True, eq=False)
class Measured:
    """One video's numbers, and what set measures and pairs need of it."""

    numbers: dict[str, float]
    left_out: dict[str, str]
    """Why the other numbers could not be had."""
    points: np.ndarray
    """`f 68 2` px, NaN where no face was found."""
    blink_intervals_s: np.ndarray
    descriptors: np.ndarray
    """Identity of sampled frames with a face, `n d`."""
    size_px: tuple[int, int]
    """Width and height."""
    sound_s: float | None
    """Length of the sound that it was measured with; None: there was none."""


def measure_video(frames: Frames, sound: np.ndarray | str, landmarker: NetworkLandmarker) -> Measured:
    """Measure one video; a number that cannot be had (no face, no sound, too short) is left out, with the reason.

    Args:
        frames: reads the video from its start; called a few times, so that memory does not grow with its length.
        sound: `samples` float32 at 16 kHz; or a text that says why there is none, such as `NO_SOUND`.

    Raises:
        ValueError: there are no frames, or they change their size on the way.
    """
    points, size_px = _track(frames(), landmarker)
    found = Found({"num_frames": float(len(points)), "face_found": face_found(points)})
    descriptors = _face_numbers(found, frames, points)
    _picture_numbers(found, frames)
    _motion_numbers(found, points)
    _sync_numbers(found, points, sound)
    return Measured(
        numbers=found.numbers,
        left_out=found.left_out,
        points=points,
        blink_intervals_s=_intervals(points),
        descriptors=descriptors,
        size_px=size_px,
        sound_s=None if isinstance(sound, str) else len(sound) / SAMPLE_RATE_HZ,
    )


def measure_pair(generated: Measured, real: Measured, frames: tuple[Frames, Frames]) -> Found:
    """Numbers of a generated video beside the real one, over the frames that both have."""
    found, sides = Found(), {"generated": generated, "real": real}
    for name in ("glo", "exp"):
        if reason := _missing_in(sides, name):
            found.leave_out([f"d_{name}"], reason)
        else:
            found.take(f"d_{name}", lambda name=name: abs(generated.numbers[name] - real.numbers[name]))
    _lip_gap_numbers(found, sides)
    if reason := _faceless(sides):
        found.leave_out(["identity"], reason)
    else:
        found.take("identity", lambda: _identity(generated.descriptors, real.descriptors))
    found.take("psnr", lambda: _mean_psnr(sides, frames))
    return found


def measure_closures(generated: Measured, real: Measured, align: Path) -> Found:
    """Share of the words with b, m, p in which our lips close as the real ones do.

    Args:
        align: word times in GRID's form.
    """
    found, sides = Found(), {"generated": generated, "real": real}
    if reason := _faceless(sides):
        found.leave_out(["closures"], reason)
    else:
        found.take("closures", lambda: _closed_share(generated.points, real.points, align))
    return found


def known_frames(points: np.ndarray) -> np.ndarray:
    """In which frames of a track `f 68 2` the face was found, `f` bool."""
    return np.isfinite(points).all((1, 2))


def too_few_faces(points: np.ndarray) -> str | None:
    """Why a track `f 68 2` says nothing about motion; None where it does."""
    num_known = int(known_frames(points).sum())
    if num_known >= MIN_FACE_FRAMES:
        return None
    return FEW_FACES if num_known else NO_FACE


def is_silent(sound: np.ndarray) -> bool:
    """Whether there is nothing to hear: `samples` of full scale 1."""
    return not len(sound) or float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) < SILENT_RMS


def size_text(size_px: tuple[int, int]) -> str:
    """Width and height for people."""
    return f"{size_px[0]}x{size_px[1]} px"


def _track(frames: Iterable[np.ndarray], landmarker: NetworkLandmarker) -> tuple[np.ndarray, tuple[int, int]]:
    """The 68 landmarks, frame by frame, without keeping whole meshes; width and height of the frames."""
    lost = np.full((68, 2), np.nan, np.float32)
    tracked: list[np.ndarray] = []
    sizes: list[tuple[int, int]] = []
    follower, stream = landmarker.tracker(), _of_one_size(frames, sizes)
    while chunk := list(islice(stream, 8)):
        tracked += [lost if face is None else face.points68 for face in follower.follow(chunk)]
    if not tracked:
        raise ValueError("the video holds no frames")
    return np.stack(tracked), sizes[0]


def _of_one_size(frames: Iterable[np.ndarray], sizes: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    """The frames; their size goes into `sizes`."""
    for i, rgb in enumerate(frames):
        size = rgb.shape[1], rgb.shape[0]
        sizes.extend([size] if not sizes else [])
        if size != sizes[0]:
            raise ValueError(
                f"the pictures change from {size_text(sizes[0])} to {size_text(size)} at frame {i}; cut the video there"
            )
        yield rgb


def _face_numbers(found: Found, frames: Frames, points: np.ndarray) -> np.ndarray:
    """What needs picture and face of sampled frames; returns the descriptors of identity, `n d`."""
    places, sharp, descriptors = [], [], []
    for i, rgb in _sampled(frames(), points):
        places.append(i)
        sharp.append(sharpness(rgb, _face_box(points[i])))
        descriptors.append(face_descriptor(rgb, points[i]))
    if not places:
        seen = known_frames(points).any()
        reason = f"no face was found in one of every {SAMPLED_EVERY} frames" if seen else NO_FACE
        found.leave_out(["sharpness", "identity_drift"], reason)
        return np.zeros((0, 0))
    found.take("sharpness", lambda: np.median(sharp))
    if len(points) < 2 * FPS:
        found.leave_out(["identity_drift"], "the video is shorter than 2 s")
    elif places[0] >= FPS or places[-1] < len(points) - FPS:
        found.leave_out(["identity_drift"], "no face was found in the first or in the last second")
    else:
        found.take("identity_drift", lambda: face_similarity(descriptors[0], descriptors[-1]))
    return np.stack(descriptors)


def _sampled(frames: Iterable[np.ndarray], points: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Number and picture of every `SAMPLED_EVERY`th frame whose face was found, and lies in the picture."""
    known = known_frames(points)
    for i, rgb in enumerate(frames):
        if i % SAMPLED_EVERY == 0 and known[i] and _is_inside(_face_box(points[i]), rgb):
            yield i, rgb


def _face_box(points: np.ndarray) -> np.ndarray:
    low, high = points.min(0), points.max(0)
    pad = FACE_MARGIN * (high - low)
    return np.concatenate([low - pad, high + pad])


def _is_inside(box: np.ndarray, rgb: np.ndarray) -> bool:
    """Whether two pixels or more of the box lie in the picture, which `sharpness` needs, in width and height."""
    limits = np.array([rgb.shape[1], rgb.shape[0]])
    shared = np.minimum(np.ceil(box[2:]), limits) - np.maximum(np.floor(box[:2]), 0)
    return bool((shared >= 2).all())


def _picture_numbers(found: Found, frames: Frames) -> None:
    found.take("flicker", lambda: flicker(frames()))
    found.take("frame_difference", lambda: frame_difference(frames()))
    found.take("smooth_blend", lambda: smooth_blend(frames()))
    found.take("colour_drift", lambda: drift(frames(), FPS))


def _motion_numbers(found: Found, points: np.ndarray) -> None:
    measures: dict[str, Callable[[], float]] = {
        "glo": lambda: glo(points),
        "exp": lambda: exp(points),
        "head_speed": lambda: head_speed(points, FPS),
        "jitter": lambda: jitter(points),
        "blinks_per_minute": lambda: blink_rate(points, FPS),
    }
    if reason := too_few_faces(points):
        found.leave_out(measures, reason)
        return
    for name, measure in measures.items():
        found.take(name, measure)


def _sync_numbers(found: Found, points: np.ndarray, sound: np.ndarray | str) -> None:
    """Over the frames that have sound: what lies beyond its end does not count as lips out of step."""
    heard = 0 if isinstance(sound, str) else -(-len(sound) // SAMPLES_PER_FRAME)
    points = points[:heard] if heard else points
    if reason := _unheard(points, sound):
        found.leave_out(["lip_sync", "lip_sync_offset"], reason)
        return
    wanted = len(points) * SAMPLES_PER_FRAME
    result = lip_sync(points, np.pad(sound[:wanted], (0, max(wanted - len(sound), 0))))
    found.take("lip_sync", lambda: result.score)
    if _lips_stand_still(points):
        found.leave_out(["lip_sync_offset"], "the lips stand still")
    else:
        found.take("lip_sync_offset", lambda: result.offset_frames)


def _unheard(points: np.ndarray, sound: np.ndarray | str) -> str | None:
    """Why lips and sound cannot be compared; None where they can."""
    if isinstance(sound, str):
        return sound
    if is_silent(sound[: len(points) * SAMPLES_PER_FRAME]):
        return SILENT
    if len(points) < MIN_FRAMES:
        return f"fewer than {MIN_FRAMES} frames with sound"
    if reason := too_few_faces(points):
        return reason
    share = face_found(points)
    return None if share >= MIN_FACE_SHARE else "a face was found in fewer than half of the frames"


def _lips_stand_still(points: np.ndarray) -> bool:
    return bool(np.nanstd(per_frame(lip_gap, points)) < STILL_GAP)


def _intervals(points: np.ndarray) -> np.ndarray:
    return np.zeros(0) if too_few_faces(points) else blink_intervals(points, FPS)


def _missing_in(sides: dict[str, Measured], name: str) -> str | None:
    """Which video lacks a number, and why."""
    for side, measured in sides.items():
        if name not in measured.numbers:
            return f"{side} video: {measured.left_out[name]}"
    return None


def _faceless(sides: dict[str, Measured]) -> str | None:
    """Which video has no face in the frames that are looked at for its identity."""
    for side, measured in sides.items():
        if not len(measured.descriptors):
            return f"{side} video: {measured.left_out['sharpness']}"
    return None


def _lip_gap_numbers(found: Found, sides: dict[str, Measured]) -> None:
    names = ("lip_gap_r", "lip_gap_lag")
    length = min(len(measured.points) for measured in sides.values())
    tracks = {side: measured.points[:length] for side, measured in sides.items()}
    if reason := _incomparable(tracks):
        found.leave_out(names, reason)
        return
    gaps = {side: per_frame(lip_gap, points) for side, points in tracks.items()}
    result = lip_gap_correlation(gaps["generated"], gaps["real"], max_lag=MAX_LAG)
    found.take("lip_gap_r", lambda: result.r)
    if _lips_stand_still(tracks["generated"]):
        found.leave_out(["lip_gap_lag"], "generated video: the lips stand still")
    else:
        found.take("lip_gap_lag", lambda: result.best_lag)


def _incomparable(tracks: dict[str, np.ndarray]) -> str | None:
    """Why the lips of two tracks `f 68 2` of one length cannot be compared; None where they can."""
    for side, points in tracks.items():
        if reason := too_few_faces(points):
            return f"{side} video: {reason}"
    if np.logical_and(*map(known_frames, tracks.values())).sum() < MIN_FACE_FRAMES:
        return f"both videos have a face in fewer than {MIN_FACE_FRAMES} of their frames"
    return "real video: the lips stand still" if _lips_stand_still(tracks["real"]) else None


def _identity(generated: np.ndarray, real: np.ndarray) -> float:
    """Mean similarity of descriptors `n d` with the mean of others, `m d`."""
    wanted = real.mean(0)
    wanted = wanted / max(float(np.linalg.norm(wanted)), 1e-9)
    return float(np.mean([face_similarity(descriptor, wanted) for descriptor in generated]))


def _closed_share(generated: np.ndarray, real: np.ndarray, align: Path) -> float:
    """Words count in which the real lips meet and our face is seen: a lost face has neither open nor closed lips."""
    length = min(len(generated), len(real))
    spans = bilabial_spans(read_grid_words(align))
    spans = spans[spans[:, 1] * FPS <= length]
    known = known_frames(generated[:length])
    is_seen = [known[_frames_of(span)].any() for span in spans]
    found = lip_closures(generated[:length], real[:length], spans[np.array(is_seen, bool)], FPS)
    if not found.num_intervals:
        raise ValueError(
            "there is no word with b, m, p in which the real lips meet and the generated face is seen"
        )
    return found.num_closed / found.num_intervals


def _frames_of(span_s: np.ndarray) -> slice:
    """The frames that `sync.closures` looks at."""
    first, last = np.floor(span_s * FPS + 0.5).astype(int)
    return slice(max(first - CLOSURE_MARGIN_FRAMES, 0), last + 1 + CLOSURE_MARGIN_FRAMES)


def _mean_psnr(sides: dict[str, Measured], frames: tuple[Frames, Frames]) -> float:
    """Mean over sampled frames, dB."""
    sizes = [measured.size_px for measured in sides.values()]
    if sizes[0] != sizes[1]:
        raise ValueError(f"the sizes differ: {size_text(sizes[0])}, real {size_text(sizes[1])}")
    both = zip(frames[0](), frames[1](), strict=False)
    return float(np.mean([psnr(*pair) for i, pair in enumerate(both) if i % SAMPLED_EVERY == 0]))
