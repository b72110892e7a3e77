"""Moves by a restart, without replicas: what the decision says equals a replay written with numpy alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import PlacementError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.decision import worth_sentence
from moeload_bench.ops.planning.hours import draw_plan
from moeload_bench.ops.planning.kinds import kinds_of
from moeload_bench.ops.planning.planner import Settings, decided
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.support.synthetic import settling_trace

L, E, D, EVERY, WINDOW, STEPS, LEFT = 2, 8, 2, 50, 200, 2600, 20_000
STEP_MS, FRACTION, MINUTES = 100.0, 0.5, 0.05
SHAPE = ClusterShape("two", D, E)


class LastHundred:
    """Forecast the mean shares of the last 100 steps."""

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self._share_SLE = np.zeros((0, info.num_layers, info.num_experts))

    def observe(self, block: StepBlock) -> None:
        share_SLE = block.load_SLE / block.load_SLE.sum(axis=2, keepdims=True)
        self._share_SLE = np.concatenate([self._share_SLE, share_SLE])[-100:]

    def forecast(self, request: ForecastRequest) -> Forecast:
        return Forecast.constant(self._share_SLE.mean(axis=0), request.horizon)


def shifted_load(steps: int = STEPS) -> Any:
    """Unequal loads [S, L, E] that settle, and change once at step 1,300."""
    rng = np.random.default_rng(3)
    before_LE, after_LE = rng.dirichlet(np.ones(E), size=(2, L))
    parts = (rng.multinomial(4000, p_LE, size=(1300, L)) for p_LE in (before_LE, after_LE))
    return np.concatenate(list(parts))[:steps]


def devices_of(load_E: Any) -> Any:
    """Place experts in falling order of load, each on the lightest device with room; return the device of each."""
    device_E, load_D, count_D = np.zeros(E, dtype=int), np.zeros(D), np.zeros(D, dtype=int)
    for e in np.argsort(-load_E, kind="stable"):
        room = [d for d in range(D) if count_D[d] < E // D]
        d = min(room, key=lambda d: (load_D[d], count_D[d], d))
        device_E[e] = d
        load_D[d] += load_E[e]
        count_D[d] += 1
    return device_E


def imbalance(share_SLE: Any, device_LE: Any) -> Any:
    """Return max / mean device load [S, L]."""
    load_SLD = np.stack([np.where(device_LE == d, share_SLE, 0).sum(axis=2) for d in range(D)], axis=2)
    return load_SLD.max(axis=2) * D


class Replayed(NamedTuple):
    moved_at: list[int]
    newest: Any
    gain: Any
    net_hours: float
    breaks_even: int


def replayed(load_SLE: Any) -> Replayed:
    """Replay the rule: each layer that gains moves, if the restart is repaid one and a half times over its span."""
    share_SLE = load_SLE / load_SLE.sum(axis=2, keepdims=True)
    linear_LE = np.tile(np.repeat(np.arange(D), E // D), (L, 1))
    start_SL = imbalance(share_SLE, linear_LE)
    own_SL, charged_S = np.zeros((len(share_SLE), L)), np.zeros(len(share_SLE))
    now_LE, price_ms, left, rate = linear_LE, MINUTES * 60_000, 0.0, 0.0
    moved_at: list[int] = []
    for step in range(len(share_SLE)):
        if step >= WINDOW and step % EVERY == 0:
            recent_SLE, start = share_SLE[step - 100 : step], start_SL[:step].mean()
            span = LEFT if not moved_at else min(LEFT, max(WINDOW, step - moved_at[-1]))
            to_LE = np.stack([devices_of(one_E) for one_E in share_SLE[step - 100 : step].mean(axis=0)])
            gain_L = (imbalance(recent_SLE, now_LE) - imbalance(recent_SLE, to_LE)).mean(axis=0)
            saves = 100 * FRACTION / start / L * gain_L[gain_L > 0].sum()
            costs = 100 * price_ms / span / STEP_MS
            if saves > 1.5 * costs and saves - costs >= (0 if moved_at else 1):
                now_LE = np.where((gain_L > 0)[:, None], to_LE, now_LE)
                charged_S[step] += left
                moved_at, left, rate = [*moved_at, step], price_ms, price_ms / span
        own_SL[step] = imbalance(share_SLE[step : step + 1], now_LE)[0]
        charged_S[step] += min(left, rate)
        left -= min(left, rate)
    scale = 100 * FRACTION / start_SL.mean()
    gain_N = scale * (start_SL - own_SL)[-5 * WINDOW :].mean(axis=1).reshape(5, WINDOW).mean(axis=1)
    newest_N = gain_N - 100 * charged_S[-5 * WINDOW :].reshape(5, WINDOW).mean(axis=1) / STEP_MS
    net_hours = newest_N.mean() / 100 * LEFT * STEP_MS / 3.6e6
    return Replayed(moved_at, newest_N, gain_N, net_hours, int(np.ceil(100 * price_ms / gain_N.mean() / STEP_MS)))


def settings(**changes: Any) -> Settings:
    stated = {"step_ms": STEP_MS, "expert_fraction": FRACTION}
    cluster = Cluster(SHAPE, stated, restart_minutes=MINUTES)
    return Settings(LastHundred, intervals=(EVERY,), cluster=cluster, **{"steps_left": LEFT, **changes})


def trace_of(load_SLE: Any) -> Trace:
    return Trace.from_arrays(load_SLE, 2000, 2)


def test_a_restart_is_what_numpy_says() -> None:
    """The steps of the moves, what each newest window nets, what the steps left save, and when a restart is repaid."""
    load_SLE = shifted_load()
    expected, decision = replayed(load_SLE), decided(trace_of(load_SLE), settings())[1]
    take = decision.take
    assert len(expected.moved_at) >= 2
    assert list(take.moved_at) == expected.moved_at
    assert take.newest_N == pytest.approx(expected.newest)
    assert take.worst_N == pytest.approx(expected.newest)  # nothing is assumed
    assert decision.net_hours[0] == pytest.approx(expected.net_hours)
    assert take.breaks_even == expected.breaks_even
    assert decision.verdict == "move"


def test_the_picture_ends_where_the_decision_does() -> None:
    """Hours saved so far are the sum over parts; the steps left add what the decision says, with its interval."""
    planner, decision = decided(trace_of(shifted_load()), settings())
    trace = trace_of(shifted_load())
    ax, _ = draw_plan(decision, planner.race.steps_N, kinds_of(trace, planner, decision, {})).axes
    so_far, left, moves = (line.get_xydata() for line in ax.get_lines()[:3])
    total = decision.take.saved_percent / 100 * decision.step * STEP_MS / 3.6e6
    assert so_far[0] == pytest.approx((0, 0))
    assert so_far[-1] == pytest.approx((STEPS, total))
    assert left[-1] == pytest.approx((STEPS + LEFT, total + decision.net_hours[0]))
    assert moves[:, 0].tolist() == list(decision.take.moved_at)


def test_fewer_than_five_windows_say_how_many_steps_more() -> None:
    """The first plan is made at 200 steps, so that five windows of 200 steps end at 1,200."""
    decision = decided(trace_of(shifted_load(900)), settings())[1]
    assert decision.verdict == "cannot tell"
    assert "five windows of 200 steps are needed: 300 steps more" in decision.lines()[0]


def test_steps_left_that_are_assumed_are_halved() -> None:
    """As many again as were seen, said to be ASSUMED: a window then repays twice its share."""
    decision = decided(trace_of(shifted_load()), settings(steps_left=None))[1]
    assert decision.terms.steps_left == STEPS
    assert (
        "cost of a move spread over 2,600 steps left, as many again as were seen (--steps-left; half to twice: saves "
        in decision.lines()[-1]
    )
    assert all(worst <= value for worst, value in zip(decision.take.worst_N, decision.take.newest_N, strict=True))


def test_a_permuted_checkpoint_has_no_replicas() -> None:
    """A slot for each expert: by default, and refused otherwise; what moves live is no constant of a restart."""
    shape = Cluster(restart_minutes=10.0).shape_for(16)
    assert shape is not None
    assert (shape.devices, shape.slots) == (4, 16)
    with pytest.raises(PlacementError, match="10 slots for 8 experts: a permuted checkpoint has no replicas"):
        Cluster(ClusterShape("two", 2, 10), restart_minutes=10.0).shape_for(8)
    with pytest.raises(PlacementError, match="bandwidth_gb_s: of moves while training runs"):
        Cluster(None, {"bandwidth_gb_s": 25.0}, restart_minutes=10.0)
    with pytest.raises(PlacementError, match="restart_minutes is -1"):
        Cluster(restart_minutes=-1.0)


def test_the_command_prices_restarts(tmp_path: Path) -> None:
    """Devices alone are enough: a slot for each expert; sentences, table and the next command say what it is."""
    path = write_trace(trace_of(shifted_load(1300)), tmp_path / "own.parquet")
    words = ["plan", str(path), "--devices", "2", "--step-ms", "100", "--steps-left", "20000", "--level", "none"]
    words += ["--expert-fraction", "0.5"]
    restart = ["--move", "restart", "--restart-minutes", "0.05"]
    plot = ["--plot", str(tmp_path / "hours.svg")]
    done = CliRunner().invoke(app, [*words, *restart, "--forecaster", "sw_avg", *plot])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.replace("\\\n", " ").split())
    assert "Stated: 2 devices with 8 slots, steps of 100 ms, 50 % of a step waits" in said
    assert "0.05 minutes for each restart, cost of a move spread over 20,000 steps left." in said
    assert "a move breaks even after" in said
    assert said.endswith("hours.svg: hours saved over steps, kinds by tokens per rank")
    assert worth_sentence("restart") in said
    assert (tmp_path / "hours.svg").exists()
    assert "vLLM" not in said, "its default moves replicas, which a checkpoint has none of"
    assert "--move restart --restart-minutes 0.05 --write placement.json --format json" in said
    assert "sw_avg 50 " in said
    every = CliRunner().invoke(app, [*words, *restart, "--forecaster", "sw_avg", "--details"])
    assert all(f"sw_avg {interval} " in " ".join(every.output.split()) for interval in range(50, 501, 50))
    for wrong in (restart[:2], restart[2:]):
        refused = CliRunner().invoke(app, [*words, *wrong]).exception
        assert "--move restart and --restart-minutes go together" in str(refused)
    live = CliRunner().invoke(app, [*words, "--checkpoint", str(tmp_path)]).exception
    assert "--checkpoint is of a restart" in str(live)
    (tmp_path / "config.json").write_text('{"model_type": "mixtral", "num_local_experts": 8}')
    told = CliRunner().invoke(app, [*words, *restart, "--checkpoint", str(tmp_path), "--json"])
    assert "no .safetensors files" in json.loads(told.stdout)["checkpoint"][0]


@pytest.mark.slow
def test_a_model_of_58_layers_and_256_experts_takes_less_than_a_minute() -> None:
    """All 40 candidates over 1,000 steps, in CPU seconds of this process."""
    trace, began = settling_trace(58, 256, 1000), time.process_time()
    decision = decided(trace, Settings(cluster=Cluster(restart_minutes=10.0), steps_left=500_000))[1]
    assert time.process_time() - began < 60
    assert len(decision.candidates) == 40
    assert decision.vllm is None
    assert not any(one.dominates(decision.take) for one in decision.candidates)
