"""One engine for everything generated in README.md and docs/: parts of pages between marks, and whole files.

A generated part stands between two comment lines, `<!-- generated: NAME -->` (or `NAME OF`: what it is made of) and
`<!-- end -->`; the prose around it is written by hand. `python -m leaderboard pages` makes the parts of every page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from leaderboard.committed import ROOT
from moeload_bench.errors import ResultError
from moeload_bench.results.render import Table, captioned

Maker = Callable[..., str]
"""Makes a part; it is given what stands behind the name in the mark, where something does."""
PART = re.compile(r"(?P<mark><!-- generated: (?P<name>[\w-]+) ?(?P<of>\S*) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


class Page(NamedTuple):
    """What `python -m leaderboard pages NAME` makes: texts of files, and perhaps figures, which are not compared."""

    name: str
    make: Callable[[], Mapping[Path, str]]
    draw: Callable[[], None] | None = None


def page_of_parts(name: str, makers: Mapping[str, Maker], draw: Callable[[], None] | None = None) -> Page:
    """Return a page of this repository, named by its path, whose parts these functions make."""
    path = ROOT / name
    return Page(name, lambda: {path: fill_parts(path.read_text(encoding="utf-8"), makers)}, draw)


def fill_parts(text: str, makers: Mapping[str, Maker]) -> str:
    """Return the text with every generated part made again; raise `ResultError` for a part of an unknown name."""

    def made(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in makers:
            raise ResultError(f"no generated part is named {name!r} here; there is: {', '.join(makers)}")
        return f"{match['mark']}\n{makers[name](*match['of'].split()).strip()}\n\n{match['end']}"

    return PART.sub(made, text)


def stale_files(pages: Iterable[Page]) -> Iterator[tuple[Path, str]]:
    """Yield the files whose text is not what is made now, with that text."""
    for page in pages:
        for path, text in page.make().items():
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                yield path, text


def aligned_table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 99, to: int = 99) -> str:
    """Return a Markdown table whose columns ``numbers_from`` up to ``to`` stand at the right."""
    return captioned(Table("", tuple(heads), tuple(map(tuple, rows)), numbers_from, to)).strip()
