import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from openloopy.models.config_json import from_json_dict, to_json_dict


@dataclass(frozen=True, kw_only=True)
class Cat:
    size_px: int = 8


@dataclass(frozen=True, kw_only=True)
class Dog:
    size_px: int = 8


@dataclass(frozen=True, kw_only=True)
class Zoo:
    name: str
    pet: Cat | Dog = Cat()
    guest: Cat | None = None
    widths: tuple[int, ...] = (1, 2)
    corner: tuple[float, float] = (0.0, 1.0)
    mode: Literal["a", "b"] = "a"
    rate: float = 0.5
    is_open: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must not be negative, got {self.rate}")


FULL = Zoo(
    name="z", pet=Dog(size_px=3), guest=Cat(size_px=4), widths=(5, 6, 7), mode="b", extra={"deep": [1]}
)


@pytest.mark.parametrize("config", [FULL, Zoo(name="plain")])
def test_there_and_back_through_text(config):
    assert from_json_dict(Zoo, json.loads(json.dumps(to_json_dict(config)))) == config


def test_a_later_setting_with_a_default_may_be_missing():
    assert from_json_dict(Zoo, {"name": "old"}) == Zoo(name="old")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"widht": 3}, r"unknown \['widht'\]"),
        ({"guest": {"size_px": 8, "tail": 1}}, r"config\.guest: .*unknown \['tail'\]"),
        ({"mode": "c"}, r"config\.mode: expected one of \['a', 'b'\], got 'c'"),
        ({"rate": "fast"}, r"config\.rate: expected float, got 'fast'"),
        ({"rate": -1}, r"config: rate must not be negative, got -1"),
        ({"is_open": 1}, r"config\.is_open: expected bool, got 1"),
        ({"guest": {"size_px": True}}, r"config\.guest\.size_px: expected int, got True"),
        ({"corner": [1.0]}, r"config\.corner: expected 2 values, got 1"),
        ({"widths": [1, "x"]}, r"config\.widths\[1\]: expected int"),
        (
            {"pet": {"type": "Bird"}},
            r"config\.pet: expected 'type' to be one of \['Cat', 'Dog'\], got 'Bird'",
        ),
        ({"pet": 3}, r"config\.pet: expected"),
        ({"guest": 3}, r"config\.guest: expected the settings of Cat, got 3"),
    ],
)
def test_errors_name_the_place(change, message):
    with pytest.raises(ValueError, match=message):
        from_json_dict(Zoo, to_json_dict(FULL) | change)


def test_a_missing_setting_without_a_default_is_named():
    with pytest.raises(ValueError, match=r"missing \['name'\]"):
        from_json_dict(Zoo, {})
