"""The modules that compute experts: the part of a training step in them, on one of `EVERY` steps, and their bytes.

Forward: from the call of an expert module to its return, recomputation included. Backward: from the gradient of its
output to the gradient of the output of the next module that is none of the experts. No tensor and no graph is changed,
so training computes the same numbers, bit by bit. Between the measured steps no hook is on the model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from moeload_bench.recording.counting import untraced
from moeload_bench.recording.distributed import RankSum, this_rank
from moeload_bench.recording.routers import Router
from moeload_bench.traces.meta import ExpertMeta

EVERY, FIRST = 50, 7
"""Steps FIRST, FIRST + EVERY, ... are measured: rarely those in which a loop evaluates or saves."""
TIMES = ("step_time_s", "expert_fraction", "expert_fraction_max")
"""Columns that are measured here."""
MAX_WORDS = 200
"""Characters of a reason."""
MILLIONTHS = 1_000_000
"""Ranks exchange whole numbers, so a part is sent in millionths."""
LISTS = nn.ModuleList | nn.ModuleDict
"""Modules that hold one module for each expert."""
LEAST_AXES = 3
"""Axes of a weight that holds several experts: [experts, in, out]."""


class Clock(NamedTuple):
    """``mark`` returns this moment, ``seconds`` the time from one moment to another."""

    mark: Callable[[], Any]
    seconds: Callable[[Any, Any], float]


def _event() -> Any:
    """Return an event on the current stream of a GPU: nothing waits for it until the step is closed."""
    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch does not say
    event.record()
    return event


def _between_events(begin: Any, end: Any) -> float:
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


CLOCKS = {"cpu": Clock(time.perf_counter, lambda begin, end: end - begin), "cuda": Clock(_event, _between_events)}


class ExpertTimer:
    """Measures the part of a step that is spent in expert modules. ``missing`` says why nothing is measured, if so.

    An error in a hook ends the measurements, never the training.
    """

    def __init__(self, model: nn.Module, experts: Sequence[nn.Module]) -> None:
        self._model, self._experts = model, set(experts)
        device = next((p.device.type for module in experts for p in module.parameters()), "cpu")
        self.missing = "no expert module stands beside the routers" if not experts else ""
        if device not in CLOCKS:
            self.missing = f"no clock for the device {device}"
        self._clock = CLOCKS.get(device, CLOCKS["cpu"])
        self._handles: list[Any] = []
        self._running = False
        self._enter_backward = self._safe(self._gradient_of_expert)
        self._leave_backward = self._safe(self._gradient_of_other)
        self._check_compiled()

    def begin(self) -> None:
        """Put the hooks on the model and begin to measure."""
        try:
            self._check_compiled()
            if not self.missing:
                self._put_hooks()
                self.restart()
        except Exception as error:
            self._fail(error)

    def restart(self) -> None:
        """Begin to measure at this moment; do nothing between `end` and `begin`."""
        self._forward = self._calls = 0
        self._backward, self._entered, self._task = False, None, -1
        self._spans: list[tuple[Any, Any]] = []
        self._running = bool(self._handles)
        self._began = self._clock.mark() if self._running else None

    def end(self) -> float | None:
        """Remove the hooks; return the part of the time since `begin` that was spent in expert modules, 0 to 1."""
        if not self._handles:
            return None
        try:
            ended = self._clock.mark()
            self.close()
            step_s = self._clock.seconds(self._began, ended)
            experts_s = sum(self._clock.seconds(*span) for span in self._spans)
        except Exception as error:
            self._fail(error)
            return None
        if not self._spans and not self.missing:
            self.missing = "no expert module was called in a measured step: compiled code runs no hooks"
        if self.missing or self._entered is not None or step_s <= 0:
            return None
        return min(1.0, experts_s / step_s)

    def close(self) -> None:
        """Remove the hooks."""
        self._running = False
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _fail(self, error: Exception) -> None:
        self.close()
        self.missing = f"measuring failed with {type(error).__name__}: {error}"[:MAX_WORDS]

    def _check_compiled(self) -> None:
        if any(hasattr(module, "_orig_mod") or module._compiled_call_impl for module in self._model.modules()):
            self.missing = self.missing or "the model is compiled, so no hook can be put on it"

    def _put_hooks(self) -> None:
        experts = self._experts
        above = {m for m in self._model.modules() if m not in experts and not experts.isdisjoint(m.modules())}
        beside = {child for module in above for child in module.children()} - above - experts
        for module in experts:
            self._hook(module, self._call_expert, self._return_expert)
        for module in above | beside:
            self._hook(module, self._call, self._return if module in above else self._return_beside)

    def _hook(self, module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> None:
        self._handles += [
            module.register_forward_pre_hook(self._safe(before)),
            # a recomputation may end in the midst of a module, by an exception
            module.register_forward_hook(self._safe(after), prepend=True, always_call=True),
        ]

    def _safe(self, hook: Callable[..., None]) -> Any:
        """Return the hook in a form that never raises and changes nothing."""

        def run(*args: Any) -> None:
            if not self._running or self.missing:
                return
            try:
                hook(*args)
                self._note()
            except Exception as error:
                self.missing = f"a hook failed with {type(error).__name__}: {error}"[:MAX_WORDS]

        return untraced(run)

    def _note(self) -> None:
        """Note the moment if experts have just been entered or left."""
        inside = self._forward > 0 or (self._backward and self._calls == 0)
        if inside and self._entered is None:
            self._entered = self._clock.mark()
        elif not inside and self._entered is not None:
            self._spans.append((self._entered, self._clock.mark()))
            self._entered = None

    def _call_expert(self, module: nn.Module, args: Any) -> None:
        self._forward += module.training

    def _return_expert(self, module: nn.Module, args: Any, output: Any) -> None:
        self._forward -= module.training
        for tensor in tensors(output):
            tensor.of_expert = True  # a module around may return the same tensor
            tensor.register_hook(self._enter_backward)

    def _call(self, module: nn.Module, args: Any) -> None:
        self._calls += 1  # in a backward pass: other modules are computed once more

    def _return(self, module: nn.Module, args: Any, output: Any) -> None:
        self._calls -= 1

    def _return_beside(self, module: nn.Module, args: Any, output: Any) -> None:
        self._calls -= 1
        for tensor in tensors(output):
            if not hasattr(tensor, "of_expert"):
                tensor.register_hook(self._leave_backward)

    def _gradient_of_expert(self, gradient: torch.Tensor) -> None:
        self._backward = True
        task = torch._C._current_graph_task_id()
        if task != self._task:  # the pass may end in the experts
            self._task = task
            torch.autograd.Variable._execution_engine.queue_callback(self._leave_backward)

    def _gradient_of_other(self, gradient: torch.Tensor | None = None) -> None:
        self._backward = False


class StepClock:
    """The time of each step and, of one in `EVERY` steps, the part in expert modules, as columns of the trace.

    ``reduce``: that of the recorder; the part is a mean and a maximum over its ranks. ``optimizer``: that of the
    training, if its state is to be measured.
    """

    def __init__(self, model: nn.Module, routers: Sequence[Router], reduce: Any, optimizer: Any = None) -> None:
        self._experts = expert_modules(model, routers)
        self._timer = ExpertTimer(model, [experts.module for experts in self._experts])
        if not isinstance(reduce, RankSum | None):
            self._timer.missing = "reduce is no RankSum, so ranks cannot be compared"
        self._reduce = reduce if isinstance(reduce, RankSum) else None
        self._optimizer = optimizer
        self._began = math.nan
        self._sizes: tuple[int | None, int | None] | None = None
        self.columns: tuple[str, ...] = TIMES[:1] if self._timer.missing else TIMES

    def resume(self, columns: Sequence[str]) -> None:
        """Give only columns that the steps before have."""
        self.columns = tuple(name for name in TIMES if name in columns)

    def open_step(self, step: int) -> None:
        """Begin the time of a step."""
        if is_measured(step):
            self._timer.begin()
        self._began = time.perf_counter()

    def restart(self) -> None:
        """Begin the time of the step once more."""
        self._timer.restart()
        self._began = time.perf_counter()

    def close_step(self, step: int) -> dict[str, float]:
        """Return the columns of a step that all ranks close; NaN where nothing was measured."""
        columns = {"step_time_s": time.perf_counter() - self._began}
        part = self._timer.end()
        if is_measured(step):
            part_R = [part] if self._reduce is None else _of_ranks(self._reduce, part)
            parts = [part for part in part_R if part is not None]
            if len(parts) == len(part_R):
                columns |= {"expert_fraction": sum(parts) / len(parts), "expert_fraction_max": max(parts)}
        return {name: columns.get(name, math.nan) for name in self.columns}

    def meta(self, experts: int) -> ExpertMeta:
        """Return what is known of an expert after a step was trained; ``experts`` of a layer."""
        if self._sizes is None:
            self._sizes = expert_bytes(self._experts, experts, self._optimizer)
        weights, state = self._sizes
        return ExpertMeta(weight_bytes=weights, state_bytes=state, not_timed=self._timer.missing)

    def close(self) -> None:
        """Remove the hooks."""
        self._timer.close()


def is_measured(step: int) -> bool:
    """Return whether the time in expert modules is measured in a step."""
    return step % EVERY == FIRST


def _of_ranks(reduce: RankSum, part: float | None) -> list[float | None]:
    """Return the part of every rank, None where it was not measured."""
    got_R = reduce.of_each(0 if part is None else 1 + round(MILLIONTHS * part))
    return [None if got == 0 else (got - 1) / MILLIONTHS for got in got_R]


def tensors(output: Any) -> Iterator[Any]:
    """Yield the tensors of a module's output through which gradients flow."""
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else (output,)
    return (part for part in parts if isinstance(part, torch.Tensor) and part.requires_grad)


