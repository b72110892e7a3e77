"""How the network of `gated` learns: what it is shown, and the descent. The only module of `gated` that imports torch.

Every run is followed as a forecaster follows it, and measured at origins spread evenly over the run and, as many again,
evenly over the logarithm of the step (early steps differ most). What is to be forecast are the true mean shares over 1
to 5,000 steps. Beside each run stand twins of it:

- sampled: every tenth row, as sparse traces come;
- late: seen from somewhere between a quarter and three quarters of it on, as a resumed run is;
- controlled: the same loads under a simulated loss-free controller (arXiv 2408.15664): each expert's share times
  exp(bias), the bias moved by a constant times sign(1/E - share) in every step, the constant drawn between 0.005 and
  0.04. Such a controller takes away any steady unevenness, which a network that never saw one cannot know.

The loss is the logarithm of `window_tv` averaged over layers, the metric's own; context is blurred by Gaussian noise,
since recipes are few. AdamW, one cycle of the learning rate. What is then left over on the runs themselves calibrates
the quantiles (`_spread`).

Axis letters: S steps, O origins, L MoE layers, E experts, K horizons, N rows of a batch, A anchors, M weights, C
context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moeload_bench.forecaster import FitRuns, StepBlock, TraceInfo

from . import _gate as gate
from . import _spread as spread
from ._lstm_net import one_thread
from ._measures import ANCHORS, TRENDS, WINDOWS, Measures, Memory, context_names, measure
from ._path import hat_weights
from ._series import FloatArray, ShareStream

HORIZONS = (1, 3, 10, 30, 100, 300, 1000, 2000, 5000)
HORIZON_WEIGHTS = (1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 1.0, 0.5)
FIRST, LAST = 5, 100
"""Rows before the first origin, training steps after the last one."""
SAMPLED_STRIDE = 10
CONTROL_RATES = (0.005, 0.04)
CONTROL_FLOOR = 0.02
LEAST_ERROR = 2e-4
LEAST_SHELF = 32
"""Runs of up to that many experts are worked on together, those of more by powers of two."""


@dataclass(frozen=True)
class Learning:
    """``ignored``: beginnings of names of the context that the network shall not see (everything: ("",))."""

    updates: int = 250
    units: int = 32
    rate: float = 1e-2
    decay: float = 1e-2
    blur: float = 0.4
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """Which twin of a run: how many origins are measured in it, and how many a batch takes."""

    origins: int
    batch: int
    stride: int = 1
    controlled: bool = False
    late: bool = False


ITSELF = Kind(120, 8)
SAMPLED = Kind(40, 3, stride=SAMPLED_STRIDE)
CONTROLLED = Kind(80, 6, controlled=True)
LATE = Kind(30, 3, late=True)
LATE_ROWS = 500
"""Rows after a late start within which a run is measured."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What was measured in one run or twin at its origins, and what came then (NaN where the run ends before)."""

    run: int
    kind: Kind
    row_O: list[int]
    measured_O: list[Measures]
    moving_O: list[spread.BoolArray]
    truth_OKLE: NDArray[np.float32]


def fit_gate(runs: FitRuns, seed: int, learning: Learning | None = None) -> gate.Gate:
    """Return the weights learned from whole runs; the same ones for the same runs, seed and machine."""
    samples = samples_of(runs, seed)
    return calibrated(train(samples, seed, learning or Learning()), samples)


def calibrated(fitted: gate.Gate, samples: Sequence[Samples]) -> gate.Gate:
    """Return the same weights with quantiles around what they say, from the runs; without where none is long.

    The network has seen these runs. Residuals of networks that had not (a fold of recipes left out at a time) gave the
    same quantiles to within half a point of coverage: with so few weights and so blurred a context it learns little by
    heart.
    """
    residuals = spread.Residuals()
    at_K = [HORIZONS.index(h) for h in spread.HORIZONS]
    hat_KA = np.stack([hat_weights(ANCHORS, (h,))[0] for h in spread.HORIZONS])
    for each in samples:
        if each.kind != ITSELF:
            continue
        for row, measured, moves_L, truth_KLE in zip(
            each.row_O, each.measured_O, each.moving_O, each.truth_OKLE, strict=True
        ):
            if row < spread.FIRST:
                continue
            mean_KLE = np.tensordot(hat_KA, fitted.forecast(measured), axes=1)
            scale_KLE = spread.scale_of(measured, mean_KLE, spread.HORIZONS)
            residuals.add(each.run, mean_KLE, truth_KLE[at_K].astype(np.float64), scale_KLE, moves_L)
    spread_of_runs = residuals.spread()
    return fitted if spread_of_runs is None else replace(fitted, spread=spread_of_runs)


