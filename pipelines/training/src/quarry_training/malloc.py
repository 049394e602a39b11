"""Have the C library keep the memory of tensors that are gone.

glibc asks the kernel for every block over 32 MB and gives it back when it is free (mallopt(3), M_MMAP_THRESHOLD). At each step of training that is
all of attention and most hidden states, which the kernel zeroes and maps anew, page by page.
"""

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
BLOCK, TOP = 1 << 30, (1 << 31) - 1  # bytes: the largest block taken from the heap, and what stays free on top of it


def keep_freed() -> None:
    """From now on, in this process. Other C libraries know no such option: there nothing changes."""
    with suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_THRESHOLD, BLOCK)
        library.mallopt(TRIM_THRESHOLD, TOP)
