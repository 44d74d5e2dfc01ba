"""hama's weights in a conformer: from a file made here, and from the installed package."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from openloopy.models.conformer import Conformer, ConformerConfig
from openloopy.training import hama
from openloopy.training.hama import conformer_tensors, hama_file, start_from_hama

SMALL = ConformerConfig(
    bands=6,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    kernel=5,
    reach=4,
)


def hama_tensors(config: ConformerConfig) -> dict[str, np.ndarray]:
    """Random numbers under hama's names."""
    rng, width, inner = np.random.default_rng(0), config.hidden_size, config.intermediate_size
    shapes = {
        "mel_fb": (201, config.bands),
        "onnx::Conv_801": (width, config.bands, 3),
        "onnx::Conv_802": (width,),
    }
    for block in range(config.num_hidden_layers):
        prefix, first = f"acoustic_model.model.blocks.{block}.", 829 + 9 * block
        for part in ("ffn1.norm", "attn_norm", "conv.norm", "ffn2.norm", "norm"):
            shapes |= {f"{prefix}{part}.weight": (width,), f"{prefix}{part}.bias": (width,)}
        for part, size in (
            ("ffn1.fc1", inner),
            ("ffn1.fc2", width),
            ("ffn2.fc1", inner),
            ("ffn2.fc2", width),
        ):
            shapes[f"{prefix}{part}.bias"] = (size,)
        shapes |= {f"{prefix}attn.in_proj_bias": (3 * width,), f"{prefix}attn.out_proj.bias": (width,)}
        shapes |= {
            f"{prefix}conv.pointwise1.weight": (2 * width, width, 1),
            f"{prefix}conv.pointwise1.bias": (2 * width,),
        }
        shapes |= {
            f"{prefix}conv.pointwise2.weight": (width, width, 1),
            f"{prefix}conv.pointwise2.bias": (width,),
        }
        shapes |= {
            f"onnx::Conv_{804 + 3 * block}": (width, 1, config.kernel),
            f"onnx::Conv_{805 + 3 * block}": (width,),
        }
        for offset, shape in {
            0: (width, inner),
            1: (inner, width),
            2: (width, 3 * width),
            6: (width, width),
        }.items():
            shapes[f"onnx::MatMul_{first + offset}"] = shape
        shapes |= {f"onnx::MatMul_{first + 7}": (width, inner), f"onnx::MatMul_{first + 8}": (inner, width)}
    shapes["acoustic_model.model.proj.weight"] = (5, width, 1)
    return {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


def write_hama(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A file as hama's, in 16-bit numbers."""
    table, content = b"", b""
    for name, values in tensors.items():
        data = values.tobytes()
        table += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BB", 1, values.ndim)
        table += struct.pack(f"<{values.ndim}I", *values.shape) + struct.pack("<QQ", len(content), len(data))
        content += data + b"\0" * (-len(data) % 16)
    head = b"HAMAPK" + struct.pack("<BBI", 1, 2, len(tensors)) + table
    path.write_bytes(head + b"\0" * (-len(head) % 16) + content)


def test_every_weight_comes_from_the_file(tmp_path) -> None:
    tensors, network = hama_tensors(SMALL), Conformer(SMALL)
    write_hama(tmp_path / "a.hama", tensors)
    start_from_hama(network, tmp_path / "a.hama")
    state = network.state_dict()
    np.testing.assert_array_equal(state["spectrum.filters"], tensors["mel_fb"])
    np.testing.assert_array_equal(state["layers.1.attention.qkv.weight"], tensors["onnx::MatMul_840"].T)
    np.testing.assert_array_equal(state["layers.0.feed_forward2.outer.weight"], tensors["onnx::MatMul_837"].T)
    gated = tensors["acoustic_model.model.blocks.1.conv.pointwise1.weight"][..., 0]
    np.testing.assert_array_equal(state["layers.1.convolution.gated.weight"], gated)
    assert set(conformer_tensors({k: torch.from_numpy(v) for k, v in tensors.items()})) == set(state)


def test_another_size_and_another_file_are_refused(tmp_path) -> None:
    write_hama(tmp_path / "a.hama", hama_tensors(SMALL))
    with pytest.raises(ValueError, match="does not fit this audio encoder"):
        start_from_hama(Conformer(ConformerConfig()), tmp_path / "a.hama")
    (tmp_path / "b.hama").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match="is no file of hama"):
        start_from_hama(Conformer(SMALL), tmp_path / "b.hama")


def test_without_the_package_a_message_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setattr(hama.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"openloopy\[speech\]"):
        hama_file()


@torch.inference_mode()
def test_the_packages_recogniser_hears_the_same() -> None:
    """Its own engine names phonemes; here the same layer on our states does."""
    asr = pytest.importorskip("hama", reason="the extra `speech` is not installed")
    import soundfile

    import openloopy

    path = Path(openloopy.__file__).parent / "assets" / "demo_speech.flac"
    sound = soundfile.read(path, dtype="float32")[0][: 640 * 150]
    network = Conformer(ConformerConfig(reach=1000)).eval()
    start_from_hama(network, hama_file())
    tensors = dict(hama._read(hama_file()))
    states = network(torch.nn.functional.pad(torch.from_numpy(sound)[None], (0, 80)))[-1][0]
    weight, bias = (tensors[f"acoustic_model.model.proj.{kind}"] for kind in ("weight", "bias"))
    ours = (states @ weight[..., 0].T + bias).argmax(-1).tolist()
    theirs = asr.ASRModel().transcribe_waveform(sound, 16_000).frame_token_ids
    same = np.mean([a == b for a, b in zip(ours, theirs, strict=False)])
    assert same > 0.97