# ------------------------------------------------------------------------------------------------ expert modules


class Experts(NamedTuple):
    """A module that computes experts, and how many it holds; None where that cannot be seen."""

    module: nn.Module
    held: int | None


def expert_modules(model: nn.Module, routers: Sequence[Router]) -> list[Experts]:
    """Return the modules that compute the experts of these routers; empty if one router has none.

    They stand beside the router, or in it where an adapter reads the whole layer: those named after experts, shared
    ones left out; else those with a weight [experts, in, out].
    """
    modules: list[Experts] = []
    for router in routers:
        above = model.get_submodule(router.name.rpartition(".")[0])
        experts = next(filter(None, (_inside(place, router.module) for place in (router.module, above))), [])
        if not experts:
            return []
        modules += experts
    return list({id(entry.module): entry for entry in modules}.values())


def _inside(place: nn.Module, router: nn.Module) -> list[Experts]:
    """Return the modules of experts among the children of a module."""
    others = {name: child for name, child in place.named_children() if child is not router}
    named = [child for name, child in others.items() if "expert" in name and "shared" not in name]
    holders = [child for child in named if any(True for _ in child.parameters())]
    holders = holders or [child for child in others.values() if _stacked(child, recurse=False) is not None]
    modules: list[Experts] = []
    for holder in holders:
        if isinstance(holder, LISTS):
            modules += [Experts(expert, 1) for expert in holder.children()]
        else:
            inner = next((len(child) for child in holder.children() if isinstance(child, LISTS)), None)
            modules.append(Experts(holder, inner or _stacked(holder)))
    return modules


