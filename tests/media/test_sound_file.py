"""Damaged sounds are used as players play them: silence in the gaps, the rest in its place, and a word about it."""

from __future__ import annotations

import errno
import struct
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from openloopy.media.audio import SAMPLE_RATE_HZ, AudioError, OpenSound, SpooledWaveform, open_sound
from openloopy.media.sound_clock import SoundClock, SoundLoss
from openloopy.media.sound_file import SoundReader, told
from tests.media.sounds import best_lag, speechlike, write_damaged, write_sound

AAC_FRAME_S, MP3_FRAME_S, OPUS_FRAME_S = 1024 / 44_100, 1152 / 44_100, 0.02
OVERLAP_S = 0.09
"""So long after a gap a decoder may sound otherwise: its frames overlap, and mp3 has a reservoir of bits."""
STORED = [
    ("a.m4a", "aac", 44_100, AAC_FRAME_S),
    ("a.mka", "aac", 44_100, AAC_FRAME_S),
    ("a.flv", "aac", 44_100, AAC_FRAME_S),
    ("a.aac", "aac", 44_100, AAC_FRAME_S),
    ("a.mka", "libmp3lame", 44_100, MP3_FRAME_S),
    ("a.avi", "libmp3lame", 44_100, MP3_FRAME_S),
    ("a.webm", "libopus", 48_000, OPUS_FRAME_S),
]
"""Name, codec, rate, and how long a packet is. FLV and Matroska round time stamps to milliseconds."""


def at(sound: OpenSound, begin_s: float, end_s: float) -> np.ndarray:
    first, last = round(begin_s * SAMPLE_RATE_HZ), round(end_s * SAMPLE_RATE_HZ)
    return sound.waveform.read(first, last - first)


def damaged(path: Path, change: Callable[[bytearray], bytes | None]) -> Path:
    """A copy of a file with other bytes."""
    content = bytearray(path.read_bytes())
    out = path.with_name(f"damaged-{path.name}")
    out.write_bytes(change(content) or bytes(content))
    return out


def noise(count: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8).tobytes()


def overwritten(share: float, content: bytes) -> Callable[[bytearray], None]:
    def change(file: bytearray) -> None:
        begin = int(len(file) * share)
        file[begin : begin + len(content)] = content

    return change


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("bad", [range(60, 61), range(60, 67)], ids=["one packet", "seven packets"])
@pytest.mark.parametrize(("name", "codec", "rate_hz", "frame_s"), STORED)
def test_bad_packets_leave_silence_and_all_else_in_place(tmp_path, name, codec, rate_hz, frame_s, bad):
    sound = speechlike(3, rate_hz)
    whole = open_sound(write_sound(tmp_path / f"whole-{name}", sound, rate_hz, codec))
    broken = open_sound(write_damaged(tmp_path / name, sound, rate_hz, codec, bad))
    assert len(broken.waveform) == len(whole.waveform) and not whole.losses
    (loss,) = broken.losses
    # AVI's parser takes the packet after a bad one with it.
    lost = len(bad) + (codec == "libmp3lame")
    assert loss.lost_s == pytest.approx(lost * frame_s, abs=1e-9) and loss.is_gap
    end_s = loss.at_s + loss.lost_s
    assert np.abs(at(broken, loss.at_s + 0.003, end_s - 0.003)).max() < 1e-3
    # Opus lets the frame before fade, and all resample with a filter of some length.
    np.testing.assert_allclose(at(broken, 0, loss.at_s - 0.021), at(whole, 0, loss.at_s - 0.021), atol=1e-4)
    rest = (end_s + OVERLAP_S, 2.9)
    np.testing.assert_allclose(at(broken, *rest), at(whole, *rest), atol=2e-2 if codec == "libopus" else 1e-3)
    assert broken.notes[0].startswith(f"{tmp_path / name} has lost {lost * frame_s:.2f} s of its sound at 1.")
    assert broken.notes[0].endswith("it is silent there") and len(broken.notes) == 1


