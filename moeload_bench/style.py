"""What all figures share: fonts, colours that work for colour-blind readers and in grey print, panels, saving.

Nothing here touches pyplot or global settings: every figure is made and saved inside `style()`, on the Agg renderer,
and the same input gives the same bytes.
"""

from __future__ import annotations

import io
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.baseline_facts import baseline_facts
from moeload_bench.errors import MissingExtraError, PlotError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SUFFIXES = (".svg", ".png", ".pdf")
WIDTH = 7.0
"""Inches: the text width of a page, so that 8 point text prints as 8 points."""
DPI = {"png": 150, "svg": 200, "pdf": 200}
"""Dots per inch; in vector formats, only for the parts that are pixels."""
MAX_LEGEND_EXPERTS = 10
"""Up to this many experts have a colour and a legend entry each; more are coloured by rank, with a colour bar."""

LEGEND_CHARACTER, LEGEND_HANDLE = 0.062, 0.45
"""Inches that a character, and a handle with its space, take in a legend."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F", "#7F7F7F", "#7A3E9D")
"""Okabe and Ito's colours, and three more whose lightness separates them under red-green blindness."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
STATE_COLOURS = {"transient": "#E69F00", "stable": "#9CC9E8"}
STATE_HATCHES = {"transient": "/////", "stable": ""}
STRIP = (2.0, 5.0)
"""Points between a panel and its state strip, and the height of the strip."""
GREY = "#595959"

SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "figure.labelsize": 8,
    "figure.titlesize": 8,
    "legend.title_fontsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.0,
    "lines.markersize": 4,
    "hatch.linewidth": 0.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "moeload-bench",
    "savefig.facecolor": "white",
    "path.simplify": True,
    "text.usetex": False,
}


def load_matplotlib() -> Any:
    """Return the module; raise `MissingExtraError` without it."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "a figure") from None
    return mpl


@contextmanager
def style() -> Iterator[None]:
    """Apply matplotlib's defaults with the settings of this package, until the end of the block.

    Raise `MissingExtraError` without matplotlib.
    """
    mpl = load_matplotlib()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure (inches) whose layout keeps labels, legends and panels apart; call it in `style()`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04))
    FigureCanvasAgg(figure)
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined] # what a notebook shows
    return figure


def _png(figure: Figure) -> bytes:
    """Return the picture as a notebook shows it."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=DPI["png"])
    return buffer.getvalue()


