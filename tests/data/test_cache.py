from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openloopy.data import cache as cache_module
from openloopy.data.cache import (
    GrowingNpy,
    build_pixel_cache,
    latent_cache_writer,
    open_latent_cache,
    open_pixel_cache,
    sampling_weights,
)
from openloopy.data.clips import decode_frames
from openloopy.data.shards import ShardWriter, read_shards
from tests.data.synthetic import NUM_FRAMES, make_sample


def test_pixel_cache_holds_every_clip(corpus: Path, tmp_path: Path) -> None:
    cache = build_pixel_cache(corpus, tmp_path / "cache", size_px=32, workers=2)
    assert len(cache) == 5
    assert cache.frames.shape == (5 * NUM_FRAMES, 32, 32, 3)
    for i, sample in enumerate(read_shards(corpus)):
        clip = cache.clip(i)
        assert clip.record == sample.record
        np.testing.assert_array_equal(clip.frames, decode_frames(sample.mp4, 32))
        np.testing.assert_allclose(clip.points68, sample.arrays["points68"] / 2, rtol=1e-6)
        np.testing.assert_array_equal(clip.lip_gap, sample.arrays["lip_gap"])
        np.testing.assert_array_equal(clip.visemes, sample.arrays["visemes"])


def test_pixel_cache_keeps_sound(corpus: Path, tmp_path: Path) -> None:
    cache = build_pixel_cache(corpus, tmp_path / "cache", size_px=32)
    expected = 0.5 * np.sin(np.arange(640 * NUM_FRAMES) * 0.05 * 3)
    assert cache.clip(2).waveform.dtype == np.int16
    np.testing.assert_allclose(cache.waveform(2), expected, atol=1e-4)


def test_pixel_cache_of_one_split_with_stride(corpus: Path, tmp_path: Path) -> None:
    cache = build_pixel_cache(corpus, tmp_path / "cache", size_px=32, split="val", frame_stride=5)
    assert cache.person_ids == ["person-3"]
    np.testing.assert_array_equal(cache.clip(0).lip_gap, 3000 + np.arange(0, NUM_FRAMES, 5))
    assert len(cache.frames) == len(cache.clip(0).points68) == 5


def test_interrupted_build_continues(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "COMMIT_CLIPS", 2)
    whole = build_pixel_cache(corpus, tmp_path / "whole", size_px=32)
    decoded = []

    def fail_at_fourth(sample, info):
        decoded.append(sample.record.clip_id)
        if len(decoded) == 4:
            raise KeyboardInterrupt
        return decode_clip(sample, info)

    decode_clip = cache_module.decode_clip
    monkeypatch.setattr(cache_module, "decode_clip", fail_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        build_pixel_cache(corpus, tmp_path / "cut", size_px=32)
    with pytest.raises(ValueError, match="not a complete cache"):
        open_pixel_cache(tmp_path / "cut")
    decoded.clear()
    decoded += ["counted"] * 10
    cut = build_pixel_cache(corpus, tmp_path / "cut", size_px=32)
    assert decoded[10:] == ["clip-2", "clip-3", "clip-4"]
    for name in whole.arrays:
        assert (tmp_path / "cut" / f"{name}.npy").read_bytes() == (
            tmp_path / "whole" / f"{name}.npy"
        ).read_bytes()
    assert cut.records == whole.records


def test_complete_cache_is_opened_and_another_one_refused(corpus: Path, tmp_path: Path) -> None:
    build_pixel_cache(corpus, tmp_path / "cache", size_px=32)
    assert len(build_pixel_cache(corpus, tmp_path / "cache", size_px=32)) == 5
    with pytest.raises(ValueError, match="asked for"):
        build_pixel_cache(corpus, tmp_path / "cache", size_px=16)


def test_cache_without_clips_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no clips"),
        latent_cache_writer(tmp_path, size_px=8, source_sha256=""),
    ):
        pass


