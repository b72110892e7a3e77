"""`moeload-bench verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    folder: Annotated[Path, typer.Argument(help="A submission's folder, such as leaderboard/submissions/NAME.")],
    suite: Annotated[
        str | None, typer.Option(help="The suite's TOML file, when it is not one of the package's.", show_default=False)
    ] = None,
    sample: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Re-run this part of the runs, chosen at random.")
    ] = 1.0,
    traces: Annotated[
        Path | None, typer.Option(help="A folder of other traces, such as runs from seeds nobody has seen.")
    ] = None,
    find_links: Annotated[Path | None, typer.Option(help="A folder of wheels for the requirements.")] = None,
    no_index: Annotated[bool, typer.Option("--no-index", help="Take wheels from --find-links only.")] = False,
    level: Annotated[
        str, typer.Option(help="Isolation of the re-run: sandbox, or process for code you trust.")
    ] = "sandbox",
    check_only: Annotated[
        bool, typer.Option("--check-only", help="Compare files and hashes only: nothing is executed.")
    ] = False,
    incoming: Annotated[
        bool, typer.Option("--incoming", help="With --check-only: a pull request, which brings no verification.json.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
) -> None:
    """Verify a submission by running it again.

    Checks schema, hashes and completeness; installs the pinned requirements; re-runs the suite in the sandbox and
    compares within stated tolerances; looks for memorised traces by altered ones. Writes verification.json into the
    folder and the status into the result.

    Exit status 0 when it is verified (or passes the check), 1 when not: the reasons are printed.
    """
    from moeload_bench.isolate import parse_level
    from moeload_bench.results import load_result
    from moeload_bench.submission import VERIFICATION, read_folder
    from moeload_bench.submission_check import check_submission
    from moeload_bench.submitting import result_path
    from moeload_bench.suite import load_suite
    from moeload_bench.verification import Request, locate
    from moeload_bench.verification import verify as run

    read = read_folder(folder)
    tasks = load_suite(suite or read.record.suite.name)
    place = folder.resolve().parent.parent / result_path(tasks.name, read.record.name)
    result = load_result(place)
    if check_only:
        own = [f"{VERIFICATION} is the maintainers' file: remove it"] if incoming and read.verification else []
        _report(own + check_submission(read, result, tasks), "checked")
        return
    made = run(
        Request(
            read,
            result,
            tasks,
            locate(tasks),
            level=parse_level(level),
            sample=sample,
            traces=traces,
            find_links=find_links,
            no_index=no_index,
        )
    )
    if not dry_run:
        (folder / VERIFICATION).write_text(made.to_json())
        result.model_copy(update={"status": "verified" if made.verified else "claimed"}).save(place)
    for name, growth in made.findings.items():
        typer.echo(f"{name}: relative loss {growth:+.1%}")
    _report(made.reasons, "verified")


def _report(reasons: list[str], word: str) -> None:
    for reason in reasons:
        typer.echo(f"not {word}: {reason}", err=True)
    if reasons:
        raise typer.Exit(1)
    typer.echo(word)
