"""What is freed stays with the process, and is not mapped anew by the next that needs it."""

import platform
import subprocess
import sys

import pytest

MADE = 20
PROGRAM = f"""
import resource
from quarry_training.malloc import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({MADE}):
        bytearray(64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
keep_freed()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_blocks_are_mapped_once() -> None:
    before, after = map(int, subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split())
    assert after < 2 * before / MADE, "each of them faults in as many pages as the first"
