"""Live: sound comes in through a pipe, frames go out as they are made, and how late they are is told."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time

import av
import numpy as np
import pytest

from openloopy.apps.generate import ModelChoice
from openloopy.apps.live import DelayMeter, LiveReport, LiveRequest, RawWriter, generate_live
from openloopy.apps.settings import VideoSettings
from openloopy.media.audio import AudioError, SoundArray, open_waveform
from openloopy.media.live_sound import LiveLosses, LiveSound
from openloopy.media.mark import Marker
from tests.apps.conftest import copy_speech

SETTINGS = VideoSettings(steps=1, size=96)


def live_sound(folder) -> LiveSound:
    return LiveSound(SoundArray(open_waveform(folder / "speech.wav"), 16_000).blocks())


def request(folder, **changes) -> LiveRequest:
    return LiveRequest(
        **{"portrait": folder / "face.png", "audio": "-", "out": "-", "settings": SETTINGS} | changes
    )


@pytest.fixture
def choice(rig_model) -> ModelChoice:
    return ModelChoice(model=str(rig_model))


def test_a_stream_has_all_frames_the_sound_and_the_tag(folder, choice):
    copy_speech(folder / "speech.wav", 1.3)
    sink, said = io.BytesIO(), []
    report = generate_live(request(folder), choice, say=said.append, sound=live_sound(folder), sink=sink)
    assert report.num_frames == 32 and report.dropped_s == 0
    assert "listening to -" in said
    sink.seek(0)
    with av.open(sink) as container:
        assert container.metadata["comment"].startswith("AI-generated")
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.width, audio.rate) == (96, 16_000)
        assert sum(1 for frame in container.decode(video)) == 32


def test_raw_frames_are_yuv4mpeg_in_real_time(folder, choice):
    sink, begun_s = io.BytesIO(), time.monotonic()
    generate_live(request(folder, out="y4m:-"), choice, say=print, sound=live_sound(folder), sink=sink)
    assert time.monotonic() - begun_s > 11 / 25
    data = sink.getvalue()
    assert data.startswith(b"YUV4MPEG2 W96 H96 F25:1 Ip ")
    with av.open(io.BytesIO(data), format="yuv4mpegpipe") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 12 and frames[0].shape == (96, 96, 3)
    assert frames[0].std() > 20


def test_raw_frames_come_one_by_one():
    times_s = []

    class Sink(io.BytesIO):
        def flush(self):
            times_s.append(time.monotonic())

    writer = RawWriter(Sink(), (16, 16))
    with writer:
        for _ in range(6):
            writer.write(np.zeros((16, 16, 3), np.uint8))
    # Each waits for its turn; a machine that is busy may be late, never early.
    assert times_s[5] - times_s[0] > 4.5 / 25


def test_live_frames_are_marked(folder, choice, monkeypatch):
    marked = []
    call = Marker.__call__
    monkeypatch.setattr(Marker, "__call__", lambda self, frame: marked.append(1) or call(self, frame))
    generate_live(request(folder), choice, say=print, sound=live_sound(folder), sink=io.BytesIO())
    assert len(marked) == 12


def test_delays_are_counted_from_the_sound_to_the_frame():
    class Sound:
        dropped_s, losses = 0.5, LiveLosses()

        def arrival_s(self, sample: int) -> float:
            return begun_s + sample / 16_000

    begun_s = time.monotonic() - 2.0
    meter = DelayMeter(Sound())
    list(meter.measured(iter(np.zeros((10, 1, 1, 3), np.uint8))))
    report = meter.report()
    assert report.num_frames == 10
    assert report.worst_delay_s == pytest.approx(2.0 - 1 / 25, abs=0.05)
    assert report.median_delay_s == pytest.approx(2.0 - 5.5 / 25, abs=0.06)
    assert report.first_frame_s == pytest.approx(2.0, abs=0.05)
    assert "0.50 s of sound were left out" in str(report)
    assert "left out" not in str(LiveReport(1, 0.1, 0.1, 0.1, 0.0))


def test_what_is_no_live_sound_is_refused(folder, choice):
    with pytest.raises(
        ValueError, match="with --live the sound is '-'.*got 'speech.wav'; leave --live out for a file"
    ):
        request(folder, audio="speech.wav")
    with pytest.raises(AudioError, match="ended before 0.1 s"):
        short = LiveSound(SoundArray(np.zeros(100, np.float32), 16_000).blocks())
        generate_live(request(folder), choice, say=print, sound=short, sink=io.BytesIO())


def test_whoever_goes_away_ends_it_without_an_error(folder, choice):
    copy_speech(folder / "speech.wav", 3.0)
    read, write = os.pipe()
    os.close(read)
    said = []
    with os.fdopen(write, "wb", buffering=0) as sink:
        report = generate_live(request(folder), choice, say=said.append, sound=live_sound(folder), sink=sink)
    assert said[-1] == "whoever read the video has gone" and 0 < report.num_frames < 75


@pytest.mark.slow
def test_the_command_from_pipe_to_pipe(folder, rig_model):
    command = [sys.executable, "-m", "openloopy", "generate", "face.png", "pcm:16000", "--live", "-o", "-"]
    command += ["--model", str(rig_model), "--steps", "1", "--size", "96"]
    samples = (open_waveform(folder / "speech.wav") * 32767).astype("<i2")
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

    def feed() -> None:
        with process.stdin:
            for start in range(0, len(samples), 320):
                process.stdin.write(samples[start : start + 320].tobytes())
                process.stdin.flush()
                time.sleep(0.02)

    feeder = threading.Thread(target=feed)
    feeder.start()
    video, printed = process.stdout.read(), process.stderr.read().decode()
    feeder.join()
    assert process.wait(30) == 0, printed
    assert "12 frames (0.48 s); the first came" in printed and "listening to pcm:16000" in printed
    with av.open(io.BytesIO(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    for out, message in (("face.png", "exists already"), ("no/a.mp4", "the folder no does not exist")):
        done = subprocess.run([*command[:8], out, *command[9:]], cwd=folder, input=b"", capture_output=True)
        assert done.returncode == 1 and message in done.stderr.decode(), out
