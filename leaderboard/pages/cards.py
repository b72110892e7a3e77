"""The dataset cards of this repository, the copies that are published, `eval.yaml` and the Croissant file."""

from __future__ import annotations

from pathlib import Path

from leaderboard.committed import ROOT, committed_run
from leaderboard.hub.benchmark import eval_yaml
from leaderboard.pages.croissant import croissant
from leaderboard.pages.inputs import largest_suite, suite_set
from leaderboard.pages.results_page import finding, render, skill_table
from leaderboard.site.cite import dois
from moeload_bench.errors import first_ten
from moeload_bench.publishing.admission import COMMUNITY
from moeload_bench.publishing.card import render_card
from moeload_bench.publishing.routing_cases import has_cases
from moeload_bench.scoring.description import read_runs
from moeload_bench.traces.lookup import bundled_folder


def leaderboard_table() -> str:
    """Return what the newest season found, and the skill of every forecaster on the suite of these runs, sizes of batch
    apart.
    """
    parts = [finding(), render("public").strip()]
    for title, results in suite_set(largest_suite().name).sizes.items():
        parts += [f"{title}:", skill_table(results)]
    return "\n\n".join(parts)


def card_files(root: Path = ROOT) -> dict[Path, str]:
    """Return every generated file of the datasets with its content."""
    bundled = bundled_folder() / "README.md"
    out = {bundled: render_card(bundled.read_text(encoding="utf-8"), read_runs(bundled.parent))}
    files = dataset_files(root / "traces", root)
    out[root / "datasets_card.md"] = files["README.md"]
    return out | ({root / "traces" / name: text for name, text in files.items()} if len(files) > 1 else {})


def dataset_files(folder: Path, root: Path = ROOT) -> dict[str, str]:
    """Return the files beside the traces of a dataset by name; the card alone of a folder without a trace.

    CITATION.cff is published as it is.
    """
    runs, community = (
        read_runs(place, committed_run) if place.is_dir() else [] for place in (folder, folder / COMMUNITY)
    )
    text = (root / "datasets_card.md").read_text(encoding="utf-8")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    addresses = [f"[{doi}](https://doi.org/{doi})" for doi in dois(citation)]
    parts = {"leaderboard": leaderboard_table(), "doi": f"DOI: {first_ten(addresses) or 'none yet'}."}
    files = {"README.md": render_card(text, runs, parts, community, cases=has_cases(folder))}
    if runs:
        files["eval.yaml"] = eval_yaml()
        files["croissant.json"] = croissant(folder, runs, root)
        files["CITATION.cff"] = citation
    return files
