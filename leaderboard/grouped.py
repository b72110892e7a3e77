"""Things in groups."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def grouped(things: Iterable[T], by: Callable[[T], K]) -> dict[K, list[T]]:
    """Return the things by what ``by`` gives for each; groups and what is in them are in the order of the things."""
    found: dict[K, list[T]] = {}
    for one in things:
        found.setdefault(by(one), []).append(one)
    return found
