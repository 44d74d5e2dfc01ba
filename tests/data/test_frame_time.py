"""Frame k shows the moment k / 25 s, by every way in and out: a white picture and a sound that begins with it.

Pictures are one flash in the dark at known frames, the sound is silence and a sweep that begins at the flash's time
stamp, so that where it begins is known to a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from openloopy.apps import evaluate
from openloopy.apps.evaluation_videos import read_steady
from openloopy.data import prepare_video
from openloopy.data.cache import build_pixel_cache
from openloopy.data.clips import decode_frames, decode_sound, encode_frames, encode_sound
from openloopy.data.describe import SAMPLES_PER_FRAME, cut_sound
from openloopy.data.footage import SteadyReader
from openloopy.data.prepare import PrepareConfig, prepare_footage
from openloopy.data.shards import ShardWriter, read_shards
from openloopy.measures.sync import closures
from openloopy.media.audio import SAMPLE_RATE_HZ, open_sound, open_waveform
from openloopy.media.video import FPS, VideoWriter, read_frames
from openloopy.puppet import motion
from openloopy.puppet.motion import draw_style, face_states
from openloopy.puppet.speech import Phoneme, Speaker, Utterance, draw_speaker, utter
from openloopy.rig.state import NAMES
from tests.data.damaged import Talk, write_talk
from tests.data.synthetic import make_sample
from tests.data.test_prepare import EASY, DrawnLandmarker
from tests.media.sounds import best_lag, write_sound

NUM_FRAMES = 75
FLASHES = (15, 40, 65)
"""Frames at 25 fps; multiples of five, whose instants 30 fps has too."""
SIDE_PX = 64
CLOCK = Fraction(1, 90_000)
FORMATS = {".mpg": "mpeg"}
SWEEP_S = 0.12
TOLERANCE_SAMPLES = 1
""".06 ms at 16 kHz. Found were 0 in most files, .5 where MPEG's clock of 90 kHz does not divide the sound's."""


@dataclass(frozen=True, kw_only=True)
class File:
    """How a file is written."""

    name: str
    video: str = "libx264"
    sound: str = "aac"
    rate_hz: int = 48_000
    times_s: tuple[float, ...] = tuple(i / FPS for i in range(NUM_FRAMES))
    """Of the pictures; the flashes' instants are among them."""
    origin_s: float = 0.0
    """Where the first picture lies on the file's clock."""
    sound_from_s: float = 0.0
    """Where the sound track begins, after the first picture; negative: before it."""
    options: dict[str, str] = field(default_factory=dict)
    """Of the container."""
    tolerance_samples: int = TOLERANCE_SAMPLES


DENSER = tuple(
    sorted({i / FPS for i in range(NUM_FRAMES)} | {(i + 0.5) / FPS for i in range(0, NUM_FRAMES, 3)})
)
SPARSER = tuple(i / FPS for i in range(NUM_FRAMES) if i % 5 not in (2, 3) or i % 7 == 0)
FILES = (
    File(name="plain.mp4"),
    File(name="plain.mkv"),
    File(name="pcm.mkv", sound="pcm_s16le", rate_hz=16_000),
    File(name="mpeg.mpg", video="mpeg1video", sound="mp2", rate_hz=44_100),
    File(name="thirty.mp4", times_s=tuple(i / 30 for i in range(90))),
    File(name="fifty.mp4", times_s=tuple(i / 50 for i in range(150))),
    File(name="denser.mkv", times_s=DENSER),
    File(name="sparser.mp4", times_s=SPARSER),
    File(name="late_sound.mp4", sound_from_s=0.31, tolerance_samples=16),  # its edit list counts in ms
    File(name="late_sound_exact.mp4", sound_from_s=0.31, options={"movie_timescale": "90000"}),
    File(name="late_sound.mkv", sound_from_s=0.31, sound="pcm_s16le", rate_hz=16_000),
    File(name="late_sound.mpg", sound_from_s=0.31, video="mpeg1video", sound="mp2", rate_hz=44_100),
    File(name="late_pictures.mkv", origin_s=1.3, sound_from_s=-1.3),
    File(name="late_pictures.mp4", origin_s=1.3, sound_from_s=-1.3),
    File(name="other_origin.mkv", origin_s=2.2, sound_from_s=0.1, sound="pcm_s16le", rate_hz=16_000),
)


def beeps(rate_hz: int, from_s: float = 0.0) -> np.ndarray:
    """Silence, and a sweep from 500 Hz to 3 kHz that begins at each flash; the first sample lies at `from_s`."""
    time_s = from_s + np.arange(round((NUM_FRAMES / FPS - from_s) * rate_hz)) / rate_hz
    sound = np.zeros(len(time_s), np.float32)
    for frame in FLASHES:
        since_s = time_s - frame / FPS
        inside = (since_s > -1e-9) & (since_s < SWEEP_S)
        phase = 2 * np.pi * (500 * since_s + 0.5 * (2500 / SWEEP_S) * since_s**2)
        sound[inside] = 0.5 * np.cos(phase[inside])
    return sound


