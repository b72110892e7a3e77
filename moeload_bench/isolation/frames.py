"""The frames on the pipe between the harness and a forecaster's process, and the objects of the contract in them.

A frame is a prefix (magic, length of the header), a JSON header and raw little-endian arrays whose names, dtypes and
shapes the header declares, in that order, without padding. Nothing is pickled. Whoever reads a frame bounds the
header's length, its depth and every array's size before reading or allocating it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.arrays import Array
from moeload_bench.bounds import check_depth, named_once
from moeload_bench.errors import IsolationError, TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation.targets import FileTarget, StoredTarget, module_target

Header = dict[str, Any]
ReadInto = Callable[[memoryview], None]

MAGIC = b"MLB1"
PREFIX = struct.Struct("<4sI")
MAX_HEADER_BYTES = 2**20
MAX_DEPTH = 32
MAX_ARRAYS = 64
MAX_ITEMS = 2**40
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f4", "<f8")


@dataclass(frozen=True)
class ArrayRule:
    """What a reader accepts under a name: the dtype, and the least and greatest length of each axis.

    ``required`` says that an answer that reports success has it.
    """

    dtype: str
    axes: tuple[tuple[int, int], ...]
    required: bool = True


Rules = Mapping[str, ArrayRule]
Announced = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape of an array that a header announces."""


def encode_frame(header: Header, arrays: Mapping[str, Array]) -> list[memoryview]:
    """Return the frame as buffers to be written one after the other; contiguous little-endian arrays are not copied."""
    little = {name: _little(array) for name, array in arrays.items()}
    specs = [[name, array.dtype.str, list(array.shape)] for name, array in little.items()]
    text = json.dumps({**header, "arrays": specs}, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise IsolationError(f"a frame's header has {len(text)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    buffers = [memoryview(PREFIX.pack(MAGIC, len(text)) + text)]
    return buffers + [_bytes_of(array) for array in little.values() if array.size]


def read_frame(
    read_into: ReadInto, rules: Rules | None, max_header_bytes: int = MAX_HEADER_BYTES
) -> tuple[Header, dict[str, Array]]:
    """Read one frame; raise `IsolationError` for whatever breaks the protocol, before reading further.

    ``rules`` says which arrays are accepted; None (for the worker, which trusts the harness) accepts any.
    """
    prefix = bytearray(PREFIX.size)
    read_into(memoryview(prefix))
    magic, length = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise IsolationError(f"a frame starts with {bytes(magic)!r}, expected {MAGIC!r}")
    if length > max_header_bytes:
        raise IsolationError(f"a frame announces a header of {length} bytes, at most {max_header_bytes} are allowed")
    text = bytearray(length)
    read_into(memoryview(text))
    header = parse_header(bytes(text))
    arrays: dict[str, Array] = {}
    announced = _announced(header.pop("arrays", None))
    for name, dtype, shape in announced if rules is None else _expected(announced, rules):
        arrays[name] = np.empty(shape, dtype=dtype)
        if arrays[name].size:
            read_into(_bytes_of(arrays[name]))
    return header, arrays


def parse_header(text: bytes) -> Header:
    """Return a JSON object that is not nested deeper than `MAX_DEPTH`; known before it is parsed, in linear time."""
    try:
        check_depth(text, MAX_DEPTH)
        header = json.loads(text, object_pairs_hook=named_once)  # arguments of a forecaster may be infinite
    except (ValueError, RecursionError) as error:
        raise IsolationError(f"a frame's header is not JSON as expected: {str(error)[:100]}") from None
    if not isinstance(header, dict):
        raise IsolationError(f"a frame's header is a JSON {type(header).__name__}, expected an object")
    return header


def _announced(entries: Any) -> list[Announced]:
    """Return what a header announces, each name once."""
    if not isinstance(entries, list) or len(entries) > MAX_ARRAYS:
        raise IsolationError(f"a frame's header has no list of at most {MAX_ARRAYS} arrays")
    arrays = [_array_announced(entry) for entry in entries]
    names = [name for name, _, _ in arrays]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise IsolationError(f"a frame announces the array {twice[:40]!r} twice")
    return arrays


def _array_announced(entry: Any) -> Announced:
    if not (isinstance(entry, list) and len(entry) == 3):
        raise IsolationError(f"a frame announces an array as {str(entry)[:80]}, expected [name, dtype, shape]")
    name, dtype, shape = entry
    if not isinstance(name, str) or dtype not in DTYPES:
        raise IsolationError(f"a frame announces the dtype {str(dtype)[:40]!r}, allowed are {', '.join(DTYPES)}")
    valid = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 <= n < MAX_ITEMS for n in shape)
    if not valid or math.prod(shape) > MAX_ITEMS:
        raise IsolationError(f"a frame announces the shape {str(shape)[:80]}, expected a list of sizes")
    return name, dtype, tuple(shape)


def _expected(announced: list[Announced], rules: Rules) -> list[Announced]:
    """Return the arrays; raise `IsolationError` unless each is an expected one with dtype and shape within bounds.

    Whether all are there is for the caller to say: an answer that reports an error has none.
    """
    for name, dtype, shape in announced:
        rule = rules.get(name)
        if rule is None:
            raise IsolationError(f"a frame announces the array {name[:40]!r}, expected {sorted(rules) or 'none'}")
        fits = len(shape) == len(rule.axes) and all(
            low <= got <= high for got, (low, high) in zip(shape, rule.axes, strict=True)
        )
        if dtype != rule.dtype or not fits:
            expected = [f"{low}..{high}" if low != high else str(high) for low, high in rule.axes]
            raise IsolationError(
                f"a frame announces {name} as {dtype} {list(shape)[:8]}, expected {rule.dtype} [{', '.join(expected)}]"
            )
    return announced


def _little(array: Array) -> Array:
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    little = contiguous.astype(contiguous.dtype.newbyteorder("<"), copy=False)
    if little.dtype.str not in DTYPES:
        raise IsolationError(f"an array of {array.dtype} cannot pass, allowed are {', '.join(DTYPES)}")
    return little


def _bytes_of(array: Array) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data)


