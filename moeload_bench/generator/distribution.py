"""A distribution over trainings as one TOML file: the choices for every key of a recipe; unknown keys are refused.

A shape is what decides the cost of a step: experts, top-k, tokens, sequence length, micro-batches, width, layers and
the experts' inner size relative to the width. Its cost is a formula of operations, so nothing is measured to draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from moeload_bench.errors import NotFoundError
from moeload_bench.generator.corpora import find_corpus
from moeload_bench.generator.optimizer import Amount, OptimizerKind, Rate
from moeload_bench.generator.recipe import ALIGNED, Method, Number, ProbeTable
from moeload_bench.schema import Schema
from moeload_bench.traces.meta import Stratum

T = TypeVar("T")

MANY = 32
"""The most choices that a list has, and the most tables of a kind."""
MOST_SHAPES = 200_000
"""The most combinations of a stratum's sizes: all are made, to keep those within its limits."""
Choices = Field(min_length=1, max_length=MANY)
Rates = Annotated[tuple[Rate, ...], Choices]
Share = Annotated[float, Field(gt=0, lt=1)]
Counts = Annotated[tuple[Number, ...], Choices]
Amounts = Annotated[tuple[Amount, ...], Choices]
Texts = Annotated[tuple[str, ...], Choices]
SHAPE = ("experts", "top_k", "tokens", "sequence_length", "layers", "width", "micro_batches", "inner")
"""Keys of a stratum that its limits and the budget tie together, in the order in which they are drawn."""


class KeptOut(Schema):
    """What no recipe of the distribution may use; it is kept for a later evaluation on unseen trainings."""

    families: tuple[str, ...]
    texts: tuple[str, ...]
    methods: tuple[str, ...]


class CostTable(Schema):
    """Seconds of one core of ``processor`` for one of each: see `step_seconds`.

    ``probe`` is what a pass without gradients costs relative to one with.
    """

    processor: str
    layer: Amount
    expert: Amount
    width: Amount
    score: Amount
    value: Amount
    parameter: Amount
    vocabulary: Amount
    probe: Amount


class StratumTable(Schema):
    """The choices for one size of batch, and the limits that a recipe of it keeps.

    ``minutes`` of one core are the budget of a recording, probe included. A step has at least ``sequences_least``
    sequences, and tokens per expert between two limits. Texts last for at least ``epoch_steps`` steps.
    """

    minutes: float = Field(gt=0, le=1e6)
    steps: Counts
    tokens: Counts
    sequence_length: Counts
    sequences_least: int = Field(ge=8, le=2**24)
    per_expert_least: Number = 1
    per_expert_most: Number | None = None
    epoch_steps: int = Field(default=0, ge=0, le=2**24)
    micro_batches: Counts
    experts: Annotated[tuple[Annotated[int, Field(ge=8, le=64)], ...], Choices]
    top_k: Counts
    width: Counts
    layers: Counts
    inner: Annotated[tuple[Annotated[float, Field(gt=0, le=1e3)], ...], Choices]
    probe: ProbeTable | None = None


class TrainingTable(Schema):
    """Peak learning rates, steps of warm-up, and ramps: by how much the first batches are divided.

    ``lr`` are the rates of AdamW. ``optimizers`` has rates by optimizer: one is drawn, in place of AdamW.
    """

    lr: Rates | None = None
    optimizers: dict[OptimizerKind, Rates] | None = Field(default=None, min_length=1)
    warmup: Counts
    ramps: tuple[Annotated[tuple[Annotated[int, Field(ge=2, le=2**24)], ...], Field(max_length=MANY)], ...] = Choices
    ramp_at: tuple[Share, ...] = Choices

    @property
    def rates(self) -> dict[OptimizerKind, Rates]:
        """Return the peak learning rates of every optimizer that can be drawn."""
        return self.optimizers or {"AdamW": self.lr or ()}

    def problems(self) -> Iterator[str]:
        if (self.lr is None) == (self.optimizers is None):
            yield "expected lr, the rates of AdamW, or optimizers, the rates of each: one of the two"
        if () not in self.ramps:
            yield "ramps needs an empty one: not every batch can be divided"
        longest = max(map(len, self.ramps)) * max(self.ramp_at)
        if longest >= 1:
            yield f"ramp_at: the longest ramp takes {longest:g} of the steps, expected less than 1"


