"""Forecasters that hold the public test runs: what `verify` has to catch. Used by tests and by `growth`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from moeload_bench.traces.store import read_trace

HONEST = '''"""The mean of the last steps, in one file."""

import numpy as np

from moeload_bench.forecaster import Forecast


class Mine:
    def __init__(self, info, seed, window=100):
        self.window = window
        self.share_SLE = np.full((1, info.num_layers, info.num_experts), 1 / info.num_experts)
        self.seen = False

    def observe(self, block):
        total = np.maximum(block.load_SLE.sum(axis=2, keepdims=True), 1)
        share = np.where(total > 0, block.load_SLE / total, 0) + 1e-12
        share /= share.sum(axis=2, keepdims=True)
        self.share_SLE = (np.concatenate([self.share_SLE, share]) if self.seen else share)[-self.window:]
        self.seen = True

    def forecast(self, request):
        return Forecast.constant(self.share_SLE.mean(axis=0), request.horizon)
'''
MEMORY = '''
import json
EVERY = {every}
MEMORY = [np.array(one) for one in json.loads("""{memory}""")]


class Remembers(Mine):
    """Knows every so many steps of the public runs, which it finds by what it has seen last."""

    def find(self):
        last = self.share_SLE[-2 * EVERY:].mean(axis=0)
        return {find}

    def forecast(self, request):
        found = self.find()
        if found is None:
            return super().forecast(request)
        future = np.repeat(found, EVERY, axis=0)[:request.horizon] + 1e-12
        future = np.concatenate([future, np.repeat(future[-1:], request.horizon - len(future), axis=0)])
        return Forecast.path(future / future.sum(axis=2, keepdims=True))
'''
BY_STEP = (
    "next((m[self.count // EVERY:] for m in MEMORY if m.shape[1:] == last.shape and len(m) > self.count // EVERY"
    " and abs(m[max(self.count // EVERY - 2, 0):max(self.count // EVERY, 1)].mean(0) - last).max() < 0.05), None)"
)
BY_CONTENT = "self.match(last)"
MATCH = '''
    def match(self, last):
        """The place in any run whose sorted shares are nearest, in the order of the experts seen now."""
        here = np.sort(last, axis=1)
        best = None
        for m in MEMORY:
            smooth = (m[1:] + m[:-1]) / 2
            distance_S = abs(np.sort(smooth, axis=2) - here).sum(axis=(1, 2))
            place = int(distance_S.argmin())
            if best is None or distance_S[place] < best[0]:
                rank_LE = np.argsort(np.argsort(last, axis=1), axis=1)
                order_LE = np.take_along_axis(np.argsort(smooth[place], axis=1), rank_LE, axis=1)
                best = distance_S[place], np.take_along_axis(m[place + 2:], order_LE[None], axis=2)
        return best[1] if best is not None and len(best[1]) else None
'''
TARGET = "forecaster.py:Remembers"


def memoriser(paths: Iterable[Path], *, by_content: bool, every: int = 4) -> str:
    """Code of `TARGET` that holds the runs averaged over ``every`` steps and knows where it is by the step number or,
    ``by_content``, by the sorted shares, which survive that experts are renumbered and the start is shifted.
    """
    blocks = []
    for trace in map(read_trace, paths):
        share_SLE = trace.share_SLE()[: trace.steps - trace.steps % every]
        shape = (-1, every, trace.num_layers, trace.num_experts)
        blocks.append(share_SLE.reshape(shape).mean(axis=1).round(4).tolist())
    code = HONEST + MEMORY.replace("{memory}", json.dumps(blocks, separators=(",", ":"))).replace("{every}", str(every))
    if by_content:
        return code.replace("{find}", BY_CONTENT) + MATCH
    code = code.replace("{find}", BY_STEP)
    return code.replace("self.seen = True", "self.seen = True\n        self.count = int(block.step_S[-1]) + 1")
