"""The embedded model: within its size, loads, keeps the person, and opens the mouth where the speech does."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from openloopy.face.crop import apply_crop, portrait_crop
from openloopy.face.landmarks import NetworkLandmarker
from openloopy.face.movement import lip_gap
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline, plan_clips
from openloopy.media.audio import SAMPLE_RATE_HZ, open_waveform
from openloopy.models.codec import PreparedLatents
from openloopy.models.folder import EMBEDDED_MINI
from openloopy.models.rig_codec import Portrait
from openloopy.puppet.speech import Phoneme
from openloopy.puppet.visemes import CLOSED, SILENCE, VISEMES, VOWELS, viseme_labels
from openloopy.rig.state import INDEX

ASSETS = Path(str(resources.files("openloopy") / "assets"))
MAX_BYTES = 16e6
MAX_PARAMETERS = 8e6


@pytest.fixture(scope="module")
def pipeline() -> LoopyPipeline:
    return LoopyPipeline.from_pretrained("mini")


def test_it_is_small(pipeline):
    assert sum(path.stat().st_size for path in EMBEDDED_MINI.rglob("*") if path.is_file()) <= MAX_BYTES
    model = pipeline.model
    parts = (model.loopy, model.codec, model.audio_encoder)
    assert sum(p.numel() for part in parts for p in part.parameters()) <= MAX_PARAMETERS


def test_people_blink_and_nod_without_jumping_between_clips(pipeline):
    """In half a minute of speech."""
    speech = np.tile(open_waveform(ASSETS / "demo_speech.flac"), 10)[: 30 * SAMPLE_RATE_HZ]
    states = moved(pipeline, speech)
    assert len(states) == 750
    lids = states[:, INDEX["blink_left"]] > 0.5
    assert 3 <= (lids[1:] & ~lids[:-1]).sum() <= 30
    assert states[:, INDEX["yaw"]].std() > 0.5
    steps = np.linalg.norm(
        np.diff(states[:, [INDEX[name] for name in ("yaw", "pitch", "roll")]], axis=0), axis=1
    )
    at_borders = np.arange(1, len(states)) % pipeline.model.config.clip_frames == 0
    assert steps[at_borders].mean() < 2 * steps[~at_borders].mean()


def test_lips_rest_where_nobody_speaks(pipeline):
    speech = open_waveform(ASSETS / "demo_speech.flac")
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    said = parted(moved(pipeline, speech)).mean()
    for sound in (np.zeros_like(speech), noise * 10 ** (-50 / 20)):
        assert parted(moved(pipeline, sound)).mean() < 0.1 * said


def test_soft_speech_moves_lips_as_loud_speech_does(pipeline):
    speech = open_waveform(ASSETS / "demo_speech.flac")
    loud, soft = (parted(moved(pipeline, speech * np.float32(gain))) for gain in (1, 10 ** (-30 / 20)))
    assert np.abs(soft - loud).mean() < 0.1 * loud.mean()


def moved(pipeline, sound: np.ndarray) -> np.ndarray:
    """States of a person whose portrait shows the mean of all, `f n`: nothing is drawn."""
    codec = pipeline.model.codec
    mean = PreparedLatents(torch.zeros(1, *codec.latent_shape))
    plan = plan_clips(pipeline.model.config, GenerationOptions(), torch.device("cpu"))
    clips = pipeline.clips(mean, sound, pipeline.num_frames(sound), plan)
    return codec.decode_states(torch.cat(list(clips)))


def parted(states: np.ndarray) -> np.ndarray:
    """How far jaw and contact leave the lips apart, `f`."""
    return np.clip(states[:, INDEX["jaw"]], 0, 1) * (1 - np.clip(states[:, INDEX["close"]], 0, 1))


@pytest.mark.slow
def test_the_astronaut_speaks(pipeline):
    landmarker = NetworkLandmarker()
    rgb = data.astronaut()
    face = landmarker.detect(rgb)[0]
    options = GenerationOptions(size_px=256)
    crop = portrait_crop(face, (rgb.shape[1], rgb.shape[0]))
    portrait = Portrait(apply_crop(rgb, crop, pipeline.source_px(options)))
    sound = open_waveform(ASSETS / "demo_speech.flac")
    frames = list(pipeline.generate(portrait, (sound, 16_000), options=options))
    assert len(frames) == pipeline.num_frames(sound)
    tracked = landmarker.track(frames)
    assert all(face is not None for face in tracked)
    gaps = lip_gap(np.stack([face.points68 for face in tracked]))
    labels = spoken(len(frames))
    open_mouth = np.isin(labels, [VISEMES.index(v) for v in VOWELS])
    shut_mouth = np.isin(labels, [VISEMES.index(CLOSED), VISEMES.index(SILENCE)])
    assert gaps[open_mouth].mean() > 1.3 * gaps[shut_mouth].mean()


def spoken(num_frames: int) -> np.ndarray:
    """The viseme of each frame of the demo speech."""
    known = json.loads((ASSETS / "demo_speech.json").read_text())
    names = ("start_s", "end_s", "symbol", "alphabet")
    phonemes = [Phoneme(**dict(zip(names, values, strict=True))) for values in known["phonemes"]]
    return viseme_labels(phonemes, num_frames, fps=25)
