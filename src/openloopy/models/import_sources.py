"""What other projects' weights are, told by their names and shapes, and their tensors under the names used here.

Known: Stable Diffusion 1.x (diffusers' layout or the original single file), its autoencoder (either layout), wav2vec
2.0 (transformers' layout), AnimateDiff's motion modules (original or diffusers' layout), Hallo, Moore-AnimateAnyone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from openloopy.models.audio_encoder import AudioEncoder, load_audio_encoder
from openloopy.models.codec import KLCodec
from openloopy.models.foreign_files import read_folder_tensors, read_settings, read_tensors
from openloopy.models.weight_files import buildable, mismatch_report

Tensors = dict[str, Tensor]

SD_UNET, SD_VAE, SD_TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
STEM = "diffusion_pytorch_model"
SD_LATENT_SCALE = 0.18215
KNOWN = (
    "Stable Diffusion 1.x (diffusers folder or single file), sd-vae-ft-mse, wav2vec2-base, AnimateDiff motion modules, "
    "Hallo (net.pth), Moore-AnimateAnyone (denoising_unet.pth and reference_unet.pth in one folder)"
)
MOTION_MODULE = re.compile(
    r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.motion_modules\.(\d+)\.(?:temporal_transformer\.)?(.+)"
)
MOTION_PARTS = (
    (r"transformer_blocks\.0\.attention_blocks\.(\d)\.pos_encoder\.pe", r"attentions.\1.frame_embedding"),
    (r"transformer_blocks\.0\.attention_blocks\.(\d)\.(.+)", r"attentions.\1.attention.\2"),
    (r"transformer_blocks\.0\.norms\.(\d)\.(.+)", r"attentions.\1.norm.\2"),
    (r"transformer_blocks\.0\.(ff|ff_norm)\.(.+)", r"\1.\2"),
    (r"transformer_blocks\.0\.attn1\.(.+)", r"attentions.0.attention.\1"),
    (r"transformer_blocks\.0\.attn2\.(.+)", r"attentions.1.attention.\1"),
    (r"transformer_blocks\.0\.norm1\.(.+)", r"attentions.0.norm.\1"),
    (r"transformer_blocks\.0\.norm2\.(.+)", r"attentions.1.norm.\1"),
    (r"transformer_blocks\.0\.norm3\.(.+)", r"ff_norm.\1"),
    (r"(norm|proj_in|proj_out)\.(.+)", r"\1.\2"),
)
"""Names inside a motion module, the original's and diffusers', and ours (`models.temporal.MotionTransformer`)."""
SHARED_EMBEDDING = "transformer_blocks.0.pos_embed.pe"
"""Diffusers keeps one table of positions for both attentions."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One given file or folder, and what of a model it holds. Names are diffusers', for U-Nets."""

    path: Path
    kind: str
    denoiser: Tensors | None = None
    reference: Tensors | None = None
    motion: Tensors | None = None
    """With our names: `down_blocks.0.temporal.0.intra. ...`."""
    codec: KLCodec | None = None
    audio: AudioEncoder | None = None
    is_zero_snr: bool = False
    """Trained to predict v on a linear schedule with zero terminal SNR, as Moore-AnimateAnyone and its heirs."""
    others: tuple[str, ...] = field(default=())
    """Tensors of no use here."""


def read_source(path: Path, size_px: int = 512) -> Source:
    """Recognise a file or folder and read it; size_px: side of the codec's pictures.

    Raises:
        ValueError: it is missing, cannot be read, or is none of those known here.
    """
    if path.is_dir():
        return _read_folder(path, size_px)
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    tensors = read_tensors(path)
    if any(name.startswith(SD_UNET) for name in tensors):
        return _from_single_file(path, tensors, size_px)
    if any(name.startswith("denoising_unet.") for name in tensors):
        return _from_hallo(path, tensors)
    motion, others = motion_tensors(tensors)
    if motion:
        return Source(path=path, kind="AnimateDiff motion modules", motion=motion, others=others)
    if "time_embedding.linear_1.weight" in tensors:
        return _plain_unet(path, tensors)
    if "decoder.conv_in.weight" in tensors:
        return Source(path=path, kind="autoencoder", codec=_codec(path, tensors, size_px))
    if any("feature_extractor.conv_layers" in name for name in tensors):
        raise ValueError(
            f"{path} is wav2vec 2.0 without its settings; give the folder with config.json instead"
        )
    raise ValueError(f"{path} holds {len(tensors)} tensors that belong to none of: {KNOWN}{_like(tensors)}")


