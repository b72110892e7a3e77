"""Record a run of transformers' Trainer (and of trl's trainers, which derive from it).

trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[LoadRecorder("runs", name="my-run")])
trainer.train()
"""

from __future__ import annotations

import functools
import math
import re
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback

from moeload_bench.errors import RecordingError
from moeload_bench.recording.metadata import check_given
from moeload_bench.recording.options import IfExists, RecordOptions, check_word, complete_options
from moeload_bench.recording.recorder import Recorder, free_target
from moeload_bench.recording.writer import trace_target

LAST_LOG = frozenset({"train_runtime", "train_loss"})
"""What the Trainer logs at the very end, just before it tells its callbacks that training has ended."""

LOST_EXPERTS = (
    "training was resumed at step {step} without the experts' weights of its checkpoint: transformers loads none where "
    "the checkpoint names experts one by one (its issue 48805); make the model by from_pretrained(CHECKPOINT) first"
)


class LoadRecorder(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """A callback that records exact expert loads into `OUT/NAME/SPLIT/seedRUN.parquet`; with ``out`` None, nowhere.

    One row per optimizer step (the Trainer's global step, from 0). With ``logging_steps=1`` loss and gradient norm are
    those that the Trainer logs. Otherwise the loss is the one that the model returns, on this process (NaN if it
    returns none), and the gradient norm is NaN. A run that resumes from a Trainer checkpoint continues the recording
    of the run before.

    ``if_exists``: what to do if a trace of this name and run is there already. "error" raises `RecordingError` here,
    before any training. (An unfinished recording may be continued, so only `train()` refuses it, and only if training
    starts from the beginning.) "number" takes the next free run number. "overwrite" removes what is there when training
    starts from the beginning.

    If training breaks off, the recorded steps go to disk, and the hooks come off once the callback is no longer used.
    Seed, precision, optimizer and schedule come from the Trainer, unless ``meta`` says otherwise. Arguments: see
    `moeload_bench.recording.record`.
    """

    def __init__(
        self,
        out: str | Path | None,
        *,
        name: str = "own",
        split: str = "test",
        run: int = 0,
        meta: Mapping[str, Any] | None = None,
        if_exists: IfExists = "error",
        **options: Unpack[RecordOptions],
    ) -> None:
        check_word("if_exists", if_exists, IfExists)
        self._options = complete_options(options)
        self.target = None if out is None else trace_target(out, name, split, run)
        if if_exists == "error" and self.target is not None and self.target.exists():
            raise RecordingError(
                f'{self.target}: a trace is there already; if_exists="number" takes the next free number, "overwrite" '
                "removes it, or choose another out, name or run"
            )
        self._if_exists = if_exists
        self._given = {"recipe": name, "split": split, "run": run, "group": name, **(meta or {})}
        check_given(self._given)
        self._recorder: Recorder | None = None
        self._leave: weakref.finalize[Any, LoadRecorder] | None = None
        self._row: dict[str, float] = {}
        self._losses: list[Any] = []
        self._loss_hook: Any = None
        self._open_step: int | None = None
        self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Put hooks on the model; continue an unfinished recording if training continues."""
        if self._leave is not None:
            self._leave()  # if the last training broke off
        self._open_step = None  # a step may have been trained and not closed
        fields = {**_from_trainer(args, state, model, kwargs.get("optimizer")), **self._given}
        if self.target is not None and state.is_world_process_zero:
            self.target = free_target(self.target, self._if_exists, goes_on=state.global_step > 0)
            fields["run"] = int(self.target.stem.removeprefix("seed")) if self._if_exists == "number" else fields["run"]
        recorder = Recorder(
            model,
            self.target,
            meta=fields,
            writes=state.is_world_process_zero,
            optimizer=kwargs.get("optimizer"),
            **self._options,
        )
        recorder.start(
            state.global_step,
            go_on='continue it with train(resume_from_checkpoint=...), say if_exists="number" or "overwrite"',
        )
        if state.global_step > 0 and experts_differ(_checkpoint(args, state), model):
            recorder.note(LOST_EXPERTS.format(step=state.global_step))
        self._losses = []
        hook = functools.partial(_keep_loss, self._losses)
        self._loss_hook = model.register_forward_hook(hook, with_kwargs=True)
        # a Trainer calls no callback when it breaks off
        self._leave = weakref.finalize(self, _leave, recorder, self._loss_hook)
        self._recorder = recorder

    def on_step_begin(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **kwargs: Any) -> None:
        """Close the last step, whose logs are complete by now, and note the learning rate of this one."""
        self._close()
        lr = float(lr_scheduler.get_last_lr()[0]) if lr_scheduler is not None else math.nan
        self._row = {"loss": math.nan, "grad_norm": math.nan, "lr": lr}
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that the step is trained; its logs may still come."""
        self._row["loss"] = _step_loss(self._losses)
        self._row["step_time_s"] = time.perf_counter() - self._began
        self._open_step = state.global_step - 1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Take loss and gradient norm if they are logged for this step. With the last log, close the last step.

        It cannot wait for the end of training: reporters end their runs then, before the monitor could log through
        them.
        """
        logs = logs or {}
        if self._open_step is not None and args.logging_steps == 1:
            for name in ("loss", "grad_norm"):
                if name in logs:
                    self._row[name] = float(logs[name])
        if logs.keys() >= LAST_LOG:
            self._close()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put all steps on disk before the Trainer's checkpoint is complete, so that resuming finds them."""
        self._close()
        if self._recorder is not None:
            self._recorder.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the trace."""
        self._close()
        if self._recorder is not None:
            self._recorder.finish(complete=state.global_step >= state.max_steps)
            self._recorder = None
        if self._loss_hook is not None:
            self._loss_hook.remove()
        if self._leave is not None:
            self._leave.detach()
            self._leave = None

    def _close(self) -> None:
        step, self._open_step = (
            self._open_step,
            None,
        )  # first: a monitor's own log calls this again while the step is being closed
        if step is not None and self._recorder is not None:
            self._recorder.step(step, **self._row)


def _checkpoint(args: Any, state: Any) -> Path:
    """Return the folder that a training was most likely resumed from: a Trainer does not tell its callbacks."""
    named = args.resume_from_checkpoint
    return Path(named if isinstance(named, str) else f"{args.output_dir}/checkpoint-{state.global_step}")


def experts_differ(checkpoint: Path, model: Any) -> bool:
    """Return whether a model's stacked experts are others than those that its checkpoint names one by one.

    One expert of the first layer that both have is compared; False where there is none, or it cannot be read.
    """
    stacked = {}
    for name, parameter in model.named_parameters():
        if match := re.search(r"layers\.(\d+)\..*experts\.down_proj$", name):
            stacked[match[1]] = parameter
    try:
        for file in sorted(checkpoint.glob("*.safetensors")) if stacked else ():
            with safe_open(file, "pt") as saved:
                for name in saved.keys():  # noqa: SIM118  # not a dict
                    match = re.search(r"layers\.(\d+)\..*experts\.(\d+)\.(?:down_proj|w2)\.weight$", name)
                    if match and match[1] in stacked:
                        expert = stacked[match[1]][int(match[2])].detach().cpu()
                        return not torch.equal(saved.get_tensor(name).to(expert.dtype), expert)
    except (OSError, IndexError, SafetensorError):
        pass
    return False


def _leave(recorder: Recorder, hook: Any) -> None:
    """Take the hooks off after a training that broke off; what was recorded stays."""
    hook.remove()
    recorder.leave_unfinished()


def _keep_loss(losses: list[Any], model: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Keep the loss of a training pass, and whether it is a part of the step's (a Trainer that counts items)."""
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if model.training and loss is not None:
        losses.append((loss.detach().float().mean(), kwargs.get("num_items_in_batch") is not None))


def _step_loss(losses: list[Any]) -> float:
    """Return the step's loss from those of its micro-batches, and forget them; NaN where there is none."""
    total = math.nan if not losses else float(sum(loss for loss, _ in losses))
    mean = total if not losses or losses[0][1] else total / len(losses)
    losses.clear()
    return mean


def _from_trainer(args: Any, state: Any, model: Any, optimizer: Any) -> dict[str, Any]:
    """Return what the Trainer knows of its run, as fields of the metadata."""
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    mixed = "bf16" if args.bf16 else "fp16" if args.fp16 else None
    fields: dict[str, Any] = {
        "seed": args.seed,
        "precision": mixed or {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(dtype, dtype),
        "schedule": {
            "kind": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
            "warmup": args.get_warmup_steps(state.max_steps),
            "steps": state.max_steps,
        },
    }
    if optimizer is not None:
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        fields["optimizer"] = {"name": type(inner).__name__, "lr": args.learning_rate, "clip": args.max_grad_norm}
        for name in ("betas", "eps", "weight_decay", "momentum"):
            if name in inner.param_groups[0]:
                fields["optimizer"][name] = inner.param_groups[0][name]
    return fields
