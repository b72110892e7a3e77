"""`moeload-bench run`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer

from moeload_bench.cache import cache_dir
from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import INT, RUN, no_trace, refuse_unused
from moeload_bench.cli.progress import (
    pair_progress,
    plain_console,
    print_next,
    print_on_interrupt,
    say,
    say_document,
    say_json,
)
from moeload_bench.cli.run_next import next_on_own_run, next_on_suite
from moeload_bench.cli.run_shown import print_results, print_scores
from moeload_bench.cli.run_tasks import Tasks, checked_suite, own_tasks, suite_tasks, with_origins
from moeload_bench.errors import ResultError, SuiteError, not_found
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.harness.rescore import rescore
from moeload_bench.isolation.hosts import Limits, parse_level
from moeload_bench.isolation.targets import baseline_names, load_function, stored_target
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.results.choice import verdicts
from moeload_bench.results.columns import total_counts
from moeload_bench.results.report import summary_json
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.season import beside_season
from moeload_bench.scoring.catalogue import metric_names, needs_quantiles
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.lookup import look_in
from moeload_bench.words import page

PREPARING = "preparing: hashes, states and noise floors"
STOPPED = "stopped: finished pairs of forecaster and run are kept, and the same command goes on with the others"
LEAST_ROOM = 1 << 20
"""Bytes that a folder for results must have room for."""


def run(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET",
            help="A baseline's name, FILE.py:Class or package.module:Class, each with optional @key=value,...; or one "
            "folder of --keep-forecasts, which is scored again. The suite's baselines by default. `uniform` is always "
            "run.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="A suite's name, or a TOML file.", show_default="mini")] = None,
    trace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<str>",
            help=f"Your own run instead of a suite; the rule chooses its origins. {RUN}",
        ),
    ] = None,
    traces: Annotated[
        Path | None,
        typer.Option(help="A folder with the suite's traces, RECIPE/SPLIT/seedN.parquet, besides $MOELOAD_TRACES."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=no_trace,
            help="Write every number into this .parquet file, or a file of each forecaster into a folder.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON instead of tables.")] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="All columns, floors and captions, in tables wider than 80 columns.")
    ] = False,
    metric: Annotated[
        str, typer.Option(help="The metric of the tables; of kept forecasts also FILE.py:function.")
    ] = "window_tv",
    sliding: Annotated[
        int | None, typer.Option(metavar=INT, min=1, help="An origin every so many steps (the paper's evaluation).")
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(metavar=INT, min=1, help="Disjoint blocks of so many steps, each forecast as a whole."),
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="Isolation: none, process or sandbox.", show_default="process")
    ] = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="In the sandbox too, say at which lines a forecaster failed.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar=INT, min=1, help="(forecaster, trace) pairs that run at a time on this machine.", show_default="1"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the forecasters; the suite's own by default.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ignore finished work in the cache: of TARGETs, or of all.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option("--keep-forecasts", help="Write results and the forecasts' window means here.")
    ] = None,
) -> None:
    """Score forecasters on a suite, or on your own trace.

    \b
    moeload-bench run                       the classical baselines on suite mini
    moeload-bench run my.py:Mine sw_avg     your forecaster and the reference
    moeload-bench run my.py:Mine --suite 2027-02   beside a closed season's table
    moeload-bench run --trace run.parquet   on your own training run
    moeload-bench run ema --keep-forecasts kept
    moeload-bench run kept --metric my_metrics.py:hellinger   runs nothing

    Such a function gets mean shares over a window, forecast and true, [layers, experts] each, and returns one value
    per layer. Metrics of single steps (tv, error_rate) need the forecasters themselves.

    Exit status: 0 all tasks scored, 1 some task failed (each is named), 2 the request itself cannot be served.
    """
    own = _one_trace(trace)
    if suite is not None and own is not None:
        raise SuiteError(f"got --suite {suite} and --trace {own}, expected one of them")
    if keep is not None and (sliding or blocks):
        raise SuiteError("--keep-forecasts goes with the origins of a suite, got --sliding or --blocks too")
    if as_json:
        refuse_unused("--json holds every column", {"--wide": wide}, expected="--json or --wide")
    if traces is not None:
        look_in(traces)
    if targets and (folder := _kept_forecasts(targets)) is not None:
        unused = {"--out": out, "--keep-forecasts": keep, "--sliding": sliding, "--blocks": blocks, "--seed": seed,
                  "--fresh": fresh, "--wide": wide, "--level": level, "--jobs": jobs,
                  "--traceback": traceback}  # fmt: skip
        what = f"{folder} holds kept forecasts, and nothing runs again"
        refuse_unused(what, unused, expected="--suite, --trace, --metric or --json")
        _score_again(folder, suite, own, metric, as_json)
        return
    tasks = suite_tasks(suite, targets or ()) if own is None else own_tasks(own, targets or ())
    tasks = with_origins(tasks, sliding, blocks)
    _check_metric(metric, tasks.suite)
    _make_folder(cache_dir(), "the cache ($MOELOAD_CACHE)")
    if out is not None:
        _check_file(out)
    if keep is not None:
        _make_folder(keep, "--keep-forecasts")
    if tasks.left_out is not None:
        say(tasks.left_out, err=True)
    headline_shape_only = own is not None and not (as_json or wide or out or keep) and "@" not in metric
    stopped = STOPPED + (", without --fresh" if fresh else "")
    with print_on_interrupt(stopped), pair_progress(as_json, first=PREPARING) as progress:
        results = evaluate(
            tasks.targets,
            tasks.suite,
            traces=tasks.traces,
            level=parse_level(level or "process"),
            limits=Limits(traceback=traceback),
            jobs=jobs or 1,
            seed=seed,
            fresh=frozenset(stored_target(target).label for target in targets) if fresh and targets else fresh,
            progress=progress,
            keep=keep,
            shapes=(HEADLINE,) if headline_shape_only else None,
        )
    _say_slower(results)
    try:
        if own is None:
            _show_suite(beside_season(results), metric, tasks, as_json, wide)
        else:
            _show_own(results, metric, tasks, own, as_json, wide)
    finally:  # after the table, which is shown if the disk is full; and if nobody reads the table to its end
        for place in (out, keep):
            if place is not None:
                results.save(place)
    if len(results.failures):
        raise typer.Exit(1)


def _kept_forecasts(targets: Sequence[str]) -> Path | None:
    """Return the folder of kept forecasts that is to be scored again, None where forecasters are named."""
    folders = [target for target in targets if Path(target).is_dir() and target not in baseline_names()]
    if folders and len(targets) > 1:
        raise ResultError(f"{folders[0]}: a folder of kept forecasts is scored alone, got {len(targets)} targets")
    return Path(folders[0]) if folders else None


def _score_again(folder: Path, suite: str | None, own: str | None, metric: str, as_json: bool) -> None:
    """Print the scores of kept forecasts by another metric."""
    function = load_function(metric) if ".py:" in metric else None
    name = metric if function is None else metric.rpartition(":")[2]
    scored_on = suite or load_results(folder).suite.name
    if own is None and scored_on.startswith("trace:"):
        raise SuiteError(f"{folder}: scored on a trace of one's own, {scored_on}: name its file by --trace")
    scored = checked_suite(scored_on) if own is None else open_trace(own)
    results = rescore(folder, scored, name, function)
    if as_json:
        say_document(summary_json(results, name))
    else:
        print_scores(results, name)


def _say_slower(results: Results) -> None:
    """Say which forecasters would be faster with a package that is not installed."""
    for name in results.names:
        if total_counts(results.table, name).get("numba_missing"):
            text = "without numba its slower reference engine was used: pip install 'moeload-bench[fast]'"
            say(f"{name}: {text}", err=True)


def _check_metric(metric: str, suite: Suite) -> None:
    """Raise, before any work, for a metric that no table can show."""
    if metric not in metric_names():
        raise not_found("metric", metric, metric_names())
    if not suite.quantiles and needs_quantiles(metric):
        raise SuiteError(f"--metric {metric} needs quantiles, and suite {suite.name} asks for none")


def _check_file(out: Path) -> None:
    """Raise, before hours of scoring, for a file or a folder of results that could not be written."""
    if out.suffix not in ("", ".parquet"):
        raise ResultError(f"--out: got {out}, expected a .parquet file or a folder; a summary as JSON: --json")
    if out.suffix and out.is_dir():
        raise ResultError(f"--out: got {out}, which is a folder, expected a .parquet file")
    _make_folder(out.absolute().parent if out.suffix else out, "--out")


def _make_folder(folder: Path, what: str) -> None:
    """Make the folder and write to it, before hours of scoring whose results could not be saved."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(LEAST_ROOM))
    except OSError as error:
        raise ResultError(f"{what}: got {folder}, expected a folder that can be written to: {error.strerror}") from None


