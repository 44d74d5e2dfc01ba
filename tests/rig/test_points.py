"""Landmarks without pictures are those of the puppet with its picture."""

from __future__ import annotations

import numpy as np

from openloopy.face.mesh import MESH_TO_68
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.motion import draw_style, face_states
from openloopy.puppet.speech import draw_speaker, utter
from openloopy.rig.points import PuppetPoints
from openloopy.rig.portrait_rig import PortraitRig


def test_they_are_the_puppet_s_landmarks():
    rng = np.random.default_rng(0)
    drawn = draw_face(rng, size_px=192)
    utterance = utter(rng, draw_speaker(rng, "train"), 0.6, "train")
    moved = face_states(utterance, draw_style(rng), rng)
    rig = PortraitRig(drawn.rgb, drawn.mesh, drawn.mask, rng=rng)
    exact = np.stack([rig.landmarks(moved.frame(i), 128)[MESH_TO_68] for i in range(len(moved))])
    track = PuppetPoints(drawn.mesh).track(moved) * (128 / 192)
    assert track.shape == (15, 68, 2) and track.dtype == np.float32
    inner = np.r_[17:68]  # the jaw line fades into the neck in pictures, and their depth is a smooth surface
    assert np.abs(track[:, inner] - exact[:, inner]).max() < 0.5
    assert np.abs(track - exact).max() < 2.5
