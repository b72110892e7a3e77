"""What drawn recipes have that no `train` run has: levels of six kinds, such as a family, an optimizer or a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from moeload_bench.recipes.distribution import Distribution
from moeload_bench.recipes.recipe import Recipe
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
    found: dict[str, set[str]] = {}
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
            found.setdefault(kind, set()).update(names)
    return {kind: tuple(sorted(names)) for kind, names in sorted(found.items())}


def _method(balancing: BalancingMeta) -> str:
    """Return the recipe's word for a trace's balancing method."""
    if balancing.scope == "pooled_over_layers":
        return "pooled_aux_loss"
    return {"quantile": "quantile_balancing"}.get(balancing.method, balancing.method)


def new_kinds(levels: Levels, train: Levels) -> dict[str, list[str]]:
    """Return by kind the levels that no `train` run has; kinds without one are left out."""
    found = {kind: sorted(set(names) - set(train.get(kind, ()))) for kind, names in levels.items()}
    return {kind: names for kind, names in found.items() if names}


def level_words(new: Mapping[str, Iterable[str]]) -> str:
    """Return new levels in words: `family phimoe, optimizer SGD`."""
    return ", ".join(f"{kind} {' and '.join(names)}" for kind, names in new.items()) or "none"


def poorest_draw(distribution: Distribution, train: Levels) -> dict[str, list[str]]:
    """Return the new levels of the draw that has them of the fewest kinds.

    Keys are taken as independent: where the limits of a stratum exclude a combination, draws may have more.
    """

    def poorest(options: Iterable[dict[str, set[str]]]) -> dict[str, list[str]]:
        return min((new_kinds(levels, train) for levels in options), key=len)

    plans = [
        {
            "text": {text for mix in plan.mixes for text in distribution.mixes[mix]},
            "switches of text": {str(len(plan.mixes) - 1)},
        }
        for plan in distribution.plans
    ]
    draws = [
        poorest([{"family": {family}} for family in distribution.methods[method].families])
        | poorest([{"balancing": {method}}])
        | poorest([{"optimizer": {kind}} for kind in distribution.training.rates])
        | poorest(plans)
        | poorest([{"sequence length": {str(length)}} for length in distribution.strata[stratum].sequence_length])
        for stratum, methods in distribution.quotas.items()
        for method in methods
    ]
    return min(draws, key=len)
