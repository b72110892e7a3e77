"""The experts of a Hugging Face checkpoint in the order of a plan, for engines that place experts by number.

Expert ``j`` of the new checkpoint is the one that the plan has in slot ``j``: its weights and its row of the router
move together, so that the model computes the same function. Tensors that are stored expert by expert are renamed,
stacked ones are copied row by row; bytes are never decoded, so any dtype and quantisation passes, and memory does not
grow with the model.

Axis letters: E experts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple

from pydantic import BaseModel, Field

from moeload_bench.errors import MoeloadError, PlacementError, not_found
from moeload_bench.ops.interchange.logfiles import Progress
from moeload_bench.ops.interchange.optimizer_states import (
    NUMBER,
    OPTIMIZER,
    SHARED,
    NewPlace,
    Orders,
    Parameters,
    parameters_of,
    permute_optimizer,
)
from moeload_bench.ops.interchange.rows import Report
from moeload_bench.schema import read_json
from moeload_bench.traces.tensors import Header, Tensor, read_header

MAX_INDEX_BYTES = 64 << 20
CHUNK_BYTES = 16 << 20
STATES = ("scheduler.pt", "scaler.pt", "training_args.bin")
"""Files of a training that know nothing of experts, with `rng_state*.pth`: copied, never opened."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".index.json")
INDEX = "model.safetensors.index.json"
Number = Annotated[int, Field(strict=True, ge=0, lt=10**6)]


class Family(NamedTuple):
    """Where a family keeps its experts: a layer's block, and in it the router and the stacked tensors, row by expert.

    Without stacked tensors, those of expert N are called ``experts.N.``.
    """

    block: str
    router: str
    stacked: str | None = None


FAMILIES: Mapping[str, Family] = {
    "mixtral": Family("block_sparse_moe", r"gate\.weight"),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "olmoe"), Family("mlp", r"gate\.weight")),
    "deepseek_v3": Family("mlp", r"gate\.(weight|e_score_correction_bias)"),
    "granitemoe": Family("block_sparse_moe", r"router\.layer\.weight", r"(input|output)_linear\.weight"),
    "gpt_oss": Family("mlp", r"router\.(weight|bias)", r"experts\.(gate_up|down)_proj(_(blocks|scales|bias))?"),
}


class _Config(BaseModel):
    model_type: str
    n_routed_experts: Number | None = None
    num_experts: Number | None = None
    num_local_experts: Number | None = None
    n_group: Annotated[Number, Field(ge=1)] | None = None

    @property
    def experts(self) -> int:
        return self.n_routed_experts or self.num_experts or self.num_local_experts or 0


class _Index(BaseModel, extra="allow"):
    weight_map: dict[str, str]


class Part(NamedTuple):
    """A tensor in the block of a layer: its name is ``head``, `experts.N.` for that of one expert, then ``tail``."""

    name: str
    head: str
    expert: int | None
    tail: str
    tensor: Tensor


class Checkpoint(NamedTuple):
    """A checkpoint whose tensors are all known, by MoE layer in ``layers``; ``left_out``: files not taken along.

    ``groups``: of experts that the router chooses among. ``file_of``: each tensor's; ``parameters``: those that an
    optimizer's state is of, None without one.
    """

    files: list[Path]
    left_out: tuple[str, ...]
    experts: int
    groups: int
    headers: dict[Path, Header]
    file_of: dict[str, str]
    shards: _Index | None
    layers: dict[int, list[Part]]
    parameters: Parameters | None


@dataclass(frozen=True)
class Permuted:
    """What was done: layers with a new order, all MoE layers, tensors renamed and reordered, parameters whose
    optimizer states moved, files not taken along.
    """

    layers: tuple[int, ...]
    moe_layers: tuple[int, ...]
    renamed: int
    reordered: int
    states: int
    left_out: tuple[str, ...]


def moe_layers(checkpoint: Path) -> list[int]:
    """Return the numbers of a checkpoint's MoE layers; raise what `permute_checkpoint` raises for it."""
    return list(_open(checkpoint, optimizer=False).layers)


