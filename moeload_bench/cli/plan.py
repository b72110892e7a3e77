"""`moeload-bench plan`."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import FirstLayer, Level, ModelLayers, Seed, TraceArgument, no_trace, with_options
from moeload_bench.cli.progress import pair_progress, plain_console, print_next, said_if_stopped, say, say_record
from moeload_bench.cli.watching import watching
from moeload_bench.errors import PlacementError, TraceError, printable
from moeload_bench.inspection.candidates import WATCHED
from moeload_bench.inspection.decision import Candidate, Decision, volume
from moeload_bench.inspection.plan_change import before_and_after
from moeload_bench.inspection.planning import Settings, decided
from moeload_bench.interchange.forecast_files import forecast_ahead
from moeload_bench.interchange.placements import place_forecast, write_placement
from moeload_bench.isolation.hosts import parse_level
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.results.console import plain_table
from moeload_bench.traces.trace import Trace
from moeload_bench.words import shown


@dataclass(frozen=True)
class Writing:
    """The file that --write names, in an engine's form."""

    path: Path
    kind: str
    model_layers: int | None
    first_layer: int | None


def writing(
    write: Annotated[
        Path | None,
        typer.Option(
            callback=no_trace, help="Write the plan for the steps after the trace, made from the whole of it."
        ),
    ] = None,
    kind: Annotated[
        Literal["json", "eplb", "sglang", "vllm", "vllm-ascend", "tensorrt-llm", "megatron"] | None,
        typer.Option("--format", help="Which engine's file --write makes; json by default."),
    ] = None,
    model_layers: ModelLayers = None,
    first_layer: FirstLayer = None,
) -> Writing | None:
    """Return the file to write, None if none is asked for; raise `PlacementError` for a form without a file."""
    if write is None and kind is not None:
        raise PlacementError(f"--format {kind} is the form of a file, expected --write FILE")
    return None if write is None else Writing(write, kind or "json", model_layers, first_layer)


@with_options(settings=watching, written=writing)
def plan(
    trace: TraceArgument,
    *,
    settings: Settings,
    level: Level = "process",
    seed: Seed = 0,
    written: Writing | None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON record instead of a table.")] = False,
) -> None:
    """Decide whether and how often to re-plan experts, with which forecaster, and what that saves.

    [bold]moeload-bench plan run.parquet --devices 8 --slots 72 --expert-mb 350 --bandwidth 25[/bold]

    Forecasters and intervals are tried side by side along the trace, each from the past alone, moves paid for
    (docs/guide/live.md in the project's repository). What you do not state of the cluster comes from the run or its
    model, or is ASSUMED and named. The cost model: docs/methods/placement.md in the project's repository.

    [bold]--write placement.json --format eplb[/bold] writes the plan for the coming steps as the file that an engine
    loads, and says what it changes.

    Exit status: 0 done, 1 some forecast failed (each is named), 2 the request cannot be served.
    """
    settings = replace(settings, level=parse_level(level), seed=seed)
    loaded = open_trace(trace)
    shape = settings.cluster.shape_for(loaded.num_experts)
    if shape is None:
        raise PlacementError(f"no cluster fits {loaded.num_experts} experts: expected --devices and --slots")
    stopped = "stopped: nothing is kept; the same command begins again"
    with said_if_stopped(stopped), pair_progress(quiet=as_json, unit="steps", first="candidates") as report:
        try:
            planner, decision = decided(loaded, settings, report)
        except TraceError as error:  # too short, or of a stride that has no states: a plan can be written all the same
            if written is None:
                why = str(error).removeprefix(f"{loaded.id}: ")
                raise TraceError(f"no decision for {loaded.id}: {why}; a plan without one: --write FILE") from None
            say(f"no decision: {error}", err=True)
            say(*_write(loaded, settings, shape, str(settings.forecaster or WATCHED), written), err=as_json)
            return
    changed = None if written is None else _write(loaded, settings, shape, decision.take.forecaster, written)
    following = f"moeload-bench report {shlex.quote(trace)}{settings.options} --out report.html"
    failures = [f"{name}: {why}" for name, why in planner.failures.items()]
    if as_json:
        say_record({"trace": loaded.id, "decision": decision.record, "next": following, "failures": failures})
    else:
        _print(loaded, decision, following, failures)
    if changed is not None:
        say(*changed, err=as_json)
    if failures:
        raise typer.Exit(1)


def _write(trace: Trace, settings: Settings, shape: ClusterShape, forecaster: str, written: Writing) -> list[str]:
    """Write the plan; return what it changes, and which layers of the model have none."""
    ahead = forecast_ahead(trace, forecaster, settings.horizon, level=settings.level, seed=settings.seed)
    placement = place_forecast(ahead, shape, written.model_layers, written.first_layer)
    placement, text = before_and_after(trace, placement, written.path, written.kind, forecaster, settings)
    write_placement(placement, written.path, written.kind)
    first = ahead.about["first_step"]
    lines = [
        f"{written.path}: {written.kind}, {shape.slots} slots on {shape.devices} devices for steps {first} to "
        f"{first + settings.horizon - 1}, from {forecaster}"
    ]
    if written.kind == "sglang" and placement.other_rows:
        rows = ", ".join(map(str, placement.other_rows))
        lines.append(f"{written.path}: layers without a plan, their experts in order: {rows}")
    return [*lines, *textwrap.wrap(text, 80, break_on_hyphens=False)]


def _print(trace: Trace, decision: Decision, following: str, failures: Sequence[str]) -> None:
    """Print the decision, the candidates, what failed, the next command."""
    console = plain_console()
    for line in decision.lines():
        console.print(printable(line))
    console.print("")
    console.print(
        f"{printable(trace.id)}: forecasters and intervals tried; percent of the step time under the even spread, more "
        "is better; ms: CPU time of a forecast, observing included"
    )
    console.print(_table([_candidate_cells(one) for one in decision.candidates], decision.take))
    for failure in failures[:5]:
        console.print(printable(failure), style="red")
    if len(failures) > 5:
        console.print(f"... {len(failures)} forecasts failed in all", style="red")
    print_next(following)


def _table(rows: Sequence[dict[str, str]], take: Candidate) -> Any:
    """Return a table of rows with the same names; the row of the candidate taken in bold."""
    table = plain_table(*rows[0], left=("forecaster",))
    for row in rows:
        taken = (row["forecaster"], row["every"]) == (take.forecaster, f"{take.every:,}")
        table.add_row(*(printable(cell) for cell in row.values()), style="bold" if taken else None)
    return table


def _candidate_cells(one: Candidate) -> dict[str, str]:
    return {
        "forecaster": one.forecaster,
        "every": f"{one.every:,}",
        "re-plans": f"{one.replans:,}",
        "moved": volume(one.moved_gb),
        "max/mean": f"{one.imbalance:.3f}",
        "saved %": f"{one.saved_percent:.2f}",
        "misplaced %": shown(one.misplaced_percent, ".2f"),
        "ms": f"{one.cpu_ms:.2g}" if one.cpu_ms < 10 else f"{one.cpu_ms:,.0f}",
    }
