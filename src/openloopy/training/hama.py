"""Weights of hama's phoneme recogniser as the beginning of an audio encoder.

Source: hama 1.7.0 (PyPI, Apache-2.0): a conformer of 2.2 M parameters that hears English phonemes. Its file is read
here as plain numbers; its last layer, which names phonemes, is left out.
"""

from __future__ import annotations

import importlib.util
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openloopy.models.conformer import Conformer
from openloopy.models.weight_files import mismatch_report

MAGIC = b"HAMA"
_TYPES = (np.float32, np.float16, np.int64, np.int32, np.uint8)
_BLOCK = "acoustic_model.model.blocks."
_FIRST_MATRIX, _MATRICES_PER_BLOCK = 829, 9
"""Matrices have the numbers of an ONNX graph, nine to a block: four of them are no weights."""
_MATRICES = {
    **{0: "feed_forward1.inner", 1: "feed_forward1.outer", 2: "attention.qkv", 6: "attention.out"},
    **{7: "feed_forward2.inner", 8: "feed_forward2.outer"},
}
_VECTORS = {
    **{"ffn1.norm.": "feed_forward1.norm.", "ffn1.fc1.bias": "feed_forward1.inner.bias"},
    **{"ffn1.fc2.bias": "feed_forward1.outer.bias", "attn_norm.": "attention_norm."},
    **{"attn.in_proj_bias": "attention.qkv.bias", "attn.out_proj.bias": "attention.out.bias"},
    **{"conv.norm.": "convolution.norm.", "conv.pointwise1.": "convolution.gated."},
    **{"conv.pointwise2.": "convolution.outer.", "ffn2.norm.": "feed_forward2.norm."},
    **{
        "ffn2.fc1.bias": "feed_forward2.inner.bias",
        "ffn2.fc2.bias": "feed_forward2.outer.bias",
        "norm.": "norm.",
    },
}


def hama_file() -> Path:
    """The file of the installed package.

    Raises:
        RuntimeError: hama is not installed.
    """
    spec = importlib.util.find_spec("hama")
    if spec is None:
        raise RuntimeError(
            "hama, with whose weights the audio encoder begins, is not installed; `pip install 'openloopy[speech]'`, "
            "or begin without: `--set begins_with=nothing` in the step `audio`"
        )
    return Path(spec.submodule_search_locations[0]) / "assets" / "asr_waveform.hama"


def start_from_hama(network: Conformer, path: Path) -> None:
    """Fill a conformer of hama's size with hama's weights.

    Raises:
        ValueError: no such file, or a network of another size.
    """
    found = conformer_tensors(dict(_read(path)))
    wanted = network.state_dict()
    report = mismatch_report(
        {name: tuple(tensor.shape) for name, tensor in found.items()},
        {name: tuple(tensor.shape) for name, tensor in wanted.items()},
    )
    if report:
        raise ValueError(f"{path} does not fit this audio encoder:\n{report}")
    network.load_state_dict(found)


def conformer_tensors(hama: dict[str, Tensor]) -> dict[str, Tensor]:
    """hama's tensors under the names of `Conformer`."""
    tensors = {
        "spectrum.filters": hama["mel_fb"],
        "stem.weight": hama["onnx::Conv_801"],
        "stem.bias": hama["onnx::Conv_802"],
    }
    block = 0
    while f"{_BLOCK}{block}.norm.weight" in hama:
        prefix = f"layers.{block}."
        for offset, name in _MATRICES.items():
            number = _FIRST_MATRIX + _MATRICES_PER_BLOCK * block + offset
            tensors[f"{prefix}{name}.weight"] = hama[f"onnx::MatMul_{number}"].T.contiguous()
        for kind, offset in (("weight", 804), ("bias", 805)):
            tensors[f"{prefix}convolution.depthwise.{kind}"] = hama[f"onnx::Conv_{offset + 3 * block}"]
        for name, tensor in hama.items():
            rest = name.removeprefix(f"{_BLOCK}{block}.")
            known = next((old for old in _VECTORS if rest != name and rest.startswith(old)), None)
            if known is not None:
                tensors[prefix + _VECTORS[known] + rest.removeprefix(known)] = tensor.squeeze(-1)
        block += 1
    return tensors


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors: a header, a table (name, type, shape, where), then the numbers, aligned to 16 bytes."""
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        raise ValueError(f"{path} is no file of hama: it begins with {content[:6]!r}")
    (count,) = struct.unpack_from("<I", content, 8)
    position, table = 12, []
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, position)
        name = content[position + 2 : position + 2 + length].decode()
        position += 2 + length
        kind, rank = struct.unpack_from("<BB", content, position)
        shape = struct.unpack_from(f"<{rank}I", content, position + 2)
        position += 2 + 4 * rank
        (offset, _) = struct.unpack_from("<QQ", content, position)
        position += 16
        table.append((name, _TYPES[kind], shape, offset))
    begin = (position + 15) & ~15
    for name, kind, shape, offset in table:
        values = np.frombuffer(content, kind, math.prod(shape), begin + offset).reshape(shape)
        yield name, torch.from_numpy(values.astype(np.float32))