# ------------------------------------------------------------------------------------------------ objects

_COVARIATE = "covariate:"


def target_header(target: StoredTarget, path: str | None = None) -> Header:
    """Return a target for the worker, which sees its file at ``path`` if not at its own place; raise `TargetError`."""
    try:
        json.dumps(dict(target.kwargs))
    except TypeError as error:
        raise TargetError(f"{target.text!r}: an argument cannot be handed to another process: {error}") from None
    asked = {"text": target.text, "class_name": target.class_name, "kwargs": dict(target.kwargs)}
    if isinstance(target, FileTarget):
        return {**asked, "file": path or str(target.file)}
    return {**asked, "module": target.module}


def target_from(header: Mapping[str, Any]) -> StoredTarget:
    """Return the target as the worker loads it."""
    text, class_name, kwargs = header["text"], header["class_name"], header["kwargs"]
    if "file" in header:
        return FileTarget(text=text, file=Path(header["file"]), class_name=class_name, kwargs=kwargs)
    return module_target(text, header["module"], class_name, kwargs)


def info_header(info: TraceInfo) -> Header:
    """Return `TraceInfo` as JSON."""
    return dataclasses.asdict(info)


def info_from(header: Mapping[str, Any]) -> TraceInfo:
    """Return `TraceInfo` from JSON."""
    return TraceInfo(**{**header, "layer_indices": tuple(header["layer_indices"])})


def block_arrays(block: StepBlock) -> dict[str, Array]:
    """Return the arrays of a block by name."""
    arrays: dict[str, Array] = {"step_S": block.step_S, "load_SLE": block.load_SLE, "tokens_SL": block.tokens_SL}
    return {**arrays, **{f"{_COVARIATE}{name}": column for name, column in block.covariates.items()}}


def block_from(arrays: Mapping[str, Array]) -> StepBlock:
    """Return a block that owns its arrays."""
    covariates = {
        name.removeprefix(_COVARIATE): column for name, column in arrays.items() if name.startswith(_COVARIATE)
    }
    return StepBlock(arrays["step_S"], arrays["load_SLE"], arrays["tokens_SL"], covariates)


def request_frame(request: ForecastRequest) -> tuple[Header, dict[str, Array]]:
    """Return a request as header and arrays."""
    header = {name: getattr(request, name) for name in ("origin", "horizon", "horizons", "quantiles")}
    planned = {"lr_H": request.lr_H, "stage_H": request.stage_H}
    return header, {name: plan for name, plan in planned.items() if plan is not None}


def request_from(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> ForecastRequest:
    """Return a request from header and arrays."""
    horizons, quantiles = tuple(header["horizons"]), tuple(header["quantiles"])
    planned = arrays.get("lr_H"), arrays.get("stage_H")
    return ForecastRequest(header["origin"], header["horizon"], horizons, quantiles, *planned)


def forecast_rules(request: ForecastRequest, info: TraceInfo) -> Rules:
    """Return what an answer to this request may hold: the bound on what is read from a stranger."""
    L, E = info.num_layers, info.num_experts
    quantile_axes = tuple((n, n) for n in (len(request.quantiles), len(request.horizons), L, E))
    return {
        "share_BLE": ArrayRule("<f8", ((1, request.horizon), (L, L), (E, E))),
        "edges_B": ArrayRule("<i8", ((1, request.horizon),)),
        "quantile_QKLE": ArrayRule("<f8", quantile_axes, required=False),
    }


def forecast_arrays(forecast: Forecast) -> dict[str, Array]:
    """Return the arrays of a forecast by name."""
    arrays: dict[str, Array] = {"share_BLE": forecast.share_BLE, "edges_B": forecast.edges_B}
    return arrays if forecast.quantile_QKLE is None else {**arrays, "quantile_QKLE": forecast.quantile_QKLE}


def forecast_from(arrays: Mapping[str, Array]) -> Forecast:
    """Return a forecast that has still to pass `check_forecast`."""
    return Forecast(arrays["share_BLE"], arrays["edges_B"], arrays.get("quantile_QKLE"))


def fitted_array(fitted: bytes | None) -> dict[str, Array]:
    """Return opaque bytes as an array; {} for None."""
    return {} if fitted is None else {"fitted": np.frombuffer(fitted, dtype=np.uint8)}


def fitted_rules(most: int) -> Rules:
    """Return what an answer to `fit` may hold."""
    return {"fitted": ArrayRule("|u1", ((0, most),))}


def fitted_from(arrays: Mapping[str, Array]) -> bytes | None:
    """Return the bytes of an array; None without one."""
    return arrays["fitted"].tobytes() if "fitted" in arrays else None
