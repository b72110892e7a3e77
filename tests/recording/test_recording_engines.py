"""The real router classes of other engines on CPU: counts are what the router chose, conserved in every step."""

from __future__ import annotations

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
from tests.support.recording import megatron
from tests.support.recording.ranks import run_ranks

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
    """The real `TopKRouter` without a capacity: its map, pair by pair."""
    torch.manual_seed(0)
    router = megatron.router(one_process, moe_router_score_function=score)
    maps: list[np.ndarray] = []
    router.register_forward_hook(lambda m, args, out: maps.append(out[1].sum(dim=0).numpy()))
    with (
        megatron.on_cpu(),
        record(router, tmp_path, adapters={type(router): engines.megatron_routing}, on_error="raise") as r,
    ):
        for _ in range(3):
            router(torch.randn(6, 4, WIDTH, requires_grad=True))
            r.step()
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    np.testing.assert_array_equal(trace.load_SLE[:, 0], np.stack(maps))
    assert (trace.tokens_SL == 24).all()


@MARK
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("policy", ["probs", "position"])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_megatron_cores_capacity_is_counted_before_drops(
    score: str, policy: str, padded: bool, one_process: Any, tmp_path: Path
) -> None:
    """Loads are those of the same router without a capacity; kept and dropped add up; padding is no load."""
    config = {"moe_router_score_function": score}
    capacity = {
        "moe_expert_capacity_factor": 0.75,
        "moe_token_drop_policy": policy,
        "moe_pad_expert_input_to_capacity": padded,
    }
    hidden = torch.randn(6, 4, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    free, tight = (megatron.router(one_process, **one) for one in (config, config | capacity))
    tight.load_state_dict(free.state_dict())
    adapters = {type(tight): engines.megatron_routing}
    with megatron.on_cpu(), record(tight, tmp_path, adapters=adapters, on_error="raise") as r:
        _, chosen_TE = free(hidden)
        prob_TE, kept_TE = tight(hidden)
        r.step()
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert trace.meta.count_semantics == "pre_drop"
    np.testing.assert_array_equal(trace.load_SLE[0, 0], chosen_TE.sum(dim=0))
    dropped = (chosen_TE & ~kept_TE).sum(dim=0)
    assert dropped.sum() > 0
    np.testing.assert_array_equal(trace.columns["dropped"][0, 0], dropped)
    assert bool((kept_TE & ~chosen_TE).any()) == padded
    assert not (prob_TE > 0)[~chosen_TE].any()


@MARK
def test_megatron_cores_choices_that_cannot_be_repeated_are_refused(one_process: Any) -> None:
    """Noise in the router's input is drawn anew; without a capacity nothing is repeated."""
    jitter = {"moe_input_jitter_eps": 0.1}
    for config in (jitter, jitter | {"moe_expert_capacity_factor": 0.75}):
        router = megatron.router(one_process, **config)
        counter = RouterCounter(router, {type(router): engines.megatron_routing})
        with megatron.on_cpu():
            router(torch.randn(6, 4, WIDTH, requires_grad=True))
        if config is jitter:
            counter.take()
        else:
            with pytest.raises(RecordingError, match=r"moe_input_jitter_eps with a capacity: .* draws at random"):
                counter.take()
        counter.close()


@MARK
def test_megatron_cores_expert_parallel_ranks_are_summed(tmp_path: Path) -> None:
    """Two processes route tokens of their own: loads add up, the largest micro-batch is that of either, passes too."""
    got = np.stack([one["chosen"] for one in run_ranks(2, megatron.ranks, tmp_path / "results", tmp_path, False)])
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    np.testing.assert_array_equal(trace.load_SLE, got.sum(axis=(0, 2)))
    np.testing.assert_array_equal(trace.columns["micro_max"], got.max(axis=(0, 2)))
    assert trace.meta.parallel == {"processes": 2, "passes": 2 * megatron.MICRO}


@MARK
def test_megatron_cores_pipeline_stages_become_one_trace(tmp_path: Path) -> None:
    """Two processes hold two layers each: the trace has four, each with what its router chose."""
    got = [one["chosen"].sum(axis=1) for one in run_ranks(2, megatron.ranks, tmp_path / "results", tmp_path, True)]
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert [layer.index for layer in trace.meta.layers] == [0, 1, 2, 3]
    np.testing.assert_array_equal(trace.load_SLE, np.concatenate(got, axis=1))
