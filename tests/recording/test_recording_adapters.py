"""Routers that keep no common contract, and the balancing methods that transformers does not supply."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from moeload_bench.errors import RecordingError
from moeload_bench.generator.balancing import router_statistics
from moeload_bench.recording.counting import RouterCounter
from moeload_bench.recording.engines import deepspeed_routing
from moeload_bench.recording.recorder import record
from moeload_bench.recording.routers import Routing, find_routers
from moeload_bench.traces.store import read_trace
from tests.support.recording.families import _COMMON, _DEEPSEEK, EXPERTS, tiny_batch, tiny_model

torch.set_num_threads(1)


class OwnRouter(nn.Module):
    """A router that keeps no contract: it returns a mapping."""

    def forward(self, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"chosen": hidden.argmax(-1)}


def own_adapter(module: Any, args: Any, output: Any) -> Routing:
    chosen = output["chosen"]
    return Routing(expert_P=chosen, token_P=None, tokens=len(chosen), experts=4, top_k=1)


def test_an_unknown_router_is_read_by_an_adapter_of_ones_own() -> None:
    """`adapters` names routers that transformers does not declare; ten lines are enough."""
    model = nn.Sequential(nn.Linear(3, 4), OwnRouter())
    counter = RouterCounter(model, {OwnRouter: own_adapter})
    model(torch.randn(5, 3))
    assert counter.take().load_LE.sum() == 5


class OwnTensor(torch.Tensor):
    """As parallel layouts return: numpy is not asked to read it."""


def test_indices_of_another_tensor_class_are_counted() -> None:
    """Tensors that are not plain CPU tensors stay tensors until the step is closed, and give the same counts."""

    def adapter(module: Any, args: Any, output: Any) -> Routing:
        return own_adapter(module, args, output)._replace(expert_P=output["chosen"].as_subclass(OwnTensor))

    counts = []
    for read in (own_adapter, adapter):
        model = nn.ModuleList([OwnRouter(), OwnRouter()])
        counter = RouterCounter(model, {OwnRouter: read})
        torch.manual_seed(0)
        for router in [*model, *model]:
            router(torch.randn(50, 4))
        counts.append(counter.take().load_LE)
    np.testing.assert_array_equal(*counts)
    assert counts[0].sum() == 200


class Inside(nn.Module):
    """An MoE layer that multiplies by its router's weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.w_gate = nn.Parameter(torch.randn(4, 8))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.chosen = (hidden @ self.w_gate.T).topk(2, dim=-1).indices
        return hidden


