"""A small faithful Hugging Face Hub for tests, driven only by the real clients.

It keeps all in memory. Covers accounts, repositories, the LFS upload path (basic and multipart), commits, tags, pull
requests with merges, downloads with ranges and redirects, permissions, and injected faults. Left out: Xet storage,
gated repositories, the dataset viewer, discussions.
"""

from .server import LocalHub

__all__ = ["LocalHub"]