def test_growing_npy_cuts_what_was_not_committed(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.float16).reshape(10, 2, 3)
    file = GrowingNpy(tmp_path / "a.npy")
    file.append(rows[:4])
    file.append(rows[4:7])
    file.close()
    again = GrowingNpy(tmp_path / "a.npy", num_rows=4)
    again.append(rows[4:])
    again.close()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), rows)


def test_growing_npy_refuses_other_rows(tmp_path: Path) -> None:
    file = GrowingNpy(tmp_path / "a.npy")
    file.append(np.zeros((1, 2), np.float16))
    with pytest.raises(ValueError, match="float32"):
        file.append(np.zeros((1, 2), np.float32))


def test_latent_cache_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(n, 4, 2, 2)).astype(np.float16) for n in (5, 9)]
    with latent_cache_writer(tmp_path, size_px=64, source_sha256="abc") as writer:
        for i, latents in enumerate(clips):
            record = make_sample(f"clip-{i}").record
            audio = np.full((len(latents), 3, 8), i, np.float16)
            points, gap = np.zeros((len(latents), 68, 2), np.float32), np.zeros(len(latents), np.float32)
            writer.add_clip(record, {"latents": latents, "audio": audio, "points68": points, "lip_gap": gap})
    cache = open_latent_cache(tmp_path)
    assert cache.info.size_px == 64
    np.testing.assert_array_equal(cache.rows("latents", 1), clips[1])
    assert (cache.rows("audio", 1) == 1).all() and cache.rows("audio", 1).shape == (9, 3, 8)
    with pytest.raises(ValueError, match="expected pixels"):
        open_pixel_cache(tmp_path)


def test_several_folders_follow_one_another(corpus: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "more") as writer:
        writer.write(make_sample("other", seed=7))
    cache = build_pixel_cache([corpus, tmp_path / "more"], tmp_path / "both", size_px=32, split="train")
    assert [record.clip_id for record in cache.records] == ["clip-0", "clip-1", "clip-2", "clip-4", "other"]
    assert cache.clip(4).lip_gap[0] == 7000
    with pytest.raises(ValueError, match="asked for"):
        build_pixel_cache([tmp_path / "more", corpus], tmp_path / "both", size_px=32, split="train")


def test_one_folder_in_a_list_is_that_folder(corpus: Path, tmp_path: Path) -> None:
    cache = build_pixel_cache(corpus, tmp_path / "cache", size_px=32)
    assert build_pixel_cache([corpus], tmp_path / "cache", size_px=32).info == cache.info


def test_clip_ids_of_several_folders_must_differ(corpus: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "more") as writer:
        writer.write(make_sample("clip-3", seed=7))
    with pytest.raises(ValueError, match="'clip-3'"):
        build_pixel_cache([corpus, tmp_path / "more"], tmp_path / "both", size_px=32)
    with pytest.raises(ValueError, match="no folder"):
        build_pixel_cache([], tmp_path / "both", size_px=32)


def test_sampling_weights_give_footage_its_share() -> None:
    puppet = make_sample("puppet").record
    footage = replace(puppet, seed=None)
    weights = sampling_weights([puppet, footage, puppet, puppet, footage], 0.4)
    np.testing.assert_allclose(weights, [0.2, 0.2, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(sampling_weights([puppet, footage, footage], 0.5), [0.5, 0.25, 0.25])
    np.testing.assert_allclose(sampling_weights([footage, footage], 0.1), [0.5, 0.5])
    np.testing.assert_allclose(sampling_weights([puppet, puppet], 0.1), [0.5, 0.5])
    longer = replace(puppet, num_frames=3 * puppet.num_frames)
    np.testing.assert_allclose(sampling_weights([puppet, longer, footage], 0.2), [0.2, 0.6, 0.2])
    with pytest.raises(ValueError, match=r"1\.5"):
        sampling_weights([puppet], 1.5)
    with pytest.raises(ValueError, match="no clips"):
        sampling_weights([], 0.5)
