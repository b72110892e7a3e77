"""LAER-MoE's artifact: tokens per device, not per expert.

Read from Fizzmy/LAER-MoE-AE at 72db5b79, `LAER-MoE/scripts_ae/token_analysis*.csv` (Apache-2.0), made there by
`10b_analysis.py` from the files of `TOKEN_COUNTS_ITER`: columns `rank,method,model_name,layer,iter,token_num`, one row
per device, layer and iteration of each method and model. It does not hold what an expert got, so it cannot become a
trace of experts: it is refused, unless device loads are asked for. Their "experts" are devices under a placement.

Axis letters: L MoE layers, E devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.errors import TraceError, printable
from moeload_bench.interchange.logfiles import Progress, find_files
from moeload_bench.interchange.rows import Log, LogRow, Report

COLUMNS = ("rank", "method", "model_name", "layer", "iter", "token_num")
MAX_BYTES = 1 << 30


def read_laer_moe(
    paths: Sequence[str | Path],
    *,
    device_loads: bool = False,
    method: str | None = None,
    model: str | None = None,
    report: Report | None = None,
) -> Log:
    """Return the device loads of one method and model; ``device_loads`` says that these are wanted."""
    files = find_files(paths, "token_analysis*.csv")
    if len(files) != 1:
        raise TraceError(f"{files[0].parent}: got {len(files)} files, expected one token_analysis.csv")
    file = files[0]
    if not device_loads:
        raise TraceError(
            f"{file}: holds tokens per device, not per expert: it cannot become a trace of experts; --device-loads "
            "imports it with devices in the place of experts"
        )
    table = _chosen(file, _read(file), {"method": method, "model_name": model})
    step_S, layer_L, rank_E = (np.unique(table[name]) for name in ("iter", "layer", "rank"))
    if len(rank_E) * len(layer_L) * len(step_S) != len(table["rank"]) or rank_E[-1] + 1 != len(rank_E):
        raise TraceError(
            f"{file}: got {len(table['rank'])} rows, expected {len(step_S)} iterations x {len(layer_L)} layers x "
            f"{rank_E[-1] + 1} devices once each"
        )
    order = np.lexsort((table["rank"], table["layer"], table["iter"]))
    _check_once(file, np.stack([table[name][order] for name in ("iter", "layer", "rank")]))
    load_SLE = table["token_num"][order].reshape(len(step_S), len(layer_L), len(rank_E))
    Progress([file], report).add(file.stat().st_size, file.name)
    rows = (LogRow(int(s), load_LE, str(file)) for s, load_LE in zip(step_S, load_SLE, strict=True))
    notes = ["device loads: what stands for experts here are devices under the artifact's own placement"]
    return Log(str(file), tuple(int(m) for m in layer_L), len(rank_E), rows, semantics="unknown", notes=notes)


def _check_once(file: Path, place_3N: IntArray) -> None:
    """Raise for a duplicate row, by the sorted places: since the number of rows matches, another row is missing."""
    again_N = (place_3N[:, 1:] == place_3N[:, :-1]).all(axis=0)
    if again_N.any():
        place_3 = place_3N[:, np.argmax(again_N)]
        times = int((place_3N == place_3[:, None]).all(axis=0).sum())
        step, layer, device = place_3.tolist()
        raise TraceError(f"{file}: device {device} of layer {layer} in iteration {step} has {times} rows, expected one")


def _read(file: Path) -> dict[str, Any]:
    import pyarrow as pa
    from pyarrow import csv

    if file.stat().st_size > MAX_BYTES:
        raise TraceError(f"{file}: {file.stat().st_size} bytes, expected at most {MAX_BYTES}")
    numbers = ("rank", "layer", "iter", "token_num")
    types = {name: pa.int64() if name in numbers else pa.string() for name in COLUMNS}
    try:
        table = csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=types, null_values=[]))
        names = tuple(table.column_names)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise TraceError(f"{file}: {printable(str(error))[:200]}, expected columns {','.join(COLUMNS)}") from None
    if names != COLUMNS or table.num_rows == 0:
        got = printable(",".join(names))[:200]
        raise TraceError(f"{file}: {table.num_rows} rows of {got!r}, expected columns {','.join(COLUMNS)}")
    arrays = {name: table.column(name).to_numpy(zero_copy_only=False) for name in COLUMNS}
    for name in numbers:
        if arrays[name].min() < 0:
            row = int(np.argmax(arrays[name] < 0))
            raise TraceError(f"{file}, row {row + 2}: {name} is {arrays[name][row]}, expected at least 0")
    return arrays


def _chosen(file: Path, table: dict[str, Any], wanted: dict[str, str | None]) -> dict[str, Any]:
    """Return the rows of one method and model; if one is not named, the table must have only one."""
    for column, name in wanted.items():
        there = sorted(set(map(str, table[column])))
        if name is None and len(there) > 1:
            raise TraceError(f"{file}: {column} is one of {', '.join(map(printable, there))[:200]}, expected a choice")
        chosen = there[0] if name is None else name
        if chosen not in there:
            raise TraceError(f"{file}: no {column} {chosen!r}; there is: {', '.join(map(printable, there))[:200]}")
        keep_N = table[column].astype(str) == chosen
        table = {key: value[keep_N] for key, value in table.items()}
    return table
