"""Recipes that are drawn from a distribution: anybody derives the same, and none is invalid."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moeload_bench.cli.recipes import app
from moeload_bench.errors import RecipeError
from moeload_bench.generator.draws import (
    Drawn,
    draw_recipes,
    load_distribution,
    own_seed,
    recipe_of,
    recipe_toml,
    shared_name,
)
from moeload_bench.generator.recipe import Recipe, load_recipe
from tests.conftest import full_disk, need
from tests.support.no_files import put_no_file

DRAWS = Path(__file__).resolve().parents[2] / "leaderboard" / "draws"
FILE = DRAWS / "2027-train.toml"
DEEP = DRAWS / "2027-deep.toml"
GOLDEN = "1fbac410bc3549a9deaade02e74a509730855e94852132b8d6b32dbddd7f4bf5"
"""SHA-256 of the texts of 40 recipes of the file's own seed."""


@pytest.fixture(scope="module")
def drawn() -> list[Drawn]:
    """40 draws of the file's own seed."""
    return draw_recipes(load_distribution(FILE), 40, own_seed(FILE))


@pytest.fixture(scope="module")
def recipes(drawn: list[Drawn]) -> list[Recipe]:
    """Their recipes."""
    distribution = load_distribution(FILE)
    return [recipe_of(distribution, one) for one in drawn]


def test_file_and_seed_give_the_same_recipes_byte_for_byte(recipes: list[Recipe]) -> None:
    """What was drawn once is drawn for good: the stream of numbers never changes."""
    text = "\n".join(recipe_toml(recipe) for recipe in recipes)
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN


def test_how_many_are_drawn_changes_none(drawn: list[Drawn]) -> None:
    """The first 20 of 40 are the 20 of 20, and another seed gives others."""
    distribution = load_distribution(FILE)
    assert draw_recipes(distribution, 20, own_seed(FILE)) == drawn[:20]
    assert draw_recipes(distribution, 20, own_seed(FILE) + 1) != drawn[:20]


def test_the_command_draws_over_no_other_recipe(recipes: list[Recipe], tmp_path: Path) -> None:
    """It writes the texts of the recipes."""
    command = ["draw", str(FILE), "--number", "2", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == [recipe_toml(one) for one in recipes[:2]]
    (tmp_path / "drawn-s00.toml").write_text("mine")
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, RecipeError)
    assert "drawn-s00.toml is another recipe already" in str(refused.exception)


@pytest.mark.parametrize("there", ["latin-1", "large", "pipe", "device", "folder"])
def test_what_is_no_such_recipe_is_refused_and_stays(there: str, tmp_path: Path) -> None:
    """A file in another encoding was a traceback, and a pipe was waited for."""
    path = tmp_path / "drawn-s00.toml"
    if there in ("latin-1", "large"):
        path.write_bytes("é".encode("latin-1") * (1 if there == "latin-1" else 9 << 20))
    else:
        put_no_file(there, path)
    before = path.lstat()[:3]
    done = CliRunner().invoke(app, ["draw", str(FILE), "--out", str(tmp_path)])
    assert isinstance(done.exception, (RecipeError, OSError))
    assert "drawn-s00.toml" in str(done.exception)
    assert path.lstat()[:3] == before  # kind, number, device


def test_a_dangling_link_is_replaced_by_the_recipe(tmp_path: Path) -> None:
    """What it leads to is not made: it may be anywhere."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "drawn-s00.toml"
    path.symlink_to(tmp_path / "elsewhere")
    assert CliRunner().invoke(app, ["draw", str(FILE), "--out", str(path.parent)]).exit_code == 0
    assert not path.is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_that_fills_leaves_no_cut_recipe(tmp_path: Path) -> None:
    """The same command would refuse it as another recipe."""
    command = ["draw", str(FILE), "--out", str(tmp_path)]
    with full_disk(100):
        assert isinstance(CliRunner().invoke(app, command).exception, OSError)
    assert not list(tmp_path.iterdir())
    assert CliRunner().invoke(app, command).exit_code == 0


def test_a_drawn_file_reads_as_the_recipe(recipes: list[Recipe], tmp_path: Path) -> None:
    """What the text leaves out is a default."""
    for recipe in recipes:
        path = tmp_path / f"{recipe.name}.toml"
        path.write_text(recipe_toml(recipe), encoding="utf-8")
        assert load_recipe(str(path)) == recipe


def test_every_key_varies(drawn: list[Drawn]) -> None:
    """Over 40 draws each key has at least three values."""
    for key in ("method", "family", "steps", "coefficient", "lr", "warmup", "schedule", "event", "plan", "changes"):
        assert len({str(getattr(one, key)) for one in drawn}) >= 3, key
    for key in ("z_loss", "ramp", "ramp_at"):
        assert len({getattr(one, key) for one in drawn}) >= 3, key
    for key in drawn[0].shape:
        assert len({one.shape[key] for one in drawn}) >= 3, key


def test_quotas_are_met_exactly(drawn: list[Drawn]) -> None:
    """The first 34 draws have the file's numbers of stratum and method."""
    quotas = load_distribution(FILE).quotas
    wanted = {(stratum, method): number for stratum, row in quotas.items() for method, number in row.items()}
    assert sum(wanted.values()) == 34
    assert Counter((one.stratum, one.method) for one in drawn[:34]) == wanted


