"""Face similarity without a network: gradient orientations of an aligned face, compared among people.

Sources: histograms of oriented gradients (Dalal & Triggs 2005) at two cell sizes, on a crop aligned by
eyes, nose and mouth to a 112 px layout as face recognition uses; then principal components (eigenfaces,
Turk & Pentland 1991), whitened, so that what all faces share counts for nothing and different people score
about 0. The components come from public-domain portraits; benchmarks/identity.py makes them, and says how
well they tell people apart. Embeddings of licensed networks are stronger; this needs none, and is meant for
faces near frontal.

`texture_similarity` is a second opinion that needs no people to learn from: the structural similarity (SSIM,
Wang et al. 2004) of two aligned faces in colour, mouth and eyes left out since they move.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import cv2
import numpy as np

CROP_PX = 112
TEMPLATE_PX = np.array([[39, 46], [73, 46], [56, 68], [56, 86]], np.float32)
"""Where the eyes, the nose tip and the middle of the mouth corners go in the crop."""
CELL_SIZES_PX = (16, 8)
NUM_ORIENTATIONS = 8
RAW_WIDTH = NUM_ORIENTATIONS * sum((CROP_PX // cell) ** 2 for cell in CELL_SIZES_PX)
BACKGROUND_FILE = "face_background.npz"
SSIM_WINDOW_PX = 4.0
"""Standard deviation of SSIM's window in the crop; wide, since alignment is not exact to the pixel."""
SSIM_SMOOTHING_PX = 1.0
SSIM_CONSTANTS = (1.0, 9.0)
"""(.01 L)^2 and (.03 L)^2 of Wang et al., for the range L = 100 of CIELAB's lightness."""
LEFT_OUT_PX = ((39, 46, 15, 10), (73, 46, 15, 10), (56, 86, 24, 16))
"""Ellipses of the crop that move: eyes and mouth; centre x, y and half axes."""


@dataclass(frozen=True, kw_only=True)
class FaceBackground:
    """What faces have in common: the mean descriptor and the whitened principal components."""

    mean: np.ndarray
    """`RAW_WIDTH`."""
    components: np.ndarray
    """`RAW_WIDTH d`: directions divided by their standard deviation over people."""


def face_descriptor(
    rgb: np.ndarray, points: np.ndarray, background: FaceBackground | None = None
) -> np.ndarray:
    """Describe whose face this is.

    Args:
        rgb: a frame, `H W 3` uint8.
        points: its 68 landmarks, `68 2` px.
        background: what faces have in common; None: the one in the package.

    Returns:
        A unit vector `d`. A face and its mirror image have the same one.
    """
    background = background or package_background()
    vector = (raw_descriptor(aligned_face(rgb, points)) - background.mean) @ background.components
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def face_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two face descriptors `d`: 1 for one picture twice, about 0 for two people."""
    return float(a @ b)


def texture_similarity(a: np.ndarray, a_points: np.ndarray, b: np.ndarray, b_points: np.ndarray) -> float:
    """How alike the skin, brows, nose and shading of two faces are: SSIM in CIELAB.

    Args:
        a, b: frames, `H W 3` uint8.
        a_points, b_points: their 68 landmarks, `68 2` px.

    Returns:
        1 for one picture twice, about 0 for unrelated textures. A tint over all of the face counts for nothing.
    """
    first, second = _toned_face(a, a_points), _toned_face(b, b_points)
    return float(np.average(_ssim(first, second), weights=_still_parts()))


def fit_background(raw: np.ndarray, num_components: int = 128) -> FaceBackground:
    """Mean and whitened principal components of the raw descriptors of many people, `n RAW_WIDTH`."""
    if len(raw) <= num_components:
        raise ValueError(f"{len(raw)} faces do not determine {num_components} components; give more faces")
    mean = raw.mean(0)
    _, scales, directions = np.linalg.svd(raw - mean, full_matrices=False)
    deviations = scales[:num_components] / np.sqrt(len(raw))
    return FaceBackground(mean=mean, components=directions[:num_components].T / deviations)


@cache
def package_background() -> FaceBackground:
    """The background in the package."""
    with (
        (resources.files("openloopy") / "assets" / BACKGROUND_FILE).open("rb") as file,
        np.load(file) as arrays,
    ):
        return FaceBackground(
            mean=arrays["mean"].astype(np.float32), components=arrays["components"].astype(np.float32)
        )


def aligned_face(rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Grey crop `CROP_PX CROP_PX` float32 0..1 in which eyes, nose and mouth lie where `TEMPLATE_PX` says."""
    return _align(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255, points)


