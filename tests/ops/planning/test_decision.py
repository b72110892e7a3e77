"""One decision: the same in every command and in the monitor, never dominated, and honest about its constants."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import TraceError
from moeload_bench.ops.live.monitor import LoadMonitor
from moeload_bench.ops.planning.cluster import Cluster, expert_mb
from moeload_bench.ops.planning.decision import Candidate, Terms, compared_forecasters, decide, volume
from moeload_bench.ops.planning.forecasts import Forecasts
from moeload_bench.ops.planning.planner import Settings, decided, plans_of
from moeload_bench.placement.cost import step_imbalance
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import needs_traces, synthetic_trace
from tests.support.monitored import fed
from tests.support.synthetic import settling_trace

TRACES = Path(__file__).parents[3] / "traces"
TERMS = Terms(steps_left=1000, step_ms=100.0, window=200, missing=0, layout="linear", first_step=0)
STATED = ("--expert-mb", "88", "--bandwidth", "50", "--step-ms", "4000")


def first_steps(run: str, steps: int) -> Trace:
    """The first steps of a committed run."""
    return load_trace(TRACES / f"{run}.parquet").cut(slice(0, steps))


def every_fourth(trace: Trace) -> Trace:
    """As a recorder that writes every fourth step would have it."""
    at = np.arange(0, trace.steps, 4)
    columns = {name: column[at] for name, column in trace.columns.items()}
    return Trace.from_arrays(
        trace.load_SLE[at], trace.tokens_SL[at], trace.meta.top_k, step_S=trace.step_S[at], columns=columns
    )


RUNS: dict[str, Callable[[], Trace]] = {
    "small, without balancing": lambda: first_steps("qwen3moe-16e-wsd/test/seed121", 300),
    "small, auxiliary loss": lambda: first_steps("qwen3moe-16e-aux/test/seed1", 300),
    "small, bias": lambda: first_steps("deepseekv3-16e-shift/test/seed1", 300),
    "many experts": lambda: first_steps("qwen2moe-128e-shared/test/seed129", 300),
    "two devices": lambda: first_steps("qwen3moe-8e-shift/test/seed1", 300),
    "large batch": lambda: first_steps("deepseekv3-16e-large-lossfree/test/seed203", 300),
    "large batch, qwen": lambda: first_steps(f"qwen3moe-16e-large/test/{large_seed()}", 300),
    "sampled": lambda: every_fourth(first_steps("qwen3moe-16e-wsd/test/seed121", 1200)),
    "sampled, auxiliary loss": lambda: every_fourth(first_steps("qwen3moe-16e-aux/test/seed1", 1200)),
    "made": lambda: synthetic_trace(700),
    "58 x 256": lambda: settling_trace(58, 256, 250),
}


def large_seed() -> str:
    return sorted(path.stem for path in (TRACES / "qwen3moe-16e-large/test").glob("*.parquet"))[0]


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """The record but for CPU times, which are measured anew."""
    compared = {**record, "take": {**record["take"]}, "candidates": [{**one} for one in record["candidates"]]}
    for one in (compared["take"], *compared["candidates"]):
        one.pop("cpu_ms")
    return json.loads(json.dumps(compared))  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("stated", [(), STATED], ids=["assumed", "stated"])
def test_every_command_makes_the_same_decision(name: str, stated: tuple[str, ...], tmp_path: Path) -> None:
    """`plan` and the monitor: one record, not dominated, in the words of each."""
    if stated and name != "sampled":
        pytest.skip("constants are looked at on one run")
    trace = RUNS[name]()
    path = write_trace(trace, tmp_path / "own.parquet")
    known = dict(zip(("expert_mb", "bandwidth_gb_s", "step_ms"), map(float, stated[1::2]), strict=False))
    settings = Settings(cluster=Cluster(None, known))
    decision = decided(trace, settings)[1]
    expected = without_times(decision.record)
    planned = CliRunner().invoke(app, ["plan", str(path), "--json", *stated])
    assert planned.exit_code == 0, planned.output
    assert without_times(json.loads(planned.stdout)["decision"]) == expected
    monitor = LoadMonitor(settings, on_advice=lambda advice: False)
    fed(monitor, trace)
    assert monitor.stopped is None
    assert monitor.latest is not None
    assert monitor.latest.decision is not None
    assert without_times(monitor.latest.decision.record) == expected
    assert "\n".join(decision.lines()) in monitor.summary()
    assert not any(other.dominates(decision.take) for other in decision.candidates)
    sources = {one.option: one.source for one in decision.constants}
    for option in stated[::2]:
        assert sources[option] == "stated"
    assumed = next((line for line in decision.lines() if line.startswith("ASSUMED")), "")
    assert all((option in assumed) == (source == "ASSUMED") for option, source in sources.items())


@pytest.mark.slow
@needs_traces
@pytest.mark.parametrize("name", [entry.id for entry in load_suite("v3").traces])
def test_nothing_tried_dominates_what_is_advised(name: str) -> None:
    """On every trace of v3, with longer intervals than those of `plan` tried too, and vLLM's default."""
    trace = load_trace(name)
    tried = decided(trace, Settings(intervals=(*range(50, 501, 50), 1000, 2000)))[1]
    usual = [one for one in tried.candidates if one.every <= 500]
    decision = decide(tried.step, usual, tried.start, tried.constants, tried.terms, tried.vllm)
    assert tried.vllm is not None
    assert not decision.moves or not any(one.dominates(decision.take) for one in (*tried.candidates, tried.vllm))


