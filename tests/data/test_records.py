from __future__ import annotations

import json

import pytest

from openloopy.data.records import PhonemeSpan, from_json, to_json
from tests.data.synthetic import make_sample


def test_json_round_trip_restores_the_record() -> None:
    record = make_sample("clip-1", seed=3, split="val").record
    again = from_json(to_json(record))
    assert again == record
    assert isinstance(again.phonemes[0], PhonemeSpan)


@pytest.mark.parametrize("change", [{"surprise": 1}, {"licence": None}])
def test_unknown_or_missing_keys_are_errors(change: dict) -> None:
    values = json.loads(to_json(make_sample("clip-1").record)) | change
    values = {name: value for name, value in values.items() if value is not None or name == "seed"}
    with pytest.raises(ValueError, match=next(iter(change))):
        from_json(json.dumps(values))


@pytest.mark.parametrize("clip_id", ["", "a.b", "a/b", "a b"])
def test_ids_that_would_break_a_shard_are_refused(clip_id: str) -> None:
    with pytest.raises(ValueError, match="shard member"):
        make_sample(clip_id)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="test"):
        make_sample("clip", split="test")
