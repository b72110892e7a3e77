"""`guarded`: `gated`, taught on more kinds of data, and kept honest on the run itself.

The network and what it sees are those of `gated`. Two things differ. Its weights were learned from more kinds of data:
recipes with large batches among them, and beside each `train` run as it is, sampled, begun late and balanced by a
simulated controller, also its rows summed by tens and its counts thinned to 50 per expert (`_guard_fit`). And it does
not have to be believed: at fixed steps it writes down what it forecasts, and where a rival (`adaptive`, the last value)
has been nearer to what then came, the forecast moves over to that rival, layer by layer (`_guard`).

Under loss-free balancing, where a layer is still, shares are moved along the bias that the controller has built up.

Unusual input, quantiles, ``weights`` and ``counts``: as `gated` says. ``guard=false`` is the network alone.
"""

from __future__ import annotations

from typing import Any

from moeload_bench.forecaster import FitRuns, StepBlock, TraceInfo

from ._guard import CHECK, Guard, read_network, shipped_network, to_bytes
from .gated import MIN_GROUPS, Gated

FACTS = {"guarded": {"place": 20, "step_ns": 90, "forecast_us": 5, "own_run": 8}}


class Guarded(Gated):
    """`gated`'s mixture by other weights, itself mixed with rivals as far as they were better on this run."""

    _gate: Any  # a `Guard`, which answers as a `Gate` does

    def __init__(
        self, info: TraceInfo, seed: int, fitted: bytes | None = None, weights: str = "fitted", guard: bool = True
    ) -> None:
        super().__init__(info, seed, None, weights)
        use_fitted = weights == "fitted" and bool(fitted)
        network = read_network(bytes(fitted or b""), "what was fitted") if use_fitted else shipped_network()
        self._gate = Guard(network, self._memory, guard)
        self.counts["shipped"] = int(not use_fitted)

    @classmethod
    def fit(cls, runs: FitRuns, seed: int, weights: str = "fitted", guard: bool = True) -> bytes:
        """Return the weights as an archive; empty where the shipped ones are to be used."""
        if weights == "shipped" or len({info.group for info, _ in runs}) < MIN_GROUPS:
            return b""
        from ._guard_fit import fit_guard

        return to_bytes(fit_guard(runs, seed))

    def observe(self, block: StepBlock) -> None:
        """Keep the newest rows and sums of older ones; every `CHECK` rows compare and write down."""
        start = 0
        while start < len(block):
            stop = min(len(block), start + CHECK - self._memory.rows % CHECK)
            part = block.rows(start, stop)
            super().observe(part)
            self._gate.observe(part)
            start = stop
