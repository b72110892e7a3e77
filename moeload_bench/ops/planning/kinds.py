"""Which kind of balancing wins: stay, move now and then, or within the step; and at how many tokens per rank it turns.

What a kind gains is a part of the step time, so it grows with the tokens of a rank. What it pays does not: moves, and
the fetches of `within_step`. Loads are taken as recorded, whatever the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from moeload_bench.arrays import json_value
from moeload_bench.errors import PlacementError
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
    in_order = [Turn(0.0, min(kinds, key=lambda kind: (kind.cost_percent, -kind.gain_percent)))]
    while more := [kind for kind in kinds if kind.gain_percent > in_order[-1].wins.gain_percent]:
        crossings = [Turn(tokens * _crossing(in_order[-1].wins, kind), kind) for kind in more]
        in_order.append(min(crossings, key=lambda turn: (turn.tokens, -turn.wins.gain_percent)))
    return in_order


def _tokens(value: float) -> str:
    """Return whole tokens from 100 on, fewer with three digits: 1,024 and 5.63."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _crossing(before: Kind, after: Kind) -> float:
    return (after.cost_percent - before.cost_percent) / (after.gain_percent - before.gain_percent)


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
        return {kind.kind: kind for kind in sorted(self.kinds, key=lambda kind: kind.net)}

    @property
    def wins(self) -> str:
        """Return the kind that saves most."""
        return max(self.kinds, key=lambda kind: kind.net).kind

    @property
    def turns(self) -> list[Turn]:
        """Return where another kind takes over, first the one that wins with the fewest tokens."""
        all_turns = turns(self.kinds, self.tokens)
        return [turn for before, turn in zip([None, *all_turns], all_turns, strict=False)
                if before is None or before.wins.kind != turn.wins.kind]  # fmt: skip

    @property
    def record(self) -> dict[str, Any]:
        """Return all of it as a JSON record."""
        return dict(json_value({"wins": self.wins, "turns": self.turns, **vars(self)}))

    def lines(self) -> Iterator[str]:
        """Yield which kind wins and where it turns; then on what that rests, and on which constants it hangs."""
        others = sorted((kind for kind in self.best.values() if kind.kind != STAY), key=lambda kind: -kind.net)
        saved = [f"{kind.kind} ({kind.how}) saves {kind.net:.1f} %" for kind in others]
        first, *rest = self.turns
        where = ", ".join([first.wins.kind, *(f"from {_tokens(turn.tokens)} on {turn.wins.kind}" for turn in rest)])
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

    def kinds(model: CostModel, pool: WithinStep, price_factor: float = 1.0) -> Iterator[Kind]:
        yield Kind(STAY, f"{decision.terms.layout} layout", decision.start, LEAST_PERCENT, 0.0)
        take = decision.take
        if decision.moves:
            gain, net = race.saved(race.layout_of(take.forecaster, take.every), model, price_factor)
            yield Kind(MOVE, f"{take.forecaster}, every {take.every:,} steps", take.imbalance, gain, gain - net)
        for balancer in tried:
            gain = 100 * model.expert_fraction * (sample.imbalance - balancer.imbalance) / decision.start
            cost = 100 * len(race.start_LR) * balancer.ms(pool, model.bandwidth_gb_s) / model.step_ms
            yield Kind(WITHIN, balancer.how, balancer.imbalance, gain, cost, pool.pool_mb(balancer.slots))

    outcome = KindsOfRun(
        sample.tokens / shape.devices,
        tuple(kinds(costs.model, within)),
        (),
        within,
        "micro_max" in trace.columns,
        lacking,
    )
    hangs_on = [
        (name, factor, other)
        for name, factor, model, pool, price_factor in _doubts(costs, within, stated)
        if (other := replace(outcome, kinds=tuple(kinds(model, pool, price_factor))).wins) != outcome.wins
    ]
    return replace(outcome, hangs_on=tuple(hangs_on))


def _doubts(
    costs: Costs, within: WithinStep, stated: Mapping[str, float]
) -> Iterator[tuple[str, str, CostModel, WithinStep, float]]:
    """Yield each ASSUMED constant at half and at twice; an expert's weights go with the size of an expert."""
    names = {constant.option: name for name, constant in CONSTANTS.items()}
    options = [
        constant.option
        for constant in costs.constants
        if constant.source == "ASSUMED" and constant.option in (*names, LEFT)
    ]
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