def motion_tensors(tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """The tensors of motion modules under our names, and the names of all others."""
    found, others = {}, []
    for name, value in tensors.items():
        match = MOTION_MODULE.fullmatch(name)
        names = _motion_names(match[3]) if match else ()
        for inner in names:
            is_table = inner.endswith("frame_embedding")
            found[f"{match[1]}.temporal.{match[2]}.intra.{inner}"] = value[0] if is_table else value
        if not names:
            others.append(name)
    return found, tuple(others)


def _motion_names(name: str) -> tuple[str, ...]:
    if name == SHARED_EMBEDDING:
        return "attentions.0.frame_embedding", "attentions.1.frame_embedding"
    for pattern, ours in MOTION_PARTS:
        match = re.fullmatch(pattern, name)
        if match:
            return (match.expand(ours),)
    return ()


def _read_folder(path: Path, size_px: int) -> Source:
    if (path / "unet").is_dir():
        unet = read_folder_tensors(path / "unet", STEM)
        codec = _read_codec(path / "vae", size_px) if (path / "vae").is_dir() else None
        return Source(
            path=path,
            kind="Stable Diffusion, diffusers layout",
            denoiser=check_sd1(unet, path),
            reference=unet,
            codec=codec,
        )
    if (path / "net.pth").is_file():
        return _from_hallo(path / "net.pth", read_tensors(path / "net.pth"))
    if (path / "denoising_unet.pth").is_file():
        return _from_moore(path)
    settings = read_settings(path / "config.json") if (path / "config.json").is_file() else {}
    kind = settings.get("_class_name") or settings.get("model_type")
    if kind == "UNet2DConditionModel":
        return _plain_unet(path, read_folder_tensors(path, STEM))
    if kind == "AutoencoderKL":
        return Source(path=path, kind="autoencoder, diffusers layout", codec=_read_codec(path, size_px))
    if kind == "MotionAdapter":
        motion, others = motion_tensors(read_folder_tensors(path, STEM))
        return Source(path=path, kind="AnimateDiff, diffusers layout", motion=motion, others=others)
    if kind == "wav2vec2":
        return Source(path=path, kind="wav2vec 2.0", audio=load_audio_encoder(path))
    raise ValueError(f"{path} ({kind or 'no config.json'}) is none of: {KNOWN}")


def _plain_unet(path: Path, tensors: Tensors) -> Source:
    return Source(
        path=path, kind="Stable Diffusion U-Net", denoiser=check_sd1(tensors, path), reference=tensors
    )


def check_sd1(tensors: Tensors, path: Path) -> Tensors:
    """The same tensors, or an error that says what model they belong to instead."""
    for name in ("conv_in.weight", "time_embedding.linear_1.weight", "conv_out.weight"):
        if name not in tensors:
            raise ValueError(f"{path} lacks {name}, so it holds no whole U-Net; copy or download it again")
    channels = tensors["conv_in.weight"].shape[1]
    if channels != 4:
        raise ValueError(
            f"{path} takes {channels} channels (an inpainting or editing model?); expected Stable Diffusion 1.x with 4"
        )
    if "add_embedding.linear_1.weight" in tensors:
        raise ValueError(f"{path} is Stable Diffusion XL; expected Stable Diffusion 1.x")
    context = [w for n, w in tensors.items() if n.endswith("transformer_blocks.0.attn2.to_k.weight")]
    if context and context[0].shape[1] == 1024:
        raise ValueError(
            f"{path} is Stable Diffusion 2.x (text of width 1024); expected Stable Diffusion 1.x"
        )
    return tensors


def _from_single_file(path: Path, tensors: Tensors, size_px: int) -> Source:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    inner = {name.removeprefix(SD_UNET): w for name, w in tensors.items() if name.startswith(SD_UNET)}
    _check_original_unet(inner, path)
    unet = convert_ldm_unet_checkpoint(dict(tensors), {"layers_per_block": _original_depth(inner)})
    vae = {name.removeprefix(SD_VAE): w for name, w in tensors.items() if name.startswith(SD_VAE)}
    others = tuple(name for name in tensors if not name.startswith((SD_UNET, SD_VAE)))
    return Source(
        path=path,
        kind="Stable Diffusion, original layout",
        denoiser=check_sd1(unet, path),
        reference=unet,
        codec=_codec(path, vae, size_px) if vae else None,
        others=others,
    )


def _check_original_unet(inner: Tensors, path: Path) -> None:
    if "label_emb.0.0.weight" in inner:
        raise ValueError(f"{path} is Stable Diffusion XL; expected Stable Diffusion 1.x")
    if "input_blocks.0.0.weight" not in inner or "out.2.weight" not in inner:
        raise ValueError(f"{path} lacks parts of its U-Net; copy or download it again")


def _original_depth(inner: Tensors) -> int:
    """Residual blocks per level: input blocks before the first that reduces, less the entry."""
    first = min(int(m[1]) for m in (re.match(r"input_blocks\.(\d+)\.0\.op\.", n) for n in inner) if m)
    return first - 1


def _from_hallo(path: Path, tensors: Tensors) -> Source:
    nets = {part: _under(tensors, part) for part in ("denoising_unet.", "reference_unet.")}
    if not all(nets.values()):
        raise ValueError(
            f"{path} holds no {' and no '.join(part for part, net in nets.items() if not net)} tensors; "
            "expected Hallo's net.pth with both U-Nets"
        )
    return _zero_snr_source(
        path,
        "Hallo",
        *nets.values(),
        others=tuple(name for name in tensors if not name.startswith(tuple(nets))),
    )


def _from_moore(path: Path) -> Source:
    denoiser = read_tensors(path / "denoising_unet.pth")
    if not (path / "reference_unet.pth").is_file():
        raise ValueError(f"{path} lacks reference_unet.pth, which belongs to denoising_unet.pth")
    if (path / "motion_module.pth").is_file():
        denoiser = denoiser | read_tensors(path / "motion_module.pth")
    return _zero_snr_source(path, "Moore-AnimateAnyone", denoiser, read_tensors(path / "reference_unet.pth"))


def _zero_snr_source(
    path: Path, kind: str, denoiser: Tensors, reference: Tensors, others: tuple[str, ...] = ()
) -> Source:
    motion, pictures = motion_tensors(denoiser)
    return Source(
        path=path,
        kind=kind,
        denoiser=check_sd1({name: denoiser[name] for name in pictures}, path),
        reference=check_reference(reference, path),
        motion=motion or None,
        is_zero_snr=True,
        others=others,
    )


def check_reference(tensors: Tensors, path: Path) -> Tensors:
    """The same tensors, or an error where they hold no reference net."""
    for name in ("conv_in.weight", "time_embedding.linear_1.weight"):
        if name not in tensors:
            raise ValueError(f"{path}: the reference net lacks {name}; copy or download it again")
    return tensors


def _under(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): w for name, w in tensors.items() if name.startswith(prefix)}