def samples_of(runs: FitRuns, seed: int) -> list[Samples]:
    """Every run and its twins; a run that is too short for a single origin gives none."""
    out = []
    for number, (info, block) in enumerate(runs):
        kinds = [ITSELF, LATE] + ([SAMPLED] if info.stride == 1 else [])
        kinds += [] if info.balancing == "loss_free_bias" else [CONTROLLED]
        out += [_sample(number, kind, info, block, np.random.default_rng([seed, number])) for kind in kinds]
    return [samples for samples in out if samples.measured_O]


def controlled(load_SLE: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the loads that a loss-free controller might have made of these; totals per layer and step to rounding."""
    _, L, E = load_SLE.shape
    rate = np.exp(rng.uniform(*np.log(CONTROL_RATES)))
    total_SL1 = load_SLE.sum(axis=2, keepdims=True).astype(np.float64)
    share_SLE = (load_SLE / np.maximum(total_SL1, 1) + CONTROL_FLOOR / E) / (1 + CONTROL_FLOOR)
    bias_LE = np.zeros((L, E))
    out_SLE = np.empty_like(load_SLE)
    for s, free_LE in enumerate(share_SLE):
        share_LE = free_LE * np.exp(bias_LE)
        share_LE /= share_LE.sum(axis=1, keepdims=True)
        bias_LE += rate * np.sign(1 / E - share_LE)
        bias_LE -= bias_LE.mean(axis=1, keepdims=True)
        out_SLE[s] = np.rint(share_LE * total_SL1[s])
    return out_SLE


def _sample(number: int, kind: Kind, info: TraceInfo, block: StepBlock, rng: np.random.Generator) -> Samples:
    load_SLE = controlled(block.load_SLE, rng) if kind.controlled else block.load_SLE
    if kind.late:
        load_SLE = load_SLE[rng.integers(len(load_SLE) // 4, 3 * len(load_SLE) // 4 + 1) :]
    share_SLE = np.concatenate(list(ShareStream(info).chunks(load_SLE)))
    sum_SLE = np.concatenate([np.zeros((1, *share_SLE.shape[1:])), np.cumsum(share_SLE, axis=0)])
    if kind.controlled:
        info = replace(info, balancing="loss_free_bias")
    seen = Memory(replace(info, stride=info.stride * kind.stride))
    rows_O = origins(len(load_SLE), kind, info.stride)
    measured, moves, truth, fed = [], [], [], 0
    for origin in rows_O:
        rows = slice(fed, origin, kind.stride)
        seen.observe(StepBlock(block.step_S[rows], load_SLE[rows], load_SLE[rows].sum(axis=2)))
        fed = origin
        measured.append(measure(seen))
        moves.append(spread.moving(seen))
        truth.append(_window_means(sum_SLE, origin, info.stride))
    return Samples(number, kind, rows_O, measured, moves, np.array(truth, dtype=np.float32))


def origins(rows: int, kind: Kind, stride: int = 1) -> list[int]:
    """Rows at which a run is measured: half spread evenly, half evenly in the logarithm; multiples of the stride."""
    first, last = FIRST * kind.stride, rows - -(-LAST // stride)
    if last < first:
        return []
    if kind.late:
        return sorted({int(row) for row in np.geomspace(first, min(last, LATE_ROWS), kind.origins)})
    even = np.linspace(first, last, kind.origins // 2)
    log = np.geomspace(first, last, kind.origins - kind.origins // 2)
    return sorted({int(row) // kind.stride * kind.stride for row in np.concatenate([even, log])})


def _window_means(sum_SLE: FloatArray, origin: int, stride: int) -> FloatArray:
    """[K, L, E] true mean shares from a row on; NaN where the run ends before."""
    out = np.full((len(HORIZONS), *sum_SLE.shape[1:]), np.nan)
    for k, horizon in enumerate(HORIZONS):
        rows = -(-horizon // stride)
        if origin + rows < len(sum_SLE):
            out[k] = (sum_SLE[origin + rows] - sum_SLE[origin]) / rows
    return out


# --------------------------------------------------------------------------------------------------- the descent


@dataclass(frozen=True, eq=False)
class _Shelf:
    """All samples of runs of about one size, padded to the largest with empty layers and experts; origins first."""

    window_OLWE: Tensor
    candidate_OLADE: Tensor
    added_OLTE: Tensor
    even_OLE: Tensor
    control_O: Tensor
    context_OLC: Tensor
    truth_OKLE: Tensor
    layers_O: Tensor
    picks: list[tuple[NDArray[np.int64], int]]


def train(samples: Sequence[Samples], seed: int, learning: Learning) -> gate.Gate:
    """Minimise the log of the error of random origins of every run and twin."""
    with one_thread(), torch.random.fork_rng():
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        mean_C, scale_C = _standard(samples, learning.ignored)
        shelves = _shelves(samples, mean_C, scale_C)
        inner = nn.Linear(len(mean_C), learning.units)
        outer = nn.Linear(learning.units, len(ANCHORS) * gate.WEIGHTS)
        nn.init.zeros_(outer.weight)
        nn.init.zeros_(outer.bias)
        parameters = [*inner.parameters(), *outer.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=learning.rate, weight_decay=learning.decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning.rate, total_steps=learning.updates, pct_start=0.1, final_div_factor=100
        )
        horizon_KA = torch.as_tensor(np.stack([hat_weights(ANCHORS, (h,))[0] for h in HORIZONS]), dtype=torch.float32)
        for _ in range(learning.updates):
            losses = [_loss(shelf, inner, outer, horizon_KA, learning.blur, rng) for shelf in shelves]
            total = torch.stack([loss for loss, _ in losses]).sum() / sum(weight for _, weight in losses)
            optimizer.zero_grad()
            torch.autograd.backward(total)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
        inner_CU, inner_U, outer_UM, outer_M = (
            np.ascontiguousarray(n.detach().numpy()) for n in (inner.weight.T, inner.bias, outer.weight.T, outer.bias)
        )
        return gate.Gate(mean_C, scale_C, inner_CU, inner_U, outer_UM, outer_M)


def _standard(samples: Sequence[Samples], ignored: tuple[str, ...]) -> tuple[gate.Float32, gate.Float32]:
    """Mean and standard deviation of the context, every run and twin alike; what is ignored is divided by infinity."""
    moments = [(c.mean(axis=0), (c * c).mean(axis=0)) for c in (_contexts(s) for s in samples)]
    mean_C, square_C = (np.mean(each, axis=0) for each in zip(*moments, strict=True))
    scale_C = np.sqrt(np.maximum(square_C - mean_C**2, 0)) + 1e-3
    hidden = [name.removeprefix("layers.").startswith(ignored) or name.startswith(ignored) for name in context_names()]
    if ignored:
        scale_C[np.array(hidden)] = 1e30
    return mean_C.astype(np.float32), scale_C.astype(np.float32)


def _contexts(samples: Samples) -> FloatArray:
    return np.concatenate([measures.context_LC for measures in samples.measured_O])


def _shelves(samples: Sequence[Samples], mean_C: gate.Float32, scale_C: gate.Float32) -> list[_Shelf]:
    sizes: dict[int, list[Samples]] = {}
    for each in samples:
        experts = each.measured_O[0].even_LE.shape[1]
        sizes.setdefault(max(LEAST_SHELF, 1 << (experts - 1).bit_length()), []).append(each)
    return [_shelf(group, mean_C, scale_C) for group in sizes.values()]


def _shelf(group: Sequence[Samples], mean_C: gate.Float32, scale_C: gate.Float32) -> _Shelf:
    measured = [m for samples in group for m in samples.measured_O]
    shapes = np.array([m.even_LE.shape for m in measured])
    L, E = shapes.max(axis=0)
    start, picks = 0, []
    for samples in group:
        count = len(samples.measured_O)
        picks.append((np.arange(start, start + count), samples.kind.batch))
        start += count

    def tensor(values: Sequence[FloatArray], layer: int) -> Tensor:
        """Stacked, the axis of layers padded, and the last one where it is that of experts."""
        first = values[0]
        shape = [len(values), *first.shape[:-1], first.shape[-1] if first.shape[-1] == len(mean_C) else E]
        shape[1 + layer] = L
        out = np.zeros(shape, dtype=np.float32)
        for o, value in enumerate(values):
            inside: tuple[Any, ...] = (o, *(slice(n) for n in value.shape))
            out[inside] = value
        return torch.as_tensor(out)

    context = [(m.context_LC - mean_C) / scale_C for m in measured]
    return _Shelf(
        window_OLWE=tensor([m.window_WLE.swapaxes(0, 1) for m in measured], 0),
        candidate_OLADE=tensor([m.candidate_ADLE.transpose(2, 0, 1, 3) for m in measured], 0),
        added_OLTE=tensor([np.concatenate([m.trend_TLE, m.control_GLE]).swapaxes(0, 1) for m in measured], 0),
        even_OLE=tensor([m.even_LE for m in measured], 0),
        control_O=torch.as_tensor(np.array([float(m.control_GLE.any()) for m in measured], dtype=np.float32)),
        context_OLC=tensor([np.clip(c, -gate.CONTEXT_CLIP, gate.CONTEXT_CLIP) for c in context], 0),
        truth_OKLE=tensor([truth_KLE for samples in group for truth_KLE in samples.truth_OKLE], 1),
        layers_O=torch.as_tensor(shapes[:, :1].astype(np.float32)),
        picks=picks,
    )


def _loss(
    shelf: _Shelf, inner: nn.Linear, outer: nn.Linear, horizon_KA: Tensor, blur: float, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """Return the sum of log errors over a batch, and of their weights."""
    pick_N = torch.as_tensor(np.concatenate([rng.choice(pool, size) for pool, size in shelf.picks]))
    context_NLC = shelf.context_OLC[pick_N]
    raw = outer(torch.tanh(inner(context_NLC + blur * torch.randn_like(context_NLC))))
    share_NLAE = shares(raw, shelf, pick_N)
    mean_NKLE = torch.einsum("ka,nlae->nkle", horizon_KA, share_NLAE)
    truth_NKLE = shelf.truth_OKLE[pick_N]
    known_NK = ~truth_NKLE.isnan().any(dim=3).any(dim=2)
    error_NK = 0.5 * (mean_NKLE - torch.nan_to_num(truth_NKLE)).abs().sum(dim=(2, 3)) / shelf.layers_O[pick_N]
    weight_NK = known_NK * torch.tensor(HORIZON_WEIGHTS)
    return (torch.log(error_NK + LEAST_ERROR) * weight_NK).sum(), float(weight_NK.sum())


def shares(raw: Tensor, shelf: _Shelf, pick_N: Tensor) -> Tensor:
    """[N, L, A, E]: what `Gate.forecast` says, differentiable."""
    raw_NLAM = raw.reshape(*raw.shape[:2], len(ANCHORS), gate.WEIGHTS)
    mix_NLAM = torch.softmax(raw_NLAM[..., : gate.MIXED], dim=3)
    share = mix_NLAM[..., : len(WINDOWS)] @ shelf.window_OLWE[pick_N]
    share = share + (mix_NLAM[..., None, len(WINDOWS) :] @ shelf.candidate_OLADE[pick_N])[..., 0, :]
    trend = gate.TREND_BOUND * torch.tanh(raw_NLAM[..., gate.MIXED : gate.MIXED + len(TRENDS)])
    control = (
        raw_NLAM[..., gate.MIXED + len(TRENDS) : gate.MIXED + gate.ADDED] * shelf.control_O[pick_N][:, None, None, None]
    )
    share = torch.relu(share + torch.cat([trend, control], dim=3) @ shelf.added_OLTE[pick_N])
    share = share / share.sum(dim=3, keepdim=True).clamp_min(1e-9)
    asked = torch.sigmoid(raw_NLAM[..., -1:] - gate.EVEN_START)
    even = torch.relu(asked - gate.LEAST_EVEN) / (1 - gate.LEAST_EVEN)
    return (1 - even) * share + even * shelf.even_OLE[pick_N][:, :, None]
