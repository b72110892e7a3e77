"""Runs that differ in the size of the model alone: what its loads do there, for the claims that may depend on size.

The paper has two sizes and shows one step of onset and one most restless layer. Here a group is every run, of either
split, whose metadata agree in all but the fields of `SIZE` and the learning rate; a group of one size says nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from leaderboard.grouped import grouped
from leaderboard.paper.choice import Chosen
from leaderboard.paper.measuring import Request, error_rows, fluctuation, layer_states, task_list
from leaderboard.paper.study import SIZED_FORECASTERS, ErrorRow, SizedRun
from moeload_bench.errors import SuiteError
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.states.rule import label_states
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import TraceRef, list_traces, read_trace, stored_hash, stored_meta
from moeload_bench.traces.trace import Trace
from moeload_bench.words import FineProgress

SIZE = (
    "head_dim", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads",
)  # fmt: skip
"""What a model's configuration calls its width and depth."""
SAME = (
    "balancing", "capacity_factor", "count_semantics", "drop_policy", "family", "gate", "global_batch_tokens", "notes",
    "optimizer", "precision", "schedule", "score_function", "sequence_length", "sources", "tokenizer_sha256",
)  # fmt: skip
Size = tuple[int, int]
"""Hidden size, MoE layers."""


def sized_runs(
    folder: str | os.PathLike[str] | None, request: Request, progress: FineProgress | None = None
) -> list[SizedRun]:
    """Return the runs of every group of two sizes or more, measured: a group after the other, the smallest model first.

    ``folder`` as `choose_runs` takes it; ``progress(done, total, what)`` counts runs. Raises `TraceError` for a file
    that is no trace, and `SuiteError` where a forecaster fails.
    """
    refs = [ref for group in sized_groups(list_traces(folder)) for ref in group]
    runs = []
    for done, ref in enumerate(refs, start=1):
        runs.append(_measured(ref, request))
        if progress is not None:
            progress(done, len(refs), ref.id)
    return runs


def sized_groups(refs: list[TraceRef]) -> Iterator[list[TraceRef]]:
    """Yield the groups of two sizes or more, those without an auxiliary loss first; in each the smallest model
    first.
    """
    described = ((stored_meta(ref.path), ref) for ref in refs)
    able = ((m, ref) for m, ref in described if isinstance(m.config.get("hidden_size"), int) and m.stride == 1)
    for _, group in sorted(grouped(able, lambda pair: _same(pair[0])).items()):
        if len({_size(meta) for meta, _ in group}) > 1:
            yield [ref for _, ref in sorted(group, key=lambda pair: (_size(pair[0]), pair[1].id))]


def _size(meta: TraceMeta) -> Size:
    return meta.config["hidden_size"], len(meta.layers)


def _same(meta: TraceMeta) -> str:
    """Return what all runs of a group have in common, the coefficient of balancing first."""
    record: dict[str, Any] = meta.model_dump(mode="json")
    record["optimizer"] = {key: value for key, value in meta.optimizer.items() if key != "lr"}
    record["schedule"] = {key: value for key, value in meta.schedule.items() if value is not None}  # older: left out
    config = {key: value for key, value in meta.config.items() if key not in SIZE}
    return json.dumps([meta.balancing.coefficient, config, {key: record.get(key) for key in SAME}], sort_keys=True)


def _measured(ref: TraceRef, request: Request) -> SizedRun:
    trace = read_trace(ref.path, verify=False)
    labels = label_states(trace.load_SLE)
    balancing, rate = trace.meta.balancing, trace.meta.optimizer.get("lr")
    return SizedRun(
        id=ref.id,
        data_sha256=stored_hash(ref.path),
        steps=trace.steps,
        states=layer_states(trace, labels),
        fluctuation=fluctuation(trace, labels),
        errors=tuple(_errors(ref, trace, request)),
        hidden_size=_size(trace.meta)[0],
        learning_rate=rate if isinstance(rate, int | float) else None,
        balancing=balancing.method if not balancing.coefficient else f"{balancing.method} {balancing.coefficient:g}",
    )


def _errors(ref: TraceRef, trace: Trace, request: Request) -> Iterator[ErrorRow]:
    """Sliding errors at the shortest horizon; none of a run that is too short for it."""
    horizon = request.horizons[0]
    if trace.steps < 2 * horizon:
        return
    short = replace(request, horizons=(horizon,))
    results = evaluate(
        list(SIZED_FORECASTERS), task_list(Chosen(ref.id, ref.path, ()), trace, short), traces=[trace],
        level=request.level, jobs=request.jobs, fresh=request.fresh,
    )  # fmt: skip
    for name, where, task in results.failures:
        raise SuiteError(f"{where}: {name} failed at origin {task.origin}: {task.failure}")
    for name, result in zip(SIZED_FORECASTERS, results, strict=True):
        for row in error_rows(name, result, trace):
            if row.protocol == "sliding":
                yield row.model_copy(update={"per_layer": {}})
