"""`routing-cases`, the one configuration of the dataset that holds routing: steps worth testing kernels with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moeload_bench.errors import HubError
from moeload_bench.traces.routing import CATALOGUE

CASES, CASES_FILE = CATALOGUE.split("/")
SPLIT = "test"
MAX_BYTES = 30_000_000
"""What the configuration may take, since whoever tests a kernel downloads it whole."""
SCHEMA = pa.schema({
    "case": pa.string(),
    "about": pa.string(),
    "mark": pa.string(),
    "run": pa.string(),
    "step": pa.int64(),
    "layer": pa.string(),
    "experts": pa.int32(),
    "top_k": pa.int32(),
    "tokens": pa.int32(),
    "busiest_over_mean": pa.float64(),
    "burst_tokens": pa.int32(),
    "burst_spread": pa.float64(),
    "topk_ids": pa.list_(pa.list_(pa.int32())),
    "weights": pa.list_(pa.list_(pa.float16())),
})  # fmt: skip
"""A row is one layer of one case."""


def has_cases(folder: Path) -> bool:
    """Return whether a folder of traces holds the catalogue."""
    return (folder / CASES / CASES_FILE).is_file()


def cases_config() -> dict[str, Any]:
    """Return the entry of the catalogue among a card's `configs`."""
    return {"config_name": CASES, "data_files": [{"split": SPLIT, "path": f"{CASES}/{CASES_FILE}"}]}


def check_cases(folder: Path) -> None:
    """Raise `HubError` for a catalogue that is too large or has other columns."""
    path = folder / CASES / CASES_FILE
    if (size := path.stat().st_size) > MAX_BYTES:
        raise HubError(f"{path}: {size:,} bytes, expected at most {MAX_BYTES:,}")
    try:
        schema = pq.read_schema(path)
    except (OSError, ValueError) as error:
        raise HubError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not schema.equals(SCHEMA):
        raise HubError(
            f"{path}: columns are {', '.join(schema.names)}, expected {', '.join(SCHEMA.names)} of its types"
        )
