"""What was found, as texts and tables: parts of docs/reports/results.md, README.md and the dataset's card."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leaderboard.committed import TRACES
from leaderboard.pages.findings import (
    PLANS,
    Saving,
    equal_forecasts,
    kinds_of_runs,
    oscillating,
    saving,
    skills,
    standing,
)
from leaderboard.pages.inputs import TRACKS, RunSet, largest_suite, newest_season, run_sets, season_sets, suite_set
from leaderboard.pages.parts import Maker
from leaderboard.templates import render_words
from moeload_bench.errors import ResultError, counted
from moeload_bench.publishing.card_tables import size_summary
from moeload_bench.results.board import Board, Row, known_board
from moeload_bench.results.captions import better_words, spans_of
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.results import Results
from moeload_bench.results.tables import (
    horizon_heads,
    signed,
    signed_skill,
    skill_span,
    span,
    three_digits,
)
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.description import undescribed_run
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import list_traces, read_trace

NOTHING = "-"
FLOOR = "floor_batch"
LITTLE = 0.02
"""Less work of the busiest device than this part is not worth a model that has to be fitted."""


def finding(length: str = "") -> str:
    """Return what the season's candidate saved of the best simple rule's error, set by set, those unlike training
    first, and what that is worth in step time. ``length``: `brief` for the first set alone.
    """
    brief = length == "brief"
    season, sets = newest_season(), season_sets()[::-1][: 1 if brief else None]
    if season is None or season.draws is None:
        return "No season has been scored yet."
    candidate = season.draws.candidate
    parts = [_finding(runs, candidate) for runs in sets]
    simple = parts[0]["simple"]
    worth = {state: saving(sets[0].results, candidate, simple[state], PLANS, state=state) for state in LABELS}
    return render_words(
        Path(__file__).with_name("finding.md.j2"), season=season.name, candidate=candidate, parts=parts, first=parts[0],
        worth=worth, brief=brief, little=LITTLE,
    )  # fmt: skip


def _finding(runs: RunSet, candidate: str) -> dict[str, Any]:
    found = {state: standing(runs.results, state=state) for state in LABELS}
    simple = {state: one.simple if one else "" for state, one in found.items()}
    swinging = oscillating(runs.results)
    return {
        "title": runs.title,
        "unlike": runs.unlike,
        "recipes": len(runs.recipes),
        "simple": simple,
        "saving": {state: saving(runs.results, candidate, simple[state], state=state) for state in LABELS},
        "oscillating": len(swinging),
        "steady": saving(runs.on(runs.recipes - swinging), candidate, simple["transient"], state="transient"),
    }


def saved(one: Saving | None) -> str:
    """Return a saving in percent with its interval for a new recipe, where there is one."""
    if one is None:
        return NOTHING
    ends = "" if math.isnan(one.low) else f" {span(100 * one.low, 100 * one.high, 1)}"
    return f"{signed(100 * one.saving, 1)}{ends}"


def leaders() -> str:
    """Return who leads on each set, size of batch and state, what it saves of the next entry's error, of the best
    entry's that learns nothing and of the best average's; below, the best of each track.
    """
    rows, tracks = [], []
    for title, part, state in _cells():
        found = standing(part, state=state)
        if found is not None:
            rivals = (found.following, found.simple, found.average)
            cells = (f"`{name}` {saved(saving(part, found.leader, name, state=state))}" for name in rivals)
            rows.append((title, state, f"`{found.leader}`", *cells))
            skill, best = skills(part, state=state), (found.by_track.get(track) for track in TRACKS)
            tracks.append(
                (title, state, *(f"`{name}` {signed_skill(skill[name])}" if name else NOTHING for name in best))
            )
    heads = ("runs", "state", "leader", "next entry", "best that learns nothing", "best average")
    return f"{markdown_table(heads, rows)}\n\n{markdown_table(('runs', 'state', *TRACKS), tracks)}"


def _cells() -> Iterator[tuple[str, Results, str]]:
    """Yield each size of batch of each set in each state, with a short title."""
    for runs in run_sets():
        for title, part in runs.sizes.items():
            for state in LABELS:
                yield title.split(" batches")[0] + (" batches" if " batches" in title else ""), part, state


def gains() -> str:
    """Return what the season's candidate saves of the tuned average's error and of the best simple rule's."""
    season = newest_season()
    assert season is not None
    assert season.draws is not None
    candidate, average = season.draws.candidate, season.draws.tuned_average
    rows = []
    for title, part, state in _cells():
        found = standing(part, state=state)
        if found is not None:
            tuned, simple = (saving(part, candidate, name, state=state) for name in (average, found.simple))
            rows.append((title, state, saved(tuned), f"`{found.simple}` {saved(simple)}", *_robust(simple)))
    heads = ("runs", "state", f"of `{average}`", "of the best that learns nothing", *ROBUST)
    return markdown_table(heads, rows)


