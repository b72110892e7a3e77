"""Kept forecasts: the same scores without running anyone, new metrics, and nothing that is not what it says."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import NotFoundError, ResultError, TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest
from moeload_bench.harness import rescore as rescoring
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.rescore import rescore
from moeload_bench.isolation.targets import load_function
from moeload_bench.results.columns import ROW_KEYS, RUN_KEYS, metric_columns
from moeload_bench.results.results import Results, load_results
from moeload_bench.scoring.catalogue import ratio_metric
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_trace
from tests.harness.test_replay import small_suite
from tests.support import counted
from tests.support.forecasters import LastSeen
from tests.support.scores import metric_OK, same_scores

STEPWISE = {"tv", "error_rate", "error_rate_covered", "error_rate_uniform"}


class PathWithQuantiles(LastSeen):
    """A forecast that changes on the way, with quantiles; none at origin 100."""

    def forecast(self, request: ForecastRequest) -> Forecast:
        if request.origin == 100:
            raise ValueError("not today")
        last = super().forecast(request).share_BLE[0]
        weight_B = np.array([0.0, 0.5, 1.0])[:, None, None]
        share_BLE = (1 - weight_B) * last + weight_B / last.shape[-1]
        quantile_KLE = np.repeat(last[None], len(request.horizons), axis=0)
        quantile_QKLE = np.stack([quantile_KLE * 0.9, np.minimum(1, quantile_KLE * 1.1)])
        return Forecast(share_BLE, np.array([3, 40, request.horizon]), quantile_QKLE)


class Kept(NamedTuple):
    folder: Path
    suite: Suite
    paths: dict[str, Path]

    def again(self, metric: str) -> Results:
        """Return the results scored by a metric again."""
        return rescore(self.folder, self.suite, metric, paths=self.paths)


@pytest.fixture
def scored_run(tmp_path: Path) -> Kept:
    trace = synthetic_trace(400)
    paths = {trace.id: write_trace(trace, tmp_path / "t.parquet")}
    suite, folder = small_suite(trace, quantiles=(0.1, 0.9)), tmp_path / "kept"
    evaluate(["last_value", PathWithQuantiles], suite, paths=paths, level="none", keep=folder).save(folder)
    return Kept(folder, suite, paths)


def test_every_metric_of_windows_comes_out_as_it_was_scored(scored_run: Kept) -> None:
    """Errors, quantiles and plans, paths and failed forecasts included: what `run` recorded."""
    before = load_results(scored_run.folder)
    recorded = set(metric_columns(before.table))
    assert recorded > STEPWISE | {"window_tv", "wql", "drop_rate@experts"}
    for metric in sorted(recorded - STEPWISE):
        table = scored_run.again(metric).table
        assert set(metric_columns(table)) == recorded & {metric, ratio_metric(metric)}
        pd.testing.assert_frame_equal(table, before.table[table.columns], rtol=2e-7, atol=1e-12, obj=metric)
    assert before.failures["forecaster"].tolist() == [before.names[-1]]


@pytest.mark.parametrize(
    ("metric", "error", "says"),
    [
        ("tv", ResultError, "tv needs the forecast of each step"),
        ("window_tw", NotFoundError, r"unknown metric 'window_tw'; there is: .*FILE\.py:function"),
    ],
)
def test_what_windows_do_not_tell_is_refused(scored_run: Kept, metric: str, error: type[Exception], says: str) -> None:
    """A metric of single steps is not guessed from means; a wrong name is answered with the right ones."""
    with pytest.raises(error, match=says):
        scored_run.again(metric)


def test_a_metric_of_ones_own_that_fails_is_named(scored_run: Kept, tmp_path: Path) -> None:
    """Whatever its file raises, when it is read or when it is asked: one line, no traceback of somebody's."""
    (tmp_path / "own.py").write_text("raise ValueError('no')")
    with pytest.raises(TargetError, match=r"own\.py:own': cannot import it: ValueError: no"):
        load_function(f"{tmp_path / 'own.py'}:own")

    def own(mean_LE: np.ndarray, share_LE: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("by none")

    with pytest.raises(ResultError, match="own failed: ZeroDivisionError: by none"):
        rescore(scored_run.folder, scored_run.suite, "own", own, paths=scored_run.paths)


def test_what_describes_runs_is_the_same_after_scoring_again(scored_run: Kept) -> None:
    """Failures, the hash of forecasts, what was counted and what runs cost: only metrics are other ones."""
    kept, again = load_results(scored_run.folder).table, scored_run.again("window_tv").table
    columns = [*ROW_KEYS, *RUN_KEYS]
    assert kept["failure"].notna().any()
    assert again[columns].to_csv() == kept[columns].to_csv()


def test_what_is_not_kept_runs_again(tmp_path: Path) -> None:
    """A finished run comes from the cache only where its forecasts are in the folder; they change no score."""
    trace = synthetic_trace(400)
    paths, log = {trace.id: write_trace(trace, tmp_path / "t.parquet")}, tmp_path / "log"
    target = f"{Path(counted.__file__)}:Counted@log={str(log)!r}"
    runs = []
    for keep in (None, None, tmp_path / "kept", tmp_path / "kept", tmp_path / "other"):
        runs.append(evaluate(target, small_suite(trace), paths=paths, keep=keep))
        runs.append(len(log.read_text().splitlines()))
    assert runs[1::2] == [1, 1, 2, 2, 3]
    assert all(same_scores(run, runs[0]) for run in runs[::2])


def test_means_over_other_horizons_are_not_taken_for_these(tmp_path: Path) -> None:
    """On a suite that differs in one horizon the same forecasts are kept beside the first; each is read for its own."""
    trace = synthetic_trace(400)
    paths = {trace.id: write_trace(trace, tmp_path / "t.parquet")}
    one = small_suite(trace)
    other = one.model_copy(update={"horizons": (one.horizons[0], one.horizons[1] + 1, *one.horizons[2:])})
    folder, found = tmp_path / "kept", []
    for suite in (one, other, one):
        results = evaluate("sw_avg", suite, paths=paths, level="none", keep=folder)
        results.save(folder)
        found.append(metric_OK(rescore(folder, suite, "window_tv", paths=paths), "sw_avg").tolist())
        np.testing.assert_allclose(found[-1], metric_OK(results, "sw_avg"))
    assert found[0] == found[2] != found[1]
    assert len(list((folder / "forecasts").rglob("*.npz"))) == 2


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _change(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Return what replaces one array of an archive."""

    def damage(path: Path) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        np.savez(path, **{**arrays, name: change(arrays.get(name, np.zeros(3)))})

    return damage


DAMAGE: dict[str, Callable[[Path], object]] = {
    "are not there; use run --keep-forecasts": Path.unlink,
    "not a NumPy archive": _cut,
    "expected plain numbers": _change("mean_OKLE", lambda mean: np.array([{}], dtype=object)),
    "at the origins of": _change("origin_O", lambda origin: origin + 1),
    "means over .* steps, expected": _change("horizon_K", lambda horizon: horizon + 1),
    "arrays are": _change("mean_OKLE", lambda mean: mean[:, :, :1]),
    "unknown array 'extra', expected: origin_O": _change("extra", lambda zeros: zeros),
}


@pytest.mark.parametrize("says", DAMAGE)
def test_damaged_forecasts_are_refused_by_name(scored_run: Kept, says: str) -> None:
    """Missing, cut, pickled, of other origins or of another shape: the error names the file and what was expected."""
    path = next((scored_run.folder / "forecasts").rglob("*.npz"))
    DAMAGE[says](path)
    with pytest.raises(ResultError, match=rf"{path.name}: .*{says}"):
        scored_run.again("window_tv")


def test_an_archive_that_unpacks_to_too_much_is_refused(scored_run: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are looked at before anything is unpacked."""
    monkeypatch.setattr(rescoring, "MAX_BYTES", 1000)
    with pytest.raises(ResultError, match=r"bytes unpacked, expected at most 1000"):
        rescore(scored_run.folder, scored_run.suite, "window_tv", paths=scored_run.paths)


def test_results_of_another_suite_or_scoring_are_refused(scored_run: Kept, tmp_path: Path) -> None:
    """Forecasts at other horizons are not of this suite; scores of another version are not mixed with today's."""
    shorter = scored_run.suite.model_copy(update={"horizons": (1, 10)})
    with pytest.raises(ResultError, match=r"scored on suite small .*, expected small"):
        rescore(scored_run.folder, shorter, "window_tv", paths=scored_run.paths)
    results = load_results(scored_run.folder)
    older = {name: entry.model_copy(update={"scoring_version": 1}) for name, entry in results.entries.items()}
    dataclasses.replace(results, entries=older).save(scored_run.folder)
    with pytest.raises(ResultError, match="scored by version 1, this is"):
        rescore(scored_run.folder, scored_run.suite, "window_tv", paths=scored_run.paths)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultError, match="no result is there"):
        rescore(tmp_path / "empty", scored_run.suite, "window_tv", paths=scored_run.paths)


OWN = """
import numpy as np

def hellinger(forecast_LE, share_LE):
    return np.sqrt(0.5 * ((np.sqrt(forecast_LE) - np.sqrt(share_LE)) ** 2).sum(axis=1))

def flat(forecast_LE, share_LE):
    return forecast_LE.mean()
"""


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output if result.exception is None else f"{result.output}{result.exception}"


def test_a_new_metric_costs_one_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line: run once, keep, and score by a function of one's own and by a metric of the package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    path = write_trace(synthetic_trace(3000), tmp_path / "t.parquet")
    code, text = invoke("run", "last_value", "--trace", str(path), "--level", "none", "--keep-forecasts", "kept")
    assert code == 0, text
    assert sorted(p.name for p in Path("kept").iterdir()) == [
        *("costs.parquet", "forecasts", "last_value.parquet", "layers", "uniform.parquet")
    ]
    for metric in ("own.py:hellinger", "rank_correlation"):
        code, text = invoke("run", "kept", "--metric", metric, "--trace", str(path))
        assert code == 0, text
        assert metric.split(":")[-1] in text
        assert "last_value" in text
        assert "uniform" in text
    for metric, says in (
        ("own.py:flat", "flat returned shape (), expected one value per layer"),
        ("own.py:none", "has no function 'none'"),
        ("none.py:x", "where the file exists"),
    ):
        code, text = invoke("run", "kept", "--metric", metric, "--trace", str(path))
        assert code != 0
        assert says in text
    code, text = invoke("run", "kept", "--metric", "window_tv")
    assert code != 0
    assert "scored on a trace of one's own" in text
    assert "name its file by --trace" in text
    for option in (["--out", "o.parquet"], ["--fresh"], ["--seed", "0"], ["--level", "none"], ["--jobs", "1"]):
        code, text = invoke("run", "kept", "--trace", str(path), *option)
        assert code != 0
        assert f"got {option[0]} too, expected --suite, --trace, --metric or --json" in text
    code, text = invoke("run", "last_value", "--trace", str(path), "--sliding", "100", "--keep-forecasts", "other")
    assert code != 0
    assert "--keep-forecasts goes with the origins of a suite" in text
    shutil.rmtree("kept/forecasts")
    code, text = invoke("run", "kept", "--metric", "window_tv", "--trace", str(path))
    assert code != 0
    assert "--keep-forecasts kept" in text


def test_a_folder_s_name_is_a_folder_and_regret_keeps_its_skill(trace: Trace, tmp_path: Path) -> None:
    """Text names a folder, as everywhere; the skill of regret is taken of imbalance, which is made again with it."""
    paths = {trace.id: write_trace(trace, tmp_path / "trace.parquet")}
    suite = small_suite(trace)
    folder = str(tmp_path / "kept")
    evaluate(["last_value", "sw_avg"], suite, paths=paths, level="none", keep=folder).save(folder)
    found = rescore(folder, suite, "regret@half", paths=paths).summarize(["state"], "regret@half")
    assert found.loc[found["state"] != "crossing", "skill"].notna().all()
