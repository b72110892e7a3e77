"""The part of a step in expert modules, and the bytes of an expert, are those that a model was built with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from moeload_bench.recording import timing
from moeload_bench.recording.recorder import Recorder, record
from moeload_bench.recording.routers import Routing
from moeload_bench.recording.timing import EVERY, FIRST
from moeload_bench.traces.meta import ExpertMeta
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.support.recording.families import tiny_batch, tiny_model

torch.set_num_threads(1)
WIDTH, EXPERTS = 8, 4
EXPERT_S, OTHER_S, BACKWARD = 3.0, 5.0, 2.0
"""Seconds of a call by the clock of the test; a backward pass takes `BACKWARD` times as long."""


class Planted:
    """A moment that only the test's own modules move."""

    now = 0.0


PLANTED = timing.Clock(lambda: Planted.now, lambda begin, end: end - begin)


class Work(torch.autograd.Function):
    """Take time, forward and backward."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, seconds: float) -> torch.Tensor:
        Planted.now += seconds
        ctx.seconds = seconds
        ctx.save_for_backward(hidden)
        return hidden * 2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (_,) = ctx.saved_tensors  # under activation checkpointing the layer is computed once more for it
        Planted.now += BACKWARD * ctx.seconds
        return gradients[0] * 2, None


class Worker(nn.Module):
    """Any part of a model that takes time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight = nn.Parameter(torch.ones(EXPERTS, WIDTH, WIDTH))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return Work.apply(hidden * self.weight.mean(), self.seconds)  # type: ignore[no-any-return,no-untyped-call]


class Gate(nn.Module):
    """A router: the first expert for every token."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


class Layer(nn.Module):
    """Something that is no expert's, then a router and the experts, with a shared one."""

    def __init__(self, one_each: bool) -> None:
        super().__init__()
        self.attention = Worker(OTHER_S)
        self.gate = Gate()
        self.experts: nn.Module = Worker(EXPERT_S)
        if one_each:
            self.experts = nn.ModuleList([Worker(EXPERT_S / 2) for _ in range(2)])
        self.shared_experts = Worker(OTHER_S)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.gate(self.attention(hidden))
        parts = self.experts if isinstance(self.experts, nn.ModuleList) else [self.experts]
        for part in parts:
            hidden = part(hidden)
        return hidden + self.shared_experts(hidden)


class Model(nn.Module):
    """Two layers, under activation checkpointing unless ``reentrant`` is None."""

    def __init__(self, reentrant: bool | None = None, *, one_each: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(one_each) for _ in range(2)])
        self.reentrant = reentrant

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if self.reentrant is None:
                hidden = layer(hidden)
            else:
                hidden = checkpoint(layer, hidden, use_reentrant=self.reentrant)
        return hidden.sum()


def routed(module: Any, args: Any, output: torch.Tensor) -> Routing:
    tokens = len(output)
    return Routing(torch.zeros(tokens, dtype=torch.int64), None, tokens, EXPERTS, 1)


def recorded(model: nn.Module, out: Path, steps: int = FIRST + 1, *, passes: int = 1, **how: Any) -> Trace:
    """Record a plain loop."""
    optimizer = how.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.0)
    with record(model, out, adapters={Gate: routed}, on_error="raise", **how) as r:
        for _ in range(steps):
            for _ in range(passes):
                model(torch.ones(6, WIDTH, requires_grad=True)).backward()
            optimizer.step()
            optimizer.zero_grad()
            r.step()
    return read_trace(out / "own/test/seed0.parquet")


