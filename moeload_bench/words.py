"""Numbers in words."""

from __future__ import annotations


def ordinal(number: int) -> str:
    """Return `1st`, `2nd`, `3rd`, `11th`, `1,000th`."""
    teens = 10 < number % 100 < 20
    return f"{number:,}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
