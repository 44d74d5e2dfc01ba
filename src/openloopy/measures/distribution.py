"""Frechet distance between two sets of features: how far apart their Gaussians are.

Source: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", eq. 6; the distance of Gaussians is that
of Dowson & Landau 1982. Which network makes the features is another file's matter.

The value depends on the number of samples: few of them raise it, also between two halves of one set. Compare only
values of sets of equal sizes, and state the sizes.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from openloopy.media.files import atomic_write, require_file

MIN_SAMPLES = 2
"""With one sample there is no covariance."""


class FeatureStats:
    """Number, mean and covariance of features that come in batches; float64, memory of one `d d` matrix."""

    def __init__(self, width: int) -> None:
        """width: numbers per feature (d)."""
        if width < 1:
            raise ValueError(f"expected features of at least one number, got width {width}")
        self.num_samples = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))
        """Sum over the samples of the outer product of their differences from the mean."""

    @property
    def width(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, `d d`; singular where there are no more samples than numbers per feature.

        Raises:
            ValueError: fewer than two samples.
        """
        if self.num_samples < MIN_SAMPLES:
            raise ValueError(f"a covariance needs at least {MIN_SAMPLES} samples, got {self.num_samples}")
        return self.scatter / (self.num_samples - 1)

    def update(self, features: ArrayLike) -> None:
        """Add samples: `n d`, an array or a tensor on the CPU; n may be 0.

        Raises:
            ValueError: another shape or width, or numbers that are not finite; nothing is added then.
        """
        batch = np.asarray(features, dtype=np.float64)
        if batch.ndim != 2 or batch.shape[1] != self.width:
            raise ValueError(f"expected features n {self.width}, got {batch.shape}")
        if not np.isfinite(batch).all():
            raise ValueError("features hold numbers that are not finite; check the weights and the pictures")
        if len(batch):
            mean = batch.mean(0)
            centred = batch - mean
            self._add(len(batch), mean, centred.T @ centred)

    def merge(self, other: FeatureStats) -> None:
        """Add the samples that another one has seen.

        Raises:
            ValueError: features of another width.
        """
        if other.width != self.width:
            raise ValueError(f"expected features of width {self.width}, got {other.width}")
        if other.num_samples:
            self._add(other.num_samples, other.mean, other.scatter)

    def save(self, path: Path | str) -> None:
        """Write an .npz, whole or not at all.

        Raises:
            ValueError: the name does not end in .npz, or the folder does not exist.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"expected a name that ends in .npz, got {path}")
        with atomic_write(path) as temporary:
            np.savez(temporary, num_samples=self.num_samples, mean=self.mean, scatter=self.scatter)

    @classmethod
    def load(cls, path: Path | str) -> FeatureStats:
        """What `save` wrote.

        Raises:
            ValueError: the file is missing, cut short or holds something else.
        """
        path = require_file(path, "a feature statistics")
        try:
            with np.load(path, allow_pickle=False) as content:
                num_samples, mean, scatter = (content[name] for name in ("num_samples", "mean", "scatter"))
        except (KeyError, ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} holds no feature statistics ({error}); make it again") from error
        if mean.ndim != 1 or scatter.shape != (len(mean), len(mean)):
            raise ValueError(f"{path} holds a mean {mean.shape} and a scatter {scatter.shape}; make it again")
        stats = cls(len(mean))
        stats.num_samples, stats.mean, stats.scatter = int(num_samples), mean, scatter
        return stats

    def _add(self, num_samples: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        """Chan et al. 1979: no differences of large sums, so that a large mean costs no digits."""
        total, shift = self.num_samples + num_samples, mean - self.mean
        self.scatter += scatter + np.outer(shift, shift) * (self.num_samples * num_samples / total)
        self.mean = self.mean + shift * (num_samples / total)
        self.num_samples = total


def frechet_distance(a: FeatureStats, b: FeatureStats) -> float:
    """|m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2)), in squared units of the features.

    The last trace is the sum of the singular values of F_a^T F_b, where C = F F^T. F comes from the eigenvectors of
    the symmetric C, of which those with eigenvalues below rounding (d * 2.2e-16 of the largest) are left out. So
    singular covariances (fewer samples than numbers per feature, constant features) need no special case: no
    inverse, no root of a matrix that is not symmetric, nothing added to the diagonal, no imaginary part to drop.
    What rounding leaves below 0 counts as 0. For d = 2048 of full rank this takes about 15 s of one core.

    Raises:
        ValueError: fewer than two samples in a set, or features of different widths.
    """
    if a.width != b.width:
        raise ValueError(
            f"the two sets have features of widths {a.width} and {b.width}; use one network for both"
        )
    covariance_a, covariance_b = a.covariance, b.covariance
    root_trace = _nuclear_norm(_factor(covariance_a).T @ _factor(covariance_b))
    shift = a.mean - b.mean
    distance = shift @ shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * root_trace
    return max(float(distance), 0.0)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F, `d r` of full rank r <= d, with F F^T the covariance."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def _nuclear_norm(matrix: np.ndarray) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False).sum()) if matrix.size else 0.0
