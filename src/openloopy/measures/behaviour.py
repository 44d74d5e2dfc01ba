"""How a head behaves over a video: blinks, sway, closed lips, jitter and drift, and how far that is from the truth.

Source: ours, but for DGlo and DExp, the differences of Glo and Exp (see `motion`) from the real video's in Loopy
(arXiv:2409.02634). None of these numbers is better the higher it is: each has a meaning beside that of real videos.

Tracks are landmarks, `f 68 2` px, NaN where the face was lost. Flicker of pixels is `quality.flicker`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import wasserstein_distance

from openloopy.face.mesh import MESH_TO_68, canonical_mesh
from openloopy.face.movement import NOSE_TIP, OUTER_EYE_CORNERS, eye_distance, eye_opening, lip_gap
from openloopy.measures.drift import Colours, colour_drift, colours_of, mean_colours
from openloopy.measures.motion import BlinkConfig, blinks, exp, glo, per_frame
from openloopy.measures.sync import Closed, closures
from openloopy.media.files import require_file

MAX_LOST_S = 0.2
"""While a face is lost for longer, a blink may have been missed, so the interval around it does not count."""
SLOW_HZ = (0.1, 1.5)
"""The range of sway: below it heads settle, above it they nod and stress words."""
MIN_SWAY_S = 2.0
FREQUENCIES_PER_BIN = 10
"""How many frequencies are tried for each whole period more that fits into the video."""
FREQUENCY_BLOCK = 64
STILL = 1e-5
"""A track whose spread about a line is below this (eye distances or degrees) does not move: rounding, no sway."""
DRIFT_SPAN_S = 1.0
JITTER_SCALE = 100.0
"""Eye distances -> hundredths of them."""
GRID_UNITS_PER_S = 25_000
"""GRID corpus (Cooke et al. 2006): its alignments count samples of the original recordings."""
GRID_SILENCE = ("sil", "sp")
GRID_BILABIAL = frozenset({"bin", "blue", "by", "place", "please", "b", "m", "p"})
"""The words and letters of GRID's grammar that are spoken with a b, m or p (its letters leave out w)."""


class Sway(NamedTuple):
    """The strongest slow oscillation of a track."""

    frequency_hz: float
    """NaN where nothing moves."""
    amplitude: float
    """Half of the way from one side to the other, in the track's unit."""
    share: float
    """Of the variance about a line that it explains, 0..1: near 1 a pendulum, near 0 no sway at all."""


class SwayDistance(NamedTuple):
    """Wasserstein-1 distances between the sways of two sets of videos."""

    frequency_hz: float
    """NaN where nothing moves in any video of a set."""
    amplitude: float
    """In the tracks' unit."""


class Difference(NamedTuple):
    """How far generated values are from real ones."""

    paired: float
    """Mean over the videos of |generated - real|."""
    of_means: float
    """|mean generated - mean real|: videos too still and too lively cancel out."""


class MotionDifferences(NamedTuple):
    """DGlo and DExp, in (1/100 inter-ocular)^2."""

    glo: Difference
    exp: Difference


class Word(NamedTuple):
    """A word and when it is spoken."""

    text: str
    start_s: float
    end_s: float


def blink_rate(points68: np.ndarray, fps: float, config: BlinkConfig | None = None) -> float:
    """Blinks per minute of a track `f 68 2`, over the time in which the face was seen.

    People blink about 15 times a minute: a video of a few seconds says little alone, a set of them does.

    Raises:
        ValueError: another shape, or no face in any frame.
    """
    eyes = _eyes(points68)
    return 60 * fps * len(blinks(eyes, fps, config)) / int(np.isfinite(eyes).sum())


def blink_intervals(points68: np.ndarray, fps: float, config: BlinkConfig | None = None) -> np.ndarray:
    """Times from the start of one blink to that of the next, `n` seconds; one less than blinks.

    Those in which the face was lost for longer than `MAX_LOST_S` are left out.

    Raises:
        ValueError: another shape, or no face in any frame.
    """
    eyes = _eyes(points68)
    starts = [start for start, _ in blinks(eyes, fps, config)]
    spans = [
        (a, b)
        for a, b in zip(starts, starts[1:], strict=False)
        if _longest_loss(eyes[a:b]) <= MAX_LOST_S * fps
    ]
    return np.array([(b - a) / fps for a, b in spans], dtype=np.float64)


