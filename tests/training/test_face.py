"""Training of the face networks: labels stay true under every change of the picture, losses mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from openloopy.face.mesh import CHIN, FOREHEAD, MESH_TO_68
from openloopy.face.networks import (
    FINDER_PX,
    FINDER_STRIDE,
    MESH_PX,
    PART_PX,
    FaceNetworks,
    FinderOutput,
    find_peaks,
)
from openloopy.face.parts import face_parts, refine_parts
from openloopy.puppet.drawn import draw_face
from openloopy.puppet.face_free import face_free_background
from openloopy.recipes import face as recipe
from openloopy.recipes.face import face_tiny, train_face
from openloopy.recipes.face_bank import view_of
from openloopy.training import face_mesh
from openloopy.training.face_bank import STEP_WEIGHTS, FaceBank
from openloopy.training.face_finder import (
    FinderTask,
    FinderTrainingConfig,
    compose,
    finder_losses,
    finder_targets,
)
from openloopy.training.face_mask import MaskTask, MaskTrainingConfig
from openloopy.training.face_mesh import (
    RIGHT_DRAWN_ERROR,
    RIGHT_ERROR,
    DrawnViews,
    MeshTask,
    MeshTrainingConfig,
    ViewPlace,
    draw_views,
    fit_platt,
    mesh_errors,
    mesh_losses,
    mesh_point_weights,
    place_view,
)
from openloopy.training.face_parts import PartsTask, PartsTrainingConfig, cut_parts

MARK = (255, 0, 255)
MARKED = (33, 263, 4, CHIN)
"""Mesh points that carry a coloured dot in the marked pictures."""


def scene_of(drawn, split: str) -> dict:
    size = drawn.rgb.shape[1::-1]
    picture, mask = np.zeros((320, 320, 3), np.uint8), np.zeros((320, 320), np.uint8)
    picture[: size[1], : size[0]] = drawn.rgb
    mask[: size[1], : size[0]] = drawn.mask * 255
    return {"picture": picture, "mask": mask, "size": size, "meshes": drawn.mesh[None], "split": split}


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    for i, split in enumerate(("train", "train", "val")):
        drawn = draw_face(np.random.default_rng(i), 256)
        rgb = drawn.rgb.copy()
        for x, y in drawn.mesh[list(MARKED), :2]:
            cv2.circle(rgb, (round(float(x - 0.5)), round(float(y - 0.5))), 2, MARK, -1)
        view = view_of(rgb, drawn.mesh, split=split, kind="portrait", person=str(i))
        with open(folder / f"{i}.npz", "wb") as file:
            FaceBank.write_part(file, [view], [scene_of(drawn, split)], "")
    with open(folder / "3.npz", "wb") as file:
        FaceBank.write_part(file, [], [], "ValueError: a picture that cannot be read")
    FaceBank.write(folder, [folder / f"{i}.npz" for i in range(4)])
    return folder


@pytest.fixture(scope="module")
def bank(bank_folder) -> FaceBank:
    return FaceBank.open(bank_folder)


def test_the_bank_keeps_what_it_was_given(bank):
    assert bank.views.shape[0] == 3 and bank.scenes.shape[0] == 3
    assert [len(faces) for faces in bank.scene_faces] == [1, 1, 1]
    assert list(bank.views_of("train")["portrait"]) == [0, 1] and list(bank.scenes_of("val")) == [2]


@pytest.mark.parametrize(
    "place",
    [
        ViewPlace(),
        ViewPlace(roll_deg=30, zoom=1.2, shift=(0.05, -0.1)),
        ViewPlace(roll_deg=-20, zoom=0.9, mirrored=True, squeeze=1.1),
    ],
)
def test_a_view_and_its_mesh_move_together(bank, place):
    picture, mesh = place_view(bank, 0, place)
    marked = [{33: 263, 263: 33}.get(i, i) if place.mirrored else i for i in MARKED]
    is_mark = (np.abs(picture.astype(int) - MARK).sum(-1) < 150).astype(np.uint8)
    for x, y in (mesh[marked, :2] + 0.5) * len(picture):
        nearby = is_mark[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
        assert nearby.any(), f"no mark near {x:.0f} {y:.0f}"
    down = mesh[CHIN, :2] - mesh[FOREHEAD, :2]
    assert np.linalg.norm(down) == pytest.approx(1 / 1.6 / place.zoom, rel=0.06)


def test_batches_are_the_same_for_the_same_seed_and_hold_faceless_views(bank):
    config = MeshTrainingConfig(batch_size=16, faceless_share=0.4)
    draws = [draw_views(bank, config, np.random.default_rng(5), face_free_background) for _ in range(2)]
    assert np.array_equal(draws[0].pictures, draws[1].pictures)
    has_face = draws[0].has_face
    assert 0 < has_face.sum() < 16 and torch.isfinite(draws[0].meshes[has_face][..., :2]).all()


def asked(meshes: torch.Tensor, has_face: torch.Tensor, right_error: float = 0.08) -> DrawnViews:
    return DrawnViews(np.zeros((0,)), meshes, has_face, torch.full((len(meshes),), right_error))


def test_drawn_faces_are_right_from_a_larger_error_on():
    true = torch.rand(2, 478, 3)
    true[:, MESH_TO_68[36]], true[:, MESH_TO_68[45]] = torch.tensor([0.2, 0, 0]), torch.tensor([0.6, 0, 0])
    there = torch.tensor([True, False])
    found = true + torch.tensor([0.4 * 0.12, 0, 0])
    assert asked(true, there).are_right(found).tolist() == [False, False]
    assert asked(true, there, RIGHT_DRAWN_ERROR).are_right(found).tolist() == [True, False]


def test_views_know_which_of_them_are_drawn(bank):
    config = MeshTrainingConfig(batch_size=8, faceless_share=0.0, mouth_covered_share=0.0)
    portraits = draw_views(bank, config, np.random.default_rng(0), face_free_background)
    toons = replace(bank, view_kind=np.full(len(bank.view_kind), "toon"))
    drawn = draw_views(toons, config, np.random.default_rng(0), face_free_background)
    torch.testing.assert_close(portraits.right_error, torch.full((8,), RIGHT_ERROR))
    torch.testing.assert_close(drawn.right_error, torch.full((8,), RIGHT_DRAWN_ERROR))


class TakesOnePlace(nn.Module):
    """A finder that sees one face in every picture: in its lower right, as high as a tenth of the side."""

    def __init__(self, logit: float = 3.0):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, pictures: torch.Tensor) -> FinderOutput:
        n, cells = len(pictures), FINDER_PX // FINDER_STRIDE
        maps = torch.full((n, 1, cells, cells), -9.0)
        maps[:, :, 24, 20] = self.logit
        roll = torch.cat([torch.ones_like(maps), torch.zeros_like(maps)], 1)
        return FinderOutput(maps, torch.zeros_like(roll), torch.full_like(maps, np.log(0.1)), roll)


def ramps(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Red to the right, green downwards: each place has its colour."""
    ramp = np.linspace(0, 255, size_px, dtype=np.float32)
    x, y = np.meshgrid(ramp, ramp)
    return np.round(np.stack([x, y, 0 * x], -1)).astype(np.uint8)


