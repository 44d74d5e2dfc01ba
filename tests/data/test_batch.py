from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from openloopy.data.batch import BatchConfig, pad_rows, sample_clip_batch, sample_frame_batch
from openloopy.data.cache import AUDIO_MARGIN, LatentCache, latent_cache_writer, open_latent_cache
from tests.data.synthetic import make_sample

LENGTHS = (20, 150, 7)
CONFIG = BatchConfig(num_frames=12, num_history=30, start_share=0.0)


def face_points(num_frames: int) -> np.ndarray:
    """A face of `f 68 2` px in a 64 px crop: eyes at a third, mouth at three quarters of the height."""
    points = np.full((68, 2), 32.0)
    angles = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    ring = np.stack([np.cos(np.pi - angles), np.sin(angles)], -1)
    points[36:42] = [20, 20] + ring * [4, 2]
    points[42:48] = [44, 20] + ring * [4, 2]
    points[48:68] = [32, 48]
    points[48, 0], points[54, 0] = 26, 38
    return np.repeat(points[None], num_frames, 0).astype(np.float32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    """Latents hold 200 * clip + frame + 1, so that they say where they are from; audio too, and beyond the clip's ends
    as the frames' numbers say (negative before the first clip)."""
    folder = tmp_path_factory.mktemp("latents")
    with latent_cache_writer(folder, size_px=64, source_sha256="") as writer:
        for i, n in enumerate(LENGTHS):
            where = (200 * i + np.arange(n) + 1).astype(np.float16)
            heard = (200 * i + np.arange(-AUDIO_MARGIN, n + AUDIO_MARGIN) + 1).astype(np.float16)
            writer.add_clip(
                make_sample(f"clip-{i}").record,
                {
                    "latents": np.broadcast_to(where[:, None, None, None], (n, 2, 8, 8)).copy(),
                    "audio": np.broadcast_to(heard[:, None, None], (len(heard), 3, 4)).copy(),
                    "points68": face_points(n),
                    "lip_gap": np.zeros(n, np.float32),
                },
            )
    return open_latent_cache(folder)


def test_latents_of_pictures_have_no_parts_to_choose_from(cache: LatentCache) -> None:
    lips_only = BatchConfig(num_frames=12, footage_parts=("mouth",))
    with pytest.raises(ValueError, match="leave footage_parts as it is"):
        sample_clip_batch(cache, seed=0, step=0, batch_size=1, config=lips_only)


def test_shapes(cache: LatentCache) -> None:
    batch = sample_clip_batch(cache, seed=0, step=0, batch_size=5, config=CONFIG)
    shapes = {f.name: tuple(getattr(batch, f.name).shape) for f in fields(batch)}
    assert shapes == {
        "latents": (5, 12, 2, 8, 8),
        "history": (5, 30, 2, 8, 8),
        "history_mask": (5, 30),
        "reference": (5, 2, 8, 8),
        "audio": (5, 16, 3, 4),
        "points68": (5, 12, 68, 2),
        "reference_points68": (5, 68, 2),
        "head_motion_variance": (5,),
        "expression_variance": (5,),
        "region_weight": (5, 12, 1, 8, 8),
    }
    assert all(getattr(batch, f.name).dtype == torch.float32 for f in fields(batch))


def test_clip_history_and_sound_belong_together(cache: LatentCache) -> None:
    seen_missing = seen_beyond_end = False
    for step in range(20):
        batch = sample_clip_batch(cache, seed=0, step=step, batch_size=8, config=CONFIG)
        for j in range(8):
            clip, history = batch.latents[j, :, 0, 0, 0], batch.history[j, :, 0, 0, 0]
            i, start = divmod(int(clip[0]) - 1, 200)
            assert clip.tolist() == [200 * i + start + 1 + k for k in range(12)]
            expected = [200 * i + k + 1 if k >= 0 else 0 for k in range(start - 30, start)]
            assert history.tolist() == expected
            assert batch.history_mask[j].tolist() == [float(value > 0) for value in expected]
            reference = int(batch.reference[j, 0, 0, 0])
            assert 200 * i < reference <= 200 * i + LENGTHS[i]
            span = range(start - 2, start + 14)
            assert batch.audio[j, :, 0, 0].tolist() == [200 * i + k + 1 for k in span]
            seen_missing |= start < 30
            seen_beyond_end |= start + 14 > LENGTHS[i]
    assert seen_missing and seen_beyond_end


def test_a_share_of_clips_begins_its_video_and_so_has_no_history(cache: LatentCache) -> None:
    config, begins, count = BatchConfig(num_frames=12, num_history=30, start_share=0.25), [], 600
    batch = sample_clip_batch(cache, seed=0, step=0, batch_size=count, config=config)
    for j in range(count):
        start = (int(batch.latents[j, 0, 0, 0, 0]) - 1) % 200
        assert batch.history_mask[j].any() == (start > 0)
        begins.append(start == 0)
    # By chance alone 1 of 139 clips of the long video begins it, and 1 of 9 of the short one.
    by_chance = (150 / 139 + 20 / 9) / 170
    expected = 0.25 + 0.75 * by_chance
    assert np.mean(begins) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / count) ** 0.5)