def interval_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Wasserstein-1 distance of two sets of intervals, in their unit: how far the one is to be shifted to be the other.

    Args:
        generated, real: `n` and `m`, such as `blink_intervals` of all videos of a set, concatenated.

    Raises:
        ValueError: an empty set: without two blinks in a video there is no interval; compare the rates then.
    """
    if not len(generated) or not len(real):
        raise ValueError(
            f"cannot compare {len(generated)} with {len(real)} intervals; give longer videos, or compare blink rates"
        )
    return float(wasserstein_distance(generated, real))


def sway(points68: np.ndarray, fps: float) -> Sway:
    """How the head moves from side to side: the nose tip's x over a track `f 68 2`, in eye distances.

    Raises:
        ValueError: another shape, or the face was seen for less than `MIN_SWAY_S`.
    """
    _check_track(points68)
    unit = np.nanmean(eye_distance(points68)) if np.isfinite(points68).any() else 1.0
    return slow_motion(points68[:, NOSE_TIP, 0] / unit, fps)


def turning(points68: np.ndarray, fps: float) -> Sway:
    """How the head turns from side to side: `yaw_degrees` over a track `f 68 2`.

    Raises:
        ValueError: as `sway`.
    """
    return slow_motion(yaw_degrees(points68), fps)


def yaw_degrees(points68: np.ndarray) -> np.ndarray:
    """Yaw of every frame, positive where the nose points to the right of the picture; NaN where the face was lost.

    From how far the nose tip lies off the middle of the outer eye corners, along their line: exact for our mean face
    seen from afar and not nodding; a person's nose makes it larger or smaller by one factor.

    Args:
        points68: `f 68 2` px.

    Returns:
        `f` degrees.
    """
    _check_track(points68)
    left, right = points68[:, OUTER_EYE_CORNERS[0]], points68[:, OUTER_EYE_CORNERS[1]]
    line = right - left
    off_centre = points68[:, NOSE_TIP] - (left + right) / 2
    across = (off_centre * line).sum(-1) / (line**2).sum(-1)
    return np.rad2deg(np.arctan(across / _nose_depth()))


def slow_motion(track: np.ndarray, fps: float) -> Sway:
    """The strongest oscillation of a track in the range of sway, by least squares.

    A straight line and a sine are fitted to the known frames at each frequency (Lomb 1976, with a trend); the best
    wins. A period has to fit into the video, so that short ones see no slow sway.

    Args:
        track: `f`; NaN where it is not known.
        fps: frames per second, more than twice `SLOW_HZ[1]`.

    Raises:
        ValueError: another shape, or too few frames a second or in all.
    """
    times, values = _known_samples(track, fps)
    line = float(((values - np.polyval(np.polyfit(times, values, 1), times)) ** 2).sum())
    if np.sqrt(line / len(values)) < STILL:
        return Sway(float("nan"), 0.0, 0.0)
    length_s = np.ptp(times) + 1 / fps
    low, high = max(SLOW_HZ[0], 1 / length_s), SLOW_HZ[1]
    frequencies = np.linspace(low, high, int(np.ceil((high - low) * length_s * FREQUENCIES_PER_BIN)) + 1)
    rest, amplitudes = _fit_sines(times, values, frequencies)
    best = int(rest.argmin())
    return Sway(float(frequencies[best]), float(amplitudes[best]), float(1 - max(rest[best], 0.0) / line))


def sway_distance(generated: Sequence[Sway], real: Sequence[Sway]) -> SwayDistance:
    """How differently two sets of videos sway. Videos in which nothing moves count for the amplitude alone.

    Raises:
        ValueError: an empty set.
    """
    if not generated or not real:
        raise ValueError(
            f"cannot compare {len(generated)} with {len(real)} videos; give at least one of each"
        )
    moving = [[s.frequency_hz for s in sways if np.isfinite(s.frequency_hz)] for sways in (generated, real)]
    return SwayDistance(
        float(wasserstein_distance(*moving)) if all(moving) else float("nan"),
        float(wasserstein_distance([s.amplitude for s in generated], [s.amplitude for s in real])),
    )


def motion_differences(generated: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> MotionDifferences:
    """DGlo and DExp of generated videos and the real ones that they should resemble.

    Args:
        generated, real: tracks `f 68 2`, pair by pair; the two of a pair may differ in length.

    Raises:
        ValueError: no pairs, sets of different sizes, or a face found in fewer than 2 frames.
    """
    return MotionDifferences(
        difference([glo(points) for points in generated], [glo(points) for points in real]),
        difference([exp(points) for points in generated], [exp(points) for points in real]),
    )


def difference(generated: Sequence[float], real: Sequence[float]) -> Difference:
    """How far the values of generated videos are from those of the real ones, pair by pair and as sets.

    Raises:
        ValueError: no pairs, or sets of different sizes.
    """
    a, b = np.asarray(generated, dtype=np.float64), np.asarray(real, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"expected one value for each of the same videos, got {a.shape} and {b.shape}")
    return Difference(float(np.abs(a - b).mean()), float(abs(a.mean() - b.mean())))


def lip_closures(generated: np.ndarray, real: np.ndarray, intervals_s: np.ndarray, fps: float) -> Closed:
    """Whether the lips meet at b, m and p wherever those of the real video do; see `sync.closures`.

    Args:
        generated, real: tracks `f 68 2` of the same sound.
        intervals_s: start and end of each b, m, p, `n 2` seconds; or of words that hold one (`bilabial_spans`), which
            asks for less: that the lips meet once within the word. Those that reach out of the video do not count.

    Raises:
        ValueError: other shapes, tracks of different lengths, or an end before its start.
    """
    _check_track(generated)
    _check_track(real)
    intervals_s = np.asarray(intervals_s, dtype=np.float64).reshape(-1, 2)
    if len(generated) != len(real):
        raise ValueError(
            f"expected tracks of one length, got {len(generated)} and {len(real)} frames; cut them"
        )
    if (intervals_s[:, 1] <= intervals_s[:, 0]).any():
        raise ValueError("an interval ends before it starts; expected start and end in seconds")
    return closures(per_frame(lip_gap, generated), per_frame(lip_gap, real), intervals_s * fps)


def read_grid_words(path: Path | str) -> list[Word]:
    """The words of an alignment of the GRID corpus: lines of start, end (1/25000 s) and word; silence is left out.

    Raises:
        ValueError: the file is missing or holds other lines; says which.
    """
    words = []
    for number, text in enumerate(
        require_file(path, "a GRID alignment").read_text("utf-8").splitlines(), start=1
    ):
        fields = text.split()
        if len(fields) != 3 or not (fields[0] + fields[1]).isdecimal() or int(fields[1]) < int(fields[0]):
            raise ValueError(f"{path}, line {number}: expected start, end and a word, got {text!r}")
        if fields[2] not in GRID_SILENCE:
            words.append(Word(fields[2], *(int(units) / GRID_UNITS_PER_S for units in fields[:2])))
    return words


def bilabial_spans(words: Sequence[Word]) -> np.ndarray:
    """Start and end of the words of GRID that are spoken with a b, m or p, `n 2` seconds."""
    spans = [(word.start_s, word.end_s) for word in words if word.text.lower() in GRID_BILABIAL]
    return np.array(spans, dtype=np.float64).reshape(-1, 2)


def jitter(points68: np.ndarray) -> float:
    """How much landmarks tremble: mean length of their second difference over a track `f 68 2`.

    Returns:
        Hundredths of the eye distance per frame^2; steady motion counts for nothing. It depends on the frame rate and
        on the landmarker's own noise, which is that of the real video too.

    Raises:
        ValueError: another shape, or nowhere a face in three frames in a row.
    """
    _check_track(points68)
    bends = np.linalg.norm(np.diff(points68, n=2, axis=0), axis=-1).mean(-1)
    if not np.isfinite(bends).any():
        raise ValueError(
            f"no face was found in three frames in a row of {len(points68)}; there is no jitter to measure"
        )
    return JITTER_SCALE * float(np.nanmean(bends) / np.nanmean(eye_distance(points68)))


def drift(frames: Iterable[np.ndarray], fps: float) -> float:
    """Colour drift of a video, its last second against its first: a share of the way from black to white.

    It is `drift.ColourDrift.colour`. Motion of the head and the camera changes colours too, in the real video as well.

    Args:
        frames: all of them, `H W 3` uint8; read one by one.
        fps: frames per second.

    Raises:
        ValueError: fewer than two seconds.
    """
    span, count = max(round(DRIFT_SPAN_S * fps), 1), 0
    first: list[Colours] = []
    last: deque[Colours] = deque(maxlen=span)
    for count, frame in enumerate(frames, start=1):
        last.append(colours_of(frame))
        if count <= span:
            first.append(last[-1])
    if count < 2 * span:
        raise ValueError(f"{count} frames at {fps:g} fps are too few for drift; give at least {2 * span}")
    return colour_drift(mean_colours(first), mean_colours(list(last))).colour


def _eyes(points68: np.ndarray) -> np.ndarray:
    """Eye opening of every frame, `f`; NaN where the face was lost."""
    _check_track(points68)
    eyes = per_frame(eye_opening, points68)
    if not np.isfinite(eyes).any():
        raise ValueError(f"no face was found in any of {len(points68)} frames; there is no eye to watch")
    return eyes


def _longest_loss(track: np.ndarray) -> int:
    """The longest run of frames of `f` that are not known."""
    known = np.flatnonzero(np.isfinite(np.pad(track, 1)))
    return int(np.diff(known).max()) - 1


def _nose_depth() -> float:
    """How far the nose tip lies before the outer eye corners in our mean face, in their distance."""
    points = canonical_mesh().vertices[MESH_TO_68]
    left, right = points[list(OUTER_EYE_CORNERS)]
    return float((points[NOSE_TIP] - (left + right) / 2)[2] / np.linalg.norm(right - left))


def _known_samples(track: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Times in seconds and values about their mean of the known frames, `n` each."""
    if track.ndim != 1:
        raise ValueError(f"expected one number per frame, got {track.shape}")
    if not fps > 2 * SLOW_HZ[1]:
        raise ValueError(f"{fps:g} frames per second are too few for motion up to {SLOW_HZ[1]} Hz")
    places = np.flatnonzero(np.isfinite(track))
    if len(places) < MIN_SWAY_S * fps:
        raise ValueError(
            f"{len(places)} frames with a face at {fps:g} fps are less than {MIN_SWAY_S:g} s; too few for sway"
        )
    values = track[places].astype(np.float64)
    return places / fps, values - values.mean()


