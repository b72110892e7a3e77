"""`python -m leaderboard season new|close|witness|draw|record|score|reveal|check|abandon`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from leaderboard.season_tools.checking import check_season, runs_to_record_again
from leaderboard.season_tools.checking import record_again as again
from leaderboard.season_tools.claims import claim_lines
from leaderboard.season_tools.closing import abandon_season, close_season, new_season, reveal_season
from leaderboard.season_tools.drawn import drawn_plan, set_seed
from leaderboard.season_tools.folder import SeasonFolder
from leaderboard.season_tools.public_value import (
    ARCHIVES,
    RELEASE,
    RELEASE_BEFORE,
    draw_season,
    witness_season,
)
from leaderboard.season_tools.recording import record_season
from leaderboard.season_tools.records import ASCII_WORDS, MAX_MANY, SEASON_PATTERN, Varies
from leaderboard.season_tools.scoring import score_season
from moeload_bench.cli.options import FindLinks, Jobs, NoIndex
from moeload_bench.cli.progress import pair_progress, say
from moeload_bench.errors import MissingExtraError, SeasonError
from moeload_bench.results.comparison import errors_of
from moeload_bench.results.record import load_result
from moeload_bench.schema import first_problem
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.submissions.check import apart_level

app = typer.Typer(
    help="Evaluation rounds on unseen runs: commit, close, record, score, reveal, check.", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(help="The season's name, such as 2027-01.")]
Root = Annotated[Path, typer.Option(help="The folder that holds the seasons.")]
PublishedAt = Annotated[
    str | None,
    typer.Option(
        "--published",
        help="Where what has to be public by now can be found, when it is not a commit of this repository.",
        show_default=False,
    ),
]
ROOT = Path("leaderboard/seasons")
LINE_EVERY_STEPS = 250


@app.command("new")
def new(
    name: Name,
    draw: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="What to draw after closing: sets of recipes, in place of --recipe.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="A recipe's name; give it once for each.")] = None,
    public_value: Annotated[
        str,
        typer.Option(help="Which value, known only after closing, the seeds are drawn with, and where it is found."),
    ] = "",
    value_form: Annotated[
        str,
        typer.Option(help="A regular expression that the whole value matches, such as [0-9a-f]{64}: its one spelling."),
    ] = ASCII_WORDS,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Horizons, state rule and open runs are this suite's; by default those of the newest suite.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=MAX_MANY, help="Runs of each recipe.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each run; the recipe's own by default.")] = None,
    secret_recipe: Annotated[
        list[Path] | None, typer.Option(help="A recipe's file that is committed by hash and shown with the reveal.")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="RECIPE:KEY=LOW..HIGH, a whole number of the recipe drawn for each run; with `~` for `=`: a rate."
        ),
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    in_the_open: Annotated[
        bool,
        typer.Option(
            "--in-the-open",
            help="Show the secret in the plan: traces can be committed as they are finished, from several machines; "
            "the public value has to be one that nobody can choose.",
        ),
    ] = False,
    root: Root = ROOT,
) -> None:
    """Open a season: draw the secret, keep it in ROOT/NAME/private (ignored by git), publish its hash with the plan."""
    plan = new_season(
        _folder(root, name),
        name,
        recipe or (),
        public_value,
        draws=draw,
        value_form=value_form,
        suite=suite,
        runs=runs,
        steps=steps,
        secret_recipes=secret_recipe or (),
        varies=_varies(vary or []),
        checkpoint_every=checkpoint_every,
        in_the_open=in_the_open,
    )
    runs_planned = len(plan.draws.stratum_of) if plan.draws else len(plan.wanted())
    say(f"{root / name}: {runs_planned} runs planned, secret {plan.secret_sha256[:12]}; commit the folder now")


@app.command("close")
def close(
    name: Name,
    submissions: Annotated[Path, typer.Option(help="The folder of submissions: all of them enter.")] = Path(
        "leaderboard/submissions"
    ),
    unranked: Annotated[
        list[Path] | None, typer.Option(help="The folder of a demonstration: scored and shown, without a rank.")
    ] = None,
    root: Root = ROOT,
    find_links: FindLinks = None,
    no_index: NoIndex = False,
) -> None:
    """Close the entries: copy them, and publish the hashes of their files, code and wheels, and of the open runs."""
    folders = [path for path in submissions.iterdir() if path.is_dir()]
    made = close_season(_folder(root, name), folders, unranked=unranked or (), find_links=find_links, no_index=no_index)
    say(f"{root / name}: {len(made.entries)} entries closed; commit the folder before the public value is known")


@app.command("witness")
def witness(
    name: Name,
    where: Annotated[str, typer.Option(help="Who dates the SHA-256 of commitment.json: an address, or an authority.")],
    dated: Annotated[datetime, typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z"], help="Its date.")],
    reply: Annotated[
        Path | None, typer.Option(metavar="FILE.tsr", help="The authority's RFC 3161 reply.", show_default=False)
    ] = None,
    root: Root = ROOT,
) -> None:
    """Keep the date that a third party gave to the commitment's hash, before the time of the public value."""
    made = witness_season(_folder(root, name), where, dated, reply)
    say(f"{root / name}: {made.commitment_sha256[:12]} dated {made.dated}; commit the folder")


