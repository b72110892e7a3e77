"""UltraEP's load traces (`ultra_ep_trace_v1`): the loads of each layer in each micro-batch, before it balances them.

Read from `ultra_ep/profiling.py` of Dots-Infra/UltraEP at 94cab099 (1.0.0, MIT); made in that form in the tests, the
engine was not run here. With `ULTRA_EP_LOAD_PROFILING=1`, rank 0 of each expert-parallel group writes
`{trace}.manifest.json` and `{trace}.chunk000000.npz`, ... into `ULTRA_EP_LOAD_PROFILE_DIR`. A chunk has `layers` [N],
`microbatches` [N] (both numbers per record), `pre_logical_loads` [N, E], the choices of all ranks of the group before
any drop, and what is passed over here: `virtual_layers`, the loads after balancing, and the manifest again.

There is no step in it: `microbatches` counts on in each layer. So the user says how many are a step
(`--micro-batches M`), and step s has the records s M to s M + M - 1 of every layer. Passes without training count too.
Several groups are copies that routed tokens of their own: their counts are added. With an interval between records
(`ULTRA_EP_LOAD_PROFILE_RECORD_INTERVAL`), or where some were dropped, a step lacks some of its micro-batches: that is
refused, never filled in. What lies before is imported with `--last-step`.

Axis letters: N records, L MoE layers, E experts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import IntArray
from moeload_bench.bounds import check_decoded, parse_json
from moeload_bench.errors import TraceError, printable, short
from moeload_bench.files import read_at_most
from moeload_bench.ops.interchange.logfiles import (
    Paths,
    Progress,
    check_files,
    field_of,
    files_by_number,
    find_files,
    whole_counts,
    whole_number,
)
from moeload_bench.ops.interchange.rows import Log, LogRow, Report
from moeload_bench.traces.archives import read_arrays
from moeload_bench.traces.trace import MAX_COUNT, MAX_LAYERS

SCHEMA = "ultra_ep_trace_v1"
MANIFEST = ".manifest.json"
MAX_MANIFEST = 1 << 20
MAX_CHUNK = 1 << 30
"""Bytes of a chunk: 128 records by default, 128 x 384 experts take 0.4 MB."""
MAX_OPEN = 64
"""Steps that may be begun and not yet whole: pipelines run a few ahead."""
ARRAYS = ("metadata", "layers", "virtual_layers", "microbatches", "pre_logical_loads", "post_physical_loads")
FIELDS = ("schema", "ep_group_id", "chunks", "dropped_records", "record_interval")


class Group(NamedTuple):
    """The trace of one expert-parallel group. ``interval``: micro-batches from one record to the next."""

    path: Path
    chunks: tuple[Path, ...]
    dropped: int
    interval: int


class _Form(NamedTuple):
    """What all groups have in common: ``groups`` is their number."""

    layers: tuple[int, ...]
    experts: int
    micro_batches: int
    groups: int


@dataclass
class _Step:
    """The micro-batches of a step so far: their sum and their largest [L, E], and which were seen."""

    load_LE: IntArray
    most_LE: IntArray
    seen: set[tuple[int, int]] = field(default_factory=set)


def read_ultra_ep(paths: Paths, *, micro_batches: int, report: Report | None = None) -> Log:
    """Return the log in a folder of UltraEP's traces, ``micro_batches`` of a group a step.

    Raise `TraceError` for steps that lack a micro-batch, but for the last ones of a run that was stopped.
    """
    cut = list[str]()
    manifests = find_files(paths, f"*{MANIFEST}")
    groups = _groups(manifests, _chunk_files(manifests), cut)
    progress = Progress([chunk for group in groups for chunk in group.chunks], report)
    interval = groups[0].interval
    if micro_batches > 1 and interval > 1:
        raise TraceError(
            f"{groups[0].path}: one micro-batch in {interval} is recorded, so no step has all of its {micro_batches}; "
            "expected --micro-batches 1, which takes each of them as a step, or ULTRA_EP_LOAD_PROFILE_RECORD_INTERVAL=1"
        )
    form = _Form(*_layers(groups), micro_batches, len(groups))
    rows = [_steps(group, form, progress, cut) for group in groups]
    copies = f", sums over {len(groups)} expert-parallel groups" if len(groups) > 1 else ""
    notes = [
        f"steps are counted: {micro_batches} micro-batches of UltraEP each{copies}; passes without training count too"
    ]
    where = str(groups[0].path) if len(groups) == 1 else f"{groups[0].path.parent} ({len(groups)} groups)"
    return Log(where, form.layers, form.experts, _added(rows, micro_batches, cut), notes=notes, cut=cut)


def _chunk_files(manifests: list[Path]) -> dict[Path, list[Path]]:
    """Return the chunks of each trace by the path that all their names begin with; each folder is listed once."""
    files: dict[Path, list[Path]] = defaultdict(list)
    for folder in dict.fromkeys(path.parent for path in manifests):
        for file in folder.glob("*.chunk*.npz"):
            files[folder / file.name.rpartition(".chunk")[0]].append(file)
    return files


def _groups(manifests: list[Path], chunks: Mapping[Path, list[Path]], cut: list[str]) -> list[Group]:
    """Return the traces by their manifests; raise for a group that has two, and for different intervals."""
    table: dict[str, Group] = {}
    for path in manifests:
        name, group = _group(path, chunks, cut)
        if name in table:
            raise TraceError(f"{path}: group {printable(name)[:80]} again, it is in {table[name].path} too: a run that "
                             "was restarted is imported in parts, a folder each")  # fmt: skip
        table[name] = group
    groups = list(table.values())
    odd = next((group for group in groups if group.interval != groups[0].interval), None)
    if odd is not None:
        raise TraceError(f"{odd.path}: record_interval is {odd.interval}, expected {groups[0].interval} as in the "
                         "other groups")  # fmt: skip
    return groups


def _group(path: Path, chunk_files: Mapping[Path, list[Path]], cut: list[str]) -> tuple[str, Group]:
    """Return the group's name and its trace. A run that was killed leaves a manifest without its chunks."""
    if not path.name.endswith(MANIFEST):
        raise TraceError(f"{path}: expected a manifest, NAME{MANIFEST}, or the folder that holds it")
    record = _manifest(path)
    schema, name = (field_of(record, key, str(path), FIELDS) for key in ("schema", "ep_group_id"))
    if schema != SCHEMA or not isinstance(name, str):
        raise TraceError(f"{path}: schema is {short(schema)} of group {short(name)}, expected {SCHEMA!r} and a text")
    chunks, dropped = (whole_number(field_of(record, key, str(path), FIELDS), key, str(path))
                       for key in ("chunks", "dropped_records"))  # fmt: skip
    interval = whole_number(field_of(record, "record_interval", str(path), FIELDS), "record_interval", str(path), 1)
    stem = path.name.removesuffix(MANIFEST)
    files = chunk_files.get(path.parent / stem, [])
    check_files(files)
    numbered = files_by_number(files, r"\.chunk(\d+)\.npz$", "chunk") if files else {}
    if len(numbered) < chunks or not numbered:
        raise TraceError(f"{path}: got {len(numbered)} chunks {stem}.chunk*.npz, expected {max(1, chunks)}")
    if len(numbered) > chunks:
        cut.append(f"{path}: the recording was not closed: {chunks} chunks in the manifest, {len(numbered)} are there")
    return name, Group(path, tuple(numbered[number] for number in sorted(numbered)), dropped, interval)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        record = parse_json(read_at_most(path, MAX_MANIFEST))
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: not JSON: {printable(' '.join(str(error).split()))[:200]}") from None
    if not isinstance(record, dict):
        raise TraceError(f"{path}: got a JSON {type(record).__name__}, expected an object")
    return record


