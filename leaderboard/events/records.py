"""What is kept of a measurement of events: a record a run, a record a break."""

from __future__ import annotations

from leaderboard.committed import ROOT
from moeload_bench.schema import Record

MEASURED = ROOT / "leaderboard" / "events" / "measured.json"


class Healthy(Record):
    """A run without a break.

    ``alarms``: events by kind, outside the 400 steps after a planned switch; ``planned``: those within. ``episodes``:
    alarms of events and of each rival outside, where those within 300 steps are one.
    """

    run: str
    steps: int
    balanced: bool
    switches: int
    alarms: dict[str, int]
    planned: dict[str, int]
    episodes: dict[str, int]


class Noticed(Record):
    """A break in a fork, or a planned switch.

    ``delay``: after how many steps each kind of event and each rival came; None for not in 300 steps. ``settled``: the
    fraction of layers that were stable just before; others cannot become unsettled.
    """

    base: str
    at: int
    name: str
    settled: float
    delay: dict[str, int | None]


class Measured(Record):
    """Everything that was measured; the ``thresholds`` of rivals give as many false episodes as events do, or fewer.

    ``switches``: what was noticed of the switches that the recipes of the healthy runs planned.
    """

    thresholds: dict[str, float]
    healthy: tuple[Healthy, ...]
    switches: tuple[Noticed, ...]
    breaks: tuple[Noticed, ...]
