"""Runs a function on several gloo processes of this machine and gives back what each returned."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
_PATIENCE_S = 240


def run_ranks(world: int, function: Callable[..., Arrays], folder: Path, *args: Any) -> list[Arrays]:
    """``function(rank, *args)`` on ``world`` processes of one group; their arrays by rank.

    The processes are forked from a server that has imported torch and transformers once for the whole test session.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.recording.warm"])
    processes = [context.Process(target=_rank, args=(rank, world, function, folder, args)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_PATIENCE_S)
    for process in processes:
        process.kill()
    codes = [process.exitcode for process in processes]
    assert codes == [0] * world, f"exit codes of the ranks: {codes}"
    return [dict(np.load(folder / f"rank{rank}.npz", allow_pickle=False)) for rank in range(world)]


def _rank(rank: int, world: int, function: Callable[..., Arrays], folder: Path, args: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    # asked for by accelerate, though the group is there already
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world)
    np.savez(folder / f"rank{rank}.npz", **function(rank, *args))
    dist.destroy_process_group()
