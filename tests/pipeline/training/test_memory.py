import subprocess
import sys

import pytest

# Faults of a process that takes, writes and gives back a block for the second time.
SCRIPT = """
import ctypes, resource, sys, threading
from pipeline.training.memory import keep_memory

libc, size = ctypes.CDLL(None), 48 << 20
libc.malloc.restype = ctypes.c_void_p

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    libc.memset(block, 1, ctypes.c_size_t(size))
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def act():
    if sys.argv[2] == "kept":
        keep_memory()
    faults()
    print(faults())

if sys.argv[1] == "thread":  # as Ray trains
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
else:
    act()
"""


def faults(where: str, how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", SCRIPT, where, how], capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's option")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_memory_that_was_given_back_is_there_again(where):
    assert faults(where, "kept") < 10 < faults(where, "as it is")


def test_another_system_is_left_as_it_is(monkeypatch):
    from pipeline.training import memory

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("looked for an option"))
    memory.keep_memory()
