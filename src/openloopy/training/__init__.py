"""Stages, step, loop and checkpoints."""
