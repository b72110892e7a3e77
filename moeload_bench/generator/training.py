"""Train a recipe and record it.

It is one plain loop. Data order and learning rate are pure functions of the step, so a checkpoint of model, optimizer
and random state is enough to resume. On one machine a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from moeload_bench.errors import DivergedError, InterruptedRecordingError, RecordingError
from moeload_bench.generator.balancing import (
    ADAPTERS,
    HistogramBias,
    LossFreeBias,
    QuantileBias,
    RoutingBias,
    RunningShares,
    add_noise_to_gates,
    route_by_token,
    router_statistics,
    router_z_loss,
    sequence_aux_loss,
)
from moeload_bench.generator.batches import Batch, BatchOrder
from moeload_bench.generator.models import build_model, build_optimizer, model_inputs, score_function
from moeload_bench.generator.processes import (
    Ranks,
    data_parallel,
    gathered,
    keep_freed_memory,
    load_whole,
    seed_process,
    shard,
)
from moeload_bench.generator.provenance import (
    check_same_recipe,
    check_same_text,
    probe_meta,
    probe_name,
    recipe_meta,
    recipe_payload,
)
from moeload_bench.generator.recipe import Recipe
from moeload_bench.generator.specialisation import Specialisation
from moeload_bench.generator.text import resolve_source, token_stream, train_tokenizer
from moeload_bench.recording.counting import RouterCounter, StepCounts
from moeload_bench.recording.distributed import rank_sum
from moeload_bench.recording.metadata import layer_metas
from moeload_bench.recording.parts import Parts, checkpoint_name
from moeload_bench.recording.routers import find_routers
from moeload_bench.recording.routing_steps import RoutingSteps
from moeload_bench.recording.writer import StepProgress, TraceWriter, trace_target
from moeload_bench.traces.trace import TraceMeta


@dataclass(frozen=True)
class Job:
    """One recording to make: `OUT/RECIPE/SPLIT/seedN.parquet`, where N is the seed, or ``run`` if seeds are drawn.

    ``sharded`` cuts the model over several processes. The routing of ``routing_steps`` is kept beside the trace.
    """

    recipe: Recipe
    seed: int
    split: str
    steps: int
    out: Path
    shard_steps: int = 250
    sharded: bool = False
    run: int | None = None
    routing_steps: tuple[int, ...] = ()

    @property
    def number(self) -> int:
        """Return the run's number within its split."""
        return self.seed if self.run is None else self.run

    @property
    def target(self) -> Path:
        """Return the trace's file."""
        return trace_target(self.out, self.recipe.name, self.split, self.number)


