"""Checkpoints in a plan's order: six families compute the same, and whatever does not fit is refused untouched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import MoeloadError, PlacementError
from moeload_bench.ops.interchange.checkpoints import FAMILIES, permute_checkpoint
from moeload_bench.ops.interchange.expert_orders import read_orders
from moeload_bench.ops.planning.placements import placement_of, write_placement
from moeload_bench.placement.plans import ClusterShape
from tests.conftest import need

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
