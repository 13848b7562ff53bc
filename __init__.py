"""fgmp: the open implementation of fine-grained mixed precision (FGMP, arXiv 2504.14152)."""

__version__ = "0.1.0"
