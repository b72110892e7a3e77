"""What `gated` and `adaptive` remember of a run, and what they measure in it when asked.

A run is followed with bounded memory (`_history`). At an origin the newest rows give, per layer: the mean shares of a
bank of windows, how far the shares moved between neighbouring windows, how fast unevenness has been going away, how
well each window would have forecast targets that are complete by now, and, under loss-free balancing (arXiv
2408.15664), the mean of sign(1/E - share): what the controller has lately done to each expert's bias. Everything is the
same under another numbering of the experts and for any number of layers and experts.

Windows count training steps; on a trace sampled every ``stride`` steps they hold as many rows as that is, at least one.
Where fewer rows have been seen, a window is what there is, two neighbouring windows are halves of it, three are thirds.

Axis letters: S rows, L MoE layers, E experts, W windows, T trends, G windows of the controller, A anchors, D decays, N
stretches, C entries of the context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moeload_bench.forecaster import StepBlock, TraceInfo

from ._history import REACH, SINGLE, History
from ._series import FloatArray, ShareStream, uniform

WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3072)
DRIFTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
TRENDS = (1, 4, 16, 64, 256, 1024)
DECAYS = (16, 64, 256)
LEVELS = (1, 16, 256, 2048)
ANCHORS = (1, 4, 16, 64, 250, 1000, 4000)
"""Training steps after the origin at which a forecast is made; between two of them it is interpolated."""
BACK_TESTS = {1: (1, 4, 16, 64), 16: (1, 4, 16, 64, 256), 128: (16, 64, 256, 1024), 1024: (16, 64, 256, 1024)}
"""Horizon of a back-test in training steps: the windows that are tried on it."""
BACK_ORIGINS = {1: 8, 16: 3, 128: 3, 1024: 2}
BASE_WINDOW = 64
NOISE_ROWS = 32
SHARPNESS = 8.0
"""How sharply errors of back-tests decide between windows; chosen on the `train` runs of suite v1."""
TESTED_AT = tuple(max(1, k // 2) for k in BACK_TESTS)
"""Where the mixture for a horizon stands: at half of it, in steps after the origin."""
CANDIDATES = 2 * len(DECAYS) + 1
"""Per anchor: decays towards 1/E, and the mixture of windows that back-tests choose."""
_HATS = np.stack([np.interp(np.log(ANCHORS), np.log(TESTED_AT), one) for one in np.eye(len(TESTED_AT))], axis=1)
LEAST_TV, LEAST_NOISE = 1e-5, 1e-4
STARVED = 0.1
"""An expert that got less than this part of 1/E in every one of `LIVE_WINDOWS` counts as alive by that much less."""
LIVE_WINDOWS = (16, 256, 2048)
BALANCING = ("loss_free_bias", "aux_loss", "none")

Stretch = tuple[int, int]
"""From (exclusive) and to (inclusive) how many rows back."""
BackTest = tuple[int, int, Stretch, Stretch]
"""Horizon, window, the target, and what it is forecast from."""


class Memory:
    """A run so far: the newest shares, and under loss-free balancing the signs that move the bias."""

    def __init__(self, info: TraceInfo) -> None:
        self.info = info
        self.controlled = info.balancing == "loss_free_bias"
        self.share = History(info)
        self.sign = History(info) if self.controlled else None
        self._stream = ShareStream(info)

    @property
    def rows(self) -> int:
        """Rows seen."""
        return self.share.rows

    def observe(self, block: StepBlock) -> None:
        """Take in rows; a layer-step without load repeats the layer's last valid shares."""
        for share_SLE in self._stream.chunks(block.load_SLE):
            self.share.push(share_SLE)
            if self.sign is not None:
                self.sign.push(np.sign(1.0 / self.info.num_experts - share_SLE))


@dataclass(frozen=True, eq=False)
class Measures:
    """What was measured at an origin; the context of a layer is a row of ``context_LC`` (names: `context_names`)."""

    window_WLE: FloatArray
    even_LE: FloatArray
    trend_TLE: FloatArray
    candidate_ADLE: FloatArray
    control_GLE: FloatArray
    context_LC: FloatArray


def tv(first: FloatArray, second: FloatArray) -> FloatArray:
    """Half the L1 distance over the experts."""
    gap = first - second
    return np.asarray(0.5 * np.abs(gap, out=gap).sum(axis=-1))


def rows_of(steps: int, stride: int) -> int:
    """Rows in that many training steps, at least one."""
    return max(1, round(steps / stride))


