"""What drawn recipes have that no `train` run has: levels of six kinds, such as a family, an optimizer or a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from moeload_bench.generator.recipe import Recipe
from moeload_bench.traces.meta import BalancingMeta, TraceMeta

Levels = Mapping[str, Iterable[str]]
"""By kind, what a training has of it."""


def recipe_levels(recipe: Recipe) -> dict[str, set[str]]:
    """Return the levels of a recipe."""
    return {
        "family": {recipe.model.family},
        "balancing": {recipe.balancing.method},
        "optimizer": {recipe.optimizer.kind},
        "text": {name for stage in recipe.data.stages for name in stage.every_source},
        "sequence length": {str(recipe.data.sequence_length)},
        "switches of text": {str(len(recipe.data.stages) - 1)},
    }


def train_levels(metas: Iterable[TraceMeta]) -> dict[str, tuple[str, ...]]:
    """Return the levels that any of these runs has, in the words of recipes."""
    by_kind: dict[str, set[str]] = {}
    for meta in metas:
        levels = {
            "family": {str(meta.family)},
            "balancing": {_method(meta.balancing)},
            "optimizer": {str(meta.optimizer.get("name"))},
            "text": {source.name for source in meta.sources},
            "sequence length": {str(meta.sequence_length)},
            "switches of text": {str(max((source.stage for source in meta.sources), default=0))},
        }
        for kind, names in levels.items():
            by_kind.setdefault(kind, set()).update(names)
    return {kind: tuple(sorted(names)) for kind, names in sorted(by_kind.items())}


def _method(balancing: BalancingMeta) -> str:
    """Return the recipe's word for a trace's balancing method."""
    if balancing.scope == "pooled_over_layers":
        return "pooled_aux_loss"
    return {"quantile": "quantile_balancing"}.get(balancing.method, balancing.method)


def new_kinds(levels: Levels, train: Levels) -> dict[str, list[str]]:
    """Return by kind the levels that no `train` run has; kinds without one are left out."""
    new = {kind: sorted(set(names) - set(train.get(kind, ()))) for kind, names in levels.items()}
    return {kind: names for kind, names in new.items() if names}


def level_words(new: Mapping[str, Iterable[str]]) -> str:
    """Return new levels in words: `family phimoe, optimizer SGD`."""
    return ", ".join(f"{kind} {' and '.join(names)}" for kind, names in new.items()) or "none"
