"""What a training does with the memory that its steps free."""

from __future__ import annotations

import platform
import subprocess
import sys

from moeload_bench.recipes.allocator import keep_freed_memory

STEPS = """
import resource, sys
import torch
from moeload_bench.recipes.allocator import keep_freed_memory

if "kept" in sys.argv:
    assert keep_freed_memory()
for i in range(12):
    if i == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str) -> int:
    """Pages that ten further steps asked the system for."""
    done = subprocess.run([sys.executable, "-c", STEPS, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_step_takes_the_pages_that_the_last_one_freed() -> None:
    """With glibc, steps after the first ask the system for no memory; left alone, each asks for all of it again."""
    if platform.libc_ver()[0] == "glibc":
        assert faults("kept") < 100 < faults()
    else:
        assert not keep_freed_memory()
