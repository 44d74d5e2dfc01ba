"""What the portrait itself shows between its lips: kept while the mouth is about as open as there.

The upper part, down to the teeth's edge, stays with the skull, the lower part goes with the jaw, and the painted
inside (rig.mouth) shows between and beyond them. Lips slide over both as they close.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openloopy.rig.mesh import LIP_INNER_LOWER, LIP_INNER_UPPER, HeadFrame, smoothstep
from openloopy.rig.paint import Box, Scene, Slit, fill_polygon, over, smooth_curve

_NUM_EDGE_POINTS = 41
_KEPT_CM, _GONE_CM = 0.06, 0.45
"""Opened further than in the portrait: up to the first all of its pixels stay, from the second none."""
_JAW_GONE_CM = 0.9
"""From here on the lower part is painted, since the jaw shows more than the portrait does."""
_SEAM_CM = 0.07
_NARROW_CM = 0.16
"""Closing lips shade what is left of an opening lower than this."""
_RIM_CM, _RIM_FADES_CM = 0.13, 0.4
"""So much of parted lips rolls in as they close; from the second on inwards they stay."""
_RIM_ENDS_CM = 0.15
"""And so near to the corners."""
_SPLIT = 0.5
"""Where upper and lower part meet when no teeth show, as a share of the opening."""


@dataclass(frozen=True)
class MouthMoves:
    """What the mouth does beyond the portrait, cm."""

    wider: float
    """By how much further the lips are apart in the middle."""
    jaw: float
    """By how much lower the jaw is."""


class OwnMouth:
    """The inside of one portrait's mouth, in its own pixels."""

    def __init__(self, rgb: np.ndarray, head: HeadFrame, teeth_edge_px: np.ndarray | None) -> None:
        """
        Args:
            rgb: the portrait, `S S 3` uint8.
            head: its mesh.
            teeth_edge_px: the middle of the upper teeth's edge, `2`; None: no teeth show.
        """
        upper, lower = (
            smooth_curve(head.mesh_px[indices, :2], _NUM_EDGE_POINTS)
            for indices in (LIP_INNER_UPPER, LIP_INNER_LOWER)
        )
        self._head, self._shows_teeth = head, teeth_edge_px is not None
        outline = np.concatenate([upper, lower[::-1]])
        box = Box.around(outline, 0.3 * head.scale_px, len(rgb))
        self._at = np.array([box.x0, box.y0], np.float32)
        area = cv2.dilate(fill_polygon(outline, box), np.ones((3, 3)))
        split = upper + _teeth_share(upper, lower, teeth_edge_px) * (lower - upper)
        below_cm = (box.ys - np.interp(box.xs, *split[np.argsort(split[:, 0])].T)) / head.scale_px
        pixels = rgb[box.slices].astype(np.float32)
        # both are whole at the seam, so that together they are the portrait where nothing moved
        above = area * (1 - smoothstep(below_cm, 0, _SEAM_CM))
        below = area * smoothstep(below_cm, -_SEAM_CM, 0)
        self._above, self._below = (np.dstack([pixels, share]).astype(np.float32) for share in (above, below))

    def keep(self, painted: np.ndarray, slit: Slit, scene: Scene, moves: MouthMoves) -> np.ndarray:
        """The painted inside `h w 3` of a slit's box with the portrait's own pixels where they show."""
        gone = float(smoothstep(moves.wider, _KEPT_CM, _GONE_CM))
        above = 1.0 if self._shows_teeth else 1 - gone
        below = 1 - float(smoothstep(moves.jaw, _KEPT_CM, _JAW_GONE_CM)) if self._shows_teeth else 1 - gone
        if above == below == 0:
            return painted
        shade = _narrowing(slit, self._head.scale_px * scene.scale, moves.wider)
        for layer, share, jaw_cm in ((self._below, below, moves.jaw), (self._above, above, 0.0)):
            if share == 0:
                continue
            own = cv2.remap(layer, self._source_of(slit.box, scene, jaw_cm), None, cv2.INTER_LINEAR)
            painted = over(painted, own[..., :3] * shade, own[..., 3] * np.float32(share))
        return painted

    def _source_of(self, box: Box, scene: Scene, jaw_cm: float) -> np.ndarray:
        """Where in the layers each pixel of a box lies, `h w 2`: they move with the skull, lowered by jaw_cm."""
        head = self._head
        corners = head.mesh_px[[78, 308, 78]].copy()
        corners[:, 2] -= head.scale_px  # teeth lie behind the lips
        corners[2] += head.vectors_to_px(np.array([0.0, 2.0, 0.0]))
        lowered = corners + head.vectors_to_px(np.array([0.0, jaw_cm, 0.0]))
        shown = scene.to_output(scene.placement(lowered, np.ones(3)))
        to_source = cv2.getAffineTransform(
            shown.astype(np.float32), (corners[:, :2] - self._at).astype(np.float32)
        )
        x, y = (row[0] * box.xs + row[1] * box.ys + row[2] for row in to_source)
        return np.stack([x, y], -1).astype(np.float32)


