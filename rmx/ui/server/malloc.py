"""Memory that is freed goes back: glibc's malloc makes few arenas and keeps no large block for later."""

import ctypes
import os
import sys

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # as in malloc.h
ARENAS = 2
LARGE = 1 << 20  # bytes


def few_arenas() -> bool:
    """Let all threads share two arenas of glibc's malloc; returns whether it was done.

    By itself it makes up to eight for each core, and each keeps what its largest hour took: with 32 visitors 180 MB
    that nobody uses, and growing, instead of 40 (mallinfo2, under `rmx bench public`).
    """
    return _set(M_ARENA_MAX, ARENAS, "MALLOC_ARENA_MAX")


def large_blocks_apart() -> bool:
    """Take every block of a megabyte or more from the system and give it back when it is freed; returns whether so.

    By itself malloc does so only until the first one is freed. From then on blocks of up to 32 MB, as keys and values
    of a batch are, come from the arenas, where a small object above them keeps them from going back.
    """
    return _set(M_MMAP_THRESHOLD, LARGE, "MALLOC_MMAP_THRESHOLD_")


def give_back() -> bool:
    """Give the free pages of all arenas back to the system, after a long job; returns whether this C library can."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)
    return trim is not None


def _set(option: int, value: int, variable: str) -> bool:
    """Set an option of malloc, unless a variable of the environment sets it."""
    tune = _of_glibc("mallopt")
    return tune is not None and variable not in os.environ and bool(tune(option, value))


def _of_glibc(name: str) -> "ctypes._NamedFuncPointer | None":
    """A function of malloc; None with another C library."""
    try:
        return ctypes.CDLL(None)[name] if sys.platform.startswith("linux") else None
    except (AttributeError, OSError):
        return None
