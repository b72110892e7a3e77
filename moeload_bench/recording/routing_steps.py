"""The routing of chosen steps on its way to disk; the same hook that counts hands it over.

Axis letters: L routers, T tokens of a step on this rank, K choices per token, P routed (token, expert) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moeload_bench.errors import RecordingError
from moeload_bench.recording.routers import Router, Routing
from moeload_bench.traces.routing import MAX_PAIRS, MAX_STEPS, StepRouting, write_routing

Pass = tuple[Any, Any]
"""Experts [T, K] and weights [T, K] of one layer's pass, the latter None if the adapter gives none."""


class RoutingSteps:
    """Keeps which experts each token of chosen ``steps`` went to, and writes a file for each step into ``folder``.

    ``rank`` is the number of this rank's batch. A step that is trained again after an interruption replaces its file.
    Raise `RecordingError` for steps that are no numbers from 0, or more than MAX_STEPS of them.
    """

    def __init__(self, steps: Sequence[int], folder: Path, rank: int = 0) -> None:
        wrong = [step for step in steps if isinstance(step, bool) or not isinstance(step, int) or step < 0]
        if wrong or len(set(steps)) > MAX_STEPS:
            got = f"{wrong[0]!r}" if wrong else f"{len(set(steps))} steps"
            raise RecordingError(f"routing_steps: got {got}, expected at most {MAX_STEPS} numbers of steps from 0")
        self._steps, self._folder, self._rank = frozenset(steps), folder, rank
        self.step = 0
        self.discard()

    def start_step(self, number: int) -> None:
        """Say which step the next passes are of."""
        self.step = number

    def discard(self) -> None:
        """Forget the passes since the last step."""
        self._passes: dict[int, list[Pass]] = {}
        self._pairs = 0

    def add(self, layer: int, routing: Routing, keep_P: torch.Tensor | None) -> None:
        """Take in one pass of a layer, without the pairs that ``keep_P`` leaves out, if the step is a chosen one."""
        if self.step not in self._steps:
            return
        self._pairs += routing.expert_P.numel()
        if self._pairs > MAX_PAIRS:
            raise RecordingError(f"routing_steps: step {self.step} has more than {MAX_PAIRS:,} routed pairs on a rank")
        self._passes.setdefault(layer, []).append(_in_token_order(routing, keep_P))

    def write(self, routers: Sequence[Router]) -> None:
        """Write the step if it is a chosen one; raise `RecordingError` if layers differ or the disk refuses."""
        if not self._passes:
            return
        layers = [self._passes[layer] for layer in sorted(self._passes)]
        tokens = [[len(ids_TK) for ids_TK, _ in passes] for passes in layers]
        if len(layers) != len(routers) or tokens.count(tokens[0]) != len(layers):
            raise RecordingError(f"routing_steps: layers saw different tokens in step {self.step}, expected the same")
        ids = [torch.cat([ids_TK for ids_TK, _ in passes]) for passes in layers]
        weights = [[weight_TK for _, weight_TK in passes if weight_TK is not None] for passes in layers]
        complete = [len(each) for each in weights] == [len(each) for each in tokens]
        routing = StepRouting(
            self.step,
            self._rank,
            np.array([router.block for router in routers], dtype=np.int32),
            np.cumsum(tokens[0]),
            torch.stack(ids).cpu().numpy(),
            torch.stack([torch.cat(each) for each in weights]).cpu().numpy() if complete else None,
        )
        try:
            write_routing(self._folder, routing)
        except OSError as error:
            raise RecordingError(f"{self._folder}: cannot write step {self.step}: {error}") from error


def _in_token_order(routing: Routing, keep_P: torch.Tensor | None) -> Pass:
    """Return experts and weights of each token; the copies are small, and the engine may change its own."""
    if routing.top_k is None or (routing.token_P is None and not routing.tokens_known):
        raise RecordingError("routing_steps needs a router that says which k experts each token chose")
    expert_P = routing.expert_P.detach()
    if routing.token_P is not None:
        order_P = routing.token_P.argsort(stable=True)
        expert_P, keep_P = expert_P[order_P], keep_P if keep_P is None else keep_P[order_P]
    ids_TK = expert_P.view(-1, routing.top_k).to(torch.int16 if routing.experts < 2**15 else torch.int32, copy=True)
    weight_TK = None if routing.token_P is not None else _weights(routing, ids_TK)
    if keep_P is None:
        return ids_TK, weight_TK
    keep_T = keep_P.view(-1, routing.top_k)[:, 0]
    return ids_TK[keep_T], None if weight_TK is None else weight_TK[keep_T]


def _weights(routing: Routing, ids_TK: torch.Tensor) -> torch.Tensor | None:
    """Return the weights [T, K] of the chosen experts in half precision, None if the adapter gives none."""
    if routing.weights is None:
        return None
    weights = routing.weights.detach().reshape(len(ids_TK), -1)
    if weights.shape[1] == routing.experts != ids_TK.shape[1]:
        weights = weights.gather(1, ids_TK.long())
    return weights.to(torch.float16, copy=True)
