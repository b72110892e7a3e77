"""A run watched as it goes: one row of counts at a time in, a `Snapshot` every so many steps out.

What is known at a step is a function of the rows before it and of the `Settings`, whether the rows come out of a
training in progress or out of a finished trace (`replay`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from moeload_bench.inspection.advice import Advice
from moeload_bench.inspection.decision import Decision
from moeload_bench.inspection.events import Event
from moeload_bench.inspection.facts import Inspection, Inspector
from moeload_bench.inspection.planning import Planner, Settings
from moeload_bench.recording.writer import Row, rows_of
from moeload_bench.traces.trace import Trace, TraceMeta


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is known at step ``step``, the first one not seen.

    ``inspection``: the facts, without their timeline. ``decision`` and ``advice``: None unless they are asked for.
    """

    step: int
    inspection: Inspection
    decision: Decision | None
    advice: Advice | None


class Watch:
    """Facts of a run and, if ``advise``, its plans.

    ``batch_tokens``: tokens of the first row. ``on_event``: called with each event.

    Raises what `Planner` raises, and `TraceError` for a stride that the state rule does not fit.
    """

    def __init__(
        self, meta: TraceMeta, settings: Settings, batch_tokens: int, *, advise: bool,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:  # fmt: skip
        self.inspector = Inspector(meta, settings.rule, on_event)
        self.planner = Planner(meta, settings, batch_tokens) if advise else None
        self._look_rows = settings.every_at(meta.stride) // meta.stride
        self._rows = 0

    def add(self, row: Row) -> Snapshot | None:
        """Take in one step: `step`, `tokens` [L], `load` [L, E] and the optional columns; a snapshot where one is due.

        Raise `TraceError` for a step that does not follow the last one or counts of another shape, and what a
        forecaster raises.
        """
        self.inspector.add_row(row)
        planned = None if self.planner is None else self.planner.add(row)
        self._rows += 1
        if self._rows % self._look_rows:
            return None
        found = replace(self.inspector.inspection(), timeline=None)
        if planned is None:
            return Snapshot(found.step, found, None, None)
        return Snapshot(found.step, found, planned.decision, planned.advice)

    def close(self) -> None:
        """End the processes of forecasters."""
        if self.planner is not None:
            self.planner.close()


def replay(trace: Trace, settings: Settings | None = None) -> Iterator[Snapshot]:
    """Yield the snapshots that a monitor with these settings gave, or would have given, during the recording."""
    settings = settings or Settings()
    watch: Watch | None = None
    try:
        for row in rows_of(trace):
            watch = watch or Watch(trace.meta, settings, int(row["tokens"].max()), advise=settings.asks_for_advice)
            snapshot = watch.add(row)
            if snapshot is not None:
                yield snapshot
    finally:
        if watch is not None:
            watch.close()