def test_draws_keep_the_limits_of_their_stratum(drawn: list[Drawn], recipes: list[Recipe]) -> None:
    """Small: 512 to 8,192 tokens, at most 1,024 per expert. Large: 2,048 and 512 sequences. In every step."""
    for one, recipe in zip(drawn, recipes, strict=True):
        for _, sequences in recipe.data.batch_sizes:
            tokens = sequences * recipe.data.sequence_length
            per_expert = tokens * one.shape["top_k"] / one.shape["experts"]
            if one.stratum == "small":
                assert 512 <= tokens <= 8192
                assert per_expert <= 1024
                assert recipe.probe is None
            else:
                assert (per_expert >= 2048, sequences >= 512, recipe.steps) == (True, True, 3000)
        assert one.minutes <= {"small": 12, "large": 30}[one.stratum]
        assert one.shape["top_k"] * 2 <= one.shape["experts"]


def test_halves_of_drawn_steps_are_equal(recipes: list[Recipe]) -> None:
    """Each text gives as many sequences to one half of a step as to the other, in each size of batch."""
    for recipe in recipes:
        for stage in recipe.data.stages:
            for _, sequences in recipe.data.batch_sizes:
                assert sequences % (2 * len(stage.turns)) == 0, recipe.name


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("width = [32, 48", "width = [40, 48", "strata.small.width: 40 is no multiple of head_dim 16"),
        ("width = [32, 48, 64]", "width = [32, 1024]", "strata.large.width: no recipe with 1024"),
        ("top_k = [2, 4, 8]", "top_k = [2, 4, 64]", "strata.small.top_k: no recipe with 64"),
        ("minutes = 30", "minutes = 1", "strata.large.minutes: no qwen3_moe recipe"),
        ("steps = [3000]", "steps = [3000, 300000]", "strata.large.steps: no recipe of 300000 steps"),
        ("micro_batches = [2, 4, 8]", "micro_batches = [2, 4, 500]", "strata.large.micro_batches: no recipe with 500"),
        ("inner = [0.5,", "inner = [0.3,", "strata.small.inner: 0.3 of width 32 is 9.6"),
        ("tokens = 262144", "tokens = 262145", "strata.large.probe: its tokens are no whole sequences"),
        ('mixes = ["prose"]', 'mixes = ["prose", "web"]', "plans.2: at: []"),
        ('mixes = ["prose"]', 'mixes = ["poems"]', "plans.2.mixes: 'poems' is unknown; there is: everything"),
        ('books = ["kjv"', 'books = ["cloud-api"', "mixes: 'cloud-api' is in kept_out"),
        ('books = ["kjv"', 'books = ["poems"', "mixes.books: unknown corpus 'poems'"),
        ("[families.olmoe]", "[families.phimoe]", "methods.none.families: 'olmoe' is unknown"),
        ("warmup = [50,", "warmup = [3000,", "schedules.2: schedule: a warm-up of 3000 steps does not end before"),
        ("warmup = [50,", "warmup = [1500,", "schedules.3: schedule: a warm-up of 1500 steps does not end before"),
        ("ramp_at = [0.1,", "ramp_at = [0.5,", "training: ramp_at: the longest ramp takes 1 of the steps"),
        ("coefficient = [3e-4,", "coefficient = [0.0,", "methods.loss_free_bias: balancing: method 'loss_free_bias'"),
        ("[methods.none]\n", "[methods.none]\noptimizers = ['SGD']\n", "methods.none.optimizers: 'SGD' is unknown"),
        ("epoch_steps = 1000", "epoch_steps = 9000", "plans: none has text enough for"),
        ("head_dim = 16", "head_dims = 16", "head_dim: Field required"),
        ("lr = [3e-4", "optimizers = {}\nlrs = [3e-4", "training.optimizers: Dictionary should have at least 1 item"),
        ("lr = [3e-4", "optimizers = { SGD = [0.1] }\nlr = [3e-4", "training: expected lr, the rates of AdamW, or"),
        ("[[cells]]\n", "[quotas.small]\naux_loss = 1\n\n[[cells]]\n", "expected quotas or cells, one of the two"),
        ('stratum = "small"', 'stratum = "large"', "cells.0.stratum: 'large' is unknown; there is: small"),
        ('families = ["deepseek_v3", ', 'families = ["olmoe", ', "cells.0.families: 'olmoe' is unknown"),
        ('methods = ["aux_loss", ', 'methods = ["hash", ', "cells.0.methods: 'hash' is unknown"),
        ('["deepseek_v3", "dots1"', '["dots1", "dots1"', "cells: family 'dots1' is in two"),
        ("[methods.quantile_balancing]", '[methods.quantile_balancing]\noptimizers = ["AdamW"]', "cells.0.methods"),
    ],
)
def test_a_distribution_that_could_give_no_recipe_is_refused_by_field(
    old: str, new: str, says: str, tmp_path: Path
) -> None:
    """Each choice of a file is checked when it is read, not only those that a seed happens to take."""
    text = (DEEP if says.startswith("cells") or "cells" in old else FILE).read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecipeError) as refused:
        load_distribution(path)
    assert says in str(refused.value)


