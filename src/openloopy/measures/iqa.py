"""IQA: picture quality of frames on a scale of 1 to 5, by a language model that looks at them.

Source: Wu et al., "Q-Align: Teaching LMMs for Visual Scoring via Discrete Text-Defined Levels" (arXiv:2312.17090, ICML
2024): asked for the quality of a picture, the model weighs five words, and their levels are averaged by its weights.
The network is OneAlign (https://huggingface.co/q-future/one-align, mPLUG-Owl2, 8 billion parameters, 16.4 GB).

Its folder holds Python code that runs when it is loaded, so loading needs a second yes: see `TRUST_VARIABLE`. That
code was written for transformers 4.36 and fetches its tokenizer and picture settings by name from the Hugging Face
hub; without network they must lie in the hub's cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openloopy.measures.outside_weights import WeightsMissing, weights_path

LEVELS = ("excellent", "good", "fair", "poor", "bad")
"""Worth 5, 4, 3, 2 and 1."""
TRUST_VARIABLE = "OPENLOOPY_TRUST_CODE"
"""Set to `qalign` by who has read the Python files of the folder and lets them run."""
BATCH = 4
"""Frames at a time: the model sees each as 448 x 448 px."""


class Scorer(Protocol):
    """Scores of frames, each `H W 3` uint8 RGB, on a scale of 1 to 5: `b`."""

    def __call__(self, frames: Sequence[np.ndarray], /) -> Tensor: ...


def image_quality(frames: Iterable[np.ndarray], *, every: int = 1, device: str = "cuda") -> float:
    """IQA of a video: the mean of `quality_scores` by OneAlign.

    Args:
        frames: `H W 3` uint8 RGB; read one by one.
        every: of so many frames one is looked at, from the first on.
        device: where the network computes, in half precision.

    Raises:
        WeightsMissing: OneAlign is not on this machine or its code is not trusted; says what to do.
        ValueError: there are no frames, or the folder cannot be loaded.
    """
    return float(np.mean(quality_scores(frames, load_one_align(device), every=every)))


def quality_scores(frames: Iterable[np.ndarray], scorer: Scorer, *, every: int = 1) -> list[float]:
    """Quality of frames, 1 (bad) to 5 (excellent).

    Args:
        frames: `H W 3` uint8 RGB; read one by one, `BATCH` held.
        scorer: from `load_one_align`, or another one on the same scale.
        every: of so many frames one is looked at, from the first on.

    Raises:
        ValueError: there are no frames, or the scorer answers beyond 1..5.
    """
    if every < 1:
        raise ValueError(f"expected to look at one of 1 or more frames, got every={every}")
    scores = [s for batch in _batches(islice(frames, 0, None, every)) for s in scorer(batch).float().tolist()]
    if not scores:
        raise ValueError("there are no frames to score")
    beyond = [score for score in scores if not 0.99 <= score <= 5.01]
    if beyond:
        raise ValueError(
            f"expected scores of 1 to 5, got {beyond[0]:.3f}; five_point converts those of a scorer of 0..1"
        )
    return scores


def level_score(logits: Tensor) -> Tensor:
    """The score of a picture from the logits of the five words (Q-Align, eq. 3 and 4).

    Softmax over the five alone, then the mean of their levels.

    Args:
        logits: in the order of `LEVELS`, `... 5`.

    Returns:
        1..5, `...`.
    """
    if logits.shape[-1:] != (len(LEVELS),):
        raise ValueError(f"expected logits of the {len(LEVELS)} levels, ... 5, got {tuple(logits.shape)}")
    worth = torch.arange(len(LEVELS), 0, -1, dtype=torch.float32, device=logits.device)
    return logits.float().softmax(-1) @ worth


def five_point(unit_scores: Tensor) -> Tensor:
    """Scores of 0..1, which `scorer.py` of https://github.com/Q-Future/Q-Align gives, as 1..5."""
    return 1 + 4 * unit_scores


def load_one_align(device: str = "cuda") -> Scorer:
    """OneAlign from the weights folder.

    Raises:
        WeightsMissing: the folder is not there, or nobody has allowed its code to run.
        ValueError: it cannot be loaded, most often for the version of transformers.
    """
    folder = weights_path("qalign")
    if "qalign" not in os.environ.get(TRUST_VARIABLE, "").split(","):
        raise WeightsMissing(
            f"not loaded: IQA would run the Python code in {folder}; read it, then set {TRUST_VARIABLE}=qalign"
        )
    model = _load_with_its_code(folder).to(device).eval()

    def score(frames: Sequence[np.ndarray], /) -> Tensor:
        pictures = [Image.fromarray(frame) for frame in frames]
        return model.score(pictures, task_="quality", input_="image").cpu()

    return score


def _load_with_its_code(folder: Path) -> Any:
    """Its class is known only to the folder."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ValueError(f"IQA needs transformers: pip install 'openloopy[iqa]' ({error})") from error
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True, torch_dtype=torch.float16, attn_implementation="eager"
        )
    except Exception as error:  # foreign code fails in its own ways
        raise ValueError(
            f"{folder} cannot be loaded ({type(error).__name__}: {error}); its code was written for transformers 4.36, "
            f"this is {transformers.__version__}, and takes its tokenizer from the Hugging Face hub or its cache"
        ) from error


def _batches(frames: Iterator[np.ndarray]) -> Iterator[list[np.ndarray]]:
    while batch := list(islice(frames, BATCH)):
        yield batch