class ScheduleOption(Schema):
    """A schedule; its restart or the start of its decay is at one of the shares ``at`` of the steps."""

    kind: Literal["constant", "cosine", "cosine_restarts", "warmup_stable_decay"]
    floor: float | None = None
    restart_factor: float | None = None
    restart_from_weights: bool | None = None
    at: tuple[Share, ...] = Field(default=(), max_length=MANY)

    def table(self, share: float | None, steps: int, warmup: int) -> dict[str, Any]:
        """Return the recipe's table for a run of ``steps`` steps."""
        table = {**self.model_dump(exclude={"at"}, exclude_none=True), "warmup": warmup}
        if share is None:
            return table | ({"period": steps} if self.kind == "cosine" else {})
        event = rounded(share * steps)
        return table | (
            {"decay_start": event, "decay": steps - event} if self.kind.endswith("decay") else {"period": event}
        )


class PlanTable(Schema):
    """Mixes of texts one after another; ``at`` lists the shares of the steps at which they may change."""

    mixes: Texts
    at: tuple[tuple[Share, ...], ...] = Field(default=((),), min_length=1, max_length=MANY)

    def problems(self) -> Iterator[str]:
        for shares in self.at:
            if len(shares) != len(self.mixes) - 1 or list(shares) != sorted(set(shares)):
                yield f"at: {list(shares)}, expected {len(self.mixes) - 1} rising shares: one per change"


class MethodTable(Schema):
    """A balancing method: families and, unless all can, ``optimizers`` that can have it, and its coefficients.

    ``families`` are those to choose from where quotas say how many draws have the method; a cell names its own.
    """

    families: tuple[str, ...] = Field(default=(), max_length=MANY)
    optimizers: tuple[OptimizerKind, ...] = ()
    coefficient: Amounts = (0.0,)
    z_loss: Amounts = (0.0,)


class CellTable(Schema):
    """Draws that differ in the balancing alone: ``runs`` of each family, each once under every one of ``methods``."""

    stratum: Stratum
    families: Texts
    methods: tuple[Method, ...] = Choices
    runs: int = Field(ge=1, le=1000)


class FamilyTable(Schema):
    """A model family: its configuration with words for what is drawn, and its number of shared experts."""

    shared: int = Field(default=0, ge=0, le=2**24)
    attention: Literal["sdpa", "eager"] = "sdpa"
    config: dict[str, JsonValue]


