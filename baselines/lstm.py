"""`lstm`: one LSTM for all layers and experts of a run, as in the paper.

What the paper says (arXiv 2404.16914): the loads of all layers and experts go in, those of the next k iterations come
out; the network is trained on one independent run and tested on another.

What it leaves open: the number and size of the layers, the length of the history, the loss, the optimiser and the
normalisation; and how one run can teach another whose experts are numbered differently.

What was chosen:

- One layer of 64 units over the last 100 training steps. Out come 12 block means (ends at 1, 2, 5, 10, ... 5,000
  steps), not every step: a head of layers x experts x 2,000 steps has 98 million weights for 12 x 128. A longer horizon
  repeats the last block; a horizon inside a block gets that block's mean.
- A block's share is a learned mixture of the window's averages (last 1, 5, 20, 100 steps) times exp of what the LSTM
  adds, divided by the sum: rows sum to 1 and a dead expert stays at 0. Inputs are shares times E less 1, divided by
  their standard deviation over the training runs.
- Loss: total variation of the block means, averaged over blocks. AdamW, learning rate 3e-3 falling to a twentieth,
  batches of 32 random origins. Every sample permutes the experts within each layer at random.
- ``mode="offline"``: `fit` trains one network per group and shape on the `train` runs (600 updates). ``mode="online"``
  needs no other run: it trains on the newest 6,000 steps it has seen, 100 updates at every 500th row, and beyond the
  longest block that ends inside them at 50 origins or more it repeats that block. An offline forecaster that got
  nothing fitted for its group and shape goes online, and counts it.
- Before there is a network, and before 100 steps are seen: the mean of the last 100 steps, counted as ``fallback``.

`counts` (read by the harness after a run): ``forecasts`` (origins) and, of these, ``fallback``; ``online_fits``;
``unfitted`` = 1 when offline was asked for and there was nothing fitted to use.
"""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.errors import MissingExtraError, TargetError
from moeload_bench.forecaster import FitRuns, Forecast, ForecastRequest, StepBlock, TraceInfo

from ._series import ShareStream, Tail, row_count

FACTS = {
    "lstm": {"place": 6},
    "lstm.online": {"place": 17, "target": 'lstm@mode="online"', "step_ns": 27_000, "forecast_us": 10, "own_run": 6},
}
if TYPE_CHECKING:
    from ._lstm_net import Shape

if importlib.util.find_spec("torch") is None:
    raise MissingExtraError("torch", "torch", "the forecaster `lstm`")

WINDOW = 100
AVERAGES = (1, 5, 20, 100)
EDGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
OFFLINE_UPDATES = 600
ONLINE_UPDATES = 100
ONLINE_EVERY = 500
ONLINE_ORIGINS = 50
ONLINE_HISTORY = 6000
MODES = ("offline", "online")


class Lstm:
    """An LSTM over the shares of all layers and experts, fitted on other runs or online."""

    def __init__(self, info: TraceInfo, seed: int, fitted: bytes | None = None, mode: str = "offline") -> None:
        from . import _lstm_net as net

        self._info, self._torch, self._shape = info, net, _shape(info)
        self._net = net.new_net(self._shape, seed)
        weights = _unpack(fitted, _key(info)) if _checked_mode(mode) == "offline" and fitted else {}
        if weights:
            net.load_weights(self._net, weights)
        self._online = not weights
        self._blocks = len(self._shape.edges) if weights else 0
        self._rng = np.random.default_rng(seed)
        self._stream = ShareStream(info)
        self._tail = Tail(row_count(ONLINE_HISTORY, info.stride) if self._online else self._shape.window, info)
        unfitted = int(mode == "offline" and self._online)
        self.counts = {"forecasts": 0, "fallback": 0, "online_fits": 0, "unfitted": unfitted}

    @classmethod
    def fit(cls, runs: FitRuns, seed: int, mode: str = "offline") -> bytes:
        """One network per group and shape, as an npz archive; empty in online mode, which has nothing to fit."""
        from . import _lstm_net as net

        if _checked_mode(mode) == "online":
            return b""
        arrays: dict[str, Any] = {}
        for key, info in {_key(info): info for info, _ in runs}.items():
            shares = [np.concatenate(list(ShareStream(i).chunks(b.load_SLE))) for i, b in runs if _key(i) == key]
            network = net.new_net(_shape(info), seed)
            if net.learnable_blocks(max(map(len, shares)), network.shape, ONLINE_ORIGINS):
                net.set_scale(network, shares)
                with net.one_thread():
                    net.train(network, shares, OFFLINE_UPDATES, np.random.default_rng(seed))
                arrays |= {f"{key}/{name}": value for name, value in net.weights(network).items()}
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    def observe(self, block: StepBlock) -> None:
        """Keep the newest rows; in online mode train at every 500th row, wherever the blocks begin and end."""
        for share_SLE in self._stream.chunks(block.load_SLE):
            start, first = 0, self._stream.rows - len(share_SLE)
            while self._online and (stop := ONLINE_EVERY - (first + start) % ONLINE_EVERY + start) <= len(share_SLE):
                self._tail.push(share_SLE[start:stop])
                self._learn()
                start = stop
            self._tail.push(share_SLE[start:])

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Return the blocks that the network gives, cut or stretched to the horizon."""
        self.counts["forecasts"] += 1
        window_TLE = self._tail.rows_SLE[-self._shape.window :]
        if not self._blocks or len(window_TLE) < self._shape.window:
            self.counts["fallback"] += 1
            mean_LE = window_TLE.mean(axis=0) if len(window_TLE) else self._stream.last_LE
            return Forecast.constant(mean_LE, request.horizon)
        with self._torch.one_thread():
            share_BLE = self._torch.forecast(self._net, window_TLE)[: self._blocks]
        edges_B = np.array(self._shape.edges[: self._blocks], dtype=np.int64) * self._info.stride
        keep = 1 + int(np.searchsorted(edges_B[:-1], request.horizon))
        edges_B[keep - 1] = request.horizon
        return Forecast(share_BLE[:keep], edges_B[:keep])

    def _learn(self) -> None:
        net, rows_SLE = self._torch, self._tail.rows_SLE
        blocks = net.learnable_blocks(len(rows_SLE), self._shape, ONLINE_ORIGINS)
        if not blocks:
            return
        if not self._blocks:
            net.set_scale(self._net, [rows_SLE])
        with net.one_thread():
            net.train(self._net, [rows_SLE], ONLINE_UPDATES, self._rng)
        self._blocks = blocks
        self.counts["online_fits"] += 1


def _shape(info: TraceInfo) -> Shape:
    from ._lstm_net import Shape

    averages = tuple(row_count(steps, info.stride) for steps in AVERAGES)
    edges = sorted({row_count(edge, info.stride) for edge in EDGES})
    return Shape(info.num_layers, info.num_experts, row_count(WINDOW, info.stride), averages, tuple(edges))


def _key(info: TraceInfo) -> str:
    return f"{info.group}.{info.num_layers}.{info.num_experts}.{info.stride}"


def _unpack(fitted: bytes, key: str) -> dict[str, Any]:
    """Return the arrays that were stored under the key; an archive that holds none gives {}."""
    with np.load(io.BytesIO(fitted), allow_pickle=False) as archive:
        return {name.partition("/")[2]: archive[name] for name in archive.files if name.partition("/")[0] == key}


def _checked_mode(mode: str) -> str:
    if mode not in MODES:
        raise TargetError(f"lstm: unknown mode {mode!r}; there is: {', '.join(MODES)}")
    return mode
