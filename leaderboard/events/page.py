"""The parts of docs/guide/live.md that say how right events are, from what was measured."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from leaderboard.events.alarms import (
    AFTER,
    BEFORE,
    EVENTS,
    KINDS,
    LOSS,
    MEASURED,
    SETTING,
    SWITCH_STEPS,
    VIOLATION,
    WITHIN,
    Healthy,
    Measured,
    Noticed,
)
from leaderboard.fit import moves
from leaderboard.fit.events import CHOSEN, Chosen
from leaderboard.pages.parts import Maker, aligned_table
from moeload_bench.errors import counted
from moeload_bench.ops.facts.moves import BEFORE_STEPS
from moeload_bench.results.skill import CONFIDENCE, interval_of

RIVALS = (EVENTS, VIOLATION, LOSS)
METHODS = (*KINDS, *RIVALS)
Z95 = 1.96
"""Standard errors to either side of a 95 % interval."""


def measured() -> Measured:
    """Return what was measured, as it is committed."""
    return Measured.model_validate_json(MEASURED.read_bytes())


def false_alarms() -> str:
    """Return how often each alarm is raised on runs without a break, for each 100,000 steps."""
    found = measured()
    groups = [[one for one in found.healthy if one.balanced is balanced] for balanced in (True, False)]
    rows = [(f"*{kind}*", *(_rate(group, "alarms", kind) for group in groups)) for kind in KINDS]
    rows += [(f"{name}, episodes", *(_rate(group, "episodes", name) for group in groups)) for name in RIVALS]
    heads = ("alarm", f"{len(groups[0])} balanced runs", f"{len(groups[1])} runs without balancing")
    steps, switches = (sum(getattr(one, name) for one in found.healthy) for name in ("steps", "switches"))
    planned = ", ".join(f"{sum(one.planned[kind] for one in found.healthy)} {kind}" for kind in KINDS)
    about = (
        "A row is a kind of alarm, a number how many there are for each 100,000 steps, with the 95 % interval by run; "
        f"less is better. *moved*: loads, *{SETTING}*: a recorded setting that stepped. Alarms within {WITHIN} steps "
        f"of each other are one episode. The thresholds of the rivals ({found.thresholds[VIOLATION]:.2f} and "
        f"{found.thresholds[LOSS]:.2f}) are the lowest with no more false episodes on all these runs than events have. "
        f"Counted apart are the {SWITCH_STEPS} steps after each of {switches} planned switches of data or restarts of "
        f"the learning rate: {planned}."
    )
    first = f"On {len(found.healthy)} runs of season 2027-01, {steps:,} steps in which nothing was broken:"
    of_moves = f"Loads *moved* at once {' and '.join(_moved(found.healthy, name) for name in (BEFORE, AFTER))}."
    return _part(first, aligned_table(heads, rows, 1), textwrap.fill(about, 120), of_moves)


def _moved(runs: Sequence[Healthy], name: str) -> str:
    """Return false moves for each 100,000 layer-steps that are watched, with the interval by run.

    Where no run has one, the upper end is that of runs with one, which is all that is known.
    """
    moved_N, watched_N = (np.array([getattr(one, of)[name] for one in runs], float) for of in ("moved", "watched"))
    rate = moved_N.sum() / watched_N.sum()
    error = np.sqrt(len(runs) / (len(runs) - 1) * ((moved_N - rate * watched_N) ** 2).sum()) / watched_N.sum()
    low, high = (1e5 * max(0.0, rate + side * Z95 * error) for side in (-1, 1))
    if not rate:
        high = 1e5 * len(runs) * (1 - (1 - CONFIDENCE) ** (1 / len(runs))) / watched_N.sum()
    times = counted(int(moved_N.sum()), "time")
    return (
        f"{times} {name} a layer had settled once, {1e5 * rate:.2f} [{low:.2f}, {high:.2f}] for each 100,000 of "
        f"{watched_N.sum():,.0f} layer-steps watched"
    )


def _rate(runs: Sequence[Healthy], counts: str, name: str) -> str:
    """Return alarms for each 100,000 steps, with the interval by run."""
    rate_N = np.array([1e5 * getattr(one, counts)[name] / one.steps for one in runs])
    low, high = interval_of(rate_N)
    return f"{rate_N.mean():.1f} [{max(0.0, low):.1f}, {high:.1f}]"


def breaks() -> str:
    """Return how many breaks and planned switches were noticed within 300 steps, and after how many."""
    found = measured()
    rows = []
    every = (*found.breaks, *found.switches)
    for name, settled in itertools.product(dict.fromkeys(one.name for one in every), (False, True)):
        alike = [one for one in every if (one.name, one.settled) == (name, settled)]
        if alike:
            cells = (_detection(alike, method) for method in METHODS)
            rows.append((name, AFTER if settled else BEFORE, str(len(alike)), *cells))
    forks, bases = ({(one.base, one.at) for one in found.breaks}, {one.base for one in found.breaks})
    steps = " and ".join(f"{step:,}" for step in sorted({at for _, at in forks}))
    heads = ("break", "settling", "number", *(f"*{kind}*" for kind in KINDS), *RIVALS)
    about = (
        "A row is a break as layers show it that had not settled just before (*before*), or had (*after*); *number*: "
        f"breaks with such layers. A cell is the percentage in which an alarm came within {WITHIN} steps, with the 95 "
        "% interval (Wilson's, for the number of runs: breaks of one run do not count twice), and the median delay in "
        "steps; more and sooner is better. The first rows have no break: what is noticed there is false. "
        f"*{SETTING}*: the break is a setting that the run records. *events*: any of layers or experts, without "
        "settings. The rivals look at all layers: they are the same before and after for the same breaks."
    )
    first = (
        f"{len(bases)} small runs, forked at {len(forks)} checkpoints (step {steps}), and the planned switches of the "
        "season's runs:"
    )
    return _part(first, aligned_table(heads, rows, 2), about)


def _detection(breaks: Sequence[Noticed], method: str) -> str:
    """Return the rate of detection in percent, its interval by run, and the median delay."""
    bases = sorted({one.base for one in breaks})
    by_base = [[one.delay[method] for one in breaks if one.base == base] for base in bases]
    rate = float(np.mean([np.mean([delay is not None for delay in delays]) for delays in by_base]))
    low, high = wilson(rate, len(bases))
    known = [delay for delays in by_base for delay in delays if delay is not None]
    after = f", {np.median(known):.0f}" if known else ""
    return f"{100 * rate:.0f} [{100 * low:.0f}, {100 * high:.0f}]{after}"


def wilson(rate: float, number: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a rate among so many; it has a width at 0 and at 1."""
    centre, spread = (
        rate + Z95**2 / (2 * number),
        Z95 * math.sqrt(rate * (1 - rate) / number + (Z95 / (2 * number)) ** 2),
    )
    return max(0.0, (centre - spread) / (1 + Z95**2 / number)), min(1.0, (centre + spread) / (1 + Z95**2 / number))


