"""Other projects' weights in their own layouts, tiny and random: where every tensor goes, and what a bad file says."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from openloopy.models.conditions import Conditions
from openloopy.models.folder import LoadedModel, load_model
from openloopy.models.import_sources import motion_tensors, read_source
from openloopy.models.importing import REPORT_FILE, import_model
from openloopy.models.reference_net import fold_timestep
from openloopy.models.temporal import MotionTransformer, TemporalConfig
from tests.models.foreign_layouts import original_motion, original_unet, original_vae

CHANNELS, CONTEXT, FRAMES = (32, 64), 24, 3


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    net = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=CHANNELS,
        cross_attention_dim=CONTEXT,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return moved(net)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return moved(
        AutoencoderKL(
            block_out_channels=(32,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            sample_size=64,
        )
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory, unet, vae) -> Path:
    """Weights as users have them: sd15/, vae/, wav2vec2/."""
    home = tmp_path_factory.mktemp("weights")
    unet.save_pretrained(home / "sd15" / "unet")
    moved(AutoencoderKL.from_config(vae.config)).save_pretrained(home / "sd15" / "vae")
    vae.save_pretrained(home / "vae")
    torch.manual_seed(2)
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    Wav2Vec2ForCTC(Wav2Vec2Config(**small, conv_dim=(16,) * 7)).save_pretrained(home / "wav2vec2")
    return home


def moved(net: torch.nn.Module) -> torch.nn.Module:
    """Every parameter different from its start, so that a tensor in a wrong place shows."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return net.eval()


def imported(sources: list[Path], out: Path, **options) -> tuple[LoadedModel, dict]:
    import_model(sources, out, size_px=64, storage=torch.float32, **options)
    return load_model(out), json.loads((out / REPORT_FILE).read_text())


def motion_module(width: int) -> AnimateDiffTransformer3D:
    return moved(
        AnimateDiffTransformer3D(
            num_attention_heads=8,
            attention_head_dim=width // 8,
            in_channels=width,
            norm_num_groups=32,
            cross_attention_dim=None,
            attention_bias=False,
            activation_fn="geglu",
            positional_embeddings="sinusoidal",
            num_positional_embeddings=32,
            double_self_attention=True,
        )
    )


def motion_file(original: bool = True) -> dict[str, torch.Tensor]:
    """Motion modules for every place of the tiny U-Net, and for levels without attention, as AnimateDiff has them."""
    torch.manual_seed(3)
    places = [
        *((f"down_blocks.{i}.motion_modules.{j}", CHANNELS[i]) for i in (0, 1) for j in (0, 1)),
        ("mid_block.motion_modules.0", CHANNELS[1]),
        *((f"up_blocks.{i}.motion_modules.{j}", CHANNELS[1 - i]) for i in (0, 1) for j in (0, 1, 2)),
    ]
    tensors = {}
    for place, width in places:
        state = motion_module(width).state_dict()
        tensors |= (
            original_motion(state, place) if original else {f"{place}.{n}": w for n, w in state.items()}
        )
    return tensors


@torch.no_grad()
def test_stable_diffusion_s_folder_becomes_a_model_that_computes_the_same(home, unet, tmp_path):
    model, report = imported([home / "sd15", home / "vae", home / "wav2vec2"], tmp_path / "out")
    x_t, t = torch.randn(2, FRAMES, 4, 8, 8), torch.tensor([3, 800])
    layers = model.loopy.denoiser.cache_reference(
        model.loopy.read_reference(torch.randn(2, 4, 8, 8), torch.zeros(2, 124, 4, 8, 8), torch.zeros(2, 124))
    )
    hidden = torch.zeros(2)
    conditions = Conditions(
        layers, torch.zeros(2, 4, 8, 8), torch.randn(2, FRAMES, 5, CONTEXT), None, hidden, hidden
    )
    ours = model.loopy.denoiser(x_t, t, conditions).flatten(0, 1)
    hooks = [
        module.register_forward_hook(lambda _, __, out: out * 0)
        for name, module in unet.named_modules()
        if name.endswith(".attn2")
    ]
    theirs = unet(x_t.flatten(0, 1), t.repeat_interleave(FRAMES), torch.zeros(2 * FRAMES, 1, CONTEXT)).sample
    for hook in hooks:
        hook.remove()
    assert theirs.std() > 0.05 and torch.allclose(ours, theirs, atol=1e-4)
    assert model.config.prediction == "epsilon" and model.config.denoiser.temporal.intra == "attention"
    net = report["parts"]["reference_net"]
    assert len(net["folded"]) == 4 + 2 * sum("time_emb_proj.weight" in name for name in unet.state_dict())


