"""The experts of a Hugging Face checkpoint in the order of a plan, for engines that place experts by number.

Expert ``j`` of the new checkpoint is the one that the plan has in slot ``j``: its weights and its row of the router
move together, so that the model computes the same function. Tensors that are stored expert by expert are renamed,
stacked ones are copied row by row; bytes are never decoded, so any dtype and quantisation passes, and memory does not
grow with the model. The file format is safetensors' (eight bytes of length, a JSON header, then the data).

Axis letters: E experts.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from moeload_bench.errors import PlacementError, counted, not_found, printable
from moeload_bench.interchange.logfiles import Progress, safetensors_header
from moeload_bench.interchange.rows import Report

MAX_HEADER_BYTES = 100_000_000
"""As the safetensors library."""
MAX_JSON_BYTES = 64 << 20
CHUNK_BYTES = 16 << 20
NUMBERS = ("n_routed_experts", "num_experts", "num_local_experts")
"""Keys of configs that hold the number of experts."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack")
INDEX = "model.safetensors.index.json"


class Family(NamedTuple):
    """Where a family keeps its experts: the block of a layer, and in it the tensors with a row per expert.

    Those of single experts are called ``experts.N.``.
    """

    block: str
    stacked: str


FAMILIES: Mapping[str, Family] = {
    "mixtral": Family("block_sparse_moe", r"gate\.weight"),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "olmoe"), Family("mlp", r"gate\.weight")),
    "deepseek_v3": Family("mlp", r"gate\.(weight|e_score_correction_bias)"),
    "granitemoe": Family("block_sparse_moe", r"(router\.layer|input_linear|output_linear)\.weight"),
    "gpt_oss": Family("mlp", r"router\.(weight|bias)|experts\.(gate_up|down)_proj(_\w+)?"),
}


class Tensor(NamedTuple):
    """One tensor of a file: where it lies behind the header, and whose it is.

    ``layer`` is -1 outside experts and routers, ``expert`` -1 for one with a row for each expert.
    """

    name: str
    shape: tuple[int, ...]
    begin: int
    end: int
    layer: int
    expert: int


@dataclass(frozen=True)
class Permuted:
    """What was done: layers with a new order, all MoE layers, tensors renamed and reordered, files not taken along."""

    layers: tuple[int, ...]
    moe_layers: tuple[int, ...]
    renamed: int
    reordered: int
    left_out: tuple[str, ...]


def read_orders(path: Path) -> dict[int, tuple[int, ...]]:
    """Return for each layer of a plan (format `json`) the expert of each slot.

    Raise `PlacementError` for another file, and for a plan in which a layer does not hold each expert once.
    """
    record = _json(path)
    if not isinstance(record, dict) or record.get("placement_version") != 1:
        raise PlacementError(
            f"{path}: not a plan of this project; expected what `plan --write FILE --format json` writes"
        )
    orders: dict[int, tuple[int, ...]] = {}
    for entry in _list(record.get("layers"), f"{path}: layers"):
        layer: Any = entry.get("layer") if isinstance(entry, dict) else None
        if not _is_index(layer) or layer in orders:
            raise PlacementError(f"{path}: got layer {layer!r}, expected each layer's number once")
        slots = [e for part in _list(entry.get("devices"), f"{path}: layer {layer}") for e in _list(part, f"{path}")]
        if not all(map(_is_index, slots)):
            raise PlacementError(f"{path}: layer {layer}: expected the numbers of experts")
        orders[layer] = _once_each(tuple(slots), f"{path}: layer {layer}")
    if not orders:
        raise PlacementError(f"{path}: the plan has no layers")
    return orders