@app.command("draw")
def draw(
    name: Name,
    release: Annotated[
        Path | None, typer.Option(metavar=RELEASE, help="The first after the plan's time.", show_default=False)
    ] = None,
    before: Annotated[
        Path | None, typer.Option(metavar=RELEASE, help="The last one before that.", show_default=False)
    ] = None,
    archives: Annotated[
        Path | None,
        typer.Option(metavar=ARCHIVES, help="Where no release can be had: source archives.", show_default=False),
    ] = None,
    neither: Annotated[
        str | None,
        typer.Option(
            metavar="REASON",
            help="Where neither can be had, why: the commitment's own hash draws, and the page begins by saying that "
            "this does not bind the maintainers.",
            show_default=False,
        ),
    ] = None,
    root: Root = ROOT,
    published: PublishedAt = None,
) -> None:
    """Draw the recipes of a season that was opened with --draw, from the first public value after the plan's time."""
    given = {RELEASE: release, RELEASE_BEFORE: before, ARCHIVES: archives}
    files = {file: path for file, path in given.items() if path is not None}
    ways: tuple[set[str], ...] = ({RELEASE, RELEASE_BEFORE}, {ARCHIVES}) if neither is None else (set(),)
    if set(files) not in ways:
        raise SeasonError(
            f"got {', '.join(files) or 'no file'}, expected --release and --before, or --archives, or --neither alone"
        )
    folder = _folder(root, name)
    made = draw_season(folder, files, published, neither)
    say(f"{root / name}: public value {made.value}; commit the folder, then record. Anybody draws the same:")
    plan = folder.plan()
    for one in plan.draws.sets if plan.draws else ():
        seed = set_seed(folder.secret(), made.value, one.name)
        options = f"--number {one.recipes} --seed {seed} --prefix {one.prefix}"
        say(f"moeload-bench recipes draw {folder.path / one.distribution} {options}")


@app.command("abandon")
def abandon(
    name: Name, reason: Annotated[str, typer.Option(help="Why it goes no further.")], root: Root = ROOT
) -> None:
    """Publish that a season goes no further; its number stays taken."""
    abandon_season(_folder(root, name), reason)
    say(f"{root / name}: abandoned; commit the folder")


@app.command("record")
def record(
    name: Name,
    value: Annotated[
        str | None,
        typer.Option(
            help="The public value, as it is found where the plan says; not after `season draw`.", show_default=False
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A recipe to record here; other processes may record others.")
    ] = None,
    root: Root = ROOT,
    published: PublishedAt = None,
) -> None:
    """Draw the seeds and record what is not recorded yet; each run's hashes are written as it is done.

    Goes on where it stopped. Refused: another public value than before, and a draw before the entries are public.
    """
    try:
        made = record_season(_folder(root, name), value, only=only or (), published=published, progress=_lines)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "record", "recording a season") from None
    for run in made:
        say(f"{run.trace}: {run.data_sha256 or run.failure}")


@app.command("score")
def score(
    name: Name,
    level: Annotated[str, typer.Option(help="Isolation: sandbox, or process for entries you trust.")] = "sandbox",
    jobs: Jobs = 1,
    root: Root = ROOT,
    published: PublishedAt = None,
    find_links: FindLinks = None,
    no_index: NoIndex = False,
) -> None:
    """Score all entries on all runs, once. Refused before the runs' hashes are public, and for a changed entry.

    If it is broken off, run it again on the same machine: finished fits and runs are in the cache.
    """
    with pair_progress(unit="runs") as progress:
        made = score_season(
            _folder(root, name),
            level=apart_level(level),
            jobs=jobs,
            published=published,
            find_links=find_links,
            no_index=no_index,
            progress=progress,
        )
    say(f"{root / name}: {len(made.results)} entries scored")
    _show_scores(_folder(root, name))


