"""How often the alarm for dying experts is right, as `moeload-bench` states it: counts on runs it was not chosen on."""

from __future__ import annotations

import json
from pathlib import Path

from leaderboard.fit.lists import FitList
from moeload_bench.inspection.experts import MEASURED, AlarmCounts, added, alarms, block_shares, count, episodes
from moeload_bench.traces.trace import Trace


def counted(trace: Trace) -> AlarmCounts:
    """Return the counts of the shipped alarm on a run."""
    share_BLE = block_shares(trace)
    return count(share_BLE, episodes(alarms(share_BLE), share_BLE))


def alarm(listed: FitList) -> dict[Path, bytes]:
    """Return the counts over all runs, as the package ships them."""
    counts = added(counted(trace) for trace in listed.traces())
    return {MEASURED: (json.dumps(counts._asdict()) + "\n").encode()}
