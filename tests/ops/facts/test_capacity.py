"""What `moeload-bench inspect --capacity` says about a run."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.__main__ import main
from moeload_bench.errors import PlacementError, TraceError
from moeload_bench.ops.facts.capacity import capacity_of, capacity_sentences, capacity_tables
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace

ROOT = Path(__file__).resolve().parents[3]


def micro_trace(steps: int = 1200, passes: int = 4, seed: int = 0) -> tuple[Trace, np.ndarray]:
    """A run of two layers and eight experts in four micro-batches of 512 pairs each, and the loads of each of these."""
    rng = np.random.default_rng(seed)
    share_LE = rng.dirichlet(np.full(8, 30.0), 2)
    load_SPLE = rng.multinomial(512, share_LE, (steps, passes, 2)) if passes else None
    columns = {"micro_max": load_SPLE.max(axis=1)}
    return Trace.from_arrays(load_SPLE.sum(axis=1), columns=columns, parallel={"passes": passes}), load_SPLE


def dropped(load_SPLE: np.ndarray, factor: float) -> float:
    """The part of tokens above the capacity of each micro-batch."""
    even = load_SPLE.sum(axis=-1, keepdims=True) / load_SPLE.shape[-1]
    return float(np.maximum(load_SPLE - factor * even, 0).sum() / load_SPLE.sum())


def test_a_balanced_run_is_not_asked_to_keep_room_for_its_rarest_step() -> None:
    """One step in 1,000 sends an expert 4 times its share. At most 0.1 % drops at a factor far below 4."""
    load = np.random.default_rng(0).multinomial(4096, np.full(16, 1 / 16), (1000, 2))
    load[500, 0] = [1024, *np.full(12, 204), 624, 0, 0]
    found = capacity_of(Trace.from_arrays(load))
    assert found.dropless.least == 4.0
    assert found.factor.least < 1.3
    assert capacity_sentences(found)[0] == f"--moe-expert-capacity-factor {found.factor.least:.2f}"


def test_the_table_goes_on_until_nothing_drops() -> None:
    """7.3 times the share in one step: the table has that factor, and less drops in each row than in the one before."""
    load = np.full((50, 1, 8), 100)
    load[7] = [730, 10, 10, 10, 10, 10, 10, 10]
    drops = capacity_of(Trace.from_arrays(load)).drops
    assert drops[-1].factor == 7.3
    assert (drops[-1].part.least, drops[-1].run.least) == (0, 0)
    assert all(one.part.least > other.part.least for one, other in itertools.pairwise(drops))


def test_micro_batches_lie_between_the_bounds() -> None:
    """What the micro-batches themselves drop is at least the steps' and at most that of each expert's largest."""
    trace, load_SPLE = micro_trace()
    found = capacity_of(trace, rows=range(trace.steps))
    assert found.passes == 4
    for one in found.drops:
        assert one.part.least <= dropped(load_SPLE, one.factor) <= one.part.most
    assert dropped(load_SPLE, found.factor.most) <= 0.001 < dropped(load_SPLE, found.factor.least - 0.01)
    need = load_SPLE.reshape(len(load_SPLE), 4, 2, 4, 2).sum(axis=-1).max(axis=(1, 2, 3)) / 128
    rank = capacity_of(trace, rows=range(trace.steps), devices=4).reruns[0]
    assert (need > rank.factor.most).mean() <= 0.001 < (need > rank.factor.least - 0.01).mean()


def test_a_run_without_micro_batches_says_what_it_cannot() -> None:
    """Its factors are lower bounds; how to record an upper one is said."""
    found = capacity_of(synthetic_trace(900))
    assert (found.passes, found.factor.most) == (None, None)
    assert any("in each micro-batch" in line and "micro_max=True" in line for line in capacity_sentences(found))
    trace, _ = micro_trace(100)
    assert not any("micro_max=True" in line for line in capacity_sentences(capacity_of(trace)))


def test_re_runs_that_were_not_seen_are_bounded_not_zero() -> None:
    """Where none was seen, the answer is a limit above what was allowed; where some were, their number."""
    trace, _ = micro_trace(400)
    asked, *table = capacity_of(trace, reruns=1, devices=4).reruns
    assert (asked.seen, asked.limit is not None) == (0, True)
    assert asked.limit > 5
    assert "under" in " ".join(capacity_sentences(capacity_of(trace, devices=4)))
    assert 0 < table[0].seen <= 40
    assert table[0].limit is None
    assert all(row[2] != "0" for row in capacity_tables(capacity_of(trace, devices=4))[2].rows)
    factors = [one.factor.most for one in table]
    assert factors == sorted(factors)


def test_room_is_what_megatron_allocates() -> None:
    """Of an expert its even share of a micro-batch x factor, rounded up; of a rank its pairs x factor, rounded down."""
    trace, _ = micro_trace(300)
    found = capacity_of(trace, devices=4, token_bytes=10)
    assert found.room.tokens == int(np.ceil(round(512 / 8 * found.factor.most, 6)))
    assert found.room.bytes == 10 * found.room.tokens
    assert found.reruns[0].room.tokens == int(512 * found.reruns[0].factor.most)


def test_a_small_or_empty_last_batch_is_not_the_size_of_a_step() -> None:
    """The tokens of a buffer are those of a full step, of the last 100 rows."""
    load = np.full((300, 1, 4), 128)
    load[-1] = 2
    full, cut = (capacity_of(Trace.from_arrays(part), devices=2) for part in (load[:-1], load))
    assert cut.room.tokens == full.room.tokens > 0


def test_the_steps_looked_at_are_the_last_thousand_or_those_named(tmp_path: Path) -> None:
    """A sampled run has fewer rows in them; the first part of a run that was uneven then needs more."""
    load = np.full((300, 1, 4), 100)
    load[:200, 0] = [200, 100, 50, 50]
    trace = Trace.from_arrays(load, step_S=np.arange(300) * 10)
    found = capacity_of(trace)
    assert (found.rows, found.first_step, found.factor.least, found.run_factor.least) == (100, 2000, 1.0, 2.0)
    assert capacity_of(trace, rows=range(10, 20)).factor.least == 2.0


def test_no_need_is_larger_than_routing_allows() -> None:
    """A token goes to an expert once: an expert has at most 1 / top-k of the load, one rank of one all of it."""
    load = np.random.default_rng(0).multinomial(2048, [0.4, 0.3, 0.2, 0.1], size=(300, 2))
    columns = {"micro_max": load}
    trace = Trace.from_arrays(load, tokens=1024, top_k=2, columns=columns, parallel={"passes": 2})
    for devices, most in ((1, 1.0), (2, 2.0), (4, 2.0)):
        found = capacity_of(trace, devices=devices)
        assert found.dropless.most == 2.0
        assert found.reruns[-1].factor.most <= most


def test_wrong_requests_say_what_was_expected() -> None:
    """Devices that do not divide the experts, loads after drops, steps without load."""
    trace = synthetic_trace(50)
    with pytest.raises(PlacementError, match="expected a divisor of the"):
        capacity_of(trace, devices=7)
    with pytest.raises(TraceError, match="--reruns is 1001, expected 0 to 1,000"):
        capacity_of(trace, reruns=1001)
    with pytest.raises(TraceError, match="counted after drops"):
        capacity_of(synthetic_trace(50, count_semantics="post_drop"))
    with pytest.raises(TraceError, match="no load in steps 0 to 4"):
        capacity_of(Trace.from_arrays(np.zeros((5, 1, 4), dtype=int)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--capacity", "--drop", "0.001"), "--drop is '0.001', expected percent, as in --drop 0.1%"),
        (("--capacity", "--drop", "100%"), "--drop is 1e+02 %, expected at least 0 % and less than 100 %"),
        (("--drop", "1%"), "expected --capacity"),
        (("--capacity", "--reruns", "2"), "expected --devices EP too"),
    ],
)
def test_the_command_refuses_what_it_would_have_to_guess(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.001 may be a part or percent; an option that would change nothing is refused."""
    monkeypatch.setattr(sys, "argv", ["moeload-bench", "inspect", "qwen3moe-tiny-8e/test/seed1", *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err


def check_the_rules(trace: Trace) -> None:
    """More may drop at a smaller factor; no larger factor drops more; no layer needs more than drops nothing."""
    found = capacity_of(trace, drop=0.001)
    assert capacity_of(trace, drop=0.01).factor.safe <= found.factor.safe <= found.dropless.safe
    assert found.factor.safe <= max(one.safe for one in found.layer_factors) <= found.dropless.safe
    assert all(one.part.safe <= one.worst_layer.safe for one in found.drops)
    parts = [one.part.safe for one in found.drops]
    assert parts == sorted(parts, reverse=True)
    assert found.drops[-1].run.safe == 0


def test_the_rules_hold() -> None:
    """On a run whose factor is that of routing, on one far below it, and with micro-batches."""
    check_the_rules(synthetic_trace(900))
    spikes = np.random.default_rng(0).multinomial(64, [0.7, 0.1, 0.1, 0.1], size=(400, 3))
    check_the_rules(Trace.from_arrays(spikes, top_k=1))
    check_the_rules(micro_trace(300)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted((ROOT / "traces").rglob("seed*.parquet")), ids=lambda path: path.parent.parent.name
)
def test_the_rules_hold_on_recorded_runs(path: Path) -> None:
    """On every trace of `traces/`."""
    check_the_rules(read_trace(path))