def _teeth_share(upper: np.ndarray, lower: np.ndarray, edge_px: np.ndarray | None) -> float:
    """How far down between the lips' edges, each `n 2`, the upper teeth end."""
    if edge_px is None:
        return _SPLIT
    i = int(np.argmin(np.abs(upper[:, 0] - edge_px[0])))
    share = (edge_px[1] - upper[i, 1]) / max(lower[i, 1] - upper[i, 1], 1.0)
    return float(np.clip(share, 0.3, 1.0))


def without_rims(
    lips: tuple[np.ndarray, np.ndarray], slit: Slit, px_per_cm: float, shares: np.ndarray
) -> tuple:
    """Both lips `h w 3` in a slit's box, of which the rims roll in as parted lips close.

    Where the mesh is a little off they show teeth or shadow, which would stay between the lips as a line.

    shares: how far they roll, 0 to 1, at places evenly spread from corner to corner, left to right.
    """
    across = np.broadcast_to(slit.box.xs, slit.below.shape[:2])
    x = np.sort(slit.upper[:, 0])
    share = np.interp(
        slit.box.xs, x, np.interp(np.linspace(0, 1, len(x)), np.linspace(0, 1, len(shares)), shares)
    )
    rolled = []
    for lip, edge, down in zip(lips, (slit.upper, slit.lower), (-1, 1), strict=True):
        edge = edge[np.argsort(edge[:, 0])]
        inward_cm = down * (slit.box.ys - np.interp(slit.box.xs, edge[:, 0], edge[:, 1])) / px_per_cm
        hidden_cm = share * _RIM_CM * (1 - smoothstep(np.abs(inward_cm), 0, _RIM_FADES_CM))
        ends = np.minimum(slit.box.xs - edge[0, 0], edge[-1, 0] - slit.box.xs) / px_per_cm
        rows = slit.box.ys + down * px_per_cm * hidden_cm * smoothstep(ends, 0, _RIM_ENDS_CM)
        at = (np.stack([across, rows], -1) - [slit.box.x0, slit.box.y0]).astype(np.float32)
        rolled.append(cv2.remap(lip, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    return tuple(rolled)


def _narrowing(slit: Slit, px_per_cm: float, wider_cm: float) -> np.ndarray:
    """How dark closing lips make what they leave open, `1 w 1`: 1 in the portrait's own state."""
    closing = float(smoothstep(-wider_cm, 0, 0.25))
    upper_y, lower_y = (
        np.interp(slit.box.xs, edge[order, 0], edge[order, 1])
        for edge, order in ((e, np.argsort(e[:, 0])) for e in (slit.upper, slit.lower))
    )
    gap_cm = (lower_y - upper_y) / px_per_cm
    shade = 1 - 0.7 * closing * (1 - smoothstep(gap_cm, 0, _NARROW_CM))
    return shade[None, :, None].astype(np.float32)
