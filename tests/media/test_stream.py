"""A stream can be played while it is made: what was written comes out soon, and sound and picture agree."""

from __future__ import annotations

import io
import os

import av
import numpy as np
import pytest

from openloopy.media.audio import SoundArray
from openloopy.media.video import FRAGMENT_S, StreamWriter

RATE_HZ = 16_000
CLICK_S = 1.0


class Sink(io.BytesIO):
    """Remembers how much had come before each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = []


def written(num_frames: int = 50, sound=None, **settings) -> Sink:
    sink = Sink()
    with StreamWriter(sink, size=(128, 96), sound=sound, **settings) as writer:
        for i in range(num_frames):
            sink.sizes.append(len(sink.getvalue()))
            writer.write(np.full((96, 128, 3), 5 * i, np.uint8))
        assert writer.num_frames == num_frames
    return sink


def click() -> SoundArray:
    samples = np.zeros(2 * RATE_HZ, np.float32)
    samples[round(CLICK_S * RATE_HZ) :][:80] = 0.9
    return SoundArray(samples, RATE_HZ)


def decode(data: bytes, kind: str):
    with av.open(io.BytesIO(data)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(frame.time, frame.to_ndarray()) for frame in container.decode(stream)], dict(
            container.metadata
        )


def test_all_frames_and_the_sound_come_out_in_step():
    data = written(sound=click(), tags={"comment": "AI-generated"}).getvalue()
    frames, tags = decode(data, "video")
    assert [round(time_s * 25) for time_s, _ in frames] == list(range(50))
    assert tags["comment"] == "AI-generated"
    sounds, _ = decode(data, "audio")
    loudness = np.abs(np.concatenate([samples[0] for _, samples in sounds]))
    assert abs(sounds[0][0] + loudness.argmax() / RATE_HZ - CLICK_S) < 0.01
    assert abs(len(loudness) / RATE_HZ - 2.0) < 0.1


@pytest.mark.parametrize("sound", [None, click()])
def test_a_player_waits_no_longer_than_a_fragment(sound):
    sink = written(sound=sound)
    late_frames = round(FRAGMENT_S * 25) + 1
    for i in range(10, 44):  # the head waits for the first packets of sound, its end for the last
        frames, _ = decode(sink.getvalue()[: sink.sizes[i]], "video")
        assert len(frames) >= i - late_frames, i


def test_it_can_be_cut_anywhere_and_what_came_before_plays():
    data = written(sound=click()).getvalue()
    frames, _ = decode(data[: len(data) * 3 // 4], "video")
    assert 20 < len(frames) < 50


def test_it_goes_into_a_pipe_and_a_reader_that_leaves_is_told():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):
        with StreamWriter(pipe, size=(128, 96)) as writer:
            for _ in range(100):
                writer.write(np.zeros((96, 128, 3), np.uint8))


def test_wrong_frames_are_refused():
    with pytest.raises(ValueError, match="must be even"):
        StreamWriter(io.BytesIO(), size=(127, 96))
    with pytest.raises(ValueError, match=r"expected a uint8 frame of shape \(96, 128, 3\)"):
        with StreamWriter(io.BytesIO(), size=(128, 96)) as writer:
            writer.write(np.zeros((96, 128, 3), np.float32))
