"""Memory tiers: the same frames, the weights where the tier says, and a choice by what is free."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openloopy.inference import memory
from openloopy.inference.memory import (
    BlockOffload,
    choose_tier,
    needed_bytes,
    offload,
    open_pipeline,
    pick_tier,
)
from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline, fits_batched
from openloopy.media.audio import SAMPLE_RATE_HZ
from openloopy.models.folder import load_model
from openloopy.models.loopy import LoopyConfig
from openloopy.models.rig_codec import Portrait
from openloopy.recipes import mini
from tests.tiny import tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    LoopyPipeline(tiny_model()).save_pretrained(out)
    return out


def frames_of(pipeline: LoopyPipeline, branches: str = "in_turn") -> np.ndarray:
    side, rng = pipeline.size_px, np.random.default_rng(0)
    portrait = Portrait(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
    sound = rng.normal(0, 0.1, SAMPLE_RATE_HZ).astype(np.float32)
    options = GenerationOptions(steps=2, branches=branches)
    return np.stack(list(pipeline.generate(portrait, (sound, SAMPLE_RATE_HZ), options=options))).astype(int)


def test_slim_gives_the_same_frames(folder):
    full = frames_of(open_pipeline(folder, device=CPU, dtype=torch.float32), "batched")
    slim = frames_of(open_pipeline(folder, device=CPU, dtype=torch.float32, tier="slim"))
    assert abs(full - slim).max() <= 1


def test_offloaded_blocks_give_the_same_frames_and_two_at_most_are_present(folder, monkeypatch):
    """On the CPU the copies are made in the same order as on a GPU, without its streams."""
    full = frames_of(open_pipeline(folder, device=CPU, dtype=torch.float32))
    model = load_model(folder)
    kept = [offload(net, CPU) for net in (model.loopy.denoiser, model.loopy.reference_net)]
    seen = []
    enter = BlockOffload._enter

    def watched(self, i):
        enter(self, i)
        seen.append(len(self.present))
        assert all(parameter.data_ptr() != home.data_ptr() for parameter, home in self.homes[i])

    monkeypatch.setattr(BlockOffload, "_enter", watched)
    again = frames_of(LoopyPipeline(model))
    assert np.array_equal(again, full)
    assert max(seen) == 2
    for net in kept:
        away = [i for i in range(len(net.blocks)) if i not in net.present]
        assert all(p.data_ptr() == home.data_ptr() for i in away for p, home in net.homes[i])


def test_int8_is_close(folder):
    pytest.importorskip("torchao", reason="torchao is not installed")
    full = frames_of(open_pipeline(folder, device=CPU, dtype=torch.float32))
    small = frames_of(open_pipeline(folder, device=CPU, dtype=torch.float32, tier="int8"))
    assert 0 < abs(full - small).mean() < 2


def test_the_first_tier_that_fits_is_picked(monkeypatch):
    needed = {"full": 30, "slim": 20, "offload": 10}
    for free, tier in ((100, "full"), (30, "slim"), (15, "offload"), (1, "offload"), (None, "full")):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert pick_tier(needed, CPU).tier == tier


def test_what_is_free_is_what_the_process_can_have(monkeypatch):
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 25)
    assert memory.free_bytes(CPU) == 25 and memory.free_bytes(torch.device("mps")) is None
    assert pick_tier({"full": 30, "slim": 20, "int8": 10}, CPU).tier == "slim"


@pytest.mark.parametrize(("quota", "num"), [(1.0, 1), (None, 2)])
def test_torch_starts_no_more_threads_than_a_container_gives_time_for(folder, monkeypatch, quota, num):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(memory, "cpu_quota", lambda: quota)
    monkeypatch.setattr(memory, "cpu_cores", lambda: 1)
    try:
        open_pipeline(folder, device=CPU, dtype=torch.float32)
        assert torch.get_num_threads() == num
    finally:
        torch.set_num_threads(before)


def test_estimates_shrink_from_tier_to_tier():
    config = LoopyConfig(name="paper")
    sizes = dict(num_loopy=2_000_000_000, num_others=180_000_000, dtype=torch.bfloat16)
    needed = needed_bytes(config, **sizes, device=torch.device("cuda"))
    amounts = [needed[tier] for tier in ("full", "slim", "offload")]
    assert amounts == sorted(amounts, reverse=True)
    assert 6 * 2**30 < amounts[0] < 24 * 2**30 and amounts[2] < 8 * 2**30
    assert "offload" not in needed_bytes(config, **sizes, device=CPU)


def test_impossible_tiers_say_why(folder):
    with pytest.raises(ValueError, match="offload is not possible here: there is no other memory"):
        choose_tier(folder, CPU, torch.float32, "offload")
    with pytest.raises(ValueError, match="unknown memory tier 'huge'; choose one of auto, full, slim"):
        choose_tier(folder, CPU, torch.float32, "huge")
    choice = choose_tier(folder, CPU, torch.float32)
    assert choice.tier == "full" and "memory tier full" in str(choice) and "GB is free" in str(choice)


def test_a_model_of_face_states_needs_little_at_any_size():
    """Its latents are three positions a frame, and no decoder works on the picture."""
    config, sizes = mini.loopy_config(), dict(num_loopy=3_000_000, num_others=1_000_000, dtype=torch.float32)
    assert config.num_positions == 3 and LoopyConfig(name="paper").num_positions == 64 * 64
    needed = needed_bytes(config, **sizes, device=CPU)
    assert needed["full"] < 2**30 < needed_bytes(LoopyConfig(name="paper"), **sizes, device=CPU)["full"]
    layers, width, places, frames = 5, 96, 3, 21
    assert memory.keys_bytes(config, 4) == layers * width * places * frames * 3 * 4
    assert fits_batched(config, 3, CPU)
