"""The bank of labelled faces: portraits through a teacher, exact puppets and drawings, reasons for broken pictures."""

from __future__ import annotations

import numpy as np
import pytest

from openloopy.face.landmarks import Face
from openloopy.media.image import write_image
from openloopy.puppet.drawn import draw_face
from openloopy.recipes import face_bank
from openloopy.recipes.face_bank import FaceBankConfig, build_face_bank

DRAWN = draw_face(np.random.default_rng(3), 320)


class _Teacher:
    """Knows the one portrait; counts what it is shown."""

    def __init__(self) -> None:
        self.num_seen = 0

    def detect(self, rgb: np.ndarray) -> list[Face]:
        self.num_seen += 1
        return [Face.from_mesh(DRAWN.mesh)]

    def mask(self, rgb: np.ndarray) -> np.ndarray:
        return DRAWN.mask if rgb.shape[:2] == DRAWN.mask.shape else np.ones(rgb.shape[:2], np.float32)


@pytest.fixture
def teacher(monkeypatch) -> _Teacher:
    stand_in = _Teacher()
    monkeypatch.setattr(face_bank, "_teacher", lambda: stand_in)
    monkeypatch.setattr("openloopy.puppet.corpus._segmenter", lambda: stand_in)
    return stand_in


@pytest.fixture
def config(tmp_path) -> FaceBankConfig:
    portraits = tmp_path / "portraits"
    portraits.mkdir()
    write_image(portraits / "known.png", DRAWN.rgb)
    (portraits / "torn.png").write_bytes(b"not a picture")
    return FaceBankConfig(
        portraits=portraits, out=tmp_path / "bank", puppet_frames=2, drawn=2, cartoons=2, val_share=0.5
    )


def test_every_source_gives_its_views_and_scenes(config, teacher):
    bank = build_face_bank(config)
    kinds = sorted(bank.view_kind.tolist())
    assert kinds == ["cartoon"] * 2 + ["drawn"] * 8 + ["portrait"] + ["puppet"] * 2 + ["toon"] * 3
    assert len(bank.scenes) == 8 and [len(faces) for faces in bank.scene_faces] == [1] * 8
    assert bank.views.shape[1:] == (192, 192, 3)
    known = np.isfinite(bank.meshes[..., 2]).all(1)
    assert known[bank.view_kind == "portrait"].all()
    assert not known[np.isin(bank.view_kind, ("puppet", "toon", "cartoon"))].any()
    for mesh in bank.meshes:
        assert np.isfinite(mesh[:, :2]).all() and (mesh[4, :2] > 0).all() and (mesh[4, :2] < 192).all()


def test_the_same_call_labels_nothing_twice_and_other_settings_are_refused(config, teacher):
    first = build_face_bank(config)
    seen = teacher.num_seen
    again = build_face_bank(config)
    assert teacher.num_seen == seen and again.sha256 == first.sha256
    with pytest.raises(ValueError, match="other settings"):
        build_face_bank(FaceBankConfig(portraits=config.portraits, out=config.out, drawn=3))


def test_a_broken_picture_leaves_a_reason(config, teacher):
    build_face_bank(config)
    with np.load(config.out / "labels.npz") as labels:
        reasons = [reason for reason in labels["reasons"].tolist() if reason]
    assert len(reasons) == 2 and all("torn.png" in reason for reason in reasons)