def _read_codec(folder: Path, size_px: int) -> KLCodec:
    from diffusers import AutoencoderKL

    settings = read_settings(folder / "config.json")
    with buildable(folder / "config.json"):
        vae = AutoencoderKL.from_config(settings)
    return _filled_codec(vae, folder, _modern(read_folder_tensors(folder, STEM)), size_px)


def _codec(path: Path, tensors: Tensors, size_px: int) -> KLCodec:
    """An autoencoder from its tensors alone, in the original layout or diffusers'."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    if any(name.startswith("encoder.down.") for name in tensors):
        levels = _count(tensors, r"encoder\.down\.(\d+)\.")
        kinds = {"down_block_types": ("",) * levels, "up_block_types": ("",) * levels}
        tensors = convert_ldm_vae_checkpoint(dict(tensors), kinds)
    levels = _count(tensors, r"encoder\.down_blocks\.(\d+)\.")
    first = [tensors.get(f"encoder.down_blocks.{i}.resnets.0.conv1.weight") for i in range(levels)]
    if not levels or any(w is None for w in first) or "decoder.conv_in.weight" not in tensors:
        raise ValueError(f"{path} lacks parts of its autoencoder; copy or download it again")
    vae = AutoencoderKL(
        block_out_channels=tuple(len(w) for w in first),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=_count(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        latent_channels=tensors["decoder.conv_in.weight"].shape[1],
        scaling_factor=SD_LATENT_SCALE,
    )
    return _filled_codec(vae, path, _modern(tensors), size_px)


def _filled_codec(vae: nn.Module, path: Path, tensors: Tensors, size_px: int) -> KLCodec:
    wanted = {name: tuple(w.shape) for name, w in vae.state_dict().items()}
    report = mismatch_report({name: tuple(w.shape) for name, w in tensors.items()}, wanted)
    if report:
        raise ValueError(f"{path}: the autoencoder does not fit its settings:\n{report}")
    vae.load_state_dict(tensors)
    return KLCodec(vae, size_px)


def _modern(tensors: Tensors) -> Tensors:
    """Attention under its names of today; older files of diffusers call it otherwise, some as 1x1 convolutions."""
    parts = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    renamed = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"(.+\.mid_block\.attentions\.0)\.(\w+)\.(weight|bias)", name)
        if match and match[2] in parts:
            name = f"{match[1]}.{parts[match[2]]}.{match[3]}"
        if match and value.ndim == 4:
            value = value[:, :, 0, 0]
        renamed[name] = value
    return renamed


def _count(tensors: Tensors, pattern: str) -> int:
    return len({match[1] for match in (re.match(pattern, name) for name in tensors) if match})


def _like(tensors: Tensors) -> str:
    return f" (they are named like {next(iter(tensors))})" if tensors else ""
