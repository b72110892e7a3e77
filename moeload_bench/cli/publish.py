"""`moeload-bench publish`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moeload_bench.cli.progress import pair_progress, say, say_json

if TYPE_CHECKING:
    from moeload_bench.publishing.release import Publication


def publish(
    folder: Annotated[Path, typer.Argument(help="A folder of traces with its card, such as traces/.")],
    repo: Annotated[str, typer.Option("--repo", help="The dataset repository, ORG/NAME; created when missing.")],
    tag: Annotated[str, typer.Option("--tag", help="The release, such as v1.0. A release never changes.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Allow traces on main to be changed or removed; older tags keep theirs.")
    ] = False,
    kind: Annotated[
        Literal["dataset", "model", "space"],
        typer.Option("--as", help="What the folder is: traces, a forecaster's card with its results, or the site."),
    ] = "dataset",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent, send nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Publish a folder of traces on the Hugging Face Hub.

    With --as: a forecaster's results, or the site. Uploads what the Hub does not hold yet, compares checksums, and
    sets the tag when everything is there. Interrupted at any moment, the same command goes on; when nothing changed it
    sends nothing. Needs a token that may write: HF_TOKEN or `hf auth login`.
    """
    # documented in huggingface_hub, re-exported without __all__
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    from moeload_bench.publishing import release  # loads the Hub's client

    disable_progress_bars()
    with pair_progress(quiet=dry_run or as_json, unit="files") as report:
        publication = release.publish(
            folder, repo, tag, kind=kind, private=private, overwrite=overwrite, dry_run=dry_run, report=report
        )
    if as_json:
        say_json(dataclasses.asdict(publication))
        return
    _print_publication(publication, folder)


def _print_publication(publication: Publication, folder: Path) -> None:
    groups = {"add": publication.plan.add, "replace": publication.plan.replace, "remove": publication.plan.remove}
    for kind, names in groups.items():
        for name in names:
            path = folder / name
            size = f"{path.stat().st_size / 1e6:8.2f} MB" if path.is_file() else " " * 11
            say(f"{kind:8}{size}  {name}")
    unchanged = len(publication.plan.keep)
    place = f"{publication.repo}@{publication.tag}"
    if publication.plan.empty and not publication.tagged and publication.commit and not publication.dry_run:
        say(f"{place} (commit {publication.commit}) holds this folder already: nothing sent ({unchanged} files)")
    elif publication.dry_run:
        say(f"dry run: nothing sent; {place} would hold {unchanged} unchanged files besides")
    else:
        say(f"published {place} (commit {publication.commit}), {unchanged} files were there already")
