"""The benchmark of audio-to-latents: its corpus of face states, and what it asks of a model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openloopy.data.batch import sample_clip_batch
from openloopy.data.cache import AUDIO_MARGIN
from openloopy.face.movement import eye_opening, head_motion_variance, lip_gap
from openloopy.models.audio_projection import AudioProjectionConfig
from openloopy.models.audio_to_latents import AudioCondition
from openloopy.models.loopy import LoopyModel
from openloopy.rig.state import INDEX, TOKEN_WIDTH, States
from tests.models.tiny_nets import awake
from tests.tiny import tiny_audio_encoder

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts_on_path():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in ("provenance", "quality_cases", "state_corpus", "state_motion", "audio_to_latents", "motion"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, scripts_on_path):
    """Folder, training and held-out cache."""
    from state_corpus import build_corpus

    folder = tmp_path_factory.mktemp("corpus")
    sizes = {"train": 3, "val": 3}
    caches = build_corpus(folder, tiny_audio_encoder(), utterances=sizes, utterance_s=3.0, workers=1)
    return folder, *caches


def network(arm: str = "mixed") -> LoopyModel:
    """The arm's model for the tests' small audio encoder, with every part awake."""
    from audio_to_latents import model_config

    config = model_config(arm)
    audio = AudioProjectionConfig(num_layers=2, layer_width=16)
    torch.manual_seed(0)
    return awake(LoopyModel(replace(config, denoiser=replace(config.denoiser, audio=audio)))).eval()


def test_a_corpus_holds_controls_features_and_landmarks_that_belong_together(corpus):
    from state_corpus import to_states

    folder, train, held_out = corpus
    latents = train.rows("latents", 1)
    assert latents.shape == (75, TOKEN_WIDTH, 1, 3)
    assert train.rows("audio", 1).shape == (75 + 2 * AUDIO_MARGIN, 2, 16)
    assert not latents[:, 7:, 0, 1].any()  # the head has seven values
    everything = np.concatenate([train.rows("latents", i) for i in range(3)]).astype(np.float32)
    assert np.allclose(everything[:, :9, 0, 0].std(0), 1, atol=0.02)
    states = to_states(latents.astype(np.float32), folder)
    points = train.rows("points68", 1)
    opening = states[:, INDEX["jaw"]] * (1 - states[:, INDEX["close"]])
    assert np.corrcoef(opening, lip_gap(points))[0, 1] > 0.8
    blink = states[:, INDEX["blink_left"]]
    assert blink.max() < 0.3 or np.corrcoef(blink, eye_opening(points))[0, 1] < -0.5
    assert held_out.records[0].split == "val"
    assert not np.array_equal(held_out.rows("latents", 0), train.rows("latents", 0))


def test_every_condition_is_asked_for_and_the_true_landmarks_are_not_the_shuffled_ones(corpus, monkeypatch):
    import audio_to_latents
    from audio_to_latents import CONDITIONS, errors, told

    monkeypatch.setattr(audio_to_latents, "ERROR_BATCHES", 1)
    monkeypatch.setattr(audio_to_latents, "ERROR_CLIPS", 3)
    _, _, held_out = corpus
    model = network()
    found = errors(model, held_out)
    assert set(found) == {f"{name}, {h}" for name in CONDITIONS for h in ("heard", "unheard")} | {"base"}
    assert all(set(row) == {"0.6", "0.9", "1.0", "mouth", "head", "eyes"} for row in found.values())
    assert len({row["1.0"] for row in found.values()}) == len(found)
    assert set(errors(network("none"), held_out)) == {"zeros, heard", "zeros, unheard", "base"}
    batch = sample_clip_batch(held_out, seed=0, step=0, batch_size=3)
    true, other = (CONDITIONS[name](batch, None).points for name in ("landmarks", "landmarks shuffled"))
    assert torch.equal(true.roll(1, 0), other)
    unheard = told(model, batch, CONDITIONS["zeros"], hears=False)
    assert not unheard.audio_tokens.any() and not unheard.motion_latents.any()


def test_what_is_generated_depends_on_what_audio_to_latents_is_given(corpus):
    from audio_to_latents import Clips, generate, lips

    folder, _, held_out = corpus
    clips, model = Clips(held_out, folder, 2, 2), network()
    points = generate(model, clips, AudioCondition)
    assert points.shape == (2, 24, 68, 2) and np.isfinite(points).all()
    assert not np.allclose(points, generate(model, clips, lambda tokens: None), atol=1e-3)
    assert np.array_equal(points, generate(model, clips, AudioCondition))
    assert clips.true_points().shape == points.shape
    assert len(lips(model, clips)) == 8 and len(lips(network("none"), clips)) == 4


def test_a_variance_is_one_of_each_clip():
    from audio_to_latents import _by_clip

    points = np.random.default_rng(0).normal(size=(2, 24, 68, 2))
    points[..., 36, :], points[..., 45, :] = (0, 0), (50, 0)
    points[0, 12:] = points[0, 12]
    variances = _by_clip(head_motion_variance, points)
    assert variances.shape == (4,) and variances[1] < 1e-20 and (variances[[0, 2, 3]] > 1e-4).all()


def test_an_unknown_arm_is_refused():
    from audio_to_latents import model_config

    with pytest.raises(ValueError, match="unknown arm 'both'; choose from mixed, none"):
        model_config("both")


def spoken_by(corpus, still: str | None = None):
    """Two held-out people's own motion, as the motion benchmark wants it; `still`: a value that does not move."""
    from motion import Moved
    from state_corpus import landmarks, to_states

    folder, _, held_out = corpus
    moved = []
    for i in range(2):
        values = to_states(held_out.rows("latents", i).astype(np.float32), folder)
        if still is not None:
            values[:, INDEX[still]] = 0.5
        moved.append(Moved(States(values), landmarks(values), held_out.records[i]))
    return moved