def candidate(name: str, every: int, saved: float, moved: float, replans: int, noise: float = 0.0) -> Candidate:
    """One that saves so much in every part of the run, give or take."""
    parts_N = noise * np.random.default_rng(every).standard_normal(20)
    parts_N += saved - parts_N.mean()
    newest_N = (saved,) * 5
    return Candidate(
        name, every, replans, moved, 1.1, saved, saved, 0.1, 1.0, (200,), 1, tuple(parts_N.tolist()), newest_N, newest_N
    )  # fmt: skip


def taken(*candidates: Candidate) -> tuple[str, int]:
    decision = decide(1000, candidates, 1.2, (), TERMS)
    assert not any(other.dominates(decision.take) for other in candidates)
    return decision.take.forecaster, decision.take.every


def test_what_is_taken_is_never_dominated() -> None:
    """A row with fewer re-plans, fewer GB and more saved is eligible too: the noisy one below it is not taken."""
    best, between = candidate("a", 20, 5.0, 18.7, 16), candidate("a", 500, 4.85, 10.6, 9)
    noisy = candidate("a", 100, 4.8, 16.3, 14, noise=1.0)
    assert taken(best, between, noisy) == ("a", 500)
    assert taken(best, noisy) == ("a", 100)


def test_a_difference_needs_every_part_and_a_twentieth_is_never_given_up() -> None:
    """The same gap is a difference when every part shows it; a gap of a tenth is one however parts disagree."""
    best = candidate("a", 50, 5.0, 50.0, 9)
    assert taken(best, candidate("a", 100, 4.85, 1.0, 1)) == ("a", 50)
    assert taken(best, candidate("a", 100, 4.85, 1.0, 1, noise=1.0)) == ("a", 100)
    assert taken(best, candidate("a", 100, 4.5, 1.0, 1, noise=10.0)) == ("a", 50)


def test_where_forecasters_save_alike_the_choice_is_said_not_to_matter() -> None:
    """The first, cheapest one is taken; where one is behind, it is named."""
    tied = [candidate("ema", 50, 5.0, 5.0, 9), candidate("gated", 50, 5.05, 5.0, 9)]
    decision = decide(1000, tied, 1.2, (), TERMS)
    assert not decision.matters
    assert "This run cannot tell the forecasters apart: they save 5.00 to 5.05 %" in decision.lines(details=True)[2]
    apart = decide(1000, [candidate("ema", 50, 3.0, 5.0, 9), tied[1]], 1.2, (), TERMS)
    assert apart.matters
    assert apart.take.forecaster == "gated"
    assert apart.lines()[2] == "By step time saved, gated is ahead of ema (all save 3.00 to 5.05 % of the step time)."


