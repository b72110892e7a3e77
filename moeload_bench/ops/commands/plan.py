"""`moeload-bench plan`."""

from __future__ import annotations

import math
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from moeload_bench.cli.opening import open_trace
from moeload_bench.cli.options import INT, FirstLayer, Level, ModelLayers, RunArgument, Seed, no_trace
from moeload_bench.cli.progress import pair_progress, plain_console, print_next, print_on_interrupt, say, say_json
from moeload_bench.errors import PlacementError, TraceError, printable
from moeload_bench.isolation.arguments import split_targets
from moeload_bench.isolation.hosts import parse_level
from moeload_bench.ops.commands.figure import drawable
from moeload_bench.ops.interchange.checkpoints import what_stays
from moeload_bench.ops.interchange.forecast_files import forecast_ahead
from moeload_bench.ops.planning.candidates import DEFAULT
from moeload_bench.ops.planning.cluster import Cluster
from moeload_bench.ops.planning.decision import Candidate, Decision, volume, worth_sentence
from moeload_bench.ops.planning.kinds import KindsOfRun, kinds_of
from moeload_bench.ops.planning.placements import place_forecast, renumbered, write_placement
from moeload_bench.ops.planning.planner import Planner, Settings, decided
from moeload_bench.ops.planning.within_step import stated_within
from moeload_bench.placement.plans import ClusterShape, least_slots
from moeload_bench.results.render import plain_table
from moeload_bench.style import save_figure
from moeload_bench.traces.trace import Trace
from moeload_bench.words import shown


def plan(
    trace: RunArgument,
    forecaster: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<str>",
            help="As for `run`: a name, FILE.py:Class. Several: a,b@x=1,y=2,c or the option again; a part key=value "
            "belongs to the name before it. Four by default.",
        ),
    ] = None,
    horizon: Annotated[int, typer.Option(metavar=INT, help="Steps that forecasts and plans are for.")] = 200,
    every: Annotated[str | None, typer.Option(help="Steps between checks: 50,200; else up to 500.")] = None,
    devices: Annotated[
        int | None, typer.Option(metavar=INT, help="Devices of a layer's experts; E / 4 by default.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(metavar=INT, help="Slots on all devices; E by default: no replicas.")
    ] = None,
    nodes: Annotated[
        int, typer.Option(metavar=INT, help="Above 1: replicas of an expert stay on one of so many nodes.")
    ] = 1,
    groups: Annotated[
        int | None, typer.Option(metavar=INT, help="Groups of experts, as many as nodes by default.")
    ] = None,
    current: Annotated[
        str | None,
        typer.Option(
            metavar="<str>",
            help="Layout: linear (by number), round_robin or FILE.",
        ),
    ] = None,
    expert_mb: Annotated[
        float | None, typer.Option(help="MB that move with one replica: weights, and optimizer state if it moves.")
    ] = None,
    bandwidth: Annotated[float | None, typer.Option(help="GB/s that a device receives while experts move.")] = None,
    step_ms: Annotated[float | None, typer.Option(help="Step time in ms under the layout in force.")] = None,
    expert_fraction: Annotated[float | None, typer.Option(help="Part of a step set by the busiest device.")] = None,
    overlap: Annotated[float | None, typer.Option(help="Part of a migration hidden behind training.")] = None,
    replan_ms: Annotated[float | None, typer.Option(help="Fixed cost of a re-plan in ms.")] = None,
    move: Annotated[
        Literal["live", "restart"],
        typer.Option(help="By an engine, or by a restart."),
    ] = "live",
    restart_minutes: Annotated[float | None, typer.Option(help="Minutes of a restart.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Say what of it a restart leaves behind.")] = None,
    steps_left: Annotated[
        int | None,
        typer.Option(metavar=INT, help="Steps to come; as many as seen by default."),
    ] = None,
    within_step: Annotated[
        str,
        typer.Option(metavar="<str>", help="Constants within the step, as slots=2,gb_s=400."),
    ] = "",
    level: Level = "process",
    seed: Seed = 0,
    write: Annotated[
        Path | None, typer.Option(callback=no_trace, help="Write the plan for the steps after the trace.")
    ] = None,
    kind: Annotated[
        Literal["json", "eplb", "sglang", "vllm", "vllm-ascend", "tensorrt-llm", "megatron"] | None,
        typer.Option(
            "--format", metavar="<str>", help="json, eplb, sglang, vllm, vllm-ascend, tensorrt-llm or megatron."
        ),
    ] = None,
    model_layers: ModelLayers = None,
    first_layer: FirstLayer = None,
    plot: Annotated[
        Path | None, typer.Option(callback=drawable, help="Draw hours over steps, and kinds by tokens.")
    ] = None,
    details: Annotated[bool, typer.Option("--details", help="All candidates in the table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON record instead of a table.")] = False,
) -> None:
    """Decide whether and how often to re-plan experts, and what that saves.

    \b
    moeload-bench plan run.parquet --devices 8 --slots 72 --current now.json
    moeload-bench plan run.parquet --move restart --restart-minutes 10
    moeload-bench plan run.parquet --write placement.json --format eplb

    Forecasters and intervals are tried side by side along the trace, each from the past alone, moves paid for. What
    you do not state of the cluster comes from the run or its model, or is ASSUMED and named. How:
    docs/guide/live.md in the project's repository.

    Exit status: 0 done, 1 some forecast failed (each is named), 2 the request cannot be served.
    """
    if write is None and kind is not None:
        raise PlacementError(f"--format {kind} is the form of a file, expected --write FILE")
    _check_restart(move, restart_minutes, checkpoint)
    within = stated_within(within_step)
    written = None if write is None else Writing(write, kind or "json", model_layers, first_layer)
    costs = {
        "expert_mb": expert_mb,
        "bandwidth_gb_s": bandwidth,
        "step_ms": step_ms,
        "expert_fraction": expert_fraction,
        "overlap": overlap,
        "replan_ms": replan_ms,
    }
    stated = {name: value for name, value in costs.items() if value is not None}
    loaded, staying = open_trace(trace), [] if checkpoint is None else what_stays(checkpoint)
    cluster = Cluster(_shape(loaded.num_experts, devices, slots, nodes, groups), stated, restart_minutes, current)
    settings = Settings(
        forecaster=",".join(forecaster) if forecaster else None,
        horizon=horizon,
        steps_left=steps_left,
        cluster=cluster,
        level=parse_level(level),
        seed=seed,
        **_intervals(every),
    )
    shape = settings.cluster.shape_for(loaded.num_experts)
    if shape is None:
        raise PlacementError(f"no cluster fits {loaded.num_experts} experts: expected --devices and --slots")
    try:
        planner, decision = _decide(loaded, settings, quiet=as_json)
    except TraceError as error:
        _write_undecided(loaded, settings, shape, written, error, quiet=as_json)
        return
    kinds = kinds_of(loaded, planner, decision, within)
    changed = [] if written is None else _write(loaded, settings, shape, decision.take.forecaster, written)
    following = _following(trace, settings, move, written)
    now = planner.advice.reason if decision.moves and planner.advice is not None else None
    failures = [f"{name}: {why}" for name, why in planner.failures.items()]
    if as_json:
        say_json(
            {"trace": loaded.id, "decision": decision.record, "kinds": kinds.record, "now": now, "next": following,
             "failures": failures, "checkpoint": staying}
        )  # fmt: skip
    else:
        if checkpoint is not None:
            say(f"{checkpoint}: {'; '.join(staying) or 'all of it can be put in a new order'}")
        advised = [worth_sentence(move), f"At step {decision.step:,}: {now}."] if now else []
        sentences = [*decision.lines(details=details), *advised, *kinds.lines()]
        _print(loaded, decision, sentences, following, failures, details=details)
    if changed:
        say(*changed, err=as_json)
    if plot is not None:
        _draw(plot, planner, decision, kinds, quiet=as_json)
    if failures:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Writing:
    """The file that --write names, in an engine's form."""

    path: Path
    kind: str
    model_layers: int | None
    first_layer: int | None


