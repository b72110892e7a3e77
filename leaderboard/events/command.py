"""`python -m leaderboard events`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leaderboard.events.alarms import MEASURED
from leaderboard.events.breaks import record
from leaderboard.events.measuring import measure
from moeload_bench.files import write_whole


def events(
    folder: Annotated[Path, typer.Argument(help="Folder of the recordings; what is there is not recorded again.")],
    recorded: Annotated[bool, typer.Option("--recorded", help="Measure what is there, and record nothing.")] = False,
) -> None:
    """Measure how right events are: false ones, and breaks that are planted in forks of small runs.

    It writes leaderboard/events/measured.json, from which docs/guide/live.md is made. Six small runs are trained
    and forked twice for each of seven breaks: 36,000 steps, about 25 minutes of one core.
    """
    if not recorded:
        for done in record(folder):
            typer.echo(done)
    write_whole(MEASURED, (measure(folder).model_dump_json() + "\n").encode())
    typer.echo(f"Written: {MEASURED.name}. Next: python -m leaderboard pages docs/guide/live.md")
