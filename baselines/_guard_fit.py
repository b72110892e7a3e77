"""How the weights of `guarded` are learned: `_gate_fit`'s descent over more kinds of twins of each run.

Beside the twins of `gated`, of each run its rows summed by tens, and its counts thinned to `THIN` tokens per expert and
row: both exact, such a log could have been kept of that very run. Quantiles are calibrated twice, on runs whose rows
are noisy and on those of large batches.

Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from moeload_bench.forecaster import FitRuns, StepBlock, TraceInfo

from . import _gate_fit as gate_fit
from ._guard import LOUD, QUIET, Network, widened
from ._series import IntArray
from ._spread import NOISE

SUM = 10
THIN = 50

Twin = Callable[[TraceInfo, IntArray, np.random.Generator], tuple[TraceInfo, IntArray]]


def summed(info: TraceInfo, load_SLE: IntArray, rng: np.random.Generator) -> tuple[TraceInfo, IntArray]:
    """Ten rows as one; rows at the end that do not fill a sum are cut."""
    rows = len(load_SLE) // SUM
    parts = load_SLE[: rows * SUM].reshape(rows, SUM, *load_SLE.shape[1:])
    return replace(info, stride=info.stride * SUM), parts.sum(axis=1)


def thinned(info: TraceInfo, load_SLE: IntArray, rng: np.random.Generator) -> tuple[TraceInfo, IntArray]:
    """As if a row had counted `THIN` tokens per expert, drawn without replacement from those that it counted."""
    out = np.empty_like(load_SLE)
    wanted = THIN * info.num_experts
    for out_E, load_E in zip(out.reshape(-1, info.num_experts), load_SLE.reshape(-1, info.num_experts), strict=True):
        out_E[:] = rng.multivariate_hypergeometric(load_E, min(wanted, int(load_E.sum())), method="marginals")
    return info, out


TWINS: Mapping[str, tuple[Twin, gate_fit.Kind]] = {
    "summed": (summed, gate_fit.Kind(100, 8)),
    "thinned": (thinned, gate_fit.Kind(100, 6)),
}


def fit_guard(runs: FitRuns, seed: int, without: Collection[str] = ()) -> Network:
    """Return the weights learned from whole runs and their twins; the same ones for the same runs, seed and machine.

    ``without``: names of `TWINS`, or "sampled", that it shall not learn from.
    """
    return learned([sample for name, sample in samples_of(runs, seed) if name not in without], seed)


def learned(samples: Sequence[gate_fit.Samples], seed: int) -> Network:
    """Return the weights learned from samples; quantiles for noisy rows are of noisy runs, for quiet rows of others."""
    gate = gate_fit.train(samples, seed, gate_fit.Learning())
    loud, quiet = ([sample for sample in samples if _is_quiet(sample) == wanted] for wanted in (False, True))
    return Network(**vars(gate_fit.calibrated(gate, loud)), quiet=gate_fit.calibrated(gate, quiet).spread)


def _is_quiet(sample: gate_fit.Samples) -> bool:
    noise = np.median(np.concatenate([seen.context_LC[:, NOISE] for seen in sample.measured_O]))
    return bool(noise < np.log([QUIET, LOUD]).mean())


def samples_of(runs: FitRuns, seed: int) -> list[tuple[str, gate_fit.Samples]]:
    """Measure every run and its twins; each sample comes with the name of its twin, "recorded" for the run itself."""
    samples = [
        ("sampled" if own.kind == gate_fit.SAMPLED else "recorded", _widened(own, runs[own.run][0]))
        for own in gate_fit.samples_of(runs, seed)
    ]
    for number, (info, block) in enumerate(runs):
        for name, (twin, kind) in TWINS.items():
            rng = np.random.default_rng([seed, number])
            twin_info, load_SLE = twin(info, block.load_SLE, rng)
            rows = StepBlock(block.step_S[: len(load_SLE)], load_SLE, load_SLE.sum(axis=2))
            sample = gate_fit._sample(number, kind, twin_info, rows, rng)
            samples += [(name, _widened(sample, twin_info))] if sample.measured_O else []
    return samples


def _widened(sample: gate_fit.Samples, info: TraceInfo) -> gate_fit.Samples:
    stride, balancing = info.stride * sample.kind.stride, "loss_free_bias" if sample.kind.controlled else info.balancing
    return replace(sample, measured_O=[widened(seen, stride, balancing) for seen in sample.measured_O])
