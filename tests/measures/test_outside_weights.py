"""The registry of other projects' weights: found, missing, or not what they should be."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from openloopy.measures import outside_weights
from openloopy.measures.outside_weights import REGISTRY, WeightsMissing, how_to_get, weights_path


def test_every_entry_says_what_it_is_and_where_it_comes_from():
    assert len({weights.file for weights in REGISTRY.values()}) == len(REGISTRY) >= 7
    for name, weights in REGISTRY.items():
        assert weights.name == name and weights.used_for and weights.licence
        assert weights.source.startswith("https://") and "/" not in weights.file
        assert weights.sha256 is None or len(weights.sha256) >= 8


def test_a_missing_file_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENLOOPY_WEIGHTS", str(tmp_path))
    for name, weights in REGISTRY.items():
        with pytest.raises(WeightsMissing) as error:
            weights_path(name)
        assert str(error.value) == how_to_get(weights)
        for part in ("weights missing", weights.used_for, weights.file, weights.source, weights.licence):
            assert part in str(error.value)
        assert str(tmp_path) not in str(error.value)


def test_a_file_is_found_and_another_one_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENLOOPY_WEIGHTS", str(tmp_path))
    digest = hashlib.sha256(b"weights").hexdigest()
    pinned = replace(REGISTRY["syncnet"], sha256=digest[:8])
    monkeypatch.setitem(outside_weights.REGISTRY, "syncnet", pinned)
    (tmp_path / pinned.file).write_bytes(b"weights")
    assert weights_path("syncnet") == tmp_path / pinned.file
    (tmp_path / pinned.file).write_bytes(b"others")
    with pytest.raises(ValueError, match="not the published file"):
        weights_path("syncnet")
