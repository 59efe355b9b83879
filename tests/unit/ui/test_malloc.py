"""Arenas of malloc, counted in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import ctypes, sys, tempfile, threading
from rmx.storage.job_store import few_arenas
print(few_arenas() if sys.argv[1] == "few" else None)
together = threading.Barrier(12)
def work():
    together.wait()
    kept = [bytearray(5000) for _ in range(200)]
    together.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
[t.start() for t in threads]
[t.join() for t in threads]
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    out = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, out)
    libc.fclose(out)
    print(open(file.name).read().count("<heap nr="))
"""


def counted(how, **environment):
    clean = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", COUNT, how], env=clean | environment, capture_output=True, text=True, check=True
    )
    said, arenas = done.stdout.split()
    return said, int(arenas)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_share_two_arenas_unless_the_environment_says_otherwise():
    assert counted("as it is")[1] > 3
    said, arenas = counted("few")
    assert (said, arenas <= 2) == ("True", True)
    said, arenas = counted("few", MALLOC_ARENA_MAX="5")
    assert (said, arenas) == ("False", 5)


def test_elsewhere_nothing_is_done(monkeypatch):
    from rmx.storage.job_store import few_arenas

    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not few_arenas()


LARGE_AFTER_A_FREE = """
import ctypes, sys
from rmx.storage.job_store import large_blocks_apart
print(large_blocks_apart() if sys.argv[1] == "apart" else None)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd u f uordblks fordblks keep".split()]
libc.mallinfo2.restype = Info
libc.free(libc.malloc(30 << 20))  # malloc learns from this that blocks of such a size come often
before = libc.mallinfo2().hblkhd
block = libc.malloc(16 << 20)
print((libc.mallinfo2().hblkhd - before) >> 20)
libc.free(block)
print((libc.mallinfo2().hblkhd - before) >> 20)
"""


def mapped(how, **environment):
    """What was said, and the megabytes outside the arenas while a block of 16 is held and after it is freed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", LARGE_AFTER_A_FREE, how], env=clean | environment, capture_output=True, text=True
    )
    said, held, freed = done.stdout.split()
    return said, int(held), int(freed)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc learns")
def test_large_blocks_stay_apart_unless_the_environment_says_otherwise():
    assert mapped("as it is") == ("None", 0, 0)
    assert mapped("apart") == ("True", 16, 0)
    assert mapped("apart", MALLOC_MMAP_THRESHOLD_=str(64 << 20)) == ("False", 0, 0)


FRAGMENTS = """
import gc
from rmx.storage.job_store import give_back
def resident():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmRSS")).split()[1]) / 1024
before = resident()
kept = [(bytes(20000), bytes(700)) for _ in range(5000)]  # 100 MB, a small block after each
kept = [small for _, small in kept]
print(resident() - before, give_back(), resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps pages between blocks")
def test_free_pages_between_blocks_go_back_when_they_are_asked_for():
    done = subprocess.run([sys.executable, "-c", FRAGMENTS], capture_output=True, text=True, check=True)
    kept, said, left = done.stdout.split()
    assert said == "True"
    assert float(kept) > 90
    assert float(left) < 45  # the small blocks, and the pages that they touch
