"""Faults that the local Hub injects on demand: what real networks do to an upload."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass
from typing import Literal

Kind = Literal["503", "drop", "lost_reply", "slow", "truncate", "corrupt"]
"""503: refused before anything happens. drop: the connection dies before the request is read in full. lost_reply: the
request takes effect, the answer never arrives. slow: the body trickles. truncate: half of the answer's body, then the
connection dies. corrupt: one byte of the answer's body is another."""


@dataclass
class Fault:
    """Hits requests whose "METHOD /path" matches, ``times`` times (None: always), each with a probability."""

    kind: Kind
    pattern: str
    times: int | None = 1
    probability: float = 1.0


class Faults:
    """The faults in force; seeded, so that a failing test can be run again."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._active: list[Fault] = []
        self.hits: list[tuple[Kind, str]] = []

    def add(self, kind: Kind, pattern: str = ".*", times: int | None = 1, probability: float = 1.0) -> None:
        self._active.append(Fault(kind, pattern, times, probability))

    def reseed(self, seed: int) -> None:
        self._random.seed(seed)

    def clear(self) -> None:
        self._active.clear()

    def draw(self, request: str) -> Kind | None:
        """The fault that this request suffers, None for most."""
        with self._lock:
            for fault in self._active:
                if fault.times == 0 or not re.search(fault.pattern, request):
                    continue
                if self._random.random() >= fault.probability:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                self.hits.append((fault.kind, request))
                return fault.kind
        return None
