"""How far `guarded` trusts its network on this very run: what the network said before, against what came.

Every `CHECK` rows the network and its rivals (`RIVALS`) are asked, and what they say is kept. Once the next 1, 8, 128
or 1,024 rows are complete, each is compared with them: per layer, the logarithm of a rival's total variation over the
network's, half of it the layer's own and half that of the mean over layers, since a layer alone has few targets. Means
of these that forget, times how many targets without overlap they rest on, are the evidence; with a prior that prefers
the network they give the weights of a mixture (exponential weights). Without evidence it is nearly the network alone.

Under loss-free balancing (arXiv 2408.15664) an expert that the controller helps becomes popular by itself, and a bias
that relaxes needs load above 1/E: where a layer is still, `Pull` moves its shares along the bias. Not in the first
thousand steps: there the bias answers the start, and following it cost up to 9 % on the `train` runs it was tried on.

Axis letters: S rows, L MoE layers, E experts, A anchors, M members (the network, then its rivals), K windows.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import StepBlock, TraceInfo

from ._gate import MAX_BYTES, Gate, read_gate
from ._measures import ANCHORS, LEAST_TV, WINDOWS, Measures, Memory, context_names, measure, tv
from ._path import hat_weights
from ._series import FloatArray, to_simplex
from ._spread import NOISE, Spread, moving

SHIPPED = Path(__file__).with_suffix(".npz")
"""Fitted on `train` runs by `python -m leaderboard fit-weights guarded`."""
SHIPPED_SHA256 = "25d56e8b1b6687367c8d308a9b4a333af1b5adf5b0e3f1690cf0e040193de25d"
CHECK = 64
"""Rows between two questions."""
ROWS = (1, 8, 128, 1024)
"""Windows after a question over which its answers are compared with what came."""
RIVALS = ("adaptive", "last_value")
PRIOR = (2.0, 2.0, 3.0, 6.0)
"""For each window, the log of the odds of the network against all its rivals before anything is known."""
SHARPNESS = (6.0, 6.0, 4.0, 3.0)
"""For each window, how much a target without overlap counts, per unit of log error."""
HALF_LIFE = 8
"""Targets after which evidence counts half; at least twice as many as overlap."""
MOST = 1.0
"""A single target counts as at most this much log error."""
PULL = 0.02
"""Of an expert's spread, per 100 steps of the bias; chosen on the `train` runs of suite v2."""
SETTLED = 1000
"""Steps before which nothing is pulled."""
SPREAD_ROWS = 128

QUIET, LOUD = 0.01, 0.03
"""Noise of a row, as total variation: of a layer with some thousands of tokens per expert, and with some hundreds."""
ABSOLUTE = (16, 2048)
"""Windows whose unevenness the network is told as it is, not only over the noise."""
EXTRA = 3 + len(ABSOLUTE)
"""What the network is told beyond `gated`'s context: see `widened`."""

