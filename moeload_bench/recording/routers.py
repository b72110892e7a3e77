"""Exact routing decisions read from a model's router modules.

transformers declares its routers in `PreTrainedModel._can_record_outputs["router_logits"]`. Most of them return
`(logits [T, E], weights [T, k], indices [T, k])`. The indices are what the experts received, so counting them is exact.
Recomputing top-k from the logits is not (DeepSeek-V3 adds a bias and group limits first).

Axis letters: T tokens of a forward pass, E experts, K choices per token, P routed (token, expert) pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from moeload_bench.errors import RecordingError
from moeload_bench.words import page

HOW_TO = (
    "write an adapter, a function from the router's output to Routing(expert_P, token_P, tokens, experts, top_k), and "
    f"pass it as adapters={{RouterClass: adapter}}; see {page('docs/guide/recording.md')}"
)


_SHOWN = 6
"""Candidates that a message lists."""


class Routing(NamedTuple):
    """What one router decided for one forward pass.

    ``expert_P`` int64: the expert of each routed pair, before any drop. ``token_P`` int64: the token of each pair; None
    if pairs are in token order with ``top_k`` pairs each. ``tokens`` T; ``experts`` E; ``top_k`` None if it varies.
    ``kept_P`` bool: False for pairs dropped over capacity; None if nothing is dropped. ``logits_TE``: the router's
    logits if it gives them. ``tokens_known``: False if the router only reports how many pairs an expert got.
    ``weights``: those of the chosen experts [T, K], or of all of them [T, E]; None if the router gives none.
    """

    expert_P: torch.Tensor
    token_P: torch.Tensor | None
    tokens: int
    experts: int
    top_k: int | None
    kept_P: torch.Tensor | None = None
    logits_TE: torch.Tensor | None = None
    tokens_known: bool = True
    weights: torch.Tensor | None = None


Adapter = Callable[[Any, Any, Any], Routing]


class Router(NamedTuple):
    """A router module of a model: its place, and how its output is read."""

    name: str
    module: nn.Module
    adapter: Adapter
    block: int
    stack: str
    kind: str


def top_k_routing(module: Any, args: Any, output: Any) -> Routing:
    """Read the common form: a tuple that ends with indices [T, k] and starts with logits [T, E].

    Raise `RecordingError` for any other output.
    """
    if not isinstance(output, (tuple, list)) or len(output) < 2:
        raise _unknown(module, output)
    logits_TE, index_TK = output[0], output[-1]
    if not (isinstance(logits_TE, torch.Tensor) and isinstance(index_TK, torch.Tensor)):
        raise _unknown(module, output)
    if index_TK.dtype != torch.int64:
        if index_TK.is_floating_point() or index_TK.dtype == torch.bool:
            raise _unknown(module, output)
        index_TK = index_TK.to(torch.int64)
    if index_TK.ndim != 2 or logits_TE.ndim != 2:
        index_TK = index_TK.reshape(-1, index_TK.shape[-1])
        logits_TE = logits_TE.reshape(-1, logits_TE.shape[-1])
    tokens, top_k = index_TK.shape
    logits, experts = logits_TE.shape
    if tokens != logits:
        raise _unknown(module, output)
    weights = output[1] if len(output) == 3 and isinstance(output[1], torch.Tensor) else None
    if weights is not None and weights.numel() not in (tokens * top_k, tokens * experts):
        weights = None
    return Routing(index_TK.reshape(-1), None, tokens, experts, top_k, None, logits_TE, weights=weights)


def switch_routing(module: Any, args: Any, output: Any) -> Routing:
    """Read Switch Transformers: a dispatch mask after drops [.., E], the chosen probability, and the logits [.., E].

    The choice before drops is the arg-max of the probabilities, computed as the router does: of the softmax in the
    router's precision, cast to that of the probabilities that it returns.
    """
    mask, weight, logits = output
    experts = logits.shape[-1]
    prob = torch.softmax(logits.detach(), dim=-1, dtype=module.dtype).to(weight.dtype)
    expert_P = prob.argmax(dim=-1).reshape(-1)
    kept_P = mask.detach().reshape(-1, experts).sum(dim=-1) > 0
    return Routing(
        expert_P=expert_P,
        token_P=None,
        tokens=len(expert_P),
        experts=experts,
        top_k=1,
        kept_P=kept_P,
        logits_TE=logits.reshape(-1, experts),
    )


def llama4_routing(module: Any, args: Any, output: Any) -> Routing:
    """Read Llama 4: scores [T, E] and logits [T, E], no indices; the choice is the same top-k of the same logits."""
    logits_TE = output[1].reshape(-1, output[1].shape[-1])
    expert_TK = torch.topk(logits_TE.detach(), module.top_k, dim=1).indices
    return Routing(
        expert_P=expert_TK.reshape(-1),
        token_P=None,
        tokens=len(logits_TE),
        experts=logits_TE.shape[1],
        top_k=module.top_k,
        logits_TE=logits_TE,
    )


def jetmoe_routing(module: Any, args: Any, output: Any) -> Routing:
    """Read JetMoe: pairs sorted by expert, as the token of each pair and the number of pairs of each expert."""
    _, token_P, _, size_E, logits_TE = output
    expert_E = torch.arange(len(size_E), device=token_P.device)
    return Routing(
        expert_P=expert_E.repeat_interleave(torch.tensor(size_E, device=token_P.device)),
        token_P=token_P,
        tokens=len(logits_TE),
        experts=len(size_E),
        top_k=module.top_k,
        logits_TE=logits_TE,
    )


# Routers of transformers that break the common form, by class name: importing the classes would load every model
# family.
_UNUSUAL: dict[str, Adapter] = {
    "SwitchTransformersTop1Router": switch_routing,
    "Llama4Router": llama4_routing,
    "JetMoeTopKGating": jetmoe_routing,
}


def find_routers(model: nn.Module, adapters: dict[type, Adapter] | None = None) -> list[Router]:
    """Return all routers of a model in forward order.

    ``adapters`` maps router classes that transformers does not declare (or whose output is unusual) to the function
    that reads their output. Raise `RecordingError` if there is no router.
    """
    readers = adapters or {}
    classes = {**readers, **{t: _UNUSUAL.get(t.__name__, top_k_routing) for t in _declared(model) if t not in readers}}
    routers = [
        Router(name, module, adapter, *_place(name))
        for name, module in model.named_modules()
        if (adapter := next((a for kind, a in classes.items() if isinstance(module, kind)), None)) is not None
    ]
    if not routers:
        raise RecordingError(
            f"no MoE layer found in {type(model).__name__}: no module is a router that transformers declares"
            + _suggestion(model)
        )
    return routers


class _Candidate(NamedTuple):
    """A weight [experts, hidden] that looks like a router's: the module to hook, the expression for its logits.

    ``evidence``: 2 if the model has as many experts elsewhere, plus 1 if a part of its dotted name says router or gate.
    """

    name: str
    layer: nn.Module
    logits: str
    experts: int
    hidden: int
    evidence: int


def _candidates(model: nn.Module) -> list[_Candidate]:
    """Return the weights that map to fewer than they take, [experts, hidden], for which there is most evidence."""
    modules = dict(model.named_modules())
    lists = {f"{place}.": len(module) for place, module in modules.items() if isinstance(module, nn.ModuleList)}
    stacked = {weight.shape[0] for weight in model.parameters() if weight.ndim == 3}
    candidates = []
    for name, weight in model.named_parameters():
        if weight.ndim != 2 or not 2 <= weight.shape[0] < weight.shape[1]:
            continue
        holder = name.rpartition(".")[0]
        is_linear = isinstance(modules[holder], nn.Linear)
        layer = holder
        while layer and type(modules[layer]).__module__.startswith("torch.nn."):
            layer = layer.rpartition(".")[0]
        inner = name.removeprefix(f"{layer}.") if layer else name
        logits = f"{_attribute(inner.rpartition('.')[0])}(hidden)" if is_linear else f"hidden @ {_attribute(inner)}.T"
        says_router = re.search("router|gate(?!d|_?up|_?proj)", name) is not None
        experts = stacked | {count for place, count in lists.items() if not name.startswith(place)}
        evidence = 2 * (weight.shape[0] in experts) + says_router
        if evidence:
            candidates.append(_Candidate(name, modules[layer], logits, weight.shape[0], weight.shape[1], evidence))
    most = max((candidate.evidence for candidate in candidates), default=0)
    return [candidate for candidate in candidates if candidate.evidence == most]


def _attribute(inner: str) -> str:
    """Return how `module` is asked for a part of it: `module.router.lin`, `module.router[0].lin`."""
    return "module" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in inner.split("."))


def _suggestion(model: nn.Module) -> str:
    """Return what the modules are that may be routers, with an adapter to paste for the first one's layer."""
    candidates = _candidates(model)
    if not candidates:
        return f"; if it has routers of its own, {HOW_TO}"
    first = candidates[0]
    kind = type(first.layer).__name__
    lines = [
        f"\n  {weight.name} [{weight.experts}, {weight.hidden}] in {type(weight.layer).__name__}"
        for weight in candidates[:_SHOWN]
    ]
    more = f"\n  and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else ""
    return f""". These may be routers, [experts, hidden]:{"".join(lines)}{more}
If {first.name} is one, choose as {kind}.forward does (its top-k, a bias, groups), and pass adapters={{{kind}: read}}
({page("docs/guide/recording.md")}, "A router without a module"):

    def read(module, args, output):
        hidden = args[0].detach().flatten(0, -2)
        index = ({first.logits}).topk(K, dim=-1).indices
        return Routing(index.flatten(), None, len(index), {first.experts}, K)"""


def _declared(model: nn.Module) -> Iterator[type]:
    for module in model.modules():
        declared = (getattr(type(module), "_can_record_outputs", None) or {}).get("router_logits")
        for entry in declared if isinstance(declared, list | tuple) else [declared]:
            target = getattr(entry, "target_class", entry)
            if isinstance(target, type):
                yield target


def _place(name: str) -> tuple[int, str, str]:
    """Return (block index, stack, kind) from a module's dotted name."""
    number = re.search(r"\.(\d+)\.", f".{name}.")
    stack = "encoder" if re.search(r"(^|\.)encoder\.", name) else "decoder"
    kind = "attention" if "attention" in name or "attn" in name else "mlp"
    return (int(number.group(1)) if number else 0), stack, kind


def _unknown(module: Any, output: Any) -> RecordingError:
    def shape(item: Any) -> str:
        return f"{type(item).__name__}{list(item.shape)}" if hasattr(item, "shape") else type(item).__name__

    parts = ", ".join(map(shape, output)) if isinstance(output, tuple | list) else shape(output)
    return RecordingError(
        f"router {type(module).__name__} returned ({parts}), expected (logits [T, E], ..., indices [T, k]): {HOW_TO}"
    )
