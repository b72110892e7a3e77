"""How numbers of results are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

DASH = "-"
"""What stands for nothing."""


def horizon_heads(horizons: Sequence[int]) -> tuple[str, ...]:
    """Return `h = 1`, `h = 1,000`, ..."""
    return tuple(f"h = {horizon:,}" for horizon in horizons)


def marked_floor(floor: str, marks: Mapping[str, str]) -> str:
    """Return a floor's name, with how far it can be trusted where it is not exact."""
    mark = marks.get(floor, "exact")
    return floor if mark == "exact" else f"{floor} ({mark})"


def signed_percent(part: float) -> str:
    """Format a fraction as a percentage with its sign."""
    return f"{100 * part + 0.0:+.1f}"


def skill_span(skill: float, low: float, high: float) -> str:
    """Return skill, with the interval for a new recipe where there is one."""
    return f"{skill:+.3f}" if math.isnan(low) else f"{skill:+.3f} {span(low, high)}"


def span(low: float, high: float, digits: int = 2) -> str:
    """Return the ends of an interval."""
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def signed(value: float, digits: int = 3) -> str:
    """Format with a sign and ``digits`` decimals, adding up to six so that a non-zero value never prints as 0.

    An end of an interval that reads -0.00 says neither how far nor on which side it lies.
    """
    if abs(value) >= 10.0**-digits:
        return f"{value:+.{digits}f}"
    shown = next((n for n in range(digits, 7) if round(value, n)), None)
    return f"{0.0:+.{digits}f}" if shown is None else f"{value:+.{shown}f}"


def signed_skill(value: float | None) -> str:
    """Format a skill with three decimals and its sign."""
    return DASH if value is None or not math.isfinite(value) else f"{value + 0.0:+.3f}"


def three_digits(value: float | None, zeros: bool = False) -> str:
    """Format with three significant digits, "-" for nothing; ``zeros`` keeps zeros at the end, for columns."""
    if value is None or not math.isfinite(value):
        return DASH
    if not zeros:
        return f"{value:.3g}"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
