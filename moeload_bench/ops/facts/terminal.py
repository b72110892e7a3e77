"""A run in a terminal: its first screen, 80 columns by 24 lines, and the tables of `--details`.

The screen: verdict, map, expert-parallel sizes, what to do next. The tables: every layer and size, the hottest and the
coldest experts, deaths, costs, events.

Axis letters: N bins of time, C columns of the screen, L MoE layers, E experts, K expert-parallel sizes.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import TraceError, counted, printable
from moeload_bench.ops.facts.events import ALARMS, event_sentences
from moeload_bench.ops.facts.experts import alarm_errors, death_sentences
from moeload_bench.ops.facts.inspector import Inspection
from moeload_bench.ops.facts.measured import cost_sentences
from moeload_bench.ops.facts.timeline import Timeline
from moeload_bench.ops.facts.verdict import assess, balance_of, ends, rank_rows, rank_sentence
from moeload_bench.results.render import plain_table
from moeload_bench.scoring.metrics import DEAD_SHARE
from moeload_bench.traces.means import mean_known, mean_over
from moeload_bench.words import shown

WIDTH, HEIGHT = 80, 24
GLYPHS = ((0.0, "·"), (1.1, "░"), (1.5, "▒"), (2.0, "▓"), (3.0, "█"))
"""How a cell of the map looks from so many times noise alone on."""
ALIKE = 0.1
"""Neighbouring layers behave alike if their excess over noise never differs by more than this part."""
UNLIKE = 1e3
"""How little a layer without any load is like others."""
LEAST_MARGIN, MOST_MARGIN = 12, 22
"""Columns left of the map: names of layers."""
SIZE_COLUMNS = (6, 8, 11, 14, 21, 12, 7)
"""Widths of the columns of the expert-parallel table."""
MOST_SIZES, LEAST_SIZES = 6, 2
MOST_LAYERS, LEAST_LAYERS = 8, 3
MAP_FRAME, SIZES_FRAME = 3, 3
"""Lines of the map and of the table that are no layer's and no size's."""
NAMED = 8
"""Experts that are named as the hottest or the coldest."""
NEWEST = 20
"""Events that are described."""
LAYER_HEADS = ("layer", "state", "first settled", "drift", "now", "noise", "is", "dead", "fall")
SHORT = {"noise alone": "noise", "above noise": "above", "cannot tell": "?", "no load": "-"}
ABOUT_LAYERS = (
    "state: whether loads settled or move, and since which step. first settled: by the rule, and by looser to stricter "
    "thresholds. drift: percent of a layer's tokens that move to other experts between two windows of 100 steps. now: "
    "busiest expert over the mean one. noise: what would be seen if all experts were equally likely. is: what "
    f"now is by that, ? for cannot tell. dead: experts below {DEAD_SHARE:g} of an equal share. fall: experts that "
    "fell below a fifth of it, without a recovery."
)


def overview(
    facts: Inspection, following: str, *, token_bytes: float | None = None, status: str = "", width: int = WIDTH,
    ranks: Sequence[int] = (),
) -> RenderableType:  # fmt: skip
    """Return the screen; ``following``: the next command, ``status``: how a recording goes on, ``ranks``: the
    expert-parallel sizes to show, as many as there is room for by default.
    """
    outcome = assess(facts)
    lines = [Text(_title(facts, status), style="bold", overflow="ellipsis", no_wrap=True)]
    lines += [Text(line, style="bold") for line in textwrap.wrap(outcome.headline, width)]
    lines += [Text(line) for line in textwrap.wrap(f"{outcome.balance} {outcome.age}", width)]
    last = textwrap.wrap(f"Next: {following}", width, subsequent_indent="  ", break_on_hyphens=False)
    spare = HEIGHT - 1 - len(lines) - len(last) - MAP_FRAME - SIZES_FRAME
    least_layers = min(LEAST_LAYERS, len(facts.names_L))
    do, urgent = _to_do(outcome.to_do, spare - least_layers - LEAST_SIZES, width), outcome.to_do[: outcome.urgent]
    if urgent and not ranks and len(do) < len(needed := _to_do(urgent, HEIGHT, width)):
        # The table of sizes gives way to what is urgent.
        return Group(*lines, *map_lines(facts, least_layers, width), *map(Text, needed), *map(Text, last))
    spare -= len(do)
    sizes = list(ranks) or shown_sizes(facts.ranks.size_K, min(MOST_SIZES, spare - least_layers))
    lines += map_lines(facts, max(least_layers, min(MOST_LAYERS, spare - len(sizes))), width)
    lines += rank_lines(facts, token_bytes, sizes)
    return Group(*lines, *map(Text, do), *map(Text, last))


def _to_do(items: Sequence[str], most: int, width: int) -> list[str]:
    """Return what to do, the most urgent first, in at most so many lines."""
    if not items:
        return ["To do: nothing."]
    lines: list[str] = []
    for number, text in enumerate(items, 1):
        head = f"{'To do: ' if number == 1 else '       '}{number}. "
        new = textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * len(head))
        if lines and len(lines) + len(new) > most:
            break
        lines += new
    return lines


def _title(facts: Inspection, status: str) -> str:
    """Return the run's name and shape in one line, and the size of a step or how its recording goes on."""
    meta = facts.meta
    top_k = "" if meta.top_k is None else f", top-{meta.top_k}"
    shape = f"{counted(len(facts.names_L), 'layer')} x {counted(meta.experts, 'expert')}{top_k}"
    name = f"{meta.recipe}/{meta.split}/seed{meta.run}"
    return printable(", ".join([name, shape, status or f"{facts.tokens:,} tokens a step"]))


