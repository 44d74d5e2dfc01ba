"""The lip-sync network learns on a small bank, resumes, and its losses are what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from openloopy.measures.lip_sync import load_lip_sync
from openloopy.recipes import run_recipe
from openloopy.recipes.sync import sync
from openloopy.training.stats import read_stats
from openloopy.training.sync import SyncBank, contrastive_losses, spoil_points


def test_the_true_pair_wins():
    logits = torch.zeros(3, 3, 7)
    logits[torch.arange(3), torch.arange(3), 3] = 30.0
    found = contrastive_losses(logits, 0.0)
    assert found["loss"] < 1e-4 and found["found"] == 1
    wrong = contrastive_losses(logits.roll(1, 1), 0.0)
    assert wrong["loss"] > 10 and wrong["found"] == 0
    even = contrastive_losses(torch.zeros(3, 3, 7), 0.1)
    assert even["loss"].item() == pytest.approx(np.log(21), rel=1e-4)


def test_spoilt_points_stay_near():
    rng = np.random.default_rng(0)
    points = rng.uniform(50, 150, (40, 68, 2))
    spoilt = spoil_points(points, sync().training, rng)
    assert spoilt.shape == points.shape and 0 < np.abs(spoilt - points).mean() < 40


def test_banks_must_fit():
    with pytest.raises(ValueError, match="640 samples per frame"):
        SyncBank(np.zeros((2, 100), np.int16), np.zeros((2, 4, 68, 2)))


@pytest.mark.slow
def test_the_recipe_runs_and_resumes(tmp_path):
    small = {"bank.num_utterances": "6", "held_out.num_utterances": "3", "bank.num_drawn": "2"}
    small |= {
        "held_out.num_drawn": "2",
        "training.batch_size": "4",
        "loop.checkpoint_every": "2",
        "loop.log_every": "1",
    }
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for steps in ("3", "5"):
        run_recipe("sync", corpus, tmp_path / "run", small | {"loop.num_steps": steps})
    assert [row["step"] for row in read_stats(tmp_path / "run")] == list(range(5))
    load_lip_sync(tmp_path / "run" / "lip_sync.safetensors")
    assert replace(sync().bank, num_utterances=1).utterance_s == 5.0
    with pytest.raises(ValueError, match="no --start"):
        run_recipe("sync", corpus, tmp_path / "run", start=corpus)
