"""`python -m leaderboard paper`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from leaderboard.paper.choice import Chosen, choose_runs
from leaderboard.paper.figures import draw_figures
from leaderboard.paper.files import files_of, verdict_sheet
from leaderboard.paper.forecasts import ask_forecasters, middle_origin
from leaderboard.paper.measuring import Request, measure_runs
from leaderboard.paper.page import FOLDER, folder_of
from leaderboard.paper.sizes import sized_runs
from leaderboard.paper.study import RunStudy, SizedRun, Study
from leaderboard.paper.verdicts import findings, summary
from moeload_bench.cli.options import Level
from moeload_bench.cli.progress import pair_progress, plain_console, print_entries
from moeload_bench.errors import printable
from moeload_bench.files import write_whole
from moeload_bench.isolation.hosts import parse_level
from moeload_bench.results.collection import Results
from moeload_bench.style import save_figure, style
from moeload_bench.traces.store import read_trace


def paper(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for paper.md, and paper/ with tables (.csv, .json) and figures.")
    ] = Path("reproduced"),
    traces: Annotated[
        Path | None,
        typer.Option(help="Folder of traces (RECIPE/SPLIT/seedN.parquet); by default all that `traces list` lists."),
    ] = None,
    trace: Annotated[
        list[str] | None,
        typer.Option(help="An id or .parquet file to use instead of those that the rule chooses; may be repeated."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between the origins of the sliding evaluation.")] = 100,
    figures: Annotated[
        int, typer.Option(min=0, help="Draw the figures of so many runs, the closest first (extra plot); 0 for none.")
    ] = 1,
    level: Level = "process",
    jobs: Annotated[int, typer.Option(min=1, help="Forecasters that run at a time.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore finished work in the cache.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the study and the verdicts instead of a table.")
    ] = False,
) -> None:
    """Redo the figures, the error table and the claims of arXiv 2404.16914, which named the two states.

    Its LSTM, ARIMA and SW_Avg forecast the next 1,000 and 2,000 steps, sliding and in blocks, on the recorded runs that
    are closest to its setup. Every error definition is printed with its floors, every claim is judged by a stated rule.
    A run of 10,000 steps takes about a minute of one core; what is finished is kept in the cache. Works offline.

    Exit status: 0 done, 1 some forecast failed (each is named), 2 no trace can be used.
    """
    with style() if figures else nullcontext():  # without the extra this says so now, not after minutes of work
        pass
    choice = choose_runs(traces, trace or ())
    request = Request(every, level=parse_level(level), jobs=jobs, fresh=fresh)
    runs = []
    with pair_progress(quiet=as_json, unit="forecasters") as report:
        for run, (measured, results) in zip(choice.runs, measure_runs(choice, request, report), strict=True):
            runs.append(measured)
            if len(runs) <= figures:  # drawn as soon as it is there
                _draw(run, measured, results, request, out)
    sizes: list[SizedRun] = []
    if not trace:
        with pair_progress(quiet=as_json, unit="runs of several sizes") as report:
            sizes = sized_runs(traces, request, report)
    study = Study(
        every=every, horizons=request.horizons, named=bool(trace), drawn=min(figures, len(runs)), runs=tuple(runs),
        passed_over=choice.passed_over, sizes=tuple(sizes),
    )  # fmt: skip
    written = _write(study, out)
    if as_json:
        verdicts = list(verdict_sheet(study, findings(study)))
        typer.echo(json.dumps({"study": study.model_dump(mode="json"), "verdicts": verdicts}, indent=1))
    else:
        _print(study)
        for path in written:
            typer.echo(path)
    failures = [failure for run in study.runs for failure in run.failures]
    for failure in failures:
        typer.echo(printable(f"failed: {failure}"), err=True)
    if failures:
        raise typer.Exit(1)


def _draw(run: Chosen, study: RunStudy, results: Results, request: Request, out: Path) -> None:
    trace = read_trace(run.path, verify=False)
    origin = middle_origin(results)
    forecasts = {} if origin is None else ask_forecasters(run, trace, study.targets, origin, request)
    for name, figure in draw_figures(trace, study, results, forecasts, origin or 0):
        save_figure(figure, out / FOLDER / folder_of(run.id) / f"{name}.png")


def _write(study: Study, out: Path) -> list[Path]:
    texts = {out / name: text for name, text in files_of(study).items()}
    for path, text in texts.items():
        write_whole(path, text.encode())
    return list(texts)


def _print(study: Study) -> None:
    plain_console().print(f"runs: {', '.join(run.id for run in study.runs)}")
    print_entries(
        (f"{row.verdict}: {row.claim.statement}", f"judged first on {row.variant}; all variants: {row.counts}")
        for row in summary(study)
    )
