"""Probes: counts of a large batch beside a training, as a trace of their own; texts by weight; passes over texts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moeload_bench.errors import InterruptedRecordingError, RecipeError
from moeload_bench.generator.batches import BatchOrder
from moeload_bench.generator.recipe import Recipe, StageTable, load_recipe
from moeload_bench.generator.training import Job, record_recipe
from moeload_bench.recording.writer import TraceWriter
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.generator.test_recording_recipe import an_order
from tests.support.recording.recipes import RECIPE, small_recipe, use_small_text, write_recipe

PROBE = "\n[probe]\nevery = 2\ntokens = 512\n"
PROBED = "small.probe/test/seed5.parquet"
RUN = "small/test/seed5.parquet"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    use_small_text(monkeypatch)
    return small_recipe(tmp_path, RECIPE + PROBE)


def recorded(recipe: Recipe, out: Path, **more: Any) -> tuple[Trace, Trace]:
    """The run and its probe."""
    record_recipe(Job(recipe, 5, "test", 12, out, shard_steps=5), **more)
    return read_trace(out / RUN), read_trace(out / PROBED)


def test_a_probe_changes_nothing_of_the_training(recipe: Recipe, tmp_path: Path) -> None:
    """The run has the loads and losses that it has without a probe; its probe has a row every two steps."""
    run, probe = recorded(recipe, tmp_path / "with")
    record_recipe(Job(recipe.model_copy(update={"probe": None}), 5, "test", 12, tmp_path / "without"))
    plain = read_trace(tmp_path / "without" / RUN)
    np.testing.assert_array_equal(run.load_SLE, plain.load_SLE)
    np.testing.assert_array_equal(run.columns["loss"], plain.columns["loss"])
    assert probe.step_S.tolist() == [0, 2, 4, 6, 8, 10]
    assert (probe.meta.stride, probe.meta.global_batch_tokens, probe.meta.group) == (2, 512, "small")
    assert (probe.tokens_SL == 512).all()
    assert "small/test/seed5" in probe.meta.notes[-1]
    assert (probe.columns["load_half"].sum(axis=2) == 512).all()  # top-2: half of 1,024 pairs


def test_a_probe_counts_by_the_weights_that_its_step_starts_from(recipe: Recipe, tmp_path: Path) -> None:
    """With nothing learnt, a probe of all windows is the same whatever the step; with a rate it moves."""
    _, moving = recorded(recipe, tmp_path / "a")
    still = recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"lr": 1e-30})})
    _, stays = recorded(still, tmp_path / "b")
    np.testing.assert_array_equal(moving.load_SLE[0], stays.load_SLE[0])
    assert not np.array_equal(moving.load_SLE[-1], stays.load_SLE[-1])


@pytest.mark.parametrize("at_step", [7, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 11))])
def test_a_stopped_recording_goes_on_with_its_probe(recipe: Recipe, tmp_path: Path, at_step: int) -> None:
    """Stopped after any step and resumed, run and probe are those of an uninterrupted recording."""
    straight_run = recorded(recipe, tmp_path / "whole")
    asked = iter(range(1, 13))
    with pytest.raises(InterruptedRecordingError):
        recorded(recipe, tmp_path / "broken", stop=lambda: next(asked) == at_step)
    for got, expected in zip(recorded(recipe, tmp_path / "broken", resume=True), straight_run, strict=True):
        np.testing.assert_array_equal(got.load_SLE, expected.load_SLE)
        np.testing.assert_array_equal(got.step_S, expected.step_S)


def test_a_crash_between_the_shards_of_probe_and_run_repeats_no_row(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe's shard is on disk and the run's is not: the rows of the probe are kept and not counted twice."""
    straight_run = recorded(recipe, tmp_path / "whole")

    class CrashError(Exception):
        pass

    flush = TraceWriter.flush

    def fails_late(self: TraceWriter, *args: Any) -> None:
        if self.parts.target.parts[-3] == "small" and self.next_step > 6:
            raise CrashError
        flush(self, *args)

    monkeypatch.setattr(TraceWriter, "flush", fails_late)
    with pytest.raises(CrashError):
        recorded(recipe, tmp_path / "broken")
    monkeypatch.setattr(TraceWriter, "flush", flush)
    for got, expected in zip(recorded(recipe, tmp_path / "broken", resume=True), straight_run, strict=True):
        np.testing.assert_array_equal(got.load_SLE, expected.load_SLE)


def test_a_probe_reads_nothing_that_its_step_trains_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of the stage's mix, none twice, none of the step's own, other ones in the next step."""
    order = an_order(tmp_path, monkeypatch, RECIPE)
    seen = []
    for step in (0, 1, 7):
        windows = {name: {row.tobytes() for row in rows.astype(np.int64)} for name, rows in order._windows.items()}
        batch, probe = order.batch(step), order.probe(step, 40)
        drawn = [row.tobytes() for row in probe.token_BN]
        trained = {row.tobytes() for row in batch.token_BN}
        assert not trained & set(drawn)
        assert len(set(drawn)) == 40
        from_prose = sum(row in windows["prose"] for row in drawn)
        assert from_prose == (20 if step < 6 else 0)
        seen.append(set(drawn))
    assert seen[0] != seen[1]


def test_a_probe_larger_than_its_texts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of windows that are left of the source."""
    order = an_order(tmp_path, monkeypatch, RECIPE)
    with pytest.raises(RecipeError, match=r"probe: 1000000 sequences need more of source (prose|code) than the \d+"):
        order.probe(0, 1_000_000)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("every = 2\ntokens = 500", r"probe.tokens is 500, expected whole sequences of 16"),
        ("every = 0\ntokens = 512", r"probe.every"),
        ("every = 2", r"probe.tokens"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(tmp_path: Path, table: str, says: str) -> None:
    """By its field, when the recipe is read."""
    with pytest.raises(RecipeError, match=says):
        load_recipe(str(write_recipe(tmp_path, f"{RECIPE}\n[probe]\n{table}\n")))


def test_texts_come_by_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every 4 sequences 3 are prose, spread evenly; each source goes on where the step before left it."""
    text = RECIPE.replace("start = 0\n", "start = 0\nweights = [3, 1]\n", 1)
    order = an_order(tmp_path, monkeypatch, text)
    names = [name for name, _, _ in order._in_turn(0, 0)]
    assert Counter(names) == {"prose": 6, "code": 2}
    assert Counter(names[:4]) == {"prose": 3, "code": 1}
    for source, each in (("prose", 6), ("code", 2)):
        numbers = [n for step in range(3) for name, n, _ in order._in_turn(0, step) if name == source]
        assert numbers == list(range(3 * each))


def test_weights_that_do_not_fit_are_refused() -> None:
    """One for each source, and none where the mixture drifts."""
    with pytest.raises(ValueError, match="weights has 1 numbers, expected one for each of 2"):
        StageTable(start=0, sources=("a", "b"), weights=(1,))
    with pytest.raises(ValueError, match="so it cannot have weights"):
        StageTable(start=0, sources=("a",), towards=("b",), weights=(1,))


def test_passes_say_how_often_a_text_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As counted sequence by sequence, over all steps of a stage."""
    order: BatchOrder = an_order(tmp_path, monkeypatch, RECIPE)
    stages = [(step, int(step >= 6)) for step in range(12)]
    taken = Counter((stage, name) for step, stage in stages for name, _, _ in order._in_turn(stage, step))
    expected = {key: count / len(order._windows[key[1]]) for key, count in taken.items()}
    assert order.passes() == pytest.approx(expected)
