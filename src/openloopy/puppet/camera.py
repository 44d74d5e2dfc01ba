"""The camera of a clip: exposure, colour, sharpness, compression, noise, and what stands behind the person.

Source: ours. Colour, sharpening and compression are done to the still picture, once; what also touches the painted
mouth and lids (blur) or changes with time (exposure drift, flicker, noise) is done to the frames, mildly: a model
shall not learn noise. Nothing here moves a pixel, so landmarks stay exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.media.video import FPS

GREY_SHARE, DRIFT_SHARE, NOISE_SHARE = 0.06, 0.35, 0.25
BLUR_SHARE, SHARPEN_SHARE, COMPRESSED_SHARE = 0.18, 0.12, 0.35
MAX_NOISE_SD = 1.5
"""Standard deviation of sensor noise, of 255."""
JPEG_QUALITY = (30, 80)
"""At the size of the clip; 30 shows blocks as H.264 does at crf 30, 80 hardly any."""
MAX_DRIFT, MAX_FLICKER = 0.05, 0.008
"""Change of the logarithm of exposure over a clip, and from frame to frame."""
_NOISE_MARGIN_PX = 32


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Settings of one clip's camera; the defaults change nothing."""

    gamma: float = 1.0
    contrast: float = 1.0
    warmth: float = 0.0
    """Gain of red, and loss of blue."""
    is_grey: bool = False
    blur_px: float = 0.0
    """Standard deviation, px of the clip."""
    sharpening: float = 0.0
    jpeg_quality: int | None = None
    drift: float = 0.0
    drift_hz: float = 0.1
    flicker: float = 0.0
    noise_sd: float = 0.0
    seed: int = 0
    """Draws phases and noise."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Camera:
        """Mild enough to keep skin plausible; about every fifth clip is nearly untouched."""
        blur, drifts = rng.random(), rng.random() < DRIFT_SHARE
        return cls(
            gamma=float(rng.uniform(0.82, 1.22)),
            contrast=float(rng.uniform(0.88, 1.1)),
            warmth=float(rng.normal(0, 0.035)),
            is_grey=bool(rng.random() < GREY_SHARE),
            blur_px=float(rng.uniform(0.4, 1.0)) if blur < BLUR_SHARE else 0.0,
            sharpening=float(rng.uniform(0.2, 0.6)) if blur > 1 - SHARPEN_SHARE else 0.0,
            jpeg_quality=int(rng.integers(*JPEG_QUALITY)) if rng.random() < COMPRESSED_SHARE else None,
            drift=float(rng.uniform(0.0, MAX_DRIFT)) if drifts else 0.0,
            drift_hz=float(rng.uniform(0.03, 0.25)),
            flicker=float(rng.uniform(0.0, MAX_FLICKER)) if drifts else 0.0,
            noise_sd=float(rng.uniform(0.4, MAX_NOISE_SD)) if rng.random() < NOISE_SHARE else 0.0,
            seed=int(rng.integers(2**31)),
        )

    def develop(self, rgb: np.ndarray, px_per_clip_px: float) -> np.ndarray:
        """The still picture `H W 3` uint8 as this camera would have stored it.

        px_per_clip_px: how much finer the picture is than the clip.
        """
        if self.is_grey:
            rgb = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        rgb = cv2.LUT(rgb, self._table()[None])
        if self.sharpening:
            soft = cv2.GaussianBlur(rgb, (0, 0), px_per_clip_px)
            rgb = cv2.addWeighted(rgb, 1 + self.sharpening, soft, -self.sharpening, 0)
        return rgb if self.jpeg_quality is None else self._compress(rgb, px_per_clip_px)

    def shoot(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        """The clip's frames, `H W 3` uint8 each, with blur, exposure drift, flicker and noise."""
        rng = np.random.default_rng(self.seed)
        if self.blur_px:
            frames = [cv2.GaussianBlur(frame, (0, 0), self.blur_px) for frame in frames]
        if self.drift or self.flicker:
            gains = np.exp(self._log_exposure(len(frames), rng))
            frames = [
                cv2.convertScaleAbs(frame, alpha=float(gain))
                for frame, gain in zip(frames, gains, strict=True)
            ]
        if self.noise_sd:
            frames = self._add_noise(frames, rng)
        return frames

    def _table(self) -> np.ndarray:
        """Level to level for each channel, `256 3` uint8."""
        levels = np.linspace(0, 1, 256)[:, None] ** self.gamma
        levels = 0.5 + (levels - 0.5) * self.contrast
        warmth = 0.0 if self.is_grey else self.warmth
        levels = levels * (1 + warmth * np.array([1.0, 0.0, -1.0]))
        return np.clip(levels * 255, 0, 255).round().astype(np.uint8)

    def _compress(self, rgb: np.ndarray, px_per_clip_px: float) -> np.ndarray:
        """Through a JPEG of the clip's size, whose blocks then are as large as a video's."""
        size = rgb.shape[1], rgb.shape[0]
        small = tuple(max(8, round(n / px_per_clip_px)) for n in size)
        picture = cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)
        settings = [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality]
        _, content = cv2.imencode(".jpg", picture[..., ::-1], settings)
        picture = cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]
        return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_CUBIC)

    def _log_exposure(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        """`num_frames`: a slow sway and a small flicker that is smooth over three frames."""
        time_s, phase = np.arange(num_frames) / FPS, rng.uniform(0, 2 * np.pi)
        sway = self.drift * np.sin(2 * np.pi * self.drift_hz * time_s + phase)
        flicker = np.convolve(rng.standard_normal(num_frames + 2), np.ones(3) / np.sqrt(3), mode="valid")
        return sway + self.flicker * flicker

    def _add_noise(self, frames: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Windows of one large field of noise, a random one for each frame: cheaper than drawing anew."""
        height, width = frames[0].shape[:2]
        shape = height + _NOISE_MARGIN_PX, width + _NOISE_MARGIN_PX
        luma = rng.standard_normal((*shape, 1), np.float32)
        noise = 0.8 * luma + (0.0 if self.is_grey else 0.6) * rng.standard_normal((*shape, 3), np.float32)
        # uint8 frames keep no fractions: rounding happens once, after the sum
        noise = np.round(noise * self.noise_sd).astype(np.int16)
        offsets = rng.integers(0, _NOISE_MARGIN_PX, (len(frames), 2))
        return [
            cv2.add(frame, noise[y : y + height, x : x + width], dtype=cv2.CV_8U)
            for frame, (y, x) in zip(frames, offsets, strict=True)
        ]


def draw_background(rng: np.random.Generator, size_px: int, person_rgb: np.ndarray) -> np.ndarray:
    """A background made by code, out of focus; `size size 3` uint8.

    person_rgb: mean colour of the person, `3`; the background is not far from it in brightness.
    """
    paint = (_gradient, _clouds, _room)[rng.integers(3)]
    luma = float(np.clip(np.mean(person_rgb) * rng.uniform(0.25, 1.5), 18, 225))
    picture = paint(rng, 64, _palette(rng, luma))
    picture = cv2.resize(picture, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.004, 0.02) * size_px)
    # dithered: a smooth ramp of 8 bits shows bands
    picture += rng.uniform(-0.5, 0.5, picture.shape).astype(np.float32)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _palette(rng: np.random.Generator, luma: float) -> np.ndarray:
    """Four related colours `4 3`, RGB of 255, about this bright."""
    hue = rng.uniform(0, 180) + rng.normal(0, 14, 4)
    saturation = np.clip(rng.uniform(0, 0.42) + rng.normal(0, 0.06, 4), 0, 0.6)
    value = np.clip(luma / 255 * np.exp(rng.normal(0, 0.28, 4)), 0.04, 0.97)
    hsv = np.stack([2 * (hue % 180), saturation, value], -1).astype(np.float32)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0] * 255


def _gradient(rng: np.random.Generator, size: int, palette: np.ndarray) -> np.ndarray:
    """A studio wall: a ramp, and a lit spot behind the head."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    ramp = 0.5 + np.cos(angle) * x + np.sin(angle) * y
    from_spot = (x - rng.uniform(-0.3, 0.3)) ** 2 + (y + rng.uniform(-0.1, 0.3)) ** 2
    spot = np.exp(-from_spot / rng.uniform(0.06, 0.4))
    picture = palette[0] + (palette[1] - palette[0]) * np.clip(ramp, 0, 1)[..., None]
    return (picture * (1 + rng.uniform(-0.1, 0.45) * spot)[..., None]).astype(np.float32)


def _clouds(rng: np.random.Generator, size: int, palette: np.ndarray) -> np.ndarray:
    """A mottled backdrop, or leaves far out of focus: noise of several scales."""
    mix = np.zeros((size, size), np.float32)
    for octave in range(rng.integers(2, 5)):
        grain = rng.standard_normal((2 + 2**octave, 2 + 2**octave)).astype(np.float32)
        mix += cv2.resize(grain, (size, size), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    share = 1 / (1 + np.exp(-1.2 * mix))
    return (palette[0] + (palette[1] - palette[0]) * share[..., None]).astype(np.float32)


def _room(rng: np.random.Generator, size: int, palette: np.ndarray) -> np.ndarray:
    """Shelves, windows and lamps, as upright and level rectangles and discs, out of focus."""
    picture = _gradient(rng, size, palette)
    for _ in range(rng.integers(3, 10)):
        width, height = rng.uniform(0.05, 0.4, 2) * size
        x, y = rng.uniform(-0.1, 1.0, 2) * size
        colour = palette[rng.integers(4)] * np.exp(rng.normal(0, 0.35))
        first, last = (int(x), int(y)), (int(x + width), int(y + height))
        cv2.rectangle(picture, first, last, colour.tolist(), -1)
    for _ in range(rng.integers(0, 5)):
        centre = tuple(int(v) for v in rng.uniform(0, 1, 2) * size)
        colour = np.minimum(palette[rng.integers(4)] * rng.uniform(1.2, 2.2), 250)
        cv2.circle(picture, centre, int(rng.uniform(1.5, 5)), colour.tolist(), -1)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.8, 2.5))
