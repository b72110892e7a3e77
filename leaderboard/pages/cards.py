"""The dataset cards of this repository, the copies that are published, and the Croissant file: made from the traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leaderboard.committed import ROOT, committed_run
from leaderboard.pages.croissant import croissant
from leaderboard.pages.drawn_claims import brief_cells
from leaderboard.pages.results import largest_suite, results_by_size
from leaderboard.season_tools.scored import scored_seasons
from moeload_bench.publishing.card import render_card
from moeload_bench.publishing.release import COMMUNITY
from moeload_bench.results.grid import known_grid
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.record import Result
from moeload_bench.results.tables import signed_skill
from moeload_bench.scoring.description import read_runs
from moeload_bench.states.rule import LABELS
from moeload_bench.traces.store import bundled_folder

METRIC = "window_tv"


def leaderboard_table() -> str:
    """Return the skill of every forecaster on the suite of these runs, the best first; sizes of batch apart.

    Before it stands what the newest season says, where its recipes were drawn after closing.
    """
    parts = [brief_cells(one) for one in scored_seasons()[:1] if one.draws]
    for size, results in results_by_size(largest_suite().name).items():
        parts += [*([f"{size}:"] if size else []), _skill_table(results)]
    return "\n\n".join(parts)


def _skill_table(results: Sequence[Result]) -> str:
    grid = known_grid(results, METRIC)
    states = [state for state in LABELS if state in grid.states]
    skill: dict[str, dict[str, float]] = {}
    for row in (row for state in states for row in grid.of_state(state)):
        if row.skill is not None:
            skill.setdefault(row.forecaster, {})[row.state] = row.skill
    order = sorted(skill, key=lambda name: -sum(skill[name].values()))
    lines = [(f"`{name}`", *(signed_skill(skill[name][state]) for state in states)) for name in order]
    return markdown_table(("Forecaster", *(f"Skill, {state}" for state in states)), lines)


def card_files(root: Path = ROOT) -> dict[Path, str]:
    """Return every generated file of the datasets with its content; CITATION.cff is published as it is."""
    bundled = bundled_folder() / "README.md"
    out = {bundled: render_card(bundled.read_text(encoding="utf-8"), read_runs(bundled.parent))}
    traces = root / "traces"
    runs, community = (
        read_runs(folder, committed_run) if folder.is_dir() else [] for folder in (traces, traces / COMMUNITY)
    )
    text = (root / "datasets_card.md").read_text(encoding="utf-8")
    card = render_card(text, runs, {"leaderboard": leaderboard_table()}, community)
    out[root / "datasets_card.md"] = card
    if runs:
        out[traces / "README.md"] = card
        out[traces / "croissant.json"] = croissant(traces, runs)
        out[traces / "CITATION.cff"] = (root / "CITATION.cff").read_text(encoding="utf-8")
    return out
