"""Our audio features are transformers' hidden states, whole or in chunks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config as TheirConfig
from transformers import Wav2Vec2ForCTC, Wav2Vec2Model

from openloopy.models import audio_encoder as module
from openloopy.models.audio_encoder import (
    AudioEncoder,
    AudioEncoderConfig,
    AudioFeatureReader,
    load_audio_encoder,
    save_audio_encoder,
)
from openloopy.models.wav2vec2 import Wav2Vec2Config

SMALL = Wav2Vec2Config(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=48,
    conv_dim=(16,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
)


@pytest.fixture
def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(AudioEncoderConfig(network=SMALL)).eval()


def speech_like(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(round(seconds * 16_000)) * 0.1).astype(np.float32)


def their_hidden_states(folder: Path, sound: torch.Tensor) -> list[torch.Tensor]:
    """What each layer gives, by hooks: their versions disagree on the last one of `hidden_states`."""
    theirs = Wav2Vec2Model.from_pretrained(folder, dtype=torch.float32).eval()
    states = []
    for layer in theirs.encoder.layers:
        layer.register_forward_hook(lambda _, __, out: states.append(out if torch.is_tensor(out) else out[0]))
    theirs(sound)
    return states


KINDS = {
    "layers normalised before": SMALL,
    "like base": replace(SMALL, do_stable_layer_norm=False, feat_extract_norm="group"),
    "odd kernel, biases": replace(SMALL, num_conv_pos_embeddings=15, conv_bias=True),
}


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_equal_transformers(kind, tmp_path):
    torch.manual_seed(0)
    encoder = AudioEncoder(AudioEncoderConfig(network=KINDS[kind])).eval()
    for parameter in encoder.parameters():  # biases and norms begin as zeros and ones
        parameter.add_(torch.randn_like(parameter) * 0.05)
    save_audio_encoder(tmp_path, encoder)
    sound = torch.from_numpy(speech_like(1.0))[None]
    expected = their_hidden_states(tmp_path, sound)
    ours = encoder.hidden_states(sound)
    assert ours.shape[2] == len(expected) == 3
    for layer in range(3):
        torch.testing.assert_close(ours[:, :, layer], expected[layer])


@torch.inference_mode()
def test_files_for_speech_recognition_load_without_their_head(tmp_path):
    """With the names of `Wav2Vec2ForCTC`, and of weight norm as older files have it."""
    config = TheirConfig(**SMALL.to_transformers(), vocab_size=8)
    torch.manual_seed(1)
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert "lm_head.weight" in old and any(name.endswith("weight_v") for name in old)
    sound = torch.from_numpy(speech_like(0.4))[None]
    expected = torch.stack(their_hidden_states(tmp_path, sound), dim=2)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(load_audio_encoder(tmp_path).hidden_states(sound), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "hubert"}, "a model of type 'hubert', not 'wav2vec2'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; only 'gelu'"),
        ({"num_attention_heads": 5}, "32 is no multiple of 5 attention heads"),
        ({"hidden_size": "wide"}, "config.json: "),
        ({"conv_dim": [16] * 6}, "must be equally long"),
        (
            {"intermediate_size": 40},
            r"feed_forward.intermediate_dense.weight: file \(48, 32\), model \(40, 32\)",
        ),
        ({"num_hidden_layers": 4}, "16 missing:\n.*encoder.layers.3"),
    ],
)
def test_folders_of_another_kind_are_refused(encoder, tmp_path, change, message):
    save_audio_encoder(tmp_path, encoder)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_audio_encoder(tmp_path)


def test_training_drops_and_use_does_not(encoder):
    sound = torch.from_numpy(speech_like(0.4))[None]
    torch.testing.assert_close(encoder.hidden_states(sound), encoder.hidden_states(sound), rtol=0, atol=0)
    encoder.train()
    first, second = encoder.hidden_states(sound), encoder.hidden_states(sound)
    assert not torch.allclose(first, second)


@torch.inference_mode()
def test_a_frame_is_the_mean_of_its_two_steps(encoder):
    sound = torch.from_numpy(speech_like(0.4))[None]
    steps = encoder.hidden_states(torch.nn.functional.pad(sound, (0, 80)))
    frames = encoder.frame_states(sound)
    assert steps.shape[1] == 2 * frames.shape[1] == 20
    torch.testing.assert_close(frames[0, 3], (steps[0, 6] + steps[0, 7]) / 2)


def test_chunks_do_not_depend_on_the_order_of_reading(encoder, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_FRAMES", 20)
    monkeypatch.setattr(module, "CONTEXT_FRAMES", 10)
    sound = speech_like(2.5)
    forward = AudioFeatureReader(encoder, sound)
    pieces = torch.cat([forward.window(start, 7) for start in range(0, 63, 7)])[:63]
    torch.testing.assert_close(pieces, AudioFeatureReader(encoder, sound).window(0, 63), rtol=0, atol=0)


def test_chunks_hear_each_frame_where_it_is(encoder, monkeypatch):
    """Up to what lies beyond their context, they hear what the whole hears at the same place."""
    sound = speech_like(2.5)
    whole = AudioFeatureReader(encoder, sound).window(0, 62)
    monkeypatch.setattr(module, "CHUNK_FRAMES", 20)
    monkeypatch.setattr(module, "CONTEXT_FRAMES", 10)
    chunked = AudioFeatureReader(encoder, sound).window(0, 62)
    gap = (chunked - whole).abs().mean((1, 2))
    assert gap.max() < 0.3 * (whole[1:] - whole[:-1]).abs().mean()


@torch.inference_mode()
@pytest.mark.parametrize("seconds", [0.4, 2.5])
def test_outside_of_the_sound_is_silence(encoder, seconds):
    """As if the sound had been padded with a second of zeros at both ends."""
    sound, second = speech_like(seconds), np.zeros(16_000, np.float32)
    padded = np.concatenate([second, sound, second])
    padded = np.pad(padded, (0, -len(padded) % 640))
    expected = encoder.frame_states(torch.from_numpy(padded)[None])[0]
    reader, num_frames = AudioFeatureReader(encoder, sound), len(padded) // 640
    torch.testing.assert_close(reader.window(-25, num_frames), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(reader.window(-2, 14), reader.window(-25, num_frames)[23:37])


def test_silence_goes_on_beyond_a_second(encoder):
    reader = AudioFeatureReader(encoder, speech_like(0.4))
    far = reader.window(34, 10)
    assert torch.equal(far, reader.window(34, 1).expand(10, -1, -1))
    assert torch.equal(reader.window(-40, 3), reader.window(-25, 1).expand(3, -1, -1))


def test_the_end_of_a_sound_is_heard_as_if_silence_had_been_recorded(encoder):
    """The same frames, whether the file ends or goes on with zeros: what the last clip of a video needs."""
    sound = speech_like(1.0)
    longer = np.concatenate([sound, np.zeros(16_000, np.float32)])
    ends, goes_on = AudioFeatureReader(encoder, sound), AudioFeatureReader(encoder, longer)
    gap = (ends.window(20, 18) - goes_on.window(20, 18)).pow(2).mean().sqrt()
    # The two differ only by how much silence follows; zero features, as a control, are far from either.
    assert gap < 0.05 * goes_on.window(20, 18).pow(2).mean().sqrt()


def test_a_sound_without_samples_is_silence(encoder):
    reader = AudioFeatureReader(encoder, np.zeros(0, np.float32))
    assert reader.window(-2, 8).isfinite().all()
    with pytest.raises(ValueError, match="at least one frame, got 0"):
        reader.window(0, reader.num_frames)


def test_normalised_sound_is_heard_alike_at_any_loudness():
    torch.manual_seed(0)
    encoder = AudioEncoder(AudioEncoderConfig(loudness="normalised", network=SMALL)).eval()
    loud = AudioFeatureReader(encoder, speech_like(0.4)).window(0, 10)
    quiet = AudioFeatureReader(encoder, speech_like(0.4) * 0.05).window(0, 10)
    torch.testing.assert_close(quiet, loud, rtol=1e-3, atol=1e-3)


def test_saved_encoder_loads_with_its_loudness(encoder, tmp_path):
    save_audio_encoder(tmp_path, encoder)
    loaded = load_audio_encoder(tmp_path)
    assert loaded.config.loudness == "as_is"
    sound = torch.from_numpy(speech_like(0.4))[None]
    torch.testing.assert_close(loaded.frame_states(sound), encoder.frame_states(sound))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory as Linux tells it")
@pytest.mark.parametrize("loudness", ["as_is", "normalised"])
def test_a_long_sound_that_lies_in_a_file_does_not_fill_the_memory(encoder, tmp_path, monkeypatch, loudness):
    def mapped_mb() -> float:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssFile"))

    num_frames = 50_000  # half an hour, 128 MB
    np.zeros(num_frames * 640, np.float32).tofile(tmp_path / "sound")
    waveform = np.memmap(tmp_path / "sound", np.float32, "r")
    monkeypatch.setattr(encoder, "config", replace(encoder.config, loudness=loudness))
    before = mapped_mb()
    reader = AudioFeatureReader(encoder, waveform)
    for first in range(0, num_frames, 250):
        assert reader._with_silence(first, first + 250).shape == (160_000,)
    assert mapped_mb() - before < 20


def test_sound_of_broken_length_is_refused(encoder):
    with pytest.raises(ValueError, match="640"):
        encoder.frame_states(torch.zeros(1, 1000))


def test_base_size_is_the_papers():
    """All that both know is alike, 12 layers of width 768 above all."""
    ours, theirs = Wav2Vec2Config().to_transformers(), TheirConfig().to_dict()
    assert (ours["num_hidden_layers"], ours["hidden_size"]) == (12, 768)
    asked_otherwise = {"architectures", "layerdrop", "apply_spec_augment", "mask_time_prob"}
    for name in ours.keys() - asked_otherwise:
        found = tuple(theirs[name]) if isinstance(theirs[name], list) else theirs[name]
        assert found == ours[name], name
