"""The metadata of a trace and the columns of the format, versions 1 to 1.5.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError, field_validator

from moeload_bench.errors import TraceError
from moeload_bench.schema import Schema, extra_field, first_problem

Version = Literal[1, "1.1", "1.2", "1.3", "1.4", "1.5"]
VERSIONS: tuple[Version, ...] = (1, "1.1", "1.2", "1.3", "1.4", "1.5")
"""Each differs from those before it in what it adds, so that one reader reads all."""
Stratum = Literal["small", "large"]
STRATA: Mapping[Stratum, tuple[float, float]] = {"small": (0, 1024), "large": (2048, float("inf"))}
"""Tokens per expert and row, least and most. Nothing is recorded between the two."""
MAX_BYTES = 1 << 50
"""Larger experts are refused."""
RECIPE_PATTERN = r"[A-Za-z0-9][\w.-]*"
SPLIT_PATTERN = r"\w+"


def stratum_of(expert_tokens: float) -> Stratum | None:
    """Return the stratum of a run by its tokens per expert and row; None between two."""
    return next((name for name, (least, most) in STRATA.items() if least <= expert_tokens <= most), None)


class ColumnSpec(NamedTuple):
    """One column of the format: its dtype, its axes after the step and its unit."""

    dtype: str
    axes: str
    unit: str


REQUIRED_COLUMNS: Mapping[str, ColumnSpec] = {
    "run": ColumnSpec("int32", "", "the seed's number within its split"),
    "step": ColumnSpec("int64", "", "optimizer step"),
    "tokens": ColumnSpec("int64", "L", "tokens entering the MoE layer in this step"),
    "load": ColumnSpec("int64", "LE", "tokens routed to the expert in this step, before any drop"),
}
OPTIONAL_COLUMNS: Mapping[str, ColumnSpec] = {
    "load_half": ColumnSpec("int64", "LE", "load of half of the step's sequences"),
    "dropped": ColumnSpec("int64", "LE", "tokens routed to the expert and dropped over its capacity"),
    "loss": ColumnSpec("float32", "", "language-model loss, nats per token, without auxiliary loss"),
    "aux_loss": ColumnSpec("float32", "", "auxiliary loss before its coefficient"),
    "lr": ColumnSpec("float32", "", "learning rate used in this step"),
    "grad_norm": ColumnSpec("float32", "", "gradient norm before clipping"),
    "stage": ColumnSpec("int32", "", "planned data stage"),
    "router_entropy": ColumnSpec("float32", "L", "mean entropy of the router's distribution, nats"),
    "expert_bias": ColumnSpec("float32", "LE", "routing bias of loss-free balancing"),
    "step_time_s": ColumnSpec("float32", "", "wall time of the training step, seconds"),
    "imbalance_rank": ColumnSpec(
        "float32",
        "L",
        "largest / mean load within one micro-batch on one rank, mean over the step's (format 1.1)",
    ),
    "micro_max": ColumnSpec("int64", "LE", "largest load of the expert in one micro-batch of the step (format 1.2)"),
    "expert_fraction": ColumnSpec(
        "float32",
        "",
        "part of the step's time in expert modules, mean over ranks; NaN where not measured (format 1.4)",
    ),
    "expert_fraction_max": ColumnSpec("float32", "", "the same of the rank where it is largest (format 1.4)"),
}
COLUMNS: Mapping[str, ColumnSpec] = {**REQUIRED_COLUMNS, **OPTIONAL_COLUMNS}


class LayerMeta(Schema):
    """One MoE layer: where it stands in the model and how many experts it has."""

    index: int = Field(ge=0, description="index of the block in its stack")
    stack: Literal["decoder", "encoder"] = Field(default="decoder", description="which stack of blocks it is in")
    kind: Literal["mlp", "attention"] = Field(default="mlp", description="what its experts are")
    experts: int = Field(ge=1, description="logical experts, never slots of replicas; the same in every layer")
    top_k: int | None = Field(default=None, ge=1, description="experts per token; null where it varies")

    def problems(self) -> Iterator[str]:
        if self.top_k is not None and self.top_k > self.experts:
            yield f"top_k is {self.top_k}, expected at most the layer's {self.experts} experts"


class SourceMeta(Schema):
    """One source of training text."""

    name: str = Field(description="the source's name in the recipe")
    version: str = Field(description="package and version that it was taken from")
    licence: str = Field(description="licence of the text, and of the package around it")
    sha256: str = Field(description="hash of the text")
    bytes: int = Field(ge=0, description="size of the text")
    stage: int = Field(default=0, description="the planned data stage that it belongs to")
    passes: float | None = extra_field(
        None, ge=0, description="how often the stage trains on the whole text (format 1.2)"
    )


class BalancingMeta(Schema):
    """How the router was kept balanced."""

    method: Literal["none", "aux_loss", "loss_free_bias", "quantile", "hash", "other", "unknown"] = Field(
        default="unknown", description="what pushes loads towards equality; quantile and hash are of format 1.2"
    )
    coefficient: float = Field(default=0.0, description="factor of the auxiliary loss, or step of the bias")
    scope: Literal[
        "per_layer", "per_micro_batch", "per_sequence", "running_mean", "pooled_over_layers", "none", "unknown"
    ] = Field(
        default="unknown",
        description="over what the auxiliary loss takes its means, or a bias its quantile; per_micro_batch (format "
        "1.2), per_sequence (1.3) and running_mean (1.5: over the micro-batches of the step so far) are per layer too",
    )


class ShapeMeta(Schema):
    """The public model whose MoE layers, experts, top-k, shared experts, gate and balancing a narrow model has."""

    model: str = Field(description="the public model")
    source: str = Field(description="what its shape and its training were read from")
    assumed: tuple[str, ...] = Field(default=(), description="what is not published of it, and was chosen here")
    width: int = Field(ge=1, description="its hidden size")
    expert_tokens: int | None = Field(
        default=None, ge=1, description="tokens per expert and step of its training; null where not published"
    )


class ExpertMeta(Schema):
    """One expert, as measured in the training."""

    weight_bytes: int | None = Field(default=None, ge=1, le=MAX_BYTES, description="its weights; null: not known")
    state_bytes: int | None = Field(
        default=None, ge=0, le=MAX_BYTES, description="the optimizer's state for them; null: not known"
    )
    not_timed: str = Field(default="", max_length=300, description="why `expert_fraction` was not measured")


class TraceMeta(Schema):
    """Everything that a reader needs to tell two traces apart or to repeat the training."""

    format_version: Version = Field(default="1.3", description="the version that it needs; a recording needs 1.4")
    recipe: str = Field(pattern=f"^{RECIPE_PATTERN}$", description="name of the training configuration")
    recipe_version: int = Field(default=1, description="rises when a recipe is changed")
    split: str = Field(
        default="test", pattern=f"^{SPLIT_PATTERN}$", description="train may be fitted on; test is scored"
    )
    run: int = Field(default=0, ge=0, description="the seed's number within its split")
    seed: int | None = Field(default=None, description="seed of weights and batches")
    stride: int = Field(default=1, ge=1, description="training steps between two rows")
    row_steps: int = extra_field(1, ge=1, description="steps whose tokens one row counts together (format 1.2)")
    group: str = Field(default="", description="runs that may be fitted on for one another share it")
    layers: tuple[LayerMeta, ...] = Field(description="the MoE layers, in the order of the arrays")
    experts: int = Field(ge=1, description="experts of each layer")
    count_semantics: Literal["pre_drop", "post_drop", "derived", "unknown"] = Field(
        default="unknown",
        description="whether loads count tokens dropped over capacity; derived: made from shares (format 1.2)",
    )
    counted: Literal["all", "attended"] | None = extra_field(
        None, description="which tokens of a batch are counted; null: not said, as in format 1; left out then"
    )
    family: str = Field(default="unknown", description="model family")
    config: dict[str, Any] = Field(default_factory=dict, description="the model's configuration")
    parameters: int | None = extra_field(None, ge=1, description="parameters of the whole model (format 1.2)")
    shape: ShapeMeta | None = extra_field(None, description="the public model whose shape it has (format 1.3)")
    specialisation: dict[str, float] = extra_field(
        {},
        description="by steps trained: entropy of an expert given the token's id over that of the layer, on held-out "
        "text, mean over layers (format 1.3)",
    )
    expert: ExpertMeta | None = extra_field(None, description="one expert, as measured (format 1.4)")
    gate: str = Field(default="unknown", description="kind of router")
    score_function: str = Field(default="unknown", description="what turns logits into scores")
    balancing: BalancingMeta = Field(default=BalancingMeta(), description="how the router was kept balanced")
    capacity_factor: float | None = Field(default=None, description="capacity over the mean load; null without a limit")
    drop_policy: str = Field(default="none", description="which tokens are dropped over capacity")
    sources: tuple[SourceMeta, ...] = Field(default=(), description="texts that the model was trained on")
    tokenizer_sha256: str | None = Field(default=None, description="hash of the tokenizer")
    sequence_length: int | None = Field(default=None, description="tokens per sequence")
    global_batch_tokens: int | None = Field(default=None, description="tokens per optimizer step, over all processes")
    optimizer: dict[str, Any] = Field(default_factory=dict, description="the optimizer and its arguments")
    schedule: dict[str, Any] = Field(default_factory=dict, description="the learning rate over steps")
    precision: str = Field(default="unknown", description="number format of the training")
    parallel: dict[str, Any] = Field(default_factory=dict, description="processes, and what is cut over them")
    versions: dict[str, str] = Field(default_factory=dict, description="versions of the framework's packages")
    hardware: dict[str, Any] = Field(default_factory=dict, description="what it was trained on")
    licence: str = Field(default="unknown", description="licence of the trace")
    complete: bool = Field(default=True, description="false: the run ended before its planned steps")
    notes: tuple[str, ...] = Field(default=(), description="what a reader should know")

    @field_validator("recipe", "split")
    @classmethod
    def _can_be_looked_up(cls, name: str) -> str:
        """Check the name by Python's pattern too, because ids are looked up so: pydantic takes combining marks for
        letters.
        """
        match = re.search(r"[^\w.-]", name)
        if match:
            raise ValueError(
                f"got {name!a}, expected no {match[0]!a} in it: letters, digits and _ (also . and - in a "
                "recipe's name), an accented letter as one character (NFC)"
            )
        return name

    def problems(self) -> Iterator[str]:
        if self.row_steps > self.stride:
            yield f"row_steps is {self.row_steps}, expected at most the stride, {self.stride}"

    @property
    def top_k(self) -> int | None:
        """Return the top-k that all layers share, else None."""
        values = {layer.top_k for layer in self.layers}
        return values.pop() if len(values) == 1 else None

    def canonical_json(self) -> str:
        """Return the one JSON text of this content: sorted keys, no spaces, ASCII."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def sha256(self) -> str:
        """Return the hash of the canonical JSON (`meta_sha256`)."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def checked_meta(payload: Mapping[str, Any], where: str) -> TraceMeta:
    """Return the payload as `TraceMeta`; raise `TraceError` that names the first wrong field, got and expected."""
    return hashed_meta(payload, where)[0]


def hashed_meta(payload: Mapping[str, Any], where: str) -> tuple[TraceMeta, str]:
    """Return the metadata (as `checked_meta` does) and their hash. Hashing shows that JSON can hold them."""
    try:
        meta = TraceMeta.model_validate(payload)
        return meta, meta.sha256()
    except ValidationError as error:
        raise TraceError(f"{where}: {wrong_field(error)}") from None
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{where}: metadata cannot be stored as JSON: {error}") from None


def wrong_field(error: ValidationError) -> str:
    """Describe the first wrong field of the metadata: which one, why, what was got, or which fields exist."""
    first = error.errors()[0]
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return f"unknown metadata field {first['loc'][0]}; there is: {', '.join(TraceMeta.model_fields)}"
    return f"metadata field {first_problem(error, 'record')}"
