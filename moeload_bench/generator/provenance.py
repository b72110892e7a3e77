"""The metadata of a trace that a recipe records: everything known about the run before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moeload_bench.generator.recipe import Recipe
from moeload_bench.generator.text import TextSource
from moeload_bench.recording.metadata import hardware, recorded_versions
from moeload_bench.traces.trace import BalancingMeta, SourceMeta, TraceMeta

TRACE_LICENCE = "CC-BY-4.0"


def recipe_meta(
    recipe: Recipe, texts: Mapping[str, TextSource], passes: Mapping[tuple[int, str], float], **known: Any
) -> TraceMeta:
    """Return everything known about a run of a recipe: what follows from the recipe, and fields ``known`` of the run.

    ``passes``: see `BatchOrder.passes`.
    """
    return TraceMeta(
        **known,
        recipe=recipe.name,
        recipe_version=recipe.version,
        group=recipe.name,
        count_semantics="pre_drop",
        family=recipe.model.family,
        shape=recipe.shape,
        config=dict(recipe.model.config),
        balancing=balancing_meta(recipe, known["parallel"]["processes"]),
        capacity_factor=recipe.model.config.get("capacity_factor"),
        drop_policy="over_capacity" if recipe.model.family == "switch_transformers" else "none",
        sources=source_metas(recipe, texts, passes),
        sequence_length=recipe.data.sequence_length,
        global_batch_tokens=recipe.data.sequence_length * recipe.data.batch_sizes[-1][1],
        optimizer={"name": recipe.optimizer.kind, **recipe.optimizer.model_dump(exclude={"kind"})},
        schedule=recipe.schedule.model_dump(),
        precision=recipe.precision,
        versions=recorded_versions(),
        hardware=hardware(),
        licence=TRACE_LICENCE,
        notes=tuple(recipe_notes(recipe)),
    )


def probe_name(recipe: Recipe) -> str:
    """Return the recipe name of the traces of a recipe's probe."""
    return f"{recipe.name}.probe"


def probe_meta(recipe: Recipe, run: TraceMeta) -> TraceMeta:
    """Return the metadata of the probe of a run."""
    table = recipe.probe
    assert table is not None
    about = (
        f"each row counts {table.tokens} tokens of the stage's mix in a pass without gradients, by the weights that "
        "its step is trained from and on sequences that the step does not train on; the updates are those of "
        f"{run.recipe}/{run.split}/seed{run.run}, {run.global_batch_tokens} tokens a step"
    )
    more = {
        "recipe": probe_name(recipe),
        "stride": table.every,
        "global_batch_tokens": table.tokens,
        "notes": (*run.notes, about),
    }
    return run.model_copy(update=more)


def recipe_notes(recipe: Recipe) -> Iterator[str]:
    """Yield a note for each property of a recipe for which the format has no field."""
    data, balancing = recipe.data, recipe.balancing
    if recipe.model.noisy_gate:
        yield "noisy top-k gating"
    if balancing.method == "hash":
        yield "each token id has its experts, drawn from the seed for each layer, with equal weights"
    if balancing.sequence_coefficient is not None:
        yield f"auxiliary loss within each sequence, coefficient {balancing.sequence_coefficient:g}"
    if balancing.until is not None:
        yield f"auxiliary loss off from step {balancing.until} on"
    if balancing.z_loss is not None:
        yield f"router z-loss, coefficient {balancing.z_loss:g}"
    if data.micro_batches > 1:
        yield f"{data.micro_batches} micro-batches a step"
    for number, stage in enumerate(data.stages):
        if stage.weights is not None:
            parts = ", ".join(f"{name} {weight}" for name, weight in zip(stage.sources, stage.weights, strict=True))
            yield f"stage {number} takes {sum(stage.weights)} sequences in turn: {parts}"
    if data.ramp is not None:
        sizes = ", ".join(f"{count} from step {start}" for start, count in data.batch_sizes)
        yield f"sequences per step: {sizes}; the metadata's batch is the last"
    if data.pretraining is not None:
        yield (
            f"step 0 follows {data.pretraining.steps} steps that are not recorded, on "
            f"{', '.join(data.pretraining.sources)}; the optimizer begins anew"
        )
    for number, stage in enumerate(data.stages):
        if stage.towards is not None:
            yield f"in stage {number} the mixture drifts linearly towards {', '.join(stage.towards)}"


def balancing_meta(recipe: Recipe, processes: int = 1) -> BalancingMeta:
    """Return the recipe's balancing in the words of the trace format.

    With several micro-batches or processes, losses and quantiles are taken within each, not over the step's batch.
    """
    within = "per_layer" if recipe.data.micro_batches * processes == 1 else "per_micro_batch"
    method, scope = {
        "none": ("none", "none"),
        "aux_loss": ("aux_loss", within),
        "pooled_aux_loss": ("aux_loss", "pooled_over_layers"),
        "sequence_aux_loss": ("aux_loss", "per_sequence"),
        "loss_free_bias": ("loss_free_bias", "per_layer"),
        "quantile_balancing": ("quantile", within),
        "hash": ("hash", "none"),
    }[recipe.balancing.method]
    record = {"method": method, "coefficient": recipe.balancing.coefficient, "scope": scope}
    return BalancingMeta.model_validate(record)


def source_metas(
    recipe: Recipe, texts: Mapping[str, TextSource], passes: Mapping[tuple[int, str], float]
) -> tuple[SourceMeta, ...]:
    """Return every text of every stage, with its hash and licence; ``texts`` by the names that the recipe uses."""
    return tuple(
        SourceMeta(
            name=texts[name].name,
            version=texts[name].origin,
            licence=texts[name].licence,
            sha256=texts[name].sha256,
            bytes=texts[name].bytes,
            stage=number,
            passes=None if (number, name) not in passes else round(passes[number, name], 3),
        )
        for number, stage in enumerate(recipe.data.stages)
        for name in stage.every_source
    )
