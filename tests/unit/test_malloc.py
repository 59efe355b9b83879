"""Arenas of malloc, counted in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import ctypes, sys, tempfile, threading
from rmx.ui.malloc import few_arenas
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
    from rmx.ui.malloc import few_arenas

    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not few_arenas()