def _fit_sines(
    times: np.ndarray, values: np.ndarray, frequencies: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Line and sine of each frequency fitted to `n` values: sums of squares that are left, and amplitudes, `k` each."""
    centred = (times - times.mean()) / np.ptp(times)
    rest, amplitudes = [], []
    for start in range(0, len(frequencies), FREQUENCY_BLOCK):
        phases = 2 * np.pi * frequencies[start : start + FREQUENCY_BLOCK, None] * (times - times.mean())
        line = np.broadcast_to(np.stack([np.ones_like(centred), centred]), (len(phases), 2, len(times)))
        parts = np.concatenate([line, np.cos(phases)[:, None], np.sin(phases)[:, None]], axis=1)
        weights = _weights(parts, values)
        rest.append(((values - np.einsum("kp,kpn->kn", weights, parts)) ** 2).sum(1))
        amplitudes.append(np.hypot(weights[:, 2], weights[:, 3]))
    return np.concatenate(rest), np.concatenate(amplitudes)


def _weights(parts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least-squares weights of the parts `k p n` for `n` values, `k p`."""
    return np.linalg.solve(parts @ parts.swapaxes(1, 2), (parts @ values)[..., None])[..., 0]


def _check_track(points68: np.ndarray) -> None:
    if points68.ndim != 3 or points68.shape[1:] != (68, 2) or not len(points68):
        raise ValueError(f"expected landmarks of shape (frames, 68, 2), got {points68.shape}")
