"""Two runs in one folder would spoil each other's work: the second is refused, wherever runs go on with a folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from openloopy import recipes
from openloopy.apps import evaluate, study
from openloopy.apps.cli import main
from openloopy.data.cache import CacheInfo, CacheWriter
from openloopy.media.files import BusyError, only_maker, only_run_in
from openloopy.puppet import speech_folder
from openloopy.puppet.corpus import CorpusConfig, write_corpus
from openloopy.puppet.speech_folder import INDEX_NAME, add_kokoro
from openloopy.recipes import face_bank, run_recipe
from openloopy.recipes.face_bank import FaceBankConfig, build_face_bank


def puppets(out: Path) -> None:
    write_corpus(CorpusConfig(out=out, num_clips=2))


def speech(out: Path) -> None:
    add_kokoro(out, hours=0.0, split="train")


def bank(out: Path) -> None:
    build_face_bank(FaceBankConfig(portraits=out, out=out))


def evaluation(out: Path) -> None:
    evaluate.evaluate(SimpleNamespace(out=out))


def votes(out: Path) -> None:
    study.run_study(SimpleNamespace(out=out))


def cache(out: Path) -> None:
    CacheWriter(out, CacheInfo(kind="pixels", size_px=64, source_sha256=""))


@pytest.mark.parametrize("run", [puppets, speech, bank, evaluation, votes, cache])
def test_a_folder_in_use_is_refused(run, tmp_path, monkeypatch):
    for module, name in ((study, "open_booth"), (evaluate, "_evaluated"), (face_bank, "_built")):
        monkeypatch.setattr(module, name, lambda config: pytest.fail("it was begun"))
    with only_run_in(tmp_path), pytest.raises(BusyError, match="another run is at work in"):
        run(tmp_path)


def test_a_step_in_use_is_refused_and_another_of_the_same_run_is_not(tmp_path, monkeypatch):
    done: list[str] = []
    steps = {"one": lambda line, place: done.append("one"), "two": lambda line, place: done.append("two")}
    line = SimpleNamespace(steps=("one", "two"), variant="")
    monkeypatch.setattr("openloopy.recipes.line.STEPS", steps)
    monkeypatch.setattr(recipes, "recipe_names", lambda: ["tiny", "tiny.one", "tiny.two"])
    monkeypatch.setattr(recipes, "load_line", lambda name: line)
    run = tmp_path / "run"
    run.mkdir()
    with only_maker(run / "one"):
        run_recipe("tiny.two", tmp_path, run)
        with pytest.raises(BusyError, match="another run is making .*run/one; wait for it"):
            run_recipe("tiny.one", tmp_path, run)
    assert done == ["two"]
    run_recipe("tiny", tmp_path, run)
    assert done == ["two", "one", "two"] and not list(run.glob(".*"))


def test_a_model_folder_is_imported_once_at_a_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "openloopy.models.importing.import_model", lambda *args, **settings: pytest.fail("begun")
    )
    out = tmp_path / "deep" / "model"
    out.parent.mkdir()
    with only_maker(out), pytest.raises(SystemExit) as stop:
        main(["import", str(tmp_path), str(out)])
    assert stop.value.code == 1 and "another run is making" in capsys.readouterr().err


def test_a_line_that_a_killed_run_had_half_written_is_taken_away(tmp_path, monkeypatch):
    index = tmp_path / INDEX_NAME
    row = (
        '{"file": "a.flac", "split": "train", "speaker": "ann", "language": "en", "seconds": 1.0, "engine": '
    )
    whole = row + '"recorded", "text": "", "phonemes": null, "licence": ""}\n'
    index.write_text(whole + row)
    (tmp_path / ".b.12345678-0.partial.flac").touch()
    seen = []
    monkeypatch.setattr(speech_folder, "_speak_missing", lambda folder, names, **facts: seen.append(names))
    add_kokoro(tmp_path, hours=0.0, split="train")
    assert seen == [{"a"}] and index.read_text() == whole
    assert sorted(os.listdir(tmp_path)) == [INDEX_NAME]


@pytest.mark.parametrize("hours", [float("nan"), float("inf"), -1.0])
def test_speech_of_no_length_is_refused(tmp_path, hours):
    with pytest.raises(ValueError, match="hours must be a number that is not negative"):
        add_kokoro(tmp_path / "new", hours=hours, split="train")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("setting", "text", "message"),
    [
        ("loop.optim.learning_rate", "NaN", "expected a finite number, got NaN"),
        ("loop.optim.learning_rate", "1e999", "expected a finite number, got 1e999"),
        ("loop.optim.betas", "[0.9, Infinity]", "expected a finite number"),
        ("loop.optim.learning_rate", "0", "learning_rate and max_grad_norm must be numbers above 0"),
        ("loop.optim.learning_rate", "-1e-3", "must be numbers above 0"),
        ("loop.optim.weight_decay", "-1", "must not be negative"),
        ("loop.optim.betas", "[0.9, 1.0]", r"betas must lie in \[0, 1\)"),
        ("loop.num_steps", "0", "step counts must be at least 1"),
        ("loop.num_steps", "-5", "step counts must be at least 1"),
        ("training.batch_size", "0", "training.batch_size must be at least 1, got 0"),
    ],
)
def test_numbers_that_no_training_can_have_are_refused_in_words(setting, text, message):
    from openloopy.recipes.tiny import tiny

    with pytest.raises(ValueError, match=message):
        recipes.overridden(tiny(), "stage1", {setting: text})
    recipes.overridden(tiny(), "stage1", {"training.batch_size": "1", "loop.optim.learning_rate": "1e-4"})
