"""Which number format this machine computes in fast."""

from __future__ import annotations

from pathlib import Path

import torch

CPU_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names in /proc/cpuinfo of x86 and ARM for arithmetic in bfloat16."""


def has_cpu_bf16() -> bool:
    """Whether the CPU computes in bfloat16 itself; without that, it is far slower than float32."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and not CPU_BF16_FLAGS.isdisjoint(cpuinfo.read_text().split())


def lacks_cpu_bf16() -> bool:
    """Whether the CPU is known not to; where nobody says, it may."""
    return Path("/proc/cpuinfo").exists() and not has_cpu_bf16()


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is a gain on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and has_cpu_bf16()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context that computes in bfloat16, in float32, or ("auto") in whichever is fast on the device."""
    enabled = precision == "bfloat16" or (precision == "auto" and computes_in_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
