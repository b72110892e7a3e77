"""The layers of runs with real shapes as one Markdown page (page.md.j2) and two figures, from their two tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from leaderboard.committed import recipe_name
from leaderboard.pages.parts import aligned_table as table
from leaderboard.shapes import measuring
from leaderboard.templates import render_text
from moeload_bench import style
from moeload_bench.results.tables import signed, three_digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIR = ("shape-olmoe-4l-w64", "shape-olmoe-w64")
"""The same model with 4 and with 16 layers, two seeds each: what its four runs agree on is said to go with depth."""
LEAST_CORRELATION = 0.2
"""A rank correlation with depth nearer to 0 counts for neither sign."""
QUANTITIES = {
    "onset": {1: "becomes stable later", -1: "becomes stable sooner"},
    "drift": {1: "drifts more", -1: "drifts less"},
    "imbalance": {1: "is less balanced at the end", -1: "is better balanced at the end"},
    "dead": {1: "has more dead experts", -1: "has fewer dead experts"},
    "error": {1: "is harder to forecast", -1: "is easier to forecast"},
}
"""What is correlated with depth, and what a positive and a negative sign say of a deeper layer."""
FIGURES = {"onset": "first stable step", "drift": "drift"}


class Depth(NamedTuple):
    """How a quantity goes with depth: by run, the rank correlation of it with the layer's number; NaN if all are equal.

    ``sign``: 1 or -1 where the pair's runs agree, else 0; ``shapes``: of so many shapes, ``same`` have this sign.
    """

    of_run: dict[str, float]
    sign: int
    same: int
    shapes: int


class Layers(NamedTuple):
    """What was measured: a row per run, and a row per layer."""

    runs: pd.DataFrame
    layers: pd.DataFrame

    def write(self, folder: Path) -> None:
        """Write both tables as CSV, with six significant digits."""
        folder.mkdir(parents=True, exist_ok=True)
        self.runs.to_csv(folder / "runs.csv", float_format="%.6g", index=False)
        self.layers.to_csv(folder / "layers.csv", float_format="%.6g", index=False)

    def depth(self, quantity: str) -> Depth:
        """Return how a quantity goes with depth. A layer that never settles has its onset after all others."""
        of_run = {}
        for run, rows in self.layers.groupby("run", sort=False):
            value = rows[quantity].fillna(np.inf) if quantity == "onset" else rows[quantity]
            varies = value.nunique() > 1
            of_run[str(run)] = float(rows["layer"].corr(value.rank(), "spearman")) if varies else np.nan
        signs = pd.Series({run: np.sign(rho) * (abs(rho) >= LEAST_CORRELATION) for run, rho in of_run.items()})
        of_pair = set(signs[signs.index.map(recipe_name).isin(PAIR)])
        sign = int(of_pair.pop()) if len(of_pair) == 1 and of_pair <= {-1, 1} else 0
        by_shape = (signs == sign).groupby(recipe_name).all()
        return Depth(of_run, sign, int(by_shape.sum()) if sign else 0, len(by_shape))

    def first_drifts_most(self) -> int:
        """Return in how many shapes the first layer drifts most, in all of their runs."""
        largest = self.layers.loc[self.layers.groupby("run")["drift"].idxmax()].set_index("run")["layer"]
        return int((largest == 0).groupby(recipe_name).all().sum())


def short_name(run: str) -> str:
    """Return a run's shape and seed, as figures write it: `olmoe-w64 seed304`."""
    return run.removeprefix("shape-").replace("/test/", " ")


def read_layers(folder: Path) -> Layers:
    """Return what `Layers.write` wrote."""
    return Layers(pd.read_csv(folder / "runs.csv"), pd.read_csv(folder / "layers.csv"))


def shapes_page(found: Layers, board: Mapping[str, Any]) -> str:
    """Return the whole page, with what `board_words` says; it links figures in the folder `shapes` beside it."""
    depths = {quantity: found.depth(quantity) for quantity in QUANTITIES}
    runs = found.runs
    together = (runs["pairs"] > runs["chance"]).groupby(runs["run"].map(recipe_name)).all()
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        board=board,
        measuring=measuring,
        least=LEAST_CORRELATION,
        words=QUANTITIES,
        first_drifts_most=found.first_drifts_most(),
        depths=depths,
        together=together,
        shapes=len(together),
        runs=len(runs),
        run_table=_run_table(found),
        depth_table=_depth_table(depths),
        most=f"{runs['layers'].max()}",
    )


def _run_table(found: Layers) -> str:
    rows = []
    for run in found.runs.to_dict("records"):
        layers = found.layers[found.layers["run"] == run["run"]]
        settled = layers["onset"].dropna()
        span = f"{settled.min():,.0f} to {settled.max():,.0f}" if len(settled) else "never"
        rows.append(
            [f"`{run['run']}`", f"{run['layers']} x {run['experts']}, top-{run['top_k']}", f"{run['steps']:,}", span,
             f"{len(layers) - len(settled)}", three_digits(layers["imbalance"].max()), f"{layers['dead'].sum():.0f}",
             *(signed(run[name], 2) for name in ("neighbours", "pairs", "chance"))]
        )  # fmt: skip
    heads = ("run", "layers x experts", "steps", "onsets", "never settle", "largest imbalance", "dead experts",
             "neighbours", "all pairs", "by chance")  # fmt: skip
    return table(heads, rows, 2)


def _depth_table(depths: dict[str, Depth]) -> str:
    """Return a row per run, a column per quantity, and below how many shapes have the sign that the pair agrees on."""
    runs = next(iter(depths.values())).of_run
    rows = [
        [f"`{run}`", *("-" if (rho := one.of_run[run]) != rho else signed(rho, 2) for one in depths.values())]
        for run in runs
    ]
    agreed = [f"{one.same} of {one.shapes}" if one.sign else "the pair disagrees" for one in depths.values()]
    return table(("run", *depths), [*rows, ["*shapes with the sign of the pair*", *agreed]], 1)


def draw_depth(found: Layers, quantity: str) -> Figure:
    """Draw a quantity by layer, a panel per shape, a line per run."""
    recipes = list(dict.fromkeys(map(recipe_name, found.runs["run"])))
    with style.style():
        figure, axes = style.panels(len(recipes), height=1.5, share_y=False)
        for ax, recipe in zip(axes, recipes, strict=True):
            mine = found.layers[found.layers["run"].map(recipe_name) == recipe]
            for _, rows in mine.groupby("run"):
                ax.plot(rows["layer"], rows[quantity], marker="o", markersize=2.5, linewidth=0.8)
            ax.set_title(recipe.removeprefix("shape-"))
            ax.grid(axis="y")
            if mine[quantity].isna().all():
                style.write_remark(ax, "never stable")
                ax.set_yticks([])
        figure.supxlabel("MoE layer, the first one left")
        figure.supylabel(FIGURES[quantity])
    return figure
