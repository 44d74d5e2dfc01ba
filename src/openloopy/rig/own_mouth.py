"""What the portrait itself shows between its lips: kept while the mouth is about as open as there.

Lips slide over it as they close; as they open further it gives way to the painted inside (rig.mouth).
"""

from __future__ import annotations

import cv2
import numpy as np

from openloopy.rig.mesh import LIP_INNER_LOWER, LIP_INNER_UPPER, HeadFrame, smoothstep
from openloopy.rig.paint import Box, Scene, fill_polygon, over, smooth_curve

_NUM_EDGE_POINTS = 41
_KEPT_CM, _GONE_CM = 0.06, 0.45
"""Beyond the portrait's own opening: up to the first all of its pixels stay, from the second none."""


class OwnMouth:
    """The inside of one portrait's mouth, in its own pixels."""

    def __init__(self, rgb: np.ndarray, head: HeadFrame) -> None:
        """rgb: the portrait, `S S 3` uint8."""
        outline = np.concatenate(
            [
                smooth_curve(head.mesh_px[indices, :2], _NUM_EDGE_POINTS)[::step]
                for indices, step in ((LIP_INNER_UPPER, 1), (LIP_INNER_LOWER, -1))
            ]
        )
        self._head = head
        box = Box.around(outline, 0.3 * head.scale_px, len(rgb))
        self._at = np.array([box.x0, box.y0], np.float32)
        area = cv2.dilate(fill_polygon(outline, box), np.ones((3, 3)))
        self._rgba = np.dstack([rgb[box.slices].astype(np.float32), area * 255])

    def keep(self, painted: np.ndarray, box: Box, scene: Scene, wider_cm: float) -> np.ndarray:
        """The painted inside `h w 3` of a box with the portrait's own pixels where they show.

        wider_cm: by how much the mouth is opened further than in the portrait.
        """
        share = 1 - float(smoothstep(wider_cm, _KEPT_CM, _GONE_CM))
        if share == 0:
            return painted
        own = cv2.remap(self._rgba, self._source_of(box, scene), None, cv2.INTER_LINEAR)
        return over(painted, own[..., :3], own[..., 3] * (share / 255))

    def _source_of(self, box: Box, scene: Scene) -> np.ndarray:
        """Where in the portrait each pixel of a box lies: teeth move with the skull, `h w 2`."""
        head = self._head
        corners = head.mesh_px[[78, 308, 78]].copy()
        corners[:, 2] -= head.scale_px  # teeth lie behind the lips
        corners[2] += head.vectors_to_px(np.array([0.0, 2.0, 0.0]))
        shown = scene.to_output(scene.placement(corners, np.ones(3)))
        to_source = cv2.getAffineTransform(
            shown.astype(np.float32), (corners[:, :2] - self._at).astype(np.float32)
        )
        x, y = (row[0] * box.xs + row[1] * box.ys + row[2] for row in to_source)
        return np.stack([x, y], -1).astype(np.float32)