def test_forecasters_are_cheap_in_the_order_that_was_measured() -> None:
    """The order is that of the page that the decision names, and it is named where it decides; others go as named."""
    page = (Path(__file__).parents[3] / "docs" / "reports" / "performance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [\d.]+ \| ([\d.]+) \|$", page[page.index("<!-- live size -->") :], re.MULTILINE)
    assert tuple(sorted(dict(rows), key=lambda name: float(dict(rows)[name]))) == compared_forecasters()
    tied = [candidate("ema", 50, 5.0, 4.0, 8), candidate("online", 50, 5.05, 5.0, 9)]
    said = decide(1000, tied, 1.2, (), TERMS).lines(details=True)[2]
    assert "ema is taken, as it needs the least CPU time (measured at 60 x 256, " in said
    assert (
        "online is taken, as it was named first."
        in decide(1000, [candidate("online", 50, 5.0, 4.0, 8), tied[0]], 1.2, (), TERMS).lines(details=True)[2]
    )


def test_no_forecaster_always_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one to be called finds cold caches: each takes its turn, so that CPU times can be compared."""
    asked: list[int] = []
    ask = Forecasts.ask

    def noted(self: Forecasts, *given: Any) -> Any:
        asked.append(id(self))
        return ask(self, *given)

    monkeypatch.setattr(Forecasts, "ask", noted)
    list(plans_of(synthetic_trace(200), Settings()))
    order = [asked[at : at + 4] for at in range(0, 16, 4)]
    assert len({turn[0] for turn in order}) == len(compared_forecasters()) == 4
    assert all(set(turn) == set(order[0]) for turn in order)


def test_a_forecaster_that_fails_is_out_and_named(tmp_path: Path) -> None:
    """The others are compared without it, and vLLM's default is no candidate."""
    (tmp_path / "bad.py").write_text(
        "class Bad:\n"
        "    def __init__(self, info, seed): pass\n"
        "    def observe(self, block): pass\n"
        "    def forecast(self, request): raise ValueError('no idea')\n"
    )
    target = f"{tmp_path / 'bad.py'}:Bad"
    planner, decision = decided(synthetic_trace(300), Settings(f"sw_avg,{target}"))
    assert {one.forecaster for one in decision.candidates} == {"sw_avg"}
    assert decision.vllm is not None
    assert decision.vllm.forecaster == "vLLM's default"
    assert "no idea" in planner.failures[target]


@pytest.mark.parametrize(("gb", "said"), [(0.0, "0.0 GB"), (0.0041, "4.1 MB"), (10.59, "10.6 GB"), (16254, "16.3 TB")])
def test_what_is_moved_is_said_in_a_unit_that_shows_it(gb: float, said: str) -> None:
    """Small experts would move `0.0 GB` in many re-plans."""
    assert volume(gb) == said
    moved = replace(candidate("a", 50, 5.0, gb, 9), moved_gb=gb)
    line = decide(1000, [moved], 1.2, (), TERMS).lines()[0]
    assert f"with 9 re-plans and {said} moved" in line
    assert "max/mean over steps 0 to 999: 1.20 (linear layout) -> 1.10 (this plan)" in line


