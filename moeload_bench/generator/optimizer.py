"""The optimizer of a recipe and its learning rate, a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from moeload_bench.schema import Schema, extra_field

OptimizerKind = Literal["AdamW", "NAdam", "SGD"]
Amount = Annotated[float, Field(ge=0, le=1e6)]
Rate = Annotated[float, Field(gt=0, le=1e6)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerTable(Schema):
    """An optimizer of torch, with weight decay on matrices only and clipping of the global gradient norm.

    `kind` is its class. SGD has the momentum `beta1` and leaves `beta2` and `eps` unused; its weight decay is part of
    the gradient. The decay of AdamW and NAdam is decoupled from it.
    """

    kind: OptimizerKind = extra_field("AdamW")
    lr: Rate
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    eps: Amount = 1e-8
    weight_decay: Amount = 0.1
    clip: Rate = 1.0

    def problems(self) -> Iterator[str]:
        fields = type(self).model_fields
        for name in ("beta2", "eps") if self.kind == "SGD" else ():
            if getattr(self, name) != fields[name].default:
                yield f"kind {self.kind!r} has no {name}, got {getattr(self, name)}"


class ScheduleTable(Schema):
    """Linear warm-up over `warmup` steps, then one of four kinds.

    - `constant`: the peak rate to the end.
    - `cosine`: from the peak to `floor` times it at step `period`, then constant.
    - `cosine_restarts`: the same again in each `period`. Later periods peak at `restart_factor` times the first one's
      rate. With `restart_from_weights` each begins like a run that is started again from its weights alone: without
      warm-up and without the optimizer's moments.
    - `warmup_stable_decay`: the peak until step `decay_start`, then linearly to `floor` times it within `decay` steps.
    """

    kind: Literal["constant", "cosine", "cosine_restarts", "warmup_stable_decay"] = "constant"
    warmup: int = Field(ge=0)
    period: int | None = Field(default=None, ge=1)
    floor: float = Field(default=0.1, ge=0, le=1)
    restart_factor: Rate = 1.0
    restart_from_weights: bool = False
    decay_start: int | None = Field(default=None, ge=1)
    decay: int | None = Field(default=None, ge=1)

    def problems(self) -> Iterator[str]:
        if self.kind.startswith("cosine") != (self.period is not None):
            yield f"kind {self.kind!r} does not go with period {self.period}"
        if self.kind != "cosine_restarts" and (self.restart_factor != 1 or self.restart_from_weights):
            yield f"kind {self.kind!r} has no restarts, so no restart_factor and no restart_from_weights"
        decays = [self.decay_start is not None, self.decay is not None]
        if decays != [self.kind == "warmup_stable_decay"] * 2:
            yield f"kind {self.kind!r} does not go with decay_start {self.decay_start}, decay {self.decay}"
        for name, end in (("period", self.period), ("decay_start", self.decay_start)):
            if end is not None and end <= self.warmup:
                yield f"a warm-up of {self.warmup} steps does not end before {name} {end}"

    @property
    def first_restart(self) -> int | None:
        """Return the step at which the second period begins, None for a schedule without restarts."""
        return self.period if self.kind == "cosine_restarts" else None

    @property
    def whole_fall(self) -> tuple[str, int] | None:
        """Return the field that sets when the rate reaches its floor, and that step; None if it need not reach it.

        The last period of restarts may be cut short: the rate was at its floor before.
        """
        if self.decay_start is not None and self.decay is not None:
            return "schedule.decay_start + schedule.decay", self.decay_start + self.decay
        if self.kind == "cosine" and self.period is not None:
            return "schedule.period", self.period
        return None

    def restarts_at(self, step: int) -> bool:
        """Return whether a period other than the first begins at optimizer step `step`."""
        if self.kind != "cosine_restarts" or self.period is None:
            return False
        return step > 0 and step % self.period == 0

    def factor(self, step: int) -> float:
        """Return the share of the peak learning rate that optimizer step `step` (from 0) uses; it depends only on the
        step.

        Each restart repeats the warm-up, unless it restarts from weights. Cosine with warm restarts: Loshchilov and
        Hutter, arXiv 1608.03983, equation 5. Warm-up, stable, decay: Hu et al., arXiv 2404.06395.
        """
        if self.period is not None:
            return self._cosine(step, self.period)
        risen = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.decay is None or self.decay_start is None:
            return risen
        fallen = min(1.0, max(0, step + 1 - self.decay_start) / self.decay)
        return risen * (1 - (1 - self.floor) * fallen)

    def _cosine(self, step: int, period: int) -> float:
        count, place = divmod(step, period)
        if count and self.kind == "cosine":
            return self.floor
        peak = self.restart_factor if count else 1.0
        warmup = 0 if count and self.restart_from_weights else self.warmup
        if place < warmup:
            return peak * (place + 1) / warmup
        angle = math.pi * (place - warmup) / max(1, period - warmup)
        return peak * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(angle)))
