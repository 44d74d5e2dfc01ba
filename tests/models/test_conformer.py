"""The conformer: a sound in chunks is heard like the whole, at any level; its folder; what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openloopy.models import audio_encoder
from openloopy.models.audio_encoder import (
    CHUNK_FRAMES,
    LEVEL_RMS,
    LOWEST_RMS,
    SAMPLES_PER_FRAME,
    AudioEncoder,
    AudioEncoderConfig,
    AudioFeatureReader,
    load_audio_encoder,
    save_audio_encoder,
    speech_level,
)
from openloopy.models.conformer import Conformer, ConformerConfig, LogMel, NearAttention, mel_filters

SMALL = ConformerConfig(
    bands=20,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    kernel=5,
    reach=4,
)


@pytest.fixture
def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(AudioEncoderConfig(loudness="levelled", network=SMALL)).eval()


def noise(frames: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(frames * SAMPLES_PER_FRAME).astype(np.float32)


@torch.inference_mode()
def test_two_steps_a_frame_from_every_layer(encoder) -> None:
    sound = torch.from_numpy(noise(7))[None]
    assert encoder.frame_states(sound).shape == (1, 7, 2, 16)
    assert (encoder.num_layers, encoder.width) == (2, 16)


@torch.inference_mode()
def test_a_step_hears_as_far_as_it_says_and_no_further(encoder) -> None:
    reach, steps = SMALL.context_steps, 80
    sound = torch.from_numpy(noise(steps // 2))[None]
    changed, middle = sound.clone(), steps // 2
    changed[:, 320 * middle : 320 * middle + 320] += 0.5
    hidden = [encoder.hidden_states(torch.nn.functional.pad(s, (0, 80)))[0, :, -1] for s in (sound, changed)]
    differs = torch.nonzero((hidden[0] - hidden[1]).abs().amax(1) > 1e-6).flatten()
    assert middle - reach <= differs.min() and differs.max() <= middle + reach
    assert differs.min() < middle - SMALL.reach and differs.max() > middle + SMALL.reach


@torch.inference_mode()
def test_chunks_are_heard_like_the_whole(encoder) -> None:
    frames = 2 * CHUNK_FRAMES + 77
    sound = noise(frames)
    sound[: len(sound) // 3] *= 0.01
    reader = AudioFeatureReader(encoder, sound)
    scaled = torch.from_numpy(
        np.pad(sound * np.float32(LEVEL_RMS / speech_level([sound])), 25 * SAMPLES_PER_FRAME)
    )
    whole = encoder.frame_states(scaled[None])[0, 25:-25]
    torch.testing.assert_close(reader.window(0, frames), whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(reader.window(490, 20), whole[490:510], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_blocks_attend_like_a_band(encoder) -> None:
    torch.manual_seed(1)
    attention = NearAttention(SMALL)
    x = torch.randn(2, 11, 16)
    q, k, v = attention.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    position = torch.arange(11)
    band = (position[:, None] - position).abs() <= SMALL.reach
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=band)
    torch.testing.assert_close(attention(x), attention.out(expected.transpose(1, 2).flatten(2)))


@torch.inference_mode()
@pytest.mark.parametrize("gain", [1e-2, 0.3, 5.0])
def test_quiet_and_loud_sound_are_heard_alike(encoder, gain) -> None:
    sound = noise(60)
    plain, other = (AudioFeatureReader(encoder, s).window(0, 60) for s in (sound, sound * np.float32(gain)))
    torch.testing.assert_close(other, plain, atol=1e-3, rtol=1e-3)


def test_level_is_that_of_the_loud_parts() -> None:
    loud = noise(100)
    among_silence = np.concatenate([np.zeros(400 * SAMPLES_PER_FRAME, np.float32), loud])
    assert speech_level([among_silence]) == pytest.approx(speech_level([loud]))
    assert speech_level([loud]) == pytest.approx(0.1, rel=0.02)
    assert speech_level([loud[:32000], loud[32000:]]) == pytest.approx(speech_level([loud]))
    assert speech_level([3 * loud]) == pytest.approx(3 * speech_level([loud]))
    assert speech_level([np.zeros(6400)]) == LOWEST_RMS == speech_level([])


@torch.inference_mode()
def test_digital_silence_is_finite(encoder) -> None:
    assert AudioFeatureReader(encoder, np.zeros(6400, np.float32)).window(-30, 70).isfinite().all()


def test_a_folder_keeps_everything(encoder, tmp_path) -> None:
    save_audio_encoder(tmp_path, encoder)
    loaded = load_audio_encoder(tmp_path)
    assert loaded.config == encoder.config
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)


@pytest.mark.parametrize("loudness", ["as_is", "normalised", "levelled"])
def test_a_folder_remembers_the_loudness_of_either_network(tmp_path, loudness) -> None:
    from tests.tiny import tiny_audio_encoder

    for name, network in (("a", SMALL), ("b", tiny_audio_encoder().config.network)):
        config = AudioEncoderConfig(loudness=loudness, network=network)
        save_audio_encoder(tmp_path / name, AudioEncoder(config))
        assert load_audio_encoder(tmp_path / name).config == config


def test_a_folder_that_does_not_fit(encoder, tmp_path) -> None:
    save_audio_encoder(tmp_path, encoder)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 16', '"hidden_size": 8'))
    with pytest.raises(ValueError, match="the weights do not fit config.json"):
        load_audio_encoder(tmp_path)
    config.write_text(config.read_text().replace('"hidden_size": 8', '"hidden_size": 7'))
    with pytest.raises(ValueError, match="no multiple of 2 attention heads"):
        load_audio_encoder(tmp_path)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="kernel must be odd"):
        ConformerConfig(kernel=4)
    for reach in (-32, 0, 10**9):
        with pytest.raises(ValueError, match="reach must be 1 to 4096 steps"):
            ConformerConfig(reach=reach)


def test_filters_lie_on_the_mel_scale_and_are_stored() -> None:
    filters = mel_filters(40)
    assert filters.shape == (201, 40)
    np.testing.assert_allclose(filters.sum(0)[2:], 1, rtol=1e-6)
    assert (np.diff(filters.argmax(0)) >= 0).all()
    assert "spectrum.filters" in Conformer(SMALL).state_dict()


def test_spectrum_peaks_at_a_tone_and_starts_at_sample_0() -> None:
    spectrum = LogMel(80)
    time_s = torch.arange(640 * 10 + 80) / 16_000
    bands = spectrum(torch.sin(2 * torch.pi * 1000 * time_s)[None])[0]
    assert bands.shape == (40, 80)
    peaks_hz = torch.from_numpy(mel_filters(80)).argmax(0) * 40
    assert abs(int(peaks_hz[bands[20].argmax()]) - 1000) <= 80
    click = torch.zeros(1, 640 * 10 + 80)
    click[0, 1600] = 1
    assert int(spectrum(click)[0].sum(1).argmax()) == 10


def test_context_of_a_chunk_is_what_a_step_hears() -> None:
    encoder = AudioEncoder(AudioEncoderConfig(network=ConformerConfig()))
    assert encoder.context_frames * 2 >= encoder.config.network.context_steps == 4 * (32 + 15) + 2
    assert AudioEncoder(AudioEncoderConfig()).context_frames == audio_encoder.CONTEXT_FRAMES
