"""The report of a run as one page that needs nothing else: no network, no scripts, light and dark, printable.

Axis letters: N bins along time, L MoE layers, E experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.arrays import BoolArray
from moeload_bench.errors import MissingExtraError, PlotError, printable
from moeload_bench.files import write_whole
from moeload_bench.inspection.capacity import capacity_of, capacity_sentences
from moeload_bench.inspection.decision import volume
from moeload_bench.inspection.drawing import Axis, Line, colour, data_uri, heat_png, legend, line_chart, share_lines
from moeload_bench.inspection.findings import FORECASTERS, Findings, advice_sentences, make_findings, next_commands
from moeload_bench.inspection.planning import Settings
from moeload_bench.inspection.summary import LAYER_COLUMNS, MOST_LINES, extreme_sentences, layer_rows
from moeload_bench.results.board import board_of
from moeload_bench.states.rule import spans_of
from moeload_bench.suites.suite import STATES
from moeload_bench.traces.store import data_sha256, load_trace
from moeload_bench.traces.trace import Trace
from moeload_bench.words import FineProgress, ordinal, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template

MOST_HEATS = 6
"""Layers whose heat map is open on the page; the others are behind a fold."""
NOISE = "batch noise alone"
MOST_POINTS = 240
"""Points of a line along time."""


@dataclass(frozen=True, eq=False)
class Report:
    """A finished page. ``html`` is the whole of it; in a notebook it shows itself."""

    html: str
    found: Findings

    def save(self, path: str | Path) -> Path:
        """Write the page, replacing what was there in one move; raises `PlotError` where that cannot be done."""
        target = Path(path)
        try:
            write_whole(target, self.html.encode())
        except OSError as error:
            raise PlotError(f"{target}: cannot be written: {error}") from None
        return target

    def _repr_html_(self) -> str:
        frame = "width:100%;height:48rem;border:1px solid #8888"
        return f'<iframe title="report" style="{frame}" srcdoc="{escape(self.html)}"></iframe>'


def report(
    trace: Trace | str | Path,
    settings: Settings | None = None,
    *,
    forecasters: Sequence[str] | None = None,
    source: str | None = None,
    progress: FineProgress | None = None,
) -> Report:
    """Return the report of a run: a trace, its file or its id.

    ``settings``: the cluster that advice is for, and what the run is watched with; ``forecasters``: those compared,
    `FORECASTERS` by default; ``source``: what commands on the page call the trace. Raises as `load_trace`, and
    `PlacementError` for a cluster that does not hold the experts.
    """
    loaded = trace if isinstance(trace, Trace) else load_trace(trace)
    named = source or (loaded.id if isinstance(trace, Trace) else str(trace))
    names, said = forecasters or FORECASTERS, progress or silent
    found = make_findings(loaded, named, settings, forecasters=names, progress=said)
    return Report(render(found), found)


def render(found: Findings) -> str:
    """Return the page, with every character that is not printable as an escape."""
    trace = found.trace
    page = _template().render(
        found=found,
        sentences=advice_sentences(found),
        commands=next_commands(found),
        facts=_facts(trace),
        layer_columns=LAYER_COLUMNS,
        layer_rows=[] if found.last is None else layer_rows(found.last),
        heats=_heats(found),
        most_heats=MOST_HEATS,
        experts=[] if found.last is None else extreme_sentences(found.last),
        sharing=-(-trace.num_experts // MOST_LINES),
        scale=_scale(),
        capacity=_capacity(found),
        placing=_placing_chart(found),
        starving=_starving_chart(found),
        errors=_error_charts(found),
        candidates=_candidates_chart(found),
        volume=volume,
        data_sha256=data_sha256(trace),
        version=version("moeload-bench"),
    )
    return "\n".join(map(printable, page.split("\n")))


@cache
def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError:
        raise MissingExtraError("jinja2", "live", "the report") from None
    text = (Path(__file__).parent / "report.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        text
    )


def _facts(trace: Trace) -> list[tuple[str, str]]:
    """Return what the run is, as far as its metadata says."""
    meta = trace.meta
    first, last = int(trace.step_S[0]), int(trace.step_S[-1])
    balancing = meta.balancing.method.replace("_", " ")
    sources = ", ".join(dict.fromkeys(source.name for source in meta.sources))
    facts = [
        ("model", meta.family or "not given"),
        ("MoE layers", f"{trace.num_layers}, {trace.num_experts} experts each, top-{meta.top_k or '?'}"),
        ("steps", f"{first:,} to {last:,}" + (f", every {ordinal(meta.stride)}" if meta.stride > 1 else "")),
        ("tokens per step", f"{meta.global_batch_tokens or int(trace.tokens_SL[-1].max()):,}"),
        ("balancing", balancing + (f", {meta.balancing.coefficient:g}" if meta.balancing.coefficient else "")),
        ("text", sources or "not given"),
        ("counts", meta.count_semantics.replace("_", "-")),
        ("half batches", "recorded: batch noise is measured" if "load_half" in trace.columns else "not recorded"),
        ("complete", "yes" if meta.complete else "no: cut short"),
    ]
    return [*facts, *(("note", note) for note in meta.notes)]


def _capacity(found: Findings) -> list[str]:
    """Return what capacity and memory the next steps need; nothing of a single row."""
    trace, shape = found.trace, found.settings.cluster.shape
    devices = shape.devices if shape is not None and trace.num_experts % shape.devices == 0 else None
    return capacity_sentences(capacity_of(trace, devices=devices)) if trace.steps > 1 else []


def _heats(found: Findings) -> list[dict[str, Any]]:
    """Each layer's picture, the most unbalanced first."""
    last = found.last
    if found.watch is None or last is None or not len((past := found.watch.history.past()).step_N):
        return []
    experts = past.share_NLE.shape[2]
    order = np.argsort(-np.nan_to_num(last.maxvio_L), kind="stable").tolist()
    return [
        {
            "name": last.names_L[i],
            "image": data_uri(heat_png(share_lines(past.share_NLE[:, i], MOST_LINES)[0], experts)),
            "states": _strip(past.transient_NL[:, i] >= 0.5),
            "first": f"{past.step_N[0]:,}",
            "last": f"{last.step - 1:,}",
            "experts": experts,
            "height": int(np.clip(12 * experts, 96, MOST_LINES)),
        }
        for i in order
    ]


