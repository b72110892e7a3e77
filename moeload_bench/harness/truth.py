"""What the harness knows of a scored run and a forecaster never sees: true shares, labels, floors, reference plans.

Kept per process for the last runs only, since all forecasters of a suite need the same. What costs much, floors,
crossings and reference plans, is in the cache under the hash of the trace and of all that it was computed from; the
facts of the package's own suites come with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench import cache
from moeload_bench.environment import package_versions
from moeload_bench.errors import TraceError
from moeload_bench.harness.replay import row_of, window_rows
from moeload_bench.harness.run_rows import rounded_tree
from moeload_bench.placement.plans import headline_shapes
from moeload_bench.results.trace_facts import TraceFacts, suite_facts
from moeload_bench.scoring.catalogue import EXPERTS
from moeload_bench.scoring.floors import Floors, Windows, trace_floors
from moeload_bench.scoring.plan_scores import References, reference_plans
from moeload_bench.scoring.scores import SCORING_VERSION, horizon_rows
from moeload_bench.states.rule import LABELS, State, StateLabels, StateRule, crossing, label_states
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.suites.suite import CROSSING, STATES, Suite, SuiteTrace
from moeload_bench.traces.store import Source, data_sha256, open_source
from moeload_bench.traces.trace import Trace, shares


class Truth:
    """A trace with everything that scoring needs of it, computed on first use."""

    def __init__(
        self, trace: Trace, rule: StateRule, horizons: tuple[int, ...], shapes: tuple[str, ...] | None = None
    ) -> None:
        self.trace = trace
        self.rule = rule
        self.horizons = horizons
        self.shapes = shapes  # names of those that plans are made for, None for all
        self._window: tuple[int, NDArray[np.float64]] | None = None
        self.known_references: dict[int, References] = {}

    @cached_property
    def labels(self) -> StateLabels | None:
        """Return the labels; None for a stride that the rule cannot work with: states are then those of the suite."""
        try:
            return label_states(self.trace.load_SLE, stride=self.trace.meta.stride, rule=self.rule)
        except TraceError:
            return None

    @cached_property
    def shift_N(self) -> tuple[int, ...]:
        """Return the rows at which the recipe planned a switch of data or a restart of the learning rate."""
        return tuple(planned_shifts(self.trace))

    def facts(self, origins: Sequence[tuple[int, State]], K: int) -> TraceFacts:
        """Return what belongs to the trace and not to a forecaster, for a suite's origins and number of horizons."""
        floors, beyond = self.floors(origins), (False,) * (K - len(self.horizons))
        return TraceFacts(
            data_sha256=data_sha256(self.trace),
            crossing={origin: self.crosses(origin) + beyond for origin, _ in origins},
            floors=rounded_tree(floors.by_state(K)),
            floor_marks=floors.marks(),
        )

    def floors(self, origins: Sequence[tuple[int, State]]) -> Floors:
        """Return the floors of every state that has origins, and of the windows that cross.

        Transient and stable ones are means over the rows with that label; those of mixed and crossing windows, and of
        states that no label is in, over the origins themselves.
        """
        states = [state for state in LABELS if any(state == s for _, s in origins)]
        given = self._own_windows(origins)
        return trace_floors(self.trace, self.labels, self.horizons, states=states, given=given)

    def _own_windows(self, origins: Sequence[tuple[int, State]]) -> dict[str, Windows]:
        """Return the rows of the origins at each horizon [K], by state, and of those whose windows cross."""
        K = len(self.horizons)
        row_O = np.array([row_of(self.trace, origin) for origin, _ in origins], dtype=np.int64)
        state_O = np.array([state for _, state in origins])
        crosses_OK = np.array([self.crosses(origin) for origin, _ in origins], dtype=np.bool_).reshape(-1, K)
        windows: dict[str, Windows] = {state: [row_O[state_O == state]] * K for state in STATES}
        return {**windows, CROSSING: [row_O[crosses_OK[:, k]] for k in range(K)]}

    def window(self, origin: int) -> NDArray[np.float64]:
        """Return the shares [rows, L, E] of the steps origin .. origin + largest horizon - 1; the last is kept."""
        if self._window is None or self._window[0] != origin:
            rows = window_rows(self.trace, row_of(self.trace, origin), self.horizons[-1])
            self._window = origin, shares(self.trace.load_SLE[rows])
        return self._window[1]

    def last_share(self, origin: int) -> NDArray[np.float64]:
        """Return the shares of the last step before the origin [L, E]; uniform where there is none."""
        row = row_of(self.trace, origin) - 1
        L, E = self.trace.num_layers, self.trace.num_experts
        share = shares(self.trace.load_SLE[row]) if row >= 0 else np.full((L, E), np.nan)
        return np.where(np.isnan(share), 1 / E, share)

    def references(self, origin: int) -> References:
        """Return the plans that depend on the trace only, and what they cost; made once for all forecasters."""
        if origin not in self.known_references:
            window_HLE = self.window(origin)
            shapes, wanted = headline_shapes(self.trace.num_experts), self.shapes
            self.known_references[origin] = reference_plans(
                window_HLE,
                horizon_rows(self.horizons, self.trace.meta.stride, len(window_HLE)),
                [shape for shape in shapes if wanted is None or shape.name in wanted],
                experts=wanted is None,
            )
        return self.known_references[origin]

    def crosses(self, origin: int) -> tuple[bool, ...]:
        """Return [K]: whether a layer changes its state, or a planned switch happens, within each horizon."""
        row = row_of(self.trace, origin)
        return tuple(self._crosses(row, horizon) for horizon in self.horizons)

    def _crosses(self, row: int, horizon: int) -> bool:
        rows = window_rows(self.trace, row, horizon)
        if any(rows.start <= shift < rows.stop for shift in self.shift_N):
            return True
        return self.labels is not None and bool(crossing(self.labels, row, rows.stop - rows.start).any())