def _check_restart(move: str, restart_minutes: float | None, checkpoint: Path | None) -> None:
    """Raise `PlacementError` for options of a restart without one, and for a restart without its minutes."""
    if (move == "restart") != (restart_minutes is not None):
        raise PlacementError("--move restart and --restart-minutes go together: got one of them")
    if checkpoint is not None and move != "restart":
        raise PlacementError("--checkpoint is of a restart, expected --move restart --restart-minutes M")


def _decide(trace: Trace, settings: Settings, *, quiet: bool) -> tuple[Planner, Decision]:
    """Return the decision and its planner, and show how far they are; raise as `decided`."""
    stopped = "stopped: nothing is kept; the same command begins again"
    with print_on_interrupt(stopped), pair_progress(quiet=quiet, unit="steps", first="candidates") as report:
        return decided(trace, settings, report)


def _write_undecided(
    trace: Trace, settings: Settings, shape: ClusterShape, written: Writing | None, error: TraceError, *, quiet: bool
) -> None:
    """Write the plan for a trace that is too short to decide, or whose stride has no states; raise without --write."""
    if written is None:
        why = str(error).removeprefix(f"{trace.id}: ")
        raise TraceError(f"no decision for {trace.id}: {why}; a plan without one: --write FILE") from None
    say(f"no decision: {error}", err=True)
    first = split_targets(str(settings.forecaster or DEFAULT))[0]
    say(*_write(trace, settings, shape, first, written), err=quiet)


