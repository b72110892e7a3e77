"""Recipes: named, versioned training configurations that produce traces.

A recipe is one TOML file; unknown keys are refused. Axis letters: B sequences of a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from moeload_bench.errors import RecipeError, not_found
from moeload_bench.files import PACKAGE
from moeload_bench.generator.optimizer import Amount, OptimizerTable, Rate, ScheduleTable
from moeload_bench.schema import Schema, extra_field, first_problem, load_toml, read_toml
from moeload_bench.traces.meta import ShapeMeta

RECIPE_FOLDER = PACKAGE / "recipes"
ALIGNED = 8
"""How many bfloat16 numbers fit into 16 bytes; torch's grouped matrix products align rows to that."""
Method = Literal[
    "none",
    "aux_loss",
    "global_aux_loss",
    "pooled_aux_loss",
    "sequence_aux_loss",
    "loss_free_bias",
    "quantile_balancing",
    "quantile_histogram",
    "hash",
]
WITHOUT_COEFFICIENT: tuple[Method, ...] = ("none", "quantile_balancing", "quantile_histogram", "hash")
SIZES = ("hidden_size", "intermediate_size", "moe_intermediate_size", "d_model", "d_ff")
LARGEST = 2**24
MOST_TOKENS = 2**26
"""Tokens of a step at most."""
NAMES = (
    *("eager", "sdpa", "grouped_mm", "batched_mm", "greedy", "group_limited_greedy", "noaux_tc"),
    *("default", "linear", "dynamic", "yarn", "llama3", "longrope", "full_attention", "sliding_attention"),
    *("relu", "gelu", "silu", "softmax", "sigmoid", "float32", "bfloat16"),
)
"""The texts that a model's configuration may hold: transformers would take others for code on the Hub."""
Number = Annotated[int, Field(ge=1, le=LARGEST)]


class ModelTable(Schema):
    """The architecture: a transformers model type and keyword arguments of its configuration.

    With `noisy_gate` routers choose by noisy logits while training (`noisy_top_k`).
    """

    family: str
    config: dict[str, Any]
    checkpointing: bool = False
    noisy_gate: bool | None = None

    def problems(self) -> Iterator[str]:
        for key in SIZES:
            size = self.config.get(key)
            if isinstance(size, int) and (size < ALIGNED or size % ALIGNED):
                yield f"config.{key} is {size}, expected a multiple of {ALIGNED}, as grouped matrix products need"
        for key, value in _leaves(self.config):
            if key.startswith("_"):
                yield f"config.{key[:80]!r}: expected a public key of the configuration"
            if isinstance(value, str) and value not in NAMES:
                yield f"config.{key} is {value[:80]!r}, expected one of {', '.join(NAMES)}"
            if isinstance(value, int | float) and not abs(value) <= LARGEST:
                yield f"config.{key} is beyond {LARGEST}"


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers and texts of a configuration, each with the key that it stands under."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, str(name) if not key else f"{key}.{name}")
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part, key)
    else:
        yield key, value


class BalancingTable(Schema):
    """How the router is kept balanced; `coefficient` is the loss weight or the bias step, and some methods have none.

    `sequence_coefficient` is the weight of a second auxiliary loss, taken within each sequence; only loss-free
    balancing may have it. `z_loss` is the weight of the router z-loss, which keeps logits small and balances nothing.
    From step `until` on the auxiliary loss is switched off.
    """

    method: Method
    coefficient: Amount = 0.0
    sequence_coefficient: Rate | None = None
    z_loss: Rate | None = None
    until: int | None = extra_field(None, ge=1)

    def problems(self) -> Iterator[str]:
        if (self.method in WITHOUT_COEFFICIENT) != (self.coefficient == 0):
            yield f"method {self.method!r} does not go with coefficient {self.coefficient}"
        if self.sequence_coefficient is not None and self.method != "loss_free_bias":
            yield f"sequence_coefficient goes with method 'loss_free_bias' only, got {self.method!r}"
        if self.z_loss is not None and self.method == "hash":
            yield "z_loss does not go with method 'hash', whose routers learn nothing"
        if self.until is not None and self.method != "aux_loss":
            yield f"until goes with method 'aux_loss' only, got {self.method!r}"

    @property
    def within_sequences(self) -> float:
        """Return the weight of the auxiliary loss that is taken within each sequence; 0 without one."""
        return self.coefficient if self.method == "sequence_aux_loss" else self.sequence_coefficient or 0.0


