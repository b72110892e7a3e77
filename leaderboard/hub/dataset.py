"""`python -m leaderboard dataset`: the dataset as it is published, the runs of traces/ and of all scored seasons."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from leaderboard.committed import ROOT, TRACES
from leaderboard.hub import require_empty
from leaderboard.pages.cards import dataset_files
from leaderboard.season.scored import scored_seasons
from moeload_bench.errors import MoeloadError, counted
from moeload_bench.files import write_whole


def write_dataset(out: Path) -> int:
    """Write the folder and return how many files of runs it has; raise `MoeloadError` if ``out`` holds something."""
    require_empty(out)
    sources = list(_sources())
    for place, source in sources:
        if (out / place).exists():
            raise MoeloadError(f"{source}: a run of this name is in another folder of the dataset, too")
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, out / place)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, out / place)
    for name, text in dataset_files(out).items():
        write_whole(out / name, text.encode())
    return len(sources)


def _sources() -> Iterator[tuple[Path, Path]]:
    """Yield the place of each file below a recipe's folder, and the file."""
    for folder in (TRACES, *(scored.folder.path / "traces" for scored in scored_seasons())):
        yield from ((path.relative_to(folder), path) for path in sorted(folder.glob("*/**/*")) if path.is_file())


def dataset(
    out: Annotated[Path, typer.Option(help="The folder to write; files of runs are linked where the disk allows.")] = (
        ROOT / "build" / "dataset"
    ),
) -> None:
    """Write the folder of the dataset: the runs of traces/ and of the scored seasons, with its card.

    `moeload-bench publish FOLDER --repo ORG/NAME --tag TAG` sends it.
    """
    print(f"{out}: {counted(write_dataset(out), 'file')} of runs, with card and metadata")
