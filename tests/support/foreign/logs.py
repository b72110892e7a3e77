"""Logs in the documented shapes of their engines, from choices that the tests know.

Axis letters: S steps, L MoE layers, E experts, W ranks that route tokens of their own, T tokens of a rank, K choices.
"""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]
STRIDE = 10


def choices(S: int = 3, W: int = 4, L: int = 4, E: int = 8, T: int = 12, K: int = 2, seed: int = 0) -> IntArray:
    """[S, W, L, T, K]: distinct experts of every token."""
    rng = np.random.default_rng(seed)
    keys = rng.random((S, W, L, T, E)) + 0.5 * rng.random((1, 1, L, 1, E))
    return np.argsort(keys, axis=-1)[..., :K]


def load_of(chosen: IntArray, E: int = 8) -> IntArray:
    """[..., T, K] choices to [..., E] counts."""
    flat = chosen.reshape(-1, *chosen.shape[-2:])
    counted = np.stack([np.bincount(one.ravel(), minlength=E) for one in flat])
    return counted.reshape(*chosen.shape[:-2], E)


def truth(chosen: IntArray) -> IntArray:
    """[S, L, E]: what every importer has to find."""
    return load_of(chosen).sum(axis=1)


def megatron_tokens(folder: Path, chosen: IntArray, expert: int = 4, pipeline: int = 2, copies: int = 1) -> Path:
    """`tokens_per_expert/rank*.jsonl`, two micro-batches each; ``copies`` data-parallel groups of expert ranks."""
    S, W, L, _, _ = chosen.shape
    assert expert * copies == W
    folder.mkdir(parents=True)
    first, second = (load_of(half) for half in np.array_split(chosen, 2, axis=3))
    stage, local = L // pipeline, first.shape[-1] // expert
    for rank in range(pipeline * W):
        place, copy, own = rank // W, rank % W // expert, rank % expert
        group = slice(copy * expert, (copy + 1) * expert)
        lines = []
        for s in range(S):
            for m in range(stage):
                experts = slice(own * local, (own + 1) * local)
                tpe = [half[s, group, place * stage + m, experts].sum(axis=0).tolist() for half in (first, second)]
                lines.append({"iter": STRIDE * (s + 1), "block": "decoder", "layer": m, "tpe": tpe})
        write_lines(folder / f"rank{rank}.jsonl", lines)
    return folder


