"""`moeload-bench submit`."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.options import FindLinks, NoIndex
from moeload_bench.cli.progress import say, say_document
from moeload_bench.environment import environment
from moeload_bench.errors import SubmissionError
from moeload_bench.isolation.targets import parse_target
from moeload_bench.publishing.folder import RECORD, check_name
from moeload_bench.publishing.submit import (
    Author,
    Draft,
    ResultsRepository,
    make_draft,
    prepare_submission,
    untrusted_level,
    with_claim,
)
from moeload_bench.suites.suite import SMALL_SUITE, load_suite
from moeload_bench.words import REPOSITORY


def submit(
    target: Annotated[
        str, typer.Argument(help="FILE.py:Class, a baseline's name or an adapter, with optional @key=value,...")
    ],
    name: Annotated[
        str, typer.Option("--name", help="The submission's name: small letters and digits, with . _ - between.")
    ],
    author: Annotated[list[str], typer.Option("--author", help="An author's name; give it once per author.")],
    licence: Annotated[str, typer.Option("--licence", help="The code's licence: an SPDX identifier.")] = "Apache-2.0",
    link: Annotated[str | None, typer.Option("--link", help="Paper or project, https://...")] = None,
    model_type: Annotated[
        str | None, typer.Option("--type", help="statistical, learned (from train runs), pretrained or yardstick.")
    ] = None,
    fitted_on: Annotated[
        list[str] | None, typer.Option("--fitted-on", help="Other data that it has learned from; once for each.")
    ] = None,
    hardware: Annotated[str | None, typer.Option(help="Where it was made; found out by default.")] = None,
    requirements: Annotated[
        Path | None, typer.Option("--requirements", help="A file of pinned requirements, name==version on each line.")
    ] = None,
    suite: Annotated[str, typer.Option(help="A suite's name, or a TOML file.")] = SMALL_SUITE,
    results: Annotated[
        Path | None,
        typer.Option(help="Your own run on the suite, a file of `run --out`: shown while the request is open."),
    ] = None,
    repo: Annotated[
        str | None, typer.Option("--repo", help="Open one pull request on this results repository, ORG/NAME.")
    ] = None,
    root: Annotated[Path, typer.Option("--root", help="Where to write, without --repo.")] = Path("leaderboard"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show everything; write and send nothing, ask no network.")
    ] = False,
    level: Annotated[str, typer.Option(help="Isolation: sandbox, or process where there is none.")] = "sandbox",
    find_links: FindLinks = None,
    no_index: NoIndex = False,
) -> None:
    """Submit a forecaster to the leaderboard.

    Checks the contract and makes the submission's folder (code, weights, requirements, card): as one pull request on
    the Hub with --repo, else below --root with the git steps to go on. The maintainers run it, and their numbers are
    the entry's; those of your own run (--results) are shown beside them as claimed.

    \b
    moeload-bench submit my.py:Mine --name mine --author "A. Uthor" --dry-run
    """
    of = model_type or ("pretrained" if fitted_on else None)
    where = hardware or environment().hardware
    who = Author(author, licence, link, of == "pretrained", where, of, fitted_on or [])
    tasks = load_suite(suite)
    pinned = None if requirements is None else _text(requirements)
    draft = make_draft(parse_target(target), name, who, tasks, pinned)
    if results is not None:
        draft = with_claim(draft, results)
    isolation = untrusted_level(level)
    hub = None if repo is None or dry_run else ResultsRepository.open(repo)
    if hub is None:
        check_name(draft.record, root)
    else:
        hub.check_name(draft.record)
    draft = prepare_submission(
        draft,
        level=isolation,
        find_links=find_links,
        no_index=no_index,
        offline=dry_run,
        say=functools.partial(say, err=True),
    )
    _show(draft)
    command = f"moeload-bench run {shlex.quote(target)} sw_avg --suite {shlex.quote(suite)} --out {name}.parquet"
    say_document(f"To score it yourself:\n    {command}")
    _send(draft, hub, root, dry_run)


def _send(draft: Draft, hub: ResultsRepository | None, root: Path, dry_run: bool) -> None:
    """Open a pull request, or write files below ``root``; print the address or the next steps."""
    if dry_run:
        say("dry run: nothing written, nothing sent")
        say("Next: the same without --dry-run")
    elif hub is not None:
        say(f"opened {hub.open_pull_request(draft)}")
    else:
        draft.replace(root)
        say_document(_git_steps(draft, root))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SubmissionError(f"{path}: {error}") from None


def _show(draft: Draft) -> None:
    """Show the record, and the sizes of the files."""
    say_document(draft.contents[RECORD].decode())
    for name, content in draft.files().items():
        say(f"{len(content):10} bytes  {name}")


def _git_steps(draft: Draft, root: Path) -> str:
    name = draft.record.name
    return (
        f"written below {root}. In your fork of {REPOSITORY}:\n"
        f"  git switch -c submit-{name}\n"
        f"  git add {root / draft.place}\n"
        f'  git commit -m "Submission {name}"\n'
        f"  git push -u origin submit-{name}\n"
        "then open a pull request."
    )
