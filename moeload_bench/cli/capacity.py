"""What `moeload-bench inspect --capacity` is asked, and what it prints."""

from __future__ import annotations

from dataclasses import dataclass

from moeload_bench.cli.progress import plain_console
from moeload_bench.errors import TraceError, printable
from moeload_bench.inspection.capacity import RISK, STEPS, Capacity, capacity_of, capacity_sentences, capacity_tables
from moeload_bench.results.console import plain_table
from moeload_bench.traces.trace import Trace


@dataclass(frozen=True)
class CapacityOptions:
    """What capacity is forecast for."""

    horizon: int = STEPS
    risk: float = RISK
    devices: int | None = None

    def of(self, trace: Trace, token_bytes: float | None) -> Capacity:
        """Return the capacity that the trace's run needs."""
        return capacity_of(
            trace, self.horizon, self.risk, self.devices, None if token_bytes is None else round(token_bytes)
        )


def capacity_options(
    capacity: bool, horizon: int | None, risk: float | None, devices: int | None
) -> CapacityOptions | None:
    """Return what capacity is forecast for, None where it is not asked for."""
    if capacity:
        return CapacityOptions(horizon or STEPS, RISK if risk is None else risk, devices)
    if (horizon, risk, devices) != (None, None, None):
        raise TraceError("--horizon, --risk and --devices are of a forecast of capacity, expected --capacity")
    return None


def print_capacity(found: Capacity, tables: bool) -> None:
    """Print the answer, and its tables."""
    console = plain_console()
    for line in capacity_sentences(found):
        console.print(printable(line))
    for table in capacity_tables(found) if tables else ():
        console.print("")
        printed = plain_table(*table.columns)
        for row in table.rows:
            printed.add_row(*row)
        console.print(printed)
        console.print(table.caption)
