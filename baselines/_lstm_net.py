"""The network of `lstm` and how it is trained. The only baseline module that imports torch.

Axis letters: N samples of a batch, S rows, T rows of the input window, L MoE layers, E experts, B blocks, K averages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._series import FloatArray

HIDDEN = 64
BATCH = 32
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
MAX_LOG_RATIO = 4.0


@dataclass(frozen=True)
class Shape:
    """What fixes the sizes of the weights: layers, experts, rows of the window, averages and block ends in rows."""

    layers: int
    experts: int
    window: int
    averages: tuple[int, ...]
    edges: tuple[int, ...]


class Net(nn.Module):
    """All layers x experts of a window in, the shares of every coming block out.

    A block's share is a mixture of averages of the window (weights learned per block), times exp of what the LSTM adds
    for that layer and expert, divided by the sum. The added part starts at zero.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.layers * shape.experts
        self.lstm = nn.LSTM(width, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, len(shape.edges) * width)
        self.mix_BK = nn.Parameter(torch.zeros(len(shape.edges), len(shape.averages)))
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, share_NTLE: Tensor) -> Tensor:
        """[N, T, L, E] shares to [N, B, L, E] shares."""
        N, T, L, E = share_NTLE.shape
        out_NTH, _ = self.lstm((share_NTLE * E - 1).reshape(N, T, L * E) / self.scale)
        add_NBLE = self.head(out_NTH[:, -1]).reshape(N, len(self.shape.edges), L, E)
        mean_NKLE = torch.stack([share_NTLE[:, -k:].mean(dim=1) for k in self.shape.averages], dim=1)
        base_NBLE = torch.einsum("bk,nkle->nble", torch.softmax(self.mix_BK, dim=1), mean_NKLE)
        raw_NBLE = base_NBLE * torch.exp(add_NBLE.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
        return raw_NBLE / raw_NBLE.sum(dim=3, keepdim=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Small matrices: a second thread costs more than it brings, and one thread adds up in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def device() -> torch.device:
    """CUDA when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def new_net(shape: Shape, seed: int) -> Net:
    """Return a net with weights drawn from the seed; torch's global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(shape).to(device())


def train(net: Net, runs: Sequence[FloatArray], updates: int, rng: np.random.Generator) -> None:
    """Minimise the total variation between forecast and true block means at random origins of the runs [S, L, E].

    Every sample permutes the experts of each layer at random: which expert is which differs from run to run. Blocks
    that reach past the end of a run are left out.
    """
    where = device()
    data = [torch.as_tensor(run, dtype=torch.float32, device=where) for run in runs]
    sums = [torch.as_tensor(np.cumsum(np.pad(run, ((1, 0), (0, 0), (0, 0))), axis=0), device=where) for run in runs]
    origin_P2 = origins(runs, net.shape)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=updates)
    for _ in range(updates):
        picked = origin_P2[rng.integers(len(origin_P2), size=BATCH)]
        shuffle = rng.random((BATCH, net.shape.layers, net.shape.experts)).argsort(axis=2)
        loss = _loss(net, data, sums, picked, torch.as_tensor(shuffle, device=where))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def origins(runs: Sequence[FloatArray], shape: Shape) -> NDArray[np.int64]:
    """[P, 2]: every (run, row) with a full window before it and at least the first block after it."""
    rows = [np.arange(shape.window, len(run) - shape.edges[0] + 1) for run in runs]
    pairs = [np.stack([np.full(len(r), i), r], axis=1) for i, r in enumerate(rows)]
    return np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64)


def set_scale(net: Net, runs: Sequence[FloatArray]) -> None:
    """Divide inputs by the standard deviation of share times E over the runs."""
    spread = max(float(np.std(np.concatenate([run.reshape(-1) for run in runs])) * net.shape.experts), 1e-3)
    net.scale.data.fill_(spread)


def weights(net: Net) -> dict[str, NDArray[np.float32]]:
    """Return the net's parameters by name."""
    return {name: value.cpu().numpy() for name, value in net.state_dict().items()}


def load_weights(net: Net, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Set parameters that `weights` returned; raises RuntimeError when names or shapes differ."""
    net.load_state_dict({name: torch.as_tensor(value) for name, value in arrays.items()})


def learnable_blocks(rows: int, shape: Shape, least: int) -> int:
    """How many of the leading blocks end inside ``rows`` observed rows at ``least`` origins or more."""
    return sum(rows - shape.window - edge + 1 >= least for edge in shape.edges)


def forecast(net: Net, window_TLE: FloatArray) -> FloatArray:
    """[B, L, E] float64 shares of the coming blocks, each row summing to 1 to rounding."""
    with torch.no_grad():
        share = net(torch.as_tensor(window_TLE[None], dtype=torch.float32, device=device()))[0]
    out_BLE = share.cpu().numpy().astype(np.float64)
    total: FloatArray = out_BLE.sum(axis=2, keepdims=True)
    return np.asarray(out_BLE / total)


def _loss(net: Net, data: list[Tensor], sums: list[Tensor], picked: NDArray[np.int64], order_NLE: Tensor) -> Tensor:
    share_NTLE = torch.stack([data[r][o - net.shape.window : o] for r, o in picked])
    truth = [_truth(sums[r], int(o), net.shape.edges) for r, o in picked]
    true_NBLE, known_NB = torch.stack([t for t, _ in truth]), torch.stack([k for _, k in truth])
    error_NBLE = net(_permute(share_NTLE, order_NLE)) - _permute(true_NBLE, order_NLE)
    tv_NB = 0.5 * error_NBLE.abs().sum(dim=3).mean(dim=2)
    loss: Tensor = (tv_NB * known_NB).sum() / known_NB.sum()
    return loss


def _truth(sum_SLE: Tensor, origin: int, edges: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """[B, L, E] true block means and [B] whether the block lies inside the run."""
    stop = torch.tensor([origin, *(origin + edge for edge in edges)], device=sum_SLE.device)
    known_B = stop[1:] < len(sum_SLE)
    sum_BLE = sum_SLE[stop.clamp(max=len(sum_SLE) - 1)]
    length_B = (stop[1:] - stop[:-1]).reshape(-1, 1, 1)
    return (torch.diff(sum_BLE, dim=0) / length_B).float(), known_B.float()


def _permute(value_NXLE: Tensor, order_NLE: Tensor) -> Tensor:
    """Reorder the experts of every layer, the same way along the second axis."""
    return torch.gather(value_NXLE, 3, order_NLE[:, None].expand_as(value_NXLE))
