"""The command line: parses and calls; answers fast, reads well, cleans up after itself."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import av
import numpy as np
import pytest
import torch
from PIL import Image

from openloopy.apps import doctor, generate
from openloopy.apps.cli import INTERRUPTED, main
from openloopy.apps.doctor import choose, examine
from openloopy.apps.generate import GenerateRequest, ModelChoice, Progress, generate_video
from openloopy.apps.settings import VideoSettings
from openloopy.media.files import sha256_file
from openloopy.media.machine import MemoryLimit
from openloopy.media.video import read_frames
from openloopy.models import precision
from openloopy.recipes import mini, sd15
from tests.media.sounds import write_sound


def _run(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_help_needs_no_heavy_library():
    code = (
        "import sys\n"
        "from openloopy.apps.cli import main\n"
        "try: main(['generate', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'av', 'cv2', 'mediapipe'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in (
        "--model",
        "--seed",
        "--steps",
        "--audio-guidance",
        "--reference-guidance",
        "--face",
        "--size",
        "--frame",
        "--crf",
        "--force",
    ):
        assert option in done.stdout


def test_version(capsys):
    code, out, _ = _run(["--version"], capsys)
    assert code == 0 and re.fullmatch(r"openloopy \d+\.\d+\.\d+\n", out)


@pytest.fixture
def request_(folder) -> GenerateRequest:
    return GenerateRequest(
        portrait=folder / "face.png",
        audio=folder / "speech.wav",
        out=folder / "out" / "a.mp4",
        settings=VideoSettings(seed=5, steps=1, audio_guidance=2.5),
        has_credentials=False,
    )


@pytest.fixture
def choice(model) -> ModelChoice:
    return ModelChoice(model=str(model), device="cpu", dtype="float32")


def test_generate_says_what_where_and_how_long(request_, choice, shared_landmarker, capsys):
    out = request_.out
    arguments = ["generate", request_.portrait, request_.audio, "-o", out, "--model", choice.model]
    code, printed, _ = _run([*arguments, "--steps", 1, "--device", "cpu", "--dtype", "float32"], capsys)
    assert code == 0
    wanted = (
        rf"wrote {out} \(32x32, 0.48 s, 12 frames, with sound\) in [\w. ]+ s: [\d.]+ compute seconds per "
    )
    assert re.match(wanted + r"video second on cpu \(float32\); settings in .*a.json\n", printed), printed
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.json", "a.mp4"]


def test_the_sidecar_tells_how_to_make_the_video_again(request_, choice, landmarker):
    seen = []
    report = generate_video(request_, choice, landmarker=landmarker, watch=seen.append)
    facts = json.loads(report.sidecar.read_text())
    assert facts["ai_generated"] is True
    assert facts["settings"] == {
        "seed": 5,
        "steps": 1,
        "audio_guidance": 2.5,
        "reference_guidance": 2.0,  # the model's own
        "temperature": 1.0,
        "device": "cpu",
        "dtype": "float32",
        "memory": "full",
    }
    assert facts["portrait"]["sha256"] == sha256_file(request_.portrait)
    assert facts["audio"]["sha256"] == sha256_file(request_.audio)
    assert facts["audio"]["duration_s"] == 0.5 and facts["video"]["num_frames"] == 12
    assert set(facts["model"]["sha256"]) >= {"config.json", "loopy.safetensors", "vae/config.json"}
    assert {"openloopy", "torch", "av"} <= set(facts["versions"])
    assert {"load_s", "first_frame_s", "generate_s", "total_s"} <= set(facts["timings"])
    assert [progress.frames_done for progress in seen] == list(range(1, 13))
    assert (seen[-1].clips_done, seen[-1].total_clips, seen[-1].left_s) == (1, 1, 0)


def test_the_video_says_that_it_is_ai_generated(request_, choice, landmarker):
    with av.open(str(generate_video(request_, choice, landmarker=landmarker).out)) as container:
        assert container.metadata["comment"].startswith("AI-generated")


def test_the_same_seed_gives_the_same_file(request_, choice, landmarker, tmp_path):
    hashes = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        settings = VideoSettings(seed=seed, steps=1)
        request = replace(request_, out=request_.out.with_name(f"{name}.mp4"), settings=settings)
        hashes.append(sha256_file(generate_video(request, choice, landmarker=landmarker).out))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"frame": "whole"}, "frame must be one of crop, full, got 'whole'"),
        ({"frame": "full", "size": 256}, "a size goes with frame crop; with frame full the video has"),
        ({"crf": -1}, r"crf must lie in 0 \(lossless\) to 51, got -1"),
        ({"crf": 52}, "got 52"),
        ({"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"face": -1}, r"face must be 0 \(the largest\) or more, got -1"),
        ({"size": 65}, "size must be even and at least 64 px, got 65"),
        ({"seed": 2**63}, r"seed must be below 2\*\*63"),
    ],
)
def test_settings_that_do_not_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VideoSettings(**settings)


def test_a_model_of_image_latents_has_one_size_and_draws_squares(request_, choice, landmarker):
    full = replace(request_, settings=VideoSettings(steps=1, frame="full"))
    with pytest.raises(ValueError, match="frame full needs a model whose portrait itself moves.*tiny draws"):
        generate_video(full, choice, landmarker=landmarker)
    large = replace(request_, settings=VideoSettings(steps=1, size=64))
    with pytest.raises(ValueError, match="tiny makes pictures of 32 px, not of 64"):
        generate_video(large, choice, landmarker=landmarker)
    assert not list(request_.out.parent.iterdir())


@pytest.mark.parametrize("size_px", [None, 96])
def test_a_portrait_that_moves_is_shown_at_any_size(request_, choice, rig_model, landmarker, size_px):
    request = replace(request_, settings=VideoSettings(seed=5, steps=1, size=size_px))
    report = generate_video(request, replace(choice, model=str(rig_model)), landmarker=landmarker)
    frames = np.stack(list(read_frames(report.out)))
    assert frames.shape[1:3] == (report.height, report.width) == (size_px or 64,) * 2
    assert json.loads(report.sidecar.read_text())["video"]["width"] == (size_px or 64)
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 0.1


def test_the_whole_picture_is_shown_and_its_head_moves(request_, choice, rig_model, landmarker, astronaut):
    rgb = np.ascontiguousarray(astronaut[:, :401])
    Image.fromarray(rgb).save(request_.portrait)
    request = replace(request_, settings=VideoSettings(seed=5, steps=1, frame="full", crf=0))
    report = generate_video(request, replace(choice, model=str(rig_model)), landmarker=landmarker)
    facts = json.loads(report.sidecar.read_text())
    assert (report.width, report.height) == (400, 512)  # an odd column goes: H.264 has even sides
    assert (facts["video"]["frame"], facts["video"]["crf"]) == ("full", 0)
    frames = np.stack(list(read_frames(report.out))).astype(int)
    crop = facts["portrait"]["crop"]
    below = round(crop["y0"] + crop["size"]) + 4
    assert 100 < below < 500 and frames.shape[0] == 12
    assert np.ptp(frames[:, below:], axis=0).max() == 0
    assert np.abs(frames[0, below:] - rgb[below:, :400]).mean() < 3  # colours are stored at half the size
    face = (slice(None), slice(60, 160), slice(180, 280))
    assert np.abs(np.diff(frames, axis=0)[face]).mean() > 0.5


def test_force_overwrites(request_, choice, landmarker):
    request_.out.write_text("old")
    request_.sidecar.write_text("old")
    request = replace(request_, may_overwrite=True)
    assert len(list(read_frames(generate_video(request, choice, landmarker=landmarker).out))) == 12
    assert json.loads(request.sidecar.read_text())["ai_generated"]


def test_a_failure_in_the_middle_leaves_nothing(request_, choice, landmarker):
    def fail(progress):
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        generate_video(request_, choice, landmarker=landmarker, watch=fail)
    assert not list(request_.out.parent.iterdir())


def _hear_interrupts() -> None:
    """A job in the background of a script inherits that SIGINT is ignored; a user's terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_half_file(number, request_, choice, folder):
    write_sound(folder / "long.wav", np.zeros((1, 120 * 8_000), np.float32), 8_000)
    command = [sys.executable, "-m", "openloopy.apps.cli", "generate", str(request_.portrait), "long.wav"]
    command += ["-o", "out/a.mp4", "--model", choice.model, "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=_hear_interrupts
    )
    while process.poll() is None and not list((folder / "out").glob(".a.*")):
        time.sleep(0.05)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, printed
    assert printed.strip().endswith("interrupted: nothing was written")
    assert not list((folder / "out").iterdir())


