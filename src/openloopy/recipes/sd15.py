"""`sd15`: the paper's size, Stable Diffusion 1.5 widths at 512x512 (Loopy sec. 3 and 4).

The configuration of the model; same code as `mini`. Its weights come from training: none are public.
"""

from __future__ import annotations

from openloopy.models.audio_encoder import AudioEncoderConfig
from openloopy.models.loopy import LoopyConfig


def loopy_config() -> LoopyConfig:
    """The paper's model: all defaults of `LoopyConfig` are its settings."""
    return LoopyConfig(name="sd15")


def audio_encoder_config() -> AudioEncoderConfig:
    """wav2vec2-base-960h: transformers' default sizes, on sound normalised as a whole."""
    return AudioEncoderConfig(loudness="normalised")
