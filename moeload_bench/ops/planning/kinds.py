"""Which kind of balancing wins: stay, move now and then, or within the step; and at how many tokens per rank it turns.

What a kind gains is a part of the step time, so it grows with the tokens of a rank. What it pays does not: moves, and
the fetches of `within_step`. Loads are taken as recorded, whatever the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from moeload_bench.errors import PlacementError
from moeload_bench.ops.facts.inspector import plain
from moeload_bench.ops.planning.cluster import CONSTANTS, LEFT, Costs
from moeload_bench.ops.planning.decision import LEAST_PERCENT, Decision
from moeload_bench.ops.planning.planner import Planner
from moeload_bench.ops.planning.within_step import COUNTS, WEIGHTS, Reacted, WithinStep, reacted, sample_of
from moeload_bench.placement.replan import CostModel
from moeload_bench.traces.trace import Trace

STAY, MOVE, WITHIN = "stay", "move now and then", "within the step"
NODE = 8
"""The most devices of an NVLink domain that are assumed."""


class Kind(NamedTuple):
    """One way to balance: its kind, how, mean max / mean, and what it gains and costs in percent of the step time.

    ``pool_mb``: memory on a device for replicas within the step. To stay counts as a gain of `LEAST_PERCENT`, which
    the others have to save.
    """

    kind: str
    how: str
    imbalance: float
    gain_percent: float
    cost_percent: float
    pool_mb: float = 0.0

    @property
    def net(self) -> float:
        return self.gain_percent - self.cost_percent


class Turn(NamedTuple):
    """From so many tokens per rank on, this one wins."""

    tokens: float
    wins: Kind


def turns(kinds: Sequence[Kind], tokens: float) -> list[Turn]:
    """Return which of them win, from the fewest tokens per rank to the most.

    ``tokens`` per rank: those at which costs are stated. At x times as many, a kind saves gain - cost / x.
    """
    found = [Turn(0.0, min(kinds, key=lambda one: (one.cost_percent, -one.gain_percent)))]
    while more := [one for one in kinds if one.gain_percent > found[-1].wins.gain_percent]:
        crossings = [Turn(tokens * _crossing(found[-1].wins, one), one) for one in more]
        found.append(min(crossings, key=lambda one: (one.tokens, -one.wins.gain_percent)))
    return found


def _tokens(value: float) -> str:
    """Return whole tokens from 100 on, fewer with three digits: 1,024 and 5.63."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _crossing(one: Kind, other: Kind) -> float:
    return (other.cost_percent - one.cost_percent) / (other.gain_percent - one.gain_percent)


@dataclass(frozen=True)
class KindsOfRun:
    """Which kind wins on a run at its own tokens per rank, where that turns, and on which ASSUMED constants it hangs.

    ``hangs_on``: each with what it is, half or twice, where another kind wins, and that kind. ``accumulates``: a row is
    more than one micro-batch. ``lacking``: why nothing within the step was tried.
    """

    tokens: float
    kinds: tuple[Kind, ...]
    hangs_on: tuple[tuple[str, str, str], ...]
    within: WithinStep
    accumulates: bool
    lacking: str

    @property
    def best(self) -> dict[str, Kind]:
        """Return the best of each kind, by kind."""
        return {one.kind: one for one in sorted(self.kinds, key=lambda one: one.net)}

    @property
    def wins(self) -> str:
        """Return the kind that saves most."""
        return max(self.kinds, key=lambda one: one.net).kind

    @property
    def turns(self) -> list[Turn]:
        """Return where another kind takes over, first the one that wins with the fewest tokens."""
        found = turns(self.kinds, self.tokens)
        return [one for before, one in zip([None, *found], found, strict=False)
                if before is None or before.wins.kind != one.wins.kind]  # fmt: skip

    @property
    def record(self) -> dict[str, Any]:
        """Return all of it as a JSON record."""
        return dict(plain({"wins": self.wins, "turns": self.turns, **vars(self)}))

    def lines(self) -> Iterator[str]:
        """Yield which kind wins and where it turns; then on what that rests, and on which constants it hangs."""
        others = sorted((one for one in self.best.values() if one.kind != STAY), key=lambda one: -one.net)
        saved = [f"{one.kind} ({one.how}) saves {one.net:.1f} %" for one in others]
        first, *rest = self.turns
        where = ", ".join([first.wins.kind, *(f"from {_tokens(one.tokens)} on {one.wins.kind}" for one in rest)])
        yield (
            f"Best at {self.tokens:,.0f} tokens per rank: {self.wins}. Of the step time, "
            f"{', '.join(saved) or 'nothing else is known to save'}. By tokens per rank, loads as recorded: {where}."
        )
        if self.lacking:
            yield f"Within the step was not tried: {self.lacking}."
            return
        within, rows = self.within, " (here a row is several)" if self.accumulates else ""
        hangs = ", ".join(f"{name} (at {factor}: {wins})" for name, factor, wins in self.hangs_on)
        yield (
            f"Within the step, each row a micro-batch{rows}: {self.best[WITHIN].pool_mb:,.3g} MB for replicas on a "
            f"device, in domains of {within.domain:g}; {within.weight_mb:,.3g} MB of weights at {within.gb_s:g} GB/s, "
            f"{within.launch_ms:g} ms a layer, {within.hidden_ms:g} ms hidden (--within-step). Which kind is best "
            f"hangs on {'ASSUMED ' + hangs if hangs else 'no ASSUMED constant, from half to twice'}."
        )


