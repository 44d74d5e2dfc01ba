"""Sound that is still coming: waited for, forgotten, held back, and told when it fails."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from openloopy.media.audio import AudioError, SoundArray, SoundBlock
from openloopy.media.live_sound import LiveSound, is_live_source, open_live
from tests.media.sounds import speechlike, write_damaged, write_sound

RATE_HZ = 16_000


def block(samples: np.ndarray, rate_hz: int = RATE_HZ) -> SoundBlock:
    return SoundBlock(samples=samples[None], sample_rate_hz=rate_hz, layout="mono", codec="pcm")


def ramp(num_samples: int) -> np.ndarray:
    return np.linspace(0, 0.5, num_samples, dtype=np.float32)


class Source:
    """Gives blocks when it is told to."""

    def __init__(self) -> None:
        self.ready, self.num_given = threading.Semaphore(0), 0

    def blocks(self, num: int, samples: int = 1600):
        for _ in range(num):
            self.ready.acquire()
            self.num_given += 1
            yield block(np.full(samples, self.num_given / 100, np.float32))


def pipe_of(data: bytes):
    """A pipe into which a thread writes."""
    read, write = os.pipe()

    def feed() -> None:
        with os.fdopen(write, "wb") as file:
            file.write(data)

    threading.Thread(target=feed, daemon=True).start()
    return os.fdopen(read, "rb", buffering=0)


def test_it_waits_until_there_is_enough():
    source = Source()
    sound = LiveSound(source.blocks(3))
    found = []
    waiting = threading.Thread(target=lambda: found.append(sound.wait_for(3200)))
    waiting.start()
    source.ready.release()
    time.sleep(0.1)
    assert not found and not sound.has_ended
    source.ready.release()
    waiting.join(5)
    assert found == [3200]
    source.ready.release()
    assert sound.wait_for(10**6) == 4800 and sound.has_ended and sound.num_samples == 4800


def test_what_is_read_is_what_came_and_zeros_elsewhere():
    samples = ramp(8000)
    sound = LiveSound(SoundArray(samples, RATE_HZ).blocks())
    assert sound.wait_for(8000) == 8000
    np.testing.assert_array_equal(sound.read(100, 300), samples[100:300])
    assert not sound.read(-50, 0).any() and not sound.read(8000, 8100).any()
    sound.forget(4000)
    assert not sound.read(0, 4000).any()
    np.testing.assert_array_equal(sound.read(3990, 4010)[10:], samples[4000:4010])


def test_other_rates_are_resampled():
    rate_hz = 48_000
    samples = np.sin(np.arange(rate_hz) * 2 * np.pi * 300 / rate_hz).astype(np.float32) * 0.5
    sound = LiveSound(SoundArray(samples, rate_hz).blocks())
    assert sound.wait_for(16_000) == 16_000
    wanted = 0.5 * np.sin(np.arange(16_000) * 2 * np.pi * 300 / 16_000)
    assert np.corrcoef(sound.read(0, 16_000)[500:-500], wanted[500:-500])[0, 1] > 0.999


def test_a_fast_source_waits_for_its_listener():
    source = Source()
    for _ in range(100):
        source.ready.release()
    sound = LiveSound(source.blocks(100), max_ahead_s=0.5)
    time.sleep(0.2)
    assert source.num_given <= 7  # five blocks of .1 s, one on the way
    sound.wait_for(16_000)
    time.sleep(0.2)
    assert 10 <= source.num_given <= 17
    assert sound.dropped_s == 0
    sound.close()


def test_what_a_microphone_hears_too_fast_is_left_out_and_counted():
    source = Source()
    for _ in range(20):
        source.ready.release()
    sound = LiveSound(source.blocks(20), max_ahead_s=0.5, when_full="drop")
    time.sleep(0.3)
    assert source.num_given == 20 and sound.num_samples == 8000
    assert sound.dropped_s == pytest.approx(1.5)


def test_blocks_come_once_and_in_order():
    sound = LiveSound(SoundArray(ramp(5000), RATE_HZ).blocks())
    heard = np.concatenate([each.samples[0] for each in sound.blocks()])
    np.testing.assert_array_equal(heard, ramp(5000))
    assert list(sound.blocks()) == []


def test_when_samples_came_is_known():
    source, begun_s = Source(), time.monotonic()
    sound = LiveSound(source.blocks(2))
    source.ready.release()
    sound.wait_for(1600)
    time.sleep(0.2)
    source.ready.release()
    sound.wait_for(3200)
    assert begun_s <= sound.arrival_s(0) <= sound.arrival_s(1600)
    assert sound.arrival_s(1601) - sound.arrival_s(1600) > 0.15


def test_an_error_on_the_way_reaches_who_waits():
    def broken():
        yield block(ramp(3200))
        raise AudioError("the cable broke")

    sound = LiveSound(broken())
    assert sound.wait_for(3200) == 3200
    with pytest.raises(AudioError, match="the cable broke"):
        sound.wait_for(3201)


def test_too_little_sound_is_an_error():
    sound = LiveSound(iter([block(ramp(100))]))
    with pytest.raises(AudioError, match="ended before 0.1 s of it had come"):
        sound.wait_for(1600)


def test_a_pipe_with_any_container_is_heard(tmp_path):
    samples = speechlike(1.0, 22_050)
    write_sound(tmp_path / "a.wav", samples, 22_050)
    with pipe_of((tmp_path / "a.wav").read_bytes()) as pipe:
        sound = open_live("-", pipe)
        assert abs(sound.wait_for(20_000) - 16_000) <= 8
        assert np.abs(sound.read(0, 16_000)).max() > 0.01


def test_raw_samples_are_heard():
    samples = ramp(16_000)
    with pipe_of((samples * 32767).astype("<i2").tobytes()) as pipe:
        sound = open_live("pcm:16000", pipe)
        assert sound.wait_for(20_000) == 16_000
        np.testing.assert_allclose(sound.read(0, 16_000), samples, atol=1e-4)


def test_a_damaged_pipe_is_silent_there_and_goes_on(tmp_path):
    samples, said = speechlike(3, 44_100), []
    write_sound(tmp_path / "whole.aac", samples, 44_100, "aac")
    write_damaged(tmp_path / "a.aac", samples, 44_100, "aac", [60, 61, 100])
    with pipe_of((tmp_path / "whole.aac").read_bytes()) as pipe:
        whole = open_live("-", pipe)
        num_samples = whole.wait_for(10**6)
    with pipe_of((tmp_path / "a.aac").read_bytes()) as pipe:
        sound = open_live("-", pipe, say=said.append)
        assert sound.wait_for(10**6) == num_samples and sound.has_ended
    np.testing.assert_allclose(sound.read(32_000, 36_000), whole.read(32_000, 36_000), atol=1e-3)
    assert np.abs(sound.read(22_600, 23_000)).max() < 1e-3 < np.abs(whole.read(22_600, 23_000)).max()
    assert sound.losses.lost_s == pytest.approx(3 * 1024 / 44_100)
    assert said == [
        "the sound from '-' has lost 0.05 s of its sound at 1.39 s (it is damaged); it is silent there"
    ]


def test_what_comes_last_and_cannot_be_decoded_is_no_error(tmp_path):
    write_sound(tmp_path / "a.mp3", speechlike(1, 44_100), 44_100, "libmp3lame")
    said = []
    with pipe_of((tmp_path / "a.mp3").read_bytes() + b"\xff\xfb" + bytes(range(256)) * 8) as pipe:
        sound = open_live("-", pipe, say=said.append)
        assert sound.wait_for(10**6) >= 16_000
    assert len(said) == 1 and "cannot be decoded; it is left out" in said[0]


def test_of_channels_that_cancel_the_louder_one_is_heard(tmp_path):
    voice = speechlike(1, RATE_HZ)[0]
    said = []
    turned = SoundArray(np.stack([0.5 * voice, -voice]), RATE_HZ)
    sound = LiveSound(turned.blocks(), say=said.append)
    assert sound.wait_for(RATE_HZ) == RATE_HZ
    np.testing.assert_allclose(sound.read(0, RATE_HZ), -voice, atol=1e-3)
    assert len(said) == 1 and "cancel each other; only the louder one, channel 2, moves the lips" in said[0]
    alike = LiveSound(SoundArray(np.stack([voice, voice]), RATE_HZ).blocks(), say=said.append)
    alike.wait_for(RATE_HZ)
    np.testing.assert_allclose(alike.read(0, RATE_HZ), voice, atol=1e-3)
    assert len(said) == 1


@pytest.mark.parametrize(
    "source, data, message",
    [
        ("-", b"these are words " * 500, "is not a sound that can be decoded"),
        ("-", b"", "is not a sound that can be decoded"),
        ("pcm:", b"", "with a rate of 4000 to 192000 Hz, got 'pcm:'"),
        ("pcm:100", b"", "got 'pcm:100'"),
        ("radio", b"", "'radio' is not a live sound; give '-'"),
        ("mic:no such device", b"", "microphone|no alsa"),
    ],
)
def test_what_is_no_live_sound_is_refused(source, data, message):
    with pipe_of(data) as pipe, pytest.raises(AudioError, match=message):
        open_live(source, pipe)


def test_names_of_sources():
    assert all(is_live_source(name) for name in ("-", "pcm:8000", "mic", "mic:hw:1"))
    assert not any(is_live_source(name) for name in ("a.wav", "microphone.wav", ""))


def test_it_ends_when_it_is_closed():
    source = Source()
    sound = LiveSound(source.blocks(5))
    sound.close()
    assert sound.wait_for(1600) == 0
    source.ready.release()  # its thread may end
