"""A small checkout with results, submissions and traces for the tests of the site, and ways to read a built one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from leaderboard.site.inputs import read_inputs
from leaderboard.site.pages import board_files, site_files
from leaderboard.site.payload import FIELDS

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("leaderboard/results", "leaderboard/submissions", "moeload_bench/suites", "CITATION.cff", "docs")
TRACE = "moeload_bench/data/qwen3moe-tiny-8e/test/seed1.parquet"


def copy_checkout(to: Path, traces: tuple[str, ...] = ()) -> Path:
    """The committed files that the site is made from, with these of the traces only."""
    for name in (*COPIED, *traces):
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target)
        else:
            shutil.copy(ROOT / name, target)
    return to


def shown_metric(files: dict[str, bytes], suite: str, metric: str) -> Any:
    """The data of a metric as the site's page gets them."""
    text = files[f"data/{suite}.{metric.replace('@', '.')}.js"].decode()
    head, tail = f'moeload.add("{suite}", "{metric}", ', ");\n"
    assert text.startswith(head)
    assert text.endswith(tail)
    return json.loads(text[len(head) : -len(tail)])


def built(root: Path) -> dict[str, bytes]:
    """The whole site by path."""
    return dict(site_files(read_inputs(root)))


def board_only(root: Path) -> dict[str, bytes]:
    """The leaderboard and its data by path."""
    return dict(board_files(read_inputs(root)))


def cell(view: Any, row: int, field: str) -> str:
    """One text of a view."""
    return str(view["rows"][row][FIELDS.index(field)])
