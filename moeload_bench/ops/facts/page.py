"""An inspection as one page that needs nothing else: no network, no script, light and dark, wide and narrow.

Axis letters: N bins of time, L MoE layers, X and Y places in a picture or on a scale of colours.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import MissingExtraError, PlotError, printable
from moeload_bench.files import write_whole
from moeload_bench.ops.facts.capacity import Capacity, capacity_sentences, capacity_tables
from moeload_bench.ops.facts.conditions import NEW_DATA
from moeload_bench.ops.facts.events import ALARMS, moments
from moeload_bench.ops.facts.inspector import Inspection, inspect_trace
from moeload_bench.ops.facts.remedies import pooled_balance
from moeload_bench.ops.facts.terminal import ABOUT_LAYERS, LAYER_HEADS, expert_sentences, floor_of, layer_rows
from moeload_bench.ops.facts.timeline import Timeline
from moeload_bench.ops.facts.verdict import against_noise, assess, ends, rank_rows, rank_sentence
from moeload_bench.traces.lookup import load_trace
from moeload_bench.traces.means import mean_known, mean_over
from moeload_bench.traces.trace import Trace, TraceMeta
from moeload_bench.words import ordinal, shown

if TYPE_CHECKING:
    from jinja2 import Template

LAYER_PIXELS, LEAST_HEIGHT, MOST_HEIGHT = 18, 72, 260
"""Height of a layer in the map, and of all of it."""
LEAST_SCALE = 4
"""The strongest colour stands for so many times noise alone, or for the next power of 2 that is reached."""
MOST_LABELS = 13
"""Layers that are named beside the map, the first and the last among them."""
MOST_PLACES, MOST_MARKED = 50, 12
"""Places on the time axis where events differ, and marks of events, the last ones."""
CURVES = {"loss": "loss", "lr": "lr"}
"""Columns that are drawn below the map."""
MILD, STRONG, UNKNOWN = (245, 166, 35), (214, 30, 70), (128, 128, 128, 255)
"""Colours of little and of much excess over noise, and of none that is known."""
MOVING = (0, 132, 140)
"""Colour of time in which all layers move; paler where some do."""
BEGINNING = 0.1
"""Part of a run whose losses do not set the scale: a fall at the beginning would hide a rise later."""
Sort = Literal["planned", "alarm", "news"]
SIGNS: Mapping[Sort, str] = {"planned": "^", "alarm": "!", "news": "="}
"""What stands at a mark: new data, what calls for somebody, what is good news."""


class Mark(NamedTuple):
    """Something on the time axis: its place in percent, its step, of which sort it is, and what happened."""

    left: float
    step: int
    sort: Sort
    text: str

    @property
    def sign(self) -> str:
        """Return the character that stands at it."""
        return SIGNS[self.sort]


class Curve(NamedTuple):
    """A line along time: SVG paths in a box of 1,000 x 100 without proportions, and the values at its two ends.

    ``cut``: whether the beginning is above the upper one.
    """

    path: str
    low: float
    high: float
    cut: bool


@dataclass(frozen=True, eq=False)
class Report:
    """A finished page. ``html`` is the whole of it; in a notebook it shows itself."""

    html: str
    found: Inspection

    def save(self, path: str | Path) -> Path:
        """Write the page, replacing what was there in one move; raise `PlotError` where that cannot be done."""
        target = Path(path)
        try:
            write_whole(target, self.html.encode())
        except OSError as error:
            raise PlotError(f"{target}: cannot be written: {error}") from None
        return target

    def _repr_html_(self) -> str:
        frame = "width:100%;height:48rem;border:1px solid #8888"
        return f'<iframe title="report" style="{frame}" srcdoc="{escape(self.html)}"></iframe>'


def report(trace: Trace | str | Path) -> Report:
    """Return the page of a run: a trace, its file or its id. Raise as `load_trace`."""
    facts = inspect_trace(trace if isinstance(trace, Trace) else load_trace(trace))
    return Report(render(facts), facts)


def write_page(facts: Inspection, path: str | Path, capacity: Capacity | None = None) -> Path:
    """Write the page of an inspection, with a forecast of capacity where one is given; return its file."""
    return Report(render(facts, capacity), facts).save(path)


def render(facts: Inspection, capacity: Capacity | None = None) -> str:
    """Return the page, with every character that is not printable as an escape."""
    line = facts.timeline
    page = _template().render(
        name=facts.record["run"],
        shape=shape_words(facts),
        verdict=assess(facts),
        tiles=tiles(facts),
        against_noise=against_noise(facts),
        map=None if line is None else _map(facts),
        state=None if line is None or facts.states is None else _state(facts, line),
        ramp=excess_ramp(),
        curves=list(_curves(facts)),
        marks=list(marks(facts)),
        first=f"{facts.first_step:,}",
        last=f"{facts.step - 1:,}",
        rank_sentence=rank_sentence(facts),
        sizes=list(rank_rows(facts)),
        layer_heads=LAYER_HEADS,
        layer_rows=list(layer_rows(facts)),
        about_layers=ABOUT_LAYERS,
        experts=list(expert_sentences(facts)),
        facts=list(run_facts(facts)),
        capacity=[] if capacity is None else capacity_sentences(capacity),
        capacity_tables=[] if capacity is None else capacity_tables(capacity),
        version=version("moeload-bench"),
    )
    return "\n".join(map(printable, page.split("\n")))


@cache
def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError:
        raise MissingExtraError("jinja2", "live", "the page") from None
    text = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)


def shape_words(facts: Inspection) -> str:
    """Return the run's size: layers, experts, steps, tokens."""
    top_k = "" if facts.meta.top_k is None else f", top-{facts.meta.top_k}"
    return (
        f"{len(facts.names_L)} MoE layers x {facts.meta.experts} experts{top_k} · steps {facts.first_step:,} to "
        f"{facts.step - 1:,} · {facts.tokens:,} tokens a step"
    )


