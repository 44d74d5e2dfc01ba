"""OpenLoopy: an open implementation of Loopy (arXiv:2409.02634).

`openloopy.generate("me.jpg", "speech.mp3", "out.mp4")` makes a video; `openloopy.LoopyPipeline` gives its frames.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"
__all__ = ["GenerationOptions", "LoopyPipeline", "generate"]
_HOMES = {
    "generate": "openloopy.apps.generate",
    "LoopyPipeline": "openloopy.inference.pipeline",
    "GenerationOptions": "openloopy.inference.options",
}


def __getattr__(name: str) -> Any:
    """Imported when first asked for: the command line has to answer before torch is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module 'openloopy' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