class StageTable(Schema):
    """From `start` on, sequences are taken in turn from `sources` (names of corpora).

    With `towards` the mixture drifts: the share of sequences from these new sources rises linearly from 0 at `start` to
    1 where the next stage starts, which trains only on them. With `weights`, one for each source, a source gets that
    many of every sum(weights) sequences, spread evenly.
    """

    start: int = Field(ge=0)
    sources: tuple[str, ...] = Field(min_length=1)
    towards: tuple[str, ...] | None = Field(default=None, min_length=1)
    weights: tuple[Annotated[int, Field(ge=1, le=1024)], ...] | None = extra_field(None)

    def problems(self) -> Iterator[str]:
        if self.weights is not None and len(self.weights) != len(self.sources):
            yield f"weights has {len(self.weights)} numbers, expected one for each of {len(self.sources)}"
        if self.weights is not None and self.towards is not None:
            yield "a mixture that drifts takes its sources in turn, so it cannot have weights"

    @property
    def turns(self) -> tuple[int, ...]:
        """Return the numbers of the sources in the order in which sequences are taken from them, again and again."""
        weights = self.weights or (1,) * len(self.sources)
        due = sorted(((turn + 0.5) / weight, j) for j, weight in enumerate(weights) for turn in range(weight))
        return tuple(j for _, j in due)

    @property
    def every_source(self) -> tuple[str, ...]:
        """Return the sources that any step of the stage may take sequences from."""
        return tuple(dict.fromkeys((*self.sources, *(self.towards or ()))))


class RampTable(Schema):
    """From step `start` on a step has `sequences` sequences."""

    start: Number
    sequences: int = Field(ge=2, le=LARGEST)


class ProbeTable(Schema):
    """A count of a large batch in addition to the training: every `every` steps, `tokens` tokens without gradients.

    The sequences are drawn from the stage's mix, but never from those that the step trains on. The counts are a trace
    of their own, `NAME.probe`, with stride `every`.
    """

    every: Number
    tokens: Number


class PretrainingTable(Schema):
    """What the model has been trained on before step 0: `steps` steps on other text that are not recorded.

    They are trained as the recipe's own, but at the constant rate after the warm-up and with the first batch size. Then
    the optimizer's moments are reset, as if training went on from published weights. Text that is trained on again
    afterwards comes in the same order.
    """

    steps: Number
    sources: tuple[str, ...] = Field(min_length=1)


class DataTable(Schema):
    """Text and batches: `sequences` of `sequence_length` tokens per optimizer step, over all ranks.

    `ramp` changes the number of sequences at later steps. About `held_out` tokens, spread evenly over all texts, are
    kept out of training: the specialisation of routers is measured on them.
    """

    sequence_length: int = Field(ge=8, le=2**20)
    sequences: int = Field(ge=2, le=LARGEST)
    micro_batches: Number = Field(default=1, description="forward passes per rank and step")
    vocabulary: int = Field(ge=257, le=2**20)
    tokenizer_sources: tuple[str, ...] = Field(min_length=1, description="corpora the BPE is trained on")
    stages: tuple[StageTable, ...] = Field(min_length=1)
    ramp: tuple[RampTable, ...] | None = Field(default=None, min_length=1)
    pretraining: PretrainingTable | None = None
    held_out: int | None = extra_field(None, ge=1)

    def problems(self) -> Iterator[str]:
        starts = [stage.start for stage in self.stages]
        if starts[0] != 0 or starts != sorted(set(starts)):
            yield f"stages must start at 0 and rise, got starts {starts}"
        following = [*(stage.sources for stage in self.stages[1:]), None]
        for stage, sources in zip(self.stages, following, strict=True):
            if stage.towards is not None and stage.towards != sources:
                yield (
                    f"the stage from step {stage.start} on drifts towards {stage.towards}, expected a next stage that "
                    f"trains on them, got {sources}"
                )
        starts = [piece.start for piece in self.ramp or ()]
        if starts != sorted(set(starts)):
            yield f"the starts of a ramp must rise, got {starts}"
        drifts = any(stage.towards is not None for stage in self.stages)
        if drifts and self.ramp:
            yield "a mixture that drifts does not go with a ramp of the batch"
        if drifts and self.sequences % 2:
            yield f"a mixture that drifts takes pairs of sequences, got {self.sequences} sequences"
        for start, sequences in self.batch_sizes:
            if sequences % self.micro_batches:
                yield (
                    f"{sequences} sequences per step from step {start} on cannot be shared equally by "
                    f"{self.micro_batches} micro-batches"
                )
            if sequences * self.sequence_length > MOST_TOKENS:
                yield (
                    f"{sequences} sequences of {self.sequence_length} tokens per step, expected at most {MOST_TOKENS} "
                    "tokens"
                )

    @property
    def batch_sizes(self) -> tuple[tuple[int, int], ...]:
        """Return (first step, sequences per step) of each size, in order."""
        return ((0, self.sequences), *((piece.start, piece.sequences) for piece in self.ramp or ()))

    def sequences_at(self, step: int) -> int:
        """Return the sequences of optimizer step `step`."""
        return [count for start, count in self.batch_sizes if start <= step][-1]

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Return every source that sequences are taken from, the unrecorded ones last."""
        before = self.pretraining.sources if self.pretraining else ()
        return tuple(dict.fromkeys((*(name for stage in self.stages for name in stage.every_source), *before)))


class Recipe(Schema):
    """One training configuration; `about` says what its traces are for.

    `shape` names the public model whose MoE layers and experts a narrow model has. `load_half` can be left out of a
    trace that would be too large.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    version: int = Field(ge=1)
    about: str
    steps: Number
    precision: Literal["fp32", "bf16"] = "fp32"
    model: ModelTable
    balancing: BalancingTable
    data: DataTable
    optimizer: OptimizerTable
    schedule: ScheduleTable
    probe: ProbeTable | None = extra_field(None)
    shape: ShapeMeta | None = extra_field(None)
    load_half: bool = extra_field(True)

    def problems(self) -> Iterator[str]:
        if self.probe is not None and self.probe.tokens % self.data.sequence_length:
            yield f"probe.tokens is {self.probe.tokens}, expected whole sequences of {self.data.sequence_length}"
        drifts = any(stage.towards is not None for stage in self.data.stages)
        if self.probe is not None and (drifts or self.model.noisy_gate):
            yield "probe needs a mixture that does not drift and a gate without noise"
        starts = {
            "schedule.warmup": self.schedule.warmup,
            "schedule.decay_start": self.schedule.decay_start or 0,
            "schedule.period": self.schedule.first_restart or 0,
            "data.stages": self.data.stages[-1].start,
            "data.ramp": self.data.batch_sizes[-1][0],
            "balancing.until": self.balancing.until or 0,
        }
        for name, step in starts.items():
            if step >= self.steps:
                yield f"{name} reaches to step {step}, expected less than steps, which is {self.steps}"
        before = self.data.pretraining
        if before is not None and before.steps <= self.schedule.warmup:
            yield (
                f"data.pretraining has {before.steps} steps, expected more than the warm-up of {self.schedule.warmup}"
            )
        if self.balancing.until is not None and self.data.pretraining is not None:
            yield "balancing.until does not go with data.pretraining, whose steps are not recorded"
        if self.model.noisy_gate and self.balancing.method == "hash":
            yield "model.noisy_gate does not go with balancing.method 'hash', which replaces the gate"
        # steps that cut off a decay or cosine make another run than the recipe says
        fall = self.schedule.whole_fall
        if fall is not None and fall[1] > self.steps:
            yield f"{fall[0]} ends at step {fall[1]}, expected at most steps, which is {self.steps}"

    def stage_at(self, step: int) -> int:
        """Return the number of the data stage that optimizer step `step` belongs to."""
        return sum(stage.start <= step for stage in self.data.stages) - 1

    def aux_loss_at(self, step: int) -> float:
        """Return the weight of the per-layer auxiliary loss in optimizer step `step`; 0 for other methods."""
        balancing = self.balancing
        per_layer = balancing.method in ("aux_loss", "global_aux_loss")
        on = per_layer and (balancing.until is None or step < balancing.until)
        return balancing.coefficient if on else 0.0

    def lr_at(self, step: int) -> float:
        """Return the learning rate of optimizer step `step`."""
        return self.optimizer.lr * self.schedule.factor(step)

    def pretraining(self) -> Recipe | None:
        """Return the training before step 0 as a recipe of its own, None if there is none."""
        before = self.data.pretraining
        if before is None:
            return None
        stages = (StageTable(start=0, sources=before.sources),)
        data = self.data.model_copy(update={"stages": stages, "ramp": None, "pretraining": None})
        schedule = ScheduleTable(warmup=self.schedule.warmup)
        return self.model_copy(update={"steps": before.steps, "schedule": schedule, "data": data})