def _stacked(module: nn.Module, *, recurse: bool = True) -> int | None:
    """Return the experts that a weight [experts, in, out] of a module holds; None without one."""
    return next((p.shape[0] for p in module.parameters(recurse) if p.ndim >= LEAST_AXES), None)


def expert_bytes(experts: Sequence[Experts], of_layer: int, optimizer: Any) -> tuple[int | None, int | None]:
    """Return the bytes of one expert's weights, and of the state that the optimizer holds for them (AdamW: 2 moments).

    A module whose number of experts cannot be seen holds all ``of_layer`` of its layer if there is one process. None
    for what is not known: the state where the optimizer holds other tensors than the model's parameters.
    """
    counts = [entry.held or (of_layer if this_rank()[1] == 1 else 0) for entry in experts]
    if not experts or 0 in counts:
        return None, None
    parameters = [p for entry in experts for p in entry.module.parameters()]
    weights = sum(map(_bytes, parameters)) / sum(counts)
    while hasattr(optimizer, "optimizer"):  # accelerate and others wrap it
        optimizer = optimizer.optimizer
    groups = getattr(optimizer, "param_groups", [])
    optimized = {id(p) for group in groups for p in group["params"]}
    trained = [p for p in parameters if p.requires_grad]
    if not groups or not optimized.issuperset(map(id, trained)):
        return round(weights), None
    # an expert without a token has no state yet
    states = [(_bytes(p), optimizer.state[p].values()) for p in trained if p in optimizer.state]
    state = sum(_bytes(cell) for _, cells in states for cell in cells if isinstance(cell, torch.Tensor) and cell.ndim)
    part = sum(map(_bytes, trained)) / sum(map(_bytes, parameters))
    return round(weights), round(weights * part * state / max(1, sum(size for size, _ in states)))


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
