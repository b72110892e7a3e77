"""moeload_bench/data/parameters.json: the size of each recipe's model, counted on a model without memory."""

from __future__ import annotations

import json
from pathlib import Path

from leaderboard.committed import ROOT
from moeload_bench.generator.models import build_model
from moeload_bench.generator.recipe import Recipe, list_recipes, load_recipe

OUT = ROOT / "moeload_bench" / "data" / "parameters.json"


def count_parameters(recipe: Recipe) -> int:
    """Return the number of parameters of the recipe's model."""
    import torch

    with torch.device("meta"):
        return sum(each.numel() for each in build_model(recipe, seed=0).parameters())


def parameter_files() -> dict[Path, str]:
    """Return the file with its content."""
    recipes = map(load_recipe, list_recipes())
    counts = {f"{recipe.name} version {recipe.version}": count_parameters(recipe) for recipe in recipes}
    return {OUT: json.dumps(counts, indent=1) + "\n"}
