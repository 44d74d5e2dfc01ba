"""Every nn.Module and its config; the model folder."""