class _Means:
    """Mean shares over stretches of the newest rows; an empty stretch is known to be empty."""

    def __init__(self, history: History, stretches: Sequence[Stretch]) -> None:
        back = sorted({b for stretch in stretches for b in stretch if b <= REACH})
        rows_N, self._sum_NLE = history.sums(back)
        self._rows = dict(zip(back, rows_N.tolist(), strict=True))
        self._at = {b: n for n, b in enumerate(back)}

    def rows(self, stretch: Stretch) -> int:
        """Rows that it holds."""
        near, far = stretch
        return self._rows[far] - self._rows[near] if far <= REACH else 0

    def of(self, stretches: Sequence[Stretch]) -> FloatArray:
        """[N, L, E] of stretches that are not empty."""
        near = [self._at[a] for a, _ in stretches]
        far = [self._at[b] for _, b in stretches]
        rows_N = np.array([self.rows(stretch) for stretch in stretches], dtype=np.float64)
        mean = self._sum_NLE[far]
        mean -= self._sum_NLE[near]
        mean /= rows_N[:, None, None]
        return np.asarray(mean)

    def neighbours(self, rows: Sequence[int], many: int) -> list[FloatArray]:
        """Means of ``many`` neighbouring windows of each length, newest first; an empty one repeats the one before."""
        out = [self.of([(0, w) for w in rows])]
        for n in range(1, many):
            there = [self.rows((n * w, (n + 1) * w)) > 0 for w in rows]
            mean = out[-1].copy()
            spans = [(n * w, (n + 1) * w) for w, ok in zip(rows, there, strict=True) if ok]
            if spans:
                mean[there] = self.of(spans)
            out.append(mean)
        return out


def measure(memory: Memory) -> Measures:
    """Everything that a forecast is made from; at least one row must have been seen."""
    info, seen = memory.info, memory.share.reach
    window, drift, third = _lengths(seen, info.stride)
    tests = _back_tests(seen, info.stride)
    means = _Means(memory.share, _stretches(window, drift, third, tests))
    window_WLE = means.of([(0, w) for w in window])
    even_LE = _even(memory, window_WLE)
    now, before = means.neighbours(drift, 2)
    moved = now - before
    three = means.neighbours(third, 3)
    fade = [n for n, w in enumerate(TRENDS) if w in DECAYS]
    decay, speed = _decays([m[fade] for m in three], [third[n] * info.stride for n in fade], even_LE)
    error = back_test(memory, means, tests, even_LE)
    tested_ALE = np.tensordot(_HATS, mixtures(window_WLE, even_LE, error, SHARPNESS), axes=1)
    control, busy = _control(memory)
    noise_L = _noise(memory)
    spread = [np.log(noise_L), *_drift(moved, drift, noise_L), *_unevenness(window_WLE, noise_L), *_momentum(three)]
    kind = [np.full(info.num_layers, float(info.balancing == name)) for name in BALANCING]
    layers = [np.full(info.num_layers, value_L.mean()) for value_L in spread]
    return Measures(
        window_WLE,
        even_LE,
        moved[[DRIFTS.index(w) for w in TRENDS]],
        np.concatenate([decay, tested_ALE[:, None]], axis=1),
        control,
        np.stack([*spread, *speed, *_back_errors(error, noise_L), *busy, *kind, *layers], axis=1),
    )


def context_names() -> list[str]:
    """Return what the entries of a context are, in their order."""
    own = [
        "noise",
        *(f"drift.{w}" for w in DRIFTS),
        *(f"uneven.{w}" for w in LEVELS),
        *(f"momentum.{w}" for w in TRENDS),
    ]
    layers = [f"layers.{name}" for name in own]
    own += [f"{kind}.{w}" for w in DECAYS for kind in ("fade", "close")]
    for k, windows in BACK_TESTS.items():
        own += [
            f"back.{k}",
            *(f"back.{k}.{w}" for w in windows if w != BASE_WINDOW),
            *([f"back.{k}.even"] if k > 1 else []),
        ]
    own += [f"control.{w}" for w in TRENDS] + [f"balancing.{name}" for name in BALANCING]
    return own + layers


