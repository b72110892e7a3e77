"""Recipes of strangers: names of code come from a list, numbers are bounded, and each refusal is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeload_bench.errors import RecipeError
from moeload_bench.generator.models import build_model
from tests.conftest import need
from tests.support.recording.recipes import RECIPE, small_recipe


def refused(folder: Path, old: str, new: str, says: str, *, built: bool = False) -> None:
    """The small recipe with another line is refused when it is read, or when its model is built."""
    assert old in RECIPE
    text = RECIPE.replace(old, new, 1)
    recipe = small_recipe(folder, text) if built else None
    with pytest.raises(RecipeError, match=says) as caught:
        build_model(recipe, 0) if recipe else small_recipe(folder, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('attn_implementation = "evil/kernel"', "attn_implementation is 'evil/kernel', expected one of eager, sdpa"),
        ('attn_implementation = "flash_attention_2"', "is 'flash_attention_2', expected one of"),
        ('attn_implementation = {"" = "evil/kernel"}', "is 'evil/kernel', expected one of"),
        ('attn_implementation = ["paged|evil/kernel@main:f"]', r"is 'paged\|evil/kernel@main:f', expected one of"),
        ('experts_implementation = "evil/kernel"', "experts_implementation is 'evil/kernel', expected one of"),
        ('hidden_act = "evil/act"', "hidden_act is 'evil/act', expected one of"),
        ('dtype = "load"', "dtype is 'load', expected one of"),
        ('_attn_implementation = "sdpa"', "config.'_attn_implementation': expected a public key"),
        (f"rope_theta = {10**40}", "rope_theta is beyond"),
        ("rope_theta = nan", "rope_theta is beyond"),
        ("mlp_only_layers = [1, -1e30]", "mlp_only_layers is beyond"),
    ],
)
def test_names_of_code_in_a_recipe_come_from_a_list(line: str, says: str, tmp_path: Path) -> None:
    """Transformers loads kernels of the Hub by name: `evil/kernel` would run its code."""
    refused(tmp_path, "hidden_size = 16", f"hidden_size = 16\n{line}", says)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("lr = 1e-2", "lr = 1e300", "optimizer.lr: .* less than or equal to 1000000, got 1e.300"),
        ("lr = 1e-2", "lr = 1e-2\nbeta1 = 5", "optimizer.beta1: .* less than 1, got 5"),
        ("lr = 1e-2", "lr = 1e-2\nclip = -1", "optimizer.clip: "),
        ("hidden_size = 16", "hidden_size = 0", "config.hidden_size is 0, expected a multiple of 8"),
        ("moe_intermediate_size = 8", "moe_intermediate_size = -8", "moe_intermediate_size is -8, expected a multiple"),
        ("hidden_size = 16", "hidden_size = 1208925819614629174706176", "beyond|bits"),
        ("vocabulary = 300", f"vocabulary = {2**40}", f"data.vocabulary: .* got {2**40}"),
        ("steps = 12", f"steps = {2**62}", "steps: "),
        ("sequences = 8", f"sequences = {2**24}", "268435456|expected at most 67108864 tokens"),
        ("sequence_length = 16", f"sequence_length = {2**40}", "data.sequence_length: "),
        ("micro_batches = 2", f"micro_batches = {2**40}", "data.micro_batches: "),
        ("coefficient = 0.01", "coefficient = 1e300", "balancing.coefficient: "),
    ],
)
def test_numbers_of_a_recipe_are_bounded(old: str, new: str, says: str, tmp_path: Path) -> None:
    """A rate of 1e300, a width of 0 and 2^40 words ended in tracebacks."""
    refused(tmp_path, old, new, says)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_attention_heads = 2", "num_attention_heads = 1"),
        ("num_attention_heads = 2", "num_attention_heads = 0"),
        ("head_dim = 8", "head_dim = 0"),
        ("num_experts = 4", "num_experts = 0"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused_before_training(old: str, new: str, tmp_path: Path) -> None:
    """Some show only in a pass: the model is tried on a few tokens, and its random numbers stay as they were."""
    need("transformers", "pip install '.[record]'")
    refused(tmp_path, old, new, "recipe small: model qwen3_moe: ", built=True)
