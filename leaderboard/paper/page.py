"""The reproduction as one Markdown page (page.md.j2); every number is from a study or from the paper's facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leaderboard.pages.parts import aligned_table as table
from leaderboard.paper import study as records
from leaderboard.paper.choice import ORDER, RULE, needed_steps
from leaderboard.paper.claims import LEAST_ORIGINS, MAJORITY, Finding, claims
from leaderboard.paper.facts import paper
from leaderboard.paper.study import LayerStates, LoadStudy, RunStudy, Study, Value
from leaderboard.paper.verdicts import GPT3_TOKENS, PART_NAMES, draws_alone, findings, lead, mean_error, ratio, summary
from leaderboard.templates import render_text
from moeload_bench.errors import counted
from moeload_bench.results.tables import three_digits
from moeload_bench.scoring.catalogue import metric_spec
from moeload_bench.scoring.description import Onset
from moeload_bench.scoring.floors import FLOOR_NAMES
from moeload_bench.suites.suite import STATES

FOLDER = "paper"
"""Folder of everything else beside the page."""
SIZED_METRIC = "window_tv"
"""What sizes are compared by: of all readings the one in which the noise of a batch counts least."""
LISTED = 4
"""Up to so many runs have their figures listed; of more the smallest and the largest are given."""


def study_page(study: Study) -> str:
    """Return the whole page; figures are linked from the folder FOLDER beside it."""
    facts, found = paper(), findings(study)
    rule = f"Chosen by rule: {RULE}, at least {needed_steps(study.horizons):,} steps; {ORDER}."
    tokens = [run.tokens for run in study.runs if run.tokens is not None]
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        study=study,
        facts=facts,
        runs=f"{counted(len(study.runs), 'run')} of {counted(study.recipes(), 'recipe')}",
        majority=MAJORITY,
        least_origins=LEAST_ORIGINS,
        answer=_answer(study),
        opening=next(iter(_figures(study.runs[: study.drawn])[2:]), ""),
        summary=_summary(study),
        sizes=_sizes(study),
        onset=f"{facts.onset.steps:,}",
        rule="They were named on the command line." if study.named else rule,
        own_runs=_runs(study),
        setups=_setups(),
        horizons=[f"{horizon:,}" for horizon in study.horizons],
        definitions=[(name, spec.description) for name in records.METRICS if (spec := metric_spec(name)) is not None],
        reported=_reported(),
        draws_alone=_draws_alone(),
        gpt3_tokens=f"{GPT3_TOKENS:,}",
        listed=LISTED,
        claims=[(claim, _claim([one for one in found if one.claim == claim.key])) for claim in claims()],
        errors=[part for run in study.runs for part in (_run_errors(run), _run_layers(run))],
        figures=_figures(study.runs[: study.drawn]),
        most_tokens=f" of at most {max(tokens):,} tokens per step" if tokens else "",
    )


def folder_of(run_id: str) -> str:
    """Return the name of the folder of a run's figures."""
    return run_id.replace("/", "-")


def _answer(study: Study) -> str:
    """Return which claims hold in these runs, which do not, and which hang on how an error is read."""
    told: dict[str, list[str]] = {"agree": [], "disagree": []}
    rest: list[str] = []
    for one in summary(study):
        if "not a claim of the paper" in one.claim.statement:
            continue
        kinds = [kind for kind in told if one.verdict.startswith(f"{kind}: ") and ";" not in one.verdict]
        (told[kinds[0]] if kinds else rest).append(one.claim.statement.partition(" (")[0])
    said = [
        f"{head} {len(found)} of the paper's {sum(map(len, told.values())) + len(rest)} claims: *{'*; *'.join(found)}*."
        for head, found in zip(("Our runs agree with", "They disagree with"), told.values(), strict=True)
        if found
    ]
    return " ".join([*said, *(["The others hang on how the error is read, or cannot be told."] if rest else [])])


def _summary(study: Study) -> str:
    rows = [[one.claim.statement, one.claim.source, one.variant, one.verdict, one.counts] for one in summary(study)]
    return table(("claim", "paper", "first variant", "verdict in it", "all variants and definitions"), rows)