def test_errors_are_one_line_unless_debugging(request_, choice, monkeypatch, capsys):
    arguments = ["generate", "no.png", request_.audio, "-o", request_.out, "--model", choice.model]
    code, _, err = _run(arguments, capsys)
    assert code == 1 and err == "error: no.png does not exist; expected an image file\n"
    monkeypatch.setenv("OPENLOOPY_DEBUG", "1")
    with pytest.raises(ValueError, match="no.png"):
        main([str(argument) for argument in arguments])


def test_unexpected_errors_say_so(request_, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(generate, "generate_video", fail)
    code, _, err = _run(["generate", request_.portrait, request_.audio, "-o", request_.out], capsys)
    assert code == 1 and err.count("\n") == 1
    assert err.startswith("error: ZeroDivisionError: division by zero (unexpected; OPENLOOPY_DEBUG=1")


def test_puppet_passes_its_arguments_on(monkeypatch, tmp_path, capsys):
    from openloopy.puppet import corpus

    configs = []

    def write_corpus(config):
        configs.append(config)
        return corpus.CorpusReport(
            num_clips=45, num_frames=9000, hours=0.1, clips_per_split={"train": 45}, num_people=7,
            num_portraits=9, num_refused=2, reasons={}, clips_this_run=45, seconds_this_run=3.0,
        )  # fmt: skip

    monkeypatch.setattr(corpus, "write_corpus", write_corpus)
    arguments = [
        "puppet",
        "--portraits",
        tmp_path,
        "corpus",
        "--hours",
        "0.1",
        "--size",
        "128",
        "--workers",
        "3",
    ]
    code, out, _ = _run(arguments, capsys)
    assert code == 0 and "45 clips (0.10 h) of 7 people; 2 of 9 portraits refused" in out
    config = configs[0]
    assert (config.portraits, str(config.out), config.size_px, config.workers) == (tmp_path, "corpus", 128, 3)
    assert config.total_clips == 45 and config.lengths_s == (8.0,)
    several = [
        "--clip-s",
        "20",
        "--clip-s",
        "2.4",
        "--name",
        "long",
        "--val-share",
        "0.5",
        "--num-clips",
        "4",
    ]
    assert _run(["puppet", "corpus", *several], capsys)[0] == 0
    assert (configs[1].lengths_s, configs[1].name, configs[1].val_share) == ((20.0, 2.4), "long", 0.5)
    assert _run(["puppet", "corpus", "--hours", "1", "--num-clips", "3"], capsys)[0] == 1


def test_puppet_takes_speech_folders(monkeypatch, capsys):
    from openloopy.puppet import corpus

    configs = []

    def write_corpus(config):
        configs.append(config)
        return MagicMock(
            num_clips=1, hours=0.1, num_people=1, num_refused=0, num_portraits=1, seconds_this_run=22_500.0
        )

    monkeypatch.setattr(corpus, "write_corpus", write_corpus)
    shares = ["--speech-share", "0.9", "--noise-share", "0.3", "--quiet-share", "0.05"]
    arguments = ["puppet", "c", "--num-clips", "2", "--speech", "a", "--speech", "b", *shares]
    code, out, _ = _run(arguments, capsys)
    assert code == 0 and out.endswith("took 6 h 15 min\n")
    config = configs[0]
    assert [str(folder) for folder in config.speech] == ["a", "b"]
    assert (config.speech_share, config.noise_share, config.quiet_share) == (0.9, 0.3, 0.05)


def test_speech_gathers_recordings_and_kokoro(monkeypatch, tmp_path, capsys):
    from openloopy.puppet import speech_folder
    from openloopy.puppet.speech_folder import Spoken
    from openloopy.puppet.utterance import Phoneme

    calls = []
    said = (Phoneme(start_s=0.0, end_s=0.5, symbol="a", alphabet="ipa"),)
    row = dict(path=tmp_path / "a.flac", split="train", language="en", duration_s=1800.0, engine="recorded")
    sounds = [Spoken(**row, speaker="ann", phonemes=said), Spoken(**row, speaker="bob")]

    def add_recorded(out, source, **settings):
        calls.append((out, source, settings))
        return Counter(aligned=2, given=1)

    monkeypatch.setattr(speech_folder, "add_recorded", add_recorded)
    monkeypatch.setattr(speech_folder, "add_kokoro", lambda out, **settings: calls.append((out, settings)))
    monkeypatch.setattr(speech_folder, "read_speech_folder", lambda out: sounds)
    arguments = [
        "speech",
        "out",
        "--recorded",
        "x",
        "--held-out",
        "ann,bob",
        "--language",
        "en",
        "--no-transcribe",
    ]
    code, out, _ = _run([*arguments, "--kokoro-hours", "0.5", "--split", "test", "--workers", "2"], capsys)
    assert code == 0 and "x: 2 aligned, 1 given" in out
    assert "out holds 2 sounds (1.00 h) of 2 voices" in out and "known in 1 (0.50 h)" in out
    assert calls[0][2] == {"held_out": ["ann", "bob"], "languages": ["en"], "transcribe": False}
    assert calls[1][1] == {"hours": 0.5, "split": "test", "seed": 0, "workers": 2}
    code, _, err = _run(["speech", "out"], capsys)
    assert code != 0 and "nothing to gather: give --recorded or --kokoro-hours" in err


def test_prepare_passes_its_arguments_on(monkeypatch, tmp_path, capsys):
    from openloopy.data import prepare

    configs = []

    def prepare_footage(config):
        configs.append(config)
        return prepare.PrepareReport(
            num_videos=9, num_clips=7, num_frames_in=180_000, frames={"kept": 90_000, "no face": 90_000},
            clips_per_split={"train": 7}, people_per_split={"train": ["s1"]}, seconds_this_run=3.0,
        )  # fmt: skip

    monkeypatch.setattr(prepare, "prepare_footage", prepare_footage)
    arguments = ["prepare", tmp_path, "out", "--size", "128", "--workers", "2", "--licence", "CC0"]
    arguments += ["--set", "min_face_px=60", "--set", "max_yaw_deg=none", "--engine", "ray", "--sound-as-is"]
    code, out, _ = _run([*arguments, "--held-out", "a, b", "--person-pattern", "(s1)"], capsys)
    assert code == 0 and "2.000 h in 9 videos" in out and "1.000 h  no face" in out
    config = configs[0]
    assert (config.raw, str(config.out), config.size_px, config.workers) == (str(tmp_path), "out", 128, 2)
    assert (config.held_out, config.person_pattern, config.licence) == (("a", "b"), "(s1)", "CC0")
    assert (config.thresholds.min_face_px, config.thresholds.max_yaw_deg) == (60.0, None)
    assert config.engine == "ray" and not config.corrects_sound
    for setting, message in (
        ("max_yaw=3", "no threshold 'max_yaw'; there are: min_duration_s"),
        ("min_face_px=x", "a number"),
    ):
        code, _, err = _run(["prepare", tmp_path, "out", "--set", setting], capsys)
        assert code == 1 and message in err


def test_prepare_explains_one_clip(monkeypatch, capsys):
    from openloopy.data import prepare

    monkeypatch.setattr(prepare, "explain_clip", lambda out, name: f"{name} of {out}: too short")
    assert (
        _run(["prepare", "raw", "out", "--explain", "a-000000"], capsys)[1] == "a-000000 of out: too short\n"
    )


def test_train_passes_its_arguments_on(monkeypatch, tmp_path, capsys):
    import openloopy.recipes

    calls = []
    monkeypatch.setattr(openloopy.recipes, "run_recipe", lambda *args: calls.append(args))
    arguments = ["train", "tiny.stage1", "--data", tmp_path, "--run", tmp_path / "run"]
    settings = ["--set", "loop.num_steps=5", "--set", "loop.precision=float32"]
    assert _run([*arguments, *settings], capsys)[0] == 0
    expected = {"loop.num_steps": "5", "loop.precision": "float32"}
    assert _run([*arguments, "--data", "more", "--start", "model"], capsys)[0] == 0
    assert calls == [
        ("tiny.stage1", [tmp_path], tmp_path / "run", expected, None),
        ("tiny.stage1", [tmp_path, Path("more")], tmp_path / "run", {}, Path("model")),
    ]
    code, _, err = _run([*arguments, "--set", "loop.num_steps"], capsys)
    assert code == 2 and "KEY=VALUE" in err


def test_train_names_the_recipes_there_are(tmp_path, capsys):
    code, _, err = _run(["train", "huge", "--data", tmp_path, "--run", tmp_path], capsys)
    assert code == 1 and "'huge'" in err and "tiny" in err


def test_import_refuses_what_it_does_not_know_in_one_line(tmp_path, capsys):
    (tmp_path / "weights.pth").write_bytes(b"<html>")
    for source, message in (("weights.pth", "download it again"), ("nothing.safetensors", "does not exist")):
        code, _, err = _run(["import", str(tmp_path / source), str(tmp_path / "out")], capsys)
        assert code == 1 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_doctor_prints_for_people_and_for_programs(capsys):
    code, out, _ = _run(["doctor"], capsys)
    assert code == 0 and "would pick" in out and "torch" in out
    code, out, _ = _run(["doctor", "--json"], capsys)
    found = json.loads(out)
    assert code == 0 and found["cpu_cores"] >= 1 and found["dtype"] in ("float32", "bfloat16", "float16")
    assert {part["name"] for part in found["parts"]} >= {"face landmarks", "embedded model"}


def test_doctor_tells_what_a_container_allows(monkeypatch, capsys):
    assert re.search(r"^allowed by a container +\S", _run(["doctor"], capsys)[1], re.MULTILINE)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr(doctor, "cpu_cores", lambda: 2)
    monkeypatch.setattr(doctor, "memory_limit", lambda: MemoryLimit(most=4 * 2**30, used=0))
    _, out, _ = _run(["doctor"], capsys)
    assert re.search(r"^allowed by a container +1.5 cores and 4 GB$", out, re.MULTILINE)
    assert re.search(r"^cpu +2 cores, [\d.]+ GB, ", out, re.MULTILINE)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: None)
    monkeypatch.setattr(doctor, "memory_limit", lambda: None)
    assert re.search(r"^allowed by a container +everything$", _run(["doctor"], capsys)[1], re.MULTILINE)


