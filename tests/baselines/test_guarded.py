"""`guarded`: when it stops believing its network, what it learns from, the pull of a controller, its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from baselines import _gate, _gate_fit, _guard, _guard_fit, _measures
from baselines._spread import HORIZONS, LEVELS, Spread
from baselines.adaptive import Adaptive
from baselines.guarded import Guarded
from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.scoring.metrics import total_variation
from tests.support.archives import changed_archive

L, E = 2, 8
INFO = TraceInfo(L, E, 2, (0, 1), 512, 1, "none", 0.0, 0)
REQUEST = ForecastRequest(0, 100, (1, 10, 100))


def followed(load_SLE: NDArray[np.int64], info: TraceInfo = INFO, columns: Any = None, **how: Any) -> Guarded:
    forecaster = Guarded(info, 0, **how)
    forecaster.observe(StepBlock(np.arange(len(load_SLE)), load_SLE, load_SLE.sum(axis=2), columns or {}))
    return forecaster


def walk(rows: int, tokens: int, drift: float, seed: int = 0) -> NDArray[np.int64]:
    """Counts of shares whose logarithms walk."""
    rng = np.random.default_rng(seed)
    log_SLE = np.cumsum(rng.normal(0, drift, (rows, L, E)), axis=0)
    return np.asarray(rng.multinomial(tokens, np.exp(log_SLE) / np.exp(log_SLE).sum(axis=2, keepdims=True)))


def wrong_network() -> bytes:
    """Weights that answer 1/E whatever was measured."""
    C, outer = len(_measures.context_names()) + _guard.EXTRA, len(_measures.ANCHORS) * _gate.WEIGHTS
    bias_AM = np.zeros((len(_measures.ANCHORS), _gate.WEIGHTS), dtype=np.float32)
    bias_AM[:, -1] = 50  # the weight of 1/E
    inner_CU, inner_U, outer_UM = (np.zeros(size, dtype=np.float32) for size in ((C, 3), (3,), (3, outer)))
    mean_C, scale_C = np.zeros(C, dtype=np.float32), np.ones(C, dtype=np.float32)
    return _guard.to_bytes(_guard.Network(mean_C, scale_C, inner_CU, inner_U, outer_UM, bias_AM.ravel()))


def errors(cls: Any, load_SLE: NDArray[np.int64], first: int, horizon: int = 10, **how: Any) -> NDArray[np.float64]:
    """[O]: mean total variation at every 50th row from ``first`` on."""
    forecaster, out, fed = cls(INFO, 0, **how), [], 0
    for origin in range(first, len(load_SLE) - horizon, 50):
        rows = load_SLE[fed:origin]
        forecaster.observe(StepBlock(np.arange(fed, origin), rows, rows.sum(axis=2)))
        fed = origin
        told: Forecast = forecaster.forecast(replace(REQUEST, origin=origin))
        true_LE = (
            load_SLE[origin : origin + horizon].sum(axis=0)
            / load_SLE[origin : origin + horizon].sum(axis=(0, 2))[:, None]
        )
        out.append(total_variation(told.window_means((horizon,))[0], true_LE).mean())
    return np.array(out)


# -------------------------------------------------------------------------------------------------------- the guard


def test_a_network_that_is_wrong_on_this_run_is_left_for_a_rival() -> None:
    """After a thousand rows a network that says 1/E of unequal loads costs at most 5 % against `adaptive`."""
    load = walk(2000, 5000, 0.02)
    guarded, unguarded = (errors(Guarded, load, 1000, fitted=wrong_network(), guard=g).mean() for g in (True, False))
    adaptive = errors(Adaptive, load, 1000).mean()
    assert unguarded > 3 * adaptive
    assert guarded < 1.05 * adaptive


def test_a_stratum_that_no_run_had_is_survived() -> None:
    """A million tokens per expert and fast loads, which no `train` run has: at most 11 % behind the better of
    `adaptive` and the last value at 1 and 10 steps.
    """
    load = walk(1500, 8_000_000, 0.05, seed=1)
    for horizon in (1, 10):
        rival = errors(Adaptive, load, 700, horizon).mean()
        last = np.mean([total_variation(*pair).mean() for pair in _last_values(load, 700, horizon)])
        assert errors(Guarded, load, 700, horizon).mean() < 1.11 * min(rival, last)


def _last_values(load_SLE: NDArray[np.int64], first: int, horizon: int) -> list[Any]:
    share_SLE = load_SLE / load_SLE.sum(axis=2, keepdims=True)
    at = range(first, len(load_SLE) - horizon, 50)
    return [(share_SLE[o - 1], share_SLE[o : o + horizon].mean(axis=0)) for o in at]


def test_without_evidence_the_network_speaks_alone_but_for_the_prior() -> None:
    """Before the first check the rivals have the weight of the prior, at one step 1 part in 1 + e^2."""
    load = walk(40, 5000, 0.02)
    mixed, alone = (followed(load, guard=g).forecast(REQUEST).share_BLE[0] for g in (True, False))
    adaptive = Adaptive(INFO, 0)
    adaptive.observe(StepBlock(np.arange(40), load, load.sum(axis=2)))
    last = load[-1] / load[-1].sum(axis=1, keepdims=True)
    rivals = 0.5 * (adaptive.forecast(REQUEST).share_BLE[0] + last)
    weight = 1 / (1 + np.exp(_guard.PRIOR[0]))
    np.testing.assert_allclose(mixed, (1 - weight) * alone + weight * rivals, rtol=1e-9)


def test_sizes_of_blocks_and_numbering_do_not_matter_over_many_checks() -> None:
    """On 1,300 rows, where every window has complete targets."""
    load = walk(1300, 800, 0.02)
    single_block = followed(load).forecast(REQUEST).share_BLE
    parts = Guarded(INFO, 0)
    for rows in np.array_split(np.arange(1300), 37):
        parts.observe(StepBlock(rows, load[rows], load[rows].sum(axis=2)))
    np.testing.assert_allclose(parts.forecast(REQUEST).share_BLE, single_block, rtol=1e-9)
    order = np.random.default_rng(0).permutation(E)
    np.testing.assert_allclose(
        followed(load[:, :, order]).forecast(REQUEST).share_BLE, single_block[:, :, order], rtol=1e-9
    )


# --------------------------------------------------------------------------------------------------------- the pull


def controlled(columns: bool, rows: int = 300) -> Guarded:
    """A still run under loss-free balancing whose first expert has had too little load in every row."""
    load = np.full((rows, L, E), 100)
    load[:, :, 0], load[:, :, 1] = 90, 110
    load[1::2, :, 2:] += np.array([4, -4, 4, -4, 4, -4])
    load[::2, :, 2:] -= np.array([4, -4, 4, -4, 4, -4])
    info = replace(INFO, balancing="loss_free_bias", balancing_coefficient=0.001)
    bias = {"expert_bias": np.full((rows, L, E), np.arange(E) * 0.001, dtype=np.float32)} if columns else None
    return followed(load, info, bias)


def test_the_bias_counts_what_the_controller_did_and_a_recorded_one_is_taken() -> None:
    """One step for each row with less than 1/E, one back for each with more; a recorded bias is divided by the rate."""
    bias_LE = controlled(columns=False)._gate._pull.bias_LE
    np.testing.assert_array_equal(bias_LE[0, :3], [300, -300, 0])
    np.testing.assert_allclose(controlled(columns=True)._gate._pull.bias_LE[0], np.arange(E), rtol=1e-6)


def test_still_layers_are_pulled_by_the_spread_and_moving_ones_are_not() -> None:
    """`PULL` of the spread per hundred steps of centred bias, in a hand-made memory, and from step `SETTLED` on."""
    early = controlled(columns=True, rows=_guard.SETTLED - 1)
    share_ALE = np.full((1, L, E), 1 / E)
    np.testing.assert_array_equal(early._gate._pull.applied(share_ALE, early._memory), share_ALE)
    forecaster = controlled(columns=True, rows=_guard.SETTLED)
    pull, memory = forecaster._gate._pull, forecaster._memory
    spread_LE = memory.share.newest(_guard.SPREAD_ROWS).std(axis=0)
    move_LE = _guard.PULL / 100 * (np.arange(E) - 3.5) * spread_LE
    move_LE -= move_LE.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(pull.applied(share_ALE, memory)[0], 1 / E + move_LE, rtol=1e-6)
    memory.observe(StepBlock(np.arange(1000, 1100), (load := walk(100, 800, 0.2)), load.sum(axis=2)))
    np.testing.assert_array_equal(pull.applied(share_ALE, memory), share_ALE)


# --------------------------------------------------------------------------------------------------- what is learned


def test_exact_twins_are_logs_of_the_same_run() -> None:
    """Sums keep every token; thinned counts are part of the counts and fifty per expert."""
    load, rng = walk(105, 1000, 0.02), np.random.default_rng(0)
    info, sums = _guard_fit.summed(INFO, load, rng)
    assert (info.stride, sums.sum()) == (10, load[:100].sum())
    _, thin = _guard_fit.thinned(INFO, load, rng)
    assert (thin <= load).all()
    assert (thin.sum(axis=2) == 50 * E).all()


@pytest.mark.slow
def test_weights_are_learned_from_the_named_twins_only() -> None:
    """Leaving a kind out changes the weights; learning is repeatable."""
    runs = [
        (replace(INFO, group=g), StepBlock(np.arange(160), load := walk(160, 800, 0.02, g), load.sum(axis=2)))
        for g in range(2)
    ]
    quick = _gate_fit.Learning(updates=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_gate_fit, "Learning", lambda: quick)
        full, again, less = (
            _guard.to_bytes(_guard_fit.fit_guard(runs, 0, without)) for without in ((), (), ("summed",))
        )
    assert full == again
    assert full != less


def test_shipped_weights_are_the_pinned_ones() -> None:
    """Reading the file checks that its hash is the one in the source."""
    assert _guard.shipped_network().inner_CU.shape == (len(_measures.context_names()) + _guard.EXTRA, 32)


def test_weights_come_back_as_they_were() -> None:
    """Archives hold all of the weights, the context beyond `gated`'s too, and both kinds of quantiles."""
    for data in (wrong_network(), _guard.to_bytes(with_quantiles())):
        assert _guard.to_bytes(_guard.read_network(data, "a test")) == data


