"""Deaths of experts in every recorded run, and how well alarms foresee them.

`leaderboard/alarms.json` keeps the counts of each run by its hash; `python -m leaderboard pages capacity` counts the
runs that it lacks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from leaderboard.committed import ROOT, TRACES
from leaderboard.studies.kept import read_records
from moeload_bench.arrays import FloatArray
from moeload_bench.capacity.alarms import (
    DANGER,
    AlarmCounts,
    Flags,
    alarms,
    block_shares,
    collapses,
    count,
    danger,
    episodes,
)
from moeload_bench.schema import Record
from moeload_bench.traces.store import TraceRef, list_traces, read_trace, stored_hash, stored_meta

OUT = ROOT / "leaderboard" / "alarms.json"
BASELINE, SHIPPED = "0.2/E, while it falls (baseline)", f"{DANGER:g}/E, stands (shipped)"
ENTRIES: Mapping[str, Callable[[FloatArray], Flags]] = {
    BASELINE: danger,
    **{
        SHIPPED if below == DANGER else f"{below:g}/E, stands": functools.partial(alarms, below=below)
        for below in (0.12, 0.15, DANGER, 0.3)
    },
}
"""The alarms that are scored, by the limit below which they begin and how long they last."""


class AlarmRun(Record):
    """The counts of a run by alarm, and its collapsed layers with the first such block."""

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
    counts = {name: count(share_BLE, episodes(alarm(share_BLE), share_BLE)) for name, alarm in ENTRIES.items()}
    return AlarmRun(id=ref.id, data_sha256=stored_hash(ref.path), counts=counts, collapsed=tuple(collapses(share_BLE)))


def all_runs(
    folder: Path = TRACES, kept: Path = OUT, wanted: Callable[[str], bool] = lambda trace: True
) -> list[AlarmRun]:
    """Return the counts of every run in the folder that holds all steps and is wanted; counted where none are kept.

    Without a folder, those that are kept.
    """
    runs = read_records(AlarmRun, kept)
    if not folder.is_dir():
        return runs
    known = {(run.id, run.data_sha256): run for run in runs}
    refs = [ref for ref in list_traces(folder) if wanted(ref.id) and stored_meta(ref.path).stride == 1]
    return [known.get((ref.id, stored_hash(ref.path))) or measure(ref) for ref in refs]
