"""What a trace says of the recipe that it records, and whether an unfinished one may go on with a recipe.

The same recipe, the same text and the same number of processes continue a recording.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from moeload_bench.errors import RecordingError
from moeload_bench.generator.recipe import Recipe
from moeload_bench.generator.text import TextSource
from moeload_bench.recording.metadata import hardware, recorded_versions
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import RecordingWarning
from moeload_bench.traces.trace import BalancingMeta, SourceMeta, TraceMeta

TRACE_LICENCE = "CC-BY-4.0"
_NUMBERS_DEPEND_ON = ("torch", "transformers")


def recipe_meta(
    recipe: Recipe, texts: Mapping[str, TextSource], passes: Mapping[tuple[int, str], float], **fields: Any
) -> TraceMeta:
    """Return the metadata of a run of a recipe: what follows from the recipe, and the other ``fields``, of the run.

    ``passes``: see `BatchOrder.passes`.
    """
    balancing = balancing_meta(recipe, fields["parallel"]["processes"])
    return TraceMeta(
        **fields,
        format_version="1.5" if balancing.scope == "running_mean" else "1.3",
        recipe=recipe.name,
        recipe_version=recipe.version,
        group=recipe.name,
        count_semantics="pre_drop",
        family=recipe.model.family,
        shape=recipe.shape,
        config=dict(recipe.model.config),
        balancing=balancing,
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
    note = (
        f"each row counts {table.tokens} tokens of the stage's mix in a pass without gradients, by the weights that "
        "its step is trained from and on sequences that the step does not train on; the updates are those of "
        f"{run.recipe}/{run.split}/seed{run.run}, {run.global_batch_tokens} tokens a step"
    )
    more = {
        "recipe": probe_name(recipe),
        "stride": table.every,
        "global_batch_tokens": table.tokens,
        "notes": (*run.notes, note),
    }
    return run.model_copy(update=more)


def recipe_notes(recipe: Recipe) -> Iterator[str]:
    """Yield a note for each property of a recipe for which the format has no field."""
    data, balancing = recipe.data, recipe.balancing
    if recipe.model.noisy_gate:
        yield "noisy top-k gating"
    if balancing.method == "hash":
        yield "each token id has its experts, drawn from the seed for each layer, with equal weights"
    if balancing.method == "quantile_histogram":
        yield "quantiles of one histogram over all micro-batches of a step"
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

    With several micro-batches or processes, losses and quantiles are taken within each, not over the step's batch;
    those that say otherwise are `global_aux_loss` and `quantile_histogram`.
    """
    within = "per_layer" if recipe.data.micro_batches * processes == 1 else "per_micro_batch"
    method, scope = {
        "none": ("none", "none"),
        "aux_loss": ("aux_loss", within),
        "global_aux_loss": ("aux_loss", "running_mean"),
        "pooled_aux_loss": ("aux_loss", "pooled_over_layers"),
        "sequence_aux_loss": ("aux_loss", "per_sequence"),
        "loss_free_bias": ("loss_free_bias", "per_layer"),
        "quantile_balancing": ("quantile", within),
        "quantile_histogram": ("quantile", "per_layer"),
        "hash": ("hash", "none"),
    }[recipe.balancing.method]
    fields = {"method": method, "coefficient": recipe.balancing.coefficient, "scope": scope}
    return BalancingMeta.model_validate(fields)


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


# ------------------------------------------------------------------------------------------------ going on


def recipe_payload(recipe: Recipe) -> dict[str, Any]:
    """Return every field of a recipe that decides the numbers of a step."""
    return recipe.model_dump(mode="json", exclude={"steps", "about"})


def check_same_recipe(recipe: Recipe, parts: Parts, processes: int, *, sharded: bool = False) -> None:
    """Raise `RecordingError` if another recipe or another number of processes began the recording.

    The message names the first key that differs. Another version of torch or transformers is only a warning: numbers
    may differ in the last place from here on.
    """
    for start, sequences in recipe.data.batch_sizes:
        if sequences % (processes * recipe.data.micro_batches):
            shared = sequences % processes == 0
            of_each = f" with {recipe.data.micro_batches} micro-batches each" if shared else ""
            raise RecordingError(
                f"recipe {recipe.name} trains {sequences} sequences per step from step {start} on, which {processes} "
                f"processes{of_each} cannot share equally"
            )
    if sharded and processes == 1:
        raise RecordingError("one process cannot share the model: --shard needs several processes (torchrun)")
    meta = parts.state.get("meta")
    if meta is None:
        return
    if meta["recipe_version"] != recipe.version:
        raise RecordingError(
            f"{parts.folder}: begun with version {meta['recipe_version']} of recipe {recipe.name}, "
            f"this is version {recipe.version}"
        )
    begun = parts.state.get("recipe")  # recordings from before this was stored continue unchecked
    if begun is not None:
        _refuse_difference(parts, f"recipe {recipe.name}", begun, recipe_payload(recipe))
    if meta["parallel"]["processes"] != processes:
        raise RecordingError(
            f"{parts.folder}: begun by {meta['parallel']['processes']} processes, these are {processes}"
        )
    if ("fsdp" in meta["parallel"]) != sharded:
        raise RecordingError(
            f"{parts.folder}: begun {'without' if sharded else 'with'} --shard: continue it the same way"
        )
    versions, before = recorded_versions(), meta["versions"]
    for name in _NUMBERS_DEPEND_ON:
        if versions.get(name) != before.get(name):
            differ = f"begun with {name} {before.get(name)}, this is {versions.get(name)}"
            may = "numbers may differ from those of an uninterrupted recording"
            warnings.warn(f"{parts.folder}: {differ}: {may}", RecordingWarning, stacklevel=2)


def check_same_text(parts: Parts, sha256: Mapping[str, str]) -> int:
    """Return 0; raise `RecordingError` if a source of text or the tokenizer differs from the steps before."""
    begun = parts.state.get("sha256")
    if begun is not None:
        _refuse_difference(parts, "sha256 of the text", begun, dict(sha256))
    return 0


def _refuse_difference(parts: Parts, content: str, former: Any, present: Any) -> None:
    difference = _first_difference(former, present)
    if difference is not None:
        key, old, new = difference
        raise RecordingError(
            f"{parts.folder}: {content}: {key} was {old!r} when the recording was begun, it is {new!r}; record what "
            "changed under another name, seed or --out"
        )


def _first_difference(former: Any, present: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(former, dict) and isinstance(present, dict):
        for name in sorted({*former, *present}):
            difference = _first_difference(former.get(name), present.get(name), f"{key}.{name}".lstrip("."))
            if difference is not None:
                return difference
        return None
    return None if former == present else (key, former, present)