def megatron_routing(folder: Path, chosen: IntArray, pipeline: int = 2) -> Path:
    """`router_trace_rank*.jsonl`: every rank of a stage routes tokens of its own, in two micro-batches."""
    S, W, L, _, K = chosen.shape
    folder.mkdir(parents=True)
    stage = L // pipeline
    for rank in range(pipeline * W):
        lines = [
            {
                "step": s,
                "stage": "pre_dispatch",
                "block": "decoder",
                "layer": m,
                "rank": rank,
                "num_tokens": len(half),
                "topk": K,
                "top_indices": half.tolist(),
            }
            for s in range(S)
            for m in range(stage)
            for half in np.array_split(chosen[s, rank % W, rank // W * stage + m], 2)
        ]
        write_lines(folder / f"router_trace_rank{rank}.jsonl", lines)
    return folder


def jsonl(folder: Path, chosen: IntArray) -> Path:
    """This project's own lines, one file per rank."""
    S, W, L, T, _ = chosen.shape
    folder.mkdir(parents=True)
    for rank in range(W):
        lines = [
            {"step": STRIDE * s, "layer": m, "load": load_of(chosen[s, rank, m]).tolist(), "tokens": T}
            for s in range(S)
            for m in range(L)
        ]
        write_lines(folder / f"rank{rank}.jsonl", lines)
    return folder


def table(folder: Path, chosen: IntArray) -> Path:
    """A CSV table, one count per row."""
    folder.mkdir(parents=True)
    load = truth(chosen)
    with (folder / "counts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "layer", "expert", "load"])
        writer.writerows([STRIDE * s, m, e, load[s, m, e]] for s, m, e in np.ndindex(load.shape))
    return folder


def archive(folder: Path, chosen: IntArray, **changes: Any) -> Path:
    """A NumPy archive of loads and steps; ``changes`` are other arrays, for damages."""
    folder.mkdir(parents=True, exist_ok=True)
    load = truth(chosen)
    np.savez(folder / "counts.npz", **{"load": load, "step": STRIDE * np.arange(len(load)), **changes})
    return folder


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def sglang_stat(folder: Path, chosen: IntArray) -> Path:
    """One file of mode stat, with a dense first layer that counts nothing."""
    import torch

    folder.mkdir(parents=True)
    load = truth(chosen)
    load = np.concatenate([np.zeros_like(load[:, :1]), load], axis=1)
    record = {"rank": 0, "logical_count": torch.from_numpy(load.astype(np.int32))}
    torch.save(record, folder / "expert_distribution_recorder_1.0.pt")
    return folder


def sglang_per_pass(folder: Path, chosen: IntArray, spare: int = 2) -> Path:
    """A file per rank: counts of physical experts, ``spare`` of which are replicas of the first experts."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    S, W, L, _, _ = chosen.shape
    load = load_of(chosen)
    E = load.shape[-1]
    logical = torch.from_numpy(np.tile(np.r_[np.arange(E), np.arange(spare)], (L, 1)))
    half = load[..., :spare] // 2
    physical = np.concatenate([load, half], axis=-1)
    physical[..., :spare] -= half
    for rank in range(W):
        records = [
            {
                "forward_pass_id": 7 + s,
                "rank": rank,
                "gatherer_key": "primary",
                "global_physical_count": torch.from_numpy(physical[s, rank].astype(np.int32)),
            }
            for s in range(S)
        ]
        record = {"records": records, "last_physical_to_logical_map": logical}
        torch.save(record, folder / f"expert_distribution_recorder_1.0_{rank}.pt")
    return folder


def flame_moe(folder: Path, chosen: IntArray) -> Path:
    """A parquet file per checkpoint and layer: a list of experts in each row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    S, _, L, _, K = chosen.shape
    for s in range(S):
        (folder / str(540 * (s + 1))).mkdir(parents=True)
        for m in range(L):
            index = chosen[s, :, m].reshape(-1, K).astype(np.int16)
            table = pa.table({"indices": index.tolist(), "scores": np.zeros(index.shape).tolist()})
            pq.write_table(table, folder / str(540 * (s + 1)) / f"layer_{m + 2:02d}.parquet")
    return folder


def load_history(folder: Path, chosen: IntArray) -> Path:
    """`expert-load.json` as its readers expect it: a table of layers x experts per interval, and another field."""
    folder.mkdir(parents=True)
    entries = [{"logical_expert_load": load_LE.tolist(), "time": 0.5 * s} for s, load_LE in enumerate(truth(chosen))]
    (folder / "expert-load.json").write_text(json.dumps({"load_history": entries}), encoding="utf-8")
    return folder


def routed(folder: Path, chosen: IntArray, **changes: Any) -> Path:
    """A file per step: [tokens, layers, top-k] of int16 in the documented form of vLLM, the second one an archive of a
    prompt and its completion with one token of padding; ``changes`` are the other arrays of that archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for s, chosen_WLTK in enumerate(chosen.astype(np.int16)):
        array = np.concatenate(chosen_WLTK.swapaxes(1, 2))
        if s != 1:
            np.save(folder / f"request{s}.npy", array)
            continue
        padded = np.concatenate([array[20:], np.full_like(array[:1], -1)])
        parts = {"prompt_routed_experts": array[:20], "routed_experts": padded, "tokens": np.arange(20)}
        np.savez_compressed(folder / f"request{s}.npz", **{**parts, **changes})
    return folder


def ultra_ep(folder: Path, chosen: IntArray, groups: int = 2, records: int = 7, **manifest: Any) -> Path:
    """A manifest and chunks for each group of ranks, in the form of `ultra_ep_trace_v1`: two micro-batches a step.

    A layer's two micro-batches come one after the other, as in a pipeline; ``records`` of a chunk; ``manifest`` are
    fields that differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    S, W, L, _, _ = chosen.shape
    halves = [load_of(half).astype(np.int32) for half in np.array_split(chosen, 2, axis=3)]
    for g in range(groups):
        rank = slice(g * W // groups, (g + 1) * W // groups)
        rows = [(m, 2 * s + b, halves[b][s, rank, m].sum(axis=0)) for s in range(S) for m in range(L) for b in range(2)]
        stem, parts = f"epg{g:x}_gr0_r{g}_1750000000000", [rows[i : i + records] for i in range(0, len(rows), records)]
        facts = {"schema": "ultra_ep_trace_v1", "trace_id": stem, "ep_group_id": f"{g:x}", "record_interval": 1}
        facts |= {"chunks": len(parts), "dropped_records": 0, "num_global_logical_experts": 8, **manifest}
        (folder / f"{stem}.manifest.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
        for i, part in enumerate(parts):
            layer, micro, load = (np.array(column) for column in zip(*part, strict=True))
            np.savez(
                folder / f"{stem}.chunk{i:06d}.npz",
                metadata=np.asarray(json.dumps(facts)),
                layers=layer.astype(np.int32),
                virtual_layers=layer.astype(np.int32),
                microbatches=micro.astype(np.int64),
                pre_logical_loads=load,
                post_physical_loads=np.concatenate([load, load], axis=1),
            )
    return folder


def wandb(folder: Path, chosen: IntArray) -> Path:
    """A history as CSV: rows of other logs in between, and the panel's names and columns."""
    folder.mkdir(parents=True)
    load = truth(chosen)
    S, L, E = load.shape
    names = [f"my run - train/TokensTotal/layer{m}/expert{e}" for m in range(L) for e in range(E)]
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Step", "loss", *names, f"{names[0]}__MIN"])
        for s in range(S):
            writer.writerow([STRIDE * s, "", *load[s].ravel().tolist(), "0"])
            writer.writerow([STRIDE * s + 1, "2.5", *[""] * (L * E), ""])
    return folder


def tensorboard(folder: Path, chosen: IntArray, pattern: str = "moe/layer_{l}/expert_{e}") -> Path:
    """An event file: a scalar per layer and expert, losses in between."""
    folder.mkdir(parents=True)
    load = truth(chosen)
    S, L, E = load.shape
    events = [b"\x1a" + _bytes(b"brain.Event:2")]
    for s in range(S):
        events.append(_scalar(STRIDE * s, "loss", 2.5))
        events += [
            _scalar(STRIDE * s, pattern.format(l=m, e=e), float(load[s, m, e])) for m in range(L) for e in range(E)
        ]
    (folder / "events.out.tfevents.1.host").write_bytes(b"".join(map(_record, events)))
    return folder


def _record(event: bytes) -> bytes:
    return struct.pack("<Q", len(event)) + b"\0" * 4 + event + b"\0" * 4


def _scalar(step: int, tag: str, value: float) -> bytes:
    summary = b"\x0a" + _bytes(tag.encode()) + b"\x15" + struct.pack("<f", value)
    return b"\x09" + struct.pack("<d", 1.0) + b"\x10" + _varint(step) + b"\x2a" + _bytes(b"\x0a" + _bytes(summary))


def _bytes(value: bytes) -> bytes:
    return _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])
