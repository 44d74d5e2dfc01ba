"""A larger network that starts from a smaller one: what was learnt at 128 px goes on at 256 px.

`mini` v1 grew from v0 in this way (docs/training.md). v0's autoencoder worked on pictures of half the side; its
convolutions find their place one level deeper, and folded pixels share out the weights of the pixel that was their
mean, so that the grown encoder gives v0's latents and the grown decoder v0's pictures, and the denoiser trained on
them goes on learning.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from openloopy.models.reference_net import fold_timestep
from openloopy.models.vae import ReferenceCodec
from openloopy.models.weight_files import mismatch_report

_LEVELS = {"coarse": 3, "middle": 2, "fine": 1}
_NEW_PREFIXES = ("decoder.reference_detail.", "decoder.levels.0.", "decoder.draw.0.", "decoder.mask.0.")
"""What the grown decoder learns from nothing: its finest level."""


def grow_codec(codec: ReferenceCodec, path: Path) -> list[str]:
    """Fill all but the finest level of `codec` from the weights of a v0 codec of half its size.

    Args:
        codec: with one more decoder level than the old one; other widths as in the old one.
        path: v0's `vae/model.safetensors`.

    Returns:
        The names of the tensors that keep their random start.
    """
    state = codec.state_dict()
    grown = {_new_name(name): _new_value(name, value) for name, value in load_file(path).items()}
    new = [name for name in state if name.startswith(_NEW_PREFIXES)]
    expected = {name: tuple(value.shape) for name, value in state.items() if name not in new}
    report = mismatch_report({name: tuple(value.shape) for name, value in grown.items()}, expected)
    if report:
        raise ValueError(f"{path} is not a v0 codec of half the size of this one:\n{report}")
    codec.load_state_dict(state | grown)
    return new


def fold_reference_net(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a v0 `LoopyModel`, whose reference net still had a timestep embedding, as those of today's."""
    prefix = "reference_net."
    net = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    others = {name: w for name, w in weights.items() if not name.startswith(prefix)}
    if "time_embedding.linear_1.weight" not in net:
        return weights
    return others | {prefix + name: w for name, w in fold_timestep(net).items()}


def _new_name(name: str) -> str:
    part, _, rest = name.removeprefix("decoder.").partition(".")
    if not name.startswith("decoder."):
        return name
    if part in _LEVELS:
        block, _, rest = rest.partition(".")
        # A level was Sequential(Sequential(conv, relu), block, block).
        inner = f"merge.{rest}" if block == "0" else f"blocks.{int(block) - 1}.{rest}"
        return f"decoder.levels.{_LEVELS[part]}.{inner}"
    if part.startswith("flow_"):
        return f"decoder.levels.{_LEVELS[part.removeprefix('flow_')]}.flow.{rest}"
    return f"decoder.{part}.1.{rest}" if part in ("draw", "mask") else name


def _new_value(name: str, value: Tensor) -> Tensor:
    value = value.float() if value.is_floating_point() else value
    starts = ("encoder.stages.0.1.0.weight", "decoder.reference_stages.0.1.0.weight")
    return _unfolded(value) if name in starts else value


def _unfolded(weight: Tensor) -> Tensor:
    """A convolution over pixels folded 2x2 as one over pixels folded 4x4, each a quarter of the old pixel: exact.

    weight: `out 12 3 3` -> `out 48 3 3`; channels are colour, row, column.
    """
    outputs = weight.shape[0]
    cells = weight.reshape(outputs, 3, 2, 2, *weight.shape[2:]) / 4
    return cells.repeat_interleave(2, 2).repeat_interleave(2, 3).reshape(outputs, 48, *weight.shape[2:])
