from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openloopy.puppet.portraits import (
    MeshedPortrait,
    Portrait,
    list_portraits,
    load_meshes,
    save_meshes,
    split_of,
)

HEADER = "file,kind,split,person,licence\n"


def test_manifest_decides(tmp_path: Path) -> None:
    (tmp_path / "extra.jpg").touch()
    (tmp_path / "MANIFEST.csv").write_text(HEADER + 'a.jpg,painting,val,anna,"CC0, see page"\nb.jpg,,,,\n')
    first, second = list_portraits(tmp_path, 0.0)
    assert first == Portrait(
        file="a.jpg", person_id="anna", split="val", licence="CC0, see page", kind="painting"
    )
    assert second == Portrait(file="b.jpg", person_id="b.jpg", split="train", licence="unknown")


def test_person_in_both_splits_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(HEADER + "a.jpg,,val,anna,\nb.jpg,,train,anna,\n")
    with pytest.raises(ValueError, match="anna"):
        list_portraits(tmp_path, 0.0)


def test_unknown_split_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(HEADER + "a.jpg,,test,anna,\n")
    with pytest.raises(ValueError, match="'test'"):
        list_portraits(tmp_path, 0.0)


def test_without_manifest_every_picture_is_a_person(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", "c.heic", "d.jxl"):
        (tmp_path / name).touch()
    assert [(p.file, p.person_id) for p in list_portraits(tmp_path, 0.5)] == [
        ("a.jpg", "a.jpg"),
        ("b.PNG", "b.PNG"),
        ("c.heic", "c.heic"),
        ("d.jxl", "d.jxl"),
    ]


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_folder_without_portraits_is_an_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=folder):
        list_portraits(tmp_path / folder, 0.1)


def test_hashed_split_has_the_asked_share() -> None:
    splits = [split_of(f"person-{i}", 0.04) for i in range(5000)]
    assert 0.03 < splits.count("val") / 5000 < 0.05
    assert split_of("person-1", 0.0) == "train"


def test_meshes_round_trip(tmp_path: Path) -> None:
    mesh = np.random.default_rng(0).normal(size=(478, 3)).astype(np.float32)
    portrait = Portrait(file="é.jpg", person_id="p", split="val", licence="CC0")
    save_meshes(tmp_path / "m.npz", [MeshedPortrait(portrait=portrait, mesh=mesh)])
    (again,) = load_meshes(tmp_path / "m.npz")
    assert again.portrait == portrait
    np.testing.assert_array_equal(again.mesh, mesh)
    save_meshes(tmp_path / "none.npz", [])
    assert load_meshes(tmp_path / "none.npz") == []