def _strip(transient_N: BoolArray) -> list[tuple[str, float, float]]:
    """Return the spans of one state: name, start and width in percent."""
    unit = 100 / len(transient_N)
    return [(state, a * unit, (b - a) * unit) for a, b, state in spans_of(transient_N)]


def _scale() -> str:
    """Return the colours of a heat map as a gradient."""
    stops = ", ".join("rgb({} {} {})".format(*colour(i / 8)) for i in range(9))
    return f"linear-gradient(to right, {stops})"


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return points[:: max(1, -(-len(points) // MOST_POINTS))]


def _chart(lines: list[Line], x: Axis, y: Axis, about: str) -> str:
    drawn = line_chart(lines, x, y, about)
    return f"{drawn}{legend(lines)}" if drawn else ""


def _placing_chart(found: Findings) -> str:
    decision, race = found.decision, None if found.watch is None else found.watch.race
    if decision is None or race is None:
        return ""
    parts = race.chosen(decision)[1]
    steps = np.cumsum([steps for steps, _, _ in parts]).tolist()
    plan = f"this plan ({decision.take.forecaster}, every {decision.take.every:,} steps)"
    lines = [
        Line("even spread", [(step, even) for step, (_, even, _) in zip(steps, parts, strict=True)]),
        Line(plan, [(step, own) for step, (_, _, own) in zip(steps, parts, strict=True)]),
    ]
    return _chart(lines, Axis("training step"), Axis("max / mean device load", floor=1.0), "Imbalance over the run")


def _starving_chart(found: Findings) -> str:
    if not any(look.dead or look.dying for look in found.looks):
        return ""
    lines = [
        Line("dead", _thinned([(look.step, float(look.dead)) for look in found.looks])),
        Line("about to die", _thinned([(look.step, float(look.dying)) for look in found.looks])),
    ]
    return _chart(lines, Axis("training step"), Axis("experts, all layers", floor=0.0), "Dead experts over the run")


def _error_charts(found: Findings) -> list[dict[str, Any]]:
    """Per state: a chart of the error against the horizon, and the same numbers."""
    board = None if found.results is None else board_of(found.results)
    if board is None:
        return []
    charts = []
    for state in (name for name in board.states if name in STATES):
        values = {row.forecaster: row.value_K for row in board.rows(state)}
        if floor_K := board.floor(state, "floor_batch"):
            values[NOISE] = floor_K
        lines = [Line(name, _points(board.horizons, value_K), name == NOISE) for name, value_K in values.items()]
        cells = [(name, [_cell(v) for v in value_K]) for name, value_K in values.items()]
        x, y = Axis("horizon, steps", log=True), Axis("tokens misplaced", log=True)
        charts.append(
            {"state": state, "chart": _chart(lines, x, y, f"Error against horizon, {state}"), "rows": cells,
             "horizons": [f"{h:,}" for h in board.horizons]}
        )  # fmt: skip
    return charts


def _points(horizons: Sequence[int], value_K: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(h), v) for h, v in zip(horizons, value_K, strict=True) if not math.isnan(v)]


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _candidates_chart(found: Findings) -> str:
    decision = found.decision
    if decision is None or decision.judged_by == "misplaced tokens":
        return ""
    lines = [
        Line(name, [(float(c.every), c.saved_percent) for c in decision.candidates if c.forecaster == name])
        for name in dict.fromkeys(c.forecaster for c in decision.candidates)
    ]
    x, y = Axis("looked at every so many steps", log=True), Axis("% of step time saved", floor=0.0)
    return _chart(lines, x, y, "What re-planning saves against how often")
