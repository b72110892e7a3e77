"""Training loops that the tests run in one process and on several, recorded by the public interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, Trainer, TrainingArguments
from transformers.distributed import DistributedConfig

from moeload_bench.recording.callback import LoadRecorder
from moeload_bench.recording.distributed import this_rank
from moeload_bench.recording.recorder import Recorder, record
from tests.support.recording.families import tiny_batch, tiny_model

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


def train(
    model: nn.Module,
    out: Path,
    *,
    steps: int,
    lr: float,
    index: int = 0,
    batches: int = 1,
    routing_steps: tuple[int, ...] = (),
) -> None:
    """A plain loop under `record`."""
    # one parameter at a time: a fused update cannot mix parameters that are sharded over different meshes
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, foreach=False)
    with record(model, out, on_error="raise", routing_steps=routing_steps) as r:
        for step in range(steps):
            loss = model(**share(step, index, batches)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            r.step(loss=loss.item())


def ddp(
    rank: int, family: str, out: Path, steps: int, lr: float, routing_steps: tuple[int, ...] = ()
) -> dict[str, np.ndarray]:
    """Data parallelism: every rank has the whole model and a batch of its own."""
    # Switch keeps each expert as a module of its own, and one without tokens gets no gradient
    model = DistributedDataParallel(tiny_model(family), find_unused_parameters=family == "switch_transformers")
    train(model, out, steps=steps, lr=lr, index=rank, batches=this_rank()[1], routing_steps=routing_steps)
    return {}


def sharded(rank: int, weights: Path, out: Path, steps: int, lr: float, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """FSDP2, expert and tensor parallelism as transformers lays them out; the error where a class refuses."""
    tensor = sizes.get("tp_size", 1)
    try:
        model = sharded_model(weights, **sizes)
        train(model, out, steps=steps, lr=lr, index=rank // tensor, batches=this_rank()[1] // tensor)
    except (ValueError, RuntimeError) as error:
        return {"refused": np.array(str(error))}
    return {}


def all_reduces(rank: int, out: Path, steps: int) -> dict[str, np.ndarray]:
    """How often closing a step calls the collective, step by step."""
    calls = [0] * steps
    original = torch.distributed.all_reduce
    model = DistributedDataParallel(tiny_model("qwen3_moe"))
    with record(model, out, on_error="raise") as r:
        for step in range(steps):
            model(**share(step, rank, 2)).loss.backward()

            def counted(*args: Any, step: int = step, **kwargs: Any) -> Any:
                calls[step] += 1
                return original(*args, **kwargs)

            torch.distributed.all_reduce = counted
            r.step()
            torch.distributed.all_reduce = original
    return {"calls": np.array(calls)}


def one_sequence_each(rank: int, out: Path, steps: int) -> dict[str, np.ndarray]:
    """Every rank trains a single sequence per step."""
    model = tiny_model("qwen3_moe")
    with record(model, out, on_error="raise") as r:
        for step in range(steps):
            model(**share(step, rank, SEQUENCES)).loss.backward()
            r.step()
    return {}


def breaking(rank: int, out: Path, steps: int, silent_at: int | None, full_at: int | None) -> dict[str, np.ndarray]:
    """Rank 1 trains nothing in one step, or the disk of rank 0 is full from one step on; training goes on."""
    from moeload_bench.recording import parts

    model = tiny_model("qwen3_moe")
    recorder = Recorder(model, out / "own/test/seed0.parquet", shard_steps=1)
    recorder.start()
    for step in range(steps):
        if step == full_at:
            parts.write_trace = _disk_full
        if rank == 0 or step != silent_at:
            model(**share(step, rank, 2)).loss.backward()
        recorder.step()
    return {"stopped": np.array(recorder.stopped or "")}


def unequal(rank: int, out: Path) -> dict[str, np.ndarray]:
    """The ranks train models with different numbers of layers."""
    model: Any = tiny_model("qwen3_moe")
    if rank == 1:
        model.model.layers = model.model.layers[:1]
    recorder = Recorder(model, out / "own/test/seed0.parquet")
    recorder.start()
    for step in range(2):
        model(**share(step, rank, 2)).loss.backward()
        recorder.step()
    return {"stopped": np.array(recorder.stopped or "")}


def _disk_full(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


class Sequences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """64 random sequences of 16 tokens."""

    def __init__(self) -> None:
        self.tokens = tiny_batch(64)["input_ids"]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[i], "labels": self.tokens[i]}


def trainer(rank: int, weights: Path, out: Path, sizes: dict[str, int] | None) -> dict[str, np.ndarray]:
    """transformers' Trainer with its callback: plain or DDP, or on a model that was sharded while it was loaded."""
    model = sharded_model(weights, **sizes) if sizes else AutoModelForCausalLM.from_pretrained(weights).train()
    args = TrainingArguments(
        output_dir=str(out / "trainer"),
        max_steps=6,
        per_device_train_batch_size=4 // this_rank()[1],
        gradient_accumulation_steps=2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        learning_rate=0.0,
        save_strategy="no",
        optim="sgd",
        optim_args="foreach=False",
    )
    recorder = LoadRecorder(out, on_error="raise")
    Trainer(model=model, args=args, train_dataset=Sequences(), callbacks=[recorder]).train()
    return {}
