"""Weights that other projects wrote: safetensors, or PyTorch files read without running what they contain."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

PICKLED = (".pth", ".pt", ".ckpt", ".bin")
SUFFIXES = (".safetensors", *PICKLED)
WRAPPERS = ("state_dict", "module", "model")
"""Keys under which training scripts put the weights, outermost first."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, on the CPU; optimizer states and numbers beside them are left out.

    Raises:
        ValueError: the file is cut short, of another kind, or holds more than weights.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLED:
        raise ValueError(f"{path} is no file of weights that is known here ({', '.join(SUFFIXES)})")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ModuleNotFoundError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read as plain weights ({_first_line(error)}): it is cut short, no PyTorch file, "
            "or holds Python objects, which are never run here; copy or download it again, or get its safetensors "
            "version"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({_first_line(error)}); copy or download it again"
        ) from error
    return _tensors_of(content, path)


def read_folder_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """The weights that diffusers and transformers keep as `stem.*`: safetensors before others, whole before half,
    one file or several with an index."""
    indices = sorted(folder.glob(f"{stem}*.index.json"), key=_preference)
    files = sorted((p for p in folder.glob(f"{stem}*") if p.suffix in SUFFIXES), key=_preference)
    whole = [path for path in files if "-of-" not in path.name]
    if whole:
        return read_tensors(whole[0])
    if indices:
        names = _files_of(indices[0])
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            raise ValueError(
                f"{folder} lacks {', '.join(missing)}, named in {indices[0].name}; copy it again"
            )
        return {key: value for name in sorted(names) for key, value in read_tensors(folder / name).items()}
    raise ValueError(f"{folder} holds no weights: expected {stem}.safetensors or {stem}.bin")


def _files_of(index: Path) -> set[str]:
    """The files that an index of weights names."""
    places = read_settings(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} has no weight_map of tensors to files; copy or download it again")
    return set(places.values())


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file of settings by name."""
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({_first_line(error)}); copy or download it again"
        ) from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds {type(settings).__name__}, expected settings by name; copy it again")
    return settings


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({_first_line(error)}): it is cut short or no safetensors file; "
            "copy or download it again"
        ) from error


def _tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {}
    if isinstance(content, dict):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name, so these are not weights of a network")
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _preference(path: Path) -> tuple[bool, bool, str]:
    return path.suffix != ".safetensors" and "safetensors" not in path.name, "fp16" in path.name, path.name


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
