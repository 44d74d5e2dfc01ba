"""Features that forget head and loudness, a score whose shift has the right sign, and the network that ships."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openloopy.measures.lip_sync import (
    EMBEDDING,
    MIN_CHANCE,
    LipSyncNetwork,
    agreement,
    chance_error,
    evidence,
    lip_features,
    lip_sync,
    load_lip_sync,
    log_mel,
    peak_error,
    peak_of,
    save_lip_sync,
    shift_curve,
)
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.motion import draw_style, face_states
from openloopy.puppet.speech import draw_speaker, utter
from openloopy.rig.points import PuppetPoints


@pytest.fixture(scope="module")
def talks() -> list[tuple[np.ndarray, np.ndarray]]:
    """Landmarks and sound of four people who were not trained on."""
    made = []
    for i in range(4):
        rng = np.random.default_rng([7, i])
        utterance = utter(rng, draw_speaker(rng, "val"), 4.0, "val")
        points = PuppetPoints(draw_face(rng, size_px=192).mesh).track(
            face_states(utterance, draw_style(rng), rng)
        )
        made.append((points, utterance.waveform))
    return made


def test_lips_do_not_depend_on_where_the_head_is(talks):
    points = talks[0][0]
    angle = np.deg2rad(np.linspace(-20, 25, len(points)))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    sway = np.linspace(0, 60, len(points))[:, None, None] * np.array([1.0, 0.4])
    moved = 1.7 * points @ turn.transpose(0, 2, 1) + sway
    np.testing.assert_allclose(lip_features(moved), lip_features(points), atol=0.02)
    lost = points.copy()
    lost[10:13] = np.nan
    assert np.isfinite(lip_features(lost)).all()


def test_the_spectrogram_forgets_loudness_and_keeps_time():
    time = np.arange(32_000) / 16_000
    tone = np.sin(2 * np.pi * 500 * time) * (time > 1.0)
    mel = log_mel(tone.astype(np.float32))
    assert mel.shape == (200, 40)
    np.testing.assert_allclose(log_mel((0.05 * tone).astype(np.float32)), mel, atol=1e-4)
    loudest = mel.max(1)
    assert loudest[:98].max() < loudest[102:].min()


def test_the_curve_has_its_peak_where_the_sound_is():
    seen = np.random.default_rng(0).normal(size=(60, EMBEDDING))
    late = np.concatenate([np.zeros((4, EMBEDDING)), seen[:-4]])
    assert shift_curve(seen, late, 15).argmax() - 15 == 4
    assert shift_curve(late, seen, 15).argmax() - 15 == -4
    short = shift_curve(seen[:24], late[:24], 15)
    assert np.isfinite(short).all() and short.argmax() - 15 == 4
    assert (short[:3] == short.min()).all()  # shifts of more than half the clip are not tried


def test_a_peak_is_told_between_the_shifts():
    shifts = np.arange(31)
    for place in (12.0, 14.3, 15.5, 17.9):
        curve = -((shifts - place) ** 2.0)
        assert peak_of(curve, int(curve.argmax())) == pytest.approx(place)
        assert peak_of(curve, 10) == peak_of(curve, 20) == pytest.approx(place)  # the nearest top is climbed
    assert peak_of(np.arange(31.0), 30) == 30 and peak_of(-np.arange(31.0), 0) == 0  # no neighbour beyond


def test_the_error_of_a_peak_is_that_of_a_mean():
    """Where every stretch has a parabola of its own, the whole's peak is the mean of theirs, and so is its error."""
    places = np.array([14.6, 15.1, 15.9, 15.2, 14.8])
    stretches = -((np.arange(31) - places[:, None]) ** 2)
    products = stretches.repeat(15, 0)
    assert peak_error(products) == pytest.approx(places.std(ddof=1) / np.sqrt(len(places)), rel=1e-6)
    assert peak_error(products[:15].repeat(5, 0)) == pytest.approx(0, abs=1e-9)