def permute_checkpoint(
    checkpoint: Path, orders: Mapping[int, Sequence[int]], out: Path, report: Report | None = None
) -> Permuted:
    """Write a checkpoint whose experts stand in the given order, by layer, into the new folder ``out``.

    Layers that are not in ``orders`` stay. The folder appears when it is complete. Raise `PlacementError` for a family
    that is not one of FAMILIES, files that do not hold what its config says, an order that does not fit, and a folder
    that exists; `NotFoundError` for a checkpoint that does not.
    """
    if out.exists():
        raise PlacementError(f"{out}: exists already; expected a new folder, nothing is overwritten")
    config = _json(checkpoint / "config.json")
    family, experts = _family(config, checkpoint)
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise PlacementError(f"{checkpoint}: no .safetensors files; other kinds of weights are not read")
    headers = {file: _header(file, family) for file in files}
    found = [tensor for _, tensors in headers.values() for tensor in tensors]
    moe_layers = _check_layers(found, experts, str(checkpoint))
    for layer, order in orders.items():
        _check_order(layer, order, experts, moe_layers, _groups(config))
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        progress = Progress(files, report)
        for file in files:
            _write(file, scratch / file.name, *headers[file], family, orders, progress)
        left_out = _copy_rest(checkpoint, scratch, family, orders)
        scratch.chmod(0o755)
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    moved = [tensor for tensor in found if tensor.layer in orders]
    one_by_one = sum(tensor.expert >= 0 for tensor in moved)
    return Permuted(tuple(sorted(orders)), moe_layers, one_by_one, len(moved) - one_by_one, left_out)


