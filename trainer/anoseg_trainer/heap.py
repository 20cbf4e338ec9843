"""Keeps the C library's heap small. The module runs where it is called."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_MMAP_THRESHOLD = -3
"""The parameter of glibc's `mallopt` that says which blocks are outside the heap."""
LARGE = 1 << 20
"""Bytes from which a block is outside the heap."""


def keep_large_blocks_outside() -> None:
    """Have large tensors allocated outside the heap, so that they are returned to the system as soon as they are freed.

    By default, glibc moves blocks of up to 32 MB into the heap. Small tensors that stay then keep holes in it: about 1 MB for
    each part of 448×448 whose features are computed, so 5 GB for 5,000. Nothing happens with another C library.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
