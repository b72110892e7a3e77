"""Check that an unfinished recording of a recipe may be continued: same recipe, same text, same number of processes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from moeload_bench.errors import RecordingError
from moeload_bench.generator.recipe import Recipe
from moeload_bench.recording.metadata import recorded_versions
from moeload_bench.recording.parts import Parts
from moeload_bench.recording.writer import RecordingWarning

_NUMBERS_DEPEND_ON = ("torch", "transformers")


def recipe_record(recipe: Recipe) -> dict[str, Any]:
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
        _refuse_difference(parts, f"recipe {recipe.name}", begun, recipe_record(recipe))
    if meta["parallel"]["processes"] != processes:
        raise RecordingError(
            f"{parts.folder}: begun by {meta['parallel']['processes']} processes, these are {processes}"
        )
    if ("fsdp" in meta["parallel"]) != sharded:
        raise RecordingError(
            f"{parts.folder}: begun {'without' if sharded else 'with'} --shard: continue it the same way"
        )
    here, then = recorded_versions(), meta["versions"]
    for name in _NUMBERS_DEPEND_ON:
        if here.get(name) != then.get(name):
            differ = f"begun with {name} {then.get(name)}, this is {here.get(name)}"
            may = "numbers may differ from those of an uninterrupted recording"
            warnings.warn(f"{parts.folder}: {differ}: {may}", RecordingWarning, stacklevel=2)


def check_same_text(parts: Parts, sha256: Mapping[str, str]) -> int:
    """Return 0; raise `RecordingError` if a source of text or the tokenizer differs from the steps before."""
    begun = parts.state.get("sha256")
    if begun is not None:
        _refuse_difference(parts, "sha256 of the text", begun, dict(sha256))
    return 0


def _refuse_difference(parts: Parts, what: str, begun: Any, here: Any) -> None:
    different = _first_difference(begun, here)
    if different is not None:
        key, was, now = different
        raise RecordingError(
            f"{parts.folder}: {what}: {key} was {was!r} when the recording was begun, it is {now!r}; record what "
            "changed under another name, seed or --out"
        )


def _first_difference(begun: Any, here: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(begun, dict) and isinstance(here, dict):
        for name in sorted({*begun, *here}):
            found = _first_difference(begun.get(name), here.get(name), f"{key}.{name}".lstrip("."))
            if found is not None:
                return found
        return None
    return None if begun == here else (key, begun, here)
