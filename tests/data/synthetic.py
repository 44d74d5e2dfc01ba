"""Small synthetic clips: a colour gradient that brightens with time."""

from __future__ import annotations

import numpy as np

from openloopy.data.clips import encode_frames, encode_sound
from openloopy.data.records import ClipRecord, PhonemeSpan, Split
from openloopy.data.shards import Sample

NUM_FRAMES = 25
SIZE_PX = 64


def make_frames(seed: int, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Frames `f 64 64 3`; the seed sets the blue level."""
    ramp = np.linspace(0, 120, SIZE_PX)
    picture = np.stack([ramp[None] + 0 * ramp[:, None], 0 * ramp[None] + ramp[:, None]], -1)
    colour = np.full((SIZE_PX, SIZE_PX, 1), 10.0 * (seed % 10))
    still = np.concatenate([picture, colour], -1)
    return np.stack([still + 100 * i / num_frames for i in range(num_frames)]).astype(np.uint8)


def make_sample(
    clip_id: str, *, seed: int = 0, split: Split = "train", num_frames: int = NUM_FRAMES
) -> Sample:
    rng = np.random.default_rng(seed)
    record = ClipRecord(
        clip_id=clip_id,
        person_id=f"person-{seed}",
        split=split,
        num_frames=num_frames,
        size_px=SIZE_PX,
        seed=seed,
        source="gradient.png",
        licence="CC0",
        text="ba",
        speaker={"engine": "none"},
        phonemes=(PhonemeSpan(0.1, 0.2, "b", "ipa"), PhonemeSpan(0.2, 0.5, "a", "ipa")),
    )
    arrays = {
        "points68": rng.uniform(16, 48, (num_frames, 68, 2)).astype(np.float32),
        "lip_gap": np.arange(num_frames, dtype=np.float32) + 1000 * seed,
        "eye_opening": rng.uniform(size=num_frames).astype(np.float32),
        "pose": rng.normal(size=(num_frames, 3)).astype(np.float32),
        "visemes": rng.integers(0, 5, 2 * num_frames).astype(np.int16),
    }
    sound = (0.5 * np.sin(np.arange(640 * num_frames) * 0.05 * (seed + 1))).astype(np.float32)
    frames = make_frames(seed, num_frames)
    return Sample(record=record, mp4=encode_frames(frames), flac=encode_sound(sound), arrays=arrays)