def tiles(facts: Inspection) -> list[tuple[str, str, str]]:
    """Return balance now, that of noise alone, and the worst layer: each a name, the number, what it is."""
    worst = facts.worst
    noise = ends(facts.low_L[worst], facts.high_L[worst])
    pooled = "".join(f"; {words}" for words in pooled_balance(facts))
    return [
        (
            "now",
            shown(mean_known(facts.busiest_L), ".2f"),
            f"busiest expert / mean, last {facts.recent} rows{pooled}",
        ),
        ("noise alone", ends(mean_known(facts.low_L), mean_known(facts.high_L)), "if all experts were equally likely"),
        (
            "worst layer",
            shown(float(facts.busiest_L[worst]), ".2f"),
            f"layer {facts.names_L[worst]}; noise alone {noise}",
        ),
    ]


def marks(facts: Inspection) -> Iterator[Mark]:
    """Yield what happened, in order of time: planned stages of data, and events."""
    span = max(1, facts.step - facts.first_step)
    happened: list[tuple[int, Sort, str]] = []
    unplanned = [event for event in facts.events.last if event.layer is not None or event.cause != NEW_DATA]
    sorts: tuple[tuple[Sort, bool], ...] = (("alarm", True), ("news", False))
    for sort, is_alarm in sorts:
        events = [event for event in unplanned if (event.kind in ALARMS) == is_alarm]
        happened += [(step, sort, text) for step, text in moments(events, within=span // MOST_PLACES)]
    planned: list[tuple[int, Sort, str]] = [
        (step, "planned", "a planned stage of data begins") for step in facts.switch_steps
    ]
    for step, sort, text in sorted(planned + sorted(happened)[-MOST_MARKED:]):
        yield Mark(100 * (step - facts.first_step) / span, step, sort, text)


class Map(NamedTuple):
    """The heat map: its bytes in base 64, height in pixels, the excess of the strongest colour, whether it has gaps.

    ``labels``: names of layers with their places in percent, and whether it is the worst one.
    """

    image: str
    height: int
    most: int
    has_gaps: bool
    labels: list[tuple[float, str, bool]]


def _map(facts: Inspection) -> Map:
    line, L = facts.timeline, len(facts.names_L)
    assert line is not None
    height = int(np.clip(LAYER_PIXELS * L, LEAST_HEIGHT, MOST_HEIGHT))
    named = {*np.linspace(0, L - 1, min(L, MOST_LABELS)).round().astype(int).tolist(), facts.worst}
    far = [i for i in sorted(named) if i == facts.worst or abs(i - facts.worst) * height / L >= 12]
    labels = [(100 * (i + 0.5) / L, facts.names_L[i], i == facts.worst and L > 1) for i in far]
    excess_NL = line.busiest_NL / floor_of(line)
    most = max(LEAST_SCALE, 2 ** math.ceil(math.log2(np.nanmax(excess_NL, initial=1.0))))
    image = _embedded(png(excess_colours(excess_NL.T, most)))
    return Map(image, height, most, bool(np.isnan(excess_NL).any()), labels)


def _state(facts: Inspection, line: Timeline) -> str:
    """Return a picture of one row, in base 64: which part of the layers with load moves in each bin."""
    part_N = mean_over(line.unsettled_NL[:, ~facts.silent_L], axis=1)
    colour_N4 = np.array([(*MOVING, round(255 * part)) if np.isfinite(part) else UNKNOWN for part in part_N.tolist()])
    return _embedded(png(colour_N4[None]))


def _embedded(image: bytes) -> str:
    return base64.b64encode(image).decode("ascii")


def _curves(facts: Inspection) -> Iterator[tuple[str, Curve]]:
    """Yield what is drawn below the map, on its time axis."""
    line = facts.timeline
    for column, name in CURVES.items():
        beginning = BEGINNING if column == "loss" else 0.0
        shown = None if line is None or column not in line.run else curve(line.run[column], beginning)
        if shown is not None:
            yield name, shown


def curve(value_N: FloatArray, beginning: float = 0.0) -> Curve | None:
    """Return a line with gaps where a value is not known; None for fewer than two values.

    ``beginning``: the part of it that does not set the upper end, and is cut off there.
    """
    known_N = np.isfinite(value_N)
    if known_N.sum() < 2:
        return None
    rest_N = value_N[int(beginning * len(value_N)) :]
    low, high = float(value_N[known_N].min()), float(np.nanmax(rest_N if np.isfinite(rest_N).any() else value_N))
    x_N = 1000 * (np.arange(len(value_N)) + 0.5) / len(value_N)
    y_N = 96 - 92 * (np.minimum(value_N, high) - low) / (high - low or 1.0)
    begins_N = np.diff(known_N.astype(int), prepend=0) > 0
    points = zip(x_N.tolist(), y_N.tolist(), known_N.tolist(), begins_N.tolist(), strict=True)
    path = "".join(f"{'M' if begins else 'L'}{x:.1f} {y:.1f}" for x, y, is_known, begins in points if is_known)
    return Curve(path, low, high, bool((value_N[known_N] > high).any()))


def excess_colours(excess_X: FloatArray, most: float) -> IntArray:
    """Return red, green, blue and cover [..., 4] of how many times noise alone: clear at 1, strongest at ``most``."""
    place_X1 = np.clip(np.log(np.maximum(excess_X, 1.0)) / np.log(most), 0.0, 1.0)[..., None]
    colour_X3 = np.array(MILD) + place_X1 * np.subtract(STRONG, MILD)
    colour_X4 = np.concatenate([colour_X3, 255 * np.minimum(1.0, 1.6 * place_X1)], axis=-1)
    return np.where(np.isnan(place_X1), UNKNOWN, np.round(np.nan_to_num(colour_X4))).astype(np.int64)


def excess_ramp() -> str:
    """Return the scale of the excess as a CSS gradient."""
    stops = excess_colours(2.0 ** np.linspace(0, 1, 9), 2.0).tolist()
    return f"linear-gradient(to right, {', '.join(f'rgb({r} {g} {b} / {a / 255:.3f})' for r, g, b, a in stops)})"


def png(colour_YX4: IntArray) -> bytes:
    """Return a PNG of red, green, blue and cover of each pixel."""
    pixels = np.ascontiguousarray(colour_YX4.astype(np.uint8))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], len(pixels), 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def run_facts(facts: Inspection) -> Iterator[tuple[str, str]]:
    """Yield what the run is, as far as its metadata says."""
    meta: TraceMeta = facts.meta
    strength = f", {meta.balancing.coefficient:g}" if meta.balancing.coefficient else ""
    yield "model", meta.family or "not given"
    yield "balancing", f"{meta.balancing.method.replace('_', ' ')}{strength}"
    yield "text", ", ".join(dict.fromkeys(source.name for source in meta.sources)) or "not given"
    yield "rows", f"{facts.rows:,}" + (f", every {ordinal(meta.stride)} step" if meta.stride > 1 else "")
    yield "counts", meta.count_semantics.replace("_", "-")
    yield "half batches", "recorded: noise is measured" if facts.has_half else "not recorded"
    yield "complete", "yes" if meta.complete else "no: cut short"
    for note in meta.notes:
        yield "note", note
