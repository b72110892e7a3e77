"""`moeload-bench contribute`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.progress import say
from moeload_bench.errors import HubError, TraceError
from moeload_bench.hub.fetch import HUB_ENV, parse_place, suite_pins
from moeload_bench.publishing.contribution import Contribution, Wishes, known_traces, make_contribution
from moeload_bench.publishing.identifying import own_names
from moeload_bench.recipes.recipe import list_recipes


def contribute(
    path: Annotated[Path, typer.Argument(help="Your trace (.parquet), recorded or imported, or a folder of them.")],
    about: Annotated[str, typer.Option("--about", help="One line on what was trained, for the dataset's card.")],
    licence: Annotated[
        str,
        typer.Option("--licence", help="Under which others may use it, such as CC-BY-4.0; that of the trace, if any."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Its name there.", show_default="the recipe's name in the trace")
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option("--repo", help="The dataset repository, ORG/NAME.", show_default="the one that suites name"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before it is sent.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show everything, send nothing; needs no network.")
    ] = False,
) -> None:
    """Give a trace to the dataset: one pull request that adds it under community/.

    It is first checked as the maintainers will check it. Folders, names of hosts and users, and mail addresses are
    taken out of its metadata and shown before anything is sent; the file itself stays as it is. Needs a token of the
    Hub that may open pull requests: HF_TOKEN or `hf auth login`.

    [bold]moeload-bench contribute run.parquet --about "16 experts on German text" --licence CC-BY-4.0 --dry-run[/bold]
    """
    from huggingface_hub import HfApi

    from moeload_bench.publishing.proposal import open_contribution, taken_names  # loads the Hub's client

    if not path.exists():
        raise TraceError(f"{path}: no such file or folder")
    api, place = HfApi(), None if dry_run else repo or dataset_repo()
    taken = [*list_recipes(), *(taken_names(place, api) if place else ())]
    made = make_contribution(path, Wishes(about, licence, name, own_names()), known_traces(), taken)
    _show(made)
    if made.problems:
        raise typer.Exit(1)
    if dry_run or place is None:
        say("dry run: nothing sent")
        return
    if not yes:
        typer.confirm(f"Send this to {place}, where everybody can read it?", abort=True)
    say(f"opened {open_contribution(made, place, api)}")


def dataset_repo() -> str:
    """Return the repository that the package's suites or $MOELOAD_HUB name; raise `HubError` if there is none."""
    if os.environ.get(HUB_ENV):
        return parse_place(os.environ[HUB_ENV]).repo
    found = next((pin.repo for _, pin in suite_pins()), None)
    if found is None:
        raise HubError("no suite names a dataset repository yet: say --repo ORG/NAME")
    return found


def _show(made: Contribution) -> None:
    """Show why it is refused, and nothing else; otherwise what is taken out and what is added."""
    for line in made.problems:
        say(f"refused {line}")
    if made.problems:
        return
    for where, text in made.removed:
        say(f"taken out of {where}: {text}")
    for place, trace in made.traces.items():
        shape = f"{trace.steps:,} steps, {trace.num_layers} layers, {trace.num_experts} experts"
        say(f"adds {place}: {shape}, {trace.meta.licence}")
