"""Synthetic talking-head clips with exact landmarks, from still portraits and synthetic speech."""