def permute_checkpoint(
    checkpoint: Path,
    orders: Mapping[int, Sequence[int]],
    out: Path,
    report: Report | None = None,
    *,
    optimizer: bool = True,
) -> Permuted:
    """Write a checkpoint whose experts stand in the given order, by layer, into the new folder ``out``.

    Layers that are not in ``orders`` stay. An `optimizer.pt` moves along (`optimizer_states`), or is left out without
    ``optimizer``; scheduler, random numbers and the Trainer's state are copied. The folder appears when it is complete.

    Raise `PlacementError` for a family that is not one of FAMILIES, files that do not hold what its config says,
    tensors of an MoE block that nothing is known of, links that leave the checkpoint, an order that does not fit, and a
    folder that exists; `OSError` where the disk cannot take it.
    """
    if os.path.lexists(out):
        raise PlacementError(f"{out}: exists already; expected a new folder, nothing is overwritten")
    opened = _open(checkpoint, optimizer)
    for layer, order in orders.items():
        _check_order(layer, order, opened.experts, opened.layers, opened.groups)
    new_order, states = Orders(orders), 0
    places = {name: new_order.place(name) for name in opened.file_of}
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        progress = Progress(list(opened.headers), report)
        for file in opened.files:
            if file in opened.headers:
                _write(file, scratch / file.name, opened.headers[file], places, progress)
            elif file.name == OPTIMIZER and opened.parameters is not None:
                states = permute_optimizer(file, scratch / file.name, opened.parameters, orders)
            elif file.name != INDEX:
                shutil.copyfile(file, scratch / file.name)
        if opened.shards is not None:
            files = {places[name].name: file for name, file in opened.file_of.items()}
            (scratch / INDEX).write_text(json.dumps({**opened.shards.model_dump(), "weight_map": files}, indent=2))
        scratch.chmod(0o755)
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    renamed = sum(place.name != name for name, place in places.items())
    reordered = sum(place.order is not None for place in places.values())
    return Permuted(tuple(sorted(orders)), tuple(opened.layers), renamed, reordered, states, opened.left_out)


def what_stays(checkpoint: Path) -> list[str]:
    """Return what `permute_checkpoint` would not take along, in sentences; [] where all moves. Nothing is written."""
    try:
        opened = _open(checkpoint, optimizer=True)
        if opened.parameters is not None:
            orders = dict.fromkeys(opened.layers, range(opened.experts))
            permute_optimizer(checkpoint / OPTIMIZER, None, opened.parameters, orders)
    except MoeloadError as error:
        return [f"no plan can be carried out: {error}"]
    notes = [f"not taken along: {', '.join(opened.left_out)}"] if opened.left_out else []
    if opened.parameters is None:
        notes.append(f"no {OPTIMIZER}: the optimizer would begin without its state")
    return notes


def _open(checkpoint: Path, optimizer: bool) -> Checkpoint:
    """Return a checkpoint, checked, with or without its optimizer; raise what `permute_checkpoint` raises for it."""
    files, left_out = _files(checkpoint)
    if not optimizer:
        left_out += tuple(file.name for file in files if file.name == OPTIMIZER)
        files = [file for file in files if file.name != OPTIMIZER]
    config = read_json(_Config, checkpoint / "config.json", MAX_INDEX_BYTES, "a configuration", PlacementError)
    family, experts = _family(config, checkpoint)
    headers = _headers(files)
    if not headers:
        raise PlacementError(f"{checkpoint}: no .safetensors files; other kinds of weights are not read")
    file_of = _file_of(headers)
    index = next((_index(file, file_of) for file in files if file.name == INDEX), None)
    layers = _moe_layers(headers.values(), family)
    for layer, parts in layers.items():
        _check_layer(f"{checkpoint}: layer {layer}", parts, family, experts)
    has_state = any(file.name == OPTIMIZER for file in files)
    parameters = parameters_of(checkpoint, _layer_count(file_of)) if has_state else None
    groups = config.n_group or 1
    return Checkpoint(files, left_out, experts, groups, headers, file_of, index, layers, parameters)


