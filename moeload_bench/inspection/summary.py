"""What a monitor knows now, in words, for terminals and notebooks.

Axis letters: L MoE layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import counted
from moeload_bench.inspection.drawing import data_uri, heat_png, share_lines
from moeload_bench.inspection.past import Past
from moeload_bench.inspection.snapshots import FormerSnapshot, Outlook
from moeload_bench.inspection.starving import alarm_errors, death_sentences
from moeload_bench.traces.means import mean_known
from moeload_bench.words import every, shown

MOST_HEATS = 4
FEW_EXPERTS = 16
"""Up to so many per layer, each has a line of its own in a heat map of characters; of more, the extremes are named."""
MOST_LINES = 320
"""Of a heat map in pixels."""
LR_DECAYED = 0.5
"""Part of the largest learning rate below which it has decayed."""
NAMED, EXTREMES = 8, 5
"""Names in a list at most: of dead or dying experts; of the hottest or coldest."""


@dataclass(frozen=True, eq=False)
class Summary:
    """The newest snapshot with the run's past; ``stopped``: why monitoring ended early."""

    snapshot: FormerSnapshot | None
    past: Past | None
    stopped: str | None = None

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """One sentence each: state, imbalance, experts, forecasts, the decision, advice."""
        lines = [] if self.stopped is None else [self.stopped]
        if self.snapshot is None:
            return [*lines, "nothing seen yet"]
        return [*lines, *sentences(self.snapshot)]

    def _repr_html_(self) -> str:
        """For notebooks: the sentences, a row per layer, and the heat maps of the most unbalanced layers."""
        head = "".join(f"<div>{escape(line)}</div>" for line in self.lines())
        if self.snapshot is None:
            return f"<div>{head}</div>"
        cell = "<td style='text-align:right;padding:1px 8px'>"
        rows = "".join(
            f"<tr>{''.join(f'{cell}{escape(text)}</td>' for text in row)}</tr>" for row in layer_rows(self.snapshot)
        )
        names = "".join(f"<th style='padding:1px 8px'>{escape(name)}</th>" for name in LAYER_COLUMNS)
        return f"<div>{head}<table><tr>{names}</tr>{rows}</table>{self._heats()}</div>"

    def _heats(self) -> str:
        if self.snapshot is None or self.past is None or not len(self.past.step_N):
            return ""
        worst = np.argsort(-np.nan_to_num(self.snapshot.maxvio_L))[:MOST_HEATS]
        experts = self.past.share_NLE.shape[2]
        return "".join(
            f"<figure style='margin:6px 0'><figcaption>layer {escape(self.snapshot.names_L[i])}: share of each expert, "
            f"steps {self.past.step_N[0]:,} to {self.snapshot.step - 1:,}</figcaption><img alt='' style='width:480px;"
            f"height:{max(48, min(6 * experts, MOST_LINES))}px;image-rendering:pixelated' "
            f"src='{data_uri(heat_png(share_lines(self.past.share_NLE[:, i], MOST_LINES)[0], experts))}'></figure>"
            for i in worst.tolist()
        )


def sentences(snapshot: FormerSnapshot, *, brief: bool = False) -> list[str]:
    """State, imbalance, experts, forecasts, decision and advice at one step; ``brief``: of the decision the answer."""
    lines = [
        f"{_state(snapshot)}{lr_words(snapshot)}",
        _imbalance(snapshot),
        *expert_sentences(snapshot),
        _forecasts(snapshot),
    ]
    lines += snapshot.decision.lines()[: 1 if brief else None]
    if snapshot.advice is not None:
        lines.append(f"Advice: {snapshot.advice.reason}.")
    return [line for line in lines if line]


def _state(snapshot: FormerSnapshot) -> str:
    stable = int((~snapshot.transient_L).sum())
    of = len(snapshot.names_L)
    since = int(snapshot.since_L.max())
    if snapshot.state != "mixed":
        return f"Step {snapshot.step:,}: {snapshot.state} in {every(of, 'layer')}, the last one since step {since:,}."
    moving = [name for name, t in zip(snapshot.names_L, snapshot.transient_L.tolist(), strict=True) if t]
    named = f" ({', '.join(moving)})" if len(moving) <= 6 else ""
    return f"Step {snapshot.step:,}: {stable} of {of} layers stable, {of - stable} transient{named}."


def lr_words(snapshot: FormerSnapshot) -> str:
    """Return whether the learning rate has decayed, if a layer is stable; nothing if it is not known."""
    if snapshot.lr is None or snapshot.transient_L.all() or not snapshot.lr[0]:
        return ""
    part = snapshot.lr[1] / snapshot.lr[0]
    if part < LR_DECAYED:
        return f" The learning rate has fallen to {100 * part:.2g} % of its largest: smaller steps alone settle loads."
    return f" The learning rate has not decayed ({100 * part:.0f} % of its largest)."


def _imbalance(snapshot: FormerSnapshot) -> str:
    """Return drift and imbalance of the last window, in brackets those of the first one."""
    vio_L, start = snapshot.maxvio_L, snapshot.start
    if not np.isfinite(vio_L).any():
        return "No layer has any load."
    worst = int(np.nanargmax(vio_L))
    text = (
        f"Lately (at step {start.step:,}): MaxVio {np.nanmean(vio_L):.2f} ({start.maxvio:.2f}), {vio_L[worst]:.2f} in "
        f"layer {snapshot.names_L[worst]}"
    )
    if np.isfinite(snapshot.drift_L).any():
        text += f"; drift {100 * float(np.nanmean(snapshot.drift_L)):.1f} % of tokens ({100 * start.drift:.1f} %)"
    if snapshot.placing is None:
        return f"{text}."
    present, even = (float(np.nanmean(v)) for v in (snapshot.placing.imbalance_L, snapshot.placing.static_L))
    plan = f", {present:.2f} this plan" if snapshot.placing.replans else ""
    first = f" ({start.even:.2f})" if np.isfinite(start.even) else ""
    return f"{text}; max/mean device load {even:.2f} even spread{first}{plan}."