_LAG = tuple(max(1, -(-rows // CHECK)) for rows in ROWS)


def widened(seen: Measures, stride: int, balancing: str) -> Measures:
    """Add the number of experts, the stride, whether balancing is by quantiles, and the skew to the context."""
    noise_L, experts = seen.context_LC[:, NOISE], seen.even_LE.shape[1]
    uneven = [seen.context_LC[:, context_names().index(f"uneven.{w}")] + noise_L for w in ABSOLUTE]
    facts = (np.log(experts), np.log(stride), float(balancing == "quantile"))
    plain = [np.full(len(noise_L), value) for value in facts]
    return replace(seen, context_LC=np.column_stack([seen.context_LC, *plain, *uneven]))


@dataclass(frozen=True, eq=False)
class Network(Gate):
    """``spread`` was calibrated on runs whose rows are noisy, ``quiet`` on those of large batches."""

    quiet: Spread | None = None

    def spread_at(self, noise: float) -> Spread | None:
        """Return the quantiles for rows with so much noise, mixed between `QUIET` and `LOUD`."""
        if self.spread is None or self.quiet is None:
            return self.quiet or self.spread
        part = float(np.interp(np.log(noise), np.log([QUIET, LOUD]), [0.0, 1.0]))
        mixed_CKQ = part * self.spread.factor_CKQ + (1 - part) * self.quiet.factor_CKQ
        return Spread(mixed_CKQ.astype(np.float32))


class Guard:
    """A network that is mixed with simple rivals as far as they were better on this run; else the network alone."""

    def __init__(self, network: Network, memory: Memory, mixed: bool = True) -> None:
        info = memory.info
        self._network = network
        self._memory = memory
        self._mixed = mixed
        self._pull = Pull(info) if memory.controlled else None
        steps_K = tuple(rows * info.stride for rows in ROWS)
        self._mean_KA = np.concatenate([hat_weights(ANCHORS, (steps,)) for steps in steps_K])
        middle_K = np.log([max(1, steps // 2) for steps in steps_K])
        self._at_AK = np.stack([np.interp(np.log(ANCHORS), middle_K, hat_K) for hat_K in np.eye(len(ROWS))], axis=1)
        self._said: deque[FloatArray] = deque(maxlen=max(_LAG))
        self._excess_KML = np.zeros((len(ROWS), 1 + len(RIVALS), info.num_layers))
        self._targets_K = np.zeros(len(ROWS))
        self._noise = LOUD

    @property
    def spread(self) -> Spread | None:
        """The quantiles around what was forecast last."""
        return self._network.spread_at(self._noise)

    def observe(self, block: StepBlock) -> None:
        """Take in rows that the memory holds already and that do not go beyond the next check."""
        if self._pull is not None:
            self._pull.observe(block)
        if self._mixed and self._memory.rows % CHECK == 0 and len(block):
            self._check()

    def forecast(self, seen: Measures) -> FloatArray:
        """Return [A, L, E] shares at the anchors: the mixture."""
        self._noise = float(np.exp(seen.context_LC[:, NOISE].mean()))
        share_ALE = self._mixture(seen) if self._mixed else self._members(seen)[:, 0]
        return share_ALE if self._pull is None else self._pull.applied(share_ALE, self._memory)

    def _mixture(self, seen: Measures) -> FloatArray:
        evidence_KML = self._excess_KML / np.maximum(self._targets_K, 1.0)[:, None, None]
        alone_K = self._targets_K / np.maximum(np.array(ROWS) / CHECK, 1.0)
        log_KML = -(np.array(SHARPNESS) * alone_K)[:, None, None] * evidence_KML
        log_KML[:, 1:] -= np.array(PRIOR)[:, None, None] + np.log(len(RIVALS))
        log_AML = np.tensordot(self._at_AK, log_KML, axes=1)
        weight_AML = np.exp(log_AML - log_AML.max(axis=1, keepdims=True))
        weight_AML /= weight_AML.sum(axis=1, keepdims=True)
        return np.asarray((weight_AML[..., None] * self._members(seen)).sum(axis=1))

    def _check(self) -> None:
        """Compare what was said with what came, then ask anew."""
        for k, lag in enumerate(_LAG):
            if len(self._said) >= lag:
                self._compare(k, self._said[-lag][k])
        members_AMLE = self._members(measure(self._memory))
        self._said.append(np.tensordot(self._mean_KA, members_AMLE, axes=1).astype(np.float32))

    def _members(self, seen: Measures) -> FloatArray:
        """Return the shares of each member of the mixture at the anchors [A, M, L, E]."""
        info = self._memory.info
        network_ALE = self._network.forecast(widened(seen, info.stride, info.balancing))
        last_LE = seen.window_WLE[WINDOWS.index(1)]
        return np.stack([network_ALE, seen.candidate_ADLE[:, -1], np.broadcast_to(last_LE, network_ALE.shape)], axis=1)

    def _compare(self, k: int, said_MLE: FloatArray) -> None:
        """Take in one target: the ``ROWS[k]`` rows after a question that was asked ``_LAG[k]`` checks ago."""
        far = _LAG[k] * CHECK
        near_LE, far_LE = self._memory.share.sums([far - ROWS[k], far])[1]
        log_ML = np.log(np.maximum(tv(said_MLE, (far_LE - near_LE) / ROWS[k]), LEAST_TV))
        both_ML = 0.5 * (log_ML + np.log(np.exp(log_ML).mean(axis=1, keepdims=True)))
        keep = 0.5 ** (1 / max(HALF_LIFE, 2 * _LAG[k]))
        self._excess_KML[k] = keep * self._excess_KML[k] + np.clip(both_ML - both_ML[0], -MOST, MOST)
        self._targets_K[k] = keep * self._targets_K[k] + 1


def to_bytes(network: Network) -> bytes:
    """Return an npz archive: `gated`'s archive, the rest, and the quiet quantiles; without pickle."""
    own = len(context_names())
    plain = replace(
        network, mean_C=network.mean_C[:own], scale_C=network.scale_C[:own], inner_CU=network.inner_CU[:own]
    )
    quiet: dict[str, Any] = {} if network.quiet is None else {"quiet_CKQ": network.quiet.factor_CKQ}
    more = np.column_stack([network.mean_C[own:], network.scale_C[own:], network.inner_CU[own:]])
    file = io.BytesIO()
    np.savez(file, plain=np.frombuffer(plain.to_bytes(), dtype=np.uint8), more=more, **quiet)
    return file.getvalue()


def read_network(data: bytes, origin: str) -> Network:
    """Return the network from an archive that `to_bytes` wrote; raises `TargetError` for anything else."""
    wrong = TargetError(f"guarded: {origin} is no archive of weights of `guarded`: fit them again")
    if len(data) > MAX_BYTES:
        raise wrong
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            plain, more = archive["plain"], archive["more"]
            quiet_CKQ = archive["quiet_CKQ"] if "quiet_CKQ" in archive.files else None
    except Exception:  # numpy has no one error for a broken archive
        raise wrong from None
    gate = read_gate(plain.tobytes(), origin)
    shape = (EXTRA, 2 + len(gate.inner_U))
    if more.shape != shape or more.dtype != np.float32 or not np.isfinite(more).all():
        raise TargetError(f"guarded: more of {origin} is {more.dtype} {more.shape}, expected finite float32 {shape}")
    weights = {
        "mean_C": np.append(gate.mean_C, more[:, 0]),
        "scale_C": np.append(gate.scale_C, more[:, 1]),
        "inner_CU": np.concatenate([gate.inner_CU, more[:, 2:]]),
        "quiet": None if quiet_CKQ is None else Spread.checked(quiet_CKQ, origin),
    }
    return Network(**{**vars(gate), **weights})


@lru_cache(maxsize=1)
def shipped_network() -> Network:
    """Return the network of the package; raise `TargetError` when the file is not the one that was pinned."""
    data = SHIPPED.read_bytes() if SHIPPED.is_file() else b""
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != SHIPPED_SHA256:
        raise TargetError(f"guarded: {SHIPPED.name} has the hash {sha256[:12]}, expected {SHIPPED_SHA256[:12]}")
    return read_network(data, SHIPPED.name)


class Pull:
    """What the controller of loss-free balancing has done to each expert's bias since the start, in steps of it."""

    def __init__(self, info: TraceInfo) -> None:
        self._rate = info.balancing_coefficient
        self._experts = info.num_experts
        self.bias_LE = np.zeros((info.num_layers, info.num_experts))

    def observe(self, block: StepBlock) -> None:
        """Take in rows: the recorded bias where there is one, else the signs that move it."""
        recorded_SLE = block.covariates.get("expert_bias")
        if recorded_SLE is not None and self._rate > 0 and len(block):
            self.bias_LE = np.asarray(recorded_SLE[-1], dtype=np.float64) / self._rate
        else:
            total_SL1 = block.load_SLE.sum(axis=2, keepdims=True)
            self.bias_LE += np.sign(total_SL1 - self._experts * block.load_SLE).sum(axis=0)

    def applied(self, share_ALE: FloatArray, memory: Memory) -> FloatArray:
        """Return the shares at the anchors, moved along the bias in layers that are still."""
        if memory.rows * memory.info.stride < SETTLED:
            return share_ALE
        spread_LE = memory.share.newest(SPREAD_ROWS).std(axis=0)
        bias_LE = self.bias_LE - self.bias_LE.mean(axis=1, keepdims=True)
        move_LE = PULL / 100 * bias_LE * spread_LE * ~moving(memory)[:, None]
        return to_simplex(share_ALE + move_LE - move_LE.mean(axis=1, keepdims=True), share_ALE)
