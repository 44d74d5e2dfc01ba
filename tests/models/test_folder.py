import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from openloopy.inference.pipeline import LoopyPipeline
from openloopy.models import folder as model_folder
from openloopy.models.codec import KLCodec
from openloopy.models.folder import LoadedModel, find_model_folder, load_model, save_model
from openloopy.models.rig_codec import Portrait
from tests.tiny import tiny_config, tiny_model, tiny_portrait, tiny_sound


def save(model, path, **options):
    return save_model(path, model.loopy, model.codec, model.audio_encoder, model.config, **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tiny_model(), tmp_path_factory.mktemp("model"))


@pytest.fixture
def broken(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "broken")


def frames(model):
    return np.stack(list(LoopyPipeline(model).generate(Portrait(tiny_portrait()), (tiny_sound(0.6), 16_000))))


def test_a_loaded_model_generates_the_same_bytes(saved):
    assert np.array_equal(frames(load_model(saved)), frames(tiny_model()))


def test_the_folder_holds_safetensors_and_json_only(saved):
    assert {path.suffix for path in saved.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_half_precision_on_disk_is_cast_to_the_dtype_asked_for(tmp_path):
    model = tiny_model()
    stored = save(model, tmp_path, storage=torch.float16)
    for file in stored.rglob("*.safetensors"):
        assert {t.dtype for t in load_file(file).values()} == {torch.float16}
    assert next(model.loopy.parameters()).dtype == torch.float32
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load_model(stored, dtype=dtype)
        for part in (loaded.loopy, loaded.codec, loaded.audio_encoder):
            assert {p.dtype for p in part.parameters()} == {dtype}
        assert np.abs(frames(loaded).astype(int) - frames(model)).mean() < 1


def test_a_missing_tensor_is_named(broken):
    tensors = load_file(broken / "loopy.safetensors")
    del tensors["denoiser.conv_in.weight"]
    save_file(tensors, broken / "loopy.safetensors")
    with pytest.raises(ValueError, match=r"1 missing:\s+denoiser.conv_in.weight"):
        load_model(broken)


@pytest.mark.parametrize(
    "file", ["vae/diffusion_pytorch_model.safetensors", "audio_encoder/model.safetensors"]
)
def test_the_other_parts_are_as_strict(broken, file):
    path = broken / file
    tensors = load_file(path)
    gone = next(iter(tensors))
    del tensors[gone]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"1 missing:\s+{gone}"):
        load_model(broken)


def test_settings_of_another_model_are_reported_by_shape(broken):
    settings = json.loads((broken / "config.json").read_text())
    settings["denoiser"]["unet"]["context_dim"] = 16
    (broken / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"of another shape:\s+denoiser\..*file .*, model "):
        load_model(broken)


def test_an_unknown_setting_names_file_and_place(broken):
    settings = json.loads((broken / "config.json").read_text())
    settings["segments"]["strides"] = 4
    (broken / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"config\.json: config\.segments: .*unknown \['strides'\]"):
        load_model(broken)


def test_broken_json(broken):
    (broken / "config.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"config\.json cannot be read \(JSONDecodeError: Expecting value"):
        load_model(broken)


def test_a_diffusers_autoencoder_as_the_codec(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8] * 4,
        norm_num_groups=4,
    )
    model = replace(tiny_model(), codec=KLCodec(vae.eval().requires_grad_(False), size_px=32))
    loaded = load_model(save(model, tmp_path))
    assert np.array_equal(frames(loaded), frames(model))
    AutoencoderKL.from_pretrained(tmp_path / "vae", local_files_only=True)

    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"extra.weight": torch.zeros(1)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 unexpected:\s+extra.weight"):
        load_model(tmp_path)


def test_parts_of_different_models_are_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="expects 4 and 64 px"):
        LoadedModel(
            tiny_config(size_px=64), model.loopy, model.codec, model.audio_encoder, model.device, model.dtype
        )


def test_names(saved, tmp_path, monkeypatch):
    assert find_model_folder(str(saved)) == saved
    with pytest.raises(ValueError, match=r"holds no config\.json: it is not an openloopy model"):
        find_model_folder(tmp_path)
    for name in ("nothing", "./no/thing", "/no/thing", "a/b/c"):
        with pytest.raises(ValueError, match="no model at"):
            find_model_folder(name)
    monkeypatch.setattr(model_folder, "EMBEDDED_MINI", saved)
    assert find_model_folder("mini") == saved
    monkeypatch.setattr(model_folder, "EMBEDDED_MINI", tmp_path / "absent")
    with pytest.raises(ValueError, match="the embedded model is not installed"):
        find_model_folder("mini")


def test_a_hub_id_is_downloaded(saved, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(saved)
    )
    assert find_model_folder("someone/model") == saved
    assert asked == ["someone/model"]


def test_a_hub_id_without_a_network_says_what_to_do(monkeypatch):
    def offline(name, **_):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        ValueError, match=r"'someone/model' is no folder here.*no connection.*without a network"
    ):
        find_model_folder("someone/model")