def test_forecasters_are_compared_at_their_best_intervals() -> None:
    """One is best for short intervals, another for long ones."""
    rows = [candidate("a", 50, 5.0, 9.0, 9), candidate("b", 50, 4.0, 9.0, 9), candidate("a", 500, 1.0, 2.0, 2),
            candidate("b", 500, 3.0, 2.0, 2)]  # fmt: skip
    aged, said = decide(1000, rows, 1.2, (), TERMS).lines()[2:4]
    assert aged == (
        "Loads move, so a plan saves less each step: looked at every 50 steps, plans save 5.0 % before the cost of "
        "moves; every 500 steps, 1.0 %."
    )
    assert "save 4.00 to 5.00 % of the step time, each at its best interval" in said


def test_below_one_percent_the_experts_stay() -> None:
    """What could be saved is said."""
    decision = decide(1000, [candidate("a", 50, 0.4, 5.0, 9)], 1.07, (), TERMS)
    assert not decision.moves
    assert decision.lines()[0] == (
        "Decision at step 1,000: leave the experts where they are (max/mean over steps 0 to 999: 1.07 (linear "
        "layout)): re-planning with a saves 0.40 % of "
        "the step time, below 1 %."
    )


def test_a_move_is_advised_where_each_of_five_windows_repays_its_share() -> None:
    """One window that does not, or less than vLLM's default with as many moves: nothing is advised, and it is said."""
    good = candidate("a", 50, 5.0, 9.0, 9)
    decision = decide(1000, [good], 1.2, (), TERMS)
    assert decision.verdict == "move"
    assert decision.net_hours == pytest.approx((5.0 / 100 * 1000 * 0.1 / 3600,) * 3)
    lost = replace(good, worst_N=(5.0, 5.0, -0.1, 5.0, 5.0))
    decision = decide(1000, [lost], 1.2, (), TERMS)
    assert decision.verdict == "cannot tell"
    assert "in 1 of the last five windows of 200 steps moves cost more than they saved" in decision.lines()[0]
    assert taken(lost, replace(candidate("b", 50, 5.0, 9.0, 9), every=50)) == ("b", 50)
    better = replace(good, forecaster="vLLM's default", saved_percent=6.0)
    decision = decide(1000, [good], 1.2, (), TERMS, better)
    assert decision.verdict == "cannot tell"
    assert "vLLM's default saved no less, with no more moves" in decision.lines()[0]
    few = replace(good, worst_N=(5.0,) * 3)
    decision = decide(1000, [few], 1.2, (), TERMS._replace(missing=400))
    assert "five windows of 200 steps are needed: 400 steps more" in decision.lines()[0]


def test_constants_come_from_the_run_and_its_model() -> None:
    """Step time is the median, an expert's size that of weights and AdamW's moments; what is stated is called so."""
    trace = first_steps("qwen3moe-16e-wsd/test/seed121", 200)
    decision = decided(trace, Settings(cluster=Cluster(None, {"bandwidth_gb_s": 40.0})))[1]
    lines = decision.lines()
    median = 1000 * float(np.median(trace.columns["step_time_s"]))
    assert f"Measured: steps of {median:,.4g} ms." in lines
    assert expert_mb(trace.meta) == pytest.approx(3 * 64 * 128 * (4 + 8) / 1e6)
    assert "Of the model: 0.2949 MB per expert." in lines
    assert "Stated: 40 GB/s into a device." in lines
    assert lines[-1].startswith(
        "ASSUMED, state yours: 4 devices with 16 slots (--devices, --slots), linear layout in force (--current), "
        "50 % of a step"
    )
    assert "suppose" not in " ".join(lines)


@pytest.mark.parametrize(("experts", "devices"), [(8, 2), (16, 4), (60, 15), (6, 3), (10, 2)])
def test_the_default_cluster_fits_the_model(experts: int, devices: int) -> None:
    """The devices divide the experts; there is a slot for each expert, as training engines have no replicas."""
    shape = Cluster().shape_for(experts)
    assert shape is not None
    assert (shape.devices, shape.slots) == (devices, experts)
    assert experts % shape.devices == 0


