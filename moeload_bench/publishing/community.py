"""Traces of others in the dataset repository: where they lie, and what its card says of them.

They lie at `community/NAME/SPLIT/seedN.parquet`, so that no suite's id finds them. Each name is a config of its own,
`community-NAME`: traces of others differ in layers and experts, and a table has one shape. The card lists them in a
table between two marks; everything in a row comes from the traces' metadata.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from moeload_bench.errors import HubError, TraceError
from moeload_bench.publishing.card import FRONT, by_recipe, config, features, splits_of
from moeload_bench.publishing.card_tables import balancing_words
from moeload_bench.results.markdown import markdown_table
from moeload_bench.scoring.description import Run, undescribed_run
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.trace import Trace
from moeload_bench.words import ordinal

FOLDER = "community"
PATH = re.compile(rf"{FOLDER}/(?P<name>[A-Za-z0-9][\w.-]*)/\w+/seed\d+\.parquet")
MAX_ABOUT = 200
HEAD = ("Config", "About", "Runs", "Steps", "MoE layers", "Experts", "Top-k", "Tokens per step", "Balancing", "Licence")
_NOT_IN_ABOUT = "<>[]`|"
_BLOCK = re.compile(r"<!-- begin community -->\n(?P<table>.*?)<!-- end community -->", re.DOTALL)
_ROW = re.compile(r"\| `(?P<config>community-[\w.-]+)` \|.*")


def path_of(trace: Trace) -> str:
    """Return where a trace of others lies in the repository."""
    return f"{FOLDER}/{trace.id}.parquet"


def about_of(meta: TraceMeta) -> str:
    """Return the contributor's line about a trace, the first of its notes; raise `TraceError` unless it is a plain
    line.
    """
    return checked_about(meta.notes[0] if meta.notes else "")


def checked_about(text: str) -> str:
    """Return the text; raise `TraceError` unless it is one plain line of 1 to `MAX_ABOUT` characters for a card."""
    wrong = [char for char in text if char in _NOT_IN_ABOUT or not char.isprintable()]
    if wrong or not text.strip() or len(text) > MAX_ABOUT:
        got = f"{wrong[0]!r} in it" if wrong else f"{len(text)} characters"
        raise TraceError(
            f"about: got {got}, expected one line of 1 to {MAX_ABOUT} characters, none of them {_NOT_IN_ABOUT}"
        )
    return text


def with_traces(card: str, traces: Sequence[tuple[Trace, int]]) -> str:
    """Return the card with a config and a row for each name in (trace, bytes of its file); other rows stay."""
    data, body = _parted(card)
    groups = by_recipe([undescribed_run(trace, size) for trace, size in traces])
    for recipe, runs in groups.items():
        _put(data, "configs", config(recipe, runs, FOLDER))
        _put(data, "dataset_info", features(recipe, runs, FOLDER))
    return _joined(data, _with_rows(body, [_row(recipe, runs) for recipe, runs in groups.items()]))


def carried_rows(card: str, other: str) -> str:
    """Return the card with the other card's rows and configs of traces of others."""
    (data, body), (theirs, text) = _parted(card), _parted(other)
    for field in ("configs", "dataset_info"):
        for entry in theirs.get(field) or []:
            if str(entry.get("config_name")).startswith(f"{FOLDER}-"):
                _put(data, field, entry)
    return _joined(data, _with_rows(body, _rows(text)))


def same_card(card: str, other: str) -> bool:
    """Return whether two cards say the same; the layout of their YAML does not matter."""
    return _parted(card) == _parted(other)


def _row(recipe: str, runs: Sequence[Run]) -> str:
    meta = runs[0].meta
    cells = (
        f"`{FOLDER}-{recipe}`",
        about_of(meta),
        ", ".join(f"{sum(run.split == split for run in runs)} {split}" for split in splits_of(runs)),
        f"{sum(run.steps for run in runs):,}" + (f" (every {ordinal(meta.stride)})" if meta.stride > 1 else ""),
        len(meta.layers),
        meta.experts,
        meta.top_k or "varies",
        f"{runs[0].tokens:,}",
        balancing_words(meta),
        meta.licence,
    )
    return markdown_table(HEAD, [cells]).splitlines()[-1]


def _rows(text: str) -> list[str]:
    block = _BLOCK.search(text)
    return [line for line in block["table"].splitlines() if _ROW.fullmatch(line)] if block else []


def _with_rows(body: str, rows: Sequence[str]) -> str:
    """Return the card's text with these rows in its table, sorted; they replace the rows of the same configs."""
    if not rows:
        return body
    of = {found["config"]: line for line in (*_rows(body), *rows) if (found := _ROW.fullmatch(line))}
    table = "\n".join([*markdown_table(HEAD, [[""] * len(HEAD)]).splitlines()[:2], *(of[name] for name in sorted(of))])
    block = f"<!-- begin community -->\n{table}\n<!-- end community -->"
    if _BLOCK.search(body):
        return _BLOCK.sub(lambda _: block, body)
    intro = "Recorded by others, checked before they were merged, part of no suite."
    return f"{body.rstrip()}\n\n## Traces of others\n\n{intro}\n\n{block}\n"


def _put(data: dict[str, Any], field: str, entry: dict[str, Any]) -> None:
    """Add an entry; it replaces an entry of the same config."""
    others = [old for old in data.get(field) or [] if old.get("config_name") != entry["config_name"]]
    data[field] = [*others, entry]


def _parted(card: str) -> tuple[dict[str, Any], str]:
    """Return the card's front matter and its text; raise `HubError` if there is no front matter."""
    import yaml

    front = FRONT.match(card)
    try:
        data = yaml.safe_load(front[0].strip().strip("-")) if front else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # an impossible date, or thousands of brackets
        raise HubError(f"README.md: the front matter cannot be read: {' '.join(str(error).split())}") from None
    if not front or not isinstance(data, dict):
        raise HubError("README.md: no front matter, expected a dataset's card that begins with ---")
    return data, card[front.end() :]


def _joined(data: dict[str, Any], body: str) -> str:
    from huggingface_hub import DatasetCardData

    return f"---\n{str(DatasetCardData(**data).to_yaml(line_break=chr(10))).strip()}\n---\n{body}"
