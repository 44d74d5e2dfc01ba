"""Files are whole or absent, have one writer at a time, and hashes are SHA-256."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openloopy.media import files
from openloopy.media.files import (
    BusyError,
    MediaError,
    WriteError,
    atomic_write,
    ffmpeg_url,
    hidden_beside,
    make_folder,
    only_run_in,
    only_writer,
    remove_partial_files,
    require_file,
    require_writable,
    sha256_file,
    with_suffix_that_fits,
    work_folder,
)
from openloopy.media.video import VideoWriter, probe_video

NAMES = [
    "12:30.mp4",
    "-o.mp4",
    "%03d [a]*?.mp4",
    "of two\nlines.mp4",
    "x" * 251 + ".mp4",
    "画" * 83 + ".mp4",
    "👩‍🚀" * 22 + ".mp4",
    "no suffix",
    "a." + "b" * 250,
]

VIDEO_NAMES = [name for name in NAMES if name.endswith(".mp4")]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_takes_its_name_and_leaves_nothing_else(tmp_path):
    with atomic_write(tmp_path / "a.txt") as temporary:
        assert temporary.parent == tmp_path and not (tmp_path / "a.txt").exists()
        temporary.write_text("whole")
    assert names_in(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_the_old_file_and_no_half_one(tmp_path, interruption):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(interruption), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("ha")
        raise interruption
    assert names_in(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(MediaError, match="folder .*nowhere does not exist"),
        atomic_write(tmp_path / "nowhere/a"),
    ):
        pass


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_that_the_disk_takes_can_be_written(tmp_path, name):
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("whole")
        assert len(os.fsencode(temporary.name)) <= 128
    assert names_in(tmp_path) == [name]
    with only_writer(tmp_path / name), work_folder(tmp_path / name) as folder:
        (folder / "plain").write_text("")
    assert names_in(tmp_path) == [name]


@pytest.mark.parametrize("name", VIDEO_NAMES, ids=range(len(VIDEO_NAMES)))
def test_ffmpeg_writes_and_reads_any_name(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoWriter(name, size=(64, 64)) as video:
        video.write(np.zeros((64, 64, 3), np.uint8))
    assert names_in(tmp_path) == [name] and probe_video(name).num_frames == 1
    assert ffmpeg_url(name) == f"file:{name}"


def test_a_name_that_is_too_long_is_refused_with_its_length(tmp_path):
    for name, length in (("x" * 256, 256), ("画" * 86, 258)):
        with pytest.raises(MediaError, match=f"the name has {length} bytes, at most 255 work; shorten it"):
            require_writable(tmp_path / name)


def test_temporary_names_of_long_names_that_begin_alike_differ(tmp_path):
    one, other = (hidden_beside(tmp_path / ("x" * 200 + end + ".mp4"), ".work") for end in "ab")
    assert one != other


def test_another_suffix_fits_or_makes_the_stem_shorter():
    assert with_suffix_that_fits(Path("out/a.b.mp4"), ".json") == Path("out/a.b.json")
    assert with_suffix_that_fits(Path("x" * 250 + ".mp4"), ".json") == Path("x" * 250 + ".json")
    one, other = (with_suffix_that_fits(Path("画" * 83 + end), ".json") for end in (".mp4", "a.m"))
    assert one != other and one.suffix == ".json" and one.name.startswith("画" * 70)
    assert max(len(os.fsencode(path.name)) for path in (one, other)) <= 255


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link.txt", tmp_path / "there" / "real.txt"
    link.symlink_to(target)
    for text in ("the link led nowhere yet", "now it leads to a file"):
        with atomic_write(link) as temporary:
            assert temporary.parent == target.parent
            temporary.write_text(text)
        assert link.is_symlink() and target.read_text() == text and not target.is_symlink()
    with only_writer(link), pytest.raises(BusyError), only_writer(target):
        pass
    assert names_in(target.parent) == ["real.txt"]


def test_what_is_no_file_is_never_replaced(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere" / "c")
    os.mkfifo(tmp_path / "pipe")
    before = names_in(tmp_path)
    for name, message in (
        ("a", "lead round in a circle"),
        ("lost", "is a link to .*nowhere/c; cannot write .*nowhere does not exist"),
        ("pipe", "it is no regular file"),
        (".", "it is a folder"),
    ):
        with pytest.raises(MediaError, match=message), atomic_write(tmp_path / name):
            pass
    assert names_in(tmp_path) == before and (tmp_path / "pipe").is_fifo()


KILLED = """
import os, signal, sys
from pathlib import Path
from openloopy.media.files import atomic_write, only_writer, work_folder
out = Path(sys.argv[1])
with only_writer(out), work_folder(out) as folder, atomic_write(out) as temporary, atomic_write(out) as second:
    for path in (folder / "plain.mp4", temporary, second):
        path.write_text("half")
    print("ready", flush=True)
    if sys.argv[2] == "wait":
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def other_run(out: Path, until: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, out, until], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_what_a_killed_run_left_is_gone_after_the_next_one(tmp_path):
    out = tmp_path / "a.mp4"
    assert other_run(out, "die").wait() == -signal.SIGKILL
    assert len(names_in(tmp_path)) == 4, "two partial files, a folder and a lock"
    with only_writer(out), work_folder(out) as folder, atomic_write(out) as temporary:
        assert not list(folder.iterdir()) and temporary.read_text() == ""
        temporary.write_text("whole")
    assert names_in(tmp_path) == ["a.mp4"] and out.read_text() == "whole"


