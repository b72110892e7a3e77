"""Records shared by both ends of isolation: the levels, the limits, the measured cost, what a host is, how one ends."""

from __future__ import annotations

import re
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from moeload_bench.errors import MoeloadError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

Level = Literal["none", "process", "sandbox"]
LEVELS: tuple[Level, ...] = ("none", "process", "sandbox")

MIB = 2**20
GIB = 2**30
MAX_COUNTS = 32
_COUNT = re.compile(r"[A-Za-z_]\w{0,39}", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """What a forecaster's process may use; at level `none` nothing is limited.

    ``startup_wall_s`` bounds importing and constructing, ``wall_s_per_call`` `observe` of one block and `forecast`,
    ``run_wall_s`` all these calls of one run together, ``fit_wall_s`` `fit`. ``cpu_s``, ``memory_bytes`` and
    ``processes`` hold for the process and all its descendants together; ``file_bytes`` for each file it writes,
    ``files`` for the number of those in a sandbox, ``fitted_bytes`` for what `fit` returns. ``traceback``: whether an
    error in a sandbox says where in the forecaster's files it came from, as it does at the other levels.
    """

    startup_wall_s: float = 120.0
    wall_s_per_call: float = 120.0
    run_wall_s: float = 3600.0
    fit_wall_s: float = 3600.0
    cpu_s: float = 3600.0
    memory_bytes: int = 8 * GIB
    processes: int = 64
    file_bytes: int = 256 * MIB
    files: int = 65_536
    fitted_bytes: int = 32 * MIB
    traceback: bool = field(default=False, repr=False)  # changes no score, so it is no part of a key

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "traceback" and not value > 0:
                raise MoeloadError(f"Limits: {name} is {value!r}, expected a number above 0")


@dataclass(frozen=True)
class Cost:
    """What a forecaster cost, measured by the harness and never reported by the forecaster.

    Wall seconds are from sending a call to holding its answer. CPU seconds are those of the forecaster's process
    and its descendants, None on platforms that cannot tell. ``startup_wall_s`` is from starting the process to the
    constructed forecaster. ``peak_memory_bytes`` is the peak resident memory of the processes, None when unknown
    (level `none`). For `fit`, ``observe_*`` are the costs of fitting.
    """

    observe_wall_s: float = 0.0
    observe_cpu_s: float | None = 0.0
    forecast_wall_s: float = 0.0
    forecast_cpu_s: float | None = 0.0
    observed_rows: int = 0
    forecasts: int = 0
    startup_wall_s: float = 0.0
    peak_memory_bytes: int | None = None

    def with_call(self, call: str, wall_s: float, cpu_s: float | None) -> Cost:
        """Return the cost with one more call of `observe` or `forecast`; CPU time that is unknown once stays so."""
        before: float | None = getattr(self, f"{call}_cpu_s")
        total = {
            f"{call}_wall_s": getattr(self, f"{call}_wall_s") + wall_s,
            f"{call}_cpu_s": None if before is None or cpu_s is None else before + cpu_s,
        }
        return replace(self, forecasts=self.forecasts + (call == "forecast"), **total)

    def with_rows(self, rows: int) -> Cost:
        """Return the cost with so many more rows observed."""
        return replace(self, observed_rows=self.observed_rows + rows)


class Host(ABC):
    """One forecaster and where it lives; a context manager that stops it. All that others know of isolation.

    ``Class(target, level, limits, numba_cache)`` makes the place, in which `start` constructs the forecaster or `fit`
    lets its class learn. What the forecaster raises is a `ForecastError`; a process that is gone, hangs or does not
    keep to the protocol is an `IsolationError`, and so is every later call.
    """

    @abstractmethod
    def start(self, info: TraceInfo, seed: int, fitted: bytes | None) -> None:
        """Construct the forecaster that follows one run."""

    @abstractmethod
    def fit(self, runs: Sequence[tuple[TraceInfo, StepBlock]], seed: int) -> bytes | None:
        """Let the class learn from whole runs; None when it has no `fit`."""

    @abstractmethod
    def observe(self, block: StepBlock) -> None:
        """Show newly completed steps."""

    @abstractmethod
    def forecast(self, request: ForecastRequest) -> Forecast:
        """Ask what comes next; the answer has passed `check_forecast`."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Return the forecaster's own ``counts`` (for example fits that did not converge); {} when it has none."""

    @abstractmethod
    def cost(self) -> Cost:
        """Return what it cost so far."""

    @abstractmethod
    def stop(self) -> None:
        """Leave nothing of it behind."""

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def is_count(name: Any, value: Any) -> bool:
    """Return whether a forecaster's count is a short plain name with a number that JSON keeps."""
    return isinstance(name, str) and bool(_COUNT.fullmatch(name)) and type(value) is int and abs(value) < 2**53


def signal_name(status: int) -> str | None:
    """Return the signal that ended a process; None where none did. Bubblewrap reports a signal as 128 + its number."""
    number = -status if status < 0 else status - 128
    return signal.Signals(number).name if number in set(signal.Signals) else None


def end_words(status: int) -> str:
    """Return how a process ended: `was ended by SIGSEGV`, `ended with status 1`."""
    name = signal_name(status)
    return f"ended with status {status}" if name is None else f"was ended by {name}"