def expert_sentences(snapshot: FormerSnapshot) -> list[str]:
    """Dead and dying experts, and deaths; of more than `FEW_EXPERTS` per layer also quantiles, hottest and coldest."""
    return [_experts(snapshot), *death_sentences(snapshot.deaths, snapshot.names_L), *extreme_sentences(snapshot)]


def extreme_sentences(snapshot: FormerSnapshot) -> list[str]:
    """Quantiles, the hottest and the coldest of more than `FEW_EXPERTS` per layer."""
    load_LE = snapshot.share_LE * snapshot.share_LE.shape[1]
    loaded_LE = load_LE[~snapshot.silent_L]
    if load_LE.shape[1] <= FEW_EXPERTS or not loaded_LE.size:
        return []
    order = np.argsort(load_LE, axis=None, kind="stable")[: loaded_LE.size]  # unknown ones come last
    living = order[~snapshot.dead_LE.ravel()[order]]
    return [
        f"Load / even share of experts: {_quantiles(loaded_LE.ravel())}; of each layer's hottest: "
        f"{_quantiles(loaded_LE.max(axis=1))}.",
        f"Hottest (layer.expert, load / even share): {_names(snapshot, order[::-1][:EXTREMES])}.",
        f"Coldest of those that live: {_names(snapshot, living[:EXTREMES])}.",
    ]


def _quantiles(values: np.ndarray) -> str:
    p50, p90, p99 = np.quantile(values, (0.5, 0.9, 0.99))
    return f"p50 {p50:.2f}, p90 {p90:.2f}, p99 {p99:.2f}, most {values.max():.2f}"


def _names(snapshot: FormerSnapshot, flat: np.ndarray) -> str:
    """Name experts, given by their places in a flat [L, E]; with its load over the even share where there are many."""
    E = snapshot.share_LE.shape[1]
    names = []
    for layer, expert in zip(*np.divmod(flat, E), strict=True):
        load = f" {snapshot.share_LE[layer, expert] * E:.2f}" if E > FEW_EXPERTS else ""
        names.append(f"{snapshot.names_L[layer]}.{expert}{load}")
    return ", ".join(names)


def _experts(snapshot: FormerSnapshot) -> str:
    silent = int(snapshot.silent_L.sum())
    if silent == len(snapshot.names_L):
        return ""  # said of the imbalance already
    missing = f"; {counted(silent, 'layer')} had no load" if silent else ""
    if not snapshot.dead_LE.any() and not snapshot.dying_LE.any():
        return f"No expert is dead or dying{missing}."
    dead, dying = (_named(snapshot, which_LE) for which_LE in (snapshot.dead_LE, snapshot.dying_LE))
    errors = f" {alarm_errors()}" if snapshot.dying_LE.any() else ""
    return f"Experts dead: {dead}; about to die, the alarm says: {dying}{missing}.{errors}"


def _named(snapshot: FormerSnapshot, which_LE: np.ndarray) -> str:
    found = np.flatnonzero(which_LE)
    if not len(found):
        return "none"
    return f"{len(found)} (layer.expert {_names(snapshot, found[:NAMED])}{', ...' if len(found) > NAMED else ''})"


def _forecasts(snapshot: FormerSnapshot) -> str:
    outlook, lately = snapshot.outlook, snapshot.outlook.lately
    if not np.isfinite(lately.forecast_L).any():
        return f"No forecast of {outlook.horizon} steps has been judged yet."
    return forecast_words(outlook, f"; last step's shares {_percent(lately.last_value_L)}")


def forecast_words(outlook: Outlook, last: str = "") -> str:
    """Return how good forecasts are, of which some are judged; ``last``: what is said of the last step's shares."""
    lately = outlook.lately
    noise = f"; sampling noise alone {_percent(lately.floor_L)}" if np.isfinite(lately.floor_L).any() else ""
    return (
        f"Forecasts of {outlook.horizon} steps: {_percent(lately.forecast_L)} of tokens misplaced lately "
        f"({_percent(outlook.start.forecast_L)} at the start{last}{noise})."
    )


def _percent(part_L: FloatArray) -> str:
    return f"{100 * mean_known(part_L):.1f} %"


LAYER_COLUMNS = ("layer", "state", "since", "drift", "MaxVio", "max/mean", "entropy", "dead", "dying", "error")


def layer_rows(snapshot: FormerSnapshot) -> list[tuple[str, ...]]:
    """Return a row of cells per layer, in the order of `LAYER_COLUMNS`."""
    return [
        (
            name,
            "transient" if snapshot.transient_L[i] else "stable",
            f"{snapshot.since_L[i]:,}",
            shown(snapshot.drift_L[i], ".3f"),
            shown(snapshot.maxvio_L[i], ".2f"),
            shown(snapshot.imbalance_L[i], ".2f"),
            shown(snapshot.entropy_L[i], ".3f"),
            *("-" if silent else str(int(which_LE[i].sum())) for which_LE in (snapshot.dead_LE, snapshot.dying_LE)),
            shown(snapshot.outlook.lately.forecast_L[i], ".3f"),
        )
        for i, (name, silent) in enumerate(zip(snapshot.names_L, snapshot.silent_L.tolist(), strict=True))
    ]