def _family(config: _Config, checkpoint: Path) -> tuple[Family, int]:
    if config.model_type not in FAMILIES:
        raise not_found("model family", config.model_type[:80], FAMILIES)
    experts, groups = config.experts, config.n_group or 1
    if experts < 2:
        raise PlacementError(
            f"{checkpoint}/config.json: the number of experts (n_routed_experts, num_experts or num_local_experts) is "
            f"{experts or None}, expected 2 or more"
        )
    if experts % groups:
        raise PlacementError(f"{checkpoint}/config.json: n_group is {groups}, expected a divisor of {experts} experts")
    return FAMILIES[config.model_type], experts


def _files(checkpoint: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return a checkpoint's files, and the names of what is not taken along: folders, weights of other kinds.

    Raise `PlacementError` for a pipe or device, and for a link that leaves the checkpoint. The Hub's cache has links
    from `snapshots/REVISION` to `blobs`.
    """
    files, left_out = [], []
    root = Path(os.path.realpath(checkpoint))
    homes = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    for path in sorted(checkpoint.iterdir()):
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(home) for home in homes):
            raise PlacementError(f"{path}: a link out of the checkpoint, to {target}; expected the file itself")
        if target.is_dir() or (path.suffix != ".safetensors" and path.name.endswith(WEIGHTS) and not _taken(path.name)):
            left_out.append(path.name)
        elif not target.is_file():
            raise PlacementError(f"{path}: a pipe, device or broken link, expected a file")
        else:
            files.append(path)
    return files, tuple(left_out)


def _taken(name: str) -> bool:
    """Return whether a file whose name ends as weights do is none, or is read by its name."""
    return name in (INDEX, OPTIMIZER, *STATES) or bool(re.fullmatch(r"rng_state(_[0-9]+)?\.pth", name))


def _layer_count(names: Iterable[str]) -> int:
    """Return how many layers tensors have, by their names."""
    numbers = (re.search(rf"(?:^|\.)layers\.{NUMBER}\.", name) for name in names)
    return 1 + max((int(match[1]) for match in numbers if match), default=-1)


def _headers(files: Iterable[Path]) -> dict[Path, Header]:
    headers = {}
    for file in (file for file in files if file.suffix == ".safetensors"):
        try:
            headers[file] = read_header(file)
        except ValueError as error:
            raise PlacementError(f"{file}: {error}") from None
    return headers


def _file_of(headers: Mapping[Path, Header]) -> dict[str, str]:
    """Return the file of each tensor; raise `PlacementError` for one that two files hold."""
    files: dict[str, str] = {}
    for file, header in headers.items():
        for name in header.tensors:
            if name in files:
                raise PlacementError(f"{file}: tensor {name} is in {files[name]} too")
            files[name] = file.name
    return files


def _index(path: Path, file_of: Mapping[str, str]) -> _Index:
    """Return the index of a checkpoint's files; raise `PlacementError` unless it has each tensor where it is."""
    index = read_json(_Index, path, MAX_INDEX_BYTES, "an index", PlacementError)
    odd = next(
        (name for name in (*file_of, *index.weight_map) if file_of.get(name) != index.weight_map.get(name)), None
    )
    if odd is not None:
        raise PlacementError(
            f"{path}: tensor {odd} is in {index.weight_map.get(odd)} there, and in {file_of.get(odd)} by the files"
        )
    return index


def _moe_layers(headers: Iterable[Header], family: Family) -> dict[int, list[Part]]:
    """Return the tensors of each MoE layer's block, by the layer's number: one that holds a router or experts."""
    single = "()" if family.stacked else rf"(?:experts\.{NUMBER}\.)?"
    block = re.compile(rf"(?s)((?:.*\.)?layers\.{NUMBER}\.{family.block}\.){single}(.+)")
    blocks: dict[int, list[Part]] = defaultdict(list)
    for header in headers:
        for name, tensor in header.tensors.items():
            if match := block.fullmatch(name):
                expert = int(match[3]) if match[3] else None
                blocks[int(match[2])].append(Part(name, match[1], expert, match[4], tensor))
    return {n: blocks[n] for n in sorted(blocks) if any(p.expert is not None or _by_rows(p, family) for p in blocks[n])}


def _by_rows(part: Part, family: Family) -> bool:
    return bool(re.fullmatch(f"{family.router}|{family.stacked or family.router}", part.tail))


def _check_layer(where: str, parts: Sequence[Part], family: Family, experts: int) -> None:
    """Raise `PlacementError` unless a layer has a router and all experts with the same tensors, and nothing unknown."""
    heads = sorted({part.head for part in parts})
    if len(heads) > 1:
        raise PlacementError(f"{where} is there twice: {heads[0]} and {heads[1]}")
    tails: dict[int, set[str]] = defaultdict(set)
    for part in parts:
        if part.expert is not None:
            tails[part.expert].add(part.tail)
        elif not _by_rows(part, family):
            if not re.fullmatch(SHARED, part.tail):
                raise PlacementError(f"{where}: {part.name} is unknown: it may belong to the router or to experts")
        elif part.tensor.shape[:1] != (experts,) or part.tensor.size % experts:
            raise PlacementError(
                f"{where}: {part.name} has shape {part.tensor.shape}, expected {experts} rows of whole bytes"
            )
    if not any(re.fullmatch(family.router, part.tail) for part in parts):
        raise PlacementError(f"{where} has experts and no router")
    if family.stacked is None:
        _check_experts(where, tails, experts)
    elif not any(re.fullmatch(family.stacked, part.tail) for part in parts):
        raise PlacementError(f"{where} has a router and no experts")


def _check_experts(where: str, tails: Mapping[int, Collection[str]], experts: int) -> None:
    """Raise `PlacementError` unless the experts 0 .. E-1 are there, with the same tensors each."""
    if not tails:
        raise PlacementError(f"{where} has a router and no experts")
    first = tails[min(tails)]
    odd = next((expert for expert, has in sorted(tails.items()) if has != first), None)
    if odd is not None:
        raise PlacementError(f"{where}: expert {odd} has other tensors than expert {min(tails)}")
    if len(tails) != experts or max(tails) >= experts:
        raise PlacementError(f"{where}: {len(tails)} experts up to {max(tails)}, expected {experts} from 0 on")


def _check_order(layer: int, order: Sequence[int], experts: int, moe_layers: Collection[int], groups: int) -> None:
    if layer not in moe_layers:
        listed = ", ".join(map(str, moe_layers))[:400] or "none under the names that this family has"
        raise PlacementError(f"layer {layer} of the plan is no MoE layer; there is: {listed}")
    if len(order) != experts or set(order) != set(range(experts)):
        raise PlacementError(f"layer {layer} of the plan has {len(order)} experts, the checkpoint {experts}")
    size = experts // groups
    for start in range(0, experts, size) if groups > 1 else ():
        came_from = sorted({expert // size for expert in order[start : start + size]})
        if len(came_from) > 1:
            raise PlacementError(
                f"layer {layer}: the router chooses among {groups} groups of {size} experts, and the plan puts experts "
                f"of groups {', '.join(map(str, came_from))[:400]} into one; expected a plan that keeps groups "
                f"together (plan --nodes {groups})"
            )


def _write(file: Path, target: Path, header: Header, places: Mapping[str, NewPlace], progress: Progress) -> None:
    """Write one file, and report the bytes of each tensor."""
    entries = {places[name].name: tensor.model_dump() for name, tensor in header.tensors.items()}
    about = {"__metadata__": header.metadata} if header.metadata else {}
    text = json.dumps({**about, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("rb") as source, target.open("wb") as sink:
        sink.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in header.tensors.items():
            rows = places[name].order or (0,)
            size = tensor.size // len(rows)
            for row in rows:
                source.seek(header.start + tensor.data_offsets[0] + row * size)
                _copy(source, sink, size)
            progress.add(tensor.size, file.name)


def _copy(source: BinaryIO, sink: BinaryIO, size: int) -> None:
    while size > 0:
        chunk = source.read(min(size, CHUNK_BYTES))
        if not chunk:
            raise PlacementError(f"{source.name}: it ended while it was read")
        sink.write(chunk)
        size -= len(chunk)
