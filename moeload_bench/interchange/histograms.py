"""W&B histograms: one per layer and step, a bin per expert, as Marin's runs log `train/router/layer_{l}/routing_hist`.

A history holds each as `{"_type": "histogram", "values": [...], "bins": [...]}`: counts, and one more edge than counts.
The bins of a layer are its experts if they are one wide and start at expert 0. `wandb.Histogram(array)` makes 64 bins
between the least and the largest value instead: such bins are refused. More than 512 bins are refused by W&B itself.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import TraceError, printable
from moeload_bench.interchange.logfiles import whole_counts
from moeload_bench.interchange.rows import LogRow
from moeload_bench.interchange.scalars import name_rule

PATTERNS = ("train/router/layer_{l}/routing_hist", "train/router/layer_{l}/routing_hist/histogram")
"""Patterns that are tried in this order if none is given; Marin's trainer used the first, then the second."""
DEFAULT_BINS = 64
EXACT = 1 << 24
"""Up to here float32 holds every whole number; trainers count in it before they log."""


class Histograms(NamedTuple):
    """The histograms of a history: names by layer, in the order of layers."""

    pattern: str
    names: Mapping[int, str]


def match_histograms(names: Iterable[str], pattern: str | None, where: str) -> Histograms | None:
    """Return the names of histograms that a pattern with `{l}` alone finds; None if there are none."""
    if pattern is not None and "{e}" in pattern:
        return None
    names = list(names)
    for candidate in PATTERNS if pattern is None else (pattern,):
        rule = name_rule(candidate, where, ("l",))
        found: dict[int, str] = {}
        for name in names:
            if match := rule.fullmatch(name):
                if int(match["l"]) in found:
                    raise TraceError(f"{where}: {printable(name)!r} is layer {int(match['l'])} again, expected one run")
                found[int(match["l"])] = name
        if found:
            return Histograms(candidate, dict(sorted(found.items())))
    if pattern is not None:
        raise TraceError(
            f"{where}: no name fits {pattern}; there is: {printable(', '.join(names[:8]))[:300] or 'none'}"
        )
    return None


def histogram_rows(
    records: Iterable[tuple[str, Mapping[str, Any]]], found: Histograms, step: str, bins: int | None, notes: list[str]
) -> Iterator[LogRow]:
    """Yield the steps of a history; records without any of the histograms are other logs and are skipped."""
    rounded = False
    for where, record in records:
        if all(record.get(name) is None for name in found.names.values()):
            continue
        loads = []
        for name in found.names.values():
            loads.append(_counts(record.get(name), printable(name), where, bins))
            bins = len(loads[0])
        load_LE = np.stack(loads)
        if not rounded and load_LE.max() > EXACT:
            rounded = True
            notes.append(f"{where}: counts above {EXACT:,} may be rounded: trainers count in float32 before they log")
        yield LogRow(int(whole_counts([record.get(step)], step, where)[0]), load_LE, where)


def _counts(value: Any, name: str, where: str, bins: int | None) -> IntArray:
    """Return the counts of a histogram that has one bin for each expert; raise `TraceError` for any other value."""
    if not isinstance(value, Mapping) or not {"values", "bins"} <= set(value):
        got = "empty, other layers have a value" if value is None else printable(repr(value))[:80]
        raise TraceError(f"{where}: {name} is {got}, expected a histogram with values and bins")
    load_E = whole_counts(value["values"], f"{name}: values", where)
    edges = _edges(value["bins"])
    if len(edges) != len(load_E) + 1 or not (-1 < edges[0] <= 0) or (np.diff(edges) != 1).any():
        shown = f"{len(edges)} edges" + (f" from {edges[0]:g} to {edges[-1]:g}" if len(edges) else "")
        raise TraceError(
            f"{where}: {name} has {len(load_E)} bins with {shown}, expected one bin of width 1 for each expert, from "
            f"expert 0 on: a histogram of values ({DEFAULT_BINS} bins by default) does not count experts"
        )
    if bins not in (None, len(load_E)):
        raise TraceError(f"{where}: {name} has {len(load_E)} bins, expected {bins}, one for each expert")
    return load_E


def _edges(value: Any) -> FloatArray:
    try:
        edges = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)
    return edges if edges.ndim == 1 else np.empty(0)