@pytest.mark.parametrize("one_each", [False, True])
@pytest.mark.parametrize(("reentrant", "computed"), [(None, 1), (False, 2), (True, 2)])
def test_the_part_in_experts_is_the_planted_one(
    reentrant: bool | None, computed: int, one_each: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, backward and the recomputation of activation checkpointing count; a shared expert does not."""
    monkeypatch.setitem(timing.CLOCKS, "cpu", PLANTED)
    trace = recorded(Model(reentrant, one_each=one_each), tmp_path, EVERY + FIRST + 1, passes=2)
    experts, others = ((computed + BACKWARD) * seconds for seconds in (EXPERT_S, 2 * OTHER_S))
    measured_S = np.isfinite(trace.columns["expert_fraction"])
    assert trace.step_S[measured_S].tolist() == [FIRST, EVERY + FIRST]
    for name in ("expert_fraction", "expert_fraction_max"):
        np.testing.assert_allclose(trace.columns[name][measured_S], experts / (experts + others), rtol=1e-6)
    assert (trace.columns["step_time_s"] > 0).all()
    assert trace.meta.format_version == "1.4"


def test_a_pass_that_ends_in_the_experts_is_left_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing before the experts needs a gradient: what the optimizer takes is not theirs."""
    monkeypatch.setitem(timing.CLOCKS, "cpu", PLANTED)
    model = Model()
    model.layers[1].requires_grad_(False)
    model.layers[0].attention.requires_grad_(False)

    class Slow(torch.optim.SGD):
        def step(self, *args: Any) -> None:  # type: ignore[override]
            Planted.now += 100

    with record(model, tmp_path, adapters={Gate: routed}, on_error="raise") as r:
        for _ in range(FIRST + 1):
            model(torch.ones(6, WIDTH)).backward()
            Slow(model.parameters(), lr=0.0).step()
            r.step()
    experts, others = 2 * (1 + BACKWARD) * EXPERT_S, (4 + 3 * BACKWARD) * OTHER_S
    got = read_trace(tmp_path / "own/test/seed0.parquet").columns["expert_fraction"][FIRST]
    assert got == pytest.approx(experts / (experts + others + 100))


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "switch_transformers"])
def test_measuring_changes_no_number(family: str) -> None:
    """Losses and weights are equal, bit by bit, with and without the measured step."""

    def trained(recording: bool) -> tuple[list[float], list[torch.Tensor]]:
        model = tiny_model(family)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        with record(model if recording else tiny_model(family), None, on_error="warn") as r:
            for step in range(FIRST + 2):
                loss = model(**tiny_batch(seed=step)).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
                if recording:
                    r.step()
        return losses, [parameter.detach() for parameter in model.parameters()]

    with_it, without = trained(True), trained(False)
    assert with_it[0] == without[0]
    assert all(torch.equal(one, other) for one, other in zip(with_it[1], without[1], strict=True))


def test_a_hook_that_raises_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and recording go on, and the trace says why nothing was measured."""

    def broken() -> float:
        raise OSError("no clock")

    monkeypatch.setitem(timing.CLOCKS, "cpu", PLANTED._replace(mark=broken))
    trace = recorded(Model(), tmp_path, FIRST + 3)
    assert trace.steps == FIRST + 3
    assert np.isnan(trace.columns["expert_fraction"]).all()
    assert trace.meta.expert is not None
    assert trace.meta.expert.not_timed == "measuring failed with OSError: no clock"

    def fails(self: Any, module: Any, args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(timing.CLOCKS, "cpu", PLANTED)
    monkeypatch.setattr(timing.ExpertTimer, "_call_expert", fails)
    trace = recorded(Model(), tmp_path / "hook", FIRST + 3)
    assert trace.steps == FIRST + 3
    assert trace.meta.expert is not None
    assert trace.meta.expert.not_timed.startswith("a hook failed with ZeroDivisionError")


@pytest.mark.parametrize("place", ["experts", "attention", "backward"])
def test_a_pass_that_raises_in_a_measured_step_leaves_no_time_in_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training catches it, discards the passes and makes the step again, which is then measured as any other."""
    monkeypatch.setitem(timing.CLOCKS, "cpu", PLANTED)
    model, at = Model(), [0]

    def fails(*args: Any) -> None:
        if at[0] == FIRST:
            at[0] = -1
            raise MemoryError

    hidden = torch.ones(6, WIDTH, requires_grad=True)
    layer: Any = model.layers[1]
    if place == "backward":
        layer.gate.register_full_backward_hook(fails)
    else:
        getattr(layer, place).register_forward_hook(fails)
    with record(model, tmp_path, adapters={Gate: routed}, on_error="raise") as r:
        for step in range(FIRST + 2):
            at[0] = step
            for _ in range(2):
                try:
                    model(hidden).backward()
                    break
                except MemoryError:
                    r.discard()
            r.step()
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    got = trace.columns["expert_fraction"][FIRST]
    assert got == pytest.approx(EXPERT_S / (EXPERT_S + 2 * OTHER_S))
    assert np.isnan(trace.columns["expert_fraction"][FIRST + 1])
    assert not any(one._forward_pre_hooks for one in model.modules() if one is not model)