def kinds_of(trace: Trace, planner: Planner, decision: Decision, stated: Mapping[str, float]) -> KindsOfRun:
    """Return which kind wins on a run that was planned; ``stated``: constants of `WithinStep` by name.

    Moving now and then is a candidate where the decision is to move. Raise `PlacementError` for stated constants that
    the cluster does not fit.
    """
    race, costs, shape = planner.race, planner.costs(), planner.shape
    nearest = max(size for size in range(1, NODE + 1) if shape.devices % size == 0)
    within = WithinStep(**{"domain": nearest, "weight_mb": WEIGHTS * costs.model.expert_mb, **stated})
    sample, tried, lacking = sample_of(trace, race.start_LR, shape.devices), list[Reacted](), ""
    try:
        tried = list(reacted(sample.load_NE, shape, within))
    except PlacementError as error:
        if stated:
            raise
        lacking = str(error)

    def kinds(model: CostModel, pool: WithinStep, share: float = 1.0) -> Iterator[Kind]:
        yield Kind(STAY, f"{decision.terms.layout} layout", decision.start, LEAST_PERCENT, 0.0)
        take = decision.take
        if decision.moves:
            gain, net = race.saved_percent(take.forecaster, take.every, model, share)
            yield Kind(MOVE, f"{take.forecaster}, every {take.every:,} steps", take.imbalance, gain, gain - net)
        for one in tried:
            gain = 100 * model.expert_fraction * (sample.imbalance - one.imbalance) / decision.start
            cost = 100 * len(race.start_LR) * one.ms(pool, model.bandwidth_gb_s) / model.step_ms
            yield Kind(WITHIN, one.how, one.imbalance, gain, cost, pool.pool_mb(one.slots))

    found = KindsOfRun(
        sample.tokens / shape.devices,
        tuple(kinds(costs.model, within)),
        (),
        within,
        "micro_max" in trace.columns,
        lacking,
    )
    hangs_on = [
        (name, factor, other)
        for name, factor, model, pool, share in _doubts(costs, within, stated)
        if (other := replace(found, kinds=tuple(kinds(model, pool, share))).wins) != found.wins
    ]
    return replace(found, hangs_on=tuple(hangs_on))


def _doubts(
    costs: Costs, within: WithinStep, stated: Mapping[str, float]
) -> Iterator[tuple[str, str, CostModel, WithinStep, float]]:
    """Yield each ASSUMED constant at half and at twice; an expert's weights go with the size of an expert."""
    names = {one.option: name for name, one in CONSTANTS.items()}
    options = [one.option for one in costs.constants if one.source == "ASSUMED" and one.option in (*names, LEFT)]
    for words, factor in (("half", 0.5), ("twice", 2.0)):
        for option in options:
            model, pool, name = costs.model, within, names.get(option)
            if name is not None:
                model = replace(model, **{name: min(factor * getattr(model, name), CONSTANTS[name].most)})
            if name == "expert_mb" and "weight_mb" not in stated:
                pool = replace(pool, weight_mb=factor * pool.weight_mb)
            yield option, words, model, pool, 1 / factor if name is None else 1.0
        for name, value in vars(within).items():
            if name not in (*stated, *COUNTS):
                yield f"--within-step {name}", words, costs.model, replace(within, **{name: factor * value}), 1.0
