"""Face states and sound of a corpus without pictures: scales, and a cache that resumes and knows what it is of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openloopy.data.batch import BatchConfig, sample_clip_batch, sample_frame_batch
from openloopy.data.cache import AUDIO_MARGIN, COMMIT_CLIPS, open_latent_cache
from openloopy.data.clips import decode_sound
from openloopy.data.fitted_states import ClipStates
from openloopy.data.shards import STATES, read_shards
from openloopy.models.audio_encoder import AudioFeatureReader
from openloopy.models.rig_codec import HEAD, SHAPE_SLOTS, RigCodec, about_middle, person_shape
from openloopy.puppet.corpus import CorpusConfig, write_corpus
from openloopy.rig.state import HIGH, INDEX, LOW, NAMES, from_tokens
from openloopy.training import state_features
from openloopy.training.state_features import SMALLEST_SCALE, build_state_cache, measure_scales
from tests.data.synthetic import make_sample
from tests.tiny import tiny_audio_encoder

FRAMES = 50


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("states")
    write_corpus(CorpusConfig(out=out, num_clips=8, clip_s=2.0, content="states", val_share=0.25))
    return out


@pytest.fixture(scope="module")
def codec(corpus) -> RigCodec:
    return measure_scales([corpus])


@pytest.fixture(scope="module")
def encoder():
    return tiny_audio_encoder()


def test_scales_are_mean_and_deviation_of_the_training_clips_with_the_head_about_its_middle(corpus, codec):
    samples = list(read_shards(corpus, "train"))
    assert len(samples) == 6
    states = np.concatenate([about_middle(sample.arrays[STATES]) for sample in samples])
    np.testing.assert_allclose(codec.state_mean, states.mean(0), atol=1e-5)
    np.testing.assert_allclose(codec.state_scale, states.std(0).clip(SMALLEST_SCALE), rtol=1e-4)
    assert codec.state_mean[HEAD].abs().max() < 1e-5
    shapes = np.stack([person_shape(sample.arrays["points68"]) for sample in samples])
    np.testing.assert_allclose(codec.shape_mean, shapes.mean(0), rtol=1e-4)
    np.testing.assert_allclose(codec.shape_scale, shapes.std(0).clip(SMALLEST_SCALE), rtol=1e-3)


def test_a_value_that_never_varies_has_a_scale_that_can_be_divided_by(monkeypatch):
    sample = make_sample("still", num_frames=30)
    sample.arrays[STATES] = np.zeros((30, len(NAMES)), np.float32)
    monkeypatch.setattr(state_features, "_samples", lambda folders, split: iter([sample]))
    codec = measure_scales([Path("anywhere")])
    assert (codec.state_scale == SMALLEST_SCALE).all() and (codec.shape_scale == SMALLEST_SCALE).all()


def test_the_cache_holds_states_sound_and_landmarks_of_each_clip(corpus, codec, encoder, tmp_path):
    cache = build_state_cache([corpus], codec, encoder, tmp_path, split="train", workers=2)
    samples = list(read_shards(corpus, "train"))
    assert [record.clip_id for record in cache.records] == [sample.record.clip_id for sample in samples]
    assert cache.info.split == "train" and cache.info.size_px == 1
    everything = np.concatenate([from_tokens(cache.rows("latents", i)) for i in range(len(cache))])
    np.testing.assert_allclose(everything.astype(np.float32).mean(0), 0, atol=0.02)
    for i, sample in enumerate(samples):
        latents = cache.rows("latents", i).astype(np.float32)
        assert latents.shape == (FRAMES, *RigCodec.latent_shape)
        states = codec.decode_states(torch.from_numpy(latents))
        np.testing.assert_allclose(states, about_middle(sample.arrays[STATES]), atol=0.02, rtol=2e-3)
        shape = (
            person_shape(sample.arrays["points68"]) - codec.shape_mean.numpy()
        ) / codec.shape_scale.numpy()
        for value, (slot, token) in zip(shape, SHAPE_SLOTS, strict=True):
            np.testing.assert_allclose(latents[:, slot, 0, token], value.clip(-4, 4), atol=5e-3)
        np.testing.assert_allclose(cache.rows("points68", i), sample.arrays["points68"] / 256, atol=1e-6)
        np.testing.assert_array_equal(cache.rows("lip_gap", i), sample.arrays["lip_gap"])
        sound = decode_sound(sample.flac)[: 2 * 16_000]
        heard = AudioFeatureReader(encoder, sound).window(-AUDIO_MARGIN, FRAMES + 2 * AUDIO_MARGIN)
        np.testing.assert_allclose(cache.rows("audio", i), heard.half().numpy(), atol=2e-3)


def test_an_interrupted_build_goes_on_where_it_was(corpus, codec, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("openloopy.data.cache.COMMIT_CLIPS", 2)
    whole = build_state_cache([corpus], codec, encoder, tmp_path / "whole", split="train")
    made, features = [], state_features._clip_features

    def stops(sample, *networks):
        if len(made) == 5:
            raise OSError("no more room on the disk")
        made.append(sample.record.clip_id)
        return features(sample, *networks)

    monkeypatch.setattr(state_features, "_clip_features", stops)
    with pytest.raises(OSError, match="no more room"):
        build_state_cache([corpus], codec, encoder, tmp_path / "cut", split="train")
    with pytest.raises(ValueError, match="is not a complete cache"):
        open_latent_cache(tmp_path / "cut")
    made.clear()
    cut = build_state_cache([corpus], codec, encoder, tmp_path / "cut", split="train")
    assert 2 <= len(made) <= 4 and COMMIT_CLIPS > 2  # two clips and more were kept
    assert cut.records == whole.records
    for name, array in whole.arrays.items():
        assert np.array_equal(cut.arrays[name], array), name
    made.clear()
    build_state_cache([corpus], codec, encoder, tmp_path / "cut", split="train")
    assert made == []


def test_a_cache_of_other_networks_or_another_split_is_not_opened(corpus, codec, encoder, tmp_path):
    build_state_cache([corpus], codec, encoder, tmp_path, split="val")
    other = RigCodec()
    for changed in (
        dict(codec=other, audio_encoder=encoder, split="val"),
        dict(codec=codec, audio_encoder=tiny_audio_encoder(1), split="val"),
        dict(codec=codec, audio_encoder=encoder, split="train"),
    ):
        with pytest.raises(ValueError, match="heard by other networks or of other clips; delete the folder"):
            build_state_cache([corpus], out=tmp_path, **changed)
    assert json.loads((tmp_path / "cache.json").read_text())["num_clips"] == 2


def test_clips_that_say_nothing_of_a_face_are_refused(codec, encoder, tmp_path, monkeypatch):
    bare, footage = replace(make_sample("bare"), mp4=None), make_sample("filmed")
    footage = replace(footage, record=replace(footage.record, seed=None))
    for sample, message in (
        (
            bare,
            "clip bare holds neither face states of this version .* nor pictures; make the corpus again with",
        ),
        (footage, "no puppets speak in anywhere, and footage does not tell all face states"),
    ):
        monkeypatch.setattr(state_features, "_samples", lambda folders, split, one=sample: iter([one]))
        with pytest.raises(ValueError, match=message):
            measure_scales([Path("anywhere")])
    monkeypatch.setattr(state_features, "shards_sha256", lambda folders: "")
    monkeypatch.setattr(state_features, "_samples", lambda folders, split: iter([bare]))
    with pytest.raises(ValueError, match="clip bare holds neither"):
        build_state_cache([Path("anywhere")], codec, encoder, tmp_path / "cache", split="train")


def test_what_footage_does_not_tell_is_as_usual_and_does_not_count(codec, encoder, tmp_path, monkeypatch):
    """Three values are not seen: the past shows their mean, and their slots weigh nothing."""
    unseen = [INDEX[name] for name in ("tongue", "breath", "gaze_y")]
    values = np.random.default_rng(0).uniform(LOW, HIGH, (40, len(NAMES))).astype(np.float32)
    seen = np.ones(len(NAMES), bool)
    seen[unseen] = False
    sample = make_sample("filmed", num_frames=40)
    points = sample.arrays["points68"]
    monkeypatch.setattr(state_features, "states_of", lambda sample: ClipStates(values, seen, points))
    monkeypatch.setattr(state_features, "_samples", lambda folders, split: iter([sample]))
    monkeypatch.setattr(state_features, "shards_sha256", lambda folders: "")
    cache = build_state_cache([Path("anywhere")], codec, encoder, tmp_path, split="train")
    states = from_tokens(cache.rows("latents", 0).astype(np.float32))
    assert (states[:, unseen] == 0).all() and (states[:, seen].std(0) > 0).all()
    slots = cache.rows("seen", 0)[0]
    assert slots.shape == RigCodec.latent_shape and set(np.unique(slots)) == {0, 1}
    assert np.array_equal(from_tokens(slots).astype(bool), seen)
    assert all(slots[slot, 0, token] == 1 for slot, token in SHAPE_SLOTS)
    config = BatchConfig(num_history=5, mouth_weight=1.0, eye_weight=1.0)
    weight = sample_clip_batch(cache, seed=0, step=0, batch_size=2, config=config).region_weight
    assert weight.shape == (2, 12, *RigCodec.latent_shape)
    assert np.array_equal(weight[1, 7].numpy(), slots)
    frames = sample_frame_batch(cache, seed=0, step=0, batch_size=2, config=config)
    assert np.array_equal(frames.region_weight[1].numpy(), slots)


def test_footage_teaches_the_parts_that_it_shall(codec, encoder, tmp_path, monkeypatch):
    values = np.random.default_rng(0).uniform(LOW, HIGH, (40, len(NAMES))).astype(np.float32)
    samples = [make_sample("puppet", num_frames=40), make_sample("filmed", num_frames=40)]
    samples[1] = replace(samples[1], record=replace(samples[1].record, seed=None))
    every = ClipStates(values, np.ones(len(NAMES), bool), samples[0].arrays["points68"])
    monkeypatch.setattr(state_features, "states_of", lambda sample: every)
    monkeypatch.setattr(state_features, "_samples", lambda folders, split: iter(samples))
    monkeypatch.setattr(state_features, "shards_sha256", lambda folders: "")
    cache = build_state_cache([Path("anywhere")], codec, encoder, tmp_path, split="train")
    config = BatchConfig(
        num_history=5, mouth_weight=1.0, eye_weight=1.0, footage_share=0.5, footage_parts=("mouth", "eyes")
    )
    for batch in (
        sample_clip_batch(cache, seed=0, step=0, batch_size=20, config=config),
        sample_frame_batch(cache, seed=0, step=0, batch_size=20, config=config),
    ):
        taught = batch.region_weight.flatten(0, -4).amax((1, 2))
        assert {tuple(row.tolist()) for row in taught} == {(1.0, 1.0, 1.0), (1.0, 0.0, 1.0)}
    with pytest.raises(ValueError, match="mouth, head, eyes"):
        BatchConfig(footage_parts=("lips",))