def _sizes(study: Study) -> dict[str, Any]:
    """Return what becomes of four claims with the size of the model; {} where no runs differ in that alone."""
    if not study.sizes:
        return {}
    statistic, window = records.STATISTICS[0]
    horizon = study.horizons[0]

    def error(run: LoadStudy, name: str, state: str = "stable") -> Value:
        return mean_error(run, name, SIZED_METRIC, horizon, state=state)

    leads = [lead(run.fluctuates(statistic, window, "all")) for run in study.sizes]
    harder = [ratio(error(run, "sw_avg", "transient"), error(run, "sw_avg")) for run in study.sizes]
    better = [ratio(error(run, "sw_avg"), error(run, "arima")) for run in study.sizes]
    rows = [
        [f"`{run.id}`", str(run.hidden_size), str(len(run.states)), three_digits(run.learning_rate), run.balancing,
         f"{run.steps:,}", _onset_text(run), *map(three_digits, figures)]
        for run, *figures in zip(study.sizes, leads, harder, better, strict=True)
    ]  # fmt: skip
    heads = ("run", "hidden size", "MoE layers", "learning rate", "balancing", "steps", "last onset", "first layer",
             "transient / stable", "SW_Avg / ARIMA")  # fmt: skip
    settled = [run.settled for run in study.sizes if run.settled is not None]
    never = len(study.sizes) - len(settled)
    onsets = f"between steps {min(settled):,} and {max(settled):,}" if settled else "in no run"
    one_group = len({run.balancing for run in study.sizes}) == 1
    return {
        "count": len({(run.hidden_size, len(run.states)) for run in study.sizes}),
        "alike": " that differ" if one_group else "; those of one balancing differ",
        "statistic": statistic,
        "window": window,
        "metric": SIZED_METRIC,
        "horizon": f"{horizon:,}",
        "table": table(heads, rows),
        "onsets": onsets + f", in {never} never" * (never > 0),
        "leads": _so(leads, above=True),
        "harder": _so(harder, above=True),
        "better": _so(better, above=False),
    }


def _so(figures: Sequence[Value], *, above: bool) -> str:
    """Say in how many of the runs that have a figure it lies above 1, or below."""
    known = [one for one in figures if one is not None]
    return f"{sum(one > 1.0 if above else one < 1.0 for one in known)} of {len(known)} runs"


def _runs(study: Study) -> str:
    heads = ("run", "model", "steps", "MoE layers", "experts", "top-k", "tokens per step", "last onset", "LSTM")
    rows = [
        [f"`{run.id}`", run.family, f"{run.steps:,}", str(len(run.states)), str(run.experts), str(run.top_k or "-"),
         "-" if run.tokens is None else f"{run.tokens:,}", _onset_text(run), run.lstm]
        for run in study.runs
    ]  # fmt: skip
    return table(heads, rows)


def _setups() -> str:
    rows = [
        [one.name, str(one.layers), str(one.moe_layers), str(one.experts), f"{one.sequences} sequences"]
        for one in paper().setups
    ]
    return table(("model", "layers", "MoE layers", "experts", "global batch"), rows)


def _onset_text(run: LoadStudy) -> str:
    if run.settled is None:
        return "never"
    return _with_band(next(layer for layer in run.states if layer.onset == run.settled))


def _with_band(layer: LayerStates) -> str:
    """Return an onset, and the band in which thresholds a quarter lower or higher put it."""
    found = Onset(layer.onset, *layer.band)
    return "never" if found.step is None and found.low is None else found.words(",")


def _reported() -> str:
    rows = [
        [one.setup, one.forecaster, f"{one.horizon:,}", f"{one.bound} {100 * one.value:g}", one.note]
        for one in paper().errors
    ]
    return table(("model", "forecaster", "next steps", "error, %", ""), rows)


def _draws_alone() -> str:
    rows = [
        [one.name, str(top_k), f"{100 * draws_alone(one, top_k):.3g}"] for one in paper().setups for top_k in (1, 2)
    ]
    return table(("model", "top-k (not stated)", "floor_sampling of `error_rate`, %"), rows)


def _claim(found: Sequence[Finding]) -> str:
    """Return a row per variant of a claim, a column per error definition or statistic."""
    columns = list(dict.fromkeys(one.column for one in found))
    rows = []
    for variant in dict.fromkeys(one.variant for one in found):
        cells = {one.column: _verdict(one) for one in found if one.variant == variant}
        rows.append([variant, *(cells.get(column, "-") for column in columns)])
    return table(("", *columns), rows) if rows else "No run has the numbers."