def test_an_optimizer_is_drawn_with_rates_of_its_own(tmp_path: Path) -> None:
    """And nothing else changes: a recipe of AdamW is the one that a distribution of AdamW alone gives."""
    before, _, after = FILE.read_text(encoding="utf-8").partition("lr = [3e-4, 1e-3, 2e-3, 3e-3, 5e-3]")
    rates = "{ AdamW = [3e-4, 1e-3, 2e-3, 3e-3, 5e-3], SGD = [0.1, 0.3], NAdam = [1e-3] }"
    (tmp_path / "mine.toml").write_text(f"{before}optimizers = {rates}{after}", encoding="utf-8")
    mine, known = load_distribution(tmp_path / "mine.toml"), load_distribution(FILE)
    kinds = Counter[str]()
    for one, plain in zip(draw_recipes(mine, 34, 5), draw_recipes(known, 34, 5), strict=True):
        recipe, of_adamw = recipe_of(mine, one), recipe_of(known, plain)
        kinds[recipe.optimizer.kind] += 1
        assert recipe.optimizer.lr in (mine.training.optimizers or {})[recipe.optimizer.kind]
        if recipe.optimizer.kind == "AdamW":
            assert recipe == of_adamw
        else:
            assert f"; {recipe.optimizer.kind}, learning rate {recipe.optimizer.lr:g}" in recipe.about
            assert recipe.model_copy(update={"optimizer": of_adamw.optimizer, "about": of_adamw.about}) == of_adamw
    assert min(kinds.values()) > 3


def test_every_family_is_a_model_at_its_corners() -> None:
    """transformers takes the configuration of each family at the smallest and largest sizes, with all routers found."""
    need("transformers", "pip install '.[record]'")
    from moeload_bench.generator.models import build_model
    from moeload_bench.recording.routers import find_routers

    distribution = load_distribution(FILE)
    for seed in (1, 2, 3):
        for one in draw_recipes(distribution, 12, seed):
            recipe = recipe_of(distribution, one)
            assert len(find_routers(build_model(recipe, 0))) == one.shape["layers"], recipe.about


def test_oscillating_recipes_have_sgd_and_a_bias() -> None:
    drawn = draw_recipes(load_distribution(DRAWS / "2027-oscillating.toml"), 4, 1)
    assert {(one.optimizer, one.method, one.stratum) for one in drawn} == {("SGD", "loss_free_bias", "small")}
    assert min(one.coefficient for one in drawn) >= 1e-3


