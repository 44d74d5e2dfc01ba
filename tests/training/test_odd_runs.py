"""Run folders after a kill, and with files that no run has written."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openloopy.recipes.line import Place, remember_start
from openloopy.training.checkpoint import CHECKPOINT_NAME
from openloopy.training.face_bank import FaceBank
from openloopy.training.loop import train
from openloopy.training.stats import STATS_NAME, StatsWriter, read_stats
from tests.training.test_loop import CONFIG, ToyTask, quiet

DEEP = "[" * 100_000


@pytest.fixture
def run(tmp_path) -> Path:
    train(ToyTask(), replace(CONFIG, num_steps=4, sample_every=4), tmp_path / "run", quiet)
    return tmp_path / "run"


def go_on(run: Path) -> None:
    train(ToyTask(), CONFIG, run, quiet)


@pytest.mark.parametrize("text", ["", "[]", DEEP, "{", "\x00"])
def test_settings_that_are_none_are_named(run, text):
    (run / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json cannot be read|config.json holds"):
        go_on(run)


@pytest.mark.parametrize("text", ["{}", '{"loop": 3}', '{"loop": {"optim": []}}'])
def test_settings_of_something_else_are_not_this_runs(run, text):
    (run / "config.json").write_text(text)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        go_on(run)


@pytest.mark.parametrize("row", ["{}", '{"step": "x"}', '[{"step": 1}', '{"step": true}', DEEP + "}"])
def test_a_line_that_no_run_has_written_is_named(run, row):
    lines = (run / STATS_NAME).read_text().splitlines()
    (run / STATS_NAME).write_text(
        "\n".join([lines[0], row if row.endswith("}") else row + "}", *lines[1:]]) + "\n"
    )
    with pytest.raises(ValueError, match=r"stats\.jsonl, line 2 is no row"):
        go_on(run)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "4"},
        {"step": -1},
        {"network": {}},
        {"network": 3},
        {"average": {"0.weight": torch.zeros(1)}},
        {"optimizer": {}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"extra": 1},
    ],
)
def test_a_checkpoint_of_something_else_is_named(run, change):
    content = torch.load(run / CHECKPOINT_NAME, weights_only=True) | change
    torch.save(content, run / CHECKPOINT_NAME)
    with pytest.raises(ValueError, match=r"(?s)checkpoint\.pt .*; move it away"):
        go_on(run)


def test_rows_survive_a_kill_while_they_are_written_anew(run, monkeypatch):
    before = read_stats(run)

    def die(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", die)
        StatsWriter(run, 2)
    assert read_stats(run) == before
    StatsWriter(run, 2)
    assert read_stats(run) == before[:2]


def test_what_a_run_remembers_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def die(source, target):
        raise KeyboardInterrupt

    place = Place((tmp_path,), tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            remember_start(place)
        with pytest.raises(KeyboardInterrupt):
            go_on(tmp_path / "run")
    remember_start(place)
    go_on(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "start.json").read_text()) == {"start": None}


def test_a_start_that_is_none_is_named(tmp_path):
    for text in ("", "[]", DEEP):
        (tmp_path / "start.json").write_text(text)
        with pytest.raises(ValueError, match=r"start\.json"):
            remember_start(Place((tmp_path,), tmp_path))


def write_bank(folder: Path) -> None:
    folder.mkdir()
    arrays = {
        "meshes": np.zeros((1, 478, 3)),
        "about": np.array([["train", "portrait", "a"]]),
        "scene_sizes": np.array([[8, 8]]),
        "scene_split": np.array(["train"]),
        "scene_counts": np.array([1]),
        "scene_meshes": np.zeros((1, 478, 3)),
    }
    np.savez(folder / "labels.npz", **arrays)
    np.save(folder / "views.npy", np.zeros((1, 8, 8, 3), np.uint8))
    np.save(folder / "scenes.npy", np.zeros((1, 8, 8, 3), np.uint8))
    np.save(folder / "scene_masks.npy", np.zeros((1, 8, 8), np.uint8))
    (folder / FaceBank.INDEX).write_text("{}")


def test_a_bank_whose_parts_do_not_belong_together_is_refused(tmp_path):
    write_bank(tmp_path / "bank")
    assert len(FaceBank.open(tmp_path / "bank").views) == 1
    spoilt = {
        "views.npy": np.zeros((2, 8, 8, 3), np.uint8),
        "scenes.npy": np.zeros((1, 8, 8, 3)),
        "scene_masks.npy": np.zeros((1, 8, 4), np.uint8),
    }
    for i, (name, array) in enumerate(spoilt.items()):
        write_bank(tmp_path / str(i))
        np.save(tmp_path / str(i) / name, array)
        with pytest.raises(ValueError, match="holds no whole face bank"):
            FaceBank.open(tmp_path / str(i))
    for i, content in enumerate([b"", b"PK\x03\x04", b"x" * 300]):
        write_bank(tmp_path / f"labels-{i}")
        (tmp_path / f"labels-{i}" / "labels.npz").write_bytes(content)
        with pytest.raises(ValueError, match="holds no whole face bank"):
            FaceBank.open(tmp_path / f"labels-{i}")
