from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy
from zoo.system.malloc import keep_freed_memory

if "keep" in sys.argv:
    assert keep_freed_memory()

def fault(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        numpy.full(12_000_000, 1.0, numpy.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fault(3)
print(fault(10))
"""


def page_faults(*words: str) -> int:
    """Of ten blocks of 48 MB, one after the other, in a process that had such blocks before."""
    return int(subprocess.run([sys.executable, "-c", CODE, *words], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_taken_again_without_the_kernel() -> None:
    assert page_faults("keep") * 20 < page_faults()