def test_motion_equal_to_the_truth_is_measured_as_such(corpus):
    from motion import compare

    found = compare(spoken_by(corpus), spoken_by(corpus), 12)
    ones = [name for name in found if name.endswith("_ratio")] + ["lips", "jaw", "wide", "close"]
    assert len(ones) == 12 and all(found[name] == pytest.approx(1) for name in ones)
    for name in ("closures_shut", "vowels_shut", "blinks", "border_step"):
        assert found[name] == found[f"{name}_truth"]


def test_a_still_jaw_is_seen(corpus):
    from motion import compare

    found = compare(spoken_by(corpus, still="jaw"), spoken_by(corpus), 12)
    assert not found["jaw"] > 0 and found["lips"] < 0.9
    assert found["head_variance_ratio"] == pytest.approx(1)


def test_filmed_people_count_alike_and_strangers_sound_is_the_control():
    from motion import film_numbers

    rng = np.random.default_rng(0)
    lips = [rng.standard_normal(length) for length in (60, 40, 50)]
    lost = lips[0].copy()
    lost[3] = np.nan
    numbers = film_numbers(["ann", "ann", "bob"], [lips[0], -lips[1], lips[2]], [lost, lips[1], lips[2]])
    assert numbers["by_person"] == {"ann": pytest.approx(0), "bob": pytest.approx(1)}
    assert numbers["lips"] == pytest.approx(0.5)
    expected = [np.corrcoef(lips[2][:n], t)[0, 1] for n, t in ((50, lips[0][:50]), (40, lips[1]))]
    known = np.isfinite(lost[:50])
    expected[0] = np.corrcoef(lips[2][known], lost[:50][known])[0, 1]
    bob = np.corrcoef(lips[0][:50], lips[2])[0, 1]
    assert numbers["other_sound"] == pytest.approx(np.median([np.median(expected), bob]))
