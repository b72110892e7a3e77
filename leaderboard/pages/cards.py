"""The dataset cards of this repository, the copies that are published, and the Croissant file: made from the traces."""

from __future__ import annotations

from pathlib import Path

from leaderboard.committed import ROOT
from leaderboard.pages.croissant import croissant
from moeload_bench.publishing.card import render_card
from moeload_bench.scoring.description import read_runs
from moeload_bench.traces.store import bundled_folder


def card_files(root: Path = ROOT) -> dict[Path, str]:
    """Return every generated file of the datasets with its content; CITATION.cff is published as it is."""
    bundled = bundled_folder() / "README.md"
    out = {bundled: render_card(bundled.read_text(encoding="utf-8"), read_runs(bundled.parent))}
    traces = root / "traces"
    runs = read_runs(traces) if traces.is_dir() else []
    card = render_card((root / "datasets_card.md").read_text(encoding="utf-8"), runs)
    out[root / "datasets_card.md"] = card
    if runs:
        out[traces / "README.md"] = card
        out[traces / "croissant.json"] = croissant(traces, runs)
        out[traces / "CITATION.cff"] = (root / "CITATION.cff").read_text(encoding="utf-8")
    return out