@app.command("reveal")
def reveal(name: Name, root: Root = ROOT) -> None:
    """Publish the secret, the derived seeds and the traces."""
    made = reveal_season(_folder(root, name))
    say(f"{root / name}: {len(made.runs)} runs revealed; commit the folder")


@app.command("check")
def check(
    name: Name,
    root: Root = ROOT,
    record_again: Annotated[
        Path | None,
        typer.Option(help="Record the drawn run whole into this folder, and compare: on a machine like the first."),
    ] = None,
    find_links: FindLinks = None,
    no_index: NoIndex = False,
) -> None:
    """Check a revealed season: commitment, derivation, hashes, order. Exit status 1: something is not as committed.

    What this machine or this clone cannot compare is said, and is no error.
    """
    folder = _folder(root, name)
    abandoned = folder.abandoned()
    if abandoned is not None:
        say(f"season {name}, number {folder.number()}, was abandoned at {abandoned.at}: {abandoned.reason}")
        return
    wrong = check_season(folder, find_links=find_links, no_index=no_index, note=lambda line: say(line, err=True))
    if record_again is not None and not wrong:
        wrong += again(folder, record_again)
    for line in wrong:
        say(f"not as committed: {line}", err=True)
    for hashes in folder.runs():
        if hashes.failure is not None:
            say(f"{hashes.trace}: not recorded: {hashes.failure}")
        if hashes.diverged is not None:
            say(f"{hashes.trace}: recorded up to its divergence: {hashes.diverged}")
    if wrong:
        raise typer.Exit(1)
    _show_scores(folder)
    runs = runs_to_record_again(drawn_plan(folder), folder.runs())
    is_, ones = ("is", "the one") if len(runs) == 1 else ("are", "those")
    was, same = ("was", "is the same") if len(runs) == 1 else ("were", "are the same")
    did = f"{was} recorded again and {same}" if record_again else f"{is_} {ones} to record again (--record-again DIR)"
    say(f"season {name}: as committed; {', '.join(f'{recipe} run {run}' for recipe, run in runs)} {did}")


def _show_scores(folder: SeasonFolder) -> None:
    """Print what a season of drawn recipes claims."""
    draws = folder.plan().draws
    if draws is not None:
        ranked = [entry.name for entry in folder.commitment().entries if entry.ranked]
        results = [load_result(folder.results / f"{entry}.json") for entry in ranked]
        for line in claim_lines(draws, errors_of(results, PRIMARY)):
            say(line)


def _folder(root: Path, name: str) -> SeasonFolder:
    if not re.fullmatch(SEASON_PATTERN, name):
        raise SeasonError(f"a season's name is of small letters, digits, and one of . _ - between, got {name!r}")
    return SeasonFolder(root / name)


def _varies(texts: list[str]) -> dict[str, tuple[Varies, ...]]:
    """`RECIPE:KEY=LOW..HIGH` (whole numbers) and `RECIPE:KEY~LOW..HIGH` (rates) by recipe."""
    found: dict[str, tuple[Varies, ...]] = {}
    for text in texts:
        match = re.fullmatch(r"([^:]+):([a-z_0-9.]+)([=~])([0-9.eE+-]+?)\.\.([0-9.eE+-]+)", text)
        if match is None:
            raise SeasonError(f"got --vary {text!r}, expected RECIPE:KEY=LOW..HIGH or RECIPE:KEY~LOW..HIGH")
        recipe, key, kind, low, high = match.groups()
        fields: dict[str, Any] = {"key": key, "low": low, "high": high}
        try:
            made = Varies(**fields, kind="integer" if kind == "=" else "log")
        except ValidationError as error:
            raise SeasonError(f"--vary {text!r}: {first_problem(error, 'range')}") from None
        found[recipe] = (*found.get(recipe, ()), made)
    return found


def _lines(what: str, steps: int) -> Callable[[int, dict[str, Any]], None]:
    def hear(number: int, row: dict[str, Any]) -> None:
        if (number + 1) % LINE_EVERY_STEPS == 0 or number + 1 == steps:
            say(f"{what}: {number + 1}/{steps} steps, loss {row['loss']:.3f}", err=True)

    return hear