class WithGate(nn.Module):
    """An MoE layer whose router is a plain linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(8, 4, bias=False), nn.Linear(8, 32)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.chosen = self.gate(hidden).topk(2, dim=-1).indices
        return hidden


class Scores(nn.Module):
    """A router whose weight is two modules down, below a name that says router: `router.lin.weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 4, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.chosen = self.lin(hidden).topk(2, dim=-1).indices
        return self.chosen


class WithRouter(nn.Module):
    """An MoE layer with a router module of its own, and experts that map to fewer than they take."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.gated_mlp = Scores(), nn.Linear(8, 6)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.chosen = self.router(hidden)
        return hidden


class Unnamed(nn.Module):
    """An MoE layer whose scores nothing names: as many rows as experts, in a list or stacked, say what they are."""

    def __init__(self, stacked: bool = False) -> None:
        super().__init__()
        self.pick = nn.Sequential(nn.Linear(8, 4, bias=False))
        self.gate_mix = nn.Linear(8, 6, bias=False)
        if stacked:
            self.wide = nn.Parameter(torch.randn(4, 8, 16))
        else:
            self.parts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.chosen = self.pick(hidden).topk(2, dim=-1).indices
        return hidden


class Stacked(Unnamed):
    """The same with stacked experts."""

    def __init__(self) -> None:
        super().__init__(stacked=True)


@pytest.mark.parametrize("kind", [Inside, WithGate, WithRouter, Unnamed, Stacked])
def test_the_adapter_that_a_message_prints_counts_what_the_layer_routes(kind: type[nn.Module]) -> None:
    """No router is found: weights that look like one are listed with shapes, and the adapter runs as it is printed."""
    model = nn.Sequential(nn.Linear(8, 8), kind(), kind())
    with pytest.raises(RecordingError) as refused:
        find_routers(model)
    said = str(refused.value)
    hooked = Scores if kind is WithRouter else kind
    assert f"[4, 8] in {hooked.__name__}" in said
    assert "  1." in said
    assert "  2." in said
    assert "[6, 8]" not in said
    assert f"adapters={{{hooked.__name__}: read}}" in said
    lines = said[said.index("    def read") :].replace("K", "2")
    space: dict[str, Any] = {"Routing": Routing}
    exec(textwrap.dedent(lines), space)
    counter = RouterCounter(model, {hooked: space["read"]})
    model(torch.randn(3, 5, 8))
    routed = [np.bincount(layer.chosen.flatten(), minlength=4) for layer in list(model)[1:]]
    np.testing.assert_array_equal(counter.take().load_LE, routed)


def test_a_model_without_anything_like_a_router_gets_no_adapter() -> None:
    """Only the way to write one."""
    with pytest.raises(RecordingError, match=r"no module is a router .*write an adapter, a function"):
        find_routers(nn.Sequential(nn.Linear(8, 4)))


def test_an_adapter_that_returns_no_routing_is_named() -> None:
    """With what it returned and what was expected."""
    router = OwnRouter()
    counter = RouterCounter(router, {OwnRouter: lambda module, args, output: output["chosen"]})
    router(torch.randn(3, 4))
    with pytest.raises(RecordingError, match=r"returned Tensor, expected moeload_bench\.recording\.Routing\(expert_P"):
        counter.take()


@pytest.mark.parametrize("index", [-1, 4, 9])
def test_an_index_that_is_no_experts_is_refused(index: int) -> None:
    """As engines mark experts of other ranks or dropped pairs: it is never counted for another expert."""

    def adapter(module: Any, args: Any, output: Any) -> Routing:
        return Routing(torch.tensor([0, index, 1]), None, 3, 4, 1)

    router = OwnRouter()
    counter = RouterCounter(router, {OwnRouter: adapter})
    router(torch.randn(3, 4))
    with pytest.raises(RecordingError, match=r"the adapter of .* failed with (Index|Value)Error"):
        counter.take()


@pytest.mark.deepspeed
@pytest.mark.parametrize("k", [1, 2, 4])
def test_deepspeed_gates_are_counted_before_and_after_drops(k: int) -> None:
    """The real `TopKGate` on CPU: pre-drop counts are conserved, kept pairs are those of its dispatch mask."""
    from deepspeed.moe import sharded_moe as sharded

    torch.manual_seed(0)
    gate = sharded.TopKGate(16, EXPERTS, k=k, capacity_factor=1.0, min_capacity=2).train()
    masks: list[np.ndarray] = []
    gate.register_forward_hook(lambda m, args, output: masks.append(output[2].sum(dim=(0, 2)).numpy()))
    counter = RouterCounter(gate, {sharded.TopKGate: deepspeed_routing})
    gate(torch.randn(64, 16))
    counts = counter.take()
    assert counts.load_LE.sum() == 64 * k
    assert counts.dropped_LE is not None
    np.testing.assert_array_equal(counts.load_LE - counts.dropped_LE, masks)


@pytest.mark.deepspeed
@pytest.mark.parametrize("k", [1, 2, 4])
def test_deepspeed_layers_are_recorded(k: int, tmp_path: Path) -> None:
    """The real `MOELayer` asks its gate for sparse routes: counted as well, without halves, which nobody can tell."""
    from deepspeed.moe import sharded_moe as sharded
    from deepspeed.moe.experts import Experts

    torch.manual_seed(0)
    gate = sharded.TopKGate(16, EXPERTS, k=k, capacity_factor=1.0, min_capacity=2)
    layer = sharded.MOELayer(gate, Experts(nn.Linear(16, 16), EXPERTS), "one", 1, EXPERTS)
    drops: list[np.ndarray] = []
    gate.register_forward_hook(
        lambda m, args, output: drops.append(np.bincount(output[3][output[3] >= 0], minlength=EXPERTS))
    )
    with record(layer, tmp_path, adapters={sharded.TopKGate: deepspeed_routing}, on_error="raise") as r:
        for _ in range(2):
            layer(torch.randn(4, 16, 16, requires_grad=True), None).sum().backward()
            r.step()
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert (trace.load_SLE.sum(axis=2) == 64 * k).all()
    assert "load_half" not in trace.columns
    np.testing.assert_array_equal((trace.load_SLE - trace.columns["dropped"])[:, 0], np.stack(drops))


def test_an_output_that_is_not_understood_is_refused() -> None:
    """A declared router with another output is refused, with what it returned and what to do."""
    model = tiny_model("qwen3_moe")
    counter = RouterCounter(model)
    router = counter.routers[0]
    with pytest.raises(RecordingError, match=r"Qwen3MoeTopKRouter returned \(Tensor\[4, 8\], int\), expected"):
        router.adapter(router.module, (), (torch.zeros(4, 8), 3))


def test_auxiliary_loss_is_one_when_balanced_and_e_when_collapsed() -> None:
    """E sum f P: 1 for uniform routing, E when one expert gets all; entropy log E and 0."""
    balanced = Routing(torch.arange(4), None, 4, 4, 1, logits_TE=torch.zeros(4, 4))
    collapsed = Routing(torch.zeros(4, dtype=torch.int64), None, 4, 4, 1, logits_TE=100 * torch.eye(4)[:1].repeat(4, 1))
    found = router_statistics([balanced, collapsed], "softmax")
    torch.testing.assert_close(found.aux_L, torch.tensor([1.0, 4.0]))
    torch.testing.assert_close(found.entropy_L, torch.tensor([np.log(4.0), 0.0], dtype=torch.float32))


# ---------------------------------------------------------------- the 17 models of transformers whose outputs lack


torch.set_num_threads(1)
PAGE = Path(__file__).parents[2] / "docs" / "guide" / "recording.md"
LATENT = {**_DEEPSEEK, "n_group": 1}
SPARSE = {**LATENT, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4}
PLAIN = {
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 0,
    "head_dim": 8,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "axk1": LATENT,
    "axk2": LATENT,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": SPARSE,
    "dots1": PLAIN,
    "exaone_moe": {
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "num_shared_experts": 1,
        "first_k_dense_replace": 0,
        "head_dim": 8,
    },
    "glm4_moe": PLAIN,
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": SPARSE,
    "hy_v4": PLAIN,
    "kimi_linear": {**LATENT, "num_experts": EXPERTS},
    "lfm2_moe": {
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "num_dense_layers": 0,
        "layer_types": ["full_attention", "conv"],
    },
    "longcat_flash": {**LATENT, "moe_topk": 2, "head_dim": 4, "zero_expert_num": 4, "expert_ffn_hidden_size": 8},
    "mimo_v2_flash": {**PLAIN, "head_dim": 12, "num_key_value_heads": 1},
    "nemotron_h": PLAIN,
    "solar_open": PLAIN,
    "step3p7": {
        "pad_token_id": 0,
        "sliding_window": 8,
        "num_local_experts": EXPERTS,
        "n_routed_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "share_expert_dim": 8,
        "head_dim": 8,
        "layer_types": ["full_attention"] * 2,
        "mlp_layer_types": ["sparse"] * 2,
    },
}
SLOW = ("kimi_linear", "nemotron_h", "hy_v4", "longcat_flash")
"""Without their kernels, or with sizes that no option makes small: seconds each."""
ZERO = {"longcat_flash": 4}
"""Experts that compute nothing and are chosen like others."""


def model_of(name: str) -> nn.Module:
    """A tiny model without its head, in training mode."""
    given = {**_COMMON, **CONFIGS[name]}
    torch.manual_seed(0)
    if name == "step3p7":  # of text and images: its text model is no auto class
        from transformers.models.step3p7 import modeling_step3p7 as step

        return step.Step3p7TextModel(step.Step3p7TextConfig(**given)).train()
    model: nn.Module = AutoModel.from_config(AutoConfig.for_model(name, **given))
    return model.train()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CONFIGS])
def test_every_choice_is_counted(name: str) -> None:
    """Of two passes: what the routers returned as indices, at least one MoE layer, the bias among its buffers."""
    model = model_of(name)
    assert any("bias" in buffer for buffer, _ in model.named_buffers())
    counter = RouterCounter(model)
    seen: list[list[torch.Tensor]] = [[] for _ in counter.routers]
    for index, router in zip(seen, counter.routers, strict=True):
        router.module.register_forward_hook(lambda m, args, output, index=index: index.append(output[-1].flatten()))
    for seed in range(2):
        model(input_ids=tiny_batch(seed=seed)["input_ids"])
    experts = EXPERTS + ZERO.get(name, 0)
    load_LE = counter.take().load_LE
    assert load_LE.shape == (len(seen), experts)
    assert (load_LE.sum(axis=1) == 2 * 64 * 2).all()
    np.testing.assert_array_equal(load_LE, [np.bincount(torch.cat(index), minlength=experts) for index in seen])


def test_the_page_lists_all_seventeen() -> None:
    """docs/guide/recording.md names each of them in its table, and no other."""
    part = PAGE.read_text().split("### Models that balance by a bias")[1].split("\n#")[0]
    named = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in part.splitlines() if "|" in line)))
    assert named == set(CONFIGS)
    assert len(CONFIGS) == 17