def _chunk(path: Path, *names: str) -> list[IntArray]:
    """Return arrays of a chunk, whole numbers from 0, a row for each record."""
    arrays = read_arrays(path, ARRAYS, MAX_CHUNK, wanted=names)
    check_decoded(8 * sum(array.size for array in arrays.values()), path.stat().st_size, str(path))
    counts = [
        whole_counts(field_of(arrays, name, str(path), ARRAYS), name, str(path), 2 if name == ARRAYS[4] else 1)
        for name in names
    ]
    if len({len(rows) for rows in counts}) > 1:
        raise TraceError(f"{path}: {', '.join(f'{len(rows)} {key}' for key, rows in zip(names, counts, strict=True))}, "
                         "expected a row of each for every record")  # fmt: skip
    return counts


def _layers(groups: list[Group]) -> tuple[tuple[int, ...], int]:
    """Return the layers, the same in every group, and the number of experts."""
    by_group = [_layers_of(group) for group in groups]
    for group, layers in zip(groups, by_group, strict=True):
        if layers != by_group[0]:
            raise TraceError(
                f"{group.path}: layer {min(layers ^ by_group[0])} is in some groups only; expected copies of the same "
                "layers: import each pipeline stage alone, then `moeload-bench import merge`"
            )
    return tuple(sorted(by_group[0])), _chunk(groups[0].chunks[0], "pre_logical_loads")[0].shape[1]


