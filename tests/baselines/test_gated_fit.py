"""How `gated` learns: the twins of a run, what is sampled, and that numpy and torch say the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moeload_bench.forecaster import StepBlock, TraceInfo
from tests.conftest import need, synthetic_load_SLE

need("torch", "pip install 'moeload-bench[torch]'")

import torch  # noqa: E402
from moeload_bench.baselines import _gate_fit as fit  # noqa: E402  needs torch, checked above
from moeload_bench.baselines._measures import ANCHORS  # noqa: E402
from moeload_bench.baselines._path import hat_weights  # noqa: E402

INFO = TraceInfo(2, 4, 2, (0, 1), 512, 1, "none", 0.0, 0)
FAST = fit.Learning(updates=30)


def runs(experts: tuple[int, ...] = (4, 6), steps: int = 600) -> list[tuple[TraceInfo, StepBlock]]:
    """Short runs of different sizes, each of its own group."""
    out = []
    for group, E in enumerate(experts):
        load = synthetic_load_SLE(steps, experts=E, layers=1 + group % 2, seed=group)
        info = replace(INFO, num_layers=load.shape[1], num_experts=E, group=group)
        out.append((info, StepBlock(np.arange(steps), load, load.sum(axis=2) // 2)))
    return out


@pytest.fixture(scope="module")
def samples() -> list[fit.Samples]:
    return fit.samples_of(runs(), 0)


def test_a_controlled_twin_ends_even() -> None:
    """The simulated controller takes away the unevenness of a run: totals stay, late means are near 1/E."""
    load = synthetic_load_SLE(3000)
    twin = fit.controlled(load, np.random.default_rng(0))
    assert np.abs(twin.sum(axis=2) - load.sum(axis=2)).max() <= load.shape[2]
    uneven = [np.abs(x[1500:].mean(axis=0) / x[1500:].sum(axis=2).mean() - 1 / 4).max() for x in (load, twin)]
    assert uneven[0] > 0.05
    assert uneven[1] < 0.005


def test_every_run_has_its_twins(samples: list[fit.Samples]) -> None:
    """Itself, sampled, controlled; one under a real controller has no controlled twin, a sampled one no sampled."""
    assert [(s.run, s.kind) for s in samples] == [
        (run, kind) for run in (0, 1) for kind in (fit.ITSELF, fit.SAMPLED, fit.CONTROLLED)
    ]
    ((info, block),) = runs((4,), 300)
    other = fit.samples_of([(replace(info, balancing="loss_free_bias", stride=10), block)], 0)
    assert [s.kind for s in other] == [fit.ITSELF]
    assert fit.samples_of([(info, StepBlock(block.step_S[:50], block.load_SLE[:50], block.tokens_SL[:50]))], 0) == []


def test_truth_lies_after_what_was_measured(samples: list[fit.Samples]) -> None:
    """On a ramp the true mean over h steps from row o on is that of rows o .. o + h - 1; where the run ends, none."""
    steps = 400
    load = np.stack([np.arange(steps) + 1, np.full(steps, 1000) - np.arange(steps) - 1], axis=1)[:, None]
    info = replace(INFO, num_layers=1, num_experts=2, layer_indices=(0,))
    own = fit.samples_of([(info, StepBlock(np.arange(steps), load, load.sum(axis=2)))], 0)[0]
    for row, seen, truth in zip(fit.origins(steps, fit.ITSELF), own.measured_O, own.truth_OKLE, strict=True):
        assert seen.window_WLE[0, 0, 0] == pytest.approx(row / 1000)
        for horizon, mean in zip(fit.HORIZONS, truth[:, 0, 0], strict=True):
            expected = (row + (horizon + 1) / 2) / 1000 if row + horizon <= steps else np.nan
            assert mean == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_numpy_says_what_torch_learned(samples: list[fit.Samples]) -> None:
    """`Gate.forecast` and the differentiable twin agree to float32, padded or not."""
    gate = fit.train(samples, 0, FAST)
    (shelf,) = fit._shelves(samples, gate.mean_C, gate.scale_C)
    measured = [m for s in samples for m in s.measured_O]
    at = torch.arange(0, len(measured), 37)
    hidden = torch.tanh(shelf.context_OLC[at] @ torch.tensor(gate.inner_CU) + torch.tensor(gate.inner_U))
    raw = hidden @ torch.tensor(gate.outer_UM) + torch.tensor(gate.outer_M)
    told = fit.shares(raw, shelf, at).numpy()
    for n, o in enumerate(at.tolist()):
        expected = gate.forecast(measured[o]).swapaxes(0, 1)
        L, _, E = expected.shape
        np.testing.assert_allclose(told[n, :L, :, :E], expected, atol=2e-5)
        assert not told[n, :, :, E:].any()


def test_learning_is_repeatable_and_lowers_the_error(samples: list[fit.Samples]) -> None:
    """The same runs and seed give the same bytes; on the runs it learned from it beats an even mixture by a tenth."""
    gate = fit.train(samples, 0, FAST)
    assert fit.train(samples, 0, FAST).to_bytes() == gate.to_bytes()
    flat = replace(gate, outer_UM=np.zeros_like(gate.outer_UM), outer_M=np.zeros_like(gate.outer_M))
    horizon_A = hat_weights(ANCHORS, (100,))[0]
    error = {}
    for name, each in {"learned": gate, "even": flat}.items():
        gaps = [
            np.abs(np.tensordot(horizon_A, each.forecast(m), axes=1) - truth[fit.HORIZONS.index(100)]).sum()
            for s in samples
            for m, truth in zip(s.measured_O, s.truth_OKLE, strict=True)
        ]
        error[name] = float(np.nanmean(gaps))
    assert error["learned"] < 0.9 * error["even"]


def test_ignored_context_changes_nothing(samples: list[fit.Samples]) -> None:
    """A network that was to see nothing gives every layer the same weights."""
    gate = fit.train(samples, 0, replace(FAST, ignored=("",)))
    raw_ALM = gate._raw(np.random.default_rng(0).normal(size=(3, len(gate.mean_C))))
    np.testing.assert_allclose(raw_ALM, np.broadcast_to(raw_ALM[:, :1], raw_ALM.shape), atol=1e-12)
