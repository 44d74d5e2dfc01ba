"""Weights in one file or several, safetensors before others, and what a folder without them says."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from openloopy.models.foreign_files import read_folder_tensors, read_settings, read_tensors

STEM = "diffusion_pytorch_model"
WHOLE = {"a": torch.ones(2), "b": torch.zeros(3)}


def write_parts(folder, *, lacks: str = "") -> None:
    """Two files and their index; one of them may be missing."""
    for i, (name, value) in enumerate(WHOLE.items(), 1):
        file = f"{STEM}-0000{i}-of-00002.safetensors"
        if name != lacks:
            save_file({name: value}, folder / file)
    weight_map = {name: f"{STEM}-0000{i}-of-00002.safetensors" for i, name in enumerate(WHOLE, 1)}
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_several_files_are_joined_by_their_index(tmp_path):
    write_parts(tmp_path)
    found = read_folder_tensors(tmp_path, STEM)
    assert found.keys() == WHOLE.keys() and all(torch.equal(found[name], WHOLE[name]) for name in WHOLE)


def test_a_missing_part_is_named(tmp_path):
    write_parts(tmp_path, lacks="b")
    with pytest.raises(ValueError, match=f"lacks {STEM}-00002-of-00002.safetensors, named in .*index.json"):
        read_folder_tensors(tmp_path, STEM)


def test_one_safetensors_file_in_full_precision_is_preferred(tmp_path):
    for name, value in (("fp16.safetensors", 1.0), ("safetensors", 2.0)):
        save_file({"a": torch.full((1,), value)}, tmp_path / f"{STEM}.{name}")
    torch.save({"a": torch.full((1,), 3.0)}, tmp_path / f"{STEM}.bin")
    assert read_folder_tensors(tmp_path, STEM)["a"].item() == 2.0


def test_a_folder_without_weights_says_what_it_expected(tmp_path):
    with pytest.raises(ValueError, match=f"holds no weights: expected {STEM}.safetensors or {STEM}.bin"):
        read_folder_tensors(tmp_path, STEM)


def test_settings_that_are_no_json_and_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json cannot be read"):
        read_settings(tmp_path / "config.json")
    with pytest.raises(ValueError, match="no file of weights that is known here"):
        read_tensors(tmp_path / "weights.h5")