ROBUST = ("median", "clipped mean", "without two runs", "recipes")


def _robust(one: Saving | None) -> tuple[str, ...]:
    if one is None:
        return (NOTHING,) * len(ROBUST)
    numbers = (one.median, one.clipped_mean, one.without_two)
    return *(NOTHING if math.isnan(value) else signed(100 * value, 1) for value in numbers), f"{one.recipes:.0f}"


def horizons() -> str:
    """Return what the candidate saves by horizon: of the best simple rule's and the best average's error there, and
    of the former's in windows without and with a change of state inside.
    """
    rows = []
    for runs, candidate, _ in _against_simple():
        for state, horizon in itertools.product(LABELS, runs.results.horizons):
            at = {"state": state, "horizon": horizon}
            found = standing(runs.results, **at)
            if found is not None:
                rivals = [
                    f"`{name}` {saved(saving(runs.results, candidate, name, **at))}"
                    for name in (found.simple, found.average)
                ]
                apart = (saving(runs.results, candidate, found.simple, **at, crossing=cross) for cross in (False, True))
                rows.append((runs.title, state, f"{horizon:,}", *rivals, *map(saved, apart)))
    heads = ("best that learns nothing", "best average", "no change of state inside", "across a change")
    return markdown_table(("runs", "state", "h", *heads), rows)


def kinds() -> str:
    """Return what the candidate saves of the best simple rule's error on runs of one kind."""
    rows = []
    for runs, candidate, simple in _against_simple():
        for kind, recipes in kinds_of_runs(runs).items():
            part = runs.on(recipes)
            cells = [saving(part, candidate, simple[state], state=state) if recipes else None for state in LABELS]
            rows.append((runs.title, kind, str(len(recipes)), *map(saved, cells)))
    return markdown_table(("runs", "kind", "recipes", *LABELS), rows)


def _against_simple() -> Iterator[tuple[RunSet, str, Mapping[str, str]]]:
    season = newest_season()
    candidate = season.draws.candidate if season is not None and season.draws is not None else ""
    for runs in run_sets():
        found = ((state, standing(runs.results, state=state)) for state in LABELS)
        yield runs, candidate, {state: one.simple for state, one in found if one is not None}


def equal() -> str:
    """Return which entries gave the same forecasts, bit for bit, on how many runs."""
    lines = [
        f"- {runs.title}: `{one.second}` forecasts the same as `{one.first}`, bit for bit, on {one.runs} of "
        f"{counted(one.of, 'run')}{': one forecaster under two names' if one.runs == one.of else ''}."
        for runs in run_sets()
        for one in equal_forecasts(runs.results)
    ]
    return "\n".join(lines) or "No two entries gave the same forecasts on any run."