def test_every_tensor_is_accounted_for(home, unet, tmp_path):
    model, report = imported([home / "sd15", home / "wav2vec2"], tmp_path / "out")
    state, parts = model.loopy.state_dict(), report["parts"]
    for part in parts.values():
        counted = [*part["taken"], *part["reshaped"], *part["folded"], *sum(part["left"].values(), [])]
        assert len(counted) == len(set(counted)) == len(unet.state_dict())
    taken = parts["denoiser"]["taken"] + parts["reference_net"]["taken"]
    assert sorted(taken + report["new"]) == sorted(state)
    weights = unet.state_dict()
    for name in parts["denoiser"]["taken"]:
        assert torch.equal(state[name], weights[name.removeprefix("denoiser.")])
    folded = fold_timestep(weights)
    for name in parts["reference_net"]["taken"]:
        wanted = folded[name.removeprefix("reference_net.")]
        assert torch.allclose(state[name], wanted, atol=1e-6)  # biases are summed, in an order of their own
    assert all(
        ".attn2." in n or ".norm2." in n
        for n in parts["denoiser"]["left"]["cross-attention to text or to a face"]
    )


def test_a_separate_autoencoder_takes_the_place_of_the_folder_s_own(home, vae, tmp_path):
    model, _ = imported([home / "sd15", home / "vae", home / "wav2vec2"], tmp_path / "out")
    wanted = vae.state_dict()
    assert all(torch.equal(w, wanted[name]) for name, w in model.codec.vae.state_dict().items())
    assert model.audio_encoder.num_layers == 2 and model.audio_encoder.config.loudness == "normalised"


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_the_single_file_gives_the_same_model_as_the_folder(home, unet, vae, tmp_path, ending):
    path = tmp_path / f"sd{ending}"
    text = {"cond_stage_model.transformer.weight": torch.ones(2)}
    content = original_unet(unet.state_dict()) | original_vae(vae.state_dict(), 4) | text
    if ending == ".ckpt":
        torch.save({"state_dict": content, "global_step": 3}, path)
    else:
        save_file({name: w.contiguous() for name, w in content.items()}, path)
    one, report = imported([path, home / "wav2vec2"], tmp_path / "one")
    other, _ = imported([home / "sd15", home / "vae", home / "wav2vec2"], tmp_path / "other")
    for ours, theirs in ((one.loopy, other.loopy), (one.codec, other.codec)):
        wanted = theirs.state_dict()
        assert [n for n, w in ours.state_dict().items() if not torch.allclose(w, wanted[n], atol=1e-6)] == []
    assert report["parts"]["denoiser"]["left"]["other networks in the same file"] == list(text)


def test_matrices_become_1x1_convolutions(home, unet, tmp_path):
    tensors = {
        name: w[:, :, 0, 0].contiguous() if "attentions" in name and w.ndim == 4 else w
        for name, w in unet.state_dict().items()
    }
    save_file(tensors, tmp_path / "unet.safetensors")
    sources = [tmp_path / "unet.safetensors", home / "vae", home / "wav2vec2"]
    model, report = imported(sources, tmp_path / "out")
    reshaped = report["parts"]["denoiser"]["reshaped"]
    assert reshaped and all("proj_in" in name or "proj_out" in name for name in reshaped)
    name = "down_blocks.0.attentions.0.proj_in.weight"
    assert torch.equal(model.loopy.state_dict()[f"denoiser.{name}"], unet.state_dict()[name])