def _layers_of(group: Group) -> set[int]:
    """Return the layers of a group; raise `TraceError` for more than a trace holds."""
    layers = set[int]()
    for path in group.chunks:
        layer_N = np.sort(_chunk(path, "layers")[0])  # np.unique takes ten times as long for millions of layers
        layers.update(layer_N[np.diff(layer_N, prepend=-1) > 0][: MAX_LAYERS + 1].tolist())
        if len(layers) > MAX_LAYERS:
            raise TraceError(f"{path}: more than {MAX_LAYERS} layers, which is the most that a trace has")
    return layers


def _steps(group: Group, form: _Form, progress: Progress, cut: list[str]) -> Iterator[tuple[int, _Step, str]]:
    """Yield the whole steps of a group in order, with their numbers and places."""
    begun: dict[int, _Step] = {}
    after, whole, place = 0, form.micro_batches * len(form.layers), ""
    for path in group.chunks:
        layer_N, micro_N, load_NE = _chunk(path, "layers", "microbatches", "pre_logical_loads")
        if load_NE.shape[1] != form.experts:
            raise TraceError(f"{path}: {load_NE.shape[1]} experts, expected {form.experts} as in the chunks before")
        row_N = np.searchsorted(form.layers, layer_N)
        for n, (layer, micro) in enumerate(zip(layer_N.tolist(), micro_N.tolist(), strict=True)):
            number, place = micro // form.micro_batches, f"{path}, record {n}"
            if number not in begun:
                begun[number] = _new_step(form, len(begun), load_NE.size, progress.total, place)
            step = begun[number]
            if number < after or (layer, micro) in step.seen:
                raise TraceError(f"{place}: micro-batch {micro} of layer {layer} again, expected numbers that rise")
            step.seen.add((layer, micro))
            step.load_LE[row_N[n]] += load_NE[n]
            _check_sum(step.load_LE[row_N[n]], place)
            np.maximum(step.most_LE[row_N[n]], load_NE[n], out=step.most_LE[row_N[n]])
            while after in begun and len(begun[after].seen) == whole:
                yield after, begun.pop(after), place
                after += group.interval
            if len(begun) > MAX_OPEN:
                raise _gap(group, form, begun, after)
        progress.add(path.stat().st_size, path.name)
    if any(len(step.seen) == whole for step in begun.values()):
        raise _gap(group, form, begun, after)
    if begun or not after:
        cut.append(f"{place}: the recording breaks off in step {after}; read up to it")


def _new_step(form: _Form, begun: int, chunk_cells: int, file_bytes: int, place: str) -> _Step:
    """Return a step without counts; raise `TraceError` where all groups together would hold too much for their files.

    A group holds a chunk and the steps that are begun.
    """
    step_cells = 2 * len(form.layers) * form.experts
    check_decoded(8 * form.groups * ((begun + 1) * step_cells + chunk_cells), file_bytes, place)
    return _Step(*np.zeros((2, len(form.layers), form.experts), dtype=np.int64))


def _check_sum(load_E: IntArray, place: str) -> None:
    """Raise `TraceError` for a sum that no trace holds, before 64 bits are too few for it."""
    if load_E.max() > MAX_COUNT:
        raise TraceError(f"{place}: an expert's counts of the step sum to {load_E.max()}, expected at most {MAX_COUNT}")


def _gap(group: Group, form: _Form, begun: dict[int, _Step], after: int) -> TraceError:
    """Return what step ``after`` lacks, though later ones are there."""
    seen = begun[after].seen if after in begun else set()
    first = after * form.micro_batches
    wanted = ((layer, first + m) for layer in form.layers for m in range(form.micro_batches))
    layer, micro = next(place for place in wanted if place not in seen)
    before = f" (--last-step {after - group.interval} imports what comes before)" if after else ""
    return TraceError(
        f"{group.path}: micro-batch {micro} of layer {layer} is missing, later ones are there ({group.dropped} records "
        f"were dropped): step {after} is not whole{before}"
    )


def _added(groups: list[Iterator[tuple[int, _Step, str]]], micro_batches: int, cut: list[str]) -> Iterator[LogRow]:
    """Yield the steps that every group has, their counts added."""
    for parts in zip_longest(*groups):
        whole = [part for part in parts if part is not None]
        number, _, place = whole[0]
        if len(whole) < len(groups):
            cut.append(f"{place}: {len(groups) - len(whole)} of {len(groups)} groups end before step {number}; read up "
                       "to it")  # fmt: skip
            return
        load_LE = np.zeros_like(whole[0][1].load_LE)
        for _, step, place in whole:
            load_LE += step.load_LE
            _check_sum(load_LE, place)
        most_LE = np.max([step.most_LE for _, step, _ in whole], axis=0)
        yield LogRow(number, load_LE, place, columns={"micro_max": most_LE} if micro_batches > 1 else {})
