"""Memory that is freed goes back: glibc's malloc told to make few arenas."""

import ctypes
import os
import sys

M_ARENA_MAX = -8  # as in malloc.h
ARENAS = 2


def few_arenas() -> bool:
    """Let all threads share two arenas of glibc's malloc, unless MALLOC_ARENA_MAX says otherwise.

    By itself it makes up to eight for each core, and each keeps what its largest hour took: with 32 visitors 180 MB
    that nobody uses, and growing, instead of 40 (mallinfo2, under `rmx bench public`).

    Returns:
        Whether it was done; elsewhere than on glibc there is nothing to do.
    """
    if "MALLOC_ARENA_MAX" in os.environ or not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS))
    except (AttributeError, OSError):  # another C library
        return False
