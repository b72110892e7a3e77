"""Loads that were logged as scalars, one name per layer and expert: find these names.

A pattern is a name with `{l}` for the layer and `{e}` for the expert, as in `train/TokensTotal/layer{l}/expert{e}`.
Logged values must be counts, or shares that are asked for as such (`--shares`): fractions are refused otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from moeload_bench.errors import TraceError, printable

PATTERNS = (
    "train/TokensTotal/layer{l}/expert{e}",  # OLMoE's runs on W&B
    "moe/layer_{l}/expert_{e}",
    "moe-expert/tokens_per_expert_layer{l}_expert{e}",
    "tokens_per_expert/layer_{l}/expert_{e}",
    "moe/tokens_per_expert/layer_{l}/expert_{e}",
    "expert_load/layer_{l}/expert_{e}",
    "moe_expert_utilization/layer_{l}_expert_{e}",  # NeMo Automodel: ratios to the mean load
)
"""Patterns that are tried in this order if none is given."""
_SUMMARY = re.compile(r"aux_loss|balancing_loss|z_loss|entropy|expert_usage|max_?vio", re.IGNORECASE)


class Names(NamedTuple):
    """Names of a log by the place of their counts: ``places`` maps one to (row of layer, expert)."""

    pattern: str
    layers: tuple[int, ...]
    experts: int
    places: dict[str, tuple[int, int]]


def match_names(names: Iterable[str], pattern: str | None, where: str) -> Names:
    """Return the names that a pattern finds; they must cover the same experts, from 0 on, in every layer.

    A name may follow the name of a run ("RUN - name"), as in W&B's tables. Raise `TraceError` if nothing matches, if
    two names stand for one expert, or if an expert is missing.
    """
    names = list(names)
    for candidate in PATTERNS if pattern is None else (pattern,):
        rule = name_rule(candidate, where)
        places = {name: (int(m["l"]), int(m["e"])) for name in names if (m := rule.fullmatch(name))}
        if places:
            return _complete(candidate, places, where)
    tried = ", ".join(PATTERNS) if pattern is None else pattern
    shown = printable(", ".join(names[:8]))[:300] + (" ..." if len(names) > 8 else "")
    summary = next((name for name in names if _SUMMARY.search(name)), None)
    hint = f"; {printable(summary)[:80]!r} sums up all experts, and no loads follow from it" if summary else ""
    raise TraceError(f"{where}: no name fits {tried}; there is: {shown or 'none'} (--pattern 'name/{{l}}/{{e}}'){hint}")


def name_rule(pattern: str, where: str, places: Sequence[str] = ("l", "e")) -> re.Pattern[str]:
    """Return what a name fits whose numbers stand at ``places``; it may follow the name of a run."""
    if any(pattern.count(f"{{{place}}}") != 1 for place in places):
        wanted = " and ".join(f"{{{place}}}" for place in places)
        raise TraceError(f"{where}: the pattern is {pattern!r}, expected {wanted} once{' each' * (len(places) > 1)}")
    body = re.escape(pattern)
    for place in places:
        body = body.replace(re.escape(f"{{{place}}}"), rf"(?P<{place}>\d{{1,6}})")
    return re.compile(rf"(?:.* - )?{body}")


def _complete(pattern: str, places: dict[str, tuple[int, int]], where: str) -> Names:
    layers = tuple(sorted({layer for layer, _ in places.values()}))
    experts = max(expert for _, expert in places.values()) + 1
    by_place: dict[tuple[int, int], str] = {}
    for name, place in places.items():
        if place in by_place:
            raise TraceError(
                f"{where}: {printable(name)!r} and {printable(by_place[place])!r} are the same expert, expected one run"
            )
        by_place[place] = name
    for layer in layers:
        for expert in range(experts):
            if (layer, expert) not in by_place:
                raise TraceError(
                    f"{where}: expert {expert} of layer {layer} is missing, expected {experts} experts ({pattern})"
                )
    row = {layer: m for m, layer in enumerate(layers)}
    return Names(pattern, layers, experts, {name: (row[layer], expert) for name, (layer, expert) in places.items()})
