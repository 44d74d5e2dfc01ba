"""OpenLoopy: an open implementation of Loopy (arXiv:2409.02634)."""

__version__ = "0.2.0"
