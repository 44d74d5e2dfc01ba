"""Settings of a video: the same from Python, from a table's texts and from a form's."""

from __future__ import annotations

import pytest

from openloopy.apps.settings import VideoSettings, setting_kinds
from openloopy.inference.pipeline import GenerationOptions


def test_texts_become_settings_and_back():
    texts = {"seed": "7", "steps": "4", "audio_guidance": "2.5", "size": "256", "crf": "30", "label": "true"}
    settings = VideoSettings.from_text(texts)
    assert settings == VideoSettings(seed=7, steps=4, audio_guidance=2.5, size=256, crf=30, label=True)
    assert settings.as_text() == texts
    assert VideoSettings.from_text(settings.as_text()) == settings
    assert VideoSettings().as_text() == {}


def test_empty_texts_mean_the_default():
    texts = {"seed": "", "steps": "none", "size": "AUTO", "face": " ", "crf": "", "label": "", "frame": ""}
    assert VideoSettings.from_text(texts) == VideoSettings()


def test_all_settings_have_a_kind_and_reach_the_pipeline():
    assert setting_kinds() == {
        "seed": int,
        "steps": int,
        "audio_guidance": float,
        "reference_guidance": float,
        "temperature": float,
        "size": int,
        "frame": str,
        "face": int,
        "crf": int,
        "label": bool,
    }
    settings = VideoSettings(
        seed=1, steps=2, audio_guidance=3.0, reference_guidance=4.0, temperature=0.5, size=128
    )
    assert settings.options == GenerationOptions(
        seed=1, steps=2, audio_guidance=3.0, reference_guidance=4.0, temperature=0.5, size_px=128
    )


@pytest.mark.parametrize(
    "texts, message",
    [
        ({"colour": "red"}, "no setting 'colour'; there are: seed, steps"),
        ({"seed": "x"}, "seed must be a whole number, got 'x'"),
        ({"seed": "1.5"}, "seed must be a whole number, got '1.5'"),
        ({"temperature": "warm"}, "temperature must be a number, got 'warm'"),
        ({"temperature": "nan"}, "temperature must be a number, got 'nan'"),
        ({"temperature": "inf"}, "temperature must lie in 0 to 100, got inf"),
        ({"label": "maybe"}, "label must be true or false, got 'maybe'"),
        ({"steps": "0"}, "steps must be a whole number, at least 1, got 0"),
        ({"steps": "1001"}, "steps must be at most 1000, got 1001"),
        ({"size": "8194"}, "size must be at most 8192 px, got 8194"),
        ({"seed": str(2**63)}, r"seed must be below 2\*\*63"),
        ({"frame": "half"}, "frame must be one of crop, full, got 'half'"),
    ],
)
def test_texts_that_do_not_work_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        VideoSettings.from_text(texts)