def _lengths(seen: int, stride: int) -> tuple[list[int], list[int], list[int]]:
    """Rows of the windows, of the halves of what is compared with its neighbour, and of the thirds."""
    return (
        [min(rows_of(w, stride), seen) for w in WINDOWS],
        [min(rows_of(w, stride), max(1, seen // 2)) for w in DRIFTS],
        [min(rows_of(w, stride), max(1, seen // 3)) for w in TRENDS],
    )


def _stretches(window: list[int], drift: list[int], third: list[int], tests: Sequence[BackTest]) -> list[Stretch]:
    """Every stretch whose mean is needed."""
    neighbours = [
        (n * w, (n + 1) * w) for lengths, many in ((drift, 2), (third, 3)) for n in range(many) for w in lengths
    ]
    return [*((0, w) for w in window), *neighbours, *(stretch for test in tests for stretch in test[2:])]


def _even(memory: Memory, window_WLE: FloatArray) -> FloatArray:
    """[L, E]: equal shares for all experts that are alive, less for starved ones, 0 for those without a token.

    A little of 1/E for an expert that stays starved is right in tokens and wrong by a factor of a hundred in its share.
    Under loss-free balancing the controller wakes every expert up, so there 1/E is meant as it stands.
    """
    if memory.controlled:
        return uniform(memory.info)
    most_LE = window_WLE[[WINDOWS.index(w) for w in LIVE_WINDOWS]].max(axis=0)
    alive_LE = np.minimum(most_LE * (most_LE.shape[1] / STARVED), 1.0)
    return np.asarray(alive_LE / alive_LE.sum(axis=1, keepdims=True))


def _noise(memory: Memory) -> FloatArray:
    """[L]: total variation between two neighbouring rows over the square root of 2, at least `LEAST_NOISE`."""
    rows_SLE = memory.share.newest(NOISE_ROWS + 1)
    if len(rows_SLE) < 2:
        return np.full(rows_SLE.shape[1], 0.05)
    return np.asarray(np.maximum(tv(rows_SLE[1:], rows_SLE[:-1]).mean(axis=0) / np.sqrt(2), LEAST_NOISE))


def _unevenness(window_WLE: FloatArray, noise_L: FloatArray) -> list[FloatArray]:
    """How far windows of several lengths are from 1/E, over the noise."""
    level_WLE = window_WLE[[WINDOWS.index(w) for w in LEVELS]]
    far_WL = tv(level_WLE, np.full_like(level_WLE[0], 1.0 / level_WLE.shape[2]))
    return list(np.log(np.maximum(far_WL, LEAST_TV) / noise_L))


def _drift(moved_WLE: FloatArray, rows: Sequence[int], noise_L: FloatArray) -> list[FloatArray]:
    """How far two neighbouring windows lie apart, over what noise alone would give."""
    expected_WL = noise_L * np.sqrt(2.0 / np.array(rows))[:, None]
    return list(np.log(np.maximum(0.5 * np.abs(moved_WLE).sum(axis=2), LEAST_TV) / expected_WL))


def _momentum(three: Sequence[FloatArray]) -> list[FloatArray]:
    """Cosine between the last move and the one before: 1 for a trend, -1/2 for noise."""
    last, before = three[0] - three[1], three[1] - three[2]
    size = np.sqrt((last * last).sum(axis=2) * (before * before).sum(axis=2))
    return list((last * before).sum(axis=2) / np.maximum(size, 1e-8))


def _decays(
    three: Sequence[FloatArray], steps: Sequence[int], even_LE: FloatArray
) -> tuple[FloatArray, list[FloatArray]]:
    """Return [A, D, L, E] shares that go on towards 1/E as fast as they lately did, and those speeds for the context.

    Two ways for each window: the distance from 1/E decays exponentially, or shrinks by as much in every step. The speed
    is measured against the sides on which the experts were one window earlier, whose noise is not in the last move.
    """
    anchor_A = np.array(ANCHORS, dtype=np.float64)[:, None, None]
    out, context = [], []
    for now, before, first, length in zip(*three, steps, strict=True):
        off, far, moved = now - even_LE, first - even_LE, now - before
        size_L = np.abs(far).sum(axis=1)
        rate_L = -(moved * far).sum(axis=1) / np.maximum((far * far).sum(axis=1), 1e-10)
        pace_L = -(moved * np.sign(far)).sum(axis=1)
        context += [np.clip(rate_L, -1, 1), np.clip(pace_L / np.maximum(size_L, LEAST_TV), -1, 1)]
        ahead_A = anchor_A / length + 0.5
        out.append(even_LE + off * np.exp(-np.maximum(rate_L, 0)[:, None] * ahead_A))
        step_L = np.maximum(pace_L, 0) / even_LE.shape[1]
        left = np.maximum(np.abs(off) - step_L[:, None] * ahead_A, 0)
        closer = even_LE + np.sign(off) * left
        out.append(closer / closer.sum(axis=2, keepdims=True))
    return np.stack(out, axis=1), context


def _control(memory: Memory) -> tuple[FloatArray, list[FloatArray]]:
    """[G, L, E] what the controller did over several windows, in units of 1/E, and how busy it was (0 = at rest)."""
    info = memory.info
    shape = (len(TRENDS), info.num_layers, info.num_experts)
    if memory.sign is None:
        return np.zeros(shape), [np.zeros(info.num_layers)] * len(TRENDS)
    stretches = [(0, min(rows_of(w, info.stride), memory.sign.reach)) for w in TRENDS]
    sign_GLE = _Means(memory.sign, stretches).of(stretches)
    busy = list(np.abs(sign_GLE).mean(axis=2))
    return (sign_GLE - sign_GLE.mean(axis=2, keepdims=True)) / info.num_experts, busy


def _back_tests(seen: int, stride: int) -> list[BackTest]:
    """(horizon, window, target, what it is forecast from) for every back-test beyond one step that the rows allow."""
    tests = []
    for k, windows in BACK_TESTS.items():
        rows = min(rows_of(k, stride), max(1, seen // 2))
        for n in range(BACK_ORIGINS[k] if k > 1 else 0):
            near = n * max(1, rows // 2)
            far = near + rows
            for w in windows if far < min(seen, REACH) else ():
                past = far + min(rows_of(w, stride), seen - far)
                if past <= REACH:
                    tests.append((k, w, (near, far), (far, past)))
    return tests


def _back_errors(error: Mapping[tuple[int, int], FloatArray], noise_L: FloatArray) -> list[FloatArray]:
    """Return the error of the base window on targets that are complete, over the noise, and of the others over its."""
    zero = np.zeros_like(noise_L)
    out = []
    for k, windows in BACK_TESTS.items():
        base = error.get((k, BASE_WINDOW))
        out.append(zero if base is None else np.log(base / noise_L))
        for w in [*(w for w in windows if w != BASE_WINDOW), *([0] if k > 1 else [])]:
            of_window = error.get((k, w))
            out.append(zero if base is None or of_window is None else np.log(of_window / base))
    return out


def tested_mixtures(memory: Memory, sharpness: float) -> FloatArray:
    """[K, L, E]: `mixtures` of a run so far; at least one row must have been seen."""
    seen, stride = memory.share.reach, memory.info.stride
    tests = _back_tests(seen, stride)
    window = _lengths(seen, stride)[0]
    means = _Means(memory.share, _stretches(window, [], [], tests))
    window_WLE = means.of([(0, w) for w in window])
    even_LE = _even(memory, window_WLE)
    return mixtures(window_WLE, even_LE, back_test(memory, means, tests, even_LE), sharpness)


def mixtures(
    window_WLE: FloatArray, even_LE: FloatArray, error: Mapping[tuple[int, int], FloatArray], sharpness: float
) -> FloatArray:
    """[K, L, E]: for each horizon of `BACK_TESTS` the windows and 1/E, weighted by their errors to the -``sharpness``.

    An error is the geometric mean of the layer's own and of the mean over layers: a layer alone has few targets. A
    horizon without a complete target takes the mixture of the one before.
    """
    out: list[FloatArray] = []
    for k, windows in BACK_TESTS.items():
        usable = [w for w in (*windows, 0) if (k, w) in error]
        if not usable:
            out.append(out[-1] if out else window_WLE[WINDOWS.index(BASE_WINDOW)])
            continue
        tried_WLE = np.stack([even_LE if w == 0 else window_WLE[WINDOWS.index(w)] for w in usable])
        log_WL = np.log([error[k, w] for w in usable])
        log_WL = 0.5 * (log_WL + np.log(np.mean([error[k, w] for w in usable], axis=1))[:, None])
        weight_WL = np.exp(-sharpness * (log_WL - log_WL.min(axis=0)))
        out.append(np.einsum("wl,wle->le", weight_WL / weight_WL.sum(axis=0), tried_WLE))
    return np.stack(out)


def back_test(
    memory: Memory, means: _Means, tests: Sequence[BackTest], even: FloatArray
) -> dict[tuple[int, int], FloatArray]:
    """(horizon, window) to the mean error [L] on complete targets; window 0 is 1/E. Missing without a target."""
    error = _one_step_errors(memory)
    usable = [test for test in tests if means.rows(test[2]) > 0 and means.rows(test[3]) > 0]
    if usable:
        target = means.of([test[2] for test in usable])
        errors: dict[tuple[int, int], list[FloatArray]] = {}
        for (k, w, _, _), error_L in zip(usable, tv(target, means.of([test[3] for test in usable])), strict=True):
            errors.setdefault((k, w), []).append(error_L)
        base = [n for n, test in enumerate(usable) if test[1] == BASE_WINDOW]
        for n, error_L in zip(base, tv(target[base], even), strict=True):
            errors.setdefault((usable[n][0], 0), []).append(error_L)
        error |= {key: np.maximum(np.mean(values, axis=0), LEAST_TV) for key, values in errors.items()}
    return error


def _one_step_errors(memory: Memory) -> dict[tuple[int, int], FloatArray]:
    """Return the mean error of windows on each of the newest rows."""
    rows_SLE = memory.share.newest(SINGLE)
    last = len(rows_SLE)
    tried = range(max(1, last - BACK_ORIGINS[1]), last)
    if not len(tried):
        return {}
    out = {}
    for w in BACK_TESTS[1]:
        length = rows_of(w, memory.info.stride)
        mean = np.stack([rows_SLE[max(0, row - length) : row].mean(axis=0) for row in tried])
        out[1, w] = np.maximum(tv(rows_SLE[tried.start :], mean).mean(axis=0), LEAST_TV)
    return out
