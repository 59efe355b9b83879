"""Memory that is freed goes back: glibc's malloc makes few arenas and keeps no large block for later."""

import ctypes
import os
import sys

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # as in malloc.h
ARENAS = 2
LARGE = 1 << 20  # bytes


def few_arenas() -> bool:
    """Let all threads share two arenas of glibc's malloc, unless MALLOC_ARENA_MAX says otherwise.

    By itself it makes up to eight for each core, and each keeps what its largest hour took: with 32 visitors 180 MB
    that nobody uses, and growing, instead of 40 (mallinfo2, under `rmx bench public`).

    Returns:
        Whether it was done; elsewhere than on glibc there is nothing to do.
    """
    return _set(M_ARENA_MAX, ARENAS, "MALLOC_ARENA_MAX")


def large_blocks_apart() -> bool:
    """Take every block of a megabyte or more from the system and give it back when it is freed, unless
    MALLOC_MMAP_THRESHOLD_ says otherwise.

    By itself malloc does so only until the first one is freed. From then on blocks of up to 32 MB, as keys and values
    of a batch are, come from the arenas, where a small object above them keeps them from going back.

    Returns:
        As `few_arenas`.
    """
    return _set(M_MMAP_THRESHOLD, LARGE, "MALLOC_MMAP_THRESHOLD_")


def give_back() -> bool:
    """Give the free pages of all arenas back to the system: what a large request or a long job has left behind.

    Returns:
        Whether this C library can.
    """
    trim = _of_glibc("malloc_trim")
    if trim is None:
        return False
    trim(0)
    return True


def _set(option: int, value: int, variable: str) -> bool:
    tune = _of_glibc("mallopt")
    return tune is not None and variable not in os.environ and bool(tune(option, value))


def _of_glibc(name: str) -> "ctypes._NamedFuncPointer | None":
    """A function of malloc; None with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        found: ctypes._NamedFuncPointer = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None
    return found
