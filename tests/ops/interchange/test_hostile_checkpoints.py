"""Checkpoints and plans that strangers made: each is permuted rightly or refused in one line, in bounded time."""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moeload_bench.errors import MoeloadError, PlacementError
from moeload_bench.ops.interchange.checkpoints import INDEX, permute_checkpoint
from moeload_bench.ops.interchange.expert_orders import read_orders
from moeload_bench.traces.tensors import BITS, read_header
from tests.conftest import full_disk
from tests.support.no_files import put_no_file

E = 4
ORDER = (2, 0, 3, 1)
BLOCK = "model.layers.0.mlp."
Shapes = dict[str, tuple[str, list[int]]]
TENSORS: Shapes = {
    "model.embed.weight": ("F32", [3, 2]),
    f"{BLOCK}gate.weight": ("BF16", [E, 2]),
    f"{BLOCK}shared_experts.up_proj.weight": ("F32", [2, 2]),
    **{f"{BLOCK}experts.{e}.up_proj.weight": ("F32", [2, 2]) for e in range(E)},
}


def checkpoint(folder: Path, tensors: Shapes = TENSORS, kind: str = "deepseek_v3", **config: Any) -> Path:
    """Make a checkpoint of one file with tensors of these dtypes and shapes; its bytes count up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "num_experts": E, **config}))
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(i % 251 for i in range(end))
    (folder / "model.safetensors").write_bytes(content)
    return folder


def with_entry(folder: Path, **fields: str) -> None:
    """Write other JSON text into the router's entry of a header."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    entry = {key: json.dumps(value) for key, value in header[f"{BLOCK}gate.weight"].items()} | fields
    changed = "{" + ", ".join(f'"{key}": {value}' for key, value in entry.items()) + "}"
    parts = [f'"{name}": {changed if "gate" in name else json.dumps(value)}' for name, value in header.items()]
    text = ("{" + ", ".join(parts) + "}").encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


