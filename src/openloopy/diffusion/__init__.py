"""Pure functions on tensors: schedule, prediction type, guidance, samplers, loss weights."""