def test_a_model_without_an_expert_module_is_not_measured(tmp_path: Path) -> None:
    """No column, and the reason."""
    model = Model()
    for layer in model.layers:
        layer.mixers = layer.experts
        layer.mixers.weight = nn.Parameter(torch.ones(WIDTH))
        layer.experts, layer.attention.weight = nn.Identity(), nn.Parameter(torch.ones(WIDTH))
        layer.shared_experts.weight = nn.Parameter(torch.ones(WIDTH))
    trace = recorded(model, tmp_path)
    assert set(trace.columns) == {"load_half", "step_time_s"}
    assert trace.meta.expert == ExpertMeta(not_timed="no expert module stands beside the routers")


@pytest.mark.parametrize(
    ("kind", "times"), [(torch.optim.AdamW, 2), (torch.optim.SGD, 0), (None, None), ("of others", None)]
)
@pytest.mark.parametrize("family", ["qwen3_moe", "switch_transformers", "granitemoe"])
def test_an_expert_has_the_bytes_of_its_weights_and_their_state(family: str, kind: Any, times: int | None) -> None:
    """AdamW keeps two moments, SGD nothing; without the optimizer the state is not known. Stacked or one by one."""
    model = tiny_model(family)
    experts = [p for name, p in model.named_parameters() if "expert" in name or "_linear" in name]
    total = sum(p.numel() * p.element_size() for p in experts)
    step = {"lr": 1e-3}
    optimizer = None if kind is None else torch.optim.AdamW(nn.Linear(2, 2).parameters()) if times is None else None
    optimizer = kind(model.parameters(), **step) if times is not None else optimizer
    metas: list[Any] = []

    class Keep:
        def add(self, row: Any, meta: Any) -> None:
            metas.append(meta())

        def recall(self, rows: Any, meta: Any) -> None:
            pass

        def close(self) -> None:
            pass

    with record(model, None, on_error="raise", monitor=Keep(), optimizer=optimizer) as r:
        model(**tiny_batch()).loss.backward()
        if optimizer is not None:
            optimizer.step()
        r.step()
    meta = metas[-1]
    each = total // (len(meta.layers) * meta.experts)
    assert meta.expert.weight_bytes == each
    assert meta.expert.state_bytes == (None if times is None else times * each)


def test_a_recording_begun_without_the_columns_goes_on_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfinished recording of an earlier version of the package is continued."""
    monkeypatch.setattr(timing, "TIMES", ())
    model = Model()
    recorder = Recorder(model, tmp_path / "own/test/seed0.parquet", adapters={Gate: routed})
    recorder.start()
    model(torch.ones(6, WIDTH)).backward()
    recorder.step()
    recorder.leave_unfinished()
    monkeypatch.undo()
    with record(model, tmp_path, adapters={Gate: routed}, at_step=1, on_error="raise") as r:
        for _ in range(FIRST):
            model(torch.ones(6, WIDTH)).backward()
            r.step()
    assert set(read_trace(tmp_path / "own/test/seed0.parquet").columns) == {"load_half"}
