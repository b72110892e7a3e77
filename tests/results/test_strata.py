"""Small and large batches of one suite stand apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leaderboard.suites.freeze import to_toml
from moeload_bench.cli.app import app
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.results.results import Results
from moeload_bench.results.strata import WORDS, nearest_words, run_groups, size_words
from moeload_bench.scoring.description import run_facts
from moeload_bench.suites.suite import Suite, load_suite, suite_for_trace
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace

TRACES = [synthetic_trace(300, seed=seed, recipe=f"own-{seed}") for seed in range(2)]


@pytest.fixture
def scored() -> tuple[Suite, Results]:
    """Two forecasters on a suite of one small and one large run."""
    entries = [suite_for_trace(one, horizons=(1, 10), per_state=3).traces[0] for one in TRACES]
    sized = [
        entry.model_copy(update={"expert_tokens": tokens}) for entry, tokens in zip(entries, (64, 4096), strict=True)
    ]
    suite = Suite(name="own", horizons=(1, 10), traces=tuple(sized))
    return suite, evaluate(["sw_avg", "last_value"], suite, traces=TRACES, level="none", shapes=())


def test_each_size_has_its_own_runs(scored: tuple[Suite, Results]) -> None:
    """The part of a size holds every forecaster on the runs of that size; runs of no size are one part."""
    _, results = scored
    parts = run_groups(results)
    assert {size: part.traces for size, part in parts.items()} == {
        WORDS["small"]: [TRACES[0].id],
        WORDS["large"]: [TRACES[1].id],
    }
    assert all(part.names == results.names for part in parts.values())
    unsized = replace(results, table=results.table.assign(stratum=None))
    assert run_groups(unsized) == {"": unsized}


def test_run_prints_a_table_for_each_size(scored: tuple[Suite, Results], tmp_path: Path) -> None:
    """Under its name, the verdict and the table of that size; kept forecasts that are scored again, too."""
    (tmp_path / "own.toml").write_text(to_toml(scored[0]))
    for trace in TRACES:
        write_trace(trace, tmp_path / f"{trace.id}.parquet")
    where, kept = ["--suite", str(tmp_path / "own.toml"), "--traces", str(tmp_path)], str(tmp_path / "kept")
    for words in (
        ["sw_avg", "last_value", "--level", "none", "--keep-forecasts", kept],
        [kept, "--metric", "rank_correlation"],
    ):
        done = CliRunner().invoke(app, ["run", *words, *where])
        assert done.exit_code == 0, (done.output, done.exception)
        small, large = done.output.index(WORDS["small"]), done.output.index(WORDS["large"])
        assert done.output[small:large].count("1 run.") == done.output[large:].count("1 run.") == 1


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (300.0, "as 300 independent tokens per expert: compare with the small batches of suite own."),
        (3000.0, "compare with the large batches"),
        (1500.0, "between the small batches of suite own and the large batches of suite own; compare with both."),
        (9e5, "900,000 independent tokens per expert: beyond what was measured; nearest are the large batches"),
    ],
)
def test_a_number_of_tokens_is_shown_the_runs_of_its_size(
    scored: tuple[Suite, Results], tokens: float, expected: str
) -> None:
    """Between the sizes both; beyond the largest run that is said."""
    assert expected in size_words(tokens, scored[0])


def test_a_run_of_one_s_own_is_shown_the_runs_of_its_noise(scored: tuple[Suite, Results]) -> None:
    """From its half batches; a run without them, and a suite of one size, are silent."""
    tokens = run_facts(TRACES[0]).independent_tokens
    assert tokens is not None
    assert nearest_words(TRACES[0], scored[0]) == size_words(tokens, scored[0])
    assert nearest_words(TRACES[0], load_suite("mini")) == ""
    bare = replace(TRACES[0], columns={})
    assert nearest_words(bare, scored[0]) == ""
