"""A corpus of face states: speech, states and landmarks that belong together, and no picture."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openloopy.data.cache import build_pixel_cache
from openloopy.data.clips import decode_sound
from openloopy.data.shards import STATES, Sample, _checked, read_index, read_shards
from openloopy.face.movement import eye_opening, lip_gap
from openloopy.puppet.corpus import CorpusConfig, generator, write_corpus
from openloopy.puppet.motion import draw_style, face_states
from openloopy.puppet.speech import draw_speaker, utter
from openloopy.rig.state import INDEX, NAMES

FRAMES = 75


def config_of(out: Path, **changes) -> CorpusConfig:
    settings = dict(num_clips=6, clip_s=3.0, content="states", clips_per_shard=2, val_share=0.34)
    return CorpusConfig(out=out, **(settings | changes))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("states")
    report = write_corpus(config_of(out))
    assert report.num_clips == 6 and report.num_frames == 6 * FRAMES and report.num_people == 6
    return out


@pytest.fixture(scope="module")
def samples(corpus) -> list[Sample]:
    return list(read_shards(corpus))


def test_there_are_sounds_and_arrays_but_no_pictures(corpus, samples):
    for name in read_index(corpus).shards:
        with tarfile.open(corpus / name) as tar:
            assert {Path(member).suffix for member in tar.getnames()} == {".flac", ".npz", ".json"}
    assert not list(corpus.glob("*.jpg"))
    for sample in samples:
        assert sample.mp4 is None and sample.arrays[STATES].shape == (FRAMES, len(NAMES))
        assert sample.arrays["points68"].shape == (FRAMES, 68, 2)
        assert len(decode_sound(sample.flac)) == 3 * 16_000


def test_states_are_those_of_the_utterance_in_the_person_s_style(samples):
    sample = samples[0]
    rng = generator(0, "clip", sample.record.clip_id)
    utterance = utter(rng, draw_speaker(rng, "val"), 3.0, "val")
    style = draw_style(generator(0, "style", sample.record.person_id))
    assert np.array_equal(sample.arrays[STATES], face_states(utterance, style, rng).values)
    assert np.abs(decode_sound(sample.flac) - utterance.waveform).max() < 1e-4


def test_landmarks_follow_the_states(samples):
    for sample in samples:
        states, points = sample.arrays[STATES], sample.arrays["points68"]
        opening = states[:, INDEX["jaw"]] * (1 - states[:, INDEX["close"]])
        assert np.corrcoef(opening, lip_gap(points))[0, 1] > 0.8
        np.testing.assert_allclose(sample.arrays["lip_gap"], lip_gap(points), atol=1e-6)
        np.testing.assert_allclose(sample.arrays["pose"][:, 0], states[:, INDEX["yaw"]], atol=1e-6)
        assert points.min() > -20 and points.max() < 276  # of a picture of 256 px
        if states[:, INDEX["blink_left"]].max() > 0.9:
            assert eye_opening(points).min() < 0.5 * np.median(eye_opening(points))


def test_people_of_the_splits_differ_and_so_do_faces(samples):
    people = {
        split: {s.record.person_id for s in samples if s.record.split == split} for split in ("train", "val")
    }
    assert people["train"] and people["val"] and not people["train"] & people["val"]
    first, second = (sample.arrays["points68"][0] for sample in samples[:2])
    assert np.abs((first - first[30]) - (second - second[30])).max() > 2


def test_a_finished_corpus_is_left_alone_and_other_settings_are_refused(corpus):
    before = {path: path.stat().st_mtime_ns for path in corpus.glob("shard-*.tar")}
    assert write_corpus(config_of(corpus)).clips_this_run == 0
    assert {path: path.stat().st_mtime_ns for path in corpus.glob("shard-*.tar")} == before
    with pytest.raises(ValueError, match=r"other settings, they differ in \['content'\]"):
        write_corpus(config_of(corpus, content="pictures"))


def test_processes_share_the_work(tmp_path):
    report = write_corpus(config_of(tmp_path, workers=2))
    assert report.num_clips == 6 and len(list(read_shards(tmp_path))) == 6


def test_who_wants_pictures_is_told_what_to_do(corpus, tmp_path):
    with pytest.raises(
        ValueError, match="holds face states without pictures; make the corpus without --states"
    ):
        build_pixel_cache(corpus, tmp_path / "cache", size_px=64)


def test_rendered_clips_hold_their_states_too(tmp_path):
    config = config_of(tmp_path, num_clips=2, content="pictures", size_px=64)
    write_corpus(config)
    for sample in read_shards(tmp_path):
        assert sample.mp4 and sample.arrays[STATES].shape == (FRAMES, len(NAMES))


def test_states_that_are_missing_or_too_short_are_refused(samples):
    sample = samples[0]
    without = {name: array for name, array in sample.arrays.items() if name != STATES}
    short = sample.arrays | {STATES: sample.arrays[STATES][:-1]}
    for arrays in (without, short):
        with pytest.raises(ValueError, match="array lengths are"):
            _checked(replace(sample, arrays=arrays))
