"""Say how far a set of runs reaches, as in "20 runs of 20 recipes, one seed each; 9 families of models"."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from statistics import median

from leaderboard.committed import recipe_name
from leaderboard.season.scored import ScoredSeason
from moeload_bench.errors import counted
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import stored_meta
from moeload_bench.words import listed


def season_metas(season: ScoredSeason, recipes: Collection[str]) -> list[TraceMeta]:
    """Return the metadata of a season's runs of these recipes, of those whose recordings this checkout has."""
    scored = (recipe_name(trace.id) for trace in season.suite.traces)
    paths = (season.folder.trace(recipe) for recipe in scored if recipe in recipes)
    return [stored_meta(path) for path in paths if path.is_file()]


def breadth_words(metas: Sequence[TraceMeta], known_texts: Collection[str] = ()) -> str:
    """Return how far runs reach, in a sentence; empty without runs. ``known_texts``: those of the open runs."""
    return f"{'; '.join(_breadth(metas, known_texts))}." if metas else ""


def _breadth(metas: Sequence[TraceMeta], known_texts: Collection[str]) -> Iterator[str]:
    sizes = [meta.parameters / 1e6 for meta in metas if meta.parameters is not None]
    lengths = [meta.sequence_length for meta in metas if meta.sequence_length is not None]
    by_recipe, ways = defaultdict[str, int](int), defaultdict[str, set[str]](set)
    for meta in metas:
        by_recipe[meta.recipe] += 1
        ways[meta.family].add(meta.balancing.method)
    seeds = "one seed each" if len(metas) == len(by_recipe) else f"at most {max(by_recipe.values())} seeds each"
    yield f"{counted(len(metas), 'run')} of {counted(len(by_recipe), 'recipe')}, {seeds}"
    if sizes:
        yield f"models of {_span(sizes)} million parameters (median {_short(median(sizes))})"
    if lengths:
        yield f"{_span(lengths)} tokens a sequence"
    alone = len(ways) > 1 and all(len(methods) == 1 for methods in ways.values())
    families = "1 family" if len(ways) == 1 else f"{len(ways)} families"
    yield f"{families} of models{', each under one way of balancing alone' if alone else ''}"
    texts = [{source.name for source in meta.sources} for meta in metas]
    new = sorted(set().union(*texts) - set(known_texts)) if known_texts else []
    if new:
        readers = sum(bool(names & set(new)) for names in texts)
        what = f"the one new text, {new[0]}, is" if len(new) == 1 else f"the new texts {listed(new)} are"
        yield f"{what} in {readers} of them"


def _span(values: Sequence[float]) -> str:
    low, high = _short(min(values)), _short(max(values))
    return low if low == high else f"{low} to {high}"


def _short(value: float) -> str:
    """Format with two digits, whole from 10 on."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
