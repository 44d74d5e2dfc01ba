"""A live sound gives the frames of the whole sound, nearly; in time, in step, and without growing."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from openloopy.inference.live import LiveFeatureReader, RunningLevel, live_windows
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline, with_pauses
from openloopy.inference.windows import clip_windows
from openloopy.media.audio import SoundArray, SoundBlock
from openloopy.media.live_sound import LiveSound
from openloopy.models.audio_encoder import (
    LEVEL_RMS,
    AudioEncoder,
    AudioEncoderConfig,
    AudioFeatureReader,
    speech_level,
)
from openloopy.models.conformer import ConformerConfig
from openloopy.models.rig_codec import Portrait
from tests.tiny import tiny_model, tiny_portrait, tiny_rig_model, tiny_sound

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    """A conformer that hears two frames to each side."""
    torch.manual_seed(0)
    small = ConformerConfig(
        bands=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        kernel=3,
        reach=2,
        dropout=0.0,
    )
    return AudioEncoder(AudioEncoderConfig(loudness="levelled", network=small)).eval()


def live(samples: np.ndarray) -> LiveSound:
    return LiveSound(SoundArray(samples, RATE_HZ).blocks())


@pytest.mark.parametrize("duration_s", [0.12, 0.48, 0.97, 1.0, 1.45])
def test_windows_are_those_of_the_whole_sound(duration_s):
    samples = tiny_sound(duration_s)
    wanted = list(clip_windows(round(25 * len(samples) / RATE_HZ), clip_frames=12))
    assert list(live_windows(live(samples), 12)) == wanted


def test_with_enough_look_ahead_it_hears_what_the_whole_sound_gives(encoder, monkeypatch):
    samples = tiny_sound(2.0)
    whole, context = AudioFeatureReader(encoder, samples), encoder.context_frames
    reader = LiveFeatureReader(encoder, live(samples), look_ahead=context)
    monkeypatch.setattr(LiveFeatureReader, "_scale", lambda self, n: whole._scale)
    for start in range(-2, 50, 12):
        torch.testing.assert_close(reader.window(start, 16), whole.window(start, 16), atol=1e-4, rtol=1e-4)


def test_less_look_ahead_changes_only_the_frames_near_its_end(encoder, monkeypatch):
    samples = tiny_sound(2.0)
    whole, context = AudioFeatureReader(encoder, samples), encoder.context_frames
    monkeypatch.setattr(LiveFeatureReader, "_scale", lambda self, n: whole._scale)
    near = LiveFeatureReader(encoder, live(samples), look_ahead=0).window(0, 16)
    difference = (near - whole.window(0, 16)).abs().amax(dim=(1, 2))
    assert difference[: 16 - context].max() < 1e-4 < difference[-1]


def test_it_waits_for_its_own_frames_and_the_look_ahead_no_longer(encoder):
    given, gate = [], threading.Semaphore(0)

    def blocks():
        for i in range(40):
            gate.acquire()
            given.append(i)
            yield SoundBlock(
                samples=np.full((1, 640), 0.1, np.float32), sample_rate_hz=RATE_HZ, layout="mono", codec="pcm"
            )

    reader = LiveFeatureReader(encoder, LiveSound(blocks()), look_ahead=2)
    for _ in range(18):
        gate.release()
    assert reader.window(0, 16).shape[0] == 16
    assert len(given) <= 18


def test_what_is_past_is_forgotten(encoder):
    sound = live(tiny_sound(6.0))
    reader = LiveFeatureReader(encoder, sound)
    for start in range(0, 140, 12):
        reader.window(start, 16)
    assert len(sound._samples) < 2 * RATE_HZ + (encoder.context_frames + 20) * 640


def test_the_running_level_is_that_of_the_sound_and_fades():
    steady = RunningLevel()
    steady.add(tiny_sound(2.0))
    assert steady.rms == pytest.approx(speech_level([tiny_sound(2.0)]), rel=0.05)
    in_pieces = RunningLevel()
    for start in range(0, 2 * RATE_HZ, 6400):
        in_pieces.add(tiny_sound(2.0)[start : start + 6400])
    assert in_pieces.rms == pytest.approx(steady.rms, rel=1e-6)
    cough = RunningLevel()
    cough.add(np.full(RATE_HZ // 5, 0.8, np.float32))
    speech = np.full(RATE_HZ, 0.1, np.float32)
    levels = []
    for _ in range(240):
        cough.add(speech)
        levels.append(cough.rms)
    assert levels[0] > 0.6 and levels[-1] < 0.15 and sorted(levels, reverse=True) == levels


def test_noise_before_anybody_speaks_is_not_made_speech(encoder):
    noise = (0.001 * np.random.default_rng(0).standard_normal(RATE_HZ)).astype(np.float32)
    reader = LiveFeatureReader(encoder, live(noise))
    assert reader._scale(RATE_HZ) <= 10.01  # as loud speech would be: LEVEL_RMS / .001 = 100
    assert LEVEL_RMS == 0.1


@pytest.mark.parametrize("make", [tiny_model, tiny_rig_model])
def test_a_live_sound_becomes_as_many_frames_and_nearly_the_same(make, monkeypatch):
    pipeline, samples = LoopyPipeline(make()), tiny_sound(1.3)
    portrait = Portrait(tiny_portrait()) if make is tiny_model else None
    if portrait is None:
        from skimage import data

        portrait = data.astronaut()
    scene, options = pipeline.open_scene(portrait), GenerationOptions(seed=1, steps=1)
    wanted = np.stack(list(pipeline.generate(scene, (samples, RATE_HZ), options=options))).astype(int)
    monkeypatch.setattr(LiveFeatureReader, "_scale", lambda self, n: 1.0)
    made = np.stack(list(pipeline.generate_live(scene, lambda: live(samples), options=options))).astype(int)
    other = np.stack(list(pipeline.generate(scene, (tiny_sound(1.3, seed=9), RATE_HZ), options=options)))
    assert made.shape == wanted.shape
    assert np.abs(made - wanted).mean() < 0.5 * np.abs(other - wanted).mean()


def test_each_clip_is_shown_before_the_next_one_is_heard():
    """Else a live face would always be a clip late."""
    pipeline = LoopyPipeline(tiny_rig_model())
    from skimage import data

    scene = pipeline.open_scene(data.astronaut())
    gate = threading.Semaphore(0)

    def blocks():
        for _ in range(100):
            gate.acquire()
            yield SoundBlock(
                samples=np.full((1, 640), 0.1, np.float32), sample_rate_hz=RATE_HZ, layout="mono", codec="pcm"
            )

    sound = LiveSound(blocks())
    frames = pipeline.generate_live(scene, lambda: sound, options=GenerationOptions(steps=1))
    heard = 0
    for clip in range(4):  # from the third on, processes draw
        enough = 12 * (clip + 1) + pipeline.model.loopy.audio_projection.config.margin + 2
        for _ in range(enough - heard):
            gate.release()
        heard = enough
        for _ in range(12):
            next(frames)
    sound.close()
    frames.close()


def test_pauses_follow_clips():
    clips = [torch.ones(12, 1), torch.ones(5, 1)]
    assert [len(clip) for clip in with_pauses(iter(clips))] == [0, 12, 0, 5, 0]


def test_processes_are_ready_before_it_listens(monkeypatch):
    """Else the first clips are late, and those behind them."""
    from skimage import data

    from openloopy.rig import drawing

    monkeypatch.setattr(drawing, "cpu_cores", lambda: 2)
    starts, pipeline = [], LoopyPipeline(tiny_rig_model())
    started = drawing._Process.started.__func__
    monkeypatch.setattr(
        drawing._Process, "started", classmethod(lambda *args: starts.append(1) or started(*args))
    )

    def listen():
        assert len(starts) == 2
        return live(tiny_sound(0.3))

    frames = pipeline.generate_live(data.astronaut(), listen, options=GenerationOptions(steps=1))
    assert len(list(frames)) == 8


def test_the_codecs_give_everything_before_a_pause():
    model = tiny_model()
    prepared = model.codec.prepare(Portrait(tiny_portrait()), 32)
    latents = torch.randn(3, *prepared.latents.shape[1:])
    clips = iter([latents, latents[:0], latents])
    frames = model.codec.decode(clips, prepared, 4)
    assert len([next(frames) for _ in range(3)]) == 3
    assert len(list(frames)) == 3
