"""Videos get ids that name their clips, whatever the files are called; thresholds are numbers."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from openloopy.data.filters import thresholds_from
from openloopy.data.prepare import PrepareConfig
from openloopy.data.sources import MAX_ID, list_footage, video_id


def ids_of(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return [item.video_id for item in list_footage(str(folder), person_pattern=None, held_out=())]


def test_plain_names_are_their_own_ids(tmp_path):
    assert ids_of(tmp_path, "ann 1.mp4", "bob/b.mkv") == ["ann_1", "bob_b"]


def test_names_of_other_scripts_get_ids_of_their_own_that_stay(tmp_path):
    ids = ids_of(tmp_path, "書.mp4", "画.mp4", "речь.mp4", "ann.mp4")
    assert len(set(ids)) == 4 and "ann" in ids
    assert ids_of(tmp_path) == ids


def test_long_names_fit_where_clips_are_named_after_them(tmp_path):
    names = ["x" * 250 + ".mp4", "x" * 249 + "y.mp4", "画" * 83 + ".mp4"]
    ids = ids_of(tmp_path, *names)
    assert len(set(ids)) == 3 and max(map(len, ids)) <= MAX_ID
    assert video_id("x" * MAX_ID + ".mp4") == "x" * MAX_ID
    with tarfile.open(fileobj=io.BytesIO(), mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(f"{ids[0]}-000000-b.flac"))


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_thresholds_are_finite(text):
    with pytest.raises(ValueError, match="min_face_px needs a finite number or none"):
        thresholds_from({"min_face_px": text})
    assert thresholds_from({"min_face_px": "none"}).min_face_px is None


@pytest.mark.parametrize("length_s", [np.nan, np.inf, 0.5, -1])
def test_clips_have_a_length(length_s, tmp_path):
    with pytest.raises(ValueError, match="max_clip_s must be a number, at least 1"):
        PrepareConfig(raw=tmp_path, out=tmp_path, max_clip_s=length_s)