def test_the_default_share_of_beginnings_is_five_to_ten_per_cent() -> None:
    assert 0.05 <= BatchConfig().start_share <= 0.1
    with pytest.raises(ValueError, match="start_share must be in"):
        BatchConfig(start_share=1.5)


def test_an_audio_window_beyond_what_is_stored_is_refused() -> None:
    with pytest.raises(ValueError, match="take a shorter audio window"):
        BatchConfig(audio_margin=AUDIO_MARGIN + 1)


def test_the_reference_s_landmarks_are_those_of_the_reference(tmp_path) -> None:
    points = face_points(40) + np.arange(40, dtype=np.float32)[:, None, None] / 4
    where = np.arange(40, dtype=np.float16)
    with latent_cache_writer(tmp_path, size_px=64, source_sha256="") as writer:
        arrays = {
            "latents": np.broadcast_to(where[:, None, None, None], (40, 2, 8, 8)).copy(),
            "audio": np.zeros((40 + 2 * AUDIO_MARGIN, 3, 4), np.float16),
            "points68": points,
            "lip_gap": np.zeros(40, np.float32),
        }
        writer.add_clip(make_sample("clip-0").record, arrays)
    batch = sample_clip_batch(open_latent_cache(tmp_path), seed=0, step=0, batch_size=8, config=CONFIG)
    for j in range(8):
        frame = int(batch.reference[j, 0, 0, 0])
        torch.testing.assert_close(batch.reference_points68[j], torch.from_numpy(points[frame] / 64))


def test_short_clips_are_left_out(cache: LatentCache) -> None:
    batch = sample_clip_batch(cache, seed=1, step=0, batch_size=64, config=CONFIG)
    assert batch.latents.max() <= 200 + 150
    with pytest.raises(ValueError, match="longest has 150"):
        sample_clip_batch(cache, seed=0, step=0, batch_size=1, config=BatchConfig(num_frames=151))


def test_seed_step_and_place_in_the_batch_decide_everything(cache: LatentCache) -> None:
    def drawn(**change) -> torch.Tensor:
        where = {"seed": 3, "step": 7, **change}
        return sample_clip_batch(cache, batch_size=8, config=CONFIG, **where).latents

    torch.testing.assert_close(drawn(), drawn(), rtol=0, atol=0)
    for change in ({"seed": 4}, {"step": 8}):
        assert not torch.equal(drawn(), drawn(**change))
    assert torch.equal(drawn(samples=range(4, 8)), drawn()[4:])


def test_points_are_relative_to_the_crop(cache: LatentCache) -> None:
    batch = sample_clip_batch(cache, seed=0, step=0, batch_size=2, config=CONFIG)
    torch.testing.assert_close(batch.points68[0, 0, 30], torch.tensor([0.5, 0.5]))
    assert batch.head_motion_variance.abs().max() < 1e-9


def test_frame_batch_draws_another_frame_as_reference(cache: LatentCache) -> None:
    batch = sample_frame_batch(cache, seed=0, step=0, batch_size=64)
    target, reference = batch.latents[:, 0, 0, 0], batch.reference[:, 0, 0, 0]
    assert (target != reference).all()
    assert torch.equal((target - 1) // 200, (reference - 1) // 200)
    assert batch.region_weight.shape == (64, 1, 8, 8)


def test_region_weights_stand_on_mouth_and_eyes(cache: LatentCache) -> None:
    config = BatchConfig(num_frames=12, num_history=30, mouth_weight=7, eye_weight=4)
    weights = sample_clip_batch(cache, seed=0, step=0, batch_size=2, config=config).region_weight[1, 5, 0]
    assert (weights[6, 3:5] == 7).all()
    assert (weights[2, 2] == 4) and (weights[2, 5] == 4)
    assert (weights[0] == 1).all()


def test_pad_rows_fills_both_ends_with_zeros() -> None:
    rows = np.arange(1, 5)
    assert pad_rows(rows, -2, 3).tolist() == [0, 0, 1, 2, 3]
    assert pad_rows(rows, 3, 6).tolist() == [4, 0, 0]
    assert pad_rows(rows, -3, -1).tolist() == [0, 0]


def test_batch_moves_as_a_whole(cache: LatentCache) -> None:
    batch = sample_clip_batch(cache, seed=0, step=0, batch_size=1, config=CONFIG).to("meta")
    assert all(getattr(batch, f.name).device.type == "meta" for f in fields(batch))