def test_what_is_saved_is_what_the_moves_save() -> None:
    """The taken candidate's plans, costed anew over the whole run by the cost model."""
    trace, cost = synthetic_trace(900), CostModel(100, 1, 25)
    shape = ClusterShape("mine", 2, 6)
    settings = Settings("sw_avg", cluster=Cluster(shape, cost), intervals=(50,), steps_left=1)
    planner, decision = decided(trace, settings)
    layout = planner.race.tried[0]
    share_SLE = trace.share_SLE()[: decision.step]
    start = step_imbalance(np.array([[0, 1, 2, 3, 0, 1]] * 2), share_SLE, 2).mean()
    assert decision.start == pytest.approx(start)
    gain = 100 * 0.5 * (1 - decision.take.imbalance / start)
    spent = 100 * cost.price_ms(layout.replans, layout.received) / (decision.step * 100)
    assert decision.take.saved_percent == pytest.approx(gain - spent)
    assert np.mean(decision.take.saved_N) == pytest.approx(decision.take.saved_percent, abs=0.2)


def test_a_written_plan_says_what_it_changes(tmp_path: Path) -> None:
    """From the linear layout first, then from the file that --current names: devices are renumbered to move little."""
    path = write_trace(synthetic_trace(1300), tmp_path / "own.parquet")
    words = [
        "plan",
        str(path),
        "--devices",
        "2",
        "--slots",
        "6",
        "--level",
        "none",
        "--write",
        str(tmp_path / "p.json"),
    ]
    first = " ".join(CliRunner().invoke(app, words).output.split())
    second = " ".join(CliRunner().invoke(app, [*words, "--current", str(tmp_path / "p.json")]).output.split())
    assert "different from the linear layout" in first
    assert f"0 replicas to move, 0 slots different from the {tmp_path / 'p.json'} layout" in second
    slots = [layer["devices"] for layer in json.loads((tmp_path / "p.json").read_text())["layers"]]
    assert np.array(slots).shape == (2, 2, 3)


def test_a_run_too_short_to_decide_on_can_be_planned_for(tmp_path: Path) -> None:
    """The plan is written, and why there is no decision is said; without --write that is an error."""
    path = write_trace(synthetic_trace(40), tmp_path / "own.parquet")
    words = ["plan", str(path), "--devices", "2", "--slots", "6", "--level", "none"]
    done = CliRunner().invoke(app, [*words, "--write", str(tmp_path / "p.json")])
    assert done.exit_code == 0, done.output
    assert "no decision: " in done.output
    assert "40 steps, the first look comes after 50" in done.output
    assert len(json.loads((tmp_path / "p.json").read_text())["layers"]) == 2
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, TraceError)


def test_a_strangers_forecaster_decides_at_the_level_that_was_asked_for(tmp_path: Path) -> None:
    """It is scored and decided on: neither in this process, where it could do anything."""
    path, log = write_trace(synthetic_trace(300), tmp_path / "own.parquet"), tmp_path / "log"
    target = f'{Path(__file__).parents[2] / "support" / "counted.py"}:Counted@log="{log}"'
    for words in (["run", target, "--trace", str(path)], ["plan", str(path), "--forecaster", target]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    made_in = [int(line.split()[1]) for line in log.read_text().splitlines()]
    assert len(made_in) == 2
    assert os.getpid() not in made_in


def test_what_is_left_alone_would_have_saved_what_is_said() -> None:
    """The saving is that of the candidate taken: the best one's may lie above the limit that the sentence names."""
    parts = (0.2, 1.7, 0.5, 1.36, 0.94)
    little = Candidate("sw_avg", 50, 1, 0.1, 1.1, 0.996, 0.996, 0.01, 1.0, saved_N=parts)
    more = replace(little, replans=3, moved_gb=0.3, saved_percent=1.03, saved_N=tuple(reversed(parts)))
    found = decide(500, [little, more], 1.2, (), TERMS)
    assert (found.take, found.moves) == (little, False)
    assert "re-planning with sw_avg saves 0.99 % of the step time, below 1 %" in found.lines()[0]