@torch.no_grad()
def test_a_motion_module_computes_what_diffusers_does():
    """Frames hold the same values in other places: then statistics per frame and per clip agree, see its docstring."""
    theirs = motion_module(64)
    found, others = motion_tensors(original_motion(theirs.state_dict(), "mid_block.motion_modules.0"))
    assert others == ()
    prefix = "mid_block.temporal.0.intra."
    module = MotionTransformer(64, TemporalConfig(intra="transformer", max_clip_frames=12), 32).eval()
    module.load_state_dict(
        {
            name.removeprefix(prefix): w[:12] if name.endswith("frame_embedding") else w
            for name, w in found.items()
        }
    )
    still = torch.randn(2, 64, 15)
    clip = torch.stack([still.roll(shift, dims=2) for shift in (0, 3, 7, 11)], dim=1)
    out = clip.transpose(2, 3) + module(clip.transpose(2, 3))
    wanted = theirs(clip.flatten(0, 1).unflatten(2, (3, 5)), num_frames=4)
    wanted = wanted[0] if isinstance(wanted, tuple) else getattr(wanted, "sample", wanted)
    assert (wanted - clip.flatten(0, 1).unflatten(2, (3, 5))).std() > 0.05
    ours = out.transpose(2, 3).flatten(0, 1).unflatten(2, (3, 5))
    assert torch.allclose(ours, wanted, atol=1e-4), (ours - wanted).abs().max()


@pytest.mark.parametrize("original", [True, False])
def test_motion_modules_fill_the_intra_clip_layers(home, tmp_path, original):
    path = tmp_path / "mm.ckpt"
    tensors = motion_file(original)
    if original:
        torch.save({"state_dict": tensors}, path)
    else:
        path = tmp_path / "adapter"
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"_class_name": "MotionAdapter"}))
        save_file(tensors, path / "diffusion_pytorch_model.safetensors")
    model, report = imported([home / "sd15", home / "wav2vec2", path], tmp_path / "out")
    part, state = report["parts"]["intra-clip layers"], model.loopy.state_dict()
    intra = {name for name in state if ".intra." in name}
    assert {*part["taken"], *part["reshaped"]} == intra
    assert all(name.endswith("frame_embedding") for name in part["reshaped"])
    assert all(
        "down_blocks.1" in name or "up_blocks.0" in name
        for name in part["left"]["for a layer that this model has not"]
    )
    name = "mid_block.motion_modules.0" + (".temporal_transformer" if original else "") + ".proj_out.weight"
    assert torch.equal(state["denoiser.mid_block.temporal.0.intra.proj_out.weight"], tensors[name])
    assert not any(".intra." in name for name in report["new"])


@pytest.mark.parametrize("peer", ["hallo", "moore"])
def test_peers_bring_v_prediction_and_zero_terminal_snr(home, unet, tmp_path, peer):
    weights, motion = unet.state_dict(), motion_file()
    other = {name: w + 1 for name, w in weights.items()}
    if peer == "hallo":
        source = tmp_path / "net.pth"
        audio = {"denoising_unet.down_blocks.0.audio_modules.0.proj_in.weight": torch.ones(2)}
        content = {f"denoising_unet.{n}": w for n, w in (weights | motion).items()} | audio
        torch.save(content | {f"reference_unet.{n}": w for n, w in other.items()}, source)
    else:
        source = tmp_path / "moore"
        source.mkdir()
        for name, part in {
            "denoising_unet": weights,
            "reference_unet": other,
            "motion_module": motion,
        }.items():
            torch.save(part, source / f"{name}.pth")
    model, report = imported([source, home / "vae", home / "wav2vec2"], tmp_path / "out")
    config, state = model.config, model.loopy.state_dict()
    assert (config.prediction, config.schedule.zero_terminal_snr, config.schedule.kind) == (
        "v",
        True,
        "linear",
    )
    assert config.defaults.spacing == "trailing" and config.denoiser.temporal.intra == "transformer"
    assert torch.equal(state["denoiser.conv_in.weight"], weights["conv_in.weight"])
    assert torch.equal(state["reference_net.conv_in.weight"], other["conv_in.weight"])
    assert report["parts"]["intra-clip layers"]["taken"]


def test_half_precision_on_disk(home, tmp_path):
    import_model([home / "sd15", home / "wav2vec2"], tmp_path / "out", size_px=64)
    stored = load_file(tmp_path / "out" / "loopy.safetensors")
    assert {w.dtype for w in stored.values()} == {torch.float16}


