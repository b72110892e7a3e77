"""`python -m leaderboard site`."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from leaderboard.committed import ROOT
from leaderboard.site.inputs import read_inputs
from leaderboard.site.kept import checkout_sha256
from leaderboard.site.pages import site_files
from moeload_bench.cli.progress import pair_progress, said_if_stopped
from moeload_bench.errors import MoeloadError

MARK = ".nojekyll"
"""GitHub Pages shows the files as they are when this one is there; and a folder without it is not replaced."""


def mark_of(out: Path) -> str:
    """Return what a site says that it was made from; empty where there is none, or where a file has come or gone."""
    made_from, _, files = (out / MARK).read_text().partition(" ") if (out / MARK).is_file() else ("", "", "")
    return made_from if files and int(files) == _count(out) else ""


def _count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def write_site(files: Iterable[tuple[str, bytes]], out: Path, made_from: str = "") -> int:
    """Write the files into a new folder that then takes the place of ``out``; returns how many bytes they are.

    Raises `MoeloadError` when ``out`` holds something that is not a site.
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
    if made_from:
        (scratch / MARK).write_text(f"{made_from} {_count(scratch)}")
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
    gc.disable()  # results are millions of objects that live to the end: looking for cycles among them takes a third
    with (
        said_if_stopped("stopped: parts that are finished are kept, and the same command goes on with the others"),
        pair_progress(unit="parts", first="reading results") as report,
    ):
        report(0, 1, "files of the checkout")
        made_from = checkout_sha256(root)
        if mark_of(out) == made_from:
            print(f"{out / 'index.html'}: made from these very files; nothing to do")
            return
        report(0, 1, "results, submissions and traces")
        size = write_site(site_files(read_inputs(root), report), out, made_from)
    print(f"{out / 'index.html'}: {size / 1e6:.1f} MB in all; open it in a browser, no server is needed")