def list_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.toml"))


def recipe_file(name_or_path: str) -> Path:
    """Return the file of a recipe; raise `NotFoundError` for an unknown name, `RecipeError` for a missing file."""
    if name_or_path.endswith(".toml"):
        if not Path(name_or_path).is_file():
            raise RecipeError(f"{name_or_path}: no such file; one to copy: moeload-bench recipes show NAME --toml")
        return Path(name_or_path)
    path = RECIPE_FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        raise not_found("recipe", name_or_path, list_recipes())
    return path


def load_recipe(name_or_path: str) -> Recipe:
    """Return a recipe by name, or from the path of a TOML file.

    Raise `NotFoundError` for an unknown name and `RecipeError` for a file that breaks the schema.
    """
    path = recipe_file(name_or_path)
    recipe = read_toml(Recipe, path, "recipe", RecipeError)
    if recipe.name != path.stem:
        raise RecipeError(f"{path}: name is {recipe.name!r}, expected {path.stem!r} like the file")
    return recipe


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return a recipe with other values: each setting is `KEY=VALUE`, such as `optimizer.lr=0.03`.

    A key is that of the recipe's file, with dots; a value is TOML, or a text without quotes. Raise `RecipeError` for a
    key that a recipe does not have, and for a value that breaks the schema.
    """
    document = recipe.model_dump(mode="json", exclude_none=True)
    for setting in settings:
        path, _, value = setting.partition("=")
        *tables, key = path.strip().split(".")
        table: Any = document
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise RecipeError(f"{setting}: {name} is a value, expected the key of a recipe as KEY=VALUE")
        table[key] = _toml_value(value)
    try:
        return Recipe.model_validate(document)
    except ValidationError as wrong:
        raise RecipeError(f"{', '.join(settings)}: {first_problem(wrong, 'recipe')}") from None


def _toml_value(text: str) -> Any:
    try:
        return load_toml(f"value = {text}")["value"]
    except ValueError:
        return text
