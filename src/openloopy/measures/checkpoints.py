"""Checkpoints of other people's networks: read without running what they may contain, loaded whole or not at all."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from openloopy.media.files import require_file

WRAPPER = "state_dict"
"""Key under which training scripts put the weights, beside epoch and optimizer."""
PARALLEL_PREFIX = "module."
"""What `nn.DataParallel` puts before every name."""
BATCH_COUNT = ".num_batches_tracked"
"""Files of PyTorch before 0.4.1 do not count batches; the counts do not matter once a network is trained."""
MAX_NAMES_SHOWN = 4

Network = TypeVar("Network", bound=nn.Module)


def read_checkpoint(path: Path | str, what: str, wrapper: str = WRAPPER) -> dict[str, Tensor]:
    """Tensors of a safetensors or PyTorch file by name, on the CPU, without wrappers and prefixes.

    Args:
        path: the file.
        what: the network it should hold, for messages, such as "I3D".
        wrapper: name under which the weights lie beside other things, if they do.

    Raises:
        ValueError: it is missing, cut short, of another kind, or holds Python objects; says which.
    """
    path = require_file(path, f"a {what} weights")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
    if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
        content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"{path} holds a {type(content).__name__} and no tensors by name, so these are not the weights of {what}; "
            "save net.state_dict() alone"
        )
    return {name.removeprefix(PARALLEL_PREFIX): value for name, value in content.items()}


def load_checkpoint(network: Network, tensors: dict[str, Tensor], path: Path | str, what: str) -> Network:
    """The network with these weights, ready to measure: all of them, none over, each of its shape.

    Raises:
        ValueError: names or shapes differ; lists them. The network is untouched then.
    """
    expected = network.state_dict()
    wrong = _differences(tensors, expected)
    if wrong:
        raise ValueError(
            f"{path} does not hold the weights of {what} ({'; '.join(wrong)}); get the public file"
        )
    counts = {name: value for name, value in expected.items() if name.endswith(BATCH_COUNT)}
    network.load_state_dict(counts | tensors)
    return network.eval().requires_grad_(False)


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is cut short or no safetensors file ({_first_line(error)}); copy it again"
        ) from error


def _read_pickled(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as plain weights: {_why_unsafe(error)}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is cut short or no PyTorch file ({_first_line(error)}); download it again"
        ) from error


def _why_unsafe(error: Exception) -> str:
    """Our own words: those of PyTorch advise to trust the file."""
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign is None:
        return "it is cut short or no PyTorch file; download it again"
    return (
        f"it holds Python objects ({foreign[1]}), as a whole pickled network does, which are never run here; where it "
        "came from, save the weights alone with torch.save(net.state_dict(), NAME)"
    )


def _differences(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    missing = [name for name in expected if name not in tensors and not name.endswith(BATCH_COUNT)]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    return [f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names]


def _listed(names: list[str]) -> str:
    rest = len(names) - MAX_NAMES_SHOWN
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
