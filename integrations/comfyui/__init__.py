"""OpenLoopy in ComfyUI; this folder, in `custom_nodes` or linked from there, is the custom node."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