def _verdict(one: Finding) -> str:
    scale = 100.0 if one.claim == "size" else 1.0
    known = [scale * figure for figure in one.figures if figure is not None]
    listed = known if len(known) <= LISTED else [min(known), max(known)]
    text = (", " if len(known) <= LISTED else " to ").join(map(three_digits, listed))
    if not known:
        return "cannot tell: no figure"
    yes, no = (f"{float(one.voted(vote)):.3g}" for vote in (True, False))
    voted = f"{yes} yes, {no} no" if one.verdict == "cannot tell" else yes if one.verdict == "agree" else no
    return f"{one.verdict} ({voted} of {one.judged}): {text}"


def _run_errors(run: RunStudy) -> str:
    parts = [f"### `{run.id}`"]
    for protocol in records.PROTOCOLS:
        rows = [row for state in STATES for row in _error_rows(run, protocol, state)]
        heads = ("state", "horizon", "forecaster", "origins", *(f"`{metric}`" for metric in records.METRICS))
        parts.append(f"{'Sliding' if protocol == 'sliding' else 'In blocks'}:\n\n{table(heads, rows)}")
    events = {name: ", ".join(f"{key} {n:,}" for key, n in counts.items()) for name, counts in run.counts.items()}
    if any(events.values()):
        said = "; ".join(f"{name}: {text}" for name, text in events.items() if text)
        parts.append(f"Counted by the forecasters: {said}.")
    if run.failures:
        parts.append("Failed forecasts:\n\n" + "\n".join(f"- {failure}" for failure in run.failures))
    return "\n\n".join(parts)


def _error_rows(run: RunStudy, protocol: str, state: str) -> Iterator[list[str]]:
    for horizon in dict.fromkeys(row.horizon for row in run.errors):
        here = [row for row in run.errors if (row.protocol, row.state, row.horizon) == (protocol, state, horizon)]
        for row in here:
            cells = []
            for metric in records.METRICS:
                value = row.errors.get(metric)
                above = records.excess_over(value, run.floor("floor_batch", metric, state=state, horizon=horizon))
                cells.append(percent(value) if above is None else f"{percent(value)} ({percent(above)})")
            yield [state, f"{horizon:,}", f"`{row.forecaster}`", str(row.origins), *cells]
        for name in FLOOR_NAMES if here else ():
            floor = [run.floor(name, metric, state=state, horizon=horizon) for metric in records.METRICS]
            if any(value is not None for value in floor):
                marks = {row.mark for row in run.floors if row.floor == name} - {"exact"}
                label = f"*{name}*" + "".join(f" ({mark})" for mark in sorted(marks))
                yield [state, f"{horizon:,}", label, "", *map(percent, floor)]


def _run_layers(run: RunStudy) -> str:
    rows = [["onset (its band), steps", *map(_with_band, run.states)]]
    for statistic, window in records.STATISTICS:
        for part in records.PARTS:
            value_L = run.fluctuates(statistic, window, part)
            if any(value is not None for value in value_L):
                rows.append([f"{statistic} w={window}, {PART_NAMES[part]}", *map(three_digits, value_L)])
    for row in run.errors:
        if row.per_layer and row.state == "stable":
            for metric in records.LAYER_METRICS:
                errors = map(percent, row.per_layer.get(metric, ()))
                rows.append([f"`{metric}` of `{row.forecaster}`, h = {row.horizon:,}, stable, %", *errors])
    what = "Layer by layer, in the model's order (statistics are means over experts and steps):"
    return f"{what}\n\n{table(('', *(f'layer {layer.name}' for layer in run.states)), rows)}"


def _figures(runs: Sequence[RunStudy]) -> list[str]:
    """Return the section's parts, [] where nothing was drawn."""
    parts = ["## Figures\n\nThe counterparts of the paper's, in its order. The band above a panel is the state."]
    for run in runs:
        parts.append(f"### Figures of `{run.id}`")
        for figure in paper().figures:
            if _is_drawn(run, figure.ours):
                title = f"{figure.shows[0].upper()}{figure.shows[1:]}"
                several = "s" if " " in figure.paper else ""
                name = f"{FOLDER}/{folder_of(run.id)}/{figure.ours}.png"
                parts.append(f"{title} (the paper's figure{several} {figure.paper}):\n\n![{title}]({name})")
    return parts if runs else []


def _is_drawn(run: RunStudy, figure: str) -> bool:
    """Return False where a forecaster did not run, and for forecasts where no origin is stable."""
    if figure == "forecasts":
        return any(row.state == "stable" for row in run.errors)
    return figure.rpartition("-")[0] not in set(records.PAPER_FORECASTERS) - set(run.targets)


def percent(value: Value) -> str:
    """Format a fraction in percent to three significant digits."""
    return three_digits(None if value is None else 100.0 * value)
