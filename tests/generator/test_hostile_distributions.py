"""A stranger's distribution over trainings: refused in one line and at once, whatever its numbers and lists are."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeload_bench.errors import RecipeError
from moeload_bench.generator.draws import draw_recipes, load_distribution, recipe_of
from tests.support.no_files import put_no_file

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
    with pytest.raises(RecipeError, match=r"x: \.\./xs00: name: String should match"):
        recipe_of(odd, draw_recipes(odd, 1, 0)[0])
    short = known.model_copy(update={"bytes_per_token": 1e9})
    with pytest.raises(RecipeError, match="no plan keeps the limits of the small stratum"):
        draw_recipes(short, 1, 0)