def test_many_gaps_are_told_in_one_sentence(tmp_path):
    path = write_damaged(tmp_path / "a.m4a", speechlike(3, 44_100), 44_100, "aac", [20, 40, 41, 90])
    sound = open_sound(path)
    assert [round(loss.lost_s / AAC_FRAME_S) for loss in sound.losses] == [1, 2, 1]
    assert sound.notes == (
        f"{path} has lost 0.09 s of its sound in 3 places, the first at {sound.losses[0].at_s:.2f} s "
        "(it is damaged); it is silent there",
    )


def test_bad_packets_at_the_beginning_do_not_move_the_rest(tmp_path):
    """Time stamps tell where the sound should begin; the first packet is the encoder's delay."""
    sound = speechlike(2, 44_100)
    whole = open_sound(write_sound(tmp_path / "whole.m4a", sound, 44_100, "aac"))
    broken = open_sound(write_damaged(tmp_path / "a.m4a", sound, 44_100, "aac", [1, 2, 3]))
    assert len(broken.waveform) == len(whole.waveform) and broken.start_s == whole.start_s == 0
    assert broken.losses == (SoundLoss(at_s=0.0, lost_s=pytest.approx(3 * AAC_FRAME_S), why="damaged"),)
    np.testing.assert_allclose(at(broken, 0.2, 1.9), at(whole, 0.2, 1.9), atol=1e-3)


def test_bad_packets_at_the_end_are_left_out_and_told(tmp_path):
    num_packets = 2 * 44_100 // 1024 + 2
    path = write_damaged(
        tmp_path / "a.aac", speechlike(2, 44_100), 44_100, "aac", range(80, num_packets), noise(300)
    )
    sound = open_sound(path)
    assert [loss.why for loss in sound.losses] == ["tail"] and not sound.losses[0].is_gap
    assert sound.losses[0].at_s == sound.info.duration_s == pytest.approx(80 * AAC_FRAME_S)
    assert sound.notes == (f"{path} holds something after 1.86 s that cannot be decoded; it is left out",)


@pytest.mark.parametrize(("name", "num_bytes"), [("a.mp3", 150), ("a.mp3", 2000), ("a.ac3", 2000)])
def test_damage_in_files_without_time_stamps_is_measured_in_bytes(tmp_path, name, num_bytes):
    """FFmpeg counts one frame for it, whatever its length: what follows would come early."""
    codec = {"a.mp3": "libmp3lame", "a.ac3": "ac3"}[name]
    sound = speechlike(4, 44_100)
    path = write_sound(tmp_path / name, sound, 44_100, codec)
    whole, broken = open_sound(path), open_sound(damaged(path, overwritten(0.5, b"\xff" * num_bytes)))
    rest = (2.6, 3.9)
    assert abs(best_lag(at(whole, *rest), at(broken, *rest), 4000)) <= 1
    assert abs(len(broken.waveform) - len(whole.waveform)) <= 0.03 * SAMPLE_RATE_HZ
    (loss,) = broken.losses
    assert loss.why == "damaged" and 0 <= loss.lost_s - num_bytes / 12_000 < 0.2
    np.testing.assert_allclose(at(broken, 0, 1.8), at(whole, 0, 1.8), atol=1e-4)


def test_junk_behind_an_mp3_is_left_out_and_nothing_is_promised(tmp_path):
    path = write_sound(tmp_path / "a.mp3", speechlike(2, 22_050), 22_050, "libmp3lame")
    whole, longer = open_sound(path), open_sound(damaged(path, lambda file: file + noise(3000)))
    assert longer.info.duration_s == pytest.approx(whole.info.duration_s, abs=0.1)
    np.testing.assert_allclose(at(longer, 0, 1.9), at(whole, 0, 1.9), atol=1e-6)
    assert [loss.why for loss in longer.losses] == [
        "tail"
    ] and "cannot be decoded; it is left" in longer.notes[0]