def picture(is_flash: bool, side_px: int = SIDE_PX) -> np.ndarray:
    return np.full((side_px, side_px, 3), 235 if is_flash else 20, np.uint8)


def is_flash_at(time_s: float) -> bool:
    return min(abs(time_s - frame / FPS) for frame in FLASHES) < 1e-6


def write_file(folder: Path, file: File) -> Path:
    path = folder / file.name
    with av.open(str(path), "w", format=FORMATS.get(path.suffix), options=file.options) as container:
        video = container.add_stream(file.video, rate=FPS)
        video.width, video.height, video.pix_fmt = SIDE_PX, SIDE_PX, "yuv420p"
        video.codec_context.time_base = CLOCK if file.video == "libx264" else Fraction(1, FPS)
        sound = container.add_stream(file.sound, rate=file.rate_hz, layout="mono")
        packets = [*_pictures(video, file), *_sounds(sound, file)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def _pictures(stream: av.VideoStream, file: File) -> list[av.Packet]:
    packets: list[av.Packet] = []
    for time_s in file.times_s:
        frame = av.VideoFrame.from_ndarray(picture(is_flash_at(time_s)), format="rgb24")
        frame.time_base = stream.codec_context.time_base
        frame.pts = round((time_s + file.origin_s) / frame.time_base)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _sounds(stream: av.AudioStream, file: File) -> list[av.Packet]:
    samples = beeps(file.rate_hz, file.sound_from_s)
    first = round((file.origin_s + file.sound_from_s) * file.rate_hz)
    packets: list[av.Packet] = []
    for start in range(0, len(samples), 1024):
        pcm = (samples[None, start : start + 1024] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate, frame.time_base = file.rate_hz, Fraction(1, file.rate_hz)
        frame.pts = first + start
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def check(
    frames: Sequence[np.ndarray] | np.ndarray,
    sound: np.ndarray,
    first: int = 0,
    tolerance_samples: int = TOLERANCE_SAMPLES,
) -> None:
    """The flashes are where they should be, and the beeps with them."""
    levels = np.array([frame.mean() for frame in frames])
    wanted = [frame - first for frame in FLASHES if first <= frame < first + len(frames)]
    assert len(wanted) > 1 and np.flatnonzero(levels > (levels.min() + levels.max()) / 2).tolist() == wanted
    expected = beeps(SAMPLE_RATE_HZ)[first * SAMPLES_PER_FRAME :]
    lag = best_lag(expected, np.asarray(sound, np.float32), 2000)
    assert abs(lag) <= tolerance_samples, f"the sound is late by {lag} samples"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Callable[[File], Path]:
    folder = tmp_path_factory.mktemp("files")
    made: dict[str, Path] = {}

    def write(file: File) -> Path:
        if file.name not in made:
            made[file.name] = write_file(folder, file)
        return made[file.name]

    return write


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_footage_is_read_in_step(written, file: File) -> None:
    """As data preparation does it: the first picture's time stamp is the clip's zero."""
    reader = SteadyReader(written(file))
    frames = [frame.rgb for frame in reader]
    found = prepare_video._read_sound(written(file))
    lead = round((found.start_s - reader.info.first_time_s) * SAMPLE_RATE_HZ)
    for first in (0, 7):
        sound, _ = cut_sound(
            found.waveform, first * SAMPLES_PER_FRAME - lead, (len(frames) - first) * SAMPLES_PER_FRAME
        )
        check(frames[first:], sound, first, file.tolerance_samples)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_evaluation_reads_in_step(written, file: File) -> None:
    path = written(file)
    check(list(read_steady(path)), evaluate._sound_of(path, path), 0, file.tolerance_samples)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_tracks_that_begin_apart_are_not_damaged(written, file: File) -> None:
    """Whatever its origin, a sound ends where the header says; an AAC track may begin with its encoder's delay."""
    sound = open_sound(written(file))
    expected_s = NUM_FRAMES / FPS - file.sound_from_s
    assert not sound.notes and 0 <= sound.info.duration_s - expected_s < 0.03


def test_shards_and_pixel_cache_keep_step(tmp_path: Path) -> None:
    frames = [picture(is_flash_at(i / FPS)) for i in range(NUM_FRAMES)]
    sample = make_sample("flash", num_frames=NUM_FRAMES)
    sample = replace(sample, mp4=encode_frames(frames), flac=encode_sound(beeps(SAMPLE_RATE_HZ)))
    with ShardWriter(tmp_path / "shards") as writer:
        writer.write(sample)
    (stored,) = read_shards(tmp_path / "shards")
    check(decode_frames(stored.mp4), decode_sound(stored.flac))
    cache = build_pixel_cache(tmp_path / "shards", tmp_path / "cache", size_px=32)
    check(cache.clip(0).frames, cache.waveform(0))


@pytest.mark.parametrize("name", ["flash.mkv", "flash.mp4"])
def test_prepared_footage_is_in_step(tmp_path: Path, monkeypatch, name: str) -> None:
    """From the file to the shard and the cache, with nothing replaced but the landmarks."""
    monkeypatch.setattr(prepare_video, "_landmarker", DrawnLandmarker)
    greens = [75 if is_flash_at(i / FPS) else 60 for i in range(NUM_FRAMES)]
    frames = np.stack([np.full((240, 320, 3), (100, green, 120), np.uint8) for green in greens])
    write_talk(tmp_path / "raw" / name, Talk(frames, beeps(SAMPLE_RATE_HZ)))
    prepare_footage(
        PrepareConfig(raw=tmp_path / "raw", out=tmp_path / "out", size_px=64, workers=0, thresholds=EASY)
    )
    (sample,) = read_shards(tmp_path / "out")
    check(decode_frames(sample.mp4)[..., 1], decode_sound(sample.flac))
    cache = build_pixel_cache(tmp_path / "out", tmp_path / "cache", size_px=32)
    check(cache.clip(0).frames[..., 1], cache.waveform(0))


@pytest.mark.parametrize("kind", ["array", "wav"])
def test_what_we_write_is_in_step(tmp_path: Path, kind: str) -> None:
    """The writer of generated videos, with the sound as an array or as a file; read back in each way."""
    wav = write_sound(tmp_path / "sound.wav", beeps(48_000)[None], 48_000)
    sound = beeps(SAMPLE_RATE_HZ) if kind == "array" else wav
    path = tmp_path / "out.mp4"
    with VideoWriter(path, size=(SIDE_PX, SIDE_PX), sound=sound) as writer:
        for i in range(NUM_FRAMES):
            writer.write(picture(is_flash_at(i / FPS)))
    check(list(read_frames(path)), open_waveform(path))
    assert open_sound(path).start_s == 0 == SteadyReader(path).info.first_time_s
    check(list(read_steady(path)), evaluate._sound_of(path, path))


def test_a_voice_is_read_in_step(tmp_path: Path) -> None:
    """The sound that a video is generated from."""
    for rate_hz in (16_000, 44_100):
        path = write_sound(tmp_path / f"{rate_hz}.flac", beeps(rate_hz)[None], rate_hz, codec="flac")
        assert abs(best_lag(beeps(SAMPLE_RATE_HZ), open_waveform(path), 2000)) <= 1


def test_an_interval_holds_the_frames_nearest_to_its_moments() -> None:
    """With a frame of margin on either side, the closing may come as early as it may come late."""
    shut = np.zeros(30)
    for span, counted in (((10.4, 12.4), range(9, 14)), ((10.6, 12.6), range(10, 15))):
        for frame in range(30):
            gap = np.full(30, 0.1)
            gap[frame] = 0.0
            assert closures(gap, shut, np.array([span])).num_closed == (frame in counted)


def test_a_puppet_shows_the_moment_of_its_time_stamp(monkeypatch) -> None:
    """Each frame is the one of eight times the rate whose time is the same."""

    def moved(rate_hz: int):
        monkeypatch.setattr(motion, "FPS", rate_hz)
        rng = np.random.default_rng(3)
        return face_states(utter(rng, draw_speaker(rng, "val"), 4.0, "val"), draw_style(rng), rng)

    fine, coarse = moved(8 * FPS), moved(FPS)
    for name in NAMES:
        np.testing.assert_allclose(coarse[name], fine[name][::8], atol=1e-9, err_msg=name)


def test_a_puppets_lips_meet_at_the_time_of_the_sound() -> None:
    """A `p` from 1.00 to 1.10 s between vowels is shut about frame 26.25, with lips that do not lead."""
    speaker = Speaker(engine="espeak", language="en-us", voice="")
    spans = [(0.2, 1.0, "a"), (1.0, 1.1, "p"), (1.1, 1.9, "a")]
    phonemes = tuple(
        Phoneme(start_s=start_s, end_s=end_s, symbol=symbol, alphabet="ipa")
        for start_s, end_s, symbol in spans
    )
    tone = 0.3 * np.sin(2 * np.pi * 150 * np.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ)
    utterance = Utterance(waveform=tone.astype(np.float32), phonemes=phonemes, text="", speaker=speaker)
    style = replace(draw_style(np.random.default_rng(0)), lip_lead_s=0.0)
    close = face_states(utterance, style, np.random.default_rng(0))["close"][20:33]
    middle = float((close * np.arange(20, 33)).sum() / close.sum())
    assert middle == pytest.approx(1.05 * FPS, abs=0.2)