def public_answer() -> str:
    """Return how many recipes of the public suite have a run that learned entries were fitted on, and who leads."""
    runs = suite_set(largest_suite().name)
    words = [
        f"Of the {len(runs.recipes)} recipes of the public {runs.title}, {len(runs.fitted)} have a run that fitted "
        "forecasters learned from: its intervals say nothing about a recipe that is new to these."
    ]
    for title, part in runs.sizes.items():
        board = known_board(part)
        best = [board.rows(state)[0] for state in LABELS]
        each = " and ".join(f"`{row.forecaster}` with {100 * row.skill:.1f} % ({row.state})" for row in best)
        words.append(f"{title[0].upper()}{title[1:]}: least error has {each}, in percent less than `{board.reference}`.")
    return " ".join(words)


def runs() -> str:
    """Return how many runs there are in traces/, and how large they are."""
    bare = (undescribed_run(read_trace(ref.path), ref.path.stat().st_size) for ref in list_traces(TRACES))
    return size_summary(list(bare))


def headline(results: Results) -> str:
    """Return a table per state, best forecasters first, and what its numbers are.

    Raise `ResultError` when the suite's reference is not among the results.
    """
    board = known_board(results)
    if board.reference not in results.entries:
        raise ResultError(f"{results.suite.name}: a headline needs the reference among its results")
    errors = results.errors(PRIMARY)
    same = {name for name in results.names if name != board.reference and errors[name].equals(errors[board.reference])}
    ranks = {(row.state, row.forecaster): f"{row.rank_low} to {row.rank_high}" for row in results.ranks().itertuples()}
    tables = [_state_table(board, state, ranks, same) for state in board.states if state in LABELS]
    words = render_words(
        Path(__file__).with_name("headline_words.md.j2"), better=better_words(PRIMARY), spans=spans_of(board, LABELS),
        floor=FLOOR, reference=board.reference, entries=len(results), same=sorted(same),
    )  # fmt: skip
    return "\n\n".join([*tables, words])


def _state_table(board: Board, state: str, ranks: Mapping[tuple[str, str], str], same: set[str]) -> str:
    rows = [row for row in board.rows(state) if row.forecaster not in same]
    best_K = [min((value for value in column if not math.isnan(value)), default=math.nan)
              for column in zip(*(row.value_K for row in rows), strict=True)]  # fmt: skip
    lines = [
        (f"`{row.forecaster}`", *map(_cell, row.value_K, best_K), skill_span(row.skill, row.low, row.high),
         ranks.get((state, row.forecaster), NOTHING), three_digits(row.ms))
        for row in rows
    ]  # fmt: skip
    if floor_K := board.floor(state, FLOOR):
        lines.append((f"*{FLOOR}*", *map(three_digits, floor_K), "", "", ""))
    return markdown_table((state, *horizon_heads(board.horizons), "skill", "ranks", "ms"), lines)


def _cell(value: float, best: float) -> str:
    return f"**{three_digits(value)}**" if value == best else three_digits(value)


def headline_part(suite: str) -> str:
    """Return the tables of a public suite, its sizes of batch apart."""
    runs = suite_set(suite)
    parts = [load_suite(suite).description]
    for title, results in runs.sizes.items():
        parts += [*([f"**{title}**"] if len(runs.sizes) > 1 else []), headline(results)]
    return "\n\n".join(parts)


def skill_table(results: Results) -> str:
    """Return a table of the skill of every forecaster by state, the best first."""
    board = known_board(results)
    states = [state for state in LABELS if state in board.states]
    found: dict[str, dict[str, Row]] = {}
    for row in (row for state in states for row in board.rows(state)):
        found.setdefault(row.forecaster, {})[row.state] = row
    order: Sequence[str] = sorted(found, key=lambda name: -sum(row.skill for row in found[name].values()))
    lines = [(f"`{name}`", *(signed_skill(found[name][state].skill) for state in states)) for name in order]
    return markdown_table(("Forecaster", *(f"Skill, {state}" for state in states)), lines)


PARTS: Mapping[str, Maker] = {
    "finding": finding,
    "leaders": leaders,
    "gains": gains,
    "horizons": horizons,
    "kinds": kinds,
    "equal": equal,
    "public": public_answer,
    "headline": headline_part,
    "runs": runs,
}
