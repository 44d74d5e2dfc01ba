"""Channels of a sound: one for the model to hear, and not more than an mp4 holds.

The mean of the channels is heard, unless they cancel each other in it; then the louder one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import av
import numpy as np

from openloopy.media.sound_file import SoundBlock

AAC_CHANNELS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""By number of channels, where nothing says which they are, and for twins of these layouts such as 5.1(side)."""
CANCELLED_DB = 6.0
"""The mean of channels that have nothing to do with each other has a certain power; so far below it they cancel: two of
one loudness do from a correlation of -.75 down, as a voice out of phase with a noise in phase 9 dB below it."""
AUDIBLE_DB = 40.0
"""Channels that are this much quieter than the loudest are silent."""


class ChannelPowers:
    """How loud each channel of a sound is, and their mean; what does not change is no sound."""

    def __init__(self, memory_samples: float = math.inf) -> None:
        """memory_samples: what is so old counts only by a third."""
        self._memory_samples, self._num_samples = memory_samples, 0.0
        self._sums = self._squares = np.zeros(1)

    def add(self, samples: np.ndarray) -> None:
        """samples: `channels samples`."""
        rows = np.concatenate([samples, samples.mean(axis=0, dtype=np.float32)[None]])
        kept = math.exp(-samples.shape[1] / self._memory_samples)
        self._num_samples = kept * self._num_samples + samples.shape[1]
        self._sums = kept * self._sums + rows.sum(axis=1, dtype=np.float64)
        self._squares = kept * self._squares + np.square(rows, dtype=np.float64).sum(axis=1)

    def watch(self, blocks: Iterable[SoundBlock]) -> Iterator[SoundBlock]:
        """The same blocks, added as they pass."""
        for block in blocks:
            self.add(block.samples)
            yield block

    @property
    def _powers(self) -> np.ndarray:
        """Of the channels and of their mean, which comes last."""
        return self._squares / self._num_samples - np.square(self._sums / self._num_samples)

    @property
    def loudest(self) -> int:
        """The loudest channel, from 0."""
        return int(np.argmax(self._powers[:-1]))

    @property
    def audible(self) -> np.ndarray:
        """`channels` bool."""
        powers = self._powers[:-1]
        return powers >= powers.max() * 10 ** (-AUDIBLE_DB / 10)

    @property
    def cancel(self) -> bool:
        """Whether little is left of the channels in their mean."""
        *powers, mixed = self._powers
        return mixed < 10 ** (-CANCELLED_DB / 10) * sum(powers) / len(powers) ** 2


def powers_of(blocks: Iterable[SoundBlock]) -> ChannelPowers:
    """How loud the channels of a whole sound are."""
    powers = ChannelPowers()
    for _ in powers.watch(blocks):
        pass
    return powers


def to_mono(waveform: np.ndarray) -> np.ndarray:
    """Mean of the channels: `(samples,)` or `channels samples` -> `(samples,)`."""
    if waveform.ndim == 1:
        return waveform
    if waveform.ndim != 2 or waveform.shape[0] > waveform.shape[1]:
        raise ValueError(
            f"expected sound of shape (channels, samples), got {waveform.shape}; transpose it first"
        )
    return waveform.mean(axis=0, dtype=np.float32)


def one_channel(samples: np.ndarray, channel: int | None) -> np.ndarray:
    """One channel of `channels samples`, or their mean: `(samples,)`."""
    if channel is not None or len(samples) == 1:
        return samples[channel or 0]
    return samples.mean(axis=0, dtype=np.float32)


def mixed_down(blocks: Iterable[SoundBlock], powers: ChannelPowers | None = None) -> Iterator[SoundBlock]:
    """The same blocks, with two channels where they have more than an mp4 holds.

    Args:
        powers: of the whole sound, so that its silent channels take nothing away; of what has come, unless given.
    """
    heard = powers or ChannelPowers()
    for block in blocks:
        if len(block.samples) > max(AAC_CHANNELS):
            if powers is None:
                heard.add(block.samples)
            weights = _stereo_weights(block.layout, len(block.samples), heard.audible)
            block = replace(block, samples=weights @ block.samples, layout="stereo")
        yield block


def _stereo_weights(layout: str, num_channels: int, audible: np.ndarray) -> np.ndarray:
    """`2 channels` float32: each side is the mean of its audible channels, so that nothing is clipped.

    Channels of a layout without names go to the left and right in turn.
    """
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    if len(set(names)) < num_channels:
        names = ["LR"[i % 2] for i in range(num_channels)]
    sides = np.array([["R" not in name, "L" not in name] for name in names]).T
    sides &= audible & np.array([not name.startswith("LFE") for name in names])
    if not sides.any():
        sides[:] = audible
    sides = np.where(sides.any(axis=1, keepdims=True), sides, sides[::-1])
    return (sides / sides.sum(axis=1, keepdims=True)).astype(np.float32)
