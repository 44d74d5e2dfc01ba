"""What the Hugging Face hub expects: a folder with a card, found again by name."""

from __future__ import annotations

import inspect
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard, ModelHubMixin

from openloopy.inference.pipeline import GenerationOptions, LoopyPipeline
from openloopy.models.rig_codec import Portrait
from tests.tiny import tiny_model, tiny_portrait, tiny_sound


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "my-model"
    LoopyPipeline(tiny_model()).save_pretrained(folder)
    return folder


def frames(pipeline: LoopyPipeline) -> np.ndarray:
    options = GenerationOptions(steps=1)
    return np.stack(
        list(pipeline.generate(Portrait(tiny_portrait()), (tiny_sound(0.3), 16_000), options=options))
    )


def test_a_saved_pipeline_is_the_same(saved):
    assert np.array_equal(frames(LoopyPipeline.from_pretrained(saved)), frames(LoopyPipeline(tiny_model())))


def test_the_card_has_what_the_hub_shows(saved):
    card = ModelCard.load(saved / "README.md")
    facts = card.data
    assert (facts.license, facts.pipeline_tag, facts.library_name) == (
        "apache-2.0",
        "image-to-video",
        "openloopy",
    )
    assert {"talking-head", "audio-driven"} <= set(facts.tags)
    for text in ("tiny", "arxiv.org/abs/2409.02634", "openloopy.generate(", "have agreed", "32x32"):
        assert text in card.text, text
    assert "{{" not in card.text


def test_a_card_that_is_there_is_kept(saved, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    LoopyPipeline(tiny_model()).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "config.json").read_text() == (saved / "config.json").read_text()


def test_a_hub_id_is_fetched_with_what_was_asked_for(saved, monkeypatch):
    asked = []

    def snapshot_download(name, **settings):
        asked.append((name, settings))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    LoopyPipeline.from_pretrained(
        "ann/my-model", revision="v1", token="t", cache_dir="c", local_files_only=True
    )
    name, settings = asked[0]
    assert name == "ann/my-model"
    assert settings == {
        "allow_patterns": ["*.json", "*.safetensors"],
        "revision": "v1",
        "token": "t",
        "cache_dir": "c",
        "local_files_only": True,
    }
    real = inspect.signature(huggingface_hub.HfApi.snapshot_download).parameters
    assert set(settings) <= set(real) | {"cache_dir"}


def test_it_can_be_pushed(monkeypatch):
    calls = []

    class Api:
        def __init__(self, **settings): ...

        def create_repo(self, **settings):
            return type("Repo", (), {"repo_id": settings["repo_id"]})

        def upload_folder(self, **settings):
            calls.append(sorted(path.name for path in Path(settings["folder_path"]).iterdir()))
            return "done"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    pipeline = LoopyPipeline(tiny_model())
    assert isinstance(pipeline, ModelHubMixin) and pipeline.push_to_hub("ann/my-model") == "done"
    assert calls == [["README.md", "audio_encoder", "config.json", "loopy.safetensors", "vae"]]
