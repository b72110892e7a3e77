"""Checkpoints in a plan's order: six families compute the same, and whatever does not fit is refused untouched."""

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

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import MoeloadError, PlacementError
from moeload_bench.ops.interchange.checkpoints import FAMILIES, INDEX, permute_checkpoint
from moeload_bench.ops.interchange.expert_orders import read_orders
from moeload_bench.ops.planning.placements import placement_of, write_placement
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.traces.tensors import BITS, read_header
from tests.conftest import full_disk, need
from tests.support.no_files import put_no_file

torch = need("torch", "pip install '.[torch]'")
transformers = need("transformers", "pip install '.[record]'")

E = 8
SIZES = {
    "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "intermediate_size": 16, "num_experts_per_tok": 2, "eos_token_id": None,
    "bos_token_id": None, "pad_token_id": None,
}  # fmt: skip
MOE = {"moe_intermediate_size": 16, "num_experts": E}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {"num_local_experts": E}),
    "qwen2_moe": ("Qwen2MoeConfig", {**MOE, "shared_expert_intermediate_size": 16}),
    "qwen3_moe": ("Qwen3MoeConfig", {**MOE, "head_dim": 16}),
    "olmoe": ("OlmoeConfig", {"num_experts": E}),
    "deepseek_v3": ("DeepseekV3Config", {
        "moe_intermediate_size": 16, "n_routed_experts": E, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    }),
    "granitemoe": ("GraniteMoeConfig", {"num_local_experts": E}),
    "gpt_oss": ("GptOssConfig", {"num_local_experts": E, "head_dim": 16}),
}  # fmt: skip
ORDER = (3, 0, 7, 2, 5, 1, 6, 4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns the folder of a tiny model with random weights and biases, in several files."""

    def make(kind: str, shard: str = "40KB", **more: Any) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        name, fields = MODELS[kind]
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, name)(**{**SIZES, **fields, **more})
        )
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point() and "inv_freq" not in str(tensor.shape):
                    tensor.add_(0.1 * torch.randn_like(tensor))
        model.save_pretrained(folder, max_shard_size=shard)
        return folder

    return make


def plan_file(folder: Path, layers: tuple[int, ...], order: tuple[int, ...] = ORDER, devices: int = 4) -> Path:
    """A plan of this project with one order for all layers."""
    slots = np.array([order] * len(layers))
    shape = ClusterShape("own", devices, len(order))
    return write_placement(
        placement_of(slots, len(set(order)), shape, layers, {}, 1 + max(layers)), folder / "placement.json", "json"
    )


def routed(folder: Path, tokens: Any) -> tuple[Any, list[Any]]:
    """The logits of a saved model, and what each of its routers chose, as sets of experts [tokens, top-k]."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    chosen: list[Any] = []

    def note(module: Any, given: Any, out: Any) -> None:
        parts = out if isinstance(out, tuple) else (out,)
        integers = [part for part in parts if torch.is_tensor(part) and not part.is_floating_point()]
        scores = [part for part in parts if torch.is_tensor(part) and part.is_floating_point() and part.shape[-1] == E]
        chosen.append((integers[0] if integers else scores[0].topk(2).indices).reshape(-1, 2).sort(dim=-1).values)

    for name, module in model.named_modules():
        if name.endswith((".gate", ".router")):
            module.register_forward_hook(note)
    with torch.no_grad():
        return model(tokens).logits, chosen


@pytest.mark.parametrize("kind", MODELS)
def test_a_permuted_model_computes_the_same_with_its_experts_in_the_plans_order(
    kind: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    """Logits within 1e-5 of the largest; every token goes to the experts it went to, under their new numbers."""
    before = saved(kind)
    layers = (1, 2) if kind == "deepseek_v3" else (0, 2)
    done = permute_checkpoint(before, read_orders(plan_file(tmp_path, layers)), tmp_path / "after")
    assert done.layers == layers
    assert len(done.moe_layers) == (2 if kind == "deepseek_v3" else 3)
    tokens = torch.randint(0, 96, (2, 32), generator=torch.Generator().manual_seed(1))
    logits, chosen = routed(before, tokens)
    again, moved = routed(tmp_path / "after", tokens)
    assert (logits - again).abs().max() <= 1e-5 * logits.abs().max()
    assert len(chosen) == len(moved) == len(done.moe_layers)
    old_of_new = torch.tensor(ORDER)
    for layer, was, now in zip(done.moe_layers, chosen, moved, strict=True):
        back = old_of_new[now].sort(dim=-1).values if layer in layers else now
        assert torch.equal(was, back)
        assert layer not in layers or not torch.equal(was, now)


def test_the_same_experts_lie_where_the_plan_has_them(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Expert j of the new files is the plan's slot j, in its weights and in the router's row."""
    from safetensors.torch import load_file

    before = saved("mixtral", shard="1GB")
    permute_checkpoint(before, {1: ORDER}, tmp_path / "after")
    old, new = load_file(before / "model.safetensors"), load_file(tmp_path / "after" / "model.safetensors")
    assert old.keys() == new.keys()
    block = "model.layers.1.block_sparse_moe"
    for j, expert in enumerate(ORDER):
        torch.testing.assert_close(new[f"{block}.experts.{j}.w2.weight"], old[f"{block}.experts.{expert}.w2.weight"])
    torch.testing.assert_close(new[f"{block}.gate.weight"], old[f"{block}.gate.weight"][list(ORDER)])
    still = [name for name in old if block not in name]
    assert still
    assert all(torch.equal(old[name], new[name]) for name in still)


def test_a_plan_with_replicas_is_refused_with_the_order_it_implies(tmp_path: Path) -> None:
    """A checkpoint holds each expert once."""
    path = plan_file(tmp_path, (0,), (0, 1, 2, 2, 3, 1), devices=2)
    with pytest.raises(PlacementError, match=r"6 slots for 4 experts.*--slots 4.*0,1,2,3"):
        read_orders(path)


def test_groups_of_experts_stay_groups(saved: Callable[..., Path], tmp_path: Path) -> None:
    """A router that chooses groups first would choose others; whole groups may change places."""
    before = saved("deepseek_v3", n_group=2)
    with pytest.raises(PlacementError, match=r"2 groups of 4 experts.*groups 0, 1 into one"):
        permute_checkpoint(before, {1: ORDER}, tmp_path / "mixed")
    permute_checkpoint(before, {1: (6, 4, 7, 5, 1, 0, 2, 3)}, tmp_path / "kept")
    tokens = torch.randint(0, 96, (2, 32), generator=torch.Generator().manual_seed(1))
    logits, again = routed(before, tokens)[0], routed(tmp_path / "kept", tokens)[0]
    assert (logits - again).abs().max() <= 1e-5 * logits.abs().max()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "unknown model family 'bert'.*mixtral"),
        (lambda f: (f / "config.json").unlink(), "config.json: No such file"),
        (lambda f: (f / "config.json").write_text('{"model_type": "mixtral"}'), r"number of experts .* is None"),
        (lambda f: (f / "config.json").write_text('{"model_type": "olmoe", "num_experts": 8}'), "is no MoE layer"),
        (lambda f: (f / "config.json").write_text('{"model_type": "mixtral", "num_experts": 4}'), "expected 4 rows"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 40), "not a safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-5]), "breaks off"),
        (lambda f: (f / "model.safetensors").unlink(), "no .safetensors files"),
        (lambda f: _without(f, "experts.5.w1"), "expert 5 has other tensors"),
        (lambda f: _without(f, "1.block_sparse_moe.gate"), "layer 1 has experts and no router"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_not_what_it_says_is_refused(
    damage: Callable[[Path], Any], says: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    """By what was found; nothing is left behind."""
    folder = saved("mixtral", shard="1GB")
    damage(folder)
    with pytest.raises(MoeloadError, match=says):
        permute_checkpoint(folder, {1: ORDER}, tmp_path / "out" / "after")
    assert not list(tmp_path.glob("out/*"))


def _without(folder: Path, part: str) -> None:
    """The checkpoint without the tensors whose names hold ``part``."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if part not in name}, path)


@pytest.mark.parametrize(
    ("orders", "says"),
    [
        ({7: ORDER}, "layer 7 of the plan is no MoE layer; there is: 0, 1, 2"),
        ({1: (1, 0, 2, 3)}, "layer 1 of the plan has 4 experts, the checkpoint 8"),
    ],
)
def test_a_plan_for_another_model_is_refused(
    orders: dict[int, Any], says: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    """By layer and by number of experts."""
    with pytest.raises(PlacementError, match=says):
        permute_checkpoint(saved("mixtral"), orders, tmp_path / "after")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"placement_version": 1}', '{"placement_version": 1, "layers": [{}]}',
             '{"placement_version": 1, "layers": [{"layer": 0, "devices": [["a"]]}]}',
             '{"placement_version": 1, "layers": [{"layer": 0, "devices": [[0, 2]]}]}'],
)  # fmt: skip
def test_a_file_that_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    """Whatever it holds."""
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlacementError, match=r"plan\.json"):
        read_orders(tmp_path / "plan.json")


