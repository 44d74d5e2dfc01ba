"""Sharpness, PSNR and flicker on pictures whose answer is known."""

import cv2
import numpy as np
import pytest

from openloopy.measures.quality import cut_box, flicker, frame_difference, psnr, sharpness

BOX = np.array([20, 20, 110, 110])


def _texture(size: int = 128, seed: int = 0) -> np.ndarray:
    """A grey random texture with detail of a few pixels, `size size 3` uint8."""
    noise = np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    grey = np.clip(128 + 30 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


def test_sharpness_falls_with_blur_and_ignores_contrast_and_brightness():
    picture = _texture()
    blurred = [cv2.GaussianBlur(picture, (0, 0), sigma) for sigma in (1.5, 3.0)]
    values = [sharpness(x, BOX) for x in (picture, *blurred)]
    assert values[0] > 1.5 * values[1] > 3 * values[2]
    faint = (picture // 2 + 60).astype(np.uint8)
    assert sharpness(faint, BOX) == pytest.approx(values[0], rel=0.05)


def test_sharpness_of_a_sine_is_the_analytic_value():
    period = 16
    x = np.arange(192)
    row = 128 + 100 * np.sin(2 * np.pi * x / period)
    picture = np.repeat(np.tile(np.rint(row).astype(np.uint8), (192, 1))[..., None], 3, -1)
    expected = (2 - 2 * np.cos(2 * np.pi / period)) ** 2  # response of the [1 -2 1] kernel, squared
    assert sharpness(picture, np.array([0, 0, 192, 192])) == pytest.approx(expected, rel=0.05)


def test_sharpness_of_one_colour_is_zero():
    assert sharpness(np.full((64, 64, 3), 90, np.uint8), np.array([0, 0, 64, 64])) == 0


def test_psnr_of_a_constant_error_is_analytic_and_only_the_box_counts():
    true = np.full((64, 64, 3), 100, np.uint8)
    generated = true.copy()
    generated[:32] += 16
    assert psnr(generated, true, np.array([0, 0, 64, 32])) == pytest.approx(20 * np.log10(255 / 16))
    assert psnr(generated, true, np.array([0, 32, 64, 64])) == 99
    assert psnr(generated, true) == pytest.approx(20 * np.log10(255 / 16) + 10 * np.log10(2))


def test_psnr_refuses_other_sizes():
    with pytest.raises(ValueError, match="resize"):
        psnr(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8))


def test_box_is_clipped_to_the_frame_and_refused_outside():
    frame = np.zeros((40, 60, 3), np.uint8)
    assert cut_box(frame, np.array([-5, 10.5, 20.2, 99])).shape == (30, 21, 3)
    with pytest.raises(ValueError, match="leaves nothing"):
        cut_box(frame, np.array([70, 0, 90, 10]))


def test_motion_alone_is_hardly_flicker():
    wide = _texture(160)
    frames = [wide[:, k : k + 128] for k in range(0, 12, 2)]
    assert frame_difference(frames) > 8
    assert flicker(frames) < 0.2 * frame_difference(frames)


def test_brightness_that_jumps_is_flicker_in_full():
    still = _texture()
    frames = [still + np.uint8(4 * (k % 2)) for k in range(6)]
    assert flicker(frames) == pytest.approx(4, rel=0.1)
    assert flicker([still] * 4) == 0


def test_one_frame_has_no_change_which_is_not_a_change_of_0():
    for measure in (flicker, frame_difference):
        with pytest.raises(ValueError, match="at least 2 frames"):
            measure([_texture()])


def test_frames_too_small_for_a_flow_are_refused_in_words():
    with pytest.raises(ValueError, match="11x40 px are too small for optical flow; give 12 px"):
        flicker([_texture()[:40, :11]] * 2)
    assert flicker([_texture()[:12, :12]] * 2) == 0
