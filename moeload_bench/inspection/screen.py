"""A watched run on a terminal of 80 columns or more, with or without colour.

Axis letters: N bins along time, L MoE layers, E experts.
"""

from __future__ import annotations

import itertools
import textwrap

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moeload_bench.errors import printable
from moeload_bench.inspection.drawing import colour, shade, share_lines
from moeload_bench.inspection.past import Past
from moeload_bench.inspection.snapshots import Snapshot
from moeload_bench.inspection.summary import FEW_EXPERTS, LAYER_COLUMNS, layer_rows, sentences
from moeload_bench.traces.means import mean_over

BLOCKS = " ░▒▓█"
"""From an eighth of the even share or less to eight times it."""
LEAST_LINES = 4
"""Of a heat map in which experts share lines, on a terminal with few rows; `FEW_EXPERTS` at most."""
LEAST_ROWS = 3
"""Of the table of layers."""
HEAT_FRAME = 4
"""Lines of a heat map that are no expert's."""
STATE_MARK = {True: "~", False: "="}
MARGIN = 11


def screen(
    snapshot: Snapshot | None,
    past: Past | None,
    *,
    title: str,
    status: str,
    width: int,
    height: int,
    layer: int,
    keys: bool,
) -> RenderableType:
    """All of it for one moment: what is said, a row per layer, and the heat map of one layer."""
    title, status = printable(title), printable(status)  # names of folders may be a stranger's
    head = Text(title, style="bold", overflow="ellipsis", no_wrap=True)
    if snapshot is None:
        return Group(head, Text(status, style="italic"))
    for brief in (False, True):
        said = [Text(line) for line in sentences(snapshot, brief=brief)]
        spare = height - 7 - sum(len(textwrap.wrap(line.plain, max(width, 1))) for line in said)
        if spare >= LEAST_ROWS + HEAT_FRAME + LEAST_LINES:
            break
    most = int(np.clip(spare - LEAST_ROWS - HEAT_FRAME, LEAST_LINES, FEW_EXPERTS))
    heat = [] if past is None else heat_lines(past, snapshot, layer, width, most)
    table = layer_table(snapshot, layer, max(LEAST_ROWS, spare - len(heat)))
    foot = f"{status}{'  [j/k: layer, q: quit]' if keys else ''}"
    return Group(head, *said, table, *heat, Text(foot, style="italic", overflow="ellipsis", no_wrap=True))


def layer_table(snapshot: Snapshot, chosen: int, rows: int) -> Table:
    """Return a row of numbers per layer; where not all fit, those around the chosen one."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in LAYER_COLUMNS:
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    cells = layer_rows(snapshot)
    first = int(np.clip(chosen - rows // 2, 0, max(0, len(cells) - rows)))
    for at, row in list(enumerate(cells))[first : first + rows]:
        style = "reverse" if at == chosen else "yellow" if snapshot.transient_L[at] else None
        table.add_row(*row, style=style)
    hidden = len(cells) - min(rows, len(cells))
    if hidden:
        table.caption = f"{hidden} more layers"
    return table


def heat_lines(past: Past, snapshot: Snapshot, layer: int, width: int, most: int = FEW_EXPERTS) -> list[Text]:
    """Shares of one layer over time, an expert a line (several where there are many), and the states below."""
    if not len(past.step_N):
        return []
    columns = max(10, width - MARGIN)
    pick = _bins(len(past.step_N), columns)
    share_NE = np.stack([mean_over(past.share_NLE[part, layer], axis=0) for part in pick])
    experts = share_NE.shape[1]
    line_NG, group = share_lines(share_NE, FEW_EXPERTS if experts <= FEW_EXPERTS else most)
    lines = [Text(f"layer {snapshot.names_L[layer]}: share of each expert / even share, from: {_key()}", style="bold")]
    for first, value_N in zip(range(0, experts, group), line_NG.T, strict=True):
        name = f"{first}" if group == 1 else f"{first}-{min(first + group, experts) - 1}"
        lines.append(_heat_line(f"{name:>9} ", value_N, experts))
    transient_N = [float(past.transient_NL[part, layer].mean()) >= 0.5 for part in pick]
    lines.append(Text.assemble(f"{'state':>9} ", *((STATE_MARK[t], "yellow" if t else "cyan") for t in transient_N)))
    first_step, last = f"{past.step_N[0]:,}", f"{snapshot.step - 1:,}"
    gap = max(1, len(pick) - len(first_step) - len(last))
    lines.append(Text(f"{'step':>9} {first_step}{' ' * gap}{last}"))
    largest = f"   a cell is the largest of its {group} experts" if group > 1 else ""
    lines.append(Text(f"{'':10}{STATE_MARK[True]} transient   {STATE_MARK[False]} stable{largest}", style="dim"))
    return lines


def _heat_line(name: str, value_N: NDArray[np.floating], experts: int) -> Text:
    line = Text(name)
    position_N = shade(np.where(np.isfinite(value_N), value_N, 0.0), experts)
    for value, position in zip(value_N.tolist(), position_N.tolist(), strict=True):
        if not np.isfinite(value):
            line.append("?")
            continue
        red, green, blue = colour(position)
        line.append(BLOCKS[min(int(position * len(BLOCKS)), len(BLOCKS) - 1)], style=f"rgb({red},{green},{blue})")
    return line


def _key() -> str:
    """Return what the blocks mean, as multiples of the even share."""
    bounds = ("0", "0.3", "0.7", "1.5", "3.5")
    return ", ".join(f"{block}{bound}" for block, bound in zip(BLOCKS, bounds, strict=True) if block != " ")


def _bins(bins: int, columns: int) -> list[slice]:
    """At most so many neighbouring groups of bins."""
    edges = np.unique(np.linspace(0, bins, min(bins, columns) + 1).round().astype(int))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def worst_layer(snapshot: Snapshot) -> int:
    """Return the layer to show first: the most unbalanced one."""
    return int(np.nan_to_num(snapshot.maxvio_L, nan=-1.0).argmax())
