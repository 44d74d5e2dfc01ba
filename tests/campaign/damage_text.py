"""Texts made worse: JSON by its structure, tables by their cells, lines, and the encoding of all of them."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", " ", "x", [], {}, [[]], {"": None}, [None], [0], {"a": 1}),
    *(0, -1, 1, 2**31, 2**63, 10**30, -(2**63), 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *(
        "0",
        "-1",
        "nan",
        "1e999",
        "null",
        "../../x",
        "/",
        "a\0b",
        "\ud800",
        "\N{RIGHT-TO-LEFT OVERRIDE}",
        "x" * 5000,
        "{}",
    ),
)
ODD_CELLS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "nan",
        "inf",
        "1e999",
        "9" * 400,
        "true",
        "auto",
        "\N{ARABIC-INDIC DIGIT THREE}",
        "1_0",
        "0x10",
    ),
    *(
        "'",
        '"',
        '"a,b"',
        "a;b",
        "a\tb",
        "\0",
        "..",
        "/",
        "~",
        "{number}",
        "{",
        "%s",
        "x" * 3000,
        "\N{GRINNING FACE}",
        "-",
    ),
)
DEEP = 100_000
"""Brackets within brackets: deeper than any parser that calls itself."""


def damaged_json(text: str, rng: random.Random, times: int = 1) -> bytes:
    """A JSON text with values, keys or structure changed; one in five is damaged as a text instead."""
    try:
        value = json.loads(text)
        if rng.random() < 0.2:
            return damaged_text(text, rng)
        for _ in range(times):
            value = _changed(value, rng)
        written = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        if rng.random() < 0.05:
            written = _with_key_twice(written, rng)
    except (ValueError, RecursionError):  # no JSON, or nested too deeply for Python's own too
        return damaged_text(text, rng)
    return written.encode("utf-8", "surrogatepass")


def damaged_lines(text: str, rng: random.Random) -> bytes:
    """Lines of a list, each of them JSON or not: one is missing, twice, cut off, changed, or of another kind."""
    lines = text.splitlines()
    if not lines or rng.random() < 0.25:
        return damaged_text(text, rng)
    i = rng.randrange(len(lines))
    changed = [
        lambda: [],
        lambda: [lines[i]] * 2,
        lambda: [lines[i][: rng.randrange(len(lines[i]) + 1)]],
        lambda: [damaged_json(lines[i], rng).decode("utf-8", "replace").replace("\n", " ")],
        lambda: [json.dumps(rng.choice(ODD_VALUES))],
        lambda: [rng.choice(ODD_CELLS)],
    ]
    lines[i : i + 1] = rng.choice(changed)()
    return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n" * rng.randrange(2)


def damaged_table(text: str, rng: random.Random) -> bytes:
    """CSV: a cell, a column, a row, a quote."""
    rows = [line.split(",") for line in text.splitlines()]
    if not rows or rng.random() < 0.2:
        return damaged_text(text, rng)
    row = rng.choice(rows)
    kind = rng.randrange(5)
    if kind == 0:
        row[rng.randrange(len(row))] = rng.choice(ODD_CELLS)
    elif kind == 1:
        row.insert(rng.randrange(len(row) + 1), rng.choice(ODD_CELLS))
    elif kind == 2:
        del row[rng.randrange(len(row))]
    elif kind == 3:
        rows.insert(rng.randrange(len(rows) + 1), list(row))
    else:
        rows.remove(row)
    return "\n".join(",".join(cells) for cells in rows).encode("utf-8", "surrogatepass") + b"\n"


def damaged_text(text: str, rng: random.Random) -> bytes:
    """The bytes of a text: cut off, of another encoding, empty, endless brackets, with bytes that are no text."""
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    place = rng.randrange(len(data) + 1)
    kinds = (
        lambda: data[:place],
        lambda: data[:place] + rng.randbytes(rng.choice([1, 3, 50])) + data[place:],
        lambda: b"\xef\xbb\xbf" + data,
        lambda: text.encode("utf-16", "surrogatepass"),
        lambda: data + data,
        lambda: b"",
        lambda: b"[" * DEEP,
        lambda: b'{"a":' * DEEP,
        lambda: data.replace(b"\n", b"\r"),
        lambda: data[:place] + b"\0" + data[place:],
        lambda: json.dumps(rng.choice(ODD_VALUES)).encode(),
    )
    return bytes(rng.choice(kinds)())


def _changed(value: Any, rng: random.Random) -> Any:
    """The same with something changed at a random place."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return rng.choice(ODD_VALUES)
    holder, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{key}{rng.choice(['_', '2', ' '])}"] = holder.pop(key)
    elif kind == 2 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = rng.choice([-holder[key], holder[key] + 1, holder[key] * 1000, holder[key] / 3])
    elif kind == 3 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == 4:
        holder[key] = {"unexpected": holder[key]}
    else:
        holder[key] = rng.choice(ODD_VALUES)
    return value


def _places(value: Any) -> Any:
    """Where anything stands in anything: what holds it, and its key or number."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _with_key_twice(text: str, rng: random.Random) -> str:
    places = [i for i, letter in enumerate(text) if letter == "{"]
    if not places:
        return text
    place = rng.choice(places) + 1
    return (
        f'{text[:place]}"a": 1, "a": 2{"" if text[place:].lstrip().startswith("}") else ", "}{text[place:]}'
    )