def test_the_command_prints_minutes_and_recipes() -> None:
    """JSON has the whole recipe with the formula's minutes; the text says what each is."""
    rows = json.loads(CliRunner().invoke(app, ["draw", str(FILE), "--number", "2", "--json"]).output)
    assert [row["name"] for row in rows] == ["drawn-s00", "drawn-s01"]
    assert 0 < rows[0]["minutes"] <= 12
    assert rows[0]["about"].split(";")[0] in " ".join(CliRunner().invoke(app, ["draw", str(FILE)]).output.split())


def test_within_a_family_recipes_of_a_cell_differ_in_the_balancing_alone() -> None:
    """Of 20 seeds: eight families, each under both; beside the balancing only names and words differ."""
    distribution = load_distribution(DEEP)
    assert distribution.size == 16
    plans = set()
    for seed in range(20):
        recipes = [recipe_of(distribution, one) for one in draw_recipes(distribution, 16, seed)]
        assert len({recipe.name for recipe in recipes}) == 16
        pairs: dict[str, list[Recipe]] = {}
        for recipe in recipes:
            pairs.setdefault(shared_name(recipe), []).append(recipe)
        assert [pair[0].model.family for pair in pairs.values()] == list(distribution.cells[0].families)
        for name, (first, second) in pairs.items():
            assert (first.balancing.method, second.balancing.method) == ("aux_loss", "quantile_balancing")
            assert name == f"deep-{first.model.family}-0".replace("_", "-")
            own = {"name": "", "about": "", "balancing": first.balancing}
            assert first.model_copy(update=own) == second.model_copy(update=own)
        plans |= {tuple(stage.sources for stage in recipe.data.stages) for recipe in recipes}
    assert len(plans) == len(distribution.plans)
    assert min(len({text for mix in plan for text in mix}) for plan in plans) >= 4


def test_more_draws_than_cells_are_further_runs_of_each() -> None:
    """A second turn has the next number of each family, and leaves the first as it was."""
    distribution = load_distribution(DEEP)
    twice = draw_recipes(distribution, 32, 1)
    assert twice[:16] == draw_recipes(distribution, 16, 1)
    assert [one.name.rpartition("-v3-")[2] for one in twice[16:18]] == ["1.aux-loss", "1.quantile-balancing"]


def test_a_recipe_of_quotas_shares_its_name_with_none(drawn: list[Drawn], recipes: list[Recipe]) -> None:
    assert [shared_name(recipe) for recipe in recipes] == [one.name for one in drawn]


def test_a_deep_season_is_of_real_depth() -> None:
    """12 to 24 layers of 16 to 64 experts, top-2 to 8, width 48 to 96, and at most 40 minutes each by the formula."""
    for seed in range(20):
        for one in draw_recipes(load_distribution(DEEP), 16, seed):
            shape = one.shape
            assert 12 <= shape["layers"] <= 24
            assert 16 <= shape["experts"] <= 64
            assert 2 <= shape["top_k"] <= 8
            assert 48 <= shape["width"] <= 96
            assert one.minutes <= 40


@pytest.mark.parametrize("number", range(8))
def test_a_router_scores_as_its_family_is_said_to(number: int) -> None:
    """The weights that a router gives are its scores of the chosen experts, over their sum: sigmoids or softmax."""
    torch = need("torch", "pip install '.[record]'")
    from moeload_bench.generator.models import build_model, score_function
    from moeload_bench.recording.routers import find_routers

    distribution = load_distribution(DEEP)
    recipe = recipe_of(distribution, draw_recipes(distribution, 16, 1)[2 * number])
    model = build_model(recipe, 0)
    layers = recipe.model.config["num_hidden_layers"]
    routers = find_routers(model)
    assert layers - 1 <= len(routers) <= layers, recipe.about
    seen = []
    routers[0].module.register_forward_hook(lambda *call: seen.append(routers[0].adapter(*call)))
    model(input_ids=torch.arange(64)[None])
    score = {"sigmoid": torch.sigmoid, "softmax": lambda logits_TE: logits_TE.softmax(-1)}[score_function(recipe)]
    chosen_TK = seen[0].expert_P.reshape(64, -1)
    score_TK = score(seen[0].logits_TE).gather(1, chosen_TK)
    torch.testing.assert_close(seen[0].weights, score_TK / score_TK.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)
