"""Texts, tables and JSON that may be anything: what a file holds, or an error that names it and what was expected."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from openloopy.media.files import MediaError, require_file

Made = TypeVar("Made")


def read_text(path: Path | str, what: str) -> str:
    """A text in UTF-8, with or without a mark before it.

    Args:
        what: was expected, and what to do where it is not there, such as "an index of shards; write them again".

    Raises:
        MediaError: no file, or one that holds no such text.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size == 0:
        return ""
    with expected(path, what):
        return require_file(path, what).read_text("utf-8-sig")


def read_json(path: Path | str, what: str, *, allows_nan: bool = False) -> Any:
    """The value of a JSON file; see `read_text`.

    Args:
        allows_nan: for files of versions that wrote NaN, which JSON has not.

    Raises:
        MediaError: no file, or one that is cut off, no JSON, or nested without end.
    """
    text = read_text(path, what)
    with expected(path, what):
        return json.loads(text) if allows_nan else parse_json(text)


def parse_json(text: str | bytes) -> Any:
    """As `json.loads`; what JSON has not (NaN, Infinity), or is too large for a float, is a ValueError."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def read_table(path: Path | str, what: str, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV, by the names in its first line; see `read_text`.

    Args:
        columns: those that must be there.

    Raises:
        MediaError: no file, no such columns, or a row with more or fewer values than there are columns.
    """
    lines = csv.reader(io.StringIO(read_text(path, what), newline=""), skipinitialspace=True)
    try:
        rows = [(lines.line_num, row) for row in lines if row]
    except csv.Error as error:
        raise MediaError(f"{path}, line {lines.line_num}: {error}; expected {what}") from error
    names = rows[0][1] if rows else []
    if not rows or not set(columns) <= set(names) or len(set(names)) < len(names):
        wanted = (
            f"a first line with the columns {', '.join(columns)}" if columns else "names of columns first"
        )
        raise MediaError(f"{path} begins with {names}; expected {wanted}")
    for number, row in rows[1:]:
        if len(row) != len(names):
            raise MediaError(f"{path}, line {number}: {len(row)} values for {len(names)} columns: {row}")
    return [dict(zip(names, row, strict=True)) for _, row in rows[1:]]


@contextlib.contextmanager
def expected(place: Path | str, what: str) -> Iterator[None]:
    """What is missing or of another kind, where a value that was read is taken apart, is told as the file's fault.

    Only for blocks that take apart what came from a file: a mistake of ours would be told as the file's too.
    """
    try:
        yield
    except MediaError:
        raise
    except KeyError as error:
        raise MediaError(f"{place}: {error} is missing; expected {what}") from error
    except ValueError as error:
        raise MediaError(f"{place}: {error}; expected {what}") from error
    except (TypeError, AttributeError, LookupError, RecursionError) as error:
        raise MediaError(f"{place} has another form ({error}); expected {what}") from error


def made_of(kind: type[Made], values: Mapping[str, Any]) -> Made:
    """A dataclass of what was read. Values must be of the types that its fields have; ours, inside, are so already.

    Raises:
        TypeError: a field is missing or unknown.
        ValueError: a value is of another type.
    """
    made = kind(**values)
    for name, hint in _hints(kind).items():
        value = getattr(made, name)
        if not _is_a(value, hint):
            readable = getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
            raise ValueError(f"{name} is {value!r}, expected {readable}")
    return made


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that JSON has")
    return number


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_a(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(known) and value == known for known in inner)
    if origin in (Union, types.UnionType):
        return any(_is_a(value, option) for option in inner)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, origin or hint) or (isinstance(value, bool) and hint is not bool):
        return False
    if origin in (list, tuple) and inner and inner[-1] in (Ellipsis, *inner[:1]):
        return isinstance(value, Sequence) and all(_is_a(item, inner[0]) for item in value)
    if origin in (dict, Mapping) and inner:
        return all(_is_a(key, inner[0]) and _is_a(item, inner[1]) for key, item in value.items())
    return True
