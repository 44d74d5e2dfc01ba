"""Covered mouths: what is drawn over them hides the lips, and bare ones stay bare."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openloopy.face.covered import covered_share, mouth_square
from openloopy.face.mesh import MESH_TO_68
from openloopy.face.networks import PART_PX, FaceNetworks
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.face_free import face_free_background
from openloopy.training.covers import cover_mouth
from openloopy.training.face_cover import CoverTask, CoverTrainingConfig, _cover_elsewhere
from tests.training.test_face import bank, bank_folder  # noqa: F401

OTHER = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def changed_lips(before: np.ndarray, after: np.ndarray, mesh: np.ndarray) -> float:
    """Share of the lips' points at which a picture changed."""
    x, y = np.round(mesh[MESH_TO_68[48:], :2]).astype(int).T
    return float((np.abs(before[y, x].astype(int) - after[y, x]).sum(-1) > 0).mean())


@pytest.mark.parametrize("seed", range(20))
def test_a_cover_hides_the_lips_and_leaves_the_eyes(seed):
    drawn = draw_face(np.random.default_rng(seed % 4), 192)
    made = cover_mouth(drawn.rgb, drawn.mesh[:, :2], OTHER, np.random.default_rng(seed))
    assert made.dtype == np.uint8 and changed_lips(drawn.rgb, made, drawn.mesh) > 0.8
    x, y = np.round(drawn.mesh[MESH_TO_68[36:48], :2]).astype(int).T
    assert (made[y, x] == drawn.rgb[y, x]).all()


def test_what_lies_elsewhere_leaves_the_lips():
    drawn, has_changed = draw_face(np.random.default_rng(1), 192), []
    for seed in range(30):
        made = _cover_elsewhere(drawn.rgb, drawn.mesh[:, :2], OTHER, np.random.default_rng(seed))
        x, y = np.round(drawn.mesh[MESH_TO_68[48:], :2]).astype(int).T
        assert np.abs(drawn.rgb[y, x].astype(int) - made[y, x]).sum(-1).max() <= 12
        has_changed.append(not np.array_equal(made, drawn.rgb))
    assert any(has_changed)


def test_the_task_learns_to_tell_them(bank):  # noqa: F811
    torch.manual_seed(0)
    config = CoverTrainingConfig(batch_size=16, seed=1)
    network = FaceNetworks().cover.train()
    task = CoverTask(network, bank, config, face_free_background)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        found = task.losses(network, step)
        found["loss"].backward()
        optimizer.step()
        losses.append(found["loss"].item())
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:4])
    numbers = task.evaluate(network.eval(), 64)
    assert numbers["told"] > numbers["false"] + 0.2


def test_the_view_is_about_the_mouth():
    drawn = draw_face(np.random.default_rng(1), 192)
    square = mouth_square(drawn.mesh)
    cut = square.points_in_cut(drawn.mesh[MESH_TO_68[48:], :2])
    assert np.abs(cut).max() < 0.4 and square.cut(drawn.rgb, PART_PX).shape == (PART_PX, PART_PX, 3)


def test_networks_without_this_part_call_nothing_covered():
    drawn, networks = draw_face(np.random.default_rng(1), 192), FaceNetworks().eval()
    assert 0 < covered_share(drawn.rgb, drawn.mesh, networks) < 1
    networks.cover = None
    assert covered_share(drawn.rgb, drawn.mesh, networks) == 0