@lru_cache(maxsize=2)
def open_truth(
    source: Source, sha256: str, rule: StateRule, horizons: tuple[int, ...], shapes: tuple[str, ...] | None = None
) -> Truth:
    """Return the truth of a trace; raise `HashMismatchError` when its content is another."""
    return Truth(open_source(source, sha256), rule, horizons, shapes)


# ------------------------------------------------------------------------------------------------ cached by hash


def trace_facts(suite: Suite, run: SuiteTrace, truth: Truth) -> TraceFacts:
    """Return floors, and which windows cross a change of state or a planned switch: of the package, the cache, or new.

    They depend on no forecaster, so asking for fresh work does not compute them again.
    """
    kept = suite_facts(suite.name, suite.sha256()).get(run.id)
    if kept is not None and kept.data_sha256 == run.data_sha256:
        return kept
    K = len(suite.horizons)
    key = _key("facts", suite, run, rule=dataclasses.asdict(suite.rule), columns=K)
    stored = cache.load(key, lambda tree: _facts(tree, run, K))
    if stored is not None:
        return stored
    facts = truth.facts(run.origins(), K)
    cache.save(key, facts.model_dump(mode="json"))
    return facts


def load_references(suite: Suite, run: SuiteTrace, truth: Truth) -> dict[int, References]:
    """Return the reference plans of every origin, empty where they are not in the cache."""
    return cache.load(_key("reference costs", suite, run), lambda tree: _references(tree, run, truth)) or {}


def _facts(tree: Any, run: SuiteTrace, K: int) -> TraceFacts:
    """Return the facts in a cache entry; raise `ValueError` for those of another trace or of other windows."""
    facts = TraceFacts.model_validate_json(json.dumps(tree))
    windows = {origin: len(crosses_K) for origin, crosses_K in facts.crossing.items()}
    if facts.data_sha256 != run.data_sha256 or windows != dict.fromkeys((origin for origin, _ in run.origins()), K):
        raise ValueError("it is of another trace, or of other windows")
    return facts


def _references(tree: Any, run: SuiteTrace, truth: Truth) -> dict[int, References]:
    """Return the reference plans in a cache entry; raise `ValueError` for those of another trace or other windows."""
    references = {int(origin): References.from_tree(reference) for origin, reference in tree.items()}
    shape_KL, shapes = (len(truth.horizons), truth.trace.num_layers), headline_shapes(truth.trace.num_experts)
    rows_K = tuple(horizon // truth.trace.meta.stride for horizon in truth.horizons)
    names = {plan: {EXPERTS, *(shape.name for shape in shapes)} for plan in ("oracle", "uniform")}
    for reference in references.values():
        parts = (part for costs in reference.costs.values() for cost in costs.values() for part in cost)
        held = reference.shapes, reference.rows_K, {plan: {*costs} for plan, costs in reference.costs.items()}
        wide = {part.shape for part in parts if isinstance(part, np.ndarray)}
        if held != (tuple(shapes), rows_K, names) or wide != {shape_KL}:
            raise ValueError("it is of another trace, or of other windows")
    if references.keys() != {origin for origin, _ in run.origins()}:
        raise ValueError("it is of other origins")
    return references


def save_references(suite: Suite, run: SuiteTrace, references: Mapping[int, References]) -> None:
    """Keep the reference plans of a run that was asked at every origin."""
    if references.keys() >= {origin for origin, _ in run.origins()}:
        cache.save(_key("reference costs", suite, run), {str(o): held.to_tree() for o, held in references.items()})


def _key(kind: str, suite: Suite, run: SuiteTrace, **more: Any) -> str:
    return cache.task_key(
        kind=kind,
        trace_sha256=run.data_sha256,
        horizons=run.asked(suite.horizons),
        origins=run.origins(),
        scoring_version=SCORING_VERSION,
        versions=package_versions(),
        **more,
    )
