"""Recipes and distributions of strangers: names come from a list, numbers are bounded, each refusal is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeload_bench.errors import RecipeError
from moeload_bench.generator.draws import draw_recipes, load_distribution, recipe_of
from moeload_bench.generator.models import build_model
from tests.conftest import need
from tests.support.no_files import put_no_file
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


# ---------------------------------------------------------------- distributions


SOUND = (Path(__file__).parents[1] / "support" / "distribution.toml").read_text(encoding="utf-8")
CONFIG = "[families.qwen3_moe.config]\n"
MANY = ", ".join(str(16 * i) for i in range(1, 33))
CASES = {
    "a quota of 10^12": ("none = 2", "none = 1000000000000"),
    "a quota of thousands of digits": ("none = 2", f"none = {'9' * 4000}"),
    "steps beyond any float": ("steps = [400]", f"steps = [{'9' * 400}]"),
    "tokens beyond 64 bits": ("tokens = [512]", "tokens = [9223372036854775808]"),
    "thousands of choices": ("tokens = [512]", f"tokens = [{', '.join(map(str, range(8, 20_000)))}]"),
    "a grid of 33 million shapes": (
        "layers = [2]\n",
        f"layers = [{MANY}]\n",
        "top_k = [2]\nwidth = [16]",
        f"top_k = [{MANY}]\nwidth = [{MANY}]",
        "tokens = [512]\nsequence_length = [32, 64]",
        f"tokens = [{MANY}]\nsequence_length = [{MANY}]",
    ),
    "a width whose square has 122 bits": ("width = [16]", "width = [2305843009213693952]"),
    "a size that is no number": ("inner = [1.0]", "inner = [nan]"),
    "an endless size": ("inner = [1.0]", "inner = [1e308]"),
    "a cost that overflows": ("layer = 0.0", "layer = 1e308"),
    "tokens per expert beyond 64 bits": ("sequences_least = 8", f"sequences_least = 8\nper_expert_least = {'9' * 40}"),
    "50,000 ramps": ("ramps = [[]]", f"ramps = [[], {', '.join(['[2]'] * 50_000)}]"),
    "a million corners": ("coefficient = [1e-3, 1e-2]", f"coefficient = [{', '.join(['1e-3'] * 60_000)}]"),
    "20,000 plans": ("[[plans]]", '[[plans]]\nmixes = ["prose"]\n' * 20_000 + "[[plans]]"),
    "20,000 schedules": ("[[schedules]]", '[[schedules]]\nkind = "cosine"\n' * 20_000 + "[[schedules]]"),
    "a vocabulary of 300 digits": ("vocabulary = 300", f"vocabulary = {'9' * 300}"),
    "a method that there is not": ("none = 2", "weird = 2", "[methods.none]", "[methods.weird]"),
    "a method with escapes": ("none = 2", '"\\u001b[2J" = 2', "[methods.none]", '[methods."\\u001b[2J"]'),
    "a mix without texts": ('prose = ["kjv"]', "prose = []"),
    "NaN in a configuration": (CONFIG, f"{CONFIG}z = nan\n"),
    "a date in a configuration": (CONFIG, f"{CONFIG}z = 2020-01-01T00:00:00Z\n"),
    "deep nesting": (CONFIG, f"{CONFIG}z = {'[' * 900}{']' * 900}\n"),
    "a name that leads out": ('prefix = "any-"', 'prefix = "../any"'),
    "a name of a million letters": ('prefix = "any-"', f'prefix = "{"a" * 1_000_000}"'),
    "a name of two lines": ('prefix = "any-"', 'prefix = "any\\n"'),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("error")
def test_a_hostile_distribution_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    """Before anything of that size is made; and no number overflows on the way."""
    text, parts = SOUND, CASES[case]
    for old, new in zip(parts[::2], parts[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "d.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"d\.toml: ") as refused:
        load_distribution(path)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("there", ["pipe", "device", "folder", "terabyte"])
def test_what_is_no_file_of_a_distribution_is_not_waited_for(there: str, tmp_path: Path) -> None:
    """A pipe, an endless device, a folder, and a file of a terabyte that takes no place on the disk."""
    path = tmp_path / "d.toml"
    put_no_file(there, path)
    with pytest.raises(RecipeError, match=r"d\.toml: (a folder, pipe or device|more than)"):
        load_distribution(path)


def test_a_draw_without_a_choice_left_is_refused_by_name(tmp_path: Path) -> None:
    """A prefix that no recipe can have, and texts that last for none of what was drawn."""
    path = tmp_path / "d.toml"
    path.write_text(SOUND)
    known = load_distribution(path)
    odd = known.model_copy(update={"prefix": "../x"})
    with pytest.raises(RecipeError, match=r"x: \.\./xs00: name: expected a name of letters"):
        recipe_of(odd, draw_recipes(odd, 1, 0)[0])
    short = known.model_copy(update={"bytes_per_token": 1e9})
    with pytest.raises(RecipeError, match="no plan keeps the limits of the small stratum"):
        draw_recipes(short, 1, 0)
