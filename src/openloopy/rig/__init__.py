"""One portrait that moves: the face state, and the rig that shows it."""
