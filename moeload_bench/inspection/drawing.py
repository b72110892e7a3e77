"""Pictures without a plotting library: heat maps as PNG, lines as SVG paths.

Axis letters: N bins along time, L layers, X rows of a picture.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import FloatArray

UNKNOWN = (128, 128, 128)
MILD, STRONG = (245, 166, 35), (214, 30, 70)
"""Colours of little and of much excess over noise."""
STEPS = 254
"""Steps of a scale of colours."""


def excess_png(excess_NL: FloatArray, most: float) -> bytes:
    """Return a PNG of how many times noise alone: clear at 1, so that it fits any ground, strongest at ``most``."""
    place_NL = np.clip(np.log(np.maximum(excess_NL, 1.0)) / np.log(most), 0.0, 1.0)
    return _png(place_NL, [excess_colour(i / STEPS) for i in range(STEPS + 1)])


def excess_colour(place: float) -> tuple[int, int, int, int]:
    """Return the colour of a place on the scale of the excess, with how much it covers the ground."""
    red, green, blue = (round(low + place * (high - low)) for low, high in zip(MILD, STRONG, strict=True))
    return red, green, blue, round(255 * min(1.0, 1.6 * place))


def excess_ramp() -> str:
    """Return the scale of the excess as a CSS gradient."""
    stops = (excess_colour(i / 8) for i in range(9))
    return f"linear-gradient(to right, {', '.join(f'rgb({r} {g} {b} / {a / 255:.3f})' for r, g, b, a in stops)})"


def _png(place_NX: NDArray[np.floating], colours: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Return places between 0 and 1 as pixels, time to the right; NaN is grey."""
    known_NX = np.isfinite(place_NX)
    index_NX = np.where(known_NX, np.round(np.where(known_NX, place_NX, 0) * STEPS), STEPS + 1).astype(np.uint8)
    image = np.ascontiguousarray(index_NX.T)
    palette = [*colours, (*UNKNOWN, 255)]
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(part for one in palette for part in one[:3])),
        (b"tRNS", bytes(one[3] for one in palette)),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_uri(png: bytes) -> str:
    """Return the address of a PNG inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


class Curve(NamedTuple):
    """A line along time: SVG paths in a box of 1,000 x 100 without proportions, and the values at its two ends."""

    path: str
    low: float
    high: float


def curve(value_N: FloatArray) -> Curve | None:
    """Return a line with gaps where a value is not known; None for fewer than two values."""
    known_N = np.isfinite(value_N)
    if known_N.sum() < 2:
        return None
    low, high = float(value_N[known_N].min()), float(value_N[known_N].max())
    x_N = 1000 * (np.arange(len(value_N)) + 0.5) / len(value_N)
    y_N = 96 - 92 * (value_N - low) / (high - low or 1.0)
    begins_N = np.diff(known_N.astype(int), prepend=0) > 0
    points = zip(x_N.tolist(), y_N.tolist(), known_N.tolist(), begins_N.tolist(), strict=True)
    path = "".join(f"{'M' if begins else 'L'}{x:.1f} {y:.1f}" for x, y, known, begins in points if known)
    return Curve(path, low, high)
