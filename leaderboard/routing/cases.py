"""The catalogue `routing-cases`: routing of steps worth testing with, in one file of the dataset.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leaderboard.committed import ROOT
from moeload_bench.errors import NotFoundError
from moeload_bench.files import replacing
from moeload_bench.generator.provenance import TRACE_LICENCE
from moeload_bench.ops.interchange.routing_export import CITE, MEANING, Order, RoutedLayer, plan_routing
from moeload_bench.ops.interchange.routing_files import ABOUT, nested
from moeload_bench.publishing.routing_cases import CASES, CASES_FILE, SCHEMA
from moeload_bench.schema import load_toml
from moeload_bench.traces.lookup import bundled_folder

PLAN = Path(__file__).with_suffix(".toml")


class Case(NamedTuple):
    """A step worth testing with."""

    name: str
    about: str
    run: str
    step: int


def planned_cases() -> list[Case]:
    """Return the cases of the plan, in its order."""
    return [Case(**case) for case in load_toml(PLAN.read_text(encoding="utf-8"))["case"]]


def write_cases(folder: Path) -> Path:
    """Write the catalogue into a folder of traces, and return its file."""
    target = folder / CASES / CASES_FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    about = {"marks": MEANING, "licence": TRACE_LICENCE, "cite": CITE}
    schema = SCHEMA.with_metadata({ABOUT: json.dumps(about)})
    with (
        replacing(target) as scratch,
        pq.ParquetWriter(scratch, schema, compression="zstd", compression_level=12) as writer,
    ):
        for row in case_rows():
            writer.write_batch(pa.record_batch(row, schema=schema))
    return target


def case_rows() -> Iterator[list[Any]]:
    """Yield a row of the catalogue for each chosen layer of each case."""
    for case in planned_cases():
        export = plan_routing(run_file(case.run), case.step)
        for order, layer in zip(export.orders, export, strict=True):
            if order.place in chosen_places(export.orders):
                yield _row(case, order, layer, export.about["experts"])


def run_file(run_id: str) -> Path:
    """Return the file of a run of this checkout: published, in the package, or kept for its routing alone."""
    for folder in (ROOT / "traces", bundled_folder(), ROOT / "routing"):
        if (path := folder / f"{run_id}.parquet").is_file():
            return path
    raise NotFoundError(f"{run_id}: no such run in traces/ or routing/ of this checkout")


def chosen_places(orders: tuple[Order, ...]) -> set[int]:
    """Return the layers with the least, the median and the largest imbalance."""
    rising = np.argsort([order.load_E.max() / order.load_E.mean() for order in orders], kind="stable")
    return {orders[i].place for i in rising[[0, len(rising) // 2, -1]]}


def _row(case: Case, order: Order, layer: RoutedLayer, experts: int) -> list[Any]:
    facts = {
        "case": case.name,
        "about": case.about,
        "mark": order.mark,
        "run": case.run,
        "step": order.step,
        "layer": order.layer,
        "experts": experts,
        "top_k": order.top_k,
        "tokens": order.tokens,
        "busiest_over_mean": order.facts["busiest_over_mean"],
        "burst_tokens": order.bursts.tokens,
        "burst_spread": order.bursts.spread,
    }
    columns = [pa.array([value], SCHEMA.field(name).type) for name, value in facts.items()]
    no_weights = pa.nulls(1, SCHEMA.field("weights").type)
    return [*columns, nested(layer.topk_ids_TK), no_weights if layer.weights_TK is None else nested(layer.weights_TK)]