@contextmanager
def bounded(seconds: float, megabytes: int) -> Iterator[None]:
    """Fail if the block takes more processor time, or raises the process's peak memory by more."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - start < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < megabytes


def refused(folder: Path, says: str, tmp_path: Path) -> None:
    """The checkpoint is refused in one line that says why; nothing is left behind."""
    with pytest.raises(MoeloadError, match=says) as caught:
        permute_checkpoint(folder, {0: ORDER}, tmp_path / "out" / "after")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not list(tmp_path.glob("out/*"))


def test_rows_and_names_move_together(tmp_path: Path) -> None:
    """What hostile cases below vary: expert j of the new file is that of slot j, byte for byte."""
    folder = checkpoint(tmp_path / "model")
    permute_checkpoint(folder, {0: ORDER}, tmp_path / "after")

    def data(path: Path, name: str) -> bytes:
        header = read_header(path / "model.safetensors")
        begin, end = header.tensors[name].data_offsets
        return (path / "model.safetensors").read_bytes()[header.start + begin : header.start + end]

    rows = [data(folder, f"{BLOCK}gate.weight")[4 * e : 4 * e + 4] for e in range(E)]
    assert data(tmp_path / "after", f"{BLOCK}gate.weight") == b"".join(rows[e] for e in ORDER)
    for j, e in enumerate(ORDER):
        name = f"{BLOCK}experts.{{}}.up_proj.weight"
        assert data(tmp_path / "after", name.format(j)) == data(folder, name.format(e))


def test_experts_of_a_checkpoint_are_bounded_by_its_tensors(tmp_path: Path) -> None:
    """A number in config.json costs no memory: 10^8 experts took 7 GB."""
    with bounded(2, 100):
        refused(checkpoint(tmp_path / "a", num_experts=10**8), "num_experts: .* less than 1000000", tmp_path)
        refused(checkpoint(tmp_path / "b", num_experts=999_999), "expected 999999 rows", tmp_path)


def test_a_header_of_very_many_layers_takes_time_in_proportion(tmp_path: Path) -> None:
    """60,000 layers took over a minute, each with all tensors again."""
    names = (name.replace("layers.0", f"layers.{m}") for m in range(20_000) for name in TENSORS if "mlp" in name)
    tensors: Shapes = {name: ("U8", [E]) for name in names if "shared" not in name}
    folder = checkpoint(tmp_path / "model", tensors)
    with bounded(20, 1000):
        done = permute_checkpoint(folder, {7: ORDER}, tmp_path / "after")
    assert len(done.moe_layers) == 20_000


def test_a_plan_of_very_many_slots_takes_time_in_proportion(tmp_path: Path) -> None:
    """60,000 slots took 17 s."""
    path = tmp_path / "plan.json"
    for slots, says in ((list(range(60_000)), None), ([*range(59_999), 0], "expert 0 is there 2 times")):
        path.write_text(json.dumps({"placement_version": 1, "layers": [{"layer": 0, "devices": [slots]}]}))
        with bounded(2, 200):
            if says is None:
                assert read_orders(path)[0] == tuple(slots)
            else:
                with pytest.raises(PlacementError, match=says):
                    read_orders(path)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"shape": "[4, 3]"}, "expected 24 bytes from 24 on"),
        ({"dtype": '"F32"'}, "expected 32 bytes"),
        ({"dtype": '"F4"'}, "expected 4 bytes"),
        ({"dtype": '"X9"'}, "dtype 'X9'"),
        ({"shape": "[Infinity, 2]"}, "shape.0"),
        ({"shape": "[4.0, 2]"}, "shape.0"),
        ({"shape": "[-4, -2]"}, "shape.0"),
        ({"shape": "null"}, "shape"),
        ({"shape": "[[4], 2]"}, "shape.0"),
        ({"shape": "[4, 2" + ", 1" * 20 + "]"}, "shape"),
        ({"shape": "[" + "9" * 5000 + "]"}, "not a safetensors"),
        ({"data_offsets": "[24, 1e400]"}, "data_offsets"),
        ({"data_offsets": "[24]"}, "data_offsets"),
        ({"data_offsets": "[24.0, 40.0]"}, r"data_offsets\.0: .* valid integer, got 24\.0"),
        ({"data_offsets": "[false, 40]"}, r"data_offsets\.0: .* valid integer, got False"),
        ({"dtype": '"BF16", "dtype": "BF16"'}, "'dtype' occurs twice"),
        ({"data_offsets": "[0, 16]"}, "expected 24 bytes from 16 on"),
        ({"more": "[" * 5000 + "]" * 5000}, "not a safetensors"),
        ({"more": "1"}, "more"),
    ],
)
def test_shapes_and_dtypes_of_a_checkpoint_are_held_to_its_bytes(
    fields: dict[str, str], says: str, tmp_path: Path
) -> None:
    """Rows of another size would be cut elsewhere, in silence."""
    folder = checkpoint(tmp_path / "model")
    with_entry(folder, **fields)
    refused(folder, says, tmp_path)


@pytest.mark.parametrize(
    ("tensors", "kind", "says"),
    [
        ({f"{BLOCK}gate.weight_scale_inv": ("F32", [E, 1])}, "deepseek_v3", "gate.weight_scale_inv is unknown"),
        ({f"{BLOCK}gate.bias": ("F32", [E])}, "qwen3_moe", "gate.bias is unknown"),
        ({f"{BLOCK}experts.gate_up_proj": ("F32", [E, 2])}, "qwen3_moe", "experts.gate_up_proj is unknown"),
        ({f"{BLOCK}experts.01.up_proj.weight": ("F32", [E, 2])}, "qwen3_moe", "experts.01.up_proj.weight is unknown"),
        ({f"{BLOCK}experts.{'9' * 5000}.up": ("F32", [2])}, "qwen3_moe", "at most 400"),
        ({f"{BLOCK}experts.4.up_proj.weight": ("F32", [2])}, "qwen3_moe", "5 experts up to 4, expected 4"),
        ({f"{BLOCK}experts.3.bias": ("F32", [2])}, "qwen3_moe", "expert 3 has other tensors"),
        ({"layers.0.mlp.gate.weight": ("F32", [E, 2])}, "qwen3_moe", "is there twice"),
        ({f"{BLOCK}gate.e_score_correction_bias": ("F32", [E + 1])}, "deepseek_v3", "expected 4 rows"),
    ],
)  # fmt: skip
def test_what_is_unknown_beside_a_router_is_refused_by_name(
    tensors: Shapes, kind: str, says: str, tmp_path: Path
) -> None:
    """It would stay where the rows of the router move."""
    refused(checkpoint(tmp_path / "model", {**TENSORS, **tensors}, kind), says, tmp_path)


def test_rows_that_are_no_whole_bytes_are_refused(tmp_path: Path) -> None:
    """Three values of four bits a row: data that E does not divide were cut."""
    names = ("router.weight", "experts.gate_up_proj_blocks")
    tensors: Shapes = {f"{BLOCK}{name}": ("F4", [6, 3]) for name in names}
    folder = checkpoint(tmp_path / "model", tensors, "gpt_oss", num_experts=6)
    refused(folder, "shape .* of whole bytes", tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "weight_map"),
        ("[]", "an index: "),
        ("null", "an index: "),
        ("3", "an index: "),
        ('{"weight_map": 3}', "weight_map: "),
        ('{"weight_map": {"a": 3}}', "weight_map.a: "),
        ('{"weight_map": {"model.layers.0.mlp.experts.77.up_proj.weight": "model.safetensors"}}', "is in None there"),
        ("[" * 5000, "an index: "),
    ],
)
def test_an_index_that_is_none_is_refused(text: str, says: str, tmp_path: Path) -> None:
    """As a list, a number or null, without a map, and with experts that no file holds."""
    folder = checkpoint(tmp_path / "model")
    (folder / INDEX).write_text(text)
    refused(folder, says, tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"n_group": 10**5}, "n_group is 100000, expected a divisor of 4"),
        ({"n_group": 0}, "n_group: "),
        ({"num_experts": 4.0}, "num_experts: "),
        ({"num_experts": "4"}, "num_experts: "),
        ({"model_type": ["olmoe"]}, "model_type: "),
    ],
)
def test_numbers_of_a_config_are_bounded(config: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Groups of no expert ended in a traceback."""
    refused(checkpoint(tmp_path / "model", **config), says, tmp_path)


