"""`python -m leaderboard fit`: what the package ships, made again from the runs of a list and from no others."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from moeload_bench.baselines import _gate, _gate_fit

from leaderboard.fit import lists, states, weights
from leaderboard.fit.command import FITS, Name
from leaderboard.fit.lists import read_list
from moeload_bench.errors import HashMismatchError, TraceError
from moeload_bench.ops.facts.experts import measured
from moeload_bench.states.rule import StateRule
from moeload_bench.traces.store import data_sha256, write_trace
from tests.conftest import need, synthetic_trace
from tests.support.checkout import leaderboard

RUNS = {"gated": 12, "guarded": 77, "alarm": 59, "states": 2, "events": 68, "online": 89}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two runs in place of traces/, the list of one of them, and what the alarm says of it."""
    traces = [synthetic_trace(1000, seed=seed) for seed in range(2)]
    for seed, trace in enumerate(traces):
        write_trace(trace, tmp_path / "traces" / "made" / "test" / f"seed{seed}.parquet")
    (tmp_path / "alarm.toml").write_text(f'[runs]\n"made/test/seed0" = "{data_sha256(traces[0])}"\n')
    monkeypatch.setattr(lists, "TRACES", tmp_path / "traces")
    monkeypatch.setattr(lists, "LISTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", FITS)
def test_a_list_is_of_runs_that_are_there(name: Name) -> None:
    """All of them, with the hashes that they have in traces/ or in the package; near twins are recipes of the list."""
    listed = read_list(name)
    assert [ref.id for ref in listed.files()] == list(listed.runs)
    assert len(listed.runs) == RUNS[name]
    twins = [recipe for group in listed.near_twins for recipe in group]
    assert len(set(twins)) == len(twins)
    assert {run.split("/")[0].removesuffix(".probe") for run in listed.runs} >= set(twins)


def test_the_command_knows_every_list() -> None:
    """A list without a fit would never be read."""
    assert {path.stem for path in lists.LISTS.glob("*.toml")} == set(FITS) == set(get_args(Name))


def test_nothing_but_the_alarm_is_measured_on_test_runs() -> None:
    """The alarm was chosen on `train` runs, so its rates are those of `test` runs; `online` has a set b, too."""
    splits = {name: {run.split("/")[1] for run in read_list(name).runs} for name in FITS}
    assert splits.pop("online") == {"train", "s2027_01"}
    assert {run.split("/")[0][:8] for run in read_list("online").runs if "s2027_01" in run} == {"2027-01b"}
    assert splits == {name: {"test" if name == "alarm" else "train"} for name in splits}


def test_a_trace_that_is_added_changes_nothing(world: Path) -> None:
    """What is made comes from the runs of the list, whatever else lies beside them."""
    made = FITS["alarm"](read_list("alarm"))
    write_trace(synthetic_trace(1000, seed=7), world / "traces" / "more" / "test" / "seed7.parquet")
    assert FITS["alarm"](read_list("alarm")) == made
    assert b'"layer_steps": 2000}' in next(iter(made.values()))


def test_a_run_that_is_missing_is_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names its file and the hash it must have; exit status 2, nothing written."""
    path = world / "traces" / "made" / "test" / "seed0.parquet"
    path.unlink()
    assert leaderboard("fit", "alarm") == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith(f"leaderboard: {path}: no such file; the fit needs this run, with data_sha256 ")


def test_a_run_that_is_changed_is_refused_before_any_is_read(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the hash that the file states, so that nobody waits for hours; then by its content."""
    path = world / "traces" / "made" / "test" / "seed0.parquet"
    write_trace(synthetic_trace(1000, seed=5), path, overwrite=True)
    monkeypatch.setattr(lists, "read_trace", None)
    with pytest.raises(
        HashMismatchError, match=r"seed0\.parquet: data_sha256 is \w{64}, the fit was made from \w{64}$"
    ):
        next(read_list("alarm").traces())


def test_a_list_that_is_broken_is_refused_by_name(world: Path) -> None:
    """One line: the file, the field and what is wrong with it."""
    (world / "alarm.toml").write_text('[runs]\n"made/test/seed0" = "none"\n')
    with pytest.raises(TraceError, match=r"alarm\.toml: runs\.made/test/seed0: "):
        read_list("alarm")


def test_a_check_writes_nothing(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1 where a file differs; without --check it is written, and equal from then on."""
    path = Path(lists.__file__).parents[2] / "moeload_bench" / "ops" / "facts" / "alarm.json"
    there = world / "alarm.json"
    monkeypatch.setattr("leaderboard.fit.alarm.MEASURED", there)
    monkeypatch.setattr("leaderboard.fit.command.ROOT", world)
    there.write_text(path.read_text())
    assert leaderboard("fit", "alarm", "--check") == 1
    assert there.read_text() == path.read_text()
    assert leaderboard("fit", "alarm") == 0
    assert leaderboard("fit", "alarm", "--check") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"alarm.json: {what}" for what in ("differs", "written", "as it was")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alarm", "states", "events"])
def test_what_is_shipped_is_made_from_its_list(name: str) -> None:
    """Made again it is the same, byte for byte."""
    assert leaderboard("fit", name, "--check") == 0


@pytest.mark.slow
def test_the_weights_of_gated_were_learned_from_its_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network ends elsewhere on another processor. How its inputs are scaled says which runs they were taken from."""
    need("torch", "pip install 'moeload-bench[torch]'")
    quick = _gate_fit.Learning(updates=2)
    monkeypatch.setattr(_gate_fit, "Learning", lambda: quick)
    made, _ = weights.gated(read_list("gated")).values()
    again, shipped = _gate.read_gate(made, "a fit"), _gate.shipped_gate()
    np.testing.assert_allclose(again.mean_C, shipped.mean_C, rtol=1e-6)
    np.testing.assert_allclose(again.scale_C, shipped.scale_C, rtol=1e-6)


def test_the_alarm_was_measured_on_many_deaths() -> None:
    """Else its rates would say little."""
    assert measured().deaths > 100


def test_constants_of_the_state_rule_are_written_where_they_stand() -> None:
    """Those that are in the module give the module; others change three lines."""
    source = states.RULE.read_text()
    rule = StateRule()
    now = {"margin": rule.margin, "low": rule.low, "high": rule.high}
    assert states.with_constants(source, now) == source
    other = states.with_constants(source, {"margin": 1.0, "low": 0.02, "high": 0.06}).splitlines()
    changed = [line for line, old in zip(other, source.splitlines(), strict=True) if line != old]
    assert changed == ["    margin: float = 1.0", "    low: float = 0.02", "    high: float = 0.06"]
