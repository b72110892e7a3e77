"""Pictures of skill: a row is a forecaster or a recipe, with a dot at its skill and bars for its intervals.

Places are per cent of a panel's width, so that templates draw them as they are. All panels of a picture share a scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from leaderboard.site.words import interval_text, signed_skill
from moeload_bench.results.render import number

if TYPE_CHECKING:
    import pandas as pd

LEAST = -1.0
"""Less skill than this is drawn at the edge: one bad forecaster must not squeeze all others."""
SKILLS = ["skill", "low", "high", "seeds_low", "seeds_high"]


class Bar(NamedTuple):
    """An interval: where it begins, and how long it is."""

    kind: str
    left: float
    width: float


class Row(NamedTuple):
    """A dot with its bars; ``text`` has the same numbers. ``at`` is None without a skill."""

    name: str
    at: float | None
    text: str
    bars: list[Bar]


class Panel(NamedTuple):
    """The rows of one cell, a tick (place, text) at round skills, and the place of 0."""

    title: str
    rows: list[Row]
    ticks: list[tuple[float, str]]
    zero: float


class Scale(NamedTuple):
    """The skills at both edges of a panel."""

    low: float
    high: float

    @classmethod
    def of(cls, summaries: Sequence[pd.DataFrame]) -> Scale:
        """Return the scale that shows all skills and intervals, cut at LEAST."""
        skills = np.concatenate([frame[SKILLS].to_numpy(np.float64).ravel() for frame in summaries])
        skills = skills[np.isfinite(skills)]
        low, high = max(LEAST, min(-0.1, skills.min(initial=0.0))), min(1.0, max(0.1, skills.max(initial=0.0)))
        margin = 0.03 * (high - low)
        return cls(low - margin, high + margin)

    def at(self, skill: float) -> float:
        """Return the place of a skill in per cent, at the edge for one that lies outside."""
        return round(100 * (min(self.high, max(self.low, skill)) - self.low) / (self.high - self.low), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places and texts of round skills, some five."""
        span = self.high - self.low
        step = 0.5 if span > 1.1 else 0.2 if span > 0.45 else 0.1
        rounds = np.arange(np.ceil(self.low / step), np.floor(self.high / step) + 1) * step
        return [(self.at(skill), number(f"{skill + 0.0:+.1f}") if abs(skill) > 1e-9 else "0") for skill in rounds]


def forest(panels: Mapping[str, pd.DataFrame], label: str) -> list[Panel]:
    """Return a panel for each summary, by title; the column ``label`` names its rows."""
    scale = Scale.of(list(panels.values()))
    return [
        Panel(title, [_row(scale, *row) for row in rows[[label, *SKILLS]].itertuples(index=False)], scale.ticks(),
              scale.at(0.0))
        for title, rows in panels.items()
    ]  # fmt: skip


def _row(scale: Scale, name: str, skill: float, *ends: float) -> Row:
    if not np.isfinite(skill):
        return Row(name, None, "no value", [])
    intervals = {"recipe": ends[:2], "seeds": ends[2:]}
    bars = [
        Bar(kind, scale.at(low), round(scale.at(high) - scale.at(low), 2))
        for kind, (low, high) in intervals.items()
        if np.isfinite(low)
    ]
    claims = [f"a new recipe {interval_text(*ends[:2])}", f"new seeds {interval_text(*ends[2:])}"]
    return Row(name, scale.at(skill), "; ".join([signed_skill(skill), *claims]), bars)