def constants() -> str:
    """Return the candidates for the constants of events, and what was taken."""
    chosen = Chosen.model_validate_json(CHOSEN.read_bytes())
    taken = (chosen.constants["collapse"], chosen.constants["least_load"])
    rows = []
    for one in chosen.candidates:
        mark = "**" if (one.collapse, one.least_load) == taken else ""
        cells = (f"{one.collapse:g}", f"{one.least_load:g}", f"{one.false:.2f}", f"{100 * one.found:.0f}")
        rows.append(tuple(f"{mark}{cell}{mark}" for cell in cells))
    heads = ("part of the former load", "least load", "false for each 100,000 layer-steps", "planted ones found, %")
    about = (
        "A row is a candidate, the one in bold was taken: fewer false ones and more that are found are better. "
        f"{_by_factor('Of recovered experts fall again within 500 steps', chosen.relapses)}; taken is "
        f"x{chosen.constants['recovery']:g}. "
        f"{_by_factor('The learning rate changes so much within 200 steps', chosen.changes)} of steps; taken is "
        f"x{chosen.constants['lr_change']:g}."
    )
    return _part(aligned_table(heads, rows, 0), about)


def move_constants() -> str:
    """Return the candidates for when loads moved at once, and what was taken."""
    chosen = moves.ChosenMoves.model_validate_json(moves.CHOSEN.read_bytes())
    rows = []
    for one in chosen.candidates:
        mark = "**" if chosen.constants == {"factor": one.factor, "least": one.least} else ""
        cells = (f"{one.factor:g}", f"{100 * one.least:g}", f"{one.false}", f"{100 * one.found:.0f}")
        rows.append(tuple(f"{mark}{cell}{mark}" for cell in cells))
    heads = ("times the largest move before", "least, % of the tokens", "false", "planted ones found, %")
    about = (
        "A row is a candidate, the one in bold was taken: of those with the fewest false ones the one that finds most. "
        f"*False* are moves in {chosen.layer_steps:,} layer-steps of {chosen.runs} `train` runs that are watched: from "
        f"step {BEFORE_STEPS} on, outside the {SWITCH_STEPS} steps after a planned switch. *Planted*: from the "
        "middle of a run on, a tenth of each expert's tokens go to the expert half the list away."
    )
    return _part(aligned_table(heads, rows, 0), about)


def _part(*paragraphs: str) -> str:
    """Return paragraphs, the last one in lines of a page."""
    return "\n\n".join([*paragraphs[:-1], textwrap.fill(paragraphs[-1], 120)])


def _by_factor(words: str, fractions: Mapping[str, float]) -> str:
    """Return words and the percentage at each factor."""
    return f"{words}: " + ", ".join(f"x{factor}: {100 * part:.1f} %" for factor, part in fractions.items())


PARTS: Mapping[str, Maker] = {
    "event-constants": constants,
    "move-constants": move_constants,
    "event-rates": false_alarms,
    "event-breaks": breaks,
}