@pytest.mark.parametrize(("rate_hz", "channels"), [(44_100, 1), (22_050, 2)])
def test_mp3_files_in_one_are_heard_one_after_the_other(tmp_path, rate_hz, channels):
    """The second in the form of the first, behind its tag and the silence with which encoders begin."""
    first, second = speechlike(2, 44_100), speechlike(2, rate_hz, channels, seed=1)
    one = write_sound(tmp_path / "1.mp3", first, 44_100, "libmp3lame")
    other = write_sound(tmp_path / "2.mp3", second, rate_hz, "libmp3lame")
    sound = open_sound(joined(tmp_path / "a.mp3", one, other))
    assert (sound.info.sample_rate_hz, sound.info.channels) == (44_100, 1)
    assert 4 <= sound.info.duration_s < 4.2 and all(loss.lost_s < 0.06 for loss in sound.losses)
    np.testing.assert_allclose(at(sound, 0, 1.9), at(open_sound(one), 0, 1.9), atol=1e-4)
    alone = at(open_sound(other), 0, 1.5)
    lag = best_lag(np.pad(alone, (0, 8000)), at(sound, 2, 4), 3000)
    assert 0 < lag < 0.16 * SAMPLE_RATE_HZ
    found = at(sound, 2 + lag / SAMPLE_RATE_HZ, 3.5 + lag / SAMPLE_RATE_HZ)
    assert np.corrcoef(alone, found)[0, 1] > 0.95


def test_a_tag_between_two_sounds_is_no_lost_sound(tmp_path):
    one = write_sound(tmp_path / "1.mp3", speechlike(2, 44_100), 44_100, "libmp3lame")
    picture = b"ID3\x04\x00\x00\x00\x01\x1c\x40" + b"\0" * 20_000
    (tmp_path / "a.mp3").write_bytes(one.read_bytes() + picture + one.read_bytes())
    sound = open_sound(tmp_path / "a.mp3")
    assert sum(loss.lost_s for loss in sound.losses) < 0.06 and sound.info.duration_s < 4.2


@pytest.mark.parametrize("channels", [1, 2])
def test_chained_ogg_is_heard_to_its_end(tmp_path, channels):
    """FFmpeg itself gives up where the second has another form."""
    first, second = speechlike(2, 48_000), speechlike(3, 48_000, channels, seed=1)
    one = write_sound(tmp_path / "1.opus", first, 48_000, "libopus")
    other = write_sound(tmp_path / "2.opus", second, 48_000, "libopus")
    sound = open_sound(joined(tmp_path / "a.opus", one, other))
    assert len(sound.waveform) == 5 * SAMPLE_RATE_HZ and not sound.notes and sound.info.channels == 1
    np.testing.assert_allclose(at(sound, 0, 1.9), at(open_sound(one), 0, 1.9), atol=1e-3)
    np.testing.assert_allclose(at(sound, 2.1, 4.9), at(open_sound(other), 0.1, 2.9), atol=2e-3)


def test_another_rate_in_a_chain_keeps_its_length_to_the_sample(tmp_path):
    parts = []
    for number, (duration_s, rate_hz) in enumerate([(1, 44_100), (2, 32_000), (1, 44_100)]):
        sound = speechlike(duration_s, rate_hz, seed=number)
        parts.append(write_sound(tmp_path / f"{number}.oga", sound, rate_hz, "flac"))
    sound = open_sound(joined(tmp_path / "a.oga", *parts))
    assert sound.info.duration_s == pytest.approx(4, abs=2 / 44_100) and not sound.losses
    np.testing.assert_allclose(at(sound, 3.1, 3.9), at(open_sound(parts[2]), 0.1, 0.9), atol=2e-2)
    assert np.corrcoef(at(sound, 1.1, 2.9), at(open_sound(parts[1]), 0.1, 1.9))[0, 1] > 0.999


def test_a_link_of_a_chain_that_cannot_be_opened_is_told(tmp_path):
    one = write_sound(tmp_path / "1.opus", speechlike(2, 48_000), 48_000, "libopus")
    broken = one.read_bytes()[:28] + bytes(400)
    (tmp_path / "a.opus").write_bytes(one.read_bytes() + broken + one.read_bytes())
    sound = open_sound(tmp_path / "a.opus")
    assert len(sound.waveform) == 4 * SAMPLE_RATE_HZ
    assert "holds something after 2.00 s that cannot be decoded" in sound.notes[0]


