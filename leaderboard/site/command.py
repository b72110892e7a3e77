"""`python -m leaderboard site`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from leaderboard.committed import ROOT
from leaderboard.site.inputs import read_inputs
from leaderboard.site.pages import site_files
from moeload_bench.cli.progress import pair_progress, print_on_interrupt
from moeload_bench.errors import MoeloadError

MARK = ".nojekyll"
"""GitHub Pages shows the files as they are when this one is there; and a folder without it is not replaced."""


def write_site(files: Iterable[tuple[str, bytes]], out: Path) -> int:
    """Write the files into a new folder that then takes the place of ``out``; return how many bytes they are.

    Raise `MoeloadError` if ``out`` holds something that is not a site.
    """
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise MoeloadError(f"{out}: the folder holds something else than a site; name another one or empty it")
    scratch = out.with_name(f".{out.name}.{os.getpid()}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    total = 0
    for name, content in [(MARK, b""), *files]:
        path = scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        total += len(content)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(scratch, out)
    return total


def site(
    root: Annotated[Path, typer.Option(help="The checkout with results, submissions and traces.")] = ROOT,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = ROOT / "build" / "site",
) -> None:
    """Build the leaderboard's static site from the committed results.

    The same committed files give the same bytes. See leaderboard/site/README.md.
    """
    stopped = "stopped: nothing was written; the same command begins again"
    with print_on_interrupt(stopped), pair_progress(unit="parts", first="reading results") as report:
        report(0, 1, "results, submissions and traces")
        size = write_site(site_files(read_inputs(root), report), out)
    print(f"{out / 'index.html'}: {size / 1e6:.1f} MB in all; open it in a browser, no server is needed")
