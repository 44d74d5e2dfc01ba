import json
from dataclasses import replace

import pytest
import torch

from openloopy.diffusion.schedule import ScheduleConfig
from openloopy.models.loopy import GenerationDefaults, LoopyConfig, LoopyModel
from openloopy.models.segments import SegmentConfig
from tests.tiny import tiny_config

PAPER = LoopyConfig(name="paper")


@pytest.mark.parametrize("config", [PAPER, tiny_config(), tiny_config(a2l=None)])
def test_settings_survive_json(config):
    assert LoopyConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_defaults_are_the_papers():
    assert (PAPER.clip_frames, PAPER.segments.span, PAPER.segments.num_kept) == (12, 124, 20)
    assert (PAPER.size_px, PAPER.prediction, PAPER.schedule.zero_terminal_snr) == (512, "epsilon", False)
    assert PAPER.defaults == GenerationDefaults(steps=25, audio_guidance=5.0, reference_guidance=3.0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schema_version": 4}, "expected schema_version 3, got 4; the model was written by another version"),
        ({"schema_version": None}, "got None"),
        ({"schema_version": 1}, "schema_version 1 was made by openloopy 0.1, .* openloopy 0.1 with it"),
        ({"schema_version": 2}, "schema_version 2 was made by openloopy 0.1"),
        ({"sizepx": 3}, r"unknown \['sizepx'\]"),
        ({"prediction": "eps"}, r"config\.prediction: expected one of"),
        ({"defaults": {"steps": 0}}, r"config\.defaults: sampling needs at least 1 step"),
    ],
)
def test_wrong_settings_name_the_place(change, message):
    with pytest.raises(ValueError, match=message):
        LoopyConfig.from_dict(PAPER.to_dict() | change)


def test_settings_that_contradict_each_other():
    with pytest.raises(ValueError, match="zero terminal SNR"):
        LoopyConfig(name="x", schedule=ScheduleConfig(zero_terminal_snr=True))
    with pytest.raises(ValueError, match="segments keep 24 motion frames"):
        LoopyConfig(name="x", segments=SegmentConfig(num_segments=6))
    with pytest.raises(ValueError, match="audio-to-latents needs"):
        LoopyConfig(name="x", denoiser=replace(PAPER.denoiser, audio=None))


def test_parts_are_absent_in_stage_1():
    config = tiny_config()
    stage_1 = replace(config, a2l=None, denoiser=replace(config.denoiser, audio=None, temporal=None))
    names = {name.split(".")[0] for name, _ in LoopyModel(stage_1).named_parameters()}
    assert names == {"denoiser", "reference_net"}
    assert stage_1.clip_frames == 1


def test_frames_that_are_missing_in_the_history_are_missing_for_the_reference_net():
    model = LoopyModel(tiny_config()).eval()
    history, mask = torch.ones(1, 124, 4, 4, 4), torch.zeros(1, 124)
    mask[:, -13:] = 1
    features = model.read_reference(torch.zeros(1, 4, 4, 4), history, mask)
    # The last 13 frames hold the offsets 0, 1, 2, 3, 5, 7, 9, 11.
    assert features.motion_mask.tolist() == [[0.0] * 12 + [1.0] * 8]
    for layer in features.layers:
        assert not layer.motion[:, :12].any() and layer.motion[:, 12:].flatten(2).any(dim=2).all()


def test_the_past_is_read_through_the_segments():
    config = tiny_config()
    model = LoopyModel(config).eval()
    history = torch.randn(1, 124, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    features = model.read_reference(torch.zeros(1, 4, 4, 4), history, torch.ones(1, 124))
    assert features.layers[0].motion.shape[1] == 20
    history[:, 123 - 4] += 1  # offset 4 lies between the kept offsets 3 and 5
    unseen = model.read_reference(torch.zeros(1, 4, 4, 4), history, torch.ones(1, 124))
    assert torch.equal(unseen.layers[0].motion, features.layers[0].motion)
    history[:, 123 - 5] += 1
    seen = model.read_reference(torch.zeros(1, 4, 4, 4), history, torch.ones(1, 124))
    assert not torch.equal(seen.layers[0].motion, features.layers[0].motion)


def test_each_column_of_the_latents_has_a_part_temperature_or_none():
    three = GenerationDefaults(part_temperatures=(0.5, 1.2, 1.1))
    config = LoopyConfig(name="faces", latent_size=(1, 3), defaults=three)
    assert LoopyConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="3 part temperatures for latents of 64 columns"):
        LoopyConfig(name="pictures", defaults=three)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        GenerationDefaults(part_temperatures=(0.5, -1.0))