def _once_each(slots: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Return the order if it holds 0 .. E-1 once each; else raise and name the order without replicas."""
    once = tuple(dict.fromkeys(slots))
    if sorted(once) != list(range(len(once))):
        raise PlacementError(f"{where}: got experts {sorted(once)[:8]}..., expected each of 0 to E - 1")
    if len(once) != len(slots):
        most = max(once, key=slots.count)
        raise PlacementError(
            f"{where}: {len(slots)} slots for {len(once)} experts, expert {most} is there {slots.count(most)} times; a "
            f"checkpoint holds each once: plan with --slots {len(once)}. The order of the first replicas is "
            f"{','.join(map(str, once))}"
        )
    return once


def _family(config: Any, checkpoint: Path) -> tuple[Family, int]:
    kind = str(config.get("model_type") if isinstance(config, dict) else None)
    if kind not in FAMILIES:
        raise not_found("model family", kind, FAMILIES)
    experts: Any = next((config[name] for name in NUMBERS if name in config), None)
    if not _is_index(experts) or experts < 2:
        said = " or ".join(NUMBERS)
        raise PlacementError(
            f"{checkpoint}/config.json: the number of experts ({said}) is {experts!r}, expected 2 or more"
        )
    return FAMILIES[kind], experts


def _groups(config: Mapping[str, Any]) -> int:
    groups = config.get("n_group") or 1
    return groups if _is_index(groups) else 1


def _header(file: Path, family: Family) -> tuple[dict[str, Any], list[Tensor]]:
    """Return a file's header and its tensors in the order of their data; raise `PlacementError` for any damage."""
    try:
        header, first = safetensors_header(file, MAX_HEADER_BYTES)
        tensors = [
            Tensor(name, tuple(map(int, entry["shape"])), int(begin), int(end), *_place(name, family))
            for name, entry in header.items()
            if name != "__metadata__"
            for begin, end in [entry["data_offsets"]]
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PlacementError(f"{file}: not safetensors: {printable(str(error))[:200]}") from None
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    at = 0
    for tensor in tensors:
        if tensor.begin != at or tensor.end < at:
            raise PlacementError(
                f"{file}: {tensor.name} lies at {tensor.begin}..{tensor.end}, expected it from {at} on"
            )
        at = tensor.end
    size = file.stat().st_size
    if first + at != size:
        raise PlacementError(f"{file}: {size} bytes, its header announces {first + at}: it breaks off or has a tail")
    return header, tensors


def _place(name: str, family: Family) -> tuple[int, int]:
    """Return a tensor's layer and expert, as `Tensor` has them."""
    match = re.search(rf"(?:^|\.)layers\.(\d+)\.{family.block}\.(?:experts\.(\d+)\.|(?:{family.stacked})$)", name)
    if match is None:
        return -1, -1
    return int(match[1]), int(match[2] or -1)


def _check_layers(tensors: Sequence[Tensor], experts: int, where: str) -> tuple[int, ...]:
    """Return the MoE layers; raise `PlacementError` unless each has a router and every expert with the same tensors."""
    layers = sorted({tensor.layer for tensor in tensors if tensor.layer >= 0})
    if not layers:
        raise PlacementError(f"{where}: no tensors of experts under the names that this family has")
    for layer in layers:
        here = [tensor for tensor in tensors if tensor.layer == layer]
        for tensor in here:
            if tensor.expert < 0 and (not tensor.shape or tensor.shape[0] != experts):
                raise PlacementError(f"{where}: {tensor.name} has shape {tensor.shape}, expected {experts} rows")
        parts = [_tails(here, expert) for expert in range(experts)]
        most = max(tensor.expert for tensor in here)
        if any(part != parts[0] for part in parts) or most >= experts:
            odd = next((e for e, part in enumerate(parts) if part != parts[0]), most)
            raise PlacementError(f"{where}: layer {layer}: expert {odd} has other tensors than expert 0 of {experts}")
        if all(tensor.expert >= 0 for tensor in here):
            raise PlacementError(f"{where}: layer {layer} has experts and no router")
    return tuple(layers)


def _tails(tensors: Sequence[Tensor], expert: int) -> list[str]:
    return sorted(t.name.partition(f".experts.{expert}.")[2] for t in tensors if t.expert == expert)


def _check_order(layer: int, order: Sequence[int], experts: int, moe_layers: Sequence[int], groups: int) -> None:
    if layer not in moe_layers:
        raise PlacementError(f"layer {layer} of the plan is no MoE layer; there is: {', '.join(map(str, moe_layers))}")
    if sorted(order) != list(range(experts)):
        raise PlacementError(f"layer {layer} of the plan has {len(order)} experts, the checkpoint {experts}")
    size = experts // groups
    for start in range(0, experts, size) if groups > 1 else ():
        came_from = sorted({expert // size for expert in order[start : start + size]})
        if len(came_from) > 1:
            raise PlacementError(
                f"layer {layer}: the router chooses among {groups} groups of {size} experts, and the plan puts experts "
                f"of groups {', '.join(map(str, came_from))} into one; expected a plan that keeps groups together "
                f"(plan --nodes {groups})"
            )


def _write(
    file: Path,
    target: Path,
    header: Mapping[str, Any],
    tensors: Sequence[Tensor],
    family: Family,
    orders: Mapping[int, Sequence[int]],
    progress: Progress,
) -> None:
    """Write one file, and report the bytes of each tensor."""
    renamed = {_moved(name, family, orders): entry for name, entry in header.items()}
    text = json.dumps(renamed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("rb") as source, target.open("wb") as sink:
        first = 8 + int.from_bytes(source.read(8), "little")
        sink.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            rows = orders[tensor.layer] if tensor.layer in orders and tensor.expert < 0 else (0,)
            size = (tensor.end - tensor.begin) // len(rows)
            for row in rows:
                source.seek(first + tensor.begin + row * size)
                _copy(source, sink, size)
            progress.add(tensor.end - tensor.begin, file.name)


def _copy(source: BinaryIO, sink: BinaryIO, size: int) -> None:
    while size > 0:
        chunk = source.read(min(size, CHUNK_BYTES))
        if not chunk:
            raise PlacementError(f"{source.name}: it ended while it was read")
        sink.write(chunk)
        size -= len(chunk)


def _copy_rest(checkpoint: Path, scratch: Path, family: Family, orders: Mapping[int, Sequence[int]]) -> tuple[str, ...]:
    """Copy config, tokenizer and the like, the index with new names; return what was not taken along."""
    left_out = []
    for path in sorted(checkpoint.iterdir()):
        if path.name == INDEX:
            index = _json(path)
            index["weight_map"] = {_moved(name, family, orders): file for name, file in index["weight_map"].items()}
            (scratch / INDEX).write_text(json.dumps(index, indent=2))
        elif not path.is_file() or path.suffix in WEIGHTS:
            left_out += [path.name] if path.suffix != ".safetensors" else []
        else:
            shutil.copyfile(path, scratch / path.name)
    return tuple(left_out)


def _moved(name: str, family: Family, orders: Mapping[int, Sequence[int]]) -> str:
    """Return the name of a tensor in the new order; only that of a single expert changes."""
    layer, expert = _place(name, family)
    if expert < 0 or layer not in orders:
        return name
    return name.replace(f".experts.{expert}.", f".experts.{orders[layer].index(expert)}.", 1)


def _json(path: Path) -> Any:
    if not path.is_file():
        raise PlacementError(f"{path}: no such file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise PlacementError(f"{path}: {counted(path.stat().st_size, 'byte')}, at most {MAX_JSON_BYTES} are read")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise PlacementError(f"{path}: not JSON") from None


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise PlacementError(f"{where}: got {str(value)[:40]}, expected a list")
    return value


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
