"""A sound that is still coming, as the audio encoder hears it: with little of the future, and a level of the past.

Ours; Loopy hears the whole sound. What a frame hears ahead of itself is a few frames instead of the encoder's whole
reach, and the loudness is that of what came before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from openloopy.inference.windows import ClipWindow, num_frames
from openloopy.media.live_sound import LiveSound
from openloopy.models.audio_encoder import (
    LEVEL_RMS,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_FRAME,
    SILENCE_FRAMES,
    AudioEncoder,
)

LOOK_AHEAD_FRAMES = 2
"""Sound that has to be there beyond the frames that are asked for, which are two more than the clip's. On four spoken
sounds the jaw then followed that of the whole sound's video with r .995 (0 frames: .988, 12: 1.000), the mouth's width
with .986; another seed's with .990 and .965 (docs/log.md, 39)."""
LOWEST_LIVE_RMS = 0.01
"""No live sound is made louder than if its loud parts had this level: before anybody speaks there is only noise."""
LEVEL_HALF_LIFE_S = 20.0
"""After which a loud moment counts half: a level that was set by a cough comes back."""


class LiveFeatureReader:
    """Hidden states of a live sound, read window by window from front to back; waits until the sound is there."""

    def __init__(self, encoder: AudioEncoder, sound: LiveSound, look_ahead: int = LOOK_AHEAD_FRAMES) -> None:
        """look_ahead: frames of sound beyond a window that it hears."""
        self.encoder, self.sound, self.look_ahead = encoder, sound, look_ahead
        self._level = RunningLevel()
        self._levelled = 0

    @torch.inference_mode()
    def window(self, start_frame: int, num_frames: int) -> Tensor:
        """Frames start_frame .. start_frame + num_frames - 1, `f layers width`; silence before and after the sound."""
        heard_until = start_frame + num_frames + self.look_ahead
        there = self.sound.wait_for(heard_until * SAMPLES_PER_FRAME)
        end = heard_until
        if (
            there < heard_until * SAMPLES_PER_FRAME
        ):  # the sound has ended, and silence follows it as in a file
            end = -(-there // SAMPLES_PER_FRAME) + SILENCE_FRAMES
        begin = max(start_frame - self.encoder.context_frames, -SILENCE_FRAMES)
        frames = np.arange(start_frame, start_frame + num_frames).clip(begin, end - 1) - begin
        piece = self.sound.read(begin * SAMPLES_PER_FRAME, end * SAMPLES_PER_FRAME) * self._scale(there)
        self.sound.forget(begin * SAMPLES_PER_FRAME)
        parameter = next(self.encoder.parameters())
        states = self.encoder.frame_states(
            torch.from_numpy(piece)[None].to(parameter.device, parameter.dtype)
        )
        return states[0, frames]

    def _scale(self, num_samples: int) -> float:
        """What the sound is multiplied by, of all that has been heard so far."""
        loudness = self.encoder.config.loudness
        if loudness == "as_is":
            return 1.0
        new = self.sound.read(self._levelled, num_samples // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME)
        self._level.add(new)
        self._levelled += len(new)
        # wav2vec 2.0's unit variance counts pauses as well; of a sound that still comes nobody knows them.
        wanted = LEVEL_RMS if loudness == "levelled" else 1.0
        return wanted / self._level.rms


class RunningLevel:
    """Loudness (RMS) of the loud parts of a sound so far: `audio_encoder.speech_level`, with a fading memory."""

    def __init__(self) -> None:
        self._weighted = self._total = 0.0

    def add(self, samples: np.ndarray) -> None:
        """Whole frames of sound, `(frames * 640,)`."""
        power = (samples.reshape(-1, SAMPLES_PER_FRAME).astype(np.float64) ** 2).mean(1)
        fade = 0.5 ** (SAMPLES_PER_FRAME / SAMPLE_RATE_HZ / LEVEL_HALF_LIFE_S)
        weights = fade ** np.arange(len(power))[::-1]
        past = fade ** len(power)
        self._weighted = past * self._weighted + float((weights * power**2).sum())
        self._total = past * self._total + float((weights * power).sum())

    @property
    def rms(self) -> float:
        level = float(np.sqrt(self._weighted / self._total)) if self._total > 0 else 0.0
        return max(level, LOWEST_LIVE_RMS)


def live_windows(sound: LiveSound, clip_frames: int) -> Iterator[ClipWindow]:
    """Clips side by side as their sound comes, until it has ended."""
    index = 0
    while True:
        start = index * clip_frames
        there = sound.wait_for((start + clip_frames) * SAMPLES_PER_FRAME)
        kept = clip_frames
        if there < (start + clip_frames) * SAMPLES_PER_FRAME:
            kept = num_frames(there / SAMPLE_RATE_HZ) - start
        if kept > 0:
            yield ClipWindow(index, start, kept)
        if kept < clip_frames:
            return
        index += 1