def test_doctor_says_what_is_missing(monkeypatch, tmp_path, capsys):
    from openloopy.apps import doctor

    monkeypatch.setattr(doctor, "EMBEDDED_MINI", tmp_path)
    assert not examine().can_generate
    _, out, _ = _run(["doctor"], capsys)
    assert f"MISSING: not in {tmp_path}" in out and "not ready" in out


def test_choices_are_checked():
    import torch

    assert choose("cpu", "float32").dtype == torch.float32
    for device, dtype in (("tpu", "auto"), ("cpu", "int8"), ("cpu", "float16")):
        with pytest.raises(ValueError, match="choose one of|unusably slow"):
            choose(device, dtype)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="--device cuda: .* sees no such device"):
            choose("cuda", "auto")


def test_progress_counts_in_clips():
    progress = Progress(frames_done=13, total_frames=50, clip_frames=12, elapsed_s=26.0)
    assert (progress.clips_done, progress.total_clips) == (2, 5)
    np.testing.assert_allclose([progress.seconds_per_video_second, progress.left_s], [50, 74])


def test_generate_imports_nothing_of_training():
    """Half of the time until the first frame went into recipes, scipy, transformers and torch's compiler."""
    heavy = (
        "scipy",
        "transformers",
        "diffusers",
        "openloopy.recipes",
        "openloopy.training",
        "openloopy.puppet",
        "torch._dynamo",
    )
    code = (
        "import sys, openloopy.apps.generate; openloopy.apps.generate.LoopyPipeline.from_pretrained('mini'); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_few_tokens_are_computed_in_float32_where_a_cpu_would_take_bfloat16(monkeypatch):
    monkeypatch.setattr(doctor, "computes_in_bf16", lambda device: True)
    assert choose("cpu", "auto").dtype == choose("cpu", "auto", sd15.loopy_config()).dtype == torch.bfloat16
    assert choose("cpu", "auto", mini.loopy_config()).dtype == torch.float32
    monkeypatch.setattr(doctor, "lacks_cpu_bf16", lambda: False)
    assert choose("cpu", "bfloat16", mini.loopy_config()).dtype == torch.bfloat16


def test_bfloat16_is_refused_where_the_cpu_is_known_to_have_none_of_it(monkeypatch):
    monkeypatch.setattr(doctor, "lacks_cpu_bf16", lambda: True)
    with pytest.raises(ValueError, match="no arithmetic in bfloat16 .* use --dtype float32"):
        choose("cpu", "bfloat16")
    monkeypatch.setattr(precision, "has_cpu_bf16", lambda: False)
    assert precision.lacks_cpu_bf16() == Path("/proc/cpuinfo").exists()