@pytest.mark.parametrize("name", ["x.safetensors", "config.json", "tokenizer.json", INDEX])
@pytest.mark.parametrize("there", ["pipe", "device", "loop"])
def test_only_regular_files_of_a_checkpoint_are_read(name: str, there: str, tmp_path: Path) -> None:
    """A pipe was waited for."""
    folder = checkpoint(tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    put_no_file(there, folder / name)
    refused(folder, "expected (a file|the file itself)", tmp_path)


@pytest.mark.parametrize("kind", ["absolute", "relative", "chain", "blobs"])
def test_a_link_out_of_the_checkpoint_is_refused(kind: str, tmp_path: Path) -> None:
    """A linked tokenizer would be a copy of any file of the user's; `blobs` is only the Hub's beside `snapshots`."""
    folder = checkpoint(tmp_path / "model")
    for secret in (tmp_path / "secret", tmp_path / "blobs" / "secret"):
        secret.parent.mkdir(exist_ok=True)
        secret.write_text("mine")
    target = {"absolute": str(tmp_path / "secret"), "relative": "../secret", "chain": "a", "blobs": "../blobs/secret"}[
        kind
    ]
    (folder / "a").symlink_to("../secret")
    (folder / "tokenizer.json").symlink_to(target)
    if kind != "chain":
        (folder / "a").unlink()
    refused(folder, "a link out of the checkpoint", tmp_path)


def test_a_checkpoint_in_the_hub_s_cache_is_copied_whole(tmp_path: Path) -> None:
    """Its files are links from `snapshots/REVISION` to `blobs`; links within a checkpoint are followed too."""
    plain = checkpoint(tmp_path / "plain")
    (plain / "tokenizer.json").write_text("{}")
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123abcd"
    blobs = snapshot.parents[1] / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for number, path in enumerate(plain.iterdir()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(os.path.relpath(blobs / str(number), snapshot))
    (snapshot / "vocab.json").symlink_to("tokenizer.json")
    permute_checkpoint(snapshot, {0: ORDER}, tmp_path / "after")
    made = sorted((tmp_path / "after").iterdir())
    assert [path.name for path in made] == ["config.json", "model.safetensors", "tokenizer.json", "vocab.json"]
    assert not any(path.is_symlink() for path in made)
    assert made[2].read_text() == "{}"


def test_a_disk_that_fills_leaves_nothing_of_a_checkpoint(tmp_path: Path) -> None:
    """Everything is copied or nothing."""
    folder = checkpoint(tmp_path / "model", {**TENSORS, "head": ("U8", [100_000])})
    with full_disk(50_000), pytest.raises(OSError, match="large"):
        permute_checkpoint(folder, {0: ORDER}, tmp_path / "after")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "y.safetensors").write_bytes((f / "model.safetensors").read_bytes()),
        lambda f: (f / "model.safetensors").write_bytes(b""),
        lambda f: (f / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little")),
        lambda f: (f / "model.safetensors").write_bytes(b"\2" + bytes(7) + b"[]"),
        lambda f: (f / "model.safetensors").write_bytes(b"\2" + bytes(7) + b"\xff\xff"),
    ],
    ids=["twice", "empty", "longer than the file", "list", "no text"],
)
def test_files_that_are_no_checkpoint_are_refused(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    """A tensor in two files too: which of them holds?"""
    folder = checkpoint(tmp_path / "model")
    damage(folder)
    refused(folder, "not a safetensors|is in model.safetensors too", tmp_path)
