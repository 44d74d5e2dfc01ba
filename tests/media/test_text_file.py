"""Texts, tables and JSON of any kind: their content, or an error that names the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest

from openloopy.media.files import MediaError
from openloopy.media.text_file import expected, made_of, read_json, read_table, read_text

WHAT = "a list of things"


@dataclass(frozen=True)
class Thing:
    """Of fields of every kind."""

    name: str
    size: int
    share: float = 0.5
    kind: Literal["a", "b"] = "a"
    parts: tuple[int, ...] = ()
    other: str | None = None
    by_name: dict[str, list[int]] | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def test_good_files_are_what_they_are(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf" + '{"é": [1, null]}'.encode())
    assert read_json(path, WHAT) == {"é": [1, None]}
    path.write_text('a, b\n1,"x, y"\n\n2,\n')
    assert read_table(path, WHAT, ("b",)) == [{"a": "1", "b": "x, y"}, {"a": "2", "b": ""}]
    path.write_text("")
    assert read_text(path, WHAT) == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[NaN]", b"-Infinity", b"[1e999]", b"[" * 100_000, b'{"a":' * 100_000, b"nul"],
)
def test_what_is_no_json_is_told_with_its_name(tmp_path, content):
    path = tmp_path / "things.json"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"things\.json.*; expected a list of things"):
        read_json(path, WHAT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"begins with \[\]; expected a first line with the columns a"),
        (b"b\n1\n", r"begins with \['b'\]; expected a first line with the columns a"),
        (b"a,a\n1,2\n", r"begins with \['a', 'a'\]"),
        (b"a,b\n1,2\n3\n", "line 3: 1 values for 2 columns"),
        (b"a\n" + b"x" * 200_000 + b"\n", "field larger than field limit"),
        (b"a\n\xff\n", "can't decode"),
    ],
)
def test_what_is_no_such_table_is_told_by_its_line(tmp_path, content, message):
    path = tmp_path / "things.csv"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=message):
        read_table(path, WHAT, ("a",))


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("none", "does not exist"),
        (".", "is a folder"),
        ("pipe", "not a regular file"),
        ("loop", "loop"),
    ):
        with pytest.raises((MediaError, OSError), match=message):
            read_json(tmp_path / name, WHAT)


def test_taking_apart_what_was_read_is_the_files_fault():
    for fault, message in (
        (lambda: {}["size"], "here: 'size' is missing; expected a list of things"),
        (lambda: [].items(), r"here has another form \(.*\); expected a list"),
        (lambda: int("x"), "here: invalid literal"),
    ):
        with pytest.raises(MediaError, match=message), expected("here", WHAT):
            fault()
    with pytest.raises(ZeroDivisionError), expected("here", WHAT):
        _ = 1 / 0


def test_a_dataclass_is_made_of_values_of_its_types():
    values = {"name": "x", "size": 1, "share": 1, "parts": (1, 2), "by_name": {"a": [1]}, "names": {"a": "b"}}
    assert made_of(Thing, values) == Thing("x", 1, 1, "a", (1, 2), None, {"a": [1]}, {"a": "b"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": "1"},
        {"size": True},
        {"size": 1.5},
        {"name": None},
        {"share": "0.5"},
        {"share": False},
        {"kind": "c"},
        {"kind": ["a"]},
        {"parts": (1, "2")},
        {"parts": 3},
        {"other": 3},
        {"by_name": {"a": [1, None]}},
        {"by_name": {1: [1]}},
        {"by_name": []},
        {"names": {"a": {"b": ""}}},
        {"names": ["a"]},
    ],
)
def test_values_of_other_types_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, expected"):
        made_of(Thing, {"name": "x", "size": 1} | wrong)


def test_missing_and_unknown_fields_are_refused():
    for values in ({"name": "x"}, {"name": "x", "size": 1, "colour": "red"}):
        with pytest.raises(TypeError, match="size|colour"):
            made_of(Thing, values)
