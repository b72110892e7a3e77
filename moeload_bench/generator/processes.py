"""The processes of one `torchrun`, as the training loop of a recipe sees them, and a model cut over them (FSDP2).

When a model is cut, each process holds equal parts of the weights, gradients and optimizer of each layer. A checkpoint
always holds the whole state, as the checkpoint of a single process does.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from moeload_bench.errors import MoeloadError, RecordingError
from moeload_bench.generator.recipe import Recipe
from moeload_bench.recording.distributed import device_of

T = TypeVar("T")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc, malloc.h


@dataclass(frozen=True)
class Ranks:
    """The number of this process and of all; all processes must call each method together, except `leads`."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Return whether this process writes and reports."""
        return self.rank == 0

    def led(self, action: Callable[[], int]) -> int:
        """Return what ``action`` returns on the first process; raise its error on all processes."""
        if self.count == 1:
            return action()
        error: MoeloadError | None = None
        answer = torch.zeros(2, dtype=torch.int64)
        if self.leads:
            try:
                answer = torch.tensor([1, action()])
            except MoeloadError as raised:
                error = raised
        answer = answer.to(device_of())
        dist.broadcast(answer, src=0)
        if error is not None:
            raise error
        if not int(answer[0]):
            raise RecordingError(f"process {self.rank} stops because process 0 stopped; its message says why")
        return int(answer[1])

    def first_alone(self, action: Callable[[], T]) -> T:
        """Run ``action`` on process 0 first, which fills caches, then on all others, which read them."""
        results: list[T] = []

        def once() -> int:
            results.append(action())
            return 0

        self.led(once)
        return results[0] if results else action()

    def shared_file(self, path: Path | None) -> Path | io.BytesIO | None:
        """Return a file that process 0 holds, for all processes; None if it holds none."""
        if self.count == 1:
            return path
        size = self.led(lambda: path.stat().st_size if path is not None else -1)
        if size < 0:
            return None
        content = np.zeros(size, dtype=np.uint8)
        if self.leads and path is not None:
            content = np.fromfile(path, dtype=np.uint8)
        sent = torch.from_numpy(content).to(device_of())
        dist.broadcast(sent, src=0)
        return io.BytesIO(sent.cpu().numpy().tobytes())

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over all processes."""
        if self.count == 1:
            return value
        total = value.detach().to(device_of(), torch.float64)
        dist.all_reduce(total)
        return (total / self.count).to(value.device, value.dtype)


@contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """Join the processes that `torchrun` started until the block ends; one process if it did not start this.

    Processes communicate by gloo on CPUs and by NCCL on GPUs, one GPU each.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    except MoeloadError:
        dist.destroy_process_group()
        raise
    # not after other errors: they may come from within a collective, and leaving could block on it
    dist.destroy_process_group()


def shard(model: Any, device: torch.device) -> nn.Module:
    """Cut each layer of a transformers model, and what is outside of layers, over all processes, in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in reversed(list(model.modules())):  # layers within layers first
        if module is not model and type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    sharded: nn.Module = fully_shard(model, mesh=mesh)
    return sharded


def gathered(value: Any, keep: bool) -> Any:
    """Return a nested state with whole tensors on the CPU in place of cut ones, or with None unless ``keep``.

    All processes call it together.
    """
    if isinstance(value, dict):
        return {key: gathered(item, keep) for key, item in value.items()}
    if hasattr(value, "full_tensor"):
        tensor = value.full_tensor()
        return tensor.cpu() if keep else None
    return value


def scattered(tensor: Any, like: nn.Parameter) -> Any:
    """Return this process's part of a whole tensor, cut as ``like`` is; a tensor of another shape is returned
    unchanged.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or getattr(tensor, "shape", None) != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_whole(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Set model and optimizer from whole tensors; each process takes its part of them."""
    tensors = model.state_dict()
    model.load_state_dict({name: scattered(value, tensors[name]) for name, value in state["model"].items()})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        number: {name: scattered(value, parameters[number]) for name, value in cells.items()}
        for number, cells in state["optimizer"]["state"].items()
    }
    optimizer.load_state_dict({**state["optimizer"], "state": moments})


def data_parallel(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Return the model with gradients averaged over all processes; all start from the first process's weights."""
    # in Switch each expert is a module of its own, which gets no gradient in a pass without tokens for it
    has_unused = recipe.model.family == "switch_transformers"
    return torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=has_unused)


def seed_process(seed: int, step: int, rank: int) -> None:
    """Seed dropout from (seed, step, rank) alone: processes differ, and resuming needs no stored state."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to give no memory back to the system; return False if malloc is not glibc's.

    A step allocates and frees the same blocks as the step before. By default glibc returns large blocks at once, and
    each step pays for all of their pages again: a fifth of the CPU time of the CPU recipes. Results are the same; the
    process keeps the most memory that it ever needed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have no mallopt, Windows has no such library
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))  # -1: never