@pytest.mark.parametrize("logit", [3.0, -5.0])
def test_views_without_a_face_are_what_the_finder_takes_for_one(bank, logit, monkeypatch):
    for name in ("change_light", "spoil"):
        monkeypatch.setattr(face_mesh, name, lambda picture, rng: picture)
    monkeypatch.setattr(face_mesh, "_faceless_picture", lambda bank, rng, make, split, px: make(rng, px))
    config = MeshTrainingConfig(batch_size=6, faceless_share=1.0, proposed_share=1.0, covered_share=0.0)
    config = replace(config, overturned_share=0.0, max_roll_deg=0.0, zoom_sd=0.0, shift_sd=0.0)
    views = draw_views(bank, config, np.random.default_rng(1), ramps, finder=TakesOnePlace(logit))
    assert not views.has_face.any()
    found = views.pictures[:, 60:68, 60:68, :2].mean((1, 2)), np.ptp(views.pictures[..., 0], axis=(1, 2))
    if logit > 0:
        place = np.array([20.5, 24.5]) / 32 * 255
        np.testing.assert_allclose(found[0], np.broadcast_to(place, (6, 2)), atol=3)
        np.testing.assert_allclose(found[1], 0.16 * 255, atol=4)
    else:
        np.testing.assert_allclose(found[1], 255, atol=4)


def test_the_mesh_network_learns_from_the_finder_that_was_trained(bank_folder, tmp_path, monkeypatch):
    seen = []

    def watch(*given, **named):
        seen.append(given[4])
        return MeshTask(*given, **named)

    monkeypatch.setattr(recipe, "MeshTask", watch)
    train_face(face_tiny(), bank_folder, tmp_path / "run", ("finder", "mesh"))
    train_face(face_tiny(), bank_folder, tmp_path / "alone", ("mesh",))
    trained = load_file(tmp_path / "run" / "finder" / STEP_WEIGHTS)
    assert seen[1] is None
    torch.testing.assert_close(dict(seen[0].state_dict()), trained)


