"""Damaged copies of a talking clip, made by code: what data preparation must notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from openloopy.data.footage import SteadyReader
from openloopy.media.audio import SAMPLE_RATE_HZ, open_waveform
from openloopy.media.video import FPS

SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS


@dataclass(frozen=True)
class Talk:
    """Pictures `f H W 3` uint8 at 25 fps and their sound, float32 at 16 kHz."""

    frames: np.ndarray
    sound: np.ndarray


def read_talk(path: Path) -> Talk:
    return Talk(np.stack([frame.rgb for frame in SteadyReader(path)]), open_waveform(path).copy())


def write_talk(path: Path, talk: Talk, *, fps: int = FPS, faststart: bool = False) -> Path:
    """mkv or mp4 with H.264, and PCM (mkv) or AAC (mp4) unless the sound is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_mp4 = path.suffix == ".mp4"
    options = {"movflags": "+faststart"} if faststart else {}
    height, width = talk.frames.shape[1:3]
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream(
            "libx264", rate=fps, options={"crf": "14", "bf": "0", "preset": "veryfast"}
        )
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        codec = "aac" if is_mp4 else "pcm_s16le"
        sound = container.add_stream(codec, rate=SAMPLE_RATE_HZ, layout="mono") if len(talk.sound) else None
        step = SAMPLE_RATE_HZ // fps
        for i, rgb in enumerate(talk.frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(video.encode(frame))
            if sound:
                container.mux(_encode(sound, talk.sound[i * step : (i + 1) * step], i * step))
        if sound:
            rest = talk.sound[len(talk.frames) * step :]
            container.mux(_encode(sound, rest, len(talk.frames) * step))
            container.mux(sound.encode(None))
        container.mux(video.encode(None))
    return path


def shifted(talk: Talk, frames: int) -> Talk:
    """The sound comes this many frames late (negative: early)."""
    moved = np.roll(talk.sound, frames * SAMPLES_PER_FRAME)
    gap = slice(0, frames * SAMPLES_PER_FRAME) if frames > 0 else slice(frames * SAMPLES_PER_FRAME, None)
    moved[gap] = 0
    return replace(talk, sound=moved)


def sped_up(talk: Talk, factor: int = 2) -> Talk:
    """The pictures run faster than the sound, which is cut to their length."""
    frames = talk.frames[::factor]
    return Talk(frames, talk.sound[: len(frames) * SAMPLES_PER_FRAME])


def upside_down(talk: Talk) -> Talk:
    return replace(talk, frames=talk.frames[:, ::-1, ::-1])


def black(talk: Talk) -> Talk:
    return replace(talk, frames=np.zeros_like(talk.frames))


def silent(talk: Talk) -> Talk:
    return replace(talk, sound=np.zeros_like(talk.sound))


def still(talk: Talk) -> Talk:
    """One picture for the whole time, with a camera's noise."""
    noise = np.random.default_rng(0).normal(0, 1.5, talk.frames.shape)
    return replace(talk, frames=np.clip(talk.frames[:1] + noise, 0, 255).astype(np.uint8))


def side_by_side(left: Talk, right: Talk) -> Talk:
    """Two people in one picture; the sound is the left one's."""
    count = min(len(left.frames), len(right.frames))
    height = left.frames.shape[1]
    scale = height / right.frames.shape[1]
    width = round(right.frames.shape[2] * scale / 2) * 2
    other = np.stack([cv2.resize(frame, (width, height)) for frame in right.frames[:count]])
    return Talk(np.concatenate([left.frames[:count], other], 2), left.sound[: count * SAMPLES_PER_FRAME])


def in_turn(parts: Sequence[Talk]) -> Talk:
    """Hard cuts from one to the next."""
    height, width = parts[0].frames.shape[1:3]
    frames = [np.stack([cv2.resize(frame, (width, height)) for frame in part.frames]) for part in parts]
    sounds = [part.sound[: len(part.frames) * SAMPLES_PER_FRAME] for part in parts]
    return Talk(np.concatenate(frames), np.concatenate(sounds))


def swapped(talk: Talk, other: Talk) -> Talk:
    """Somebody else's sound."""
    wanted = len(talk.frames) * SAMPLES_PER_FRAME
    sound = other.sound[:wanted]
    return replace(talk, sound=np.pad(sound, (0, wanted - len(sound))))


def cut_off(path: Path, share: float) -> Path:
    """The file without its end."""
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * share)])
    return path


def _encode(stream: av.AudioStream, samples: np.ndarray, first: int) -> list[av.Packet]:
    if not len(samples):
        return []
    pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm), format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, first, Fraction(1, SAMPLE_RATE_HZ)
    return stream.encode(frame)
