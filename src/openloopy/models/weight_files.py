"""Weights of a module as safetensors, loaded strictly.

A missing, unexpected or differently shaped tensor is an error that lists them by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
Shapes = dict[str, tuple[int, ...]]
UNBUILDABLE = (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError)
"""What torch raises, besides ValueError, for sizes that no network has."""
MAX_REPORTED = 8
"""Tensors named per kind of mismatch; the rest is counted."""


def save_weights(module: nn.Module, path: Path) -> None:
    """Write all parameters and buffers in their own dtypes."""
    tensors = {key: _stored(key, value) for key, value in module.state_dict().items()}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})


def load_weights(module: Module, path: Path) -> Module:
    """Fill every parameter and buffer of `module` from a file that holds exactly these.

    They are cast to the module's dtypes. A module built on the meta device takes the file's tensors as they are:
    large models then start without drawing random numbers and without a second copy.
    """
    check_weights(module, path)
    is_meta = any(parameter.is_meta for parameter in module.parameters())
    module.load_state_dict(load_file(path), assign=is_meta)
    return module


def check_weights(module: nn.Module, path: Path) -> None:
    """Raise unless the file holds exactly the parameters and buffers of `module`."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    report = mismatch_report(tensor_shapes(path), expected)
    if report:
        raise ValueError(f"{path} does not fit the settings beside it:\n{report}")


def tensor_shapes(path: Path) -> Shapes:
    """Names and shapes of a file's tensors, which are not read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy or download it again") from error


def mismatch_report(found: Shapes, expected: Shapes) -> str:
    """What differs between the tensors of a file and those of a module, by name and shape; empty if nothing."""
    missing = [f"{key} {expected[key]}" for key in expected if key not in found]
    unexpected = [f"{key} {found[key]}" for key in found if key not in expected]
    reshaped = [
        f"{key}: file {found[key]}, model {expected[key]}"
        for key in expected
        if key in found and found[key] != expected[key]
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "\n".join(_report_kind(kind, names) for kind, names in kinds.items() if names)


@contextmanager
def buildable(place: Path) -> Iterator[None]:
    """Sizes of which no network can be built are told as the fault of the settings in `place`.

    torch has another class of error for each of them. Only for blocks that build a network and do nothing else.
    """
    try:
        yield
    except (*UNBUILDABLE, ValueError) as error:
        raise ValueError(f"{place}: no network can be built of these settings ({error})") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; the file takes its place at `path` once it is whole."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _report_kind(kind: str, names: list[str]) -> str:
    shown = names[:MAX_REPORTED]
    rest = [f"and {len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return "\n    ".join([f"  {len(names)} {kind}:", *shown, *rest])


def _stored(key: str, value: Tensor) -> Tensor:
    # A copy, contiguous: safetensors refuses tensors that share memory.
    stored = value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
    if stored.is_floating_point() and not stored.isfinite().all():
        raise ValueError(
            f"{key} is not finite as {value.dtype}: the training diverged, or a wider dtype is needed"
        )
    return stored
