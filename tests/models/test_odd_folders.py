"""Model folders in which something is not as it was: refused in words that name the file, before memory is taken."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from openloopy.inference.memory import choose_tier
from openloopy.models import codec as codec_module
from openloopy.models.audio_encoder import (
    CONFIG_FILE,
    LOUDNESS_FILE,
    load_audio_encoder,
    save_audio_encoder,
)
from openloopy.models.codec import load_codec, save_codec
from openloopy.models.folder import EMBEDDED_MINI, load_model
from openloopy.models.weight_files import replacing
from tests.tiny import tiny_audio_encoder, tiny_codec


@pytest.fixture
def mini(tmp_path) -> Path:
    return Path(shutil.copytree(EMBEDDED_MINI, tmp_path / "mini"))


def change(path: Path, **values) -> None:
    """Settings of a file, by names with dots."""
    settings = json.loads(path.read_text())
    for name, value in values.items():
        place, *parts = settings, *name.split("__")
        for part in parts[:-1]:
            place = place[part]
        place[parts[-1]] = value
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "\x00"])
@pytest.mark.parametrize("file", ["config.json", "vae/config.json", "audio_encoder/config.json"])
def test_settings_that_are_none_are_refused(mini, file, text):
    (mini / file).write_text(text)
    with pytest.raises(ValueError, match=file):
        load_model(mini)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"denoiser__unet__layers_per_block": 2**31}, "expected 1 to 256 layers"),
        ({"denoiser__unet__block_channels": []}, "levels|channels"),
        ({"denoiser__unet__block_channels": [0]}, "channels"),
        ({"denoiser__unet__num_heads": 0}, "multiples of"),
        ({"denoiser__unet__norm_groups": -1}, "multiples of"),
        ({"denoiser__unet__context_dim": -1}, "no network can be built|does not fit"),
        ({"denoiser__unet__context_dim": 2**62}, "no network can be built|does not fit"),
        ({"denoiser__reference_input": ["attention"]}, "expected one of"),
        ({"defaults__audio_guidance": float("nan")}, "expected float"),
        ({"defaults__audio_guidance": 10**400}, "expected float"),
    ],
)
def test_sizes_that_no_network_has_are_refused(mini, values, message):
    change(mini / "config.json", **values)
    with pytest.raises(ValueError, match=message):
        load_model(mini)


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 2**31},
        {"num_hidden_layers": {"x": 1}},
        {"num_attention_heads": 0},
        {"hidden_size": 2**40},
        {"hidden_size": -144},
        {"kernel": 31.0},
        {"dropout": "much"},
    ],
)
def test_an_audio_encoder_of_no_possible_size_is_refused(mini, values):
    change(mini / "audio_encoder" / CONFIG_FILE, **values)
    with pytest.raises(ValueError, match="config.json"):
        load_audio_encoder(mini / "audio_encoder")


def test_a_loudness_that_nobody_knows_is_refused(mini):
    change(mini / "audio_encoder" / LOUDNESS_FILE, loudness="loud")
    with pytest.raises(ValueError, match="loudness must be one of"):
        load_audio_encoder(mini / "audio_encoder")


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 100, b'\x02\0\0\0\0\0\0\0{"a'])
def test_weights_that_are_none_are_refused_before_a_tier_is_chosen(mini, content):
    (mini / "loopy.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="loopy.safetensors cannot be read"):
        choose_tier(mini, torch.device("cpu"), torch.float32, "auto")


@pytest.mark.parametrize(
    "values", [{"block_out_channels": [[4], 4, 8, 8]}, {"norm_num_groups": -1}, {"scaling_factor": 0}]
)
def test_a_diffusers_autoencoder_that_does_not_load_is_refused_in_words(tmp_path, values):
    save_codec(tmp_path / "vae", tiny_codec())
    change(tmp_path / "vae" / "config.json", **values)
    with pytest.raises(ValueError, match="vae holds no autoencoder that can be loaded"):
        load_codec(tmp_path / "vae", 32)


def test_an_index_without_files_is_refused(mini):
    os.remove(mini / "audio_encoder" / "model.safetensors")
    (mini / "audio_encoder" / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
    with pytest.raises(ValueError, match="has no weight_map"):
        load_audio_encoder(mini / "audio_encoder")


def test_settings_come_last_so_that_a_killed_run_leaves_no_folder_that_looks_whole(tmp_path, monkeypatch):
    written = []
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (written.append(Path(b).name), rename(a, b)))
    save_codec(tmp_path / "vae", tiny_codec())
    assert written[-1] == "config.json" and len(written) == 2
    assert [path.name for path in (tmp_path / "vae").iterdir() if path.is_dir()] == []
    written.clear()
    save_audio_encoder(tmp_path / "audio", tiny_audio_encoder())
    assert written == ["model.safetensors", LOUDNESS_FILE, CONFIG_FILE]


def test_a_save_that_is_killed_is_begun_anew(tmp_path, monkeypatch):
    def die(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(codec_module.os, "replace", die)
        save_codec(tmp_path / "vae", tiny_codec())
    with pytest.raises(ValueError, match="holds no codec"):
        load_codec(tmp_path / "vae", 32)
    save_codec(tmp_path / "vae", tiny_codec())
    assert load_codec(tmp_path / "vae", 32).latent_channels == 4


def test_what_replaces_a_file_is_whole(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as partial:
        partial.write_text("ne")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"
