"""Opening and writing files: audio, images, video."""
