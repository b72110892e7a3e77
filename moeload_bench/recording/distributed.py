"""Counting over several processes: which rank holds which batch, and one sum per optimizer step.

Ranks of one tensor-parallel group see the same batch. All other ranks see batches of their own: in data parallelism,
sharded (FSDP2) or not, and in expert parallelism, where a rank holds some of the experts but routes its own tokens. A
batch must be counted once, so loads are summed over the data-parallel ranks only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from moeload_bench.arrays import IntArray
from moeload_bench.errors import RecordingError


class RankSum:
    """Sums an int64 vector over the ranks of ``group`` (all ranks by default) by one all-reduce.

    ``counted`` is False on ranks whose batch another rank counts already; they send zeros. ``index`` is the number of
    this rank's batch, out of ``batches``. A rank that stops recording says so by `leave` in its last sum, so that the
    others stop with it instead of waiting for it. Before the first sum, a second all-reduce checks that all ranks count
    the same layers and experts.
    """

    def __init__(self, group: Any = None, *, counted: bool = True, index: int = 0, batches: int = 1) -> None:
        self.index, self.batches = index, batches
        self._group = group
        self._counted = counted
        self._size: int | None = None
        self._over = False

    @property
    def counted(self) -> bool:
        """Return whether this rank's batch is counted here, and not on another rank that sees the same."""
        return self._counted

    @property
    def first(self) -> bool:
        """Return whether this rank is the first of those that are summed over."""
        return dist.get_rank(self._group) == 0

    def __call__(self, vector: IntArray) -> IntArray:
        """Return the sum of the ranks' vectors; raise `RecordingError` if a rank has stopped or counts other layers."""
        if self._over:
            raise RecordingError("this rank has stopped recording already")
        if self._size is None:
            self._agree(len(vector))
        stopped, total = self._all_reduce(vector if self._counted else np.zeros_like(vector), stopped=0)
        if stopped:
            self._over = True
            raise RecordingError("another rank stopped recording in this step; its own message says why")
        return total

    def largest(self, vector: IntArray) -> IntArray:
        """Return the largest of the ranks' numbers, per entry. Call it after a sum, which shows whether all ranks
        continue.
        """
        sent = torch.from_numpy(vector).to(device_of(self._group))
        dist.all_reduce(sent, op=dist.ReduceOp.MAX, group=self._group)
        return sent.cpu().numpy()

    def of_each(self, number: int) -> list[int]:
        """Return the number of at least 0 that each rank gives. Call it after a sum, as `largest`."""
        sent = np.zeros(dist.get_world_size(self._group), dtype=np.int64)
        sent[dist.get_rank(self._group)] = number
        return [int(got) for got in self.largest(sent)]

    def leave(self) -> None:
        """Take part in one last sum that says that this rank stops; do nothing if the other ranks know already.

        Call it in a step that the other ranks still close.
        """
        if self._over:
            return
        self._over = True
        if self._size is None:
            self._exchange_sizes(0)
        else:
            self._all_reduce(np.zeros(self._size, dtype=np.int64), stopped=1)

    def _agree(self, size: int) -> None:
        smallest, largest = self._exchange_sizes(size)
        if smallest == largest:
            self._size = size
            return
        self._over = True
        if smallest == 0:
            raise RecordingError("another rank stopped recording in this step; its own message says why")
        raise RecordingError(
            f"ranks count different layers or experts: {smallest} numbers on one rank, {largest} on another; a model "
            "that is cut into pipeline stages is recorded with stage=Stage(index, stages), summed over the "
            "stage's ranks only"
        )

    def _exchange_sizes(self, size: int) -> tuple[int, int]:
        sizes = torch.tensor([-size, size], device=device_of(self._group))
        dist.all_reduce(sizes, op=dist.ReduceOp.MAX, group=self._group)
        return -int(sizes[0]), int(sizes[1])

    def _all_reduce(self, vector: IntArray, stopped: int) -> tuple[int, IntArray]:
        sent = torch.from_numpy(np.concatenate([[np.int64(stopped)], vector])).to(device_of(self._group))
        dist.all_reduce(sent, group=self._group)
        total: IntArray = sent.cpu().numpy()
        return int(total[0]), total[1:]


def rank_sum(model: nn.Module) -> RankSum | None:
    """Return the sum over the data-parallel ranks of a model in training; None in a single process.

    It reads the layout of models that transformers loaded with a `DistributedConfig`, and takes any other model to be
    data-parallel over all ranks. If you split tensors yourself, pass `reduce=RankSum(GROUP)`, where GROUP holds the
    ranks that see different batches. Raise `RecordingError` for pipeline parallelism.
    """
    rank, world = this_rank()
    if world == 1:
        return None
    layout = _layout(model)
    if layout.get("pipeline", 1) > 1:
        raise RecordingError(
            "pipeline parallelism: each rank holds some of the layers; pass stage=Stage(index, stages), and "
            "reduce=RankSum(group) where several ranks hold the same stage"
        )
    # transformers numbers ranks with the tensor-parallel group innermost
    index, place = divmod(rank, layout.get("tensor", 1))
    return RankSum(counted=place == 0, index=index, batches=world // layout.get("tensor", 1))


def parallel_layout(model: nn.Module) -> dict[str, int]:
    """Return the trace's `parallel` record: number of processes, and size of each way to split model or batch."""
    return {"processes": this_rank()[1], **_layout(model)}


def _layout(model: nn.Module) -> dict[str, int]:
    config: Any = getattr(getattr(unwrapped(model), "config", None), "distributed_config", None)
    if config is None:
        return {}
    sizes = {
        "pipeline": config.pp_size,
        "replicas": config.dp_replicate_size,
        "fsdp": config.fsdp_size,
        "tensor": config.tp_size,
        "expert": config.ep_size,
    }
    return {name: size for name, size in sizes.items() if size > 1}


def unwrapped(model: Any) -> Any:
    """Return the model inside `DistributedDataParallel`, or the model itself."""
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model


def this_rank() -> tuple[int, int]:
    """Return (rank, number of ranks) of this process; (0, 1) outside a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def device_of(group: Any = None) -> torch.device:
    """Return a device whose tensors the group's backend can reduce."""
    # "cpu:gloo,cuda:nccl": the devices that the group serves, each with its backend
    served = [entry.partition(":")[0] for entry in str(dist.get_backend_config(group)).split(",")]
    if "cpu" in served:
        return torch.device("cpu")
    return torch.device(served[0], torch.accelerator.current_device_index())
