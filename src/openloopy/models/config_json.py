"""Configurations as JSON and back: nested frozen dataclasses, strictly checked.

An unknown key, a missing setting without a default and a value of another type are errors that name the
place. A missing setting that has a default takes it, so that folders older than the setting still load.
"""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
TYPE_KEY = "type"
"""Where a setting may be one of several dataclasses, this key holds the class name."""
MAX_LAYERS = 256
"""Of one kind, one after another; more are a mistake."""
LARGEST_EXACT = 2**53
"""Whole numbers below it are floats too."""


def check_num_layers(count: int) -> None:
    """Refuse what would take hours and all memory to build."""
    if not 1 <= count <= MAX_LAYERS:
        raise ValueError(f"expected 1 to {MAX_LAYERS} layers, got {count}")


def divides(parts: int, width: int) -> bool:
    """Whether a width can be shared out to so many heads or groups; torch takes -1 of them, and fails in use."""
    return parts >= 1 and width % parts == 0


def to_json_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain dicts, lists, numbers and strings."""
    hints = get_type_hints(type(config))
    return {
        field.name: _value_to_json(getattr(config, field.name), hints[field.name])
        for field in dataclasses.fields(config)
    }


def from_json_dict(kind: type[Config], values: Any, *, place: str = "config") -> Config:
    """The dataclass `kind` from what `to_json_dict` gave; `place` names it in errors."""
    if not isinstance(values, dict):
        raise ValueError(f"{place}: expected the settings of {kind.__name__}, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    missing = [name for name, field in fields.items() if name not in values and _is_required(field)]
    unknown = [name for name in values if name not in fields]
    if missing or unknown:
        raise ValueError(
            f"{place}: settings do not fit {kind.__name__}: missing {missing or 'none'}, "
            f"unknown {unknown or 'none'} (known: {', '.join(fields)}); was it written by another version?"
        )
    hints = get_type_hints(kind)
    given = {name: _value_from_json(hints[name], value, f"{place}.{name}") for name, value in values.items()}
    try:
        return kind(**given)
    except (ValueError, ArithmeticError) as error:  # a count of 0 where something is divided by it
        raise ValueError(f"{place}: {error}") from error


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value_to_json(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value):
        several = len(_dataclasses_of(hint)) > 1
        return ({TYPE_KEY: type(value).__name__} if several else {}) | to_json_dict(value)
    if isinstance(value, (tuple, list)):
        return [_value_to_json(item, Any) for item in value]
    return value


def _value_from_json(hint: Any, value: Any, place: str) -> Any:
    if _is_union(hint):
        return _union_from_json(hint, value, place)
    if dataclasses.is_dataclass(hint):
        return from_json_dict(hint, value, place=place)
    if get_origin(hint) is tuple:
        return _tuple_from_json(hint, value, place)
    if hint is float and type(value) is int and abs(value) < LARGEST_EXACT:
        return float(value)
    if not _fits(hint, value):
        raise ValueError(f"{place}: expected {_readable(hint)}, got {value!r}")
    return value


def _union_from_json(hint: Any, value: Any, place: str) -> Any:
    options = get_args(hint)
    if value is None and type(None) in options:
        return None
    kinds = {kind.__name__: kind for kind in _dataclasses_of(hint)}
    if len(kinds) > 1 and isinstance(value, dict):
        name = value.get(TYPE_KEY)
        if not isinstance(name, str) or name not in kinds:
            raise ValueError(f"{place}: expected {TYPE_KEY!r} to be one of {list(kinds)}, got {name!r}")
        return from_json_dict(kinds[name], {k: v for k, v in value.items() if k != TYPE_KEY}, place=place)
    rest = [option for option in options if option is not type(None)]
    if len(rest) == 1:
        return _value_from_json(rest[0], value, place)
    raise ValueError(f"{place}: expected {_readable(hint)}, got {value!r}")


def _tuple_from_json(hint: Any, value: Any, place: str) -> tuple:
    items = get_args(hint)
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{place}: expected a list, got {value!r}")
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise ValueError(f"{place}: expected {len(items)} values, got {len(value)}: {value!r}")
    return tuple(
        _value_from_json(item, part, f"{place}[{i}]")
        for i, (item, part) in enumerate(zip(items, value, strict=True))
    )


def _fits(hint: Any, value: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return any(type(value) is type(known) and value == known for known in get_args(hint))
    if isinstance(value, float) and not math.isfinite(value):
        return False
    kind = get_origin(hint) or hint
    # bool is an int in Python, but never a size.
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _dataclasses_of(hint: Any) -> list[type]:
    options = get_args(hint) if _is_union(hint) else (hint,)
    return [option for option in options if dataclasses.is_dataclass(option)]


def _readable(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {list(get_args(hint))}"
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
