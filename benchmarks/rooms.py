"""How many rooms of the package a command goes through, and how often it goes from one to another.

    python benchmarks/rooms.py            both commands, in a temporary folder; --json for numbers alone

A room is a sub-package. A move is a pair of functions in different rooms of which one calls the other; a loop that
makes the same call again adds none. Counted by `sys.setprofile`; imports and the modules at the top are left out.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

BEFORE = {"run": (10, 81), "submit": (10, 66)}
"""Rooms and moves at commit 863266b of November 2026, before the house was made smaller."""
COMMANDS = {
    "run": ["run", "sw_avg", "--level", "none", "--suite", "mini", "--fresh"],
    "submit": [
        *("submit", "mine.py:Mine", "--name", "mine", "--author", "A. Uthor", "--licence", "MIT"),
        *("--suite", "mini", "--dry-run"),
    ],
}
FORECASTER = """
import numpy as np

from moeload_bench import Forecast


class Mine:
    def __init__(self, info, seed=0, **kwargs):
        self.share = np.full((info.num_layers, info.num_experts), 1 / info.num_experts)

    def observe(self, block):
        load, total = block.load_SLE[-1], block.load_SLE[-1].sum(axis=-1, keepdims=True)
        self.share = np.where(total > 0, load / np.maximum(total, 1), self.share)

    def forecast(self, request):
        return Forecast(self.share[None], np.array([request.horizon]))
"""


class Rooms:
    """The rooms entered and the moves between them, seen by `sys.setprofile`."""

    def __init__(self, package: Path) -> None:
        self._package = f"{package}{os.sep}"
        self._rooms: dict[str, str | None] = {}
        self.entered: Counter[str] = Counter()
        self.moves: Counter[tuple[str, str, str, str]] = Counter()

    def room(self, file: str) -> str | None:
        """Return the room of a file; None outside the package."""
        if file not in self._rooms:
            room, folder, _ = file.removeprefix(self._package).partition(os.sep)
            self._rooms[file] = room if file.startswith(self._package) and folder else None
        return self._rooms[file]

    def see(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note a call of a function of the package, from the nearest one of the package that led to it."""
        code = frame.f_code
        room = self.room(code.co_filename) if event == "call" else None
        if room is None or _is_import(code):
            return
        self.entered[room] += 1
        caller = frame.f_back
        while caller is not None and self.room(caller.f_code.co_filename) is None:
            caller = caller.f_back
        if caller is None or _is_import(caller.f_code):
            return
        came_from = self.room(caller.f_code.co_filename) or ""
        if came_from != room:
            self.moves[came_from, caller.f_code.co_qualname, room, code.co_qualname] += 1


def _is_import(code: CodeType) -> bool:
    """Whether this is the body of a module or a class, which an import runs: only functions have their own locals."""
    return not code.co_flags & inspect.CO_OPTIMIZED


def measured(words: list[str]) -> Rooms:
    """Run a command of the package in this process and watch it."""
    import moeload_bench
    from moeload_bench.cli.app import app

    rooms = Rooms(Path(moeload_bench.__file__).parent)
    sys.setprofile(rooms.see)
    try:
        app(words, standalone_mode=False)
    finally:
        sys.setprofile(None)
    return rooms


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--moves", action="store_true", help="list the moves too")
    asked = parser.parse_args()
    found: dict[str, Rooms] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("mine.py").write_text(FORECASTER)
        for name, words in COMMANDS.items():
            found[name] = measured(words)
    if asked.moves:
        print(*(" ".join(move) for one in found.values() for move in sorted(one.moves)), sep="\n")
    if asked.json:
        print(json.dumps({k: {"rooms": sorted(v.entered), "moves": len(v.moves)} for k, v in found.items()}, indent=1))
        return
    for name, one in found.items():
        rooms, moves = BEFORE[name]
        print(f"{name}: {len(one.entered)} rooms (before {rooms}): {', '.join(sorted(one.entered))}")
        print(f"{name}: {len(one.moves)} moves (before {moves})")


if __name__ == "__main__":
    main()
