"""Numbers of the past of a run, in memory that does not grow with it."""

from __future__ import annotations


class Kept:
    """Some of the numbers of a run, spread over it: when more than ``most`` are kept, every other one is let go."""

    def __init__(self, most: int) -> None:
        self._most, self._every, self._seen = most, 1, 0
        self.values: list[float] = []

    def add(self, value: float) -> None:
        """Take in the next number."""
        if self._seen % self._every == 0:
            if len(self.values) == self._most:
                self.values, self._every = self.values[::2], 2 * self._every
            if self._seen % self._every == 0:
                self.values.append(value)
        self._seen += 1