@pytest.mark.parametrize("roll_deg", [0, 25])
def test_parts_of_a_view_keep_their_points_also_in_the_mirror(bank, roll_deg):
    """The outer eye corners are marked: in the cuts of both eyes the mark lies where the corner should."""
    picture, mesh = place_view(bank, 0, ViewPlace(roll_deg=roll_deg))
    in_px = (mesh[None, :, :2] + 0.5) * len(picture)
    config, rng = PartsTrainingConfig(), np.random.default_rng(2)
    cuts, points, units = cut_parts(picture[None], in_px, "eye", config, rng)
    corner = int(np.flatnonzero(face_parts()[0].points == 33)[0])
    assert cuts.shape == (2, PART_PX, PART_PX, 3) and units.shape == (2, 1, 1)
    for cut, place in zip(cuts, points[:, corner], strict=True):
        off = np.abs(cut.astype(int) - MARK).sum(-1)
        row, column = np.unravel_index(off.argmin(), off.shape)
        np.testing.assert_allclose([column + 0.5, row + 0.5], (place + 0.5) * PART_PX, atol=3.5)
        assert off.min() < 150


def test_refined_parts_replace_their_points_and_no_others(bank):
    picture, mesh = place_view(bank, 0, ViewPlace())

    class Oracle(torch.nn.Module):
        """Answers for each part what the mesh says, whatever it sees."""

        def __init__(self, network):
            super().__init__()
            self.parts = [part for part in face_parts() if part.network == network]

        def forward(self, cuts):
            squares = [part.square((mesh[:, :2] + 0.5) * MESH_PX) for part in self.parts]
            answers = [
                square.points_in_cut((mesh[part.points, :2] + 0.5) * MESH_PX) + 0.01
                for part, square in zip(self.parts, squares, strict=True)
            ]
            return torch.from_numpy(np.stack(answers))

    parts = SimpleNamespace(eye=Oracle("eye"), mouth=Oracle("mouth"))
    moved = refine_parts(parts, picture[None], mesh[None])[0] - mesh
    inside = np.concatenate([part.points for part in face_parts()])
    outside = np.setdiff1d(np.arange(478), inside)
    assert np.abs(moved[outside]).max() == 0 and np.abs(np.nan_to_num(moved[:, 2])).max() == 0
    for part in face_parts():
        side = part.square((mesh[:, :2] + 0.5) * MESH_PX).side / MESH_PX
        np.testing.assert_allclose(
            np.linalg.norm(moved[part.points, :2], axis=1), 0.01 * side * 2**0.5, rtol=1e-3
        )


def test_a_perfect_mesh_costs_nothing_and_a_wrong_lip_more_than_a_wrong_cheek():
    config = MeshTrainingConfig()
    weights = mesh_point_weights(config)
    true = torch.rand(2, 478, 3)
    true[:, MESH_TO_68[36]], true[:, MESH_TO_68[45]] = torch.tensor([0.2, 0, 0]), torch.tensor([0.6, 0, 0])
    there, sure = torch.ones(2, dtype=torch.bool), torch.zeros(2)
    perfect = mesh_losses(true, sure, asked(true, there), weights, config)
    assert perfect["points"] == perfect["openings"] == perfect["depth"] == 0
    lip, cheek = true.clone(), true.clone()
    lip[:, MESH_TO_68[62], 1] += 0.05
    cheek[:, 50, 1] += 0.05
    parts = [mesh_losses(x, sure, asked(true, there), weights, config) for x in (lip, cheek)]
    assert parts[0]["points"] > 4 * parts[1]["points"]
    assert parts[0]["openings"] > 0 == parts[1]["openings"]


def test_unknown_depth_and_faceless_views_do_not_count():
    config = MeshTrainingConfig()
    true = torch.rand(2, 478, 3)
    true[0, :, 2] = torch.nan
    true[1] = torch.nan
    found = torch.rand(2, 478, 3, requires_grad=True)
    there = torch.tensor([True, False])
    losses = mesh_losses(found, torch.zeros(2), asked(true, there), mesh_point_weights(config), config)
    losses["loss"].backward()
    assert losses["depth"] == 0 and torch.isfinite(losses["loss"])
    assert found.grad[1].abs().sum() == 0 and found.grad[0, :, 2].abs().sum() == 0


