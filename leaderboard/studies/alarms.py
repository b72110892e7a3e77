"""Deaths of experts in every recorded run, and how well alarms foresee them.

`leaderboard/alarms.json` keeps the counts of each run by its hash; `python -m leaderboard pages capacity` counts the
runs that it lacks.
"""

from __future__ import annotations

from pathlib import Path

from leaderboard.committed import ROOT
from leaderboard.studies.kept import read_records
from moeload_bench.capacity.alarms import AlarmCounts, block_shares, collapses, count, danger, episodes
from moeload_bench.schema import Record
from moeload_bench.traces.store import TraceRef, list_traces, read_trace, stored_hash, stored_meta

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


def measure(ref: TraceRef) -> AlarmRun:
    """Return the counts of a run."""
    trace = read_trace(ref.path)
    share_BLE = block_shares(trace)
    counts = {str(limit): count(share_BLE, episodes(danger(share_BLE, limit), share_BLE)) for limit in LIMITS}
    return AlarmRun(id=ref.id, data_sha256=stored_hash(ref.path), counts=counts, collapsed=tuple(collapses(share_BLE)))


def all_runs(folder: Path = TRACES) -> list[AlarmRun]:
    """Return the counts of every run in the folder that holds all steps; counted where none are kept.

    Without a folder, the kept ones.
    """
    kept = read_records(AlarmRun, OUT)
    if not folder.is_dir():
        return kept
    known = {(run.id, run.data_sha256): run for run in kept}
    refs = [ref for ref in list_traces(folder) if stored_meta(ref.path).stride == 1]
    return [known.get((ref.id, stored_hash(ref.path))) or measure(ref) for ref in refs]
