"""`python -m leaderboard verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leaderboard.verifying.claims import load_claim
from leaderboard.verifying.verify import Request, write_verification
from leaderboard.verifying.verify import verify as rerun
from moeload_bench.cli.options import FindLinks, Jobs, NoIndex
from moeload_bench.cli.progress import pair_progress, say, say_record
from moeload_bench.errors import SubmissionError
from moeload_bench.submissions.check import apart_level, check_submission
from moeload_bench.submissions.folder import FITTED, REQUIREMENTS, VERIFICATION, Folder, is_regular, read_folder
from moeload_bench.submissions.naming import check_name
from moeload_bench.submissions.record import Verification
from moeload_bench.submissions.submit import result_path
from moeload_bench.suites.suite import Suite, load_suite, locate_traces, no_suite, suite_names


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
    find_links: FindLinks = None,
    no_index: NoIndex = False,
    level: Annotated[
        str, typer.Option(help="Isolation of the re-run: sandbox, or process for code you trust.")
    ] = "sandbox",
    jobs: Jobs = 1,
    check_only: Annotated[
        bool, typer.Option("--check-only", help="Compare files and hashes only: nothing is executed.")
    ] = False,
    incoming: Annotated[
        bool,
        typer.Option("--incoming", help="With --check-only: a pull request, which brings no maintainers' file."),
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(
            help="With --incoming: the leaderboard/ folder before the pull request; a name that other authors have "
            "there is refused.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON record: the verification, or what the check found.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
) -> None:
    """Verify a submission by running it again.

    Checks schema, hashes and completeness; installs the pinned requirements; re-runs the suite in the sandbox and
    compares within stated tolerances; looks for memory of the traces. Writes verification.json into the folder and,
    where it is verified, the numbers of the re-run in place of the claim's.

    Exit status 0 when it is verified (or passes the check), 1 when not: the reasons are printed; 2 when the folder or
    its result cannot be read, or the request cannot be served.
    """
    if (base is not None and not incoming) or (incoming and not check_only):
        raise typer.BadParameter("--base belongs to --incoming, and --incoming to --check-only")
    read = read_folder(folder)
    tasks = _suite_of(read, suite)
    place = folder.resolve().parent.parent / result_path(tasks.name, read.record.name)
    result = load_claim(place)
    if check_only:
        reasons = [*(_incoming(read, base, tasks) if incoming else []), *check_submission(read, result, tasks)]
        _show({"checked": not reasons, "reasons": reasons}, reasons, "checked", as_json)
        return
    if read.requirements:
        say(f"installing {len(read.requirements)} requirements", err=True)
    with pair_progress(unit="runs", quiet=as_json) as progress:
        verified = rerun(
            Request(
                read,
                result,
                tasks,
                locate_traces(tasks),
                level=apart_level(level),
                sample=sample,
                traces=traces,
                find_links=find_links,
                no_index=no_index,
                jobs=jobs,
                progress=progress,
            )
        )
    if not dry_run:
        write_verification(verified, read, place)
    _show_verified(verified.record, as_json)


def _suite_of(read: Folder, suite: str | None) -> Suite:
    """Return the suite that the maintainer names, else the submission's; a stranger's word names no file here."""
    claimed = read.record.suite.name
    if suite is None and claimed not in suite_names():
        raise no_suite(claimed, "FILE.toml by --suite")
    return load_suite(suite or claimed)


def _incoming(read: Folder, base: Path | None, tasks: Suite) -> list[str]:
    """Return what is wrong with a folder that comes from outside."""
    ours = (name for name in (VERIFICATION, FITTED) if is_regular(read.path / name))
    reasons = [f"{name} is the maintainers' file: remove it" for name in ours]
    if any("--hash" not in requirement for requirement in read.requirements):
        reasons.append(
            f"{REQUIREMENTS}: expected --hash=sha256:... of each wheel, so that no other file is installed later: "
            "`moeload-bench submit` writes it"
        )
    try:
        check_name(read.record, base or read.path.resolve().parent.parent)
    except SubmissionError as error:
        reasons.append(str(error))
    return reasons


def _show_verified(found: Verification, as_json: bool) -> None:
    if not as_json:
        for name, value in found.findings.items():
            say(f"{name}: {value:+.3f}")
    _show(found.model_dump(mode="json"), found.reasons, found.status if found.verified else "verified", as_json)


def _show(record: dict[str, Any], reasons: list[str], word: str, as_json: bool) -> None:
    if as_json:
        say_record(record)
    for reason in reasons if not as_json else []:
        say(f"not {word}: {reason}", err=True)
    if reasons:
        raise typer.Exit(1)
    if not as_json:
        say(word)
