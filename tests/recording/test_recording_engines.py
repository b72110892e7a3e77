"""The real router classes of other engines on CPU: counts are what the router chose, conserved in every step."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from moeload_bench.errors import RecordingError
from moeload_bench.recording import engines
from moeload_bench.recording.counting import RouterCounter
from moeload_bench.recording.recorder import record
from moeload_bench.recording.routers import Adapter
from moeload_bench.traces.store import read_trace

torch.set_num_threads(1)
EXPERTS, WIDTH, MARK = 8, 16, pytest.mark.engines
Chosen = Callable[[Any], torch.Tensor]


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[Any]:
    """A process group of one, which Megatron-core's router asks for."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def megatron(group: Any, **config: Any) -> nn.Module:
    """`TopKRouter` with a gate that stays on the CPU: its own moves the weights to a GPU first."""
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.moe.router import TopKRouter
    from megatron.core.transformer.transformer_config import TransformerConfig

    class OnCpu(TopKRouter):  # type: ignore[misc]
        def gating(self, input: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(input.float(), self.weight)

    shape = TransformerConfig(
        num_layers=2,
        hidden_size=WIDTH,
        num_attention_heads=2,
        num_moe_experts=EXPERTS,
        moe_router_topk=2,
        moe_router_load_balancing_type="none",
        moe_token_dispatcher_type="alltoall",
        add_bias_linear=False,
        use_cpu_initialization=True,
        **config,
    )
    groups = ProcessGroupCollection()
    for name in ("tp", "cp", "tp_cp", "tp_dp_cp"):
        setattr(groups, name, group)
    return OnCpu(shape, pg_collection=groups)


class Calling(nn.Module):
    """A router that is called with the further arguments that its engine gives."""

    def __init__(self, router: nn.Module, *more: Any) -> None:
        super().__init__()
        self.router, self.more = router, more

    def forward(self, hidden: torch.Tensor) -> Any:
        return self.router(hidden, *self.more)


def nemo() -> tuple[nn.Module, type]:
    """NeMo Automodel's `Gate`."""
    from nemo_automodel.components.moe import layers
    from nemo_automodel.components.moe.config import MoEConfig

    config = MoEConfig(
        n_routed_experts=EXPERTS,
        n_shared_experts=0,
        n_activated_experts=2,
        n_expert_groups=1,
        n_limited_groups=1,
        train_gate=True,
        gate_bias_update_factor=0.0,
        aux_loss_coeff=0.0,
        score_func="softmax",
        route_scale=1.0,
        dim=WIDTH,
        inter_dim=WIDTH,
        moe_inter_dim=WIDTH,
        norm_topk_prob=True,
        dtype=torch.float32,
    )
    gate = layers.Gate(config)
    nn.init.normal_(gate.weight)
    return Calling(gate, torch.ones(24, dtype=torch.bool), None), layers.Gate


def olmo() -> tuple[nn.Module, type]:
    """OLMo-core's `MoELinearRouter`."""
    from olmo_core.nn.moe import router as module

    router = module.MoELinearRouter(d_model=WIDTH, num_experts=EXPERTS, top_k=2)
    nn.init.normal_(router.weight)
    return router, module.MoERouter


def torchtitan() -> tuple[nn.Module, type]:
    """torchtitan's `TokenChoiceTopKRouter`; needs triton (a gigabyte), so it is not among what CI installs."""
    if importlib.util.find_spec("torchtitan") is None:
        pytest.skip(
            "torchtitan is not installed: pip install --no-deps torchtitan spmd_types tyro docstring_parser triton"
        )
    from torchtitan.models.common.linear import Linear
    from torchtitan.models.common.moe import TokenChoiceTopKRouter

    gate = Linear.Config(in_features=WIDTH, out_features=EXPERTS, bias=False)
    router = TokenChoiceTopKRouter.Config(num_experts=EXPERTS, top_k=2, gate=gate).build()
    return router, TokenChoiceTopKRouter


ENGINES: dict[str, tuple[Callable[[], tuple[nn.Module, type]], Adapter, tuple[int, ...]]] = {
    "nemo": (nemo, engines.nemo_automodel_routing, (24, WIDTH)),
    "olmo": (olmo, engines.olmo_core_routing, (4, 6, WIDTH)),
    "torchtitan": (torchtitan, engines.torchtitan_routing, (4, 6, WIDTH)),
}


@pytest.mark.parametrize("engine", [pytest.param("nemo", marks=MARK), pytest.param("olmo", marks=MARK), "torchtitan"])
def test_a_routers_own_choices_are_counted(engine: str, tmp_path: Path) -> None:
    """Indices that the class returns, over two passes a step: every count, tokens x top-k, halves."""
    make, adapter, shape = ENGINES[engine]
    torch.manual_seed(0)
    model, kind = make()
    router = next(module for module in model.modules() if isinstance(module, kind))
    chosen: list[np.ndarray] = []
    router.register_forward_hook(
        lambda m, args, out: chosen.append(np.bincount(out[1].numpy().ravel(), minlength=EXPERTS))
    )
    with record(model, tmp_path, adapters={kind: adapter}, on_error="raise") as r:
        for _ in range(2):
            for _ in range(2):
                model(torch.randn(*shape, requires_grad=True))
            r.step()
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    np.testing.assert_array_equal(trace.load_SLE[:, 0], np.stack(chosen).reshape(2, 2, -1).sum(axis=1))
    assert (trace.tokens_SL == 48).all()
    assert trace.meta.top_k == 2


@MARK
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_megatron_cores_router_is_counted(score: str, one_process: Any, tmp_path: Path) -> None:
    """The real `TopKRouter.forward` without a capacity: its map, pair by pair."""
    torch.manual_seed(0)
    router = megatron(one_process, moe_router_score_function=score)
    maps: list[np.ndarray] = []
    router.register_forward_hook(lambda m, args, out: maps.append(out[1].sum(dim=0).numpy()))
    with record(router, tmp_path, adapters={type(router): engines.megatron_routing}, on_error="raise") as r:
        for _ in range(3):
            router(torch.randn(6, 4, WIDTH, requires_grad=True))
            r.step()
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    np.testing.assert_array_equal(trace.load_SLE[:, 0], np.stack(maps))
    assert (trace.tokens_SL == 24).all()


@MARK
def test_megatron_cores_drops_are_said(one_process: Any, tmp_path: Path) -> None:
    """With a capacity the map lacks what was dropped: refused, or recorded as after drops when that is asked for."""
    torch.manual_seed(0)
    router = megatron(one_process, moe_expert_capacity_factor=0.5)
    counter = RouterCounter(router, {type(router): engines.megatron_routing})
    router(torch.randn(6, 4, WIDTH, requires_grad=True))
    with pytest.raises(RecordingError, match=r"moe_expert_capacity_factor is 0\.5: .*after_drops=True"):
        counter.take()
    counter.close()
    after = functools.partial(engines.megatron_routing, after_drops=True)
    given = {"count_semantics": "post_drop"}
    with record(router, tmp_path, adapters={type(router): after}, meta=given, on_error="raise") as r:
        _, choice = router(torch.randn(6, 4, WIDTH, requires_grad=True))
        r.step()
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert trace.load_SLE.sum() == choice.sum() < 48
    assert trace.meta.count_semantics == "post_drop"
    assert trace.tokens_SL.tolist() == [[24]]
