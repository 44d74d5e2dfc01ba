"""Files are whole or absent, and hashes are SHA-256."""

from __future__ import annotations

import hashlib

import pytest

from openloopy.media.files import MediaError, atomic_write, require_file, sha256_file


def test_a_written_file_takes_its_name_and_leaves_nothing_else(tmp_path):
    with atomic_write(tmp_path / "a.txt") as temporary:
        assert temporary.parent == tmp_path and not (tmp_path / "a.txt").exists()
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_the_old_file_and_no_half_one(tmp_path, interruption):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(interruption), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("ha")
        raise interruption
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(MediaError, match="folder .*nowhere does not exist"),
        atomic_write(tmp_path / "nowhere/a"),
    ):
        pass


def test_require_file_says_what_is_there(tmp_path):
    (tmp_path / "empty.wav").touch()
    for name, message in [("no.wav", "does not exist"), (".", "is a folder"), ("empty.wav", "0 bytes")]:
        with pytest.raises(MediaError, match=message):
            require_file(tmp_path / name, "a sound")


def test_sha256_of_a_file_larger_than_a_block(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "big").write_bytes(content)
    assert sha256_file(tmp_path / "big") == hashlib.sha256(content).hexdigest()
