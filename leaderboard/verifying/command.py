"""`python -m leaderboard verify`."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from leaderboard.verifying.claim import board_beside, claim_problems, rerun_claim
from leaderboard.verifying.verify import Request, Verified, write_verification
from leaderboard.verifying.verify import verify as rerun
from moeload_bench.cli.options import FindLinks, Jobs, NoIndex
from moeload_bench.cli.progress import pair_progress, say, say_document, say_json
from moeload_bench.errors import SubmissionError
from moeload_bench.publishing.folder import (
    FITTED,
    VERIFICATION,
    Folder,
    check_name,
    folder_problems,
    is_regular,
    read_folder,
)
from moeload_bench.publishing.requirements import REQUIREMENTS
from moeload_bench.publishing.submit import untrusted_level
from moeload_bench.suites.suite import Suite, load_suite, locate_traces, no_suite, suite_names


def verify(
    folder: Annotated[Path, typer.Argument(help="A submission's folder, such as leaderboard/submissions/NAME.")],
    suite: Annotated[
        str | None, typer.Option(help="The suite's TOML file, when it is not one of the package's.", show_default=False)
    ] = None,
    traces: Annotated[
        Path | None, typer.Option(help="A folder of other traces, such as runs from seeds nobody has seen.")
    ] = None,
    find_links: FindLinks = None,
    no_index: NoIndex = False,
    level: Annotated[
        str, typer.Option(help="Isolation of the runs: sandbox, or process for code you trust.")
    ] = "sandbox",
    jobs: Jobs = 1,
    check_only: Annotated[
        bool, typer.Option("--check-only", help="Check the folder only: nothing is executed.")
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
    claim: Annotated[
        bool, typer.Option("--claim", help="Run a random third of its author's runs again, compare, write nothing.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="With --claim: choose the runs that it chose for this number.", show_default="random"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON record: the verification, or what the check found.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
) -> None:
    """Verify a submission by running it.

    Checks the folder; installs the pinned requirements; runs the suite in the sandbox, one run twice, which must be
    equal; looks for memory of the traces. Writes verification.json into the folder and, for a verified entry, its
    result below results/SUITE/ beside submissions/.

    With --claim it compares its author's own run with a random part of it that is run again. With --check-only
    --incoming that run is only read, and printed beside the board.

    Exit status 0 when it is verified (or passes the check), 1 when not: the reasons are printed; 2 when the folder
    cannot be read, or the request cannot be served.
    """
    if (base is not None and not incoming) or (incoming and not check_only):
        raise typer.BadParameter("--base belongs to --incoming, and --incoming to --check-only")
    if (seed is not None and not claim) or (claim and check_only):
        raise typer.BadParameter("--seed belongs to --claim, and --claim runs what --check-only does not")
    read = read_folder(folder)
    tasks = _suite_of(read, suite)
    if check_only:
        reasons = [*(_incoming(read, base) if incoming else []), *folder_problems(read, tasks)]
        reasons += claim_problems(read, tasks) if incoming else []
        _show({"checked": not reasons, "reasons": reasons}, reasons, "checked", as_json)
        if incoming and read.claim is not None and not as_json:
            say_document(board_beside(read, tasks, base or read.path.resolve().parents[1]))
        return
    if read.requirements:
        say(f"installing {len(read.requirements)} requirements", err=True)
    request = Request(
        read,
        tasks,
        locate_traces(tasks),
        level=untrusted_level(level),
        traces=traces,
        find_links=find_links,
        no_index=no_index,
        jobs=jobs,
    )
    if claim:
        _run_claim(request, secrets.randbits(32) if seed is None else seed, as_json)
        return
    with pair_progress(unit="runs", quiet=as_json) as progress:
        verified = rerun(replace(request, progress=progress))
    if not dry_run:
        write_verification(verified, read, folder.resolve().parents[1] / "results" / tasks.name)
    _show_verified(verified, as_json)


def _suite_of(read: Folder, suite: str | None) -> Suite:
    """Return the suite that the maintainer names, else the submission's; a stranger's word names no file here."""
    named = read.record.suite.name
    if suite is None and named not in suite_names():
        raise no_suite(named, "FILE.toml by --suite")
    return load_suite(suite or named)


def _incoming(read: Folder, base: Path | None) -> list[str]:
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


def _run_claim(request: Request, seed: int, as_json: bool) -> None:
    """Run what a seed chooses of its author's own runs again; say which these are, and what they contradict."""
    say(f"--seed {seed}", err=True)
    with pair_progress(unit="runs", quiet=as_json) as progress:
        runs, contradicted = rerun_claim(replace(request, progress=progress), seed)
    if not as_json:
        say(f"run again: {', '.join(runs)}")
    payload = {"confirmed": not contradicted, "seed": seed, "runs": runs, "reasons": contradicted}
    _show(payload, contradicted, "confirmed", as_json)


def _show_verified(verified: Verified, as_json: bool) -> None:
    for name, value in verified.record.findings.items() if not as_json else ():
        say(f"{name}: {value:+.3f}")
    if verified.pages_in_memory is False:
        say("shared files do not fit into memory: a run could tell what an earlier one had read", err=True)
    payload = {**verified.record.model_dump(mode="json"), "reasons": verified.reasons}
    _show(payload, verified.reasons, "verified", as_json)


def _show(record: dict[str, Any], reasons: list[str], word: str, as_json: bool) -> None:
    if as_json:
        say_json(record)
    for reason in reasons if not as_json else []:
        say(f"not {word}: {reason}", err=True)
    if reasons:
        raise typer.Exit(1)
    if not as_json:
        say(word)
