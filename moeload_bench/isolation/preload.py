"""Read all shared files into memory first, so that no run can learn from load times what an earlier run read.

A page that is in memory comes faster than one from the disk, and whoever reads it first leaves it there. Where all
pages are there before the first run, nobody learns anything from that, and no forecaster can take one away.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from moeload_bench.isolation import bubblewrap
from moeload_bench.isolation.targets import Target

SPARE = 2  # so many times the files' size has to be available, or their pages would push one another out


def read_all(target: Target, available_bytes: int | None) -> bool:
    """Have every page of the files that a sandbox of ``target`` shows in memory.

    False where they are too many for the memory that is available; None: nobody knows how much that is.
    """
    found = dict(_files(bubblewrap.shared_places(target)))
    if available_bytes is not None and SPARE * sum(found.values()) > available_bytes:
        return False
    for path in found:
        _read(path)
    return True


def _files(places: list[Path]) -> Iterator[tuple[str, int]]:
    """Yield regular files and their sizes, each once."""
    seen: set[tuple[int, int]] = set()
    waiting = [str(place) for place in places]
    while waiting:
        path = waiting.pop()
        try:
            about = os.lstat(path)
            if stat.S_ISDIR(about.st_mode):
                waiting += [entry.path for entry in os.scandir(path)]
        except OSError:  # gone, or not for this user, and so not for a forecaster
            continue
        if stat.S_ISREG(about.st_mode) and about.st_size and (about.st_dev, about.st_ino) not in seen:
            seen.add((about.st_dev, about.st_ino))
            yield path, about.st_size


def _read(path: str) -> None:
    """Map a file with all its pages: those in memory are not copied."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        mmap.mmap(fd, 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ).close()
    except (OSError, ValueError):  # it has changed meanwhile
        pass
    finally:
        os.close(fd)
