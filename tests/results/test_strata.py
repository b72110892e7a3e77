"""Small and large batches of one suite stand apart: in the terminal and on the page of results."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from leaderboard.pages.results import suite_page
from leaderboard.suites.freeze import to_toml
from moeload_bench.cli.app import app
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.results.collection import Results
from moeload_bench.results.strata import WORDS, by_stratum
from moeload_bench.suites.suite import Suite, suite_for_trace
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace

TRACES = [synthetic_trace(300, seed=seed, recipe=f"own-{seed}") for seed in range(2)]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> tuple[Suite, Results]:
    """Two forecasters on a suite of one small and one large run, which the package knows."""
    entries = [suite_for_trace(one, horizons=(1, 10), per_state=3).traces[0] for one in TRACES]
    sized = [
        entry.model_copy(update={"expert_tokens": tokens}) for entry, tokens in zip(entries, (64, 4096), strict=True)
    ]
    suite = Suite(name="own", horizons=(1, 10), traces=tuple(sized))
    monkeypatch.setattr("moeload_bench.results.strata.suite_names", lambda: ["own"])
    monkeypatch.setattr("moeload_bench.results.strata.load_suite", lambda name: suite)
    return suite, evaluate(["sw_avg", "last_value"], suite, traces=TRACES, level="none", shapes=())


def test_each_size_has_its_own_runs(scored: tuple[Suite, Results]) -> None:
    """The part of a size holds every forecaster on the runs of that size; another suite has one part."""
    _, results = scored
    parts = by_stratum(results)
    assert {size: [run.trace for run in part[0].runs] for size, part in parts.items()} == {
        WORDS["small"]: [TRACES[0].id],
        WORDS["large"]: [TRACES[1].id],
    }
    assert all(len(part) == len(results) for part in parts.values())
    other = [one.model_copy(update={"suite": one.suite.model_copy(update={"sha256": "0" * 64})}) for one in results]
    assert by_stratum(other) == {"": other}


def test_the_page_of_results_never_averages_over_sizes(scored: tuple[Suite, Results]) -> None:
    """Each size has every section, made from its own runs."""
    suite, results = scored
    page = suite_page(suite, list(results))
    small, large = page.index(f"### {WORDS['small']}"), page.index(f"### {WORDS['large']}")
    assert small < page.index("#### By recipe") < large < page.rindex("#### By recipe")
    assert TRACES[1].meta.recipe not in page[small:large]


def test_run_prints_a_table_for_each_size(scored: tuple[Suite, Results], tmp_path: Path) -> None:
    """Under its name, the verdict and the table of that size."""
    (tmp_path / "own.toml").write_text(to_toml(scored[0]))
    for trace in TRACES:
        write_trace(trace, tmp_path / f"{trace.id}.parquet")
    where = ["--suite", str(tmp_path / "own.toml"), "--traces", str(tmp_path)]
    done = CliRunner().invoke(app, ["run", "sw_avg", "last_value", *where, "--level", "none"])
    assert done.exit_code == 0, done.output
    small, large = done.output.index(WORDS["small"]), done.output.index(WORDS["large"])
    assert done.output[small:large].count("1 run.") == done.output[large:].count("1 run.") == 1
