"""The face networks as files and functions, and the geometry of their views; no trained weights are needed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from openloopy.face.landmarks import Face, NetworkLandmarker
from openloopy.face.mesh import CHIN, FOREHEAD, canonical_mesh
from openloopy.face.networks import (
    FINDER_PX,
    MESH_PX,
    WEIGHTS_NAME,
    FaceNetworks,
    FaceParts,
    FinderOutput,
    find_peaks,
    fold_norms,
    load_face_networks,
    save_face_networks,
    to_input,
)
from openloopy.face.square import FaceSquare


def head(x: float, y: float, height: float, roll_deg: float = 0.0) -> np.ndarray:
    """The mean mesh at a place, `478 3` px; height: forehead to chin."""
    vertices = canonical_mesh().vertices
    scale = height / np.linalg.norm(vertices[FOREHEAD, :2] - vertices[CHIN, :2])
    angle = np.deg2rad(roll_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flat = vertices[:, :2] @ turn.T * scale
    return np.concatenate([flat + [x, y], vertices[:, 2:] * scale], 1)


@pytest.mark.parametrize(("roll_deg", "is_mirrored"), [(0, False), (40, False), (-75, True)])
def test_a_view_stands_upright_and_leads_back(roll_deg, is_mirrored):
    mesh = head(300, 200, 120, roll_deg)
    square = FaceSquare.about(mesh).varied(1.0, is_mirrored)
    c, s = np.cos(square.roll), np.sin(square.roll)
    upright = (mesh[:, :2] - square.centre) @ np.array([[c, -s], [s, c]]) / square.side
    seen = np.concatenate([upright, mesh[:, 2:] / square.side], 1)
    if is_mirrored:
        seen = seen[canonical_mesh().mirror] * [-1, 1, 1]
    assert abs(seen[FOREHEAD, 0] - seen[CHIN, 0]) < 0.02 and seen[CHIN, 1] > seen[FOREHEAD, 1] + 0.5
    assert np.abs(seen[:, :2]).max() < 0.5
    np.testing.assert_allclose(square.to_picture(seen), mesh, atol=0.5)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_the_picture_of_a_view_is_where_its_coordinates_say(is_mirrored):
    rgb = np.zeros((400, 500, 3), np.uint8)
    cv2.circle(rgb, (280, 170), 5, (255, 255, 255), -1)
    square = FaceSquare(np.array([260.0, 180.0]), 150.0, 0.5, is_mirrored)
    rows, columns = np.nonzero(square.cut(rgb)[..., 0] > 128)
    place = np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / MESH_PX - 0.5
    mesh = np.zeros((478, 3))
    mesh[:, :2] = place
    np.testing.assert_allclose(square.to_picture(mesh)[0, :2], [280.5, 170.5], atol=1.0)


def test_a_view_fits_until_the_face_leaves():
    square = FaceSquare.about(head(300, 200, 120))
    assert square.still_fits(head(304, 204, 120)) and square.still_fits(head(300, 200, 126, 8))
    for gone in (head(340, 200, 120), head(300, 200, 150), head(300, 200, 120, 30)):
        assert not square.still_fits(gone)


def test_peaks_are_found_with_their_geometry():
    cells = FINDER_PX // 8
    heat = torch.full((1, 1, cells, cells), -9.0)
    heat[0, 0, 10, 20], heat[0, 0, 10, 21], heat[0, 0, 25, 5] = 3.0, 1.0, 1.5
    turned = torch.tensor([0.6, 0.8]).reshape(1, 2, 1, 1).expand(1, 2, cells, cells)
    size = torch.full((1, 1, cells, cells), float(np.log(0.25)))
    found = find_peaks(FinderOutput(heat, torch.full((1, 2, cells, cells), 0.25), size, turned), 0, 0.5)
    assert len(found) == 2
    centre, height, roll, score = found[0]
    np.testing.assert_allclose(centre, (np.array([20, 10]) + 0.75) / cells)
    assert height == pytest.approx(0.25) and roll == pytest.approx(np.arctan2(0.8, 0.6))
    assert score > found[1][3] > 0.5


def test_weights_survive_the_file_and_folding_changes_nothing(tmp_path):
    torch.manual_seed(0)
    networks = FaceNetworks()
    for module in networks.modules():  # norms that do something
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    save_face_networks(networks, tmp_path)
    networks.half().float().eval()
    loaded = load_face_networks(tmp_path)
    views, pictures = torch.randn(2, 3, MESH_PX, MESH_PX), torch.randn(1, 3, FINDER_PX, FINDER_PX)
    with torch.inference_mode():
        for a, b in zip(networks.mesh(views), loaded.mesh(views), strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(
            networks.finder(pictures).heat, loaded.finder(pictures).heat, atol=1e-3, rtol=1e-3
        )
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in loaded.modules())
    assert sum(p.numel() for p in networks.parameters()) < 3_000_000


def test_folding_leaves_no_norm():
    networks = FaceNetworks().eval()
    fold_norms(networks)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in networks.modules())


def test_bad_weight_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_face_networks(tmp_path)
    (tmp_path / WEIGHTS_NAME).write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read"):
        load_face_networks(tmp_path)
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(3)}, tmp_path / WEIGHTS_NAME)
    with pytest.raises(ValueError, match="does not hold the face networks"):
        load_face_networks(tmp_path)


class _Sighted:
    """Stands in for trained networks: sees a bright disc as a face whose height is its diameter."""

    def __init__(self) -> None:
        self.num_searches = 0
        self.parts = FaceParts().eval()  # untrained, they answer with the mean face's eyes and mouth

    def confidence(self, logit: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(logit)

    def finder(self, pictures: torch.Tensor) -> FinderOutput:
        self.num_searches += 1
        cells = FINDER_PX // 8
        n = len(pictures)
        heat = torch.full((n, 1, cells, cells), -9.0)
        offset, size = torch.zeros(n, 2, cells, cells), torch.zeros(n, 1, cells, cells)
        roll = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).repeat(n, 1, cells, cells)
        for i, picture in enumerate(pictures):
            disc = _disc(picture)
            if disc is not None:
                x, y, diameter = disc
                row, column = int(y * cells), int(x * cells)
                heat[i, 0, row, column] = 5.0
                offset[i, :, row, column] = torch.tensor([x * cells - column - 0.5, y * cells - row - 0.5])
                size[i, 0, row, column] = float(np.log(diameter))
        return FinderOutput(heat, offset, size, roll)

    def mesh(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        meshes, logits = [], []
        for view in views:
            disc = _disc(view)
            x, y, diameter = disc or (0.5, 0.5, 0.6)
            meshes.append(torch.from_numpy(head(x - 0.5, y - 0.5, diameter)).float())
            logits.append(5.0 if disc else -5.0)
        return torch.stack(meshes), torch.tensor(logits)


def _disc(picture: torch.Tensor) -> tuple[float, float, float] | None:
    bright = (picture[0] > 0.5).numpy()
    if bright.sum() < 12:
        return None
    rows, columns = np.nonzero(bright)
    side = len(bright)
    return (
        (columns.mean() + 0.5) / side,
        (rows.mean() + 0.5) / side,
        2 * float(np.sqrt(bright.sum() / np.pi)) / side,
    )


def room(x: int, y: int, radius: int = 40) -> np.ndarray:
    rgb = np.zeros((360, 640, 3), np.uint8)
    if radius:
        cv2.circle(rgb, (x, y), radius, (255, 255, 255), -1)
    return rgb


def test_detection_leads_from_the_finder_to_the_mesh():
    (face,) = NetworkLandmarker(networks=_Sighted()).detect(room(500, 120))
    assert face.height_px == pytest.approx(80, rel=0.05) and face.score > 0.9
    np.testing.assert_allclose((face.mesh[FOREHEAD, :2] + face.mesh[CHIN, :2]) / 2, [500, 120], atol=12)


def test_a_still_face_is_searched_once_and_a_moving_one_followed():
    networks = _Sighted()
    landmarker = NetworkLandmarker(networks=networks)
    assert len(landmarker.track([room(300, 150)] * 20)) == 20
    assert networks.num_searches == 1
    track = landmarker.track([room(100 + 12 * i, 150) for i in range(30)])
    xs = np.array([face.mesh[:, 0].mean() for face in track])
    assert networks.num_searches == 2
    np.testing.assert_allclose(np.diff(xs), 12, atol=1.5)


def test_a_face_that_vanishes_is_lost_and_found_elsewhere():
    frames = [room(100, 100)] * 3 + [room(0, 0, 0)] * 4 + [room(500, 250)] * 5
    track = NetworkLandmarker(networks=_Sighted()).track(frames)
    assert [face is None for face in track] == [False] * 3 + [True] * 4 + [False] * 5
    assert track[-1].mesh[:, 0].mean() == pytest.approx(500, abs=15)


def test_a_jump_to_another_place_is_found_in_the_same_frame():
    track = NetworkLandmarker(networks=_Sighted()).track([room(100, 100)] * 3 + [room(540, 260)] * 3)
    assert None not in track and track[3].mesh[:, 0].mean() == pytest.approx(540, abs=15)


def test_frames_of_another_size_begin_anew():
    frames = [room(100, 100)] * 2 + [np.ascontiguousarray(room(100, 100)[:200, :300])] * 2
    track = NetworkLandmarker(networks=_Sighted()).track(frames)
    assert len(track) == 4 and None not in track


def test_wrong_pictures_are_refused():
    landmarker = NetworkLandmarker(networks=_Sighted())
    for wrong in (np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3))):
        with pytest.raises(ValueError, match="RGB picture"):
            landmarker.detect(wrong)
        with pytest.raises(ValueError, match="RGB picture"):
            landmarker.track([wrong])
    with pytest.raises(ValueError, match="max_faces"):
        NetworkLandmarker(max_faces=0, networks=_Sighted())


def test_input_is_scaled_and_ordered():
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    picture[0, 1, 2] = (255, 0, 127)
    x = to_input(picture)
    assert x.shape == (1, 3, 4, 4) and x[0, 0, 1, 2] == 1 and x[0, 1, 1, 2] == -1
    assert abs(x[0, 2, 1, 2]) < 0.01


def test_a_face_knows_its_score():
    assert Face.from_mesh(head(0, 0, 100), 0.7).score == 0.7
