"""What the quality benchmark is asked to animate: unseen puppets, filmed speakers, portraits with any sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.records import PhonemeSpan
from openloopy.data.shards import Sample, read_shards
from openloopy.face.crop import apply_crop, portrait_crop, select_face
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.inference.scene import choose_face
from openloopy.measures.motion import points_of
from openloopy.media.audio import SAMPLE_RATE_HZ, open_waveform
from openloopy.media.video import FPS, VideoError, probe_video, read_frames
from openloopy.models.rig_codec import Portrait
from openloopy.puppet.visemes import CLOSED, VOWELS, phonemes_to_visemes


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """A video and the landmarks in it."""

    frames: np.ndarray
    """`f H W 3` uint8."""
    points: np.ndarray
    """`f 68 2` px, NaN where no face was found."""


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """When the sounds are spoken that lips must close for, and those they must not; `n 2` in frames."""

    closures: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    vowels: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One portrait and one sound, and what really happened, where that is known."""

    person: str
    clip: str
    portrait: np.ndarray
    """`H W 3` uint8."""
    portrait_points: np.ndarray
    """`68 2` px."""
    waveform: np.ndarray
    """`samples`, 16 kHz."""
    source: Portrait | None = None
    """The portrait as it is animated, where that is larger than the video; else `portrait`."""
    truth: Tracked | None = None
    """The true video; its points are exact for puppets, tracked for footage."""
    spoken: Spoken = Spoken()


@dataclass(frozen=True)
class Refused:
    """An input that the command line would refuse as well, and its words."""

    file: str
    reason: str


def track(landmarker: NetworkLandmarker, frames: np.ndarray) -> Tracked:
    return Tracked(frames=frames, points=points_of(landmarker.track(frames)))


def read_puppets(shards: Path, num_people: int, seconds: float, size_px: int) -> Iterator[Case]:
    """The first val clip of each of `num_people` people, cut to `seconds`."""
    people: set[str] = set()
    for sample in read_shards(shards, "val"):
        if sample.record.person_id not in people:
            people.add(sample.record.person_id)
            yield _puppet(sample, round(seconds * FPS), size_px)
        if len(people) == num_people:
            return
    raise ValueError(
        f"{shards} has {len(people)} people of split val, {num_people} were asked for; give fewer"
    )


def read_footage(
    paths: list[Path], seconds: float, landmarker: NetworkLandmarker, size_px: int
) -> Iterator[Case]:
    """Filmed speakers: the crop about the first frame's face, fixed for the clip; sound from the same file."""
    for path in paths:
        if round(probe_video(path).fps, 2) != FPS:
            raise VideoError(f"{path} has {probe_video(path).fps:.2f} frames per second; give one of {FPS}")
        frames = list(islice(read_frames(path), round(seconds * FPS)))
        image_size = (frames[0].shape[1], frames[0].shape[0])
        face = select_face(landmarker.detect(frames[0]), image_size)
        crop = portrait_crop(face, image_size)
        truth = track(landmarker, np.stack([apply_crop(frame, crop, size_px) for frame in frames]))
        yield Case(
            person=path.stem,
            clip=path.stem,
            portrait=truth.frames[0],
            portrait_points=crop.to_crop(face.points68, size_px),
            waveform=fit_sound(open_waveform(path), len(frames)),
            truth=truth,
        )


def footage_paths(folder: Path, names: list[str]) -> list[Path]:
    """The named videos of a folder, whatever their ending."""
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.is_file()}
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{folder} has no videos {missing}; name others with --held-out")
    return [found[name] for name in names]


def read_pairs(
    pairs: list[tuple[Path, Path]],
    seconds: float,
    landmarker: NetworkLandmarker,
    size_px: int,
    refuse: Callable[[Refused], None],
    source_px: int | None = None,
) -> Iterator[Case]:
    """Portraits with sounds, read and cropped as `openloopy generate` does; what it refuses goes to `refuse`.

    source_px: side of the portrait as it is animated, if not that of the video.
    """
    source_px = source_px or size_px
    for portrait, sound in pairs:
        try:
            waveform = np.array(open_waveform(sound)[: round(seconds * SAMPLE_RATE_HZ)])
            chosen = choose_face(portrait, landmarker, say=print)
        except ValueError as error:
            refuse(Refused(f"{portrait.name} + {sound.name}", str(error).replace(f"{portrait.parent}/", "")))
            continue
        crop = portrait_crop(chosen.face, chosen.image_size, stays_inside=True)
        yield Case(
            person=portrait.stem,
            clip=f"{portrait.stem}__{sound.stem}",
            portrait=apply_crop(chosen.rgb, crop, size_px),
            portrait_points=crop.to_crop(chosen.face.points68, size_px),
            source=Portrait(
                apply_crop(chosen.rgb, crop, source_px),
                crop.to_crop(chosen.face.mesh, source_px),
                outside=crop.outside(chosen.image_size),
            ),
            waveform=waveform,
        )


def pair_up(portraits: Path, sounds: Path, num_pairs: int) -> list[tuple[Path, Path]]:
    """Files of two folders in turn: with enough pairs every portrait and every sound comes up."""
    pictures, voices = (
        sorted(path for path in folder.iterdir() if path.is_file()) for folder in (portraits, sounds)
    )
    if not pictures or not voices:
        raise ValueError(
            f"{portraits} holds {len(pictures)} files and {sounds} {len(voices)}; both need some"
        )
    return [(pictures[i % len(pictures)], voices[i % len(voices)]) for i in range(num_pairs)]


def fit_sound(waveform: np.ndarray, num_frames: int) -> np.ndarray:
    """The sound of exactly `num_frames` frames: cut, or filled up with silence."""
    num_samples = round(num_frames / FPS * SAMPLE_RATE_HZ)
    return np.pad(waveform[:num_samples], (0, max(0, num_samples - len(waveform))))


def spoken(phonemes: tuple[PhonemeSpan, ...]) -> Spoken:
    """Closures and vowels of a clip's phonemes."""
    timed = phonemes_to_visemes(phonemes)
    closures, vowels = (
        np.array([(start_s * FPS, end_s * FPS) for start_s, end_s, v in timed if v in wanted]).reshape(-1, 2)
        for wanted in ({CLOSED}, VOWELS)
    )
    return Spoken(closures=closures, vowels=vowels)


def _puppet(sample: Sample, max_frames: int, size_px: int) -> Case:
    frames = decode_frames(sample.mp4, size_px)[:max_frames]
    points = sample.arrays["points68"][:max_frames] * (size_px / sample.record.size_px)
    return Case(
        person=sample.record.person_id,
        clip=sample.record.clip_id,
        portrait=frames[0],
        portrait_points=points[0],
        waveform=fit_sound(decode_sound(sample.flac), len(frames)),
        truth=Tracked(frames=frames, points=points),
        spoken=spoken(sample.record.phonemes),
    )