def test_a_failure_midway_leaves_no_folder_and_the_old_one_whole(saved: Callable[..., Path], tmp_path: Path) -> None:
    """As a full disk or a kill would: the new folder appears only when it is complete."""
    before = saved("qwen3_moe")
    bytes_before = {path.name: path.read_bytes() for path in before.iterdir()}

    def fail(done: int, total: int, what: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        permute_checkpoint(before, {0: ORDER}, tmp_path / "after", fail)
    assert list(tmp_path.iterdir()) == []
    assert {path.name: path.read_bytes() for path in before.iterdir()} == bytes_before


def test_the_command_says_what_it_did_and_overwrites_nothing(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Weights of other kinds are not taken along, since they would be the old order's."""
    before = saved("gpt_oss")
    (before / "pytorch_model.bin").write_bytes(b"old")
    plan = plan_file(tmp_path, (0, 1, 2))
    words = ["export", "checkpoint", str(before), "--placement", str(plan), "--out", str(tmp_path / "after")]
    said = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(said.stdout)["left_out"] == ["pytorch_model.bin"]
    assert not (tmp_path / "after" / "pytorch_model.bin").exists()
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, PlacementError)
    assert "nothing is overwritten" in str(again.exception)


@pytest.mark.parametrize("kind", ["eplb", "sglang", "vllm", "vllm-ascend"])
def test_an_engines_placement_gives_the_checkpoint_of_the_plan(
    kind: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    """EPLB's, sglang's and vLLM's files, with rows for all layers or the MoE layers alone; none says its devices."""
    before, layers = saved("qwen3_moe"), (0, 1, 2)
    slots, shape = np.array([ORDER, ORDER[::-1], ORDER]), ClusterShape("own", 4, len(ORDER))
    placement = placement_of(slots, len(ORDER), shape, layers, {}, 3)
    path = write_placement(placement, tmp_path / f"{kind}.json", kind)
    words = ["export", "checkpoint", str(before), "--placement", str(path), "--out", str(tmp_path / "after")]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    assert read_orders(path, layers=layers) == dict(zip(layers, map(tuple, slots.tolist()), strict=True))
    with pytest.raises(PlacementError, match=r"does not say which device .* --current round_robin"):
        read_orders(path, "round_robin", layers)


def test_every_family_has_a_model_that_was_tried() -> None:
    """A family that is added needs one too."""
    assert set(MODELS) == set(FAMILIES)


# ---------------------------------------------------------------- checkpoints and plans that strangers made


EXPERTS = 4
SLOTS = (2, 0, 3, 1)
BLOCK = "model.layers.0.mlp."
Shapes = dict[str, tuple[str, list[int]]]
TENSORS: Shapes = {
    "model.embed.weight": ("F32", [3, 2]),
    f"{BLOCK}gate.weight": ("BF16", [EXPERTS, 2]),
    f"{BLOCK}shared_experts.up_proj.weight": ("F32", [2, 2]),
    **{f"{BLOCK}experts.{e}.up_proj.weight": ("F32", [2, 2]) for e in range(EXPERTS)},
}


def checkpoint(folder: Path, tensors: Shapes = TENSORS, kind: str = "deepseek_v3", **config: Any) -> Path:
    """Make a checkpoint of one file with tensors of these dtypes and shapes; its bytes count up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "num_experts": EXPERTS, **config}))
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
        permute_checkpoint(folder, {0: SLOTS}, tmp_path / "out" / "after")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not list(tmp_path.glob("out/*"))


def test_rows_and_names_move_together(tmp_path: Path) -> None:
    """What hostile cases below vary: expert j of the new file is that of slot j, byte for byte."""
    folder = checkpoint(tmp_path / "model")
    permute_checkpoint(folder, {0: SLOTS}, tmp_path / "after")

    def data(path: Path, name: str) -> bytes:
        header = read_header(path / "model.safetensors")
        begin, end = header.tensors[name].data_offsets
        return (path / "model.safetensors").read_bytes()[header.start + begin : header.start + end]

    rows = [data(folder, f"{BLOCK}gate.weight")[4 * e : 4 * e + 4] for e in range(EXPERTS)]
    assert data(tmp_path / "after", f"{BLOCK}gate.weight") == b"".join(rows[e] for e in SLOTS)
    for j, e in enumerate(SLOTS):
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
    tensors: Shapes = {name: ("U8", [EXPERTS]) for name in names if "shared" not in name}
    folder = checkpoint(tmp_path / "model", tensors)
    with bounded(20, 1000):
        done = permute_checkpoint(folder, {7: SLOTS}, tmp_path / "after")
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
        ({f"{BLOCK}gate.weight_scale_inv": ("F32", [EXPERTS, 1])}, "deepseek_v3", "gate.weight_scale_inv is unknown"),
        ({f"{BLOCK}gate.bias": ("F32", [EXPERTS])}, "qwen3_moe", "gate.bias is unknown"),
        ({f"{BLOCK}experts.gate_up_proj": ("F32", [EXPERTS, 2])}, "qwen3_moe", "experts.gate_up_proj is unknown"),
        ({f"{BLOCK}experts.01.up_proj.weight": ("F32", [EXPERTS, 2])}, "qwen3_moe", "experts.01.up_proj.weight"),
        ({f"{BLOCK}experts.{'9' * 5000}.up": ("F32", [2])}, "qwen3_moe", "at most 400"),
        ({f"{BLOCK}experts.4.up_proj.weight": ("F32", [2])}, "qwen3_moe", "5 experts up to 4, expected 4"),
        ({f"{BLOCK}experts.3.bias": ("F32", [2])}, "qwen3_moe", "expert 3 has other tensors"),
        ({"layers.0.mlp.gate.weight": ("F32", [EXPERTS, 2])}, "qwen3_moe", "is there twice"),
        ({f"{BLOCK}gate.e_score_correction_bias": ("F32", [EXPERTS + 1])}, "deepseek_v3", "expected 4 rows"),
    ],
)  # fmt: skip
def test_what_is_unknown_beside_a_router_is_refused_by_name(
    tensors: Shapes, kind: str, says: str, tmp_path: Path
) -> None:
    """It would stay where the rows of the router move."""
    refused(checkpoint(tmp_path / "model", {**TENSORS, **tensors}, kind), says, tmp_path)


def test_rows_that_are_no_whole_bytes_are_refused(tmp_path: Path) -> None:
    """Three values of four bits a row: data that the experts do not divide were cut."""
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
    permute_checkpoint(snapshot, {0: SLOTS}, tmp_path / "after")
    made = sorted((tmp_path / "after").iterdir())
    assert [path.name for path in made] == ["config.json", "model.safetensors", "tokenizer.json", "vocab.json"]
    assert not any(path.is_symlink() for path in made)
    assert made[2].read_text() == "{}"


def test_a_disk_that_fills_leaves_nothing_of_a_checkpoint(tmp_path: Path) -> None:
    """Everything is copied or nothing."""
    folder = checkpoint(tmp_path / "model", {**TENSORS, "head": ("U8", [100_000])})
    with full_disk(50_000), pytest.raises(OSError, match="large"):
        permute_checkpoint(folder, {0: SLOTS}, tmp_path / "after")
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
