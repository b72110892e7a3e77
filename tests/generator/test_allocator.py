"""What a training does with the memory that its steps free."""

from __future__ import annotations

import platform
import subprocess
import sys

from moeload_bench.generator.processes import keep_freed_memory

STEPS = """
import resource
import torch
from moeload_bench.generator.processes import keep_freed_memory

def steps(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(16 << 20)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

steps(2)
print(steps(5))
assert keep_freed_memory()
steps(2)
print(steps(5))
"""


def faults() -> list[int]:
    """Pages that five further steps asked the system for, left alone and kept, in one fresh process."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def test_a_step_takes_the_pages_that_the_last_one_freed() -> None:
    """With glibc, steps after the first ask the system for no memory; left alone, each asks for all of it again."""
    if platform.libc_ver()[0] == "glibc":
        alone, kept = faults()
        assert kept < 100 < alone
    else:
        assert not keep_freed_memory()