def test_errors_are_in_eye_distances():
    true = np.random.default_rng(0).normal(size=(3, 478, 3))
    true[:, MESH_TO_68[36]], true[:, MESH_TO_68[45]] = [0, 0, 0], [2, 0, 0]
    errors = mesh_errors(true + [0.1, 0, 0], true)
    assert errors["error_all68"] == pytest.approx(0.05) and errors["lip_gap_r"] == pytest.approx(1)


def test_targets_are_found_where_the_faces_are(bank):
    config, rng = FinderTrainingConfig(full_share=0.0, faceless_share=0.0), np.random.default_rng(1)
    scenes = [compose(bank, config, rng, face_free_background) for _ in range(6)]
    assert sum(len(faces) for _, faces in scenes) >= 4
    heat, geometry, _ = finder_targets([faces for _, faces in scenes])
    found = type(
        "Found",
        (),
        dict(
            heat=torch.logit(heat, eps=1e-4),
            offset=geometry[:, :2],
            log_size=geometry[:, 2:3],
            roll=geometry[:, 3:],
        ),
    )
    for i, (picture, faces) in enumerate(scenes):
        assert picture.shape == (FINDER_PX, FINDER_PX, 3)
        seen = find_peaks(found, i, 0.9)
        for face in faces:
            errors = [np.linalg.norm(centre - face.centre) for centre, *_ in seen]
            nearest = seen[int(np.argmin(errors))]
            assert min(errors) < 0.02 and nearest[1] == pytest.approx(face.height, rel=0.05)
            assert np.cos(nearest[2] - face.roll) > 0.999


def test_the_finder_pays_for_misses_and_false_faces(bank):
    config, rng = FinderTrainingConfig(), np.random.default_rng(2)
    _, faces = compose(bank, FinderTrainingConfig(full_share=1.0), rng, face_free_background)
    heat, geometry, weight = finder_targets([faces])
    parts = dict(offset=geometry[:, :2], log_size=geometry[:, 2:3], roll=geometry[:, 3:])
    costs = {}
    for name, logits in {
        "right": torch.logit(heat, eps=1e-3),
        "nothing": torch.full_like(heat, -8.0),
        "everything": torch.full_like(heat, 8.0),
    }.items():
        found = type("Found", (), dict(heat=logits, **parts))
        costs[name] = finder_losses(found, heat, geometry, weight, config=config)["loss"]
    assert costs["right"] < 0.2 * costs["nothing"] and costs["right"] < 0.2 * costs["everything"]


def test_platt_scaling_makes_confidence_a_frequency():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, generator=generator).double() * 3
    rights = (torch.rand(4000, generator=generator) < torch.sigmoid(0.4 * logits + 1)).double()
    slope, offset = fit_platt(logits, rights)
    assert slope == pytest.approx(0.4, abs=0.05) and offset == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("step", ["mesh", "finder", "mask", "parts"])
def test_every_step_learns_its_batch(bank, step):
    torch.manual_seed(0)
    networks = FaceNetworks()
    task = {
        "mesh": lambda: MeshTask(networks.mesh, bank, MeshTrainingConfig(batch_size=4), face_free_background),
        "finder": lambda: FinderTask(
            networks.finder, bank, FinderTrainingConfig(batch_size=2), face_free_background
        ),
        "mask": lambda: MaskTask(networks.mask, bank, MaskTrainingConfig(batch_size=2), face_free_background),
        "parts": lambda: PartsTask(
            networks.parts,
            bank,
            PartsTrainingConfig(views=MeshTrainingConfig(batch_size=4, faceless_share=0.0)),
            face_free_background,
        ),
    }[step]()
    optimizer = torch.optim.Adam(task.network.parameters(), 2e-3)
    losses = []
    for _ in range(30):
        loss = task.losses(task.network, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.7 * losses[0], losses


def test_the_recipe_writes_networks_that_load(bank, tmp_path):
    from openloopy.face.networks import load_face_networks

    folder = bank.views.filename
    train_face(face_tiny(), type(tmp_path)(folder).parent, tmp_path)
    networks = load_face_networks(tmp_path / "face")
    mesh, logit = networks.mesh(torch.zeros(1, 3, 128, 128))
    assert mesh.shape == (1, 478, 3) and logit.shape == (1,)
    assert sum(p.numel() for p in FaceNetworks().parameters()) < 3_000_000
