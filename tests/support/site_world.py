"""Boards for the tests of the site: the committed mini suite, drawn results of many recipes, a stranger's markup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leaderboard.committed import RESULTS
from leaderboard.site.board import Board, BoardEntry
from leaderboard.site.inputs import Inputs, suite_board
from moeload_bench.results.columns import RUN_KEYS
from moeload_bench.results.results import Results, joined
from moeload_bench.traces.lookup import TraceRef

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">&lt;b&gt;\'"'


@lru_cache(maxsize=1)
def mini_board() -> Board:
    """The committed results of the mini suite: two recipes, no sizes of batches."""
    return suite_board(ROOT, RESULTS / "mini")


def inputs_of(*boards: Board, traces: tuple[TraceRef, ...] = ()) -> Inputs:
    """The site of these boards and traces."""
    return Inputs(ROOT, boards, traces, "0" * 64)


def with_results(board: Board, results: Results) -> Board:
    """The board with these results, each entry `checked`."""
    entries = tuple(BoardEntry(entry, None, "checked") for entry in results.entries.values())
    return replace(board, results=results, entries=entries)


def renamed(results: Results, old: str, new: str, **changes: Any) -> Results:
    """The results of one forecaster under another name, with these changes of its entry."""
    found = results.select([old])
    entry = found.entries[old].model_copy(update={"name": new, **changes})
    return Results({new: entry}, found.table.assign(forecaster=new), found.facts)


def hostile_board() -> Board:
    """The mini suite with an entry that is markup wherever it can hold a text; a name cannot."""
    board = mini_board()
    where = board.results.entries["lstm"].environment.model_copy(
        update={"hardware": HOSTILE, "commit": HOSTILE, "versions": {"a": HOSTILE}}
    )
    changes = {"kwargs": {"a": HOSTILE}, "requirements": (HOSTILE,), "notes": (HOSTILE,), "environment": where}
    evil = renamed(board.results, "lstm", "stranger", isolation=HOSTILE, **changes)
    first = evil.table.index == evil.table.index[0]
    failure = np.where(first, f"it broke: {HOSTILE}", None)
    evil = replace(evil, table=evil.table.assign(failure=failure, counts=f'{{"{HOSTILE[:9]}": 3}}'))
    entry = BoardEntry(evil.entries["stranger"], None, "claimed", (HOSTILE,))
    return replace(board, results=joined([board.results, evil]), entries=(*board.entries, entry))


def drawn_board(
    levels: Mapping[str, float], recipes: int = 6, horizons: tuple[int, ...] = (1, 10, 100), seed: int = 0
) -> Board:
    """Results of these forecasters, by their mean error, on recipes of two runs each; none at the last horizon."""
    rng, mini = np.random.default_rng(seed), mini_board().results
    rows = [
        {"trace": f"recipe{r}/test/seed{s}", "recipe": f"recipe{r}", "stratum": "small" if r % 2 else "large",
         "state": state, "crossing": False, "origin": origin, "horizon": horizon, "failure": None}
        for r in range(recipes) for s in (1, 2) for origin, state in ((20, "transient"), (600, "stable"))
        for horizon in horizons
    ]  # fmt: skip
    tasks = pd.DataFrame(rows).assign(**mini.table.iloc[0][list(RUN_KEYS)].to_dict())
    noise = {name: level * np.exp(rng.normal(0, 0.05, len(tasks))) for name, level in levels.items()}
    known = tasks["horizon"] < horizons[-1]
    frames = [
        tasks.assign(forecaster=name, window_tv=np.where(known, error, np.nan), **{"regret@quarter": 0.1 * error})
        for name, error in noise.items()
    ]
    suite = mini.suite.model_copy(update={"name": "many", "sha256": "1" * 64, "horizons": horizons})
    entry = mini.entries["sw_avg"].model_copy(update={"suite": suite})
    entries = {name: entry.model_copy(update={"name": name, "target": name}) for name in levels}
    results = Results(entries, pd.concat(frames, ignore_index=True), mini.facts.iloc[:0])
    return with_results(replace(mini_board(), name="many", title="Many recipes"), results)


# ---------------------------------------------------------------- reading what was built


class _Tables(HTMLParser):
    """Every table of a page as rows of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][-1][-1] += data


def tables_of(page: bytes) -> list[list[list[str]]]:
    """[table][row][column] of a page's texts."""
    reader = _Tables()
    reader.feed(page.decode())
    return reader.tables
