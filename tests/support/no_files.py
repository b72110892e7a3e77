"""Puts something else where a file is expected: a pipe, a folder, a link to a device, a terabyte."""

from __future__ import annotations

import os
from pathlib import Path

NO_FILES = ("pipe", "device", "folder", "loop", "terabyte")


def put_no_file(there: str, path: Path) -> None:
    """Make a pipe, a link to an endless device or to itself, a folder, or a terabyte that takes no place."""
    if there == "pipe":
        os.mkfifo(path)
    elif there == "device":
        path.symlink_to("/dev/zero")
    elif there == "folder":
        path.mkdir()
    elif there == "loop":
        path.symlink_to(path.name)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
