"""Synthetic loads with known routing probabilities: what the tests of states, floors and metrics measure against.

Axis letters: S steps, L layers, E experts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.traces.trace import Trace


def even(S: int, L: int, E: int) -> FloatArray:
    """Probabilities 1 / E throughout."""
    return np.full((S, L, E), 1.0 / E)


def fixed(S: int, L: int, E: int, seed: int = 0) -> FloatArray:
    """One unequal distribution per layer, constant over steps."""
    base_LE = np.random.default_rng(seed).dirichlet(np.full(E, 5.0), L)
    return np.broadcast_to(base_LE, (S, L, E)).copy()


def oscillating(S: int, L: int, E: int, period: int, size: float) -> FloatArray:
    """Half of the experts rise by ``size`` (relative) while the others fall; layers a little apart."""
    phase_L = 0.1 + 0.2 * np.arange(L)
    wave_SL = size * np.cos(2.0 * np.pi * np.arange(S)[:, None] / period + phase_L)
    sign_E = np.where(np.arange(E) % 2, 1.0, -1.0)
    return (1.0 + wave_SL[..., None] * sign_E) / E


def drifting(S: int, L: int, E: int, tv_per_step: float) -> FloatArray:
    """The first half of the experts loses ``tv_per_step`` of all tokens to the second half in each step."""
    moved_S = np.arange(S) * tv_per_step
    assert moved_S[-1] <= 0.5
    sign_E = np.where(np.arange(E) < E // 2, -1.0, 1.0)
    p_SE = (1.0 + 2.0 * moved_S[:, None] * sign_E) / E
    return np.repeat(p_SE[:, None], L, axis=1)


def wandering(S: int, L: int, E: int) -> FloatArray:
    """Shares that never settle: every 100 steps they have gone to other ones, evenly step by step."""
    corner_KLE = np.random.default_rng(7).dirichlet(np.full(E, 20.0), (S // 100 + 2, L))
    at_S = np.arange(S) / 100
    low_S, part_S11 = at_S.astype(int), (at_S % 1)[:, None, None]
    return np.asarray((1 - part_S11) * corner_KLE[low_S] + part_S11 * corner_KLE[low_S + 1])


def autocorrelated(base_SLE: FloatArray, rho: float, size: float, seed: int = 0) -> FloatArray:
    """Probabilities whose logits wander around the base's as AR(1) with lag-1 correlation ``rho``."""
    rng = np.random.default_rng(seed)
    S = base_SLE.shape[0]
    step = rng.standard_normal(base_SLE.shape) * size * np.sqrt(1.0 - rho**2)
    wander = np.zeros(base_SLE.shape)
    wander[0] = rng.standard_normal(base_SLE.shape[1:]) * size
    for s in range(1, S):
        wander[s] = rho * wander[s - 1] + step[s]
    p = base_SLE * np.exp(wander)
    return p / p.sum(axis=-1, keepdims=True)


def draw(
    p_SLE: FloatArray, tokens: int, seed: int = 0, sequences: int = 8, concentration: float | None = None
) -> tuple[IntArray, IntArray]:
    """Top-1 loads of a batch, and of every second sequence of it; two [S, L, E].

    ``tokens`` per step in all. With a ``concentration`` each sequence routes by its own Dirichlet draw around the
    step's probabilities: over-dispersed, as real batches are.
    """
    rng = np.random.default_rng(seed)
    half = np.zeros(p_SLE.shape, dtype=np.int64)
    total = np.zeros(p_SLE.shape, dtype=np.int64)
    for sequence in range(sequences):
        q = p_SLE
        if concentration is not None:
            q = rng.standard_gamma(concentration * p_SLE)
            q = q / q.sum(axis=-1, keepdims=True)
        load = rng.multinomial(tokens // sequences, q)
        total += load
        if sequence % 2 == 0:
            half += load
    return total, half


def break_a_sum(path: Path) -> None:
    """Edit one count of a trace's file, in step 5, and leave everything else as it is."""
    table = pq.read_table(path)
    load = table["load"].to_pylist()
    load[5][0][0] += 1
    field = table.schema.field("load")
    pq.write_table(table.set_column(table.schema.get_field_index("load"), field, pa.array(load, type=field.type)), path)


def settling_trace(L: int, E: int, S: int) -> Trace:
    """A large batch whose shares wander, less and less."""
    rng = np.random.default_rng(0)
    logit_LE = rng.normal(0, 0.8, (L, E))
    load_SLE = np.empty((S, L, E), dtype=np.int64)
    for s in range(S):
        logit_LE += rng.normal(0, 0.08 / (1 + s / 30) + 0.004, logit_LE.shape)
        share_LE = np.exp(logit_LE.clip(-2, 2))
        load_SLE[s] = rng.multinomial(1 << 19, share_LE / share_LE.sum(axis=1, keepdims=True))
    return Trace.from_arrays(load_SLE, 1 << 16, 8)
