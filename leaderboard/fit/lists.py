"""The runs that weights and constants were fitted on: a TOML file for each, beside this module.

A run that is added to traces/ changes no list. One that is gone, or holds other data, is refused before any work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from leaderboard.committed import ROOT, TRACES
from moeload_bench.errors import HashMismatchError, TraceError
from moeload_bench.schema import Record, read_toml
from moeload_bench.suites.suite import Sha256
from moeload_bench.traces.lookup import TraceRef, bundled_folder
from moeload_bench.traces.store import read_trace, stored_hash
from moeload_bench.traces.trace import Trace

LISTS = Path(__file__).parent
SEASON_TRACES = ROOT / "leaderboard" / "seasons" / "2027-01" / "traces"


class FitList(Record):
    """What a fit is made from.

    ``runs``: the `data_sha256` of each, in the order in which they are learned. ``seed``: of the weights that a network
    begins with. ``near_twins``: recipes so alike that all of a group together weigh as much as another recipe alone.
    """

    runs: dict[str, Sha256]
    seed: int = 0
    near_twins: tuple[tuple[str, ...], ...] = ()

    def files(self) -> list[TraceRef]:
        """Return the files of the runs; raise `TraceError` for the first that is missing or is another trace."""
        return [_found(run, expected) for run, expected in self.runs.items()]

    def traces(self) -> Iterator[Trace]:
        """Yield the runs one after another, once all of them are known to be there; their content is checked."""
        for ref in self.files():
            yield read_trace(ref.path, expected_sha256=self.runs[ref.id])


def read_list(name: str) -> FitList:
    """Return the list of a fit by its name."""
    return read_toml(FitList, LISTS / f"{name}.toml", "the list", TraceError)


def _found(run: str, expected: str) -> TraceRef:
    paths = [folder / f"{run}.parquet" for folder in (TRACES, SEASON_TRACES, bundled_folder())]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise TraceError(f"{paths[0]}: no such file; the fit needs this run, with data_sha256 {expected}")
    if stored_hash(path) != expected:
        raise HashMismatchError(f"{path}: data_sha256 is {stored_hash(path)}, the fit was made from {expected}")
    return TraceRef(run, path, "local")