def wandering(rng: np.random.Generator, frames: int, memory: float) -> np.ndarray:
    """Vectors `f 64` of variance 1 whose neighbours are alike."""
    noise = rng.normal(size=(frames, EMBEDDING)) * np.sqrt(1 - memory**2)
    for i in range(1, frames):
        noise[i] += memory * noise[i - 1]
    return noise


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_chance_is_the_spread_of_what_strangers_give(memory):
    rng = np.random.default_rng(0)
    strangers = [(wandering(rng, 200, memory), wandering(rng, 200, memory)) for _ in range(300)]
    spread = np.std([((a - a.mean(0)) * (b - b.mean(0))).sum(1).mean() for a, b in strangers])
    told = np.mean([chance_error(a, b) for a, b in strangers[:40]])
    assert told == pytest.approx(spread, rel=0.12)
    ours, theirs = strangers[0]
    assert chance_error(ours + 5, theirs - 3) == pytest.approx(chance_error(ours, theirs))


def test_strangers_are_hardly_stronger_in_short_clips_than_in_long_ones():
    """Their scores are: by the root of the length."""
    rng = np.random.default_rng(0)
    found = {
        frames: [agreement(wandering(rng, frames, 0.5), wandering(rng, frames, 0.5)) for _ in range(120)]
        for frames in (75, 400)
    }
    strengths, scores = (
        [np.percentile([getattr(one, name) for one in found[frames]], 90) for frames in (75, 400)]
        for name in ("strength", "score")
    )
    assert 0.8 < strengths[0] / strengths[1] < 1.4 and scores[0] > 2 * scores[1]
    true = wandering(rng, 75, 0.5)
    assert agreement(true, true).strength > 10


def test_lips_that_hardly_move_prove_nothing():
    rng = np.random.default_rng(0)
    still, sound = 1e-3 * rng.normal(size=(100, EMBEDDING)), rng.normal(size=(100, EMBEDDING))
    assert chance_error(still, sound) == pytest.approx(MIN_CHANCE / 10)
    assert abs(agreement(still, sound).strength) < 0.1


def test_evidence_compares_every_video_with_every_sound():
    seen, heard = torch.randn(2, 5, 3), torch.randn(4, 9, 3)
    found = evidence(seen, heard, 2)
    assert found.shape == (2, 4, 5)
    by_hand = (seen[1] * heard[3, 3:8]).sum(-1).mean()
    assert found[1, 3, 3].item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_weights_come_back(tmp_path):
    network = LipSyncNetwork()
    save_lip_sync(network, tmp_path / "a.safetensors")
    again = load_lip_sync(tmp_path / "a.safetensors")
    lips, mel = torch.randn(1, 10, 50), torch.randn(1, 40, 40)
    for ours, theirs in zip(again(lips, mel), network(lips, mel), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-2)
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        load_lip_sync(tmp_path / "b.safetensors")


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="at least 20"):
        lip_sync(np.zeros((5, 68, 2)), np.zeros(3200, np.float32))
    with pytest.raises(ValueError, match="68, 2"):
        lip_sync(np.zeros((50, 20, 2)), np.zeros(32_000, np.float32))
    with pytest.raises(ValueError, match="no face was found"):
        lip_sync(np.full((50, 68, 2), np.nan), np.zeros(32_000, np.float32))


def test_the_network_that_ships_finds_shifts_and_swaps(talks):
    for i, (points, sound) in enumerate(talks):
        true = lip_sync(points, sound)
        assert true.is_sure and abs(true.offset_frames) <= 0.7
        for late in (-10, -1.25, -0.5, 0.25, 0.75, 1.5, 7):
            moved = lip_sync(points, np.roll(sound, round(late * 640)))
            assert moved.offset_frames - true.offset_frames == pytest.approx(late, abs=0.15)
            assert moved.is_off or abs(late) <= 1.5
            assert moved.in_step < true.in_step or abs(late) <= 0.5
        swapped = lip_sync(points, talks[i - 1][1])
        assert swapped.score < 0.6 * true.score and true.best_score >= true.score
        assert not swapped.is_sure


def test_puppets_are_in_step_as_they_are(talks):
    """Frame i shows the moment i / 25 s: what the zero of the measure was found on."""
    offsets = [lip_sync(points, sound).offset_frames for points, sound in talks]
    assert np.mean(offsets) == pytest.approx(0, abs=0.3)
