"""Windows over the audio, motion history and LoopyPipeline."""
