"""What following the monitor's advice saves, on every test run, beside the best policy of `plan`.

    python benchmarks/advice.py [FOLDER...] [--write]

Both are simulated at the headline shape of the run's number of experts, steps of 100 ms, 200 MB per expert and 25 GB/s;
the plans of both are made by `sw_avg` from the past alone. The policy and its interval
are the best in hindsight. ``--write`` puts the table into docs/guide/live.md. Some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from compare_common import table, write_part

from moeload_bench.evaluation.replanning import compare_policies
from moeload_bench.live.cluster import Cluster
from moeload_bench.live.core import Settings, replay
from moeload_bench.placement.replan import CostModel
from moeload_bench.traces.store import list_traces, read_trace

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guide" / "live.md"
FOLDERS = (ROOT / "moeload_bench" / "data", ROOT / "traces")
COST = CostModel(100, 200, 25)
BEGIN = "<!-- made by benchmarks/advice.py -->\n"


def row(path: Path) -> Sequence[str]:
    """Return one line of the table."""
    trace = read_trace(path)
    settings = Settings("sw_avg", cluster=Cluster(None, COST), follow=True)
    shape = settings.cluster.shape_for(trace.num_experts)
    assert shape is not None
    *_, last = replay(trace, settings)
    assert last.placing is not None
    best = compare_policies(trace, "sw_avg", shape, COST, level="none").best
    balancing = f"{trace.meta.balancing.method} {trace.meta.balancing.coefficient:g}".removesuffix(" 0")
    policy = best.policy if best.policy == "static" else f"{best.policy}, k = {best.every}"
    advised = (f"{last.placing.saved_percent:.2f}", f"{last.placing.replans}")
    own = (f"{best.saved_percent:.2f}", policy, f"{best.replans}")
    return (f"`{trace.id}`", balancing, f"{shape.devices}, {shape.slots}", *advised, *own)


def saved(folders: list[Path]) -> str:
    """Return the table of all test runs."""
    head = ("run", "balancing", "devices, slots", "advice saves, %", "re-plans", "best policy saves, %", "which",
            "re-plans")  # fmt: skip
    paths = [ref.path for folder in folders for ref in list_traces(folder) if "/test/" in ref.id]
    return "\n".join(table(head, map(row, paths))) + "\n"


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", default=list(FOLDERS))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    made = saved(given.folders)
    print(made, end="")
    if given.write:
        write_part(PAGE, BEGIN, made)


if __name__ == "__main__":
    main()