def panels(
    count: int, *, height: float = 1.5, columns: int | None = None, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a grid of ``count`` panels with shared axes, ``height`` inches each; other cells stay empty.

    Only the left panels and the lowest panel of each column have tick labels.
    """
    columns = columns or columns_of(count)
    rows = math.ceil(count / columns)
    figure = new_figure(height * rows + 0.7)
    grid = figure.subplots(rows, columns, sharex=True, sharey=share_y, squeeze=False)
    axes: list[Axes] = list(grid.flat)
    for cell in axes[count:]:
        cell.remove()
    for below in axes[max(count - columns, 0) : count]:
        below.tick_params(labelbottom=True)
    return figure, axes[:count]


def columns_of(count: int) -> int:
    """Return how many panels stand side by side."""
    return next((c for c, most in ((1, 1), (2, 4), (3, 12)) if count <= most), 4)


def check_suffix(path: str | os.PathLike[str]) -> Path:
    """Return the path of a figure; raise `PlotError` for a suffix that is not one of SUFFIXES."""
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise PlotError(f"{target}: a figure is written as {', '.join(SUFFIXES)}, got the suffix {target.suffix!r}")
    return target


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure in the format of its suffix, without date or program version; folders are made as needed."""
    target = check_suffix(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = target.suffix.lower()[1:]
    nothing: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    with style():
        figure.savefig(target, format=kind, dpi=DPI[kind], metadata=nothing[kind])
    return target


def ordered_colours(order_E: NDArray[np.int64]) -> list[Any]:
    """Return [E] colours: one of the palette for each if they are few, else along one scale by rank in ``order_E``.

    ``order_E`` lists the indices in ascending order of what the scale stands for.
    """
    E = len(order_E)
    if E <= MAX_LEGEND_EXPERTS:
        return [PALETTE[e] for e in range(E)]
    from matplotlib import colormaps

    rank_E = np.empty(E)
    rank_E[order_E] = np.arange(E)
    return [colormaps["viridis"](0.86 * rank / max(E - 1, 1)) for rank in rank_E]


def forecaster_looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return each forecaster's colour and marker, the same in whatever company it is drawn (`forecaster_places`)."""
    places, n = forecaster_places(names), len(PALETTE)
    return {name: {"color": PALETTE[p % n], "marker": MARKERS[(p + p // n) % n]} for name, p in places.items()}


def forecaster_places(names: Sequence[str]) -> dict[str, int]:
    """Return each forecaster's place: the one that its file states, or the next free colour after its name's hash."""
    facts = baseline_facts()
    place = {name: facts[name].place for name in names if name in facts}
    n = len(PALETTE)
    for name in sorted(set(names) - set(place)):
        first = zlib.crc32(name.encode()) % n
        taken = {p % n for p in place.values()}
        place[name] = next((i % n for i in range(first, first + n) if i % n not in taken), first)
    return {name: place[name] for name in names}


def state_strip(axes: Axes, spans: Iterable[tuple[float, float, str]]) -> None:
    """Draw a band above a panel that shows the state over training steps, (first, end, state); height in points."""
    from matplotlib.patches import Rectangle
    from matplotlib.transforms import Affine2D, ScaledTranslation, blended_transform_factory

    figure = axes.get_figure()
    assert figure is not None
    corner: Any = axes.transAxes  # any transform works; only the stubs want an affine one
    points = Affine2D().scale(1 / 72) + figure.dpi_scale_trans + ScaledTranslation(0, 1, corner)
    where = blended_transform_factory(axes.transData, points)
    for start, stop, state in spans:
        axes.add_patch(
            Rectangle(
                (start, STRIP[0]), stop - start, STRIP[1], transform=where, clip_on=False, linewidth=0,
                facecolor=STATE_COLOURS[state], edgecolor="white", hatch=STATE_HATCHES[state], gid=f"state-{state}",
            )
        )  # fmt: skip


def state_handles() -> list[Any]:
    """Return the legend entries of the strip."""
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=colour, edgecolor="white", hatch=STATE_HATCHES[state], linewidth=0, label=f"state: {state}")
        for state, colour in STATE_COLOURS.items()
    ]


def legend_line(label: str, color: str, linestyle: Any = "-", **more: Any) -> Any:
    """Return a legend entry."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linestyle=linestyle, label=label, **more)


def legend_above(figure: Figure, title: str, handles: Sequence[Any], columns: int = 6) -> None:
    """Add a title, and under it one legend for all panels, above them, in at most ``columns`` columns."""
    if handles:
        ncols = legend_columns([handle.get_label() for handle in handles], figure.get_figwidth(), columns)
        figure.legend(handles=list(handles), loc="outside upper center", ncols=ncols, title=title)
    else:
        figure.suptitle(title)


def legend_columns(labels: Sequence[str], width: float, most: int) -> int:
    """Return the most columns that fit into ``width`` inches, if a legend fills one column after the other."""
    room = [LEGEND_CHARACTER * len(label) + LEGEND_HANDLE for label in labels]
    for columns in range(min(len(labels), most), 1, -1):
        short, longer = divmod(len(labels), columns)
        sizes = [short + 1] * longer + [short] * (columns - longer)
        starts = [sum(sizes[:i]) for i in range(columns)]
        if sum(max(room[start : start + size]) for start, size in zip(starts, sizes, strict=True)) <= width:
            return columns
    return 1


def write_remark(axes: Axes, text: str) -> None:
    """Write a remark in the middle of a panel without data."""
    box = {"facecolor": "white", "linewidth": 0, "pad": 1}
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=7, bbox=box)


def log_if_wide(axes: Sequence[Axes]) -> float:
    """Make the y axes logarithmic if all that is drawn is positive and spans more than a factor of ten.

    Return the least value that is drawn, NaN without any.
    """
    values = [np.asarray(line.get_ydata(), dtype=np.float64) for ax in axes for line in ax.get_lines()]
    finite = np.concatenate([value[np.isfinite(value)] for value in values])
    if finite.size and finite.min() > 0 and finite.max() > 10 * finite.min():
        log_axis(axes[0].yaxis, float(finite.min()), float(finite.max()))
    return float(finite.min()) if finite.size else math.nan


def log_axis(axis: Any, low: float, high: float) -> None:
    """Set a logarithmic axis over at least ``low`` .. ``high``, with labels that do not overlap.

    ``axis``: `ax.xaxis` or `ax.yaxis`. Below two powers of ten 1, 2 and 5 are labelled, above that only the powers.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    narrow = high < 100 * low
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    margin = max((high / low) ** 0.08, (10 * low / high) ** 0.5 if high < 10 * low else 1.0)
    axis.axes.set(**{f"{axis.axis_name}lim": (low / margin, high * margin)})
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if narrow else (1,)))
    axis.set_minor_formatter(NullFormatter())
    if narrow:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