def damaged(path: Path, out: Path) -> Path:
    out.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return out


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def bad_files(folder: Path, unet: UNet2DConditionModel) -> dict[str, tuple[Path, str]]:
    """Name -> a file that must be refused, and a part of the message."""
    weights = unet.state_dict()
    save_file(weights, folder / "whole.safetensors")
    torch.save(weights, folder / "whole.pth")
    pickle.dump(Evil(), open(folder / "evil.pth", "wb"))
    torch.save({"step": 3}, folder / "empty.pth")
    (folder / "noise.ckpt").write_bytes(bytes(range(256)) * 9)
    (folder / "page.bin").write_text("<html>404</html>")
    lacking = {name: w for name, w in weights.items() if name != "conv_out.weight"}
    save_file(lacking, folder / "lacking.safetensors")
    wide = weights | {"conv_in.weight": torch.zeros(32, 9, 3, 3)}
    save_file(wide, folder / "inpainting.safetensors")
    save_file(weights | {"add_embedding.linear_1.weight": torch.zeros(2, 2)}, folder / "xl.safetensors")
    save_file({"resnet.stem": torch.zeros(2)}, folder / "other.safetensors")
    return {
        "truncated safetensors": (
            damaged(folder / "whole.safetensors", folder / "cut.safetensors"),
            "cut short",
        ),
        "truncated pth": (damaged(folder / "whole.pth", folder / "cut.pth"), "download it again"),
        "code in a pickle": (folder / "evil.pth", "never run"),
        "no tensors": (folder / "empty.pth", "no tensors by name"),
        "noise": (folder / "noise.ckpt", "download it again"),
        "web page": (folder / "page.bin", "download it again"),
        "lacking": (folder / "lacking.safetensors", "lacks conv_out.weight"),
        "inpainting": (folder / "inpainting.safetensors", "takes 9 channels"),
        "xl": (folder / "xl.safetensors", "Stable Diffusion XL"),
        "another network": (folder / "other.safetensors", "none of: Stable Diffusion 1.x"),
        "nothing there": (folder / "missing.safetensors", "does not exist"),
        "picture": (Path(__file__), "no file of weights"),
    }


def test_bad_files_are_refused_and_nothing_is_left(home, unet, tmp_path, capsys):
    for name, (path, message) in bad_files(tmp_path, unet).items():
        with pytest.raises(ValueError, match=message) as error:
            import_model([path, home / "vae", home / "wav2vec2"], tmp_path / "out", size_px=64)
        assert str(path) in str(error.value), name
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    assert "this must never run" not in capsys.readouterr().out


def test_missing_parts_are_named(home, tmp_path):
    with pytest.raises(ValueError, match="no audio encoder .* add wav2vec2-base-960h"):
        import_model([home / "sd15"], tmp_path / "out")
    with pytest.raises(ValueError, match="no U-Net .* add Stable Diffusion 1.x"):
        import_model([home / "vae", home / "wav2vec2"], tmp_path / "out")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="no config.json"):
        read_source(tmp_path / "bare")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        import_model([home / "sd15", home / "wav2vec2"], tmp_path / "full")


def test_an_audio_encoder_without_all_its_tensors_is_refused(home, tmp_path):
    folder = tmp_path / "wav2vec2"
    folder.mkdir()
    (folder / "config.json").write_text((home / "wav2vec2" / "config.json").read_text())
    tensors = load_file(home / "wav2vec2" / "model.safetensors")
    del tensors["wav2vec2.feature_projection.projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"do not fit config.json:\n  1 missing:\n    feature_projection.projection.weight"
    ):
        read_source(folder)


def test_the_summary_counts_what_was_taken_left_and_is_new(home, tmp_path):
    report = import_model([home / "sd15", home / "vae", home / "wav2vec2"], tmp_path / "out", size_px=64)
    lines = report.summary().splitlines()
    numbers = {line.strip().split(":")[0]: line for line in lines}
    assert any(line.startswith("denoiser, from ") and "taken" in line for line in lines)
    assert any(line.startswith("reference_net, from ") and "folded" in line for line in lines)
    assert f"new, to be trained: {len(report.new)} tensors" in lines
    counted = sum(int(line.split()[0]) for line in lines[lines.index(numbers["new, to be trained"]) + 1 :])
    assert counted == len(report.new)


def test_an_autoencoder_of_another_width_is_refused(home, tmp_path):
    torch.manual_seed(4)
    blocks = dict(block_out_channels=(32,) * 4, layers_per_block=1, sample_size=64, latent_channels=8)
    wide = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **blocks
    )
    wide.save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match="the autoencoder has 8 latent channels, the U-Net 4"):
        import_model([home / "sd15", tmp_path / "wide", home / "wav2vec2"], tmp_path / "out", size_px=64)
    assert not (tmp_path / "out").exists()
