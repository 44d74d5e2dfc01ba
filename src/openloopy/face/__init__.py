"""Landmarks, crops and movement descriptors."""
