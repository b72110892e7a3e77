"""Training a recipe and recording it.

One plain loop: data order and learning rate are pure functions of the step, so a run goes on from a checkpoint of
model, optimizer and random state alone, and a resumed run equals an uninterrupted one bit for bit on one machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.errors import RecordingError
from moeload_bench.recording.balancing import LossFreeBias, router_statistics
from moeload_bench.recording.batches import Batch, BatchOrder
from moeload_bench.recording.counting import RouterCounter, StepCounts
from moeload_bench.recording.metadata import layer_metas, recipe_meta
from moeload_bench.recording.models import build_model, build_optimizer, model_inputs, score_function
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.recipe import Recipe
from moeload_bench.recording.sources import resolve_source
from moeload_bench.recording.tokens import token_stream, train_tokenizer
from moeload_bench.recording.writer import TraceWriter
from moeload_bench.trace import TraceMeta

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Job:
    """One recording to make: `OUT/RECIPE/SPLIT/seedN.parquet`."""

    recipe: Recipe
    seed: int
    split: str
    steps: int
    out: Path
    shard_steps: int = 250

    @property
    def target(self) -> Path:
        """The trace's file."""
        return self.out / self.recipe.name / self.split / f"seed{self.seed}.parquet"


Progress = Callable[[int, dict[str, Any]], None]


class Run:
    """A recipe's model, optimizer and data, trained one optimizer step at a time."""

    def __init__(self, job: Job) -> None:
        import torch

        torch.set_num_threads(1)
        self.job, self.recipe = job, job.recipe
        data = self.recipe.data
        names = dict.fromkeys((*data.tokenizer_sources, *(n for stage in data.stages for n in stage.sources)))
        self.sources = {name: resolve_source(name) for name in names}
        trained = train_tokenizer([self.sources[name] for name in data.tokenizer_sources], data.vocabulary)
        trained_on = dict.fromkeys(name for stage in data.stages for name in stage.sources)
        streams = {name: token_stream(self.sources[name], trained) for name in trained_on}
        self.order = BatchOrder(self.recipe, job.seed, streams)
        self.tokenizer_sha256 = trained.sha256
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = build_model(self.recipe, job.seed).to(self.device)
        self.optimizer = build_optimizer(self.recipe, self.model)
        self.counter = RouterCounter(self.model, keep_routing=True)
        self._score = score_function(self.recipe)
        balancing = self.recipe.balancing
        self._bias: LossFreeBias | None = None
        if balancing.method == "loss_free_bias":
            self._bias = LossFreeBias(self.counter.routers, balancing.coefficient)

    def step(self, number: int) -> dict[str, Any]:
        """Train optimizer step ``number``; returns the step's cells of the trace by column."""
        import torch

        start = time.perf_counter()
        batch = self.order.batch(number)
        lr = self.recipe.lr_at(number)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        passes = [self._backward(part) for part in _micro_batches(batch, self.recipe.data.micro_batches)]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        counts: StepCounts = self.counter.take()
        loss, aux, entropy_L = (sum(column) / len(passes) for column in zip(*passes, strict=True))
        if not np.isfinite(float(loss)):
            raise RecordingError(f"step {number}: the loss is {float(loss)}: training diverged")
        row: dict[str, Any] = {
            "step": number,
            "tokens": counts.tokens_L,
            "load": counts.load_LE,
            "load_half": counts.load_half_LE,
            "loss": float(loss),
            "aux_loss": float(aux),
            "lr": lr,
            "grad_norm": float(norm),
            "stage": batch.stage,
            "router_entropy": entropy_L.cpu().numpy(),
            "step_time_s": time.perf_counter() - start,
        }
        if counts.dropped_LE is not None:
            row["dropped"] = counts.dropped_LE
        if self._bias is not None:
            row["expert_bias"] = self._bias.value_LE()
            self._bias.update(counts.load_LE)
        return row

    def _backward(self, part: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Forward and backward of one micro-batch: language-model loss, mean auxiliary loss, entropy [L]."""
        import torch

        token_BN = torch.from_numpy(part.token_BN).to(self.device)
        self.counter.halves.set(torch.from_numpy(part.half_B))
        balancing = self.recipe.balancing
        pooled = balancing.method == "pooled_aux_loss"
        inputs = model_inputs(self.model, token_BN)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            output = self.model(**inputs, output_router_logits=True) if pooled else self.model(**inputs)
        statistics = router_statistics(self.counter.last_routing, self._score)
        if pooled:
            total, aux = output.loss, output.aux_loss.detach()
            loss = total.detach() - balancing.coefficient * aux
        else:
            total, aux, loss = output.loss, statistics.aux_L.detach().mean(), output.loss.detach()
        if balancing.method == "aux_loss":
            total = total + balancing.coefficient * statistics.aux_L.sum()
        (total / self.recipe.data.micro_batches).backward()
        return loss, aux, statistics.entropy_L

    def meta(self) -> TraceMeta:
        """Metadata of the run; known once the first step has passed."""
        experts = self.counter.experts[0] or 0
        return recipe_meta(
            self.recipe,
            self.sources,
            seed=self.job.seed,
            split=self.job.split,
            layers=layer_metas(self.counter.routers, experts, self.counter.top_k),
            experts=experts,
            tokenizer_sha256=self.tokenizer_sha256,
            score_function=self._score,
            gate=type(self.counter.routers[0].module).__name__,
            parallel={"processes": 1},
        )

    def save(self, path: Path) -> None:
        """Write model, optimizer and random state."""
        import torch

        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        torch.save(state, path)

    def restore(self, path: Path) -> None:
        """Go on from a file that `save` wrote."""
        import torch

        state = torch.load(path, weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])


def record_recipe(job: Job, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train and record a recipe; returns the trace's file.

    Raises `RecordingError` when a trace is at the target already, when an unfinished recording is there and ``resume``
    is not given, and when counts do not add up; what was recorded before is intact then.
    """
    run: Run | None = None
    writer = TraceWriter(job.target, lambda: _meta(run), shard_steps=job.shard_steps)
    writer.parts.start(resume)
    _check_same_job(job, writer.parts)
    run = Run(job)
    if writer.parts.checkpoint is not None:
        run.restore(writer.parts.checkpoint)
    for number in range(writer.parts.next_step, job.steps):
        row = run.step(number)
        writer.add(row, run.save)
        if progress is not None:
            progress(number, row)
    return writer.finish(complete=job.steps >= job.recipe.steps)


def _meta(run: Run | None) -> TraceMeta:
    if run is None:
        raise RecordingError("no step was trained yet")
    return run.meta()


def _check_same_job(job: Job, parts: Parts) -> None:
    """Refuse to go on with a recording that another version of the recipe began."""
    before = parts.state.get("meta")
    if before is not None and before["recipe_version"] != job.recipe.version:
        raise RecordingError(
            f"{parts.folder}: begun with version {before['recipe_version']} of recipe {job.recipe.name}, "
            f"this is version {job.recipe.version}"
        )


def _micro_batches(batch: Batch, count: int) -> list[Batch]:
    token, half = np.array_split(batch.token_BN, count), np.array_split(batch.half_B, count)
    return [Batch(t, h, batch.stage) for t, h in zip(token, half, strict=True)]
