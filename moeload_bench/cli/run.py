"""`moeload-bench run`."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import typer

from moeload_bench.cache import cache_dir
from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import INT, RUN, Level, no_trace
from moeload_bench.cli.progress import (
    pair_progress,
    plain_console,
    print_next,
    print_on_interrupt,
    say,
    say_document,
    say_record,
)
from moeload_bench.errors import ResultError, SuiteError, counted, not_found, printable
from moeload_bench.harness.conformance import LONG_STEPS
from moeload_bench.harness.evaluate import evaluate, installed, suite_baselines
from moeload_bench.harness.rescore import rescore
from moeload_bench.harness.sizing import sized
from moeload_bench.isolation.hosts import Limits, parse_level
from moeload_bench.isolation.targets import baseline_names, load_function
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.results.brief import brief_tables
from moeload_bench.results.captions import answer_lines, failure_lines, why_no_table
from moeload_bench.results.choice import Verdict, verdicts
from moeload_bench.results.columns import total_counts
from moeload_bench.results.render import draw_table
from moeload_bench.results.report import has_metric, report_of, summary_json
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.season import beside_season, late_words
from moeload_bench.results.strata import nearest_words, run_groups
from moeload_bench.results.wide import metric_table
from moeload_bench.scoring.catalogue import metric_names, needs_quantiles
from moeload_bench.suites.suite import (
    Suite,
    check_traces,
    default_suite,
    load_suite,
    sliding_suite,
    sources_of,
    suite_for_trace,
)
from moeload_bench.traces.lookup import look_in
from moeload_bench.traces.store import open_source
from moeload_bench.traces.trace import Trace
from moeload_bench.words import page

UNIFORM = "uniform"
PREPARING = "preparing: hashes, states and noise floors"
STOPPED = "stopped: finished pairs of forecaster and run are kept, and the same command goes on with the others"
LEAST_ROOM = 1 << 20
"""Bytes that a folder for results must have room for."""
OWN_TRACE_BASELINES = (
    *(UNIFORM, "last_value", "sw_avg", "ema", "arima", "lstm.online", "adaptive", "guarded"),
    *("online", "online.guarded"),
)


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
    level: Level = "process",
    traceback: Annotated[
        bool, typer.Option("--traceback", help="In the sandbox too, say at which lines a forecaster failed.")
    ] = False,
    jobs: Annotated[
        int, typer.Option(metavar=INT, min=1, help="(forecaster, trace) pairs that run at a time on this machine.")
    ] = 1,
    seed: Annotated[int | None, typer.Option(help="Seed of the forecasters; the suite's own by default.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore finished work in the cache, `uniform` apart.")] = False,
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
    if traces is not None:
        look_in(traces)
    if targets and (folder := _kept_forecasts(targets)) is not None:
        _score_again(folder, suite, own, metric, as_json)
        return
    own_traces = [] if own is None else [open_trace(own)]
    steps = own_traces[0].steps * own_traces[0].meta.stride if own_traces else None
    defaults, note = tuple(OWN_TRACE_BASELINES), None
    compare_with = "" if own is None else nearest_words(own_traces[0], load_suite(default_suite()))
    if own_traces and not targets:
        own_traces[0], defaults, note = sized(own_traces[0], defaults, own or "")
    task_list = _task_list(suite) if own is None else suite_for_trace(own_traces[0])
    task_list = _with_origins(task_list, own_traces, sliding, blocks)
    _check_metric(metric, task_list)
    _make_folder(cache_dir(), "the cache ($MOELOAD_CACHE)")
    if out is not None:
        _check_file(out)
    if keep is not None:
        _make_folder(keep, "--keep-forecasts")
    if note is not None:
        say(note, err=True)
    shown_only = own is not None and not (as_json or wide or out or keep) and "@" not in metric
    stopped = STOPPED + (", without --fresh" if fresh else "")
    with print_on_interrupt(stopped), pair_progress(as_json, first=PREPARING) as progress:
        results = evaluate(
            _with_uniform(targets or _installed(defaults if own else suite_baselines(task_list))),
            task_list,
            traces=own_traces,
            level=parse_level(level),
            limits=Limits(traceback=traceback),
            jobs=jobs,
            seed=seed,
            fresh=frozenset(targets) if fresh and targets else fresh,
            progress=progress,
            keep=keep,
            shapes=(HEADLINE,) if shown_only else None,
        )
    _say_slower(results)
    following = None if own is None else f"moeload-bench plan {shlex.quote(own)}"
    try:
        shown = beside_season(results)
        if as_json and own is None:
            say_document(summary_json(shown, metric))
        elif as_json:
            say_record(_own_record(results, metric, note, following))
        else:
            choices = _print(shown, metric, task_list, steps, wide)
            if compare_with:
                plain_console().print(compare_with)
            after = {"Next, whether and how often to re-plan:": following}
            for head, command in (_after_suite(results, choices) if own is None else after).items():
                if command is not None:
                    print_next(command, head)
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
    results = rescore(folder, _task_list(scored_on) if own is None else open_trace(own), name, function)
    if as_json:
        say_document(summary_json(results, name))
    else:
        for part in _below_titles(results):
            _print_tables(part, name, wide=False)
        _print_failures(results)


def _say_slower(results: Results) -> None:
    """Say which forecasters would be faster with a package that is not installed."""
    for name in results.names:
        if total_counts(results.table, name).get("numba_missing"):
            text = "without numba its slower reference engine was used: pip install 'moeload-bench[fast]'"
            say(f"{name}: {text}", err=True)


def _with_uniform(targets: Sequence[str]) -> list[str]:
    """Return the targets with the even share among them, at the front unless it was asked for."""
    return list(targets) if UNIFORM in targets else [UNIFORM, *targets]


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


def _installed(defaults: Sequence[str]) -> list[str]:
    """Return the default forecasters whose packages are installed; say on standard error which are left out."""
    baselines, missing = installed(defaults)
    for reason in missing:
        say(f"left out: {reason}", err=True)
    return baselines


def _one_trace(traces: Sequence[str] | None) -> str | None:
    """Return the named trace; raise for several, because only one would be scored."""
    if traces is not None and len(traces) > 1:
        raise SuiteError(
            f"got --trace {len(traces)} times, expected once: the tables compare forecasters on one run; "
            f"run the command for each, or write a suite ({page('docs/methods/suites.md')})"
        )
    return traces[0] if traces else None


def _task_list(name: str | None) -> Suite:
    tasks = load_suite(name or "mini")
    check_traces(tasks)
    return tasks


def _with_origins(suite: Suite, own: Sequence[Trace], sliding: int | None, blocks: int | None) -> Suite:
    """Return the suite, with origins every so many steps where that was asked for."""
    if sliding is not None and blocks is not None:
        raise SuiteError("--sliding and --blocks exclude each other: windows overlap or they do not")
    every = sliding or blocks
    if every is None:
        return suite
    found = sources_of(suite, own, fit=False)
    traces = [open_source(found[entry.id], entry.data_sha256) for entry in suite.traces]
    horizons = (blocks,) if blocks else suite.horizons
    changed = sliding_suite(suite, {trace.id: trace for trace in traces}, every, horizons)
    if missing := len(suite.traces) - len(changed.traces):
        say(f"left out: {counted(missing, 'run')}, asked for fewer than {min(horizons):,} steps", err=True)
    return changed


def _own_record(results: Results, metric: str, note: str | None, following: str | None) -> dict[str, Any]:
    """Return the records of your own run, what errs least, what was left out and the next command."""
    return {
        **json.loads(summary_json(results, metric)),
        "least_error": [dataclasses.asdict(one) for one in verdicts(results, metric)],
        "left_out": note,
        "next": following,
    }


def _print(results: Results, metric: str, suite: Suite, steps: int | None, wide: bool) -> list[Verdict]:
    """Print what errs least, the tables and what failed; return what errs least. ``steps``: of your own run."""
    console = plain_console()
    if late := late_words(results):
        console.print(late)
    choices: list[Verdict] = []
    for part in _below_titles(results):
        found = list(verdicts(part, metric))
        for line in answer_lines(part, found, suite.rule, steps):
            console.print(line)
        _print_tables(part, metric, wide)
        choices += found
    _print_failures(results)
    return choices


def _below_titles(results: Results) -> Iterator[Results]:
    """Yield the results of each group of runs that are averaged, its title printed."""
    for title, part in run_groups(results).items():
        if title:
            plain_console().print(f"\n{title}\n")
        yield part


def _print_tables(results: Results, metric: str, wide: bool) -> None:
    """Print the tables of a metric, or why there is none."""
    console = plain_console(wide=wide)
    tables = _wide_tables(results, metric) if wide else list(brief_tables(results, metric, console.width))
    for table in tables or [why_no_table(results, metric)]:
        console.print(table)


def _print_failures(results: Results) -> None:
    for line in failure_lines(results):
        plain_console().print(printable(line), style="red")


def _wide_tables(results: Results, metric: str) -> list[Any]:
    metrics = [name for name in dict.fromkeys((metric, f"regret@{HEADLINE}")) if has_metric(results, name)]
    tables = (metric_table(report_of(results, name)) for name in metrics)
    return [
        draw_table(table, f"{name}, suite {results.suite.name}") for name, table in zip(metrics, tables, strict=True)
    ]


def _after_suite(results: Results, choices: Sequence[Verdict]) -> dict[str, str | None]:
    """Return the next commands after a suite: for authors of a forecaster, and how often to re-plan with the best."""
    plan = {"Next, how often to re-plan with it:": _plan_on_suite(results, choices)}
    targets = {name: entry.target for name, entry in results.entries.items()}
    written = next((name for name, target in targets.items() if ":" in target.partition("@")[0]), None)
    if written is None:
        return {**plan, "Next, for a forecaster that you write:": "moeload-bench check my.py:Mine"}
    target = shlex.quote(targets[written])
    failures = results.failures
    failed = failures.loc[failures["forecaster"] == written, "origin"]
    if len(failed):
        if failed.min() <= LONG_STEPS:
            return {"Next, the rules that it breaks:": f"moeload-bench check {target}"}
        return {f"Next, once it is mended (`check` looks at {LONG_STEPS:,} steps only):": f"moeload-bench run {target}"}
    name = shlex.quote(targets[written].partition("@")[0].rpartition(":")[2].lower())
    level = "" if results.entries[written].isolation == "sandbox" else " --level process"
    hand_in = f"moeload-bench submit {target} --name {name} --author 'A. Uthor' --licence MIT{level} --dry-run"
    return {"Next, to hand it in:": hand_in, **plan}


def _plan_on_suite(results: Results, choices: Sequence[Verdict]) -> str | None:
    """Return the command for the suite's last run."""
    if not choices:
        return None
    return f"moeload-bench plan {shlex.quote(results.traces[-1])} --forecaster {shlex.quote(choices[-1].best)}"