class Distribution(Schema):
    """A distribution over trainings; one that could give an invalid recipe cannot be made.

    ``quotas`` say how many draws have which method, and a draw chooses its family; or ``cells`` name both.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=80)
    prefix: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=80)
    version: Number
    vocabulary: int = Field(ge=257, le=2**24)
    head_dim: int = Field(ge=ALIGNED, le=2**24, multiple_of=ALIGNED)
    tokenizer_sources: Texts
    bytes_per_token: float = Field(ge=1e-3, le=1e3)
    kept_out: KeptOut
    cost: CostTable
    quotas: dict[Stratum, dict[Method, Annotated[int, Field(ge=1, le=1000)]]] = Field(default={})
    cells: tuple[CellTable, ...] = Field(default=(), max_length=MANY)
    strata: dict[Stratum, StratumTable]
    training: TrainingTable
    schedules: tuple[ScheduleOption, ...] = Choices
    mixes: dict[str, Texts] = Field(max_length=MANY)
    plans: tuple[PlanTable, ...] = Choices
    methods: dict[Method, MethodTable]
    families: dict[str, FamilyTable] = Field(max_length=MANY)

    @property
    def size(self) -> int:
        """Return the number of draws after which every quota is met, or every cell full, for the first time."""
        quotas = sum(sum(methods.values()) for methods in self.quotas.values())
        return quotas + sum(len(cell.families) * len(cell.methods) * cell.runs for cell in self.cells)

    @property
    def drawn_strata(self) -> list[Stratum]:
        """Return the strata that are drawn from."""
        return list(dict.fromkeys([*self.quotas, *(cell.stratum for cell in self.cells)]))

    def families_by_method(self, stratum: Stratum) -> dict[Method, tuple[str, ...]]:
        """Return the families that are drawn in a stratum, by method."""
        families = {method: self.methods[method].families for method in self.quotas.get(stratum, ())}
        for cell in self.cells:
            if cell.stratum == stratum:
                families |= {method: (*families.get(method, ()), *cell.families) for method in cell.methods}
        return families

    def problems(self) -> Iterator[str]:
        if bool(self.quotas) == bool(self.cells):
            yield "expected quotas or cells, one of the two"
        for stratum, quotas in self.quotas.items():
            yield from _unknown(f"quotas.{stratum}", [stratum], self.strata)
            yield from _unknown(f"quotas.{stratum}", quotas, self.methods)
            for name in quotas:
                if not self.methods[name].families:
                    yield f"methods.{name}.families: there is none, expected those that the method goes with"
        yield from self._cell_problems()
        for name, method in self.methods.items():
            yield from _unknown(f"methods.{name}.families", method.families, self.families)
            yield from _unknown(f"methods.{name}.optimizers", method.optimizers, self.training.rates)
        for number, plan in enumerate(self.plans):
            yield from _unknown(f"plans.{number}.mixes", plan.mixes, self.mixes)
        for where, names, held_out in (
            ("families", self.families, self.kept_out.families),
            ("mixes", [text for mix in self.mixes.values() for text in mix], self.kept_out.texts),
            ("methods", self.methods, self.kept_out.methods),
        ):
            if shared := sorted({*names} & {*held_out}):
                yield f"{where}: {shared[0]!r} is in kept_out"
        for stratum, table in self.strata.items():
            shapes = prod(len(getattr(table, key)) for key in SHAPE)
            if shapes > MOST_SHAPES:
                yield f"strata.{stratum}: {shapes} combinations of sizes, at most {MOST_SHAPES} are drawn from"
            for width in table.width:
                if width % self.head_dim:
                    yield f"strata.{stratum}.width: {width} is no multiple of head_dim {self.head_dim}"
                for inner in table.inner:
                    if inner * width % ALIGNED:
                        yield (
                            f"strata.{stratum}.inner: {inner} of width {width} is {inner * width:g}, expected a "
                            f"multiple of {ALIGNED}"
                        )
            for length in table.sequence_length:
                if table.probe is not None and table.probe.tokens % length:
                    yield f"strata.{stratum}.probe: its tokens are no whole sequences of {length}"
        for mix, texts in self.mixes.items():
            for text in texts:
                try:
                    find_corpus(text)
                except NotFoundError as error:
                    yield f"mixes.{mix}: {error}"

    def _cell_problems(self) -> Iterator[str]:
        for number, cell in enumerate(self.cells):
            yield from _unknown(f"cells.{number}.stratum", [cell.stratum], self.strata)
            yield from _unknown(f"cells.{number}.families", cell.families, self.families)
            yield from _unknown(f"cells.{number}.methods", cell.methods, self.methods)
            if len({self.methods[name].optimizers for name in cell.methods}) > 1:
                yield f"cells.{number}.methods: they share one optimizer, expected the same optimizers for each"
        families = [family for cell in self.cells for family in cell.families]
        if twice := sorted({family for family in families if families.count(family) > 1}):
            yield f"cells: family {twice[0]!r} is in two, expected one: its recipes are named after it"


def rounded(step: float) -> int:
    """Return the step of a share of the steps: a multiple of 10."""
    return 10 * round(step / 10)


def _unknown(where: str, names: Iterable[str], options: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with names that are not known."""
    for name in names:
        if name not in options:
            yield f"{where}: {name!r} is unknown; there is: {', '.join(options)}"


# ------------------------------------------------------------------------------------------------ shapes and their cost


def pick(options: Sequence[T], key: str) -> T:
    """Return one of the options by the hash of ``key``: the choice never changes."""
    digest = hashlib.sha256(key.encode()).digest()
    return options[int.from_bytes(digest[:8], "big") % len(options)]


