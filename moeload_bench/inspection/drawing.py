"""Pictures without a plotting library: heat maps as PNG, and line charts as SVG that follows the page's colours.

Axis letters: N bins along time, E rows of a heat map.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import FloatArray

COLOURS = ((36, 18, 66), (58, 82, 139), (33, 145, 140), (122, 209, 81), (253, 231, 37))
"""Colours from an eighth of the even share (dark) over the even share (middle) to eight times it (bright)."""
OCTAVES = 3.0
UNKNOWN = (128, 128, 128)


def shade(share: NDArray[np.floating], experts: int) -> FloatArray:
    """Where a share lies on the colour scale: 0 an eighth of 1/E or less, 0.5 the even share, 1 eight times it."""
    ratio = np.maximum(np.asarray(share, dtype=np.float64) * experts, 2.0**-10)
    return np.asarray(np.clip(0.5 + np.log2(ratio) / (2 * OCTAVES), 0.0, 1.0))


def colour(position: float) -> tuple[int, int, int]:
    """Return the colour at a place on the scale."""
    at = np.linspace(0.0, 1.0, len(COLOURS))
    red, green, blue = (float(np.interp(position, at, channel)) for channel in zip(*COLOURS, strict=True))
    return round(red), round(green), round(blue)


def share_lines(share_NE: NDArray[np.floating], most: int) -> tuple[NDArray[np.floating], int]:
    """Return a heat map of at most ``most`` lines, and how many neighbouring experts share one.

    A cell is the largest share of its experts, so that a hot one stays as hot as it is; NaN where nothing is known.
    """
    experts = share_NE.shape[1]
    group = -(-experts // most)
    return np.fmax.reduceat(share_NE, np.arange(0, experts, group), axis=1), group


def heat_png(share_NE: NDArray[np.floating], experts: int) -> bytes:
    """Return a PNG of a pixel per bin and line, time to the right, the first line on top; grey is unknown."""
    known_NE = np.isfinite(share_NE)
    index_NE = np.where(known_NE, np.round(shade(np.where(known_NE, share_NE, 0), experts) * 254), 255).astype(np.uint8)
    palette = bytes(part for i in range(255) for part in colour(i / 254)) + bytes(UNKNOWN)
    image = np.ascontiguousarray(index_NE.T)
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_uri(png: bytes) -> str:
    """Return the address of a PNG inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


@dataclass(frozen=True)
class Line:
    """One line of a chart. ``dashed`` for what is a bound rather than a result."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, on a logarithmic scale or not, and a least span."""

    name: str
    log: bool = False
    floor: float | None = None


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 260, 56, 28, 10, 40


def line_chart(lines: Sequence[Line], x: Axis, y: Axis, about: str) -> str:
    """Return an SVG with axes, grid and one path per line, classes `c0`, `c1`...; "" when there is nothing to draw."""
    kept = [(i, line, [p for p in line.points if _drawable(p, x, y)]) for i, line in enumerate(lines)]
    points = [point for _, _, some in kept for point in some]
    if not points:
        return ""
    across = _Scale([p[0] for p in points], x, LEFT, WIDTH - RIGHT)
    up = _Scale([p[1] for p in points], y, HEIGHT - BOTTOM, TOP)
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(about)}">']
    for value in up.ticks:
        at = up.at(value)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(_text("tick", LEFT - 6, at + 4, _number(value), "end"))
    out += [_text("tick", across.at(value), HEIGHT - BOTTOM + 16, _number(value)) for value in across.ticks]
    out.append(_text("name", (LEFT + WIDTH) / 2, HEIGHT - 6, x.name))
    out.append(
        f'<g transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">{_text("name", 0, 0, y.name)}</g>'
    )
    for i, line, some in kept:
        out.append(_path(i, line, some, across, up))
    return "".join(out) + "</svg>"


def _text(kind: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def legend(lines: Sequence[Line]) -> str:
    """Return the names beside their colours."""
    items = (
        f'<li><span class="key c{i % 8}{" dashed" if line.dashed else ""}"></span>{escape(line.name)}</li>'
        for i, line in enumerate(lines)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _path(i: int, line: Line, points: Sequence[tuple[float, float]], across: _Scale, up: _Scale) -> str:
    if not points:
        return ""
    at = " L".join(f"{across.at(a):.1f} {up.at(b):.1f}" for a, b in points)
    style = f"c{i % 8}{' dashed' if line.dashed else ''}"
    dots = ""
    if len(points) <= 16:
        dots = "".join(
            f'<circle class="dot c{i % 8}" cx="{across.at(a):.1f}" cy="{up.at(b):.1f}" r="3">'
            f"<title>{escape(line.name)}: {_number(b)} at {_number(a)}</title></circle>"
            for a, b in points
        )
    return f'<path class="line {style}" d="M{at}"><title>{escape(line.name)}</title></path>{dots}'


def _drawable(point: tuple[float, float], x: Axis, y: Axis) -> bool:
    return all(np.isfinite(v) and (v > 0 or not axis.log) for v, axis in zip(point, (x, y), strict=True))


class _Scale:
    """From values to places between two ends of the picture, with ticks at round numbers."""

    def __init__(self, values: Sequence[float], axis: Axis, start: float, stop: float) -> None:
        self._log, self._start, self._length = axis.log, start, stop - start
        low, high = min(values), max(values)
        if axis.floor is not None:
            low = min(low, axis.floor)
        if low == high:
            low, high = (low / 2, high * 2) if axis.log else (low - 0.5, high + 0.5)
        if axis.log:
            self._low, self._high = low / 1.1, high * 1.1
            self.ticks = _log_ticks(self._low, self._high)
        else:
            self.ticks = _ticks(low, high)
            self._low, self._high = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def at(self, value: float) -> float:
        if self._log:
            low, high, value = np.log(self._low), np.log(self._high), np.log(value)
        else:
            low, high = self._low, self._high
        return self._start + float((value - low) / (high - low)) * self._length


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(raw))
    step = float(next(m for m in (1, 2, 5, 10) if m * power >= raw) * power)
    first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers inside; 1, 2 and 5 of each decade where there are few; both ends where there are none."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    every = [float(m * 10.0**d) for d in decades for m in ((1, 2, 5) if high <= 500 * low else (1,))]
    return [value for value in every if low <= value <= high] or [low, high]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.3g}"