def test_what_a_killed_run_left_of_another_name_stays(tmp_path):
    assert other_run(tmp_path / "a.mp4", "die").wait() == -signal.SIGKILL
    before = names_in(tmp_path)
    with atomic_write(tmp_path / "b.mp4") as temporary:
        temporary.write_text("whole")
    assert names_in(tmp_path) == sorted([*before, "b.mp4"])
    remove_partial_files(tmp_path)
    assert [name for name in names_in(tmp_path) if "partial" in name] == []


def test_a_second_run_is_refused_and_takes_nothing_away_from_the_first(tmp_path):
    out = tmp_path / "a.mp4"
    with other_run(out, "wait") as process:
        before = names_in(tmp_path)
        with pytest.raises(BusyError, match="another run is writing .*a.mp4; wait for it"), only_writer(out):
            pass
        with atomic_write(out) as temporary:
            assert temporary.read_text() == ""
            temporary.write_text("mine")
        remove_partial_files(tmp_path)
        assert names_in(tmp_path) == sorted([*before, "a.mp4"])
        process.stdin.close()
    with only_writer(out):
        pass


def test_a_folder_has_one_run_at_a_time(tmp_path):
    refused = pytest.raises(BusyError, match=f"another run is at work in {tmp_path}; wait for it")
    with only_run_in(tmp_path), refused, only_run_in(tmp_path):
        pass
    with only_run_in(tmp_path):
        assert names_in(tmp_path) == [".lock"]
    assert names_in(tmp_path) == []


def test_only_one_of_many_that_wait_for_a_lock_gets_it(tmp_path):
    """A lock file that its holder has just deleted is nobody's: whoever opened it before has to look again."""
    code = """
import sys, time
from openloopy.media.files import BusyError, only_run_in
stop = time.monotonic() + 1.5
while time.monotonic() < stop:
    try:
        with only_run_in(sys.argv[1]):
            with open(sys.argv[1] + "/inside", "x"):
                pass
            __import__("os").unlink(sys.argv[1] + "/inside")
    except BusyError:
        pass
"""
    runs = [subprocess.Popen([sys.executable, "-c", code, tmp_path]) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]


def test_without_locks_everything_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with only_run_in(tmp_path), only_writer(tmp_path / "a"), atomic_write(tmp_path / "a") as one:
        with atomic_write(tmp_path / "a") as other:
            assert one != other
            other.write_text("other")
        one.write_text("one")
    assert names_in(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "one"


@pytest.fixture
def small_files():
    """No file may become larger than 20 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_named_and_nothing_stays(tmp_path, small_files):
    rng = np.random.default_rng(0)
    with pytest.raises(
        WriteError, match="cannot write .*a.mp4: files in .* may not become so large"
    ) as error:
        with VideoWriter(tmp_path / "a.mp4", size=(128, 128), crf=0) as video:
            for _ in range(20):
                video.write(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8))
    assert error.value.errno == errno.EFBIG and str(tmp_path) in str(error.value)
    with pytest.raises(WriteError, match="b.txt"), atomic_write(tmp_path / "b.txt") as temporary:
        temporary.write_text("x" * 30_000)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_each_refusal_of_the_system_names_the_place(tmp_path, number):
    with pytest.raises(WriteError, match=f"cannot write {tmp_path}/a: .*{tmp_path}") as error:
        with atomic_write(tmp_path / "a"):
            raise OSError(number, os.strerror(number))
    assert error.value.errno == number and names_in(tmp_path) == []


def test_errors_of_other_files_and_of_other_kinds_stay_as_they_are(tmp_path):
    for error in (
        OSError(errno.ENOSPC, "full", "/elsewhere/spool"),
        FileNotFoundError(errno.ENOENT, "gone", str(tmp_path / "b")),
        BrokenPipeError(errno.EPIPE, "nobody reads"),
        WriteError(errno.ENOSPC, "cannot write /elsewhere/x: full"),
    ):
        with pytest.raises(type(error)) as caught, atomic_write(tmp_path / "a"):
            raise error
        assert caught.value is error


def test_a_folder_that_may_not_be_written_to_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(MediaError, match=f"the folder {tmp_path} may not be written to"):
        require_writable(tmp_path / "a.mp4")


def test_require_file_says_what_is_there(tmp_path):
    (tmp_path / "empty.wav").touch()
    for name, message in [("no.wav", "does not exist"), (".", "is a folder"), ("empty.wav", "0 bytes")]:
        with pytest.raises(MediaError, match=message):
            require_file(tmp_path / name, "a sound")


def test_sha256_of_a_file_larger_than_a_block(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "big").write_bytes(content)
    assert sha256_file(tmp_path / "big") == hashlib.sha256(content).hexdigest()


def test_a_folder_is_made_with_those_it_lies_in_or_refused_in_words(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir() and make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "x")
    for path, other in {"file": "file", "file/inside": "file", "dangling": "dangling"}.items():
        with pytest.raises(MediaError, match=f"{path} cannot be a folder: .*/{other} is something else"):
            make_folder(tmp_path / path)
    assert (tmp_path / "file").read_text() == "x"