class Shapes:
    """All shapes of a stratum and family that keep its limits and, in its fewest steps, its budget.

    ``of`` has them by key; `probed` says where the budget has room for the probe too.
    """

    def __init__(self, distribution: Distribution, stratum: StratumTable, family: FamilyTable) -> None:
        options = [np.array(getattr(stratum, key)) for key in SHAPE]
        grid = np.meshgrid(*options, indexing="ij")
        self.of: dict[str, NDArray[Any]] = {key: values.ravel() for key, values in zip(SHAPE, grid, strict=True)}
        sequences, parts = self.of["tokens"] // self.of["sequence_length"], self.of["micro_batches"]
        fits = (sequences >= stratum.sequences_least) & (sequences % parts == 0) & (sequences // parts >= 2)
        fits &= self.of["tokens"] % self.of["sequence_length"] == 0
        fits &= 2 * self.of["top_k"] <= self.of["experts"]
        fits &= self.of["tokens"] * self.of["top_k"] >= stratum.per_expert_least * self.of["experts"]
        if stratum.per_expert_most is not None:
            fits &= self.of["tokens"] * self.of["top_k"] <= stratum.per_expert_most * self.of["experts"]
        budget = 60 * stratum.minutes / min(stratum.steps) - step_seconds(distribution, family, self.of)
        self.of["probed"] = np.zeros(len(fits), dtype=bool)
        if stratum.probe is not None:
            probe = probe_seconds(distribution, family, self.of, stratum.probe.tokens)
            self.of["probed"] = budget >= probe / stratum.probe.every
        self.keep(fits & (budget >= 0))

    def keep(self, mask: NDArray[Any]) -> None:
        """Keep only the shapes in ``mask``."""
        self.of = {key: values[mask] for key, values in self.of.items()}

    def draw(self, key: str) -> dict[str, Any]:
        """Return one shape, drawn key by key; prefer shapes with a probe among those of its number of experts."""
        for name in SHAPE:
            if name == "top_k" and self.of["probed"].any():
                self.keep(self.of["probed"])
            self.keep(self.of[name] == pick(np.unique(self.of[name]).tolist(), f"{key}/{name}"))
        return {name: values[0].item() for name, values in self.of.items()}


def step_seconds(distribution: Distribution, family: FamilyTable, shape: Mapping[str, Any]) -> Any:
    """Return the seconds of one core that a training step takes, for numbers or arrays of them.

    Layers, then parameters for the optimizer, and for each token the vocabulary: its logits and their loss.
    """
    cost = distribution.cost
    experts, width = shape["experts"], shape["width"]
    matrices = 4 * width * width + width * experts + 3 * shape["inner"] * width * width * (experts + family.shared)
    parameters = shape["layers"] * matrices + width * distribution.vocabulary
    vocabulary = shape["tokens"] * distribution.vocabulary
    layers = _layers(distribution, family, shape, shape["tokens"], shape["micro_batches"])
    return layers + cost.parameter * parameters + cost.vocabulary * vocabulary


def probe_seconds(distribution: Distribution, family: FamilyTable, shape: Mapping[str, Any], tokens: int) -> Any:
    """Return the seconds of a probe, which goes through the layers in passes as large as the step's micro-batches."""
    passes = -(-tokens * shape["micro_batches"] // shape["tokens"])
    return distribution.cost.probe * _layers(distribution, family, shape, tokens, passes)


def _layers(distribution: Distribution, family: FamilyTable, shape: Mapping[str, Any], tokens: Any, passes: Any) -> Any:
    """Return the seconds of all layers: for each pass and its experts, and for each token what it reads and writes.

    A token reads and writes the width, attention scores (heads times the length of a sequence), and for each expert
    that it goes to twice the width and three times the inner size.
    """
    cost, width = distribution.cost, shape["width"]
    per_pass = cost.layer + cost.expert * shape["experts"]
    per_token = cost.width * width + cost.score * shape["sequence_length"] * (width // distribution.head_dim)
    active = shape["top_k"] + family.shared
    per_token = per_token + cost.value * active * width * (2 + 3 * shape["inner"])
    return shape["layers"] * (passes * per_pass + tokens * per_token)