def test_an_ogg_that_lost_a_page_is_silent_there(tmp_path):
    path = write_sound(tmp_path / "a.opus", speechlike(3, 48_000), 48_000, "libopus")
    whole, broken = open_sound(path), open_sound(damaged(path, overwritten(0.5, bytes(50))))
    (loss,) = broken.losses
    assert loss.why == "missing" and len(broken.waveform) == len(whole.waveform)
    assert np.abs(at(broken, loss.at_s + 0.01, loss.at_s + loss.lost_s - 0.01)).max() < 1e-3
    assert "its time stamps leave a hole" in broken.notes[0]


CUT = [
    ("a.wav", "pcm_s16le", 1.8),
    ("a.flac", "flac", 1.6),
    ("a.aiff", "pcm_s16be", 1.8),
    ("a.mp3", "libmp3lame", 1.8),
    ("a.mka", "aac", 1.8),
    ("a.wv", "wavpack", 1.0),
]


@pytest.mark.parametrize(("name", "codec", "there_s"), CUT, ids=[name for name, _, _ in CUT])
def test_of_a_file_that_is_cut_off_what_is_there_is_used(tmp_path, name, codec, there_s):
    path = write_sound(tmp_path / name, speechlike(3, 44_100), 44_100, codec)
    whole, short = open_sound(path), open_sound(damaged(path, lambda file: file[: len(file) * 6 // 10]))
    there, missing = short.losses[-1].at_s, short.losses[-1].lost_s
    assert short.losses[-1].why == "cut off" and there == short.info.duration_s
    assert there == pytest.approx(there_s, abs=0.05) and there + missing == pytest.approx(3, abs=0.04)
    rest = (0, there - 0.1)
    np.testing.assert_allclose(at(short, *rest), at(whole, *rest), atol=1e-3)
    assert (
        f"is cut off: its header promises {there + missing:.2f} s of sound, {there:.2f} s are"
        in short.notes[-1]
    )


def test_an_mp4_whose_index_comes_first_may_be_cut_off(tmp_path):
    with av.open(str(tmp_path / "a.m4a"), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(speechlike(3, 44_100), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    sound = open_sound(damaged(tmp_path / "a.m4a", lambda file: file[: len(file) * 6 // 10]))
    assert [loss.why for loss in sound.losses] == ["cut off"] and 1.5 < sound.info.duration_s < 2


def wav(
    samples: np.ndarray,
    *,
    rate_hz: int = 8_000,
    riff: int | None = None,
    data: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
    channels: int = 1,
) -> bytes:
    """A wav of 16 bits whose header says what it is told to."""
    content = (samples * 32767).astype("<i2").tobytes()
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate_hz, 2 * rate_hz * channels, 2 * channels, 16)
    size = len(content) if data is None else data
    body = b"WAVEfmt " + form + before + b"data" + struct.pack("<I", size) + content + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


SPEECH = speechlike(1, 8_000)[0]
TITLE = (
    b"LIST" + struct.pack("<I", 20) + b"INFOINAM" + struct.pack("<I", 8) + "M\xfcller\0\0".encode("latin-1")
)
HONEST = {
    "as it should be": wav(SPEECH),
    "from a pipe": wav(SPEECH, riff=0xFFFF_FFFF, data=0xFFFF_FFFF),
    "from another pipe": wav(SPEECH, riff=0, data=0),
    "a wrong size of the file alone": wav(SPEECH, riff=200_000),
    "a size of the file that is too small": wav(SPEECH, riff=1_000),
    "a chunk behind": wav(SPEECH, after=b"LIST" + struct.pack("<I", 4000) + bytes(4000)),
    "an odd rest": wav(SPEECH, after=b"\0"),
    "a title in another encoding": wav(SPEECH, before=TITLE),
    "other chunks before": wav(SPEECH, before=b"JUNK" + struct.pack("<I", 3) + bytes(4)),
}


@pytest.mark.parametrize("name", HONEST)
def test_wav_headers_that_are_no_reason_to_worry(tmp_path, name):
    (tmp_path / "a.wav").write_bytes(HONEST[name])
    sound = open_sound(tmp_path / "a.wav")
    assert len(sound.waveform) == SAMPLE_RATE_HZ and not sound.notes


LIES = {
    "more than is there": (
        wav(SPEECH, data=32_000),
        1.0,
        "its header promises 2.00 s of sound, 1.00 s are there",
    ),
    "less than is there": (wav(SPEECH, data=4_000), 1.0, "goes on after the end that its header states; all"),
    "less, and so the file": (
        wav(SPEECH, data=4_000, riff=4_036),
        1.0,
        "goes on after the end that its header",
    ),
    "another wav behind": (wav(SPEECH) * 2, 1.0, "is several wav files in one; only the first is used"),
    "half a sample": (wav(SPEECH)[:-1], 7999 / 8000, ""),
}


@pytest.mark.parametrize("name", LIES)
def test_wav_headers_that_lie(tmp_path, name):
    content, duration_s, note = LIES[name]
    (tmp_path / "a.wav").write_bytes(content)
    sound = open_sound(tmp_path / "a.wav")
    assert sound.info.duration_s == pytest.approx(duration_s) and note in "".join(sound.notes)
    assert len(sound.notes) == (note != "")
    assert (
        np.corrcoef(at(sound, 0.01, 0.95), np.interp(np.arange(160, 15200) / 2, np.arange(8000), SPEECH))[
            0, 1
        ]
        > 0.9
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (wav(SPEECH, rate_hz=1), "a.wav has 1 samples a second, at least 1000 are needed; if its header"),
        (wav(SPEECH, channels=0), "a.wav holds no samples: its sound is empty or cannot be decoded"),
        (wav(SPEECH[:700]), "lasts 0.087 s; at least 0.1 s"),
        (wav(SPEECH[:0]), "holds no samples"),
        (b"RIFF", "is not a sound that can be decoded"),
        (b"RIFF\0\0\0\0WAVEfmt ", "is not a sound that can be decoded"),
        (b"OggS\0\2" + bytes(50), "is not a sound that can be decoded"),
        (b"OggS\0", "is not a sound that can be decoded"),
        (b"ID3", "is not a sound that can be decoded"),
    ],
)
def test_only_what_gives_no_sound_is_refused(tmp_path, content, message):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=message):
        open_sound(tmp_path / "a.wav")


def test_samples_that_are_not_numbers_are_silent(tmp_path):
    sound = 0.9 * np.ones((2, 8_000), np.float32)
    sound[0, 2000:3500], sound[1, 6000] = np.nan, np.inf
    path = write_sound(tmp_path / "a.wav", sound, 8_000, "pcm_f64le")
    found = open_sound(path)
    assert np.isfinite(found.waveform.whole()).all() and len(found.waveform) == SAMPLE_RATE_HZ
    losses = [(round(loss.at_s * 8000), round(loss.lost_s * 8000), loss.why) for loss in found.losses]
    assert losses == [(2000, 1500, "not numbers"), (6000, 1, "not numbers")]
    assert np.abs(at(found, 0.26, 0.43)).max() < 0.1 < at(found, 0.45, 0.74).min()
    assert (
        "lost 0.19 s of its sound in 2 places, the first at 0.25 s (there are samples that are not"
        in found.notes[0]
    )
    sound[:, 500:] = np.nan
    with pytest.raises(AudioError, match="holds samples that are not numbers, and hardly any that are"):
        open_sound(write_sound(tmp_path / "b.wav", sound, 8_000, "pcm_f32le"))


@dataclass
class Stamped:
    """What the clock asks of a frame."""

    time: float | None
    samples: int = 160
    sample_rate: int = 8_000


def gaps_of(
    stamps_s: Iterable[float | None], container_format: str = "matroska,webm"
) -> list[tuple[float, float]]:
    """When and how much is missing between frames of .02 s with these time stamps."""
    clock, at_s, gaps = SoundClock(container_format), 0.0, []
    for stamp_s in stamps_s:
        if loss := clock.gap(Stamped(stamp_s), at_s):
            gaps.append((round(at_s, 3), round(loss.lost_s, 3)))
            assert loss.why == "missing" and loss.at_s == at_s
            at_s += loss.lost_s
        at_s += 0.02
    return gaps


def frames(begin: int, end: int, later_s: float = 0.0) -> list[float]:
    return [round(number * 0.02 + later_s, 3) for number in range(begin, end)]


@pytest.mark.parametrize(
    ("stamps_s", "gaps"),
    [
        (frames(0, 100), []),
        (frames(0, 50) + frames(50, 100, 0.5), [(1.0, 0.5)]),
        (frames(0, 50) + frames(50, 100, 0.02), [(1.0, 0.02)]),
        (frames(0, 50) + frames(50, 70, 0.04) + frames(70, 100, 0.12), [(1.0, 0.04), (1.44, 0.08)]),
        (frames(0, 50) + frames(50, 100, 0.09), []),
        (frames(0, 50) + frames(50, 100, 700.0), []),
        (frames(0, 50) + frames(0, 50), []),
        (frames(0, 50) + frames(25, 50) + frames(50, 75, 0.5), [(1.5, 0.5)]),
        (frames(0, 50) + [None] * 3 + frames(53, 80, 0.2), [(1.06, 0.2)]),
        ([None] * 3 + frames(3, 50) + frames(50, 80, 0.2), [(1.0, 0.2)]),
        ([stamp_s * 1.0002 for stamp_s in frames(0, 500)], []),
        ([stamp_s * 1.002 for stamp_s in frames(0, 3000)], [(50.02, 0.1)]),
        ([stamp_s + (0.011 if number % 7 == 3 else 0) for number, stamp_s in enumerate(frames(0, 100))], []),
        (frames(0, 50, 3.0) + frames(50, 100, 3.1), [(1.0, 0.1)]),
    ],
    ids=[
        "none",
        "half a second",
        "one frame",
        "twice",
        "less than can be told",
        "a clock that was set anew",
        "a clock that began again",
        "a gap after that",
        "frames without a stamp",
        "none at the beginning",
        "a slow clock",
        "a very slow clock",
        "trembling",
        "another origin",
    ],
)
def test_what_time_stamps_say(stamps_s, gaps):
    assert gaps_of(stamps_s) == gaps


def write_gap(path: Path, gap_s: float) -> np.ndarray:
    """One second of 16 bits at 8 kHz, the gap, and another second; both together, `(samples,)`."""
    sound, rate_hz = speechlike(2, 8_000), 8_000
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate_hz, layout="mono")
        for first in range(0, 16_000, 160):
            pcm = (sound[:, first : first + 160] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
            frame.pts = first + (round(gap_s * rate_hz) if first >= 8_000 else 0)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sound[0]


@pytest.mark.parametrize("gap_s", [0.02, 0.5])
def test_a_hole_in_the_time_stamps_is_silence(tmp_path, gap_s):
    sound = write_gap(tmp_path / "a.mka", gap_s)
    opened = open_sound(tmp_path / "a.mka")
    assert opened.losses == (SoundLoss(at_s=1.0, lost_s=pytest.approx(gap_s), why="missing"),)
    assert len(opened.waveform) == (2 + gap_s) * SAMPLE_RATE_HZ
    assert np.abs(at(opened, 1.004, 1 + gap_s - 0.004)).max() < 2e-3
    doubled = np.interp(np.arange(32_000) / 2, np.arange(16_000), sound)
    for begin_s in (0.1, 1.1):
        found = at(
            opened, begin_s + (gap_s if begin_s > 1 else 0), begin_s + 0.8 + (gap_s if begin_s > 1 else 0)
        )
        assert np.corrcoef(found, doubled[round(begin_s * 16_000) :][: len(found)])[0, 1] > 0.98


def test_a_long_silence_comes_in_pieces(tmp_path):
    write_gap(tmp_path / "a.mka", 300.0)
    reader = SoundReader(tmp_path / "a.mka")
    sizes = [block.samples.shape[1] for block in reader]
    assert max(sizes) <= 1 << 16 and sum(sizes) == 302 * 8_000
    assert [loss.lost_s for loss in reader.losses] == [pytest.approx(300)]


def test_a_reader_reads_again_and_alike(tmp_path):
    path = write_damaged(tmp_path / "a.m4a", speechlike(1, 44_100), 44_100, "aac", [20])
    reader = SoundReader(path)
    once, losses, info = [block.samples for block in reader], list(reader.losses), reader.info
    again = [block.samples for block in reader]
    assert reader.losses == losses and reader.info == info and len(losses) == 1
    np.testing.assert_array_equal(np.concatenate(once, 1), np.concatenate(again, 1))


def test_frames_of_another_form_join_the_first(tmp_path):
    """Wider, narrower and faster sound on the way, in a container that allows it."""
    path = tmp_path / "a.mp3"
    parts = [(44_100, 2), (48_000, 1), (44_100, 1)]
    for number, (rate_hz, channels) in enumerate(parts):
        write_sound(
            tmp_path / f"{number}.mp3", speechlike(1, rate_hz, channels, seed=number), rate_hz, "libmp3lame"
        )
    sound = open_sound(joined(path, *(tmp_path / f"{number}.mp3" for number in range(3))))
    assert sound.info.channels == 2 and sound.info.duration_s == pytest.approx(3.1, abs=0.2)
    for number, begin_s in enumerate((0.0, 1.0, 2.0)):
        alone = at(open_sound(tmp_path / f"{number}.mp3"), 0.1, 0.9)
        found = at(sound, begin_s, begin_s + 1.4)
        lag = best_lag(np.pad(alone, (0, len(found) - len(alone))), found, 9_000)
        assert np.corrcoef(alone, found[lag:][: len(alone)])[0, 1] > 0.9


def test_what_is_lost_of_a_part():
    losses = [
        SoundLoss(at_s=1.0, lost_s=0.5, why="damaged"),
        SoundLoss(at_s=3.0, lost_s=0.25, why="missing"),
        SoundLoss(at_s=4.0, lost_s=1.0, why="cut off"),
    ]
    with tempfile.TemporaryFile() as file:
        sound = SpooledWaveform(file, 4 * SAMPLE_RATE_HZ, losses)
        assert sound.num_lost(0, 4 * SAMPLE_RATE_HZ) == 12_000 == sound.num_lost(-800, 10 * SAMPLE_RATE_HZ)
        assert sound.num_lost(0, 16_000) == 0 == sound.num_lost(24_000, 24_000)
        assert sound.num_lost(20_000, 8_000) == 4_000 and sound.num_lost(17_000, 100) == 100


def test_sentences():
    assert told([], "a.wav") == []
    gaps = [SoundLoss(at_s=1, lost_s=0.004, why="missing"), SoundLoss(at_s=2, lost_s=0.001, why="damaged")]
    assert told(gaps, "a.wav") == [
        "a.wav has lost less than 0.01 s of its sound in 2 places, the first at 1.00 s (its time stamps leave a hole "
        "and it is damaged); it is silent there"
    ]


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            self.is_closed = True

    full = Full()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: full)
    path = write_sound(tmp_path / "a.wav", speechlike(1, 8_000), 8_000)
    with pytest.raises(OSError, match="the temporary folder cannot hold the sound.*TMPDIR") as error:
        open_sound(path)
    assert (
        error.value.errno == errno.ENOSPC and error.value.filename == tempfile.gettempdir() and full.is_closed
    )


def test_a_sound_of_a_form_that_ffmpeg_does_not_know(tmp_path):
    path = write_sound(tmp_path / "a.mka", speechlike(1, 44_100), 44_100, "aac")
    with pytest.raises(AudioError, match="a form that FFmpeg does not know"):
        open_sound(damaged(path, lambda file: file.replace(b"A_AAC", b"A_XYZ")))
