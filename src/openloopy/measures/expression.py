"""How far apart two sets of videos are in expression: E-FID, and a measure of our own that needs no weights.

E-FID: EMO (Tian et al. 2024, arXiv:2402.17485) and Loopy (arXiv:2409.02634) give the Frechet distance of expression
coefficients of Deep3DFaceRecon. Which frames, crops and videos enter is an open question: we know of no public script
(issue 177 of antgroup/echomimic asks for one in vain). Ours: the 64 coefficients as
`deep3d.expression_coefficients` gives them (our landmarks, the public alignment, weights `epoch_20.pth`), every frame
in which the face was found, all videos of a set in one Gaussian, no other network after it. It also sees who is shown
and how: the coefficients are not free of identity and pose, so the two sets should show the same people. Published
values compare with ours only in their order.

`landmark_expression_distance` is ours and no E-FID: 43 landmarks in the head's frame about each person's mean.

Both depend on the number of frames, see `distribution`: compare sets of about equal length, and state it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from openloopy.face.movement import MOUTH
from openloopy.measures.deep3d import NUM_EXPRESSION
from openloopy.measures.distribution import FeatureStats, frechet_distance
from openloopy.measures.lip_sync import in_head_frame

EXPRESSION_POINTS = np.array([*range(6, 11), *range(17, 27), 37, 38, 40, 41, 43, 44, 46, 47, *MOUTH])
"""Chin, brows, lids and mouth: what moves within the head. Eye corners and nose carry the head's frame; the sides of
the jaw are the outline of the head, which turning moves most."""
DESCRIPTOR_WIDTH = 2 * len(EXPRESSION_POINTS)
DESCRIPTOR_SCALE = 100.0
"""Eye distances -> hundredths of them, as for Glo and Exp."""


def e_fid(generated: Iterable[np.ndarray], real: Iterable[np.ndarray]) -> float:
    """E-FID: Frechet distance of the expression coefficients of two sets of videos. 0 for one set twice.

    Args:
        generated, real: coefficients of each video, `f 64`, from `deep3d.expression_coefficients`; NaN where the face
            was lost. The sets may be of different sizes.

    Raises:
        ValueError: another shape, or a set of fewer than 65 frames with a face.
    """
    return frechet_distance(
        _stats(generated, NUM_EXPRESSION, "generated"), _stats(real, NUM_EXPRESSION, "real")
    )


def landmark_expression_distance(generated: Iterable[np.ndarray], real: Iterable[np.ndarray]) -> float:
    """Frechet distance of the landmark expressions of two sets of videos, in (1/100 inter-ocular)^2.

    Since each person's mean is taken off, it tells how much and in which combinations faces move, not which resting
    face they have. It is measured in the picture plane: where heads turn more in one set, that counts too.

    Args:
        generated, real: the landmarks of each video, `f 68 2` px; NaN where the face was lost. A video counts as one
            person; of a person with several, give one array with all of them.

    Raises:
        ValueError: another shape, a video with fewer than two frames with a face, or a set of fewer than 87.
    """
    sets = (map(expression_descriptors, generated), map(expression_descriptors, real))
    stats = [
        _stats(videos, DESCRIPTOR_WIDTH, name)
        for videos, name in zip(sets, ("generated", "real"), strict=True)
    ]
    return frechet_distance(*stats)


def expression_descriptors(points68: np.ndarray) -> np.ndarray:
    """Chin, brows, lids and mouth of one person in the head's frame, about their mean over the frames.

    Shift, size and tilt of the head are out: lip_sync.in_head_frame.

    Args:
        points68: `f 68 2` px; NaN where the face was lost.

    Returns:
        `n 86`, hundredths of the distance of the outer eye corners; the n frames in which the face was found.

    Raises:
        ValueError: another shape, or the face was found in fewer than two frames.
    """
    if points68.ndim != 3 or points68.shape[1:] != (68, 2):
        raise ValueError(f"expected landmarks of shape (frames, 68, 2), got {points68.shape}")
    known = points68[np.isfinite(points68).all((1, 2))].astype(np.float64)
    if not len(known):
        raise ValueError(
            f"no face was found in any of {len(points68)} frames; leave this video out and say so"
        )
    if len(known) < 2:
        raise ValueError(
            f"a face was found in 1 of {len(points68)} frames, which is its own mean; leave this video out and say so"
        )
    points = in_head_frame(known)[:, EXPRESSION_POINTS]
    return DESCRIPTOR_SCALE * (points - points.mean(0)).reshape(len(points), DESCRIPTOR_WIDTH)


def _stats(videos: Iterable[np.ndarray], width: int, name: str) -> FeatureStats:
    """Mean and covariance over the frames with a face of all videos."""
    stats = FeatureStats(width)
    for features in videos:
        stats.update(features[np.isfinite(features).reshape(len(features), -1).all(1)])
    if stats.num_samples <= width:
        raise ValueError(
            f"the {name} videos hold {stats.num_samples} frames with a face; a distance of {width} numbers per frame "
            f"needs at least {width + 1}, and means little below ten times as many"
        )
    return stats
