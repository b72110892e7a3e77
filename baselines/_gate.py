"""The network of `gated`: from the context of a layer to the weights of what was measured in it. Numpy only.

One hidden layer of tanh, the same for every layer and expert. Per anchor (a number of steps after the origin) it gives

- softmax weights of the window means, of decays towards 1/E and of a mixture chosen by back-tests: convex,
- bounded weights of the last moves (trends), which sum to 0 over the experts, and, under loss-free balancing only,
  weights of what the controller did; then shares are cut at 0 and divided by their sum,
- the weight of the even share of the living experts (1/E where all are), exactly 0 until the network asks for
  `LEAST_EVEN`.

Between two anchors the forecast is interpolated (`_path`).

Axis letters: L MoE layers, E experts, A anchors, C entries of the context, U hidden units, M weights, B blocks.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import TargetError

from ._measures import ANCHORS, CANDIDATES, DECAYS, TRENDS, WINDOWS, Measures, context_names
from ._series import FloatArray
from ._spread import HORIZONS, LEVELS, Spread

VERSION = 2
"""Raised when the weights of an earlier version would mean something else."""
MAX_BYTES = 1 << 20
SHIPPED = Path(__file__).with_suffix(".npz")
"""Fitted on the `train` runs of suite v1 by `python -m leaderboard.fit_gated`."""
SHIPPED_SHA256 = "10a02fe797267b97195fd870d492f622c733aab298a5781593edaaed56c7375e"

MIXED = len(WINDOWS) + CANDIDATES
ADDED = 2 * len(TRENDS)
WEIGHTS = MIXED + ADDED + 1
"""Weights per anchor: of the mixture, of trends and controller, of 1/E."""
CONTEXT_CLIP = 4.0
TREND_BOUND = 2.0
EVEN_START = 2.5
LEAST_EVEN = 0.05

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Gate:
    """The weights: ``mean_C`` and ``scale_C`` standardise the context, two layers follow.

    ``spread``: the quantiles around what it says; None until they are calibrated.
    """

    mean_C: Float32
    scale_C: Float32
    inner_CU: Float32
    inner_U: Float32
    outer_UM: Float32
    outer_M: Float32
    spread: Spread | None = None

    def forecast(self, seen: Measures) -> FloatArray:
        """Return [A, L, E] shares at the anchors; every [a, l] sums to 1."""
        raw_ALM = self._raw(seen.context_LC)
        mix_ALM = _softmax(raw_ALM[..., :MIXED])
        share_ALE = np.matmul(mix_ALM[..., : len(WINDOWS)].swapaxes(0, 1), seen.window_WLE.swapaxes(0, 1)).swapaxes(
            0, 1
        )
        share_ALE = share_ALE + np.einsum("ald,adle->ale", mix_ALM[..., len(WINDOWS) :], seen.candidate_ADLE)
        trend_ALM = TREND_BOUND * np.tanh(raw_ALM[..., MIXED : MIXED + len(TRENDS)])
        share_ALE += np.matmul(trend_ALM.swapaxes(0, 1), seen.trend_TLE.swapaxes(0, 1)).swapaxes(0, 1)
        if seen.control_GLE.any():
            control_ALM = raw_ALM[..., MIXED + len(TRENDS) : MIXED + ADDED]
            share_ALE += np.matmul(control_ALM.swapaxes(0, 1), seen.control_GLE.swapaxes(0, 1)).swapaxes(0, 1)
        np.maximum(share_ALE, 0.0, out=share_ALE)
        total = share_ALE.sum(axis=2, keepdims=True)
        share_ALE = np.where(total > 1e-9, share_ALE / np.maximum(total, 1e-9), seen.even_LE)
        even_AL1 = _weight_of_even(raw_ALM[..., -1:])
        return np.asarray((1 - even_AL1) * share_ALE + even_AL1 * seen.even_LE)

    def _raw(self, context_LC: FloatArray) -> FloatArray:
        """Return [A, L, M]: what comes out of the second layer."""
        clipped_LC = np.clip((context_LC - self.mean_C) / self.scale_C, -CONTEXT_CLIP, CONTEXT_CLIP)
        hidden_LU = np.tanh(clipped_LC @ self.inner_CU.astype(np.float64) + self.inner_U)
        raw_LN = hidden_LU @ self.outer_UM.astype(np.float64) + self.outer_M
        raw_LAM: FloatArray = raw_LN.reshape(len(context_LC), len(ANCHORS), WEIGHTS).astype(np.float64, copy=False)
        return raw_LAM.swapaxes(0, 1)

    def to_bytes(self) -> bytes:
        """Return an npz archive of float32, without pickle."""
        file = io.BytesIO()
        names = ("mean_C", "scale_C", "inner_CU", "inner_U", "outer_UM", "outer_M")
        arrays = {name: getattr(self, name) for name in names}
        if self.spread is not None:
            arrays["factor_CKQ"] = self.spread.factor_CKQ
        np.savez(file, signature=_signature(), **arrays)
        return file.getvalue()


def read_gate(data: bytes, origin: str) -> Gate:
    """Return the weights from an archive that `Gate.to_bytes` wrote; ``origin`` says in an error where it comes from.

    Raises `TargetError` for anything else: too large, no archive, pickled, of another version, of another shape, not
    finite.
    """
    if len(data) > MAX_BYTES:
        raise TargetError(f"gated: {origin} has {len(data)} bytes, expected at most {MAX_BYTES}")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy has no one error for a broken archive
        raise TargetError(f"gated: {origin} is no archive of weights: {type(error).__name__}") from None
    signature = arrays.pop("signature", np.zeros(0, dtype=np.uint8))
    if not np.array_equal(signature, _signature()):
        raise TargetError(
            f"gated: {origin} holds weights of another version, expected version {VERSION}: fit them again"
        )
    gate_C, units = len(context_names()), arrays.get("inner_U", np.zeros(0)).shape
    outer = len(ANCHORS) * WEIGHTS
    shapes = {"mean_C": (gate_C,), "scale_C": (gate_C,), "inner_CU": (gate_C, *units), "inner_U": units}
    shapes |= {"outer_UM": (*units, outer), "outer_M": (outer,)}
    for name, shape in shapes.items():
        got = arrays.get(name, np.zeros(0))
        if len(units) != 1 or got.shape != shape or got.dtype != np.float32 or not np.isfinite(got).all():
            raise TargetError(f"gated: {name} of {origin} is {got.dtype} {got.shape}, expected finite float32 {shape}")
    spread = Spread.checked(arrays["factor_CKQ"], origin) if "factor_CKQ" in arrays else None
    return Gate(**{name: arrays[name] for name in shapes}, spread=spread)


@lru_cache(maxsize=1)
def shipped_gate() -> Gate:
    """Return the weights of the package; raise `TargetError` when the file is not the one that was pinned."""
    if not SHIPPED.is_file():
        raise TargetError(f"gated: the package lacks its weights {SHIPPED.name}: install it again")
    data = SHIPPED.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != SHIPPED_SHA256:
        raise TargetError(f"gated: {SHIPPED.name} has the hash {sha256[:12]}, expected {SHIPPED_SHA256[:12]}")
    return read_gate(data, SHIPPED.name)


def _softmax(raw: FloatArray) -> FloatArray:
    weight = np.exp(raw - raw.max(axis=-1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True))


def _weight_of_even(raw: FloatArray) -> FloatArray:
    """0 up to `LEAST_EVEN`, then rising to 1."""
    asked = 1.0 / (1.0 + np.exp(EVEN_START - raw))
    return np.asarray(np.maximum(asked - LEAST_EVEN, 0.0) / (1 - LEAST_EVEN))


def _signature() -> NDArray[np.uint8]:
    """Return a hash of what the weights mean: version, windows, context, quantiles."""
    text = repr((VERSION, WINDOWS, TRENDS, DECAYS, ANCHORS, context_names(), HORIZONS, LEVELS))
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8)
