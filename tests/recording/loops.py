"""Training loops that the tests run in one process and on several, recorded by the public interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.distributed import DistributedConfig

from moeload_bench.recording.distributed import this_rank
from moeload_bench.recording.recorder import record
from tests.recording.families import tiny_batch, tiny_model

SEQUENCES = 8


def save_tiny_model(family: str, folder: Path) -> None:
    """Weights of the tiny model on disk, for models that can only be sharded while they are loaded."""
    model: Any = tiny_model(family)
    model.save_pretrained(folder)


def sharded_model(weights: Path, **sizes: int) -> nn.Module:
    """The saved model, sharded by transformers."""
    config = AutoConfig.from_pretrained(weights)
    maker: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model: nn.Module = maker.from_pretrained(weights, distributed_config=DistributedConfig(**sizes))
    return model.train()


def share(step: int, index: int, batches: int) -> dict[str, torch.Tensor]:
    """Batch ``index`` of the ``batches`` that make up the global batch of a step."""
    size = SEQUENCES // batches
    return {k: v[index * size : (index + 1) * size] for k, v in tiny_batch(SEQUENCES, seed=step).items()}


def train(model: nn.Module, out: Path, *, steps: int, lr: float, index: int = 0, batches: int = 1) -> None:
    """A plain loop under `record`."""
    # one parameter at a time: a fused update cannot mix parameters that are sharded over different meshes
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, foreach=False)
    with record(model, out, on_error="raise") as r:
        for step in range(steps):
            loss = model(**share(step, index, batches)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            r.step(loss=loss.item())


def ddp(rank: int, family: str, out: Path, steps: int, lr: float) -> dict[str, np.ndarray]:
    """Data parallelism: every rank has the whole model and a batch of its own."""
    # Switch keeps each expert as a module of its own, and one without tokens gets no gradient
    model = DistributedDataParallel(tiny_model(family), find_unused_parameters=family == "switch_transformers")
    train(model, out, steps=steps, lr=lr, index=rank, batches=this_rank()[1])
    return {}


def sharded(rank: int, weights: Path, out: Path, steps: int, lr: float, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """FSDP2, expert and tensor parallelism as transformers lays them out; the error where a class refuses."""
    try:
        model = sharded_model(weights, **sizes)
    except ValueError as error:
        return {"refused": np.array(str(error))}
    tensor = sizes.get("tp_size", 1)
    train(model, out, steps=steps, lr=lr, index=rank // tensor, batches=this_rank()[1] // tensor)
    return {}
