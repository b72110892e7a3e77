"""Exported routing in files that kernels and simulators read: npz, safetensors, parquet, a layer at a time.

Arrays of npz and safetensors are named `step1000.layer3.topk_ids` [T, k] int32, `....rank_end` [R] int64 and, where
they were recorded, `....weights` [T, k] float16. A parquet file has a row for each step and layer. Each file holds
what it was made from and how far it is real (`about`), which is also written beside it.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from moeload_bench.arrays import Array
from moeload_bench.errors import TraceError
from moeload_bench.files import replacing
from moeload_bench.ops.interchange.forecast_files import put_about
from moeload_bench.ops.interchange.routing_export import Order, RoutedLayer, RoutingExport

ENDINGS = (".npz", ".safetensors", ".parquet")
ABOUT = "moeload_routing"
"""The key of what the file was made from, in the metadata of safetensors and of parquet."""
_TYPES = {"int32": "I32", "int64": "I64", "float16": "F16"}


def check_routing_name(path: Path) -> None:
    """Raise `TraceError` for a name with the ending of no format."""
    if path.suffix not in ENDINGS:
        raise TraceError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")


def write_routing_export(export: RoutingExport, path: Path) -> Path:
    """Write the layers in the format of the name's ending, and `FILE.about.json`; raise as `check_routing_name`."""
    check_routing_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write = {".npz": _write_npz, ".safetensors": _write_safetensors, ".parquet": _write_parquet}[path.suffix]
    with replacing(path) as scratch:
        write(export, scratch)
    put_about(path, export.about)
    return path


def _arrays(layer: RoutedLayer) -> Iterator[tuple[str, Array]]:
    """Yield a layer's arrays by their names, little-endian, in the order of `_shapes`."""
    named = {"topk_ids": layer.topk_ids_TK, "rank_end": layer.rank_end_R, "weights": layer.weights_TK}
    for name, array in named.items():
        if array is not None:
            yield f"step{layer.step}.layer{layer.layer}.{name}", np.ascontiguousarray(array)


def _shapes(order: Order) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield names, dtypes and shapes of a layer's arrays before they are made."""
    begin, shape_TK = f"step{order.step}.layer{order.layer}", (order.tokens, order.top_k)
    yield f"{begin}.topk_ids", "int32", shape_TK
    yield f"{begin}.rank_end", "int64", order.rank_end_R.shape
    if order.weighted:
        yield f"{begin}.weights", "float16", shape_TK


def _write_npz(export: RoutingExport, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        _put(archive, "about", np.array(json.dumps(export.about)))
        for layer in export:
            for name, array in _arrays(layer):
                _put(archive, name, array)


def _put(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:  # dated 1980: same bytes
        npy.write_array(file, array, allow_pickle=False)


def _write_safetensors(export: RoutingExport, path: Path) -> None:
    header: dict[str, Any] = {"__metadata__": {ABOUT: json.dumps(export.about)}}
    end = 0
    for order in export.orders:
        for name, dtype, shape in _shapes(order):
            begin, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
            header[name] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        _append(file, export)


def _append(file: BinaryIO, export: RoutingExport) -> None:
    for layer in export:
        for _, array in _arrays(layer):
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _write_parquet(export: RoutingExport, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "step": pa.int64(),
        "layer": pa.string(),
        "mark": pa.string(),
        "rank_end": pa.list_(pa.int64()),
        "topk_ids": pa.list_(pa.list_(pa.int32())),
        "weights": pa.list_(pa.list_(pa.float16())),
    }
    schema = pa.schema(columns, metadata={ABOUT: json.dumps(export.about)})
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["mark", "topk_ids"]) as writer:
        for layer in export:
            row = [
                pa.array([layer.step]),
                pa.array([layer.layer]),
                pa.array([layer.mark]),
                pa.array([layer.rank_end_R], columns["rank_end"]),
                nested(layer.topk_ids_TK),
                pa.nulls(1, columns["weights"]) if layer.weights_TK is None else nested(layer.weights_TK),
            ]
            writer.write_batch(pa.record_batch(row, schema=schema))


def nested(array_TK: Array) -> Any:
    """Return one row of lists of lists, without a Python object for each number."""
    import pyarrow as pa

    T, K = array_TK.shape
    inner = pa.ListArray.from_arrays(np.arange(0, T * K + 1, K, dtype=np.int32), pa.array(array_TK.ravel()))
    return pa.ListArray.from_arrays(np.array([0, T], dtype=np.int32), inner)
