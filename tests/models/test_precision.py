"""bfloat16 is used where asked for, or where the device computes in it."""

from __future__ import annotations

import pytest
import torch

from openloopy.models import precision


@pytest.mark.parametrize(("asked", "has_bf16", "used"), [
    ("float32", True, torch.float32),
    ("bfloat16", False, torch.bfloat16),
    ("auto", True, torch.bfloat16),
    ("auto", False, torch.float32),
])  # fmt: skip
def test_products_are_computed_in(asked, has_bf16, used, monkeypatch):
    monkeypatch.setattr(precision, "has_cpu_bf16", lambda: has_bf16)
    with precision.autocast(torch.device("cpu"), asked):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == used
