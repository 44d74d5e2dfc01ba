"""What this machine can run, and what would be picked: the one place that chooses device and dtype."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from dataclasses import dataclass

import torch

from openloopy import __version__
from openloopy.face.networks import WEIGHTS_NAME, shipped_folder
from openloopy.inference.memory import counts_of, needed_bytes, pick_tier
from openloopy.media.machine import cpu_cores, cpu_quota, memory_limit, total_memory_bytes
from openloopy.models.folder import EMBEDDED_MINI, load_config
from openloopy.models.loopy import LoopyConfig, LoopyModel
from openloopy.models.precision import computes_in_bf16, has_cpu_bf16, lacks_cpu_bf16

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FEW_POSITIONS = 64
"""Latent positions of a frame below which the CPU's products are too small to gain from bfloat16: sampling face states
takes a fifth longer with it than in float32."""
SD15_OTHERS = 83_700_000 + 94_400_000
"""Numbers in Stable Diffusion's autoencoder and in wav2vec2-base."""
LIBRARIES = ("torch", "diffusers", "safetensors", "numpy", "av", "opencv-python-headless")


@dataclass(frozen=True)
class Choice:
    """Where and how a model will run."""

    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that a command needs."""

    name: str
    is_present: bool
    detail: str
    """Version or path; where it is missing, what to do."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All that `openloopy doctor` prints."""

    versions: dict[str, str]
    cpu_cores: int
    """That this process may use: by affinity, and by its container's share."""
    cpu_quota: float | None
    """Cores' worth of time that a container or service allows; None: no limit."""
    memory_gb: float | None
    """Of the machine; None where nobody says."""
    memory_limit_gb: float | None
    """What a container or service allows; None: no limit."""
    has_cpu_bf16: bool
    devices: tuple[str, ...]
    parts: tuple[Part, ...]
    device: str
    """What --device auto picks."""
    dtype: str
    """What --dtype auto picks there."""
    memory: dict[str, str]
    """Model size -> what --memory auto picks for it now, and why."""

    @property
    def can_generate(self) -> bool:
        """Whether `openloopy generate` works with the embedded model."""
        needed = ("face landmarks", "embedded model")
        return all(part.is_present for part in self.parts if part.name in needed)


def examine() -> Examination:
    """Look at this machine; loads no model."""
    choice = choose("auto", "auto")
    return Examination(
        versions=versions(),
        cpu_cores=cpu_cores(),
        cpu_quota=cpu_quota(),
        memory_gb=_gb(total_memory_bytes()),
        memory_limit_gb=_gb(limit.most if (limit := memory_limit()) else None),
        has_cpu_bf16=has_cpu_bf16(),
        devices=_devices(),
        parts=(
            _landmarks(),
            _embedded_model(),
            _extra("page", "gradio", "app"),
            _extra("service", "fastapi", "serve"),
            _extra("content credentials", "c2pa-python", "credentials"),
            _extra("espeak-ng (puppet)", "espeakng-loader", "puppet"),
            _flite(),
        ),
        device=str(choice.device),
        dtype=choice.dtype_name,
        memory=_memory(choice),
    )


def choose(device: str, dtype: str, config: LoopyConfig | None = None) -> Choice:
    """The device and dtype to run on; "auto" picks the fastest that is safe (for a model, if its settings are given),
    anything else is checked."""
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}; choose one of {', '.join(DEVICES)}")
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"unknown dtype {dtype!r}; choose one of auto, {', '.join(DTYPES)}")
    chosen = _choose_device(device)
    if dtype == "float16" and chosen.type == "cpu":
        raise ValueError("float16 is unusably slow on a CPU; use --dtype float32")
    if dtype == "bfloat16" and chosen.type == "cpu" and lacks_cpu_bf16():
        # Measured: ten to thirty times as long, docs/log.md, "bfloat16 where the CPU lacks it".
        raise ValueError(
            "this CPU has no arithmetic in bfloat16 and would take ten times as long as in float32; use --dtype float32"
        )
    return Choice(chosen, _fast_dtype(chosen, config) if dtype == "auto" else DTYPES[dtype])


def versions() -> dict[str, str]:
    """Of this package, of Python and of the libraries that decide what comes out."""
    found = {"openloopy": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return found | {library: importlib.metadata.version(library) for library in LIBRARIES}


def _choose_device(name: str) -> torch.device:
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if has[kind])
    if not has[name]:
        raise ValueError(
            f"--device {name}: torch {torch.__version__} sees no such device here; "
            "use --device cpu, or install a build of torch for your GPU"
        )
    return torch.device(name)


def _fast_dtype(device: torch.device, config: LoopyConfig | None) -> torch.dtype:
    if device.type == "cpu" and config is not None and config.num_positions < FEW_POSITIONS:
        return torch.float32
    if computes_in_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def _gb(size: int | None) -> float | None:
    return None if size is None else round(size / 2**30, 1)


def _devices() -> tuple[str, ...]:
    found = [f"cpu ({cpu_cores()} cores)"]
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        found.append(f"cuda:{i} ({card.name}, {card.total_memory / 2**30:.0f} GB)")
    if torch.backends.mps.is_available():
        found.append("mps (Apple GPU)")
    return tuple(found)


def _memory(choice: Choice) -> dict[str, str]:
    # Not by way of recipes: they import all of training, whose packages come with extras.
    sd15 = LoopyConfig(name="sd15")
    with torch.device("meta"):
        paper_size = sum(parameter.numel() for parameter in LoopyModel(sd15).parameters())
    counts = {"sd15": (sd15, paper_size, SD15_OTHERS)}
    if (EMBEDDED_MINI / "config.json").is_file():
        counts["mini"] = (load_config(EMBEDDED_MINI), *counts_of(EMBEDDED_MINI))
    return {
        name: str(pick_tier(needed_bytes(*sizes, dtype=choice.dtype, device=choice.device), choice.device))
        for name, sizes in sorted(counts.items())
    }


def _landmarks() -> Part:
    path = shipped_folder() / WEIGHTS_NAME
    if not path.is_file():
        return Part(
            name="face landmarks", is_present=False, detail=f"{path} is missing; install openloopy again"
        )
    return Part(name="face landmarks", is_present=True, detail=str(path))


def _embedded_model() -> Part:
    if not (EMBEDDED_MINI / "config.json").is_file():
        remedy = f"not in {EMBEDDED_MINI}; reinstall openloopy, or give --model FOLDER"
        return Part(name="embedded model", is_present=False, detail=remedy)
    config = load_config(EMBEDDED_MINI)
    megabytes = sum(file.stat().st_size for file in EMBEDDED_MINI.rglob("*") if file.is_file()) / 1e6
    detail = f"{config.name}, {config.size_px}x{config.size_px}, {megabytes:.1f} MB"
    return Part(name="embedded model", is_present=True, detail=detail)


def _extra(name: str, library: str, extra: str) -> Part:
    """Something that an extra installs, by its library."""
    try:
        version = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return Part(name=name, is_present=False, detail=f"pip install 'openloopy[{extra}]'")
    return Part(name=name, is_present=True, detail=f"{library} {version}")


def _flite() -> Part:
    name, program = "flite (puppet, optional)", shutil.which("flite")
    return Part(name=name, is_present=program is not None, detail=program or "Debian: apt install flite")
