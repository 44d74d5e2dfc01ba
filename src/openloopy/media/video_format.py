"""What all our videos have in common; imports nothing heavy."""

from __future__ import annotations

FPS = 25
PRESET, CRF = "veryfast", 18
"""Of x264. "medium" takes 2.5 times as long: a core would work .15 s longer per second of video of 512x512 px, .9 s of
1920x1080."""
MAX_CRF = 51
"""H.264 knows no coarser."""
MAX_SIDE_PX = 8192
"""H.264 goes further (level 6.2), players do not."""
