"""`python -m leaderboard demonstration`."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from leaderboard.verifying.memorisers import TARGET, memoriser
from moeload_bench.submissions.folder import CODE, RECORD
from moeload_bench.submissions.record import Submission, SuiteClaim
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import find_trace

NAME = "memoriser"


def demonstration(
    out: Annotated[Path, typer.Argument(help="The folder below which the folder `memoriser` is written.")],
    suite: Annotated[str, typer.Argument(help="The suite whose test runs it holds.")] = "mini",
) -> None:
    """Write the memoriser of a public suite as a submission, which a season shows without a rank.

    It holds every test run of the suite and finds its place in them. Where it knows nothing, on unseen runs, it is
    honest: the mean of the last 100 steps.
    """
    held = load_suite(suite)
    record = Submission(
        name=NAME,
        authors=["The moeload-bench maintainers"],
        licence="Apache-2.0",
        target=TARGET,
        fitted_beyond_train=True,
        model_type="pretrained",
        fitted_on=[f"the test runs of {held.name}, by heart"],
        hardware=f"{platform.machine()} {platform.system()}",
        suite=SuiteClaim(name=held.name, sha256=held.sha256()),
    )
    folder = out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CODE).write_text(memoriser({entry.id: find_trace(entry.id) for entry in held.traces}, held))
    (folder / RECORD).write_text(record.to_toml())
    print(folder)