def raw_descriptor(face: np.ndarray) -> np.ndarray:
    """Orientation histograms of an aligned face and of its mirror image, summed: `RAW_WIDTH`."""
    mirrored = np.ascontiguousarray(face[:, ::-1])
    return sum(np.concatenate([_histograms(x, cell) for cell in CELL_SIZES_PX]) for x in (face, mirrored))


def _align(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The crop of `aligned_face` from a picture of any number of channels."""
    anchors = [points[36:42].mean(0), points[42:48].mean(0), points[30], (points[48] + points[54]) / 2]
    matrix = _similarity(
        np.asarray(anchors, np.float32) - 0.5, TEMPLATE_PX
    )  # OpenCV counts from pixel centres
    return cv2.warpAffine(
        picture, matrix, (CROP_PX, CROP_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _toned_face(rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Aligned face in CIELAB, its mean colour taken off: `CROP_PX CROP_PX 3` float32."""
    lab = cv2.cvtColor(_align(rgb.astype(np.float32) / 255, points), cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), SSIM_SMOOTHING_PX)
    return lab - np.average(lab, axis=(0, 1), weights=np.repeat(_still_parts()[..., None], 3, -1))


def _ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004, eq. 13) of `H W c`, per pixel.

    Products are added up over the channels, so that a flat one, as in a grey picture, counts for nothing.
    """
    mean_a, mean_b, aa, bb, ab = (
        cv2.GaussianBlur(x, (0, 0), SSIM_WINDOW_PX) for x in (a, b, a * a, b * b, a * b)
    )
    tone, contrast = SSIM_CONSTANTS
    squares = (mean_a**2 + mean_b**2).sum(-1)
    of_means = (2 * (mean_a * mean_b).sum(-1) + tone) / (squares + tone)
    covariance, variances = (ab - mean_a * mean_b).sum(-1), (aa + bb).sum(-1) - squares
    return of_means * (2 * covariance + contrast) / (variances + contrast)


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares rotation, scale and shift from `n 2` to `n 2`, as a `2 3` matrix."""
    a, b = source - source.mean(0), target - target.mean(0)
    norm = (a**2).sum()
    cos, sin = (a * b).sum() / norm, (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / norm
    rotation = np.array([[cos, -sin], [sin, cos]], np.float32)
    return np.column_stack([rotation, target.mean(0) - rotation @ source.mean(0)]).astype(np.float32)


def _histograms(face: np.ndarray, cell: int) -> np.ndarray:
    """Unsigned gradient orientations per cell, normalised by their neighbourhood; a unit vector."""
    magnitude, position = _gradients(face)
    cells = CROP_PX // cell
    maps = []
    for orientation in range(NUM_ORIENTATIONS):
        distance = np.abs(position - orientation)
        share = np.clip(1 - np.minimum(distance, NUM_ORIENTATIONS - distance), 0, 1)
        smooth = cv2.GaussianBlur(share * magnitude, (0, 0), cell / 2)
        maps.append(cv2.resize(smooth, (cells, cells), interpolation=cv2.INTER_AREA))
    histogram = np.stack(maps, -1)
    energy = np.sqrt(cv2.blur((histogram**2).sum(-1), (3, 3)))[..., None]
    # The mean energy keeps flat cells from being blown up to full weight; the root is the Hellinger map.
    histogram = np.sqrt(histogram / (energy + 0.3 * energy.mean() + 1e-6)).ravel()
    return histogram / max(float(np.linalg.norm(histogram)), 1e-9)


def _gradients(face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient magnitude inside the face oval, and orientation as a position among the bins, per pixel."""
    root = np.sqrt(face)
    dx, dy = cv2.Sobel(root, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(root, cv2.CV_32F, 0, 1, ksize=1)
    position = (np.arctan2(dy, dx) % np.pi) / np.pi * NUM_ORIENTATIONS
    return np.hypot(dx, dy) * _face_oval(), position


@cache
def _face_oval() -> np.ndarray:
    """1 on the face, fading to 0 outside it: hair and background tell little about a person."""
    y, x = np.mgrid[:CROP_PX, :CROP_PX]
    return np.clip(2 * (1.15 - np.hypot((x - 56) / 46, (y - 60) / 54)), 0, 1).astype(np.float32)


@cache
def _still_parts() -> np.ndarray:
    """The face oval without eyes and mouth."""
    y, x = np.mgrid[:CROP_PX, :CROP_PX]
    weights = _face_oval().copy()
    for centre_x, centre_y, half_width, half_height in LEFT_OUT_PX:
        weights[np.hypot((x - centre_x) / half_width, (y - centre_y) / half_height) < 1] = 0
    return weights
