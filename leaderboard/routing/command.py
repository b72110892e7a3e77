"""`python -m leaderboard cases`."""

from __future__ import annotations

from leaderboard.committed import ROOT
from leaderboard.routing.cases import write_cases
from moeload_bench.cli.progress import say


def cases() -> None:
    """Write the catalogue `routing-cases` into traces/.

    The steps of leaderboard/routing/cases.toml, as recorded where their routing was kept, else with the recorded
    counts. Afterwards `python -m leaderboard pages routing cards` renews the report and the dataset's card.
    """
    target = write_cases(ROOT / "traces")
    say(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1e6:.1f} MB")