def _following(trace: str, settings: Settings, move: str, written: Writing | None) -> str:
    """Return the next command: the same that writes the plan, or the page of the run once it is written."""
    if written is not None:
        return f"moeload-bench inspect {shlex.quote(trace)} --html page.html"
    form = "eplb" if move == "live" else "json"
    return f"moeload-bench plan {shlex.quote(trace)}{settings.options} --write placement.json --format {form}"


def _draw(plot: Path, planner: Planner, decision: Decision, kinds: KindsOfRun, *, quiet: bool) -> None:
    """Draw hours saved over steps, and kinds by tokens per rank."""
    from moeload_bench.ops.planning.hours import draw_plan  # loads the harness

    drawn = save_figure(draw_plan(decision, planner.race.steps_N, kinds), plot)
    say(f"{drawn}: hours saved over steps, kinds by tokens per rank", err=quiet)


def _shape(experts: int, devices: int | None, slots: int | None, nodes: int, groups: int | None) -> ClusterShape | None:
    """Return the shape that was stated, None for none; raise `PlacementError` for one without devices.

    Without slots it has as many as there are experts, or the next multiple of the devices.
    """
    given = {"--slots": slots, "--nodes": None if nodes == 1 else nodes, "--groups": groups}
    named = [f"{option} {value}" for option, value in given.items() if value is not None]
    if devices is None:
        if named:
            raise PlacementError(f"{named[0]} needs --devices")
        return None
    slots = least_slots(experts, max(1, devices)) if slots is None else slots
    return ClusterShape("given", devices, slots, nodes, nodes if groups is None else groups)


def _intervals(every: str | None) -> dict[str, Any]:
    """Return the settings of the intervals in `50,200`, none for None; raise `PlacementError` for other text."""
    if every is None:
        return {}
    try:
        intervals = tuple(sorted({int(part) for part in every.split(",")}))
    except ValueError:
        raise PlacementError(f"--every is {every!r}, expected whole numbers of steps such as 50,200") from None
    return {"every": math.gcd(*intervals), "intervals": intervals}


def _write(trace: Trace, settings: Settings, shape: ClusterShape, forecaster: str, written: Writing) -> list[str]:
    """Write the plan; return what it changes, and which layers of the model have none."""
    ahead = forecast_ahead(trace, forecaster, settings.horizon, level=settings.level, seed=settings.seed)
    placement = place_forecast(ahead, shape, written.model_layers, written.first_layer)
    cluster, experts = settings.cluster, trace.num_experts
    current_LR = cluster.layout_LR(placement.layers, experts, shape)
    placement, text = renumbered(placement, current_LR, cluster.layout_name)
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


def _print(
    trace: Trace,
    decision: Decision,
    sentences: Sequence[str],
    following: str,
    failures: Sequence[str],
    *,
    details: bool,
) -> None:
    """Print the decision, what to do now, the candidates, what failed, the next command."""
    console = plain_console()
    for line in sentences:
        console.print(printable(line))
    console.print("")
    console.print(
        f"{printable(trace.id)}: forecasters and intervals tried{'' if details else ' (all: --details)'}; percent of "
        f"the step time under the {decision.terms.layout} layout, more is better; ms: CPU time of a forecast, "
        "observing included; error: tokens that forecasts put with the wrong expert"
    )
    console.print(_table([_candidate_cells(row) for row in _rows(decision, details)], decision.take))
    for failure in failures[:5]:
        console.print(printable(failure), style="red")
    if len(failures) > 5:
        console.print(f"... {len(failures)} forecasts failed in all", style="red")
    print_next(following)


def _rows(decision: Decision, details: bool) -> list[Candidate]:
    """Return the candidates of the table: all, or each forecaster's best and the one taken; then vLLM's default."""
    best = {decision.take}
    for name in {row.forecaster for row in decision.candidates}:
        best.add(max((row for row in decision.candidates if row.forecaster == name), key=lambda row: row.saved_percent))
    rows = [row for row in decision.candidates if details or row in best]
    return rows if decision.vllm is None else [*rows, decision.vllm]


def _table(rows: Sequence[dict[str, str]], take: Candidate) -> Any:
    """Return a table of rows with the same names; the row of the candidate taken in bold."""
    table = plain_table(*rows[0], left=("forecaster",))
    for row in rows:
        taken = (row["forecaster"], row["every"]) == (take.forecaster, f"{take.every:,}")
        table.add_row(*(printable(cell) for cell in row.values()), style="bold" if taken else None)
    return table


def _candidate_cells(row: Candidate) -> dict[str, str]:
    return {
        "forecaster": row.forecaster,
        "every": f"{row.every:,}",
        "re-plans": f"{row.replans:,}",
        "moved": volume(row.moved_gb),
        "max/mean": f"{row.imbalance:.3f}",
        "saved %": f"{row.saved_percent:.2f}",
        "error %": shown(row.misplaced_percent, ".2f"),
        "ms": shown(None if row.cpu_ms != row.cpu_ms else row.cpu_ms, ".2g" if row.cpu_ms < 10 else ",.0f"),
    }
