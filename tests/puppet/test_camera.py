from __future__ import annotations

import numpy as np
import pytest

from openloopy.puppet.camera import MAX_NOISE_SD, Camera, draw_background

GREY = np.full((48, 48, 3), 128, np.uint8)


def cameras(num: int) -> list[Camera]:
    return [Camera.draw(np.random.default_rng(i)) for i in range(num)]


def test_plain_camera_changes_nothing() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Camera().develop(picture, 1.5), picture)
    np.testing.assert_array_equal(Camera().shoot([picture])[0], picture)


def test_cameras_vary_mildly() -> None:
    lit = np.stack([camera.develop(GREY, 1.5) for camera in cameras(40)]).astype(float)
    assert 2 < lit.std() < 20
    assert 95 < lit.min() and lit.max() < 165


def test_some_clips_only_are_noisy_grey_or_compressed() -> None:
    drawn = cameras(300)
    assert 0.15 < np.mean([camera.noise_sd > 0 for camera in drawn]) < 0.35
    assert 0.02 < np.mean([camera.is_grey for camera in drawn]) < 0.12
    assert 0.25 < np.mean([camera.jpeg_quality is not None for camera in drawn]) < 0.45


def test_noise_is_mild_and_new_in_each_frame() -> None:
    one, two = (f.astype(float) for f in Camera(noise_sd=MAX_NOISE_SD).shoot([GREY, GREY]))
    assert 0.8 < (one - 128).std() < 1.2 * MAX_NOISE_SD
    assert abs(one.mean() - 128) < 0.2
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.2


def test_exposure_drifts_slowly() -> None:
    frames = Camera(drift=0.05, drift_hz=0.2, seed=3).shoot([GREY] * 125)
    level = np.array([frame.mean() for frame in frames])
    assert 4 < np.ptp(level) < 20
    assert np.abs(np.diff(level)).max() < 1.5


def test_same_camera_same_frames() -> None:
    camera = Camera(noise_sd=1.0, drift=0.03, flicker=0.005, seed=9)
    np.testing.assert_array_equal(camera.shoot([GREY] * 3), camera.shoot([GREY] * 3))


def test_grey_camera_and_compression() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    grey = Camera(is_grey=True, warmth=0.1).develop(picture, 1.5)
    assert np.ptp(grey, axis=-1).max() == 0
    coarse = Camera(jpeg_quality=30).develop(picture, 1.5)
    assert coarse.shape == picture.shape and not np.array_equal(coarse, picture)


@pytest.mark.parametrize("seed", range(6))
def test_backgrounds_are_smooth_and_not_blown_out(seed: int) -> None:
    picture = draw_background(np.random.default_rng(seed), 64, np.array([120.0, 100.0, 90.0]))
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert 5 < picture.mean() < 245
    assert np.abs(np.diff(picture.astype(float), axis=0)).mean() < 12
