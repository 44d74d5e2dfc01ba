"""IQA: the scoring rule by hand, sampling of frames, a folder with code that runs only where that is allowed."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from openloopy.measures.iqa import (
    BATCH,
    LEVELS,
    TRUST_VARIABLE,
    five_point,
    image_quality,
    level_score,
    load_one_align,
    quality_scores,
)
from openloopy.measures.outside_weights import FOLDER_VARIABLE, WeightsMissing

CODE = '''
import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

class TinyConfig(PretrainedConfig):
    model_type = "tiny_align"

class TinyAlign(PreTrainedModel):
    """Answers as OneAlign does; its one weight is the score of white."""

    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.white = torch.nn.Parameter(torch.zeros(1))
        self.post_init()

    def score(self, images, task_="quality", input_="image"):
        assert (task_, input_) == ("quality", "image")
        light = torch.tensor([np.asarray(image).mean() / 255 for image in images])
        return 1 + (self.white - 1) * light.to(self.white.dtype)
'''
"""Stands for the folder of OneAlign: the same way in, nothing of its network."""


class _Brightness:
    """A scorer: 1 for black, 5 for white; remembers how many frames it saw at a time."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, frames: Sequence[np.ndarray], /) -> Tensor:
        self.batches.append(len(frames))
        return torch.tensor([1 + 4 * float(frame.mean()) / 255 for frame in frames])


def _flat(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A tiny model of another project, with its own code, in the weights folder."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = tmp_path / "one-align"
    folder.mkdir()
    (folder / "tiny_align.py").write_text(CODE)
    classes = {"AutoConfig": "tiny_align.TinyConfig", "AutoModelForCausalLM": "tiny_align.TinyAlign"}
    settings = {"model_type": "tiny_align", "architectures": ["TinyAlign"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({"white": torch.tensor([4.5])}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_levels_alone_are_worth_5_to_1():
    certain = torch.full((5, 5), -1e4).fill_diagonal_(0)
    assert level_score(certain).tolist() == [5, 4, 3, 2, 1]
    assert LEVELS[0] == "excellent"


def test_the_scoring_rule_by_hand():
    """Equal logits: the middle. Weights 4 : 2 : 1 : 1 : 0 of 8: (20 + 8 + 3 + 2) / 8 = 4.125."""
    assert float(level_score(torch.zeros(5))) == pytest.approx(3)
    logits = torch.tensor([[math.log(4), math.log(2), 0, 0, -math.inf]])
    assert level_score(logits).tolist() == pytest.approx([4.125])
    assert level_score(logits + 7).tolist() == pytest.approx([4.125])


def test_scores_of_0_to_1_become_1_to_5():
    """The public scorer weighs with 1, .75, .5, .25 and 0."""
    logits = torch.tensor([0.3, -1.2, 2.0, 0.7, -0.1])
    unit = logits.softmax(-1) @ torch.tensor([1, 0.75, 0.5, 0.25, 0])
    assert float(five_point(unit)) == pytest.approx(float(level_score(logits)))


def test_logits_of_other_levels_are_refused():
    with pytest.raises(ValueError, match="5 levels"):
        level_score(torch.zeros(2, 4))


def test_one_of_so_many_frames_is_scored_in_batches():
    scorer = _Brightness()
    scores = quality_scores((_flat(51 * (index % 6)) for index in range(12)), scorer, every=2)
    assert scores == pytest.approx([1 + 4 * value / 5 for value in (0, 2, 4, 0, 2, 4)])
    assert scorer.batches == [BATCH, 2]


def test_no_frames_and_wrong_scales_are_refused():
    with pytest.raises(ValueError, match="no frames"):
        quality_scores([], _Brightness())
    with pytest.raises(ValueError, match=r"1 to 5, got 0\.200; five_point"):
        quality_scores([_flat(0)], lambda frames: torch.tensor([0.2]))
    with pytest.raises(ValueError, match="every=0"):
        quality_scores([_flat(0)], _Brightness(), every=0)


def test_without_the_folder_it_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(TRUST_VARIABLE, "qalign")
    with pytest.raises(WeightsMissing, match="IQA needs one-align"):
        image_quality([_flat(0)])


@pytest.mark.parametrize("trusted", [None, "", "1", "another"])
def test_foreign_code_does_not_run_without_a_second_yes(folder, monkeypatch, trusted):
    (folder / "tiny_align.py").write_text("raise SystemExit('ran')")
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    if trusted is not None:
        monkeypatch.setenv(TRUST_VARIABLE, trusted)
    with pytest.raises(WeightsMissing, match=rf"read it, then set {TRUST_VARIABLE}=qalign"):
        load_one_align("cpu")


def test_a_trusted_folder_scores(folder, monkeypatch):
    monkeypatch.setenv(TRUST_VARIABLE, "another,qalign")
    score = image_quality([_flat(255), _flat(0), _flat(51), _flat(0)], every=2, device="cpu")
    assert score == pytest.approx((4.5 + 1 + 3.5 / 5) / 2, abs=2e-3)  # half precision


def test_code_that_fails_is_named_with_the_version(folder, monkeypatch):
    monkeypatch.setenv(TRUST_VARIABLE, "qalign")
    (folder / "tiny_align.py").write_text("raise AttributeError('no mlp_bias')")
    with pytest.raises(ValueError, match=r"no mlp_bias.*transformers 4\.36"):
        load_one_align("cpu")
