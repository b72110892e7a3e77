"""`python -m tests.golden save|compare`: whether published and computed numbers are what they were.

`compare` prints which numbers differ and exits with 1. `save` writes what is found now, after it has printed what
changes: a commit of its own, with its reason.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from tests.golden.parts import PARTS
from tests.golden.table import differences, load, save

FOLDER = Path(__file__).resolve().parent
SHOWN = 20


def main(words: Sequence[str] | None = None) -> int:
    """Save or compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("action", choices=("save", "compare"))
    parser.add_argument("--part", choices=tuple(PARTS), help="one part; both by default")
    asked = parser.parse_args(words)
    differ = False
    for part in PARTS if asked.part is None else (asked.part,):
        with TemporaryDirectory() as name, mock.patch.dict(os.environ, {"MOELOAD_CACHE": f"{name}/cache"}):
            found = PARTS[part](Path(name))
        path = FOLDER / f"{part}.parquet"
        lines = list(differences(load(path), found))
        print(f"{part}: {len(found):,} numbers, {len(lines):,} differ")
        print("".join(f"  {line}\n" for line in lines[:SHOWN]), end="")
        differ |= bool(lines)
        if asked.action == "save" and lines:
            save(found, path)
    return int(differ and asked.action == "compare")


if __name__ == "__main__":
    sys.exit(main())
