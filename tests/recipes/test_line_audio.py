"""The step `audio` of a line: what the encoder begins with, and what it hears."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openloopy.models.audio_encoder import AudioEncoder, save_audio_encoder
from openloopy.puppet.speech_folder import INDEX_NAME
from openloopy.recipes import line as line_module
from openloopy.recipes import load_line, run_recipe
from openloopy.recipes.line import Place, train_audio


@pytest.fixture
def trained(monkeypatch) -> list:
    """The tasks that would have been trained."""
    tasks = []
    monkeypatch.setattr(line_module, "train", lambda task, loop, folder: tasks.append(task))
    monkeypatch.setattr(line_module, "hama_file", lambda: Path("a.hama"))

    def fill(network, path):
        with torch.no_grad():
            network.stem.bias.fill_(7.0)

    monkeypatch.setattr(line_module, "start_from_hama", fill)
    return tasks


def tiny_with(begins_with: str):
    tiny = load_line("tiny")
    bank = replace(tiny.audio.bank, num_utterances=1, utterance_s=2.0)
    return replace(tiny, audio=replace(tiny.audio, bank=bank, held_out=bank, begins_with=begins_with))


def bias_of(task) -> float:
    return float(task.network.encoder.network.stem.bias.detach().mean())


def test_an_encoder_begins_with_hama_or_with_nothing(trained, tmp_path) -> None:
    train_audio(tiny_with("hama"), Place((), tmp_path / "a"))
    train_audio(tiny_with("nothing"), Place((), tmp_path / "b"))
    assert bias_of(trained[0]) == 7 and abs(bias_of(trained[1])) < 1


def test_a_start_of_the_same_settings_needs_no_hama(trained, tmp_path, capsys, monkeypatch) -> None:
    line = tiny_with("hama")
    encoder = AudioEncoder(line.audio.model)
    with torch.no_grad():
        encoder.network.stem.bias.fill_(3.0)
    save_audio_encoder(tmp_path / "start" / "audio_encoder", encoder)
    train_audio(line, Place((), tmp_path / "a", tmp_path / "start"))
    assert bias_of(trained[0]) == 3
    other = replace(line, audio=replace(line.audio, model=replace(line.audio.model, loudness="as_is")))
    train_audio(other, Place((), tmp_path / "b", tmp_path / "start"))
    assert (
        bias_of(trained[1]) == 7
        and "has other settings; this one begins with hama" in capsys.readouterr().out
    )


def test_speech_folders_are_told_from_shards(monkeypatch, tmp_path) -> None:
    for name in ("speech", "shards"):
        (tmp_path / name).mkdir()
    (tmp_path / "speech" / INDEX_NAME).write_text("")
    places = []
    monkeypatch.setitem(line_module.STEPS, "audio", lambda line, place: places.append(place))
    run_recipe("tiny.audio", [tmp_path / "shards", tmp_path / "speech"], tmp_path / "run")
    assert places[0].data == (tmp_path / "shards",) and places[0].speech == (tmp_path / "speech",)