def with_quantiles() -> _guard.Network:
    """A network whose quantiles are twice as wide for noisy rows as for quiet ones."""
    factor_CKQ = np.broadcast_to(np.linspace(-1, 1, len(LEVELS)), (2, len(HORIZONS), len(LEVELS)))
    loud, quiet = (Spread((scale * factor_CKQ).astype(np.float32)) for scale in (2, 1))
    return replace(_guard.read_network(wrong_network(), "a test"), spread=loud, quiet=quiet)


def test_the_network_is_told_of_quantile_balancing() -> None:
    """One column of its context is 1 there and 0 elsewhere; the others are alike."""
    seen = _measures.measure(followed(walk(40, 800, 0.02))._memory)
    none_LC, quantile_LC = (_guard.widened(seen, 1, name).context_LC for name in ("none", "quantile"))
    assert (quantile_LC - none_LC).sum(axis=0).tolist().count(L) == 1
    assert np.count_nonzero(quantile_LC - none_LC) == L


def test_quantiles_are_those_of_rows_as_noisy() -> None:
    """Beyond `QUIET` and `LOUD` those of runs there, between them a mixture, with one kind alone that one."""
    network = with_quantiles()
    spreads = [network.spread_at(noise) for noise in (0.001, _guard.QUIET, 0.02, _guard.LOUD, 0.3)]
    widest = [one.factor_CKQ.max() for one in spreads if one is not None]
    assert widest == sorted(widest)
    assert (widest[0], widest[1], widest[3], widest[4]) == (1, 1, 2, 2)
    assert 1.1 < widest[2] < 1.9
    assert replace(network, quiet=None).spread_at(0.001) is network.spread
    assert replace(network, spread=None).spread_at(0.3) is network.quiet


def _archive(**changes: Any) -> bytes:
    return changed_archive(wrong_network(), **changes)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"no archive", "no archive"),
        (bytes(_gate.MAX_BYTES + 1), "no archive"),
        (_archive(plain=None), "no archive"),
        (_archive(plain=np.zeros(9, dtype=np.uint8)), "no archive"),
        (_archive(more=np.array([object()], dtype=object)), "no archive"),
        (_archive(more=np.zeros((1, 1), dtype=np.float32)), "expected finite float32"),
        (_archive(more=np.full((_guard.EXTRA, 5), np.nan, dtype=np.float32)), "expected finite float32"),
        (_archive(quiet_CKQ=np.zeros((2, 3), dtype=np.float32)), "expected finite float32"),
    ],
)
def test_other_weights_are_refused_by_name(data: bytes, says: str) -> None:
    """Broken, too large, pickled, of another shape, not finite: one line that says which."""
    with pytest.raises(TargetError, match=says):
        Guarded(INFO, 0, fitted=data)