# ---------------------------------------------------------------- the map


def map_lines(facts: Inspection, most: int, width: int) -> list[Text]:
    """Return the map of layers x steps: how far the busiest expert is above noise alone, and when layers settled."""
    line = facts.timeline
    if line is None or not len(line.step_N):
        return [Text(f"No map yet: it begins after {100:,} steps.")]
    key = "  ".join(f"{glyph} {f'{bound:g}' if bound else '1'}" for bound, glyph in GLYPHS)
    lines = [Text(f"Busiest / noise: {key}   ~ all move  - some  = none", style="bold")]
    margin = int(np.clip(9 + 2 * max(map(len, facts.names_L)), LEAST_MARGIN, MOST_MARGIN))
    pick = _columns(len(line.step_N), width - margin)
    excess_CL = np.stack([mean_over((line.busiest_NL / floor_of(line))[part], axis=0) for part in pick])
    wide = max(1, (width - margin) // len(pick))
    for layers in folded(excess_CL, most, facts.worst):
        cells = mean_over(excess_CL[:, layers], axis=1).tolist()
        name = _layer_name(facts, layers)[: margin - 1]
        lines.append(Text(f"{name:>{margin - 1}} {''.join(glyph_of(cell) * wide for cell in cells)}"))
    unsettled_C = [mean_known(line.unsettled_NL[part][:, ~facts.silent_L]) for part in pick]
    marks = "".join(_state_mark(part) * wide for part in unsettled_C)
    lines.append(Text(f"{'state':>{margin - 1}} {marks}"))
    axis = _axis(facts, line, len(pick) * wide)
    names = {(True, True): "^new !event", (True, False): "^ new data", (False, True): "! event", (False, False): "step"}
    lines.append(Text(f"{names['^' in axis, '!' in axis]:>{margin - 1}} {axis}"))
    return lines


def floor_of(line: Timeline) -> FloatArray:
    """Return what noise alone would give in each bin and layer, 1 where that is not known; [N, L]."""
    return np.nan_to_num(line.noise_NL, nan=1.0)


def glyph_of(excess: float) -> str:
    """Return the character of a cell; `?` where nothing is known."""
    if np.isnan(excess):
        return "?"
    return [glyph for bound, glyph in GLYPHS if excess >= bound or not bound][-1]


def folded(excess_CL: FloatArray, most: int, worst: int) -> list[slice]:
    """Return neighbouring layers that behave alike as one line each, at most so many lines; the worst layer alone."""
    groups = [slice(layer, layer + 1) for layer in range(excess_CL.shape[1])]
    while len(groups) > 1:
        costs = [_unlike(excess_CL, left, right, worst) for left, right in itertools.pairwise(groups)]
        i = int(np.argmin(costs))
        if costs[i] == np.inf or (costs[i] > ALIKE and len(groups) <= most):
            break
        groups[i : i + 2] = [slice(groups[i].start, groups[i + 1].stop)]
    return groups


def _unlike(excess_CL: FloatArray, left: slice, right: slice, worst: int) -> float:
    """Return the largest difference of two groups of layers, as a part; infinite where one is the worst layer."""
    if slice(worst, worst + 1) in (left, right):
        return float("inf")
    first_C, second_C = (np.log(mean_over(excess_CL[:, part], axis=1)) for part in (left, right))
    if np.isnan(first_C).all() != np.isnan(second_C).all():
        return UNLIKE
    return float(np.nanmax(np.abs(first_C - second_C), initial=0.0))


def _layer_name(facts: Inspection, layers: slice) -> str:
    first, last = facts.names_L[layers.start], facts.names_L[layers.stop - 1]
    if layers.stop - layers.start > 1:
        return f"layers {first}-{last}" if first.isdecimal() else f"{first} to {last}"
    return f"{'worst' if layers.start == facts.worst and len(facts.names_L) > 1 else 'layer'} {first}"


def _columns(bins: int, most: int) -> list[slice]:
    """Return at most so many neighbouring groups of bins."""
    edges = np.unique(np.linspace(0, bins, min(bins, most) + 1).round().astype(int))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def _state_mark(unsettled: float) -> str:
    if np.isnan(unsettled):
        return "?"
    return "=" if unsettled == 0 else "~" if unsettled == 1 else "-"


def _axis(facts: Inspection, line: Timeline, columns: int) -> str:
    """Return the steps below the map: `^` where a planned stage of data begins, `!` where an event is an alarm."""
    first, last = f"{int(line.step_N[0]):,}", f"{facts.step - 1:,}"
    span = max(1, facts.step - int(line.step_N[0]))
    cells = [" "] * columns
    cells[: len(first)] = first
    cells[max(len(first) + 1, columns - len(last)) :] = last
    alarms = [event.step for event in facts.events.last if event.kind in ALARMS]
    for mark, steps in (("^", facts.switch_steps), ("!", alarms)):
        for step in steps:
            cell = min(columns - 1, (step - int(line.step_N[0])) * columns // span)
            if cells[cell] == " ":
                cells[cell] = mark
    return "".join(cells)


# ---------------------------------------------------------------- expert-parallel sizes


def shown_sizes(size_K: Sequence[int], most: int) -> list[int]:
    """Return at most so many sizes, spread over all: powers of two, which clusters have, where there are enough."""
    powers = [size for size in size_K if size & (size - 1) == 0]
    sizes = powers if len(powers) >= most else list(size_K)
    places = np.unique(np.linspace(0, len(sizes) - 1, min(len(sizes), most)).round().astype(int))
    return [sizes[place] for place in places.tolist()]


def rank_lines(facts: Inspection, token_bytes: float | None, sizes: Sequence[int]) -> list[Text]:
    """Return the expert-parallel table: a line for each of the sizes.

    Raise `TraceError` for a size that does not divide the experts.
    """
    if unknown := [size for size in sizes if size not in facts.ranks.size_K]:
        sizes_text, experts = ", ".join(map(str, facts.ranks.size_K)), facts.meta.experts
        raise TraceError(f"--ranks: {unknown[0]} ranks do not share {experts} experts evenly; there is: {sizes_text}")
    if facts.silent_L.all():
        return []
    rows = dict(zip(facts.ranks.size_K, rank_rows(facts), strict=True))
    heads = ("ranks", "experts", "all layers", "noise alone", "worst layer", "most tokens", "MB")
    columns = len(heads) if token_bytes is not None else len(heads) - 1
    cells = [heads]
    for size in sizes:
        row = rows[size]
        mb = f"{row.tokens * (token_bytes or 0) / 1e6:,.1f}"
        worst, tokens = f"{row.worst} ({row.worst_layer})", f"{row.tokens:,}"
        cells.append((f"{row.size}", f"{facts.meta.experts // row.size}", row.mean, row.noise, worst, tokens, mb))
    widths = SIZE_COLUMNS[:columns]
    return [
        Text(f"Busiest rank over the mean one: {rank_sentence(facts)}", style="bold"),
        *(Text("".join(f"{cell:>{wide}}" for cell, wide in zip(line, widths, strict=False))) for line in cells),
        Text("One pass, one group assumed: with micro-batches or more groups it is less even.", style="dim"),
    ]


# ---------------------------------------------------------------- the tables of --details


def details(facts: Inspection, token_bytes: float | None = None, ranks: Sequence[int] = ()) -> Iterator[RenderableType]:
    """Yield the tables, each with what its columns mean; ``ranks``: the sizes to show, all by default."""
    table = plain_table(*LAYER_HEADS, left=("state", "is"), fold="layer")
    for cells in layer_rows(facts):
        table.add_row(*cells)
    yield table
    yield Text(ABOUT_LAYERS)
    yield Text("")
    yield from rank_lines(facts, token_bytes, list(ranks) or facts.ranks.size_K)
    yield Text("")
    yield from map(Text, expert_sentences(facts))
    yield from map(Text, cost_sentences(facts.measured))
    yield Text("")
    yield from map(Text, event_sentences(facts.events, NEWEST))


def layer_rows(facts: Inspection) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each layer, in the order of `LAYER_HEADS`."""
    balance, states = balance_of(facts), facts.states
    for layer, name in enumerate(facts.names_L):
        state = ("-", "-", "-")
        if states is not None:
            state = (
                f"{'moves' if states.unsettled_L[layer] else 'settled'} {max(0, states.since_L[layer]):,}",
                _onset(*states.onset_L3[layer].tolist()),
                shown(100 * states.drift_L[layer], ".2f"),
            )
        yield (
            printable(name),
            *state,
            shown(facts.busiest_L[layer], ".2f"),
            ends(facts.low_L[layer], facts.high_L[layer]),
            SHORT[balance[layer]],
            str(int(facts.dead_LE[layer].sum())),
            str(int(facts.dying_LE[layer].sum())),
        )


def _onset(step: int, loose: int, strict: int) -> str:
    """Return `480 (400-610)`, `never` for -1."""
    step_, loose_, strict_ = ("never" if start < 0 else f"{start:,}" for start in (step, loose, strict))
    return f"{step_} ({loose_}-{strict_})"


def expert_sentences(facts: Inspection) -> Iterator[str]:
    """Yield the hottest and the coldest experts, those that fall, and what was seen at deaths."""
    load_X = (facts.share_LE * facts.meta.experts).ravel()
    order = np.argsort(load_X, kind="stable")[: int(np.isfinite(load_X).sum())]
    if order.size:
        yield f"Hottest experts (layer.expert, load over an equal share): {_names(facts, order[::-1][:NAMED])}."
        yield f"Coldest: {_names(facts, order[:NAMED])}."
    if facts.dying_LE.any():
        yield f"Falling: {_names(facts, np.flatnonzero(facts.dying_LE)[:NAMED])}. {alarm_errors()}"
    yield from death_sentences(facts.deaths, facts.names_L)


def _names(facts: Inspection, flat: np.ndarray) -> str:
    """Name experts, given by their places in a flat [L, E], each with its load over an equal share."""
    E = facts.meta.experts
    pairs = zip(*(indices.tolist() for indices in np.divmod(flat, E)), strict=True)
    return ", ".join(
        f"{facts.names_L[layer]}.{expert} {facts.share_LE[layer, expert] * E:.2f}" for layer, expert in pairs
    )
