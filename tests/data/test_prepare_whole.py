"""The whole preparation, nothing replaced, on a talking clip and its damaged copies; killed and started again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openloopy.data.clips import decode_frames, decode_sound
from openloopy.data.prepare import PrepareConfig, prepare_footage
from openloopy.data.shards import read_shards
from openloopy.data.verdicts import VideoRecord, account, from_line
from openloopy.puppet.corpus import CorpusConfig, write_corpus
from tests.data.damaged import (
    Talk,
    black,
    cut_off,
    in_turn,
    read_talk,
    shifted,
    side_by_side,
    silent,
    sped_up,
    still,
    swapped,
    upside_down,
    write_talk,
)

REPOSITORY = Path(__file__).resolve().parents[2]
VIDEOS = REPOSITORY.parent / "shared" / "samples" / "videos"
FILMED = ("grid_f_lbbc2a", "grid_m_lbax4n")


def puppets(folder: Path) -> list[Talk]:
    """Two drawn people who speak."""
    write_corpus(CorpusConfig(out=folder / "corpus", num_clips=2, clip_s=4.0, size_px=192, val_share=0.5))
    samples = read_shards(folder / "corpus")
    return [Talk(decode_frames(sample.mp4), decode_sound(sample.flac)) for sample in samples]


def filmed(folder: Path) -> list[Talk]:
    if not VIDEOS.is_dir():
        pytest.skip(f"no filmed clips: {VIDEOS} is not here")
    return [read_talk(VIDEOS / f"{name}.mpg") for name in FILMED]


def write_copies(raw: Path, talks: list[Talk]) -> None:
    """The clip and what can happen to it."""
    one, other = talks
    write_talk(raw / "good.mkv", one)
    write_talk(raw / "late.mkv", shifted(one, 10))
    write_talk(raw / "early.mkv", shifted(one, -10))
    write_talk(raw / "silent.mkv", silent(one))
    write_talk(raw / "no_sound.mkv", Talk(one.frames, one.sound[:0]))
    write_talk(raw / "sped_up.mkv", sped_up(one))
    write_talk(raw / "upside_down.mkv", upside_down(one))
    write_talk(raw / "black.mkv", black(one))
    write_talk(raw / "still.mkv", still(one))
    write_talk(raw / "two.mkv", side_by_side(one, other))
    write_talk(raw / "cut.mkv", in_turn([one, other]))
    write_talk(raw / "swapped.mkv", swapped(one, other))
    cut_off(write_talk(raw / "truncated.mp4", one, faststart=True), 0.6)
    (raw / "broken.mp4").write_bytes(b"no video")


@pytest.fixture(scope="module", params=[puppets, filmed], ids=["puppets", "filmed"])
def records(request, tmp_path_factory) -> dict[str, VideoRecord]:
    folder = tmp_path_factory.mktemp("whole")
    make: Callable[[Path], list[Talk]] = request.param
    write_copies(folder / "raw", make(folder))
    prepare_footage(PrepareConfig(raw=folder / "raw", out=folder / "out", size_px=128, workers=0))
    return {Path(record.name).stem: record for record in records_of(folder / "out")}


def records_of(out: Path) -> list[VideoRecord]:
    return [from_line(line) for line in (out / "records.jsonl").read_text().splitlines()]


def verdicts(record: VideoRecord) -> list[str]:
    """`kept` or the first reason of the file, or of each span."""
    if record.reasons:
        return [record.reasons[0].name]
    return [span.reasons[0].name if span.reasons else "kept" for span in record.spans]


@pytest.mark.slow
def test_every_copy_is_kept_or_dropped_for_the_right_reason(records):
    expected = {
        "good": ["kept"],
        "late": ["kept"],
        "early": ["kept"],
        "silent": ["no sound"],
        "no_sound": ["no sound"],
        "black": ["black picture"],
        "still": ["still picture"],
        "cut": ["kept", "kept"],
        "truncated": ["kept", "damaged"],
        "broken": ["unreadable"],
    }
    assert {name: verdicts(records[name]) for name in expected} == expected
    overturned = {"extreme rotation", "unsure landmarks", "no face", "too short"}
    assert set(verdicts(records["upside_down"])) <= overturned
    assert verdicts(records["sped_up"])[0] in ("out of step", "low lip sync")
    assert verdicts(records["swapped"])[0] in ("out of step", "low lip sync")
    listening = {"another speaks", "low lip sync", "out of step"}
    kept, dropped = sorted(records["two"].spans, key=lambda span: len(span.reasons))
    assert kept.is_kept and dropped.reasons[0].name in listening


@pytest.mark.slow
def test_moved_sound_is_found_to_a_fraction_of_a_frame(records):
    good = records["good"].spans[0].measures
    usual = good["sync_offset"] + good.get("sound_was_late", 0.0)
    for name, frames in (("late", 10), ("early", -10)):
        (span,) = records[name].spans
        assert abs(span.measures["sound_was_late"] - usual - frames) <= 0.5
        assert abs(span.measures["sync_offset"]) <= 0.5
        assert any("sound moved" in note for note in span.notes)


@pytest.mark.slow
def test_frames_add_up(records):
    for record in records.values():
        assert sum(account(record).values()) == record.num_frames
    assert records["good"].num_frames == records["truncated"].num_frames


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_shards(tmp_path):
    (talk, other) = puppets(tmp_path)
    for i in range(3):
        write_talk(tmp_path / "raw" / f"v{i}.mkv", talk if i % 2 else other)

    def start(out: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "openloopy", "prepare", "raw", out, "--size", "64", "--workers", "2"]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start("whole").wait(240) == 0
    for wait_for in ("cut/videos/v0.json", "cut/shard-00000.tar"):
        running = start("cut")
        while running.poll() is None and not (tmp_path / wait_for).exists():
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert start("cut").wait(240) == 0
    whole, cut = (records_of(tmp_path / name) for name in ("whole", "cut"))
    for ours, theirs in zip(cut, whole, strict=True):
        # Sums of floats depend on where memory lies, in their last digits.
        assert ours.spans[0].measures == pytest.approx(theirs.spans[0].measures, rel=1e-2, abs=1e-3)
        assert [(s.clip_id, s.start, s.stop) for s in ours.spans] == [
            (s.clip_id, s.start, s.stop) for s in theirs.spans
        ]
    for ours, theirs in zip(*(read_shards(tmp_path / name) for name in ("cut", "whole")), strict=True):
        assert ours.record == theirs.record and ours.flac == theirs.flac
        np.testing.assert_allclose(ours.arrays["points68"], theirs.arrays["points68"], atol=0.01)
    assert not list((tmp_path / "cut" / "videos").glob("*.tar")) and not list(
        (tmp_path / "cut").rglob(".work*")
    )
