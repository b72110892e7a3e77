"""Deaths of experts in every recorded run, and how well alarms foresee them.

`leaderboard/alarms.json` keeps the counts of each run by its hash; `python -m leaderboard pages capacity` counts the
runs that it lacks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from leaderboard.committed import ROOT
from moeload_bench.capacity.alarms import AlarmCounts, block_shares, collapses, count, danger, episodes
from moeload_bench.results.json_text import readable_json
from moeload_bench.schema import Record
from moeload_bench.traces.store import TraceRef, list_traces, read_trace, stored_hash

OUT = ROOT / "leaderboard" / "alarms.json"
TRACES = ROOT / "traces"
LIMITS = (0.12, 0.15, 0.2, 0.3)
"""Times 1/E: the alarm warns below it, of an expert that is falling; 0.2 is the baseline."""


class AlarmRun(Record):
    """The counts of a run at each limit, and its collapsed layers with the first such block."""

    id: str
    data_sha256: str
    counts: dict[str, AlarmCounts]
    collapsed: tuple[tuple[int, int], ...]

    @property
    def recipe(self) -> str:
        return self.id.split("/")[0]


def measure(ref: TraceRef) -> AlarmRun | None:
    """Return the counts of a run; None for one that holds only a part of the steps."""
    trace = read_trace(ref.path)
    if trace.meta.stride > 1:
        return None
    share_BLE = block_shares(trace)
    counts = {str(limit): count(share_BLE, episodes(danger(share_BLE, limit), share_BLE)) for limit in LIMITS}
    return AlarmRun(id=ref.id, data_sha256=stored_hash(ref.path), counts=counts, collapsed=tuple(collapses(share_BLE)))


def all_runs(folder: Path = TRACES) -> list[AlarmRun]:
    """Return the counts of every run in the folder, counted where none are kept; without a folder, the kept ones."""
    kept = [AlarmRun.model_validate(one) for one in json.loads(OUT.read_text())] if OUT.is_file() else []
    if not folder.is_dir():
        return kept
    known = {(run.id, run.data_sha256): run for run in kept}
    found = (known.get((ref.id, stored_hash(ref.path))) or measure(ref) for ref in list_traces(folder))
    return [run for run in found if run is not None]


def records_text(runs: Sequence[AlarmRun]) -> str:
    """Return the file of counts, in the order of their ids."""
    ordered = sorted(runs, key=lambda run: run.id)
    return readable_json([run.model_dump(mode="json") for run in ordered], levels=2) + "\n"