def _one_trace(traces: Sequence[str] | None) -> str | None:
    """Return the named trace; raise for several, because only one would be scored."""
    if traces is not None and len(traces) > 1:
        raise SuiteError(
            f"got --trace {len(traces)} times, expected once: the tables compare forecasters on one run; "
            f"run the command for each, or write a suite ({page('docs/methods/suites.md')})"
        )
    return traces[0] if traces else None


def _show_suite(results: Results, metric: str, tasks: Tasks, as_json: bool, wide: bool) -> None:
    """Print what came out on a suite, and the next commands."""
    if as_json:
        say_document(summary_json(results, metric))
        return
    choices = print_results(results, metric, tasks.suite.rule, wide)
    for head, command in next_on_suite(results, choices).items():
        print_next(command, head)


def _show_own(results: Results, metric: str, tasks: Tasks, source: str, as_json: bool, wide: bool) -> None:
    """Print what came out on one's own run, which runs are as noisy, and the next command."""
    following = next_on_own_run(source)
    if as_json:
        least_error = [dataclasses.asdict(verdict) for verdict in verdicts(results, metric)]
        (command,) = following.values()
        more = {"least_error": least_error, "left_out": tasks.left_out, "next": command}
        say_json({**json.loads(summary_json(results, metric)), **more})
        return
    print_results(results, metric, tasks.suite.rule, wide, tasks.steps, tasks.traces[0].meta.stride)
    if tasks.compare_with:
        plain_console().print(tasks.compare_with)
    for head, command in following.items():
        print_next(command, head)
