"""What belongs to a trace and to no forecaster, computed once and kept by hash: floors, crossings, reference plans.

The facts of the package's own suites come with it; everything else is in the cache, under the hash of the trace and of
all that it was computed from. It depends on no forecaster, so that asking for fresh work does not compute it again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from moeload_bench import cache
from moeload_bench.environment import package_versions
from moeload_bench.evaluation.truth import Truth
from moeload_bench.placement.plans import headline_shapes
from moeload_bench.results.trace_facts import TraceFacts, suite_facts
from moeload_bench.scoring.catalogue import EXPERTS
from moeload_bench.scoring.plan_scores import References
from moeload_bench.scoring.scores import SCORING_VERSION
from moeload_bench.suites.suite import Suite, SuiteTrace


def trace_facts(suite: Suite, entry: SuiteTrace, truth: Truth) -> TraceFacts:
    """Floors, and which windows cross a change of state or a planned switch."""
    known = suite_facts(suite.name, suite.sha256()).get(entry.id)
    if known is not None and known.data_sha256 == entry.data_sha256:
        return known
    K = len(suite.horizons)
    key = _key("facts", suite, entry, rule=dataclasses.asdict(suite.rule), columns=K)
    stored = cache.load(key, lambda tree: _facts(tree, entry, K))
    if stored is not None:
        return stored
    found = truth.facts(entry.origins(), K)
    cache.save(key, found.model_dump(mode="json"))
    return found


def load_references(suite: Suite, entry: SuiteTrace, truth: Truth) -> dict[int, References]:
    """Return the reference plans of every origin, empty where they are not in the cache."""
    return cache.load(_key("reference costs", suite, entry), lambda tree: _references(tree, entry, truth)) or {}


def _facts(tree: Any, entry: SuiteTrace, K: int) -> TraceFacts:
    """Return the facts in a cache entry; raise `ValueError` for those of another trace or of other windows."""
    found = TraceFacts.model_validate_json(json.dumps(tree))
    windows = {origin: len(crosses_K) for origin, crosses_K in found.crossing.items()}
    if found.data_sha256 != entry.data_sha256 or windows != dict.fromkeys((origin for origin, _ in entry.origins()), K):
        raise ValueError("it is of another trace, or of other windows")
    return found


def _references(tree: Any, entry: SuiteTrace, truth: Truth) -> dict[int, References]:
    """Return the reference plans in a cache entry; raise `ValueError` for those of another trace or other windows."""
    found = {int(origin): References.from_tree(one) for origin, one in tree.items()}
    shape_KL, shapes = (len(truth.horizons), truth.trace.num_layers), headline_shapes(truth.trace.num_experts)
    rows_K = tuple(horizon // truth.trace.meta.stride for horizon in truth.horizons)
    names = {plan: {EXPERTS, *(shape.name for shape in shapes)} for plan in ("oracle", "uniform")}
    for one in found.values():
        arrays = [a for costs in one.costs.values() for c in costs.values() for a in c if isinstance(a, np.ndarray)]
        held = one.shapes, one.rows_K, {plan: {*costs} for plan, costs in one.costs.items()}
        if held != (tuple(shapes), rows_K, names) or {array.shape for array in arrays} != {shape_KL}:
            raise ValueError("it is of another trace, or of other windows")
    if found.keys() != {origin for origin, _ in entry.origins()}:
        raise ValueError("it is of other origins")
    return found


def save_references(suite: Suite, entry: SuiteTrace, references: Mapping[int, References]) -> None:
    """Keep the reference plans of a run that was asked at every origin."""
    if references.keys() >= {origin for origin, _ in entry.origins()}:
        cache.save(_key("reference costs", suite, entry), {str(o): one.to_tree() for o, one in references.items()})


def _key(kind: str, suite: Suite, entry: SuiteTrace, **more: Any) -> str:
    return cache.task_key(
        kind=kind,
        trace_sha256=entry.data_sha256,
        horizons=entry.asked(suite.horizons),
        origins=entry.origins(),
        scoring_version=SCORING_VERSION,
        versions=package_versions(),
        **more,
    )
