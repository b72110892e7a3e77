"""Recipes: named, versioned training configurations that produce traces.

A recipe is one TOML file; unknown keys are refused. Axis letters: B sequences of a step.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from moeload_bench.errors import RecipeError, not_found
from moeload_bench.files import PACKAGE
from moeload_bench.schema import Record, first_problem

RECIPE_FOLDER = PACKAGE / "recipes"


class ModelTable(Record):
    """The architecture: a transformers model type and keyword arguments of its configuration."""

    family: str
    config: dict[str, Any]
    checkpointing: bool = False


class BalancingTable(Record):
    """How the router is kept balanced; `coefficient` is the loss weight or the bias step."""

    method: Literal["none", "aux_loss", "pooled_aux_loss", "loss_free_bias"]
    coefficient: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _coefficient_only_where_used(self) -> BalancingTable:
        if (self.method == "none") != (self.coefficient == 0):
            raise ValueError(f"method {self.method!r} does not go with coefficient {self.coefficient}")
        return self


class StageTable(Record):
    """From `start` on, sequences are taken in turn from `sources` (names of corpora)."""

    start: int = Field(ge=0)
    sources: tuple[str, ...] = Field(min_length=1)


class DataTable(Record):
    """Text and batches: `sequences` of `sequence_length` tokens per optimizer step, over all ranks."""

    sequence_length: int = Field(ge=8)
    sequences: int = Field(ge=2)
    micro_batches: int = Field(default=1, ge=1, description="forward passes per rank and step")
    vocabulary: int = Field(ge=257)
    tokenizer_sources: tuple[str, ...] = Field(min_length=1, description="corpora the BPE is trained on")
    stages: tuple[StageTable, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _stages_in_order(self) -> DataTable:
        starts = [stage.start for stage in self.stages]
        if starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"stages must start at 0 and rise, got starts {starts}")
        return self


class OptimizerTable(Record):
    """AdamW with weight decay on matrices only and clipping of the global gradient norm."""

    lr: float = Field(gt=0)
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0


class ScheduleTable(Record):
    """Linear warm-up over `warmup` steps, then constant; or cosine from 1 to `floor` over each `period`.

    Periods after the first peak at `restart_factor` times the first one's rate. With `restart_from_weights` they begin
    as a run does that was started again from its weights alone: without warm-up and without the optimizer's moments.
    """

    kind: Literal["constant", "cosine_restarts"] = "constant"
    warmup: int = Field(ge=0)
    period: int | None = Field(default=None, ge=1)
    floor: float = Field(default=0.1, ge=0, le=1)
    restart_factor: float = Field(default=1.0, gt=0)
    restart_from_weights: bool = False

    @model_validator(mode="after")
    def _period_only_where_used(self) -> ScheduleTable:
        if (self.kind == "constant") != (self.period is None):
            raise ValueError(f"kind {self.kind!r} does not go with period {self.period}")
        if self.period is None and (self.restart_factor != 1 or self.restart_from_weights):
            raise ValueError(f"kind {self.kind!r} has no restarts, so no restart_factor and no restart_from_weights")
        return self

    def restarts_at(self, step: int) -> bool:
        """Whether a period other than the first begins at optimizer step `step`."""
        return self.period is not None and step > 0 and step % self.period == 0

    def factor(self, step: int) -> float:
        """Share of the peak learning rate that optimizer step `step` (from 0) uses; pure.

        Each restart goes through the warm-up again, unless it is one from weights. Cosine with warm restarts:
        Loshchilov and Hutter, arXiv 1608.03983, equation 5.
        """
        if self.period is None:
            return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        count, at = divmod(step, self.period)
        peak = self.restart_factor if count else 1.0
        warmup = 0 if count and self.restart_from_weights else self.warmup
        if at < warmup:
            return peak * (at + 1) / warmup
        angle = math.pi * (at - warmup) / max(1, self.period - warmup)
        return peak * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(angle)))


class Recipe(Record):
    """One training configuration; `about` says what its traces are for."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    version: int = Field(ge=1)
    about: str
    steps: int = Field(ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    model: ModelTable
    balancing: BalancingTable
    data: DataTable
    optimizer: OptimizerTable
    schedule: ScheduleTable

    def stage_at(self, step: int) -> int:
        """Number of the data stage that optimizer step `step` belongs to."""
        return sum(stage.start <= step for stage in self.data.stages) - 1

    def lr_at(self, step: int) -> float:
        """Learning rate of optimizer step `step`."""
        return self.optimizer.lr * self.schedule.factor(step)


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by name, or from the path of a TOML file.

    Raises `NotFoundError` for an unknown name and `RecipeError` for a file that breaks the schema.
    """
    path = Path(name_or_path) if name_or_path.endswith(".toml") else RECIPE_FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        raise not_found("recipe", name_or_path, list_recipes())
    try:
        with path.open("rb") as file:
            recipe = Recipe.model_validate(tomllib.load(file))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not TOML: {error}") from None
    except ValidationError as error:
        raise RecipeError(f"{path}: {first_problem(error, 'recipe')}") from None
    if recipe.name != path.stem:
        raise RecipeError(f"{path}: name is {recipe.name!r}, expected {path.stem!r} like the file")
    return recipe