class TrainingRun:
    """A recipe's model, optimizer and data, trained one optimizer step at a time.

    With several processes, each trains its own share of every step's sequences, with equal weights (DDP): W processes
    with m micro-batches each train the same as one process with W m micro-batches.
    """

    def __init__(self, job: Job, ranks: Ranks, say: Callable[[str], None] = lambda stage: None) -> None:
        torch.set_num_threads(1)
        keep_freed_memory()
        self.job, self.recipe, self.ranks, self._say = job, job.recipe, ranks, say
        self.order = BatchOrder(self.recipe, job.seed, ranks.first_alone(self._streams))
        say("building the model")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = build_model(self.recipe, job.seed)
        if self.recipe.model.noisy_gate:
            add_noise_to_gates(find_routers(self.model))
        balancing = self.recipe.balancing
        if balancing.method == "hash":
            route_by_token(self.model, job.seed)
        self.model = shard(self.model, self.device) if job.sharded else self.model.to(self.device)
        self.optimizer = build_optimizer(self.recipe, self.model)
        total = rank_sum(self.model)
        micro_max = self.recipe.data.micro_batches > 1
        kept = RoutingSteps(job.routing_steps, Parts(job.target).routing, ranks.rank) if job.routing_steps else None
        self.counter = RouterCounter(
            self.model, ADAPTERS, keep_routing=True, reduce=total, micro_max=micro_max, kept=kept
        )
        body: Any = self.model.base_model
        can_probe = ranks.count == 1 and not body.config.is_encoder_decoder
        if (self.recipe.probe or self.recipe.data.held_out) and not can_probe:
            raise RecordingError("probe and data.held_out are for one process and a decoder only")
        self._body = body  # without the head: a probe needs no prediction
        self._probe_counter = (
            RouterCounter(body, ADAPTERS, reduce=total, without_gradients=True) if self.recipe.probe else None
        )
        self.specialisation = Specialisation(self.recipe, body, self.counter.routers, self.order.held_out_BN)
        alone = ranks.count == 1 or job.sharded
        self._passing: Any = self.model if alone else data_parallel(self.model, self.recipe)
        self._saved: dict[str, Any] = {}
        self._score = score_function(self.recipe)
        self._bias: RoutingBias | None = None
        if balancing.method == "loss_free_bias":
            self._bias = LossFreeBias(self.counter.routers, balancing.coefficient)
        elif balancing.method == "quantile_balancing":
            self._bias = QuantileBias(self.counter.routers, self._score, ranks.mean)
        elif balancing.method == "quantile_histogram":
            self._bias = HistogramBias(self.counter.routers, self._score, ranks.mean)
        self._running = RunningShares(ranks.mean) if balancing.method == "global_aux_loss" else None

    def _streams(self) -> dict[str, NDArray[np.uint16]]:
        """Return the tokens of every text that is trained on."""
        data = self.recipe.data
        names = dict.fromkeys((*data.tokenizer_sources, *data.trained_on))
        self.sources = {name: resolve_source(name) for name in names}
        self._say("making the tokenizer: minutes for a new text, then it is kept")
        trained = train_tokenizer([self.sources[name] for name in data.tokenizer_sources], data.vocabulary)
        self.tokenizer_sha256 = trained.sha256
        streams = {}
        for number, name in enumerate(data.trained_on, start=1):
            self._say(f"encoding {name}, text {number} of {len(data.trained_on)}")
            streams[name] = token_stream(self.sources[name], trained)
        return streams

    def sha256(self) -> dict[str, str]:
        """Return the hashes of what is trained on: the tokenizer and each text."""
        return {"tokenizer": self.tokenizer_sha256, **{name: source.sha256 for name, source in self.sources.items()}}

    def identity(self) -> dict[str, Any]:
        """Return what a resumed recording is checked against: the recipe and the hashes of what is trained on."""
        return {"recipe": recipe_payload(self.recipe), "sha256": self.sha256()}

    def step(self, number: int) -> dict[str, Any]:
        """Train optimizer step ``number``; return the step's cells of the trace by column."""
        from torch.distributed.tensor import DTensor

        start = time.perf_counter()
        batch = self.order.batch(number)
        lr = self.recipe.lr_at(number)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.recipe.schedule.restart_from_weights and self.recipe.schedule.restarts_at(number):
            self.optimizer.state.clear()
        if self.counter.kept is not None:
            self.counter.kept.start_step(number)
        passes = self._passes(number, batch)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        counts: StepCounts = self.counter.take()
        loss, aux, entropy_L = (self.ranks.mean(sum(c) / len(passes)) for c in zip(*passes, strict=True))
        if not np.isfinite(float(loss)):
            raise DivergedError(f"step {number}: the loss is {float(loss)}: training diverged")
        row: dict[str, Any] = {
            "step": number,
            **counts.cells(),
            "loss": float(loss),
            "aux_loss": float(aux),
            "lr": lr,
            "grad_norm": float(norm.full_tensor() if isinstance(norm, DTensor) else norm),
            "stage": batch.stage,
            "router_entropy": entropy_L.cpu().numpy(),
            "step_time_s": time.perf_counter() - start,
        }
        if not self.recipe.load_half:
            del row["load_half"]
        if self._bias is not None:
            row["expert_bias"] = self._bias.value_LE()
            self._bias.update(counts.load_LE)
        return row

    def probe(self, number: int) -> dict[str, Any]:
        """Count the recipe's probe of a step, with the weights that the step is trained from; return its row."""
        table = self.recipe.probe
        assert table is not None
        assert self._probe_counter is not None
        batch = self.order.probe(number, table.tokens // self.recipe.data.sequence_length)
        at_once = max(1, self.recipe.data.sequences // self.recipe.data.micro_batches)
        with torch.no_grad():
            for part in batch.split(math.ceil(len(batch.token_BN) / at_once)):
                self._probe_counter.halves.set(torch.from_numpy(part.half_B))
                self._body(input_ids=torch.from_numpy(part.token_BN).to(self.device))
        return {
            "step": number,
            **self._probe_counter.take().cells(),
            "lr": self.recipe.lr_at(number),
            "stage": batch.stage,
        }

    def _passes(self, number: int, batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Run forward and backward of all micro-batches of this process, and return their losses and entropies."""
        share = batch.split(self.ranks.count)[self.ranks.rank]
        parts = share.split(self.recipe.data.micro_batches)
        aux_loss = self.recipe.aux_loss_at(number)
        if self._running is not None:
            self._running.start_step()
        if self.ranks.count > 1:
            seed_process(self.job.seed, number, self.ranks.rank)
        if self.ranks.count == 1 or self.job.sharded:  # cut gradients are averaged after each pass: they stay small
            return [self._backward(part, aux_loss) for part in parts]
        with self._passing.no_sync():
            passes = [self._backward(part, aux_loss) for part in parts[:-1]]
        return [*passes, self._backward(parts[-1], aux_loss)]

    def _backward(self, part: Batch, aux_loss: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run forward and backward of one micro-batch: return language-model loss, mean auxiliary loss, entropy [L].

        ``aux_loss``: weight of the per-layer auxiliary loss.
        """
        token_BN = torch.from_numpy(part.token_BN).to(self.device)
        self.counter.halves.set(torch.from_numpy(part.half_B))
        balancing = self.recipe.balancing
        pooled = balancing.method == "pooled_aux_loss"
        inputs = model_inputs(self.model, token_BN)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            output = self._passing(**inputs, output_router_logits=True) if pooled else self._passing(**inputs)
        self.counter.check()
        if self._bias is not None:
            self._bias.see(self.counter.last_routing)
        statistics = router_statistics(self.counter.last_routing, self._score, self._running)
        if pooled:
            total, aux = output.loss, output.aux_loss.detach()
            loss = total.detach() - balancing.coefficient * aux
        else:
            total, aux, loss = output.loss, statistics.aux_L.detach().mean(), output.loss.detach()
        if aux_loss:
            total = total + aux_loss * statistics.aux_L.sum()
        if balancing.within_sequences:
            within_L = sequence_aux_loss(self.counter.last_routing, self._score, len(part.token_BN))
            total = total + balancing.within_sequences * within_L.sum()
        if balancing.z_loss is not None:
            total = total + balancing.z_loss * router_z_loss(self.counter.last_routing).sum()
        (total / self.recipe.data.micro_batches).backward()
        return loss, aux, statistics.entropy_L

    def pretrain(self) -> None:
        """Take over the weights of a model that was first trained on the recipe's other text, if it names some."""
        base = self.recipe.pretraining()
        if base is None:
            return
        before = TrainingRun(replace(self.job, recipe=base, routing_steps=()), self.ranks, self._say)
        for number in range(base.steps):
            self._say(f"training that is not recorded, step {number + 1} of {base.steps}")
            before.step(number)
        self.model.load_state_dict(before.model.state_dict())

    def meta(self) -> TraceMeta:
        """Return the metadata of the run; it is known after the first step."""
        experts = self.counter.experts[0] or 0
        return recipe_meta(
            self.recipe,
            self.sources,
            self.order.passes(),
            seed=self.job.seed,
            run=self.job.number,
            split=self.job.split,
            layers=layer_metas(self.counter.routers, experts, self.counter.top_k),
            experts=experts,
            parameters=sum(each.numel() for each in self.model.parameters()),
            tokenizer_sha256=self.tokenizer_sha256,
            score_function=self._score,
            gate=type(self.counter.routers[0].module).__name__,
            specialisation=self.specialisation.by_steps,
            parallel={"processes": self.ranks.count, **({"fsdp": self.ranks.count} if self.job.sharded else {})},
        )

    def gather(self) -> None:
        """Prepare `save` for a model that is cut over the processes; all of them call it."""
        if self.job.sharded:
            self._saved = gathered(self._state(), keep=self.ranks.leads)

    def save(self, path: Path) -> None:
        """Write model, optimizer and random state."""
        torch.save(self._saved or self._state(), path)
        self._saved = {}

    def _state(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }

    def restore(self, file: Path | BinaryIO) -> None:
        """Restore model, optimizer and random state from a file that `save` wrote."""
        state = torch.load(file, weights_only=True, map_location="cpu", mmap=self.job.sharded)
        if self.job.sharded:
            load_whole(self.model, self.optimizer, state)
        else:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])


def record_recipe(
    job: Job,
    *,
    resume: bool = False,
    fresh: bool = False,
    progress: StepProgress | None = None,
    ranks: Ranks | None = None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda stage: None,
) -> Path:
    """Train and record a recipe; return the trace's file. With several ``ranks`` all call it, and the first one writes.

    ``fresh`` deletes an unfinished recording. ``stop`` is called after every step of a single process: if it returns
    True, all steps go to disk with a checkpoint and `InterruptedRecordingError` is raised. ``say`` is called with what
    is done before the first step.

    Raise `RecordingError` if a trace is at the target already, if an unfinished recording is there and neither
    ``resume`` nor ``fresh`` is given, and if counts do not add up; what was recorded before is intact then. Raise
    `DivergedError` if the training diverges; the steps before are on disk then.
    """
    ranks = ranks or Ranks()
    with closing(Parts(job.target)) as parts:
        first = ranks.led(lambda: _start(job, parts, resume, fresh, ranks))
        run = TrainingRun(job, ranks, say)
        ranks.led(lambda: check_same_text(parts, run.sha256()))
        checkpoint = _checkpoint(job, parts, first, ranks)
        if checkpoint is not None:
            run.restore(checkpoint)
            before = parts.state.get("meta", {})  # the first of several processes alone has read it
            run.specialisation.by_steps |= before.get("specialisation", {})
        elif first == 0:
            run.pretrain()
        elif first < job.steps:
            raise RecordingError(
                f"{parts.folder}: {first} steps are on disk and no checkpoint to continue from; start again with "
                f"--fresh, or make a trace of them: moeload-bench record {parts.folder}"
            )
        writer = TraceWriter(parts, run.meta, shard_steps=job.shard_steps, state=run.identity)
        probing = _Probing(job, run, resume=resume and first > 0)
        for number in range(first, job.steps):
            probing.count(number)
            try:
                row = run.step(number)
            except DivergedError:  # on every process: the loss is the mean over all of them
                run.gather()
                probing.flush()
                if ranks.leads:
                    writer.flush(run.save)  # the steps before, which can be made a trace
                raise
            if (number + 1 - first) % job.shard_steps == 0:
                run.gather()
                probing.flush()
            run.specialisation.measure(number + 1, job.steps, say)
            if ranks.leads:
                writer.add(row, run.save)
            if progress is not None:
                progress(number, row)
            if ranks.count == 1 and stop() and number + 1 < job.steps:
                probing.flush()
                writer.flush(run.save)
                raise InterruptedRecordingError(f"{parts.folder}: stopped; {writer.next_step} steps are on disk")
        complete = job.steps >= job.recipe.steps
        probing.finish(complete)
        return writer.finish(complete) if ranks.leads else job.target


class _Probing:
    """The recipe's probe, if it has one, on its way to a trace of its own, `NAME.probe`, next to the run's.

    Its rows are on disk before those of the run, so that a resumed run finds all of them; it does not count rows again
    that it finds.
    """

    def __init__(self, job: Job, run: TrainingRun, *, resume: bool) -> None:
        self._run = run
        self._writer: TraceWriter | None = None
        table = job.recipe.probe
        parts = Parts(trace_target(job.out, probe_name(job.recipe), job.split, job.number))
        if table is None or (resume and parts.target.exists()):  # the probe was finished, but not yet the run
            return
        if not resume:
            parts.remove()
        parts.start(resume)
        # written only with the run's shards: the metadata is known then
        self._writer = TraceWriter(
            parts, lambda: probe_meta(run.recipe, run.meta()), shard_steps=job.steps + 1, stride=table.every
        )

    def count(self, number: int) -> None:
        """Count the probe of a step that has one."""
        if self._writer is not None and number % self._writer.stride == 0 and number >= self._writer.next_step:
            self._writer.add(self._run.probe(number))

    def flush(self) -> None:
        """Write all rows to disk."""
        if self._writer is not None:
            self._writer.flush()

    def finish(self, complete: bool) -> None:
        """Write the trace."""
        if self._writer is not None:
            self._writer.finish(complete)


def _start(job: Job, parts: Parts, resume: bool, fresh: bool, ranks: Ranks) -> int:
    """Open the recording; return the step that it continues with."""
    if fresh and not job.target.exists():
        parts.remove()
    parts.start(resume)
    check_same_recipe(job.recipe, parts, ranks.count, sharded=job.sharded)
    return parts.next_step


def _checkpoint(job: Job, parts: Parts, first: int, ranks: Ranks) -> Path | BinaryIO | None:
    """Return what to continue from at step ``first``; processes read a sharded one themselves, too large to send."""
    if not job.sharded:
        return ranks.shared_file(parts.checkpoint)
    return parts.folder / checkpoint_name(first) if first > 0 else None
