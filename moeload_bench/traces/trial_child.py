"""Run as a script: open parquet files, one after the other, in a process that may be ended by any of them.

    python -P -B trial_child.py

Each line of standard input is a path as a JSON string. A file that did not end the process is answered by one byte on
standard output, even if it was refused in words: the parent opens it next, and says so. This script imports nothing of
the package.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time

import pyarrow.parquet as pq

MAX_BYTES = 4 << 30
"""Of address space; Python with pyarrow takes 1.4 GB of it."""
CPU_S, WALL_S = 10, 60
"""A file's limits. The footer of the largest trace takes 0.1 s."""


def main() -> None:
    """Answer each line until standard input ends."""
    for line in sys.stdin.buffer:
        limit()
        with contextlib.suppress(OSError, ValueError, TypeError, UnicodeError):
            open_footer(json.loads(line))
        sys.stdout.buffer.write(b".")
        sys.stdout.buffer.flush()


def limit() -> None:
    """Bound memory and time of the next file, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    signal.alarm(WALL_S)
    cpu = int(time.process_time()) + 1 + CPU_S
    for name, most in (("RLIMIT_CPU", cpu), ("RLIMIT_AS", MAX_BYTES), ("RLIMIT_CORE", 0)):
        number = getattr(resource, name)
        with contextlib.suppress(OSError, ValueError):  # macOS refuses a limit of memory
            resource.setrlimit(number, (most, resource.getrlimit(number)[1]))


def open_footer(path: str) -> None:
    """Read what `moeload_bench.traces` reads of a file before it decodes a column; decoding never aborts."""
    with open(path, "rb") as file, pq.ParquetFile(file) as reader:
        _ = reader.schema_arrow
        footer = reader.metadata
        for i in range(footer.num_row_groups):
            group = footer.row_group(i)
            for j in range(footer.num_columns):
                chunk = group.column(j)
                _ = chunk.num_values, chunk.total_compressed_size, chunk.data_page_offset, chunk.dictionary_page_offset


if __name__ == "__main__":
    main()
