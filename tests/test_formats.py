"""Every format of the README's table is read, as it is written here, and the table has them all."""

from __future__ import annotations

import os

import pytest

from openloopy.data.sources import VIDEO_SUFFIXES
from openloopy.media.picture_file import FORMATS, PictureFormat
from tests.formats_table import (
    SOUNDS,
    VIDEOS,
    Recording,
    can_write,
    check_picture,
    check_recording,
    in_readme,
    label_of,
    table,
)

EXTRAS = {"heic": "pillow_heif", "jxl": "pillow_jxl"}


def scheduling() -> int | None:
    """This thread's scheduling policy; None where there are none."""
    return os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_pictures_come_back(tmp_path, kind: PictureFormat):
    if kind.extra:
        pytest.importorskip(EXTRAS[kind.extra], reason=f"needs the `{kind.extra}` extra")
    check_picture(kind, tmp_path)


@pytest.mark.parametrize("recording", SOUNDS + VIDEOS, ids=str)
def test_sounds_come_back(tmp_path, recording: Recording):
    if not can_write(recording):
        pytest.skip(f"this FFmpeg has no encoder {recording.sound} or {recording.pictures}")
    before = scheduling()
    check_recording(recording, tmp_path)
    assert scheduling() == before, "the encoder has made this process more urgent than all others"


def test_the_readme_has_the_table():
    assert in_readme() == table(), "run python -m tests.formats_table --write"


def test_the_table_has_each_ending_of_videos_and_people_can_read_it():
    assert {recording.ending for recording in VIDEOS} == VIDEO_SUFFIXES
    codecs = {
        codec for recording in SOUNDS + VIDEOS for codec in (recording.sound, recording.pictures) if codec
    }
    assert not {codec for codec in codecs if label_of(codec) == codec}
