"""How far routers specialise, the text that is held out for it, and recipes with the shape of a public model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from moeload_bench.errors import InterruptedRecordingError, RecipeError, RecordingError
from moeload_bench.generator import specialisation as module
from moeload_bench.generator.batches import BatchOrder
from moeload_bench.generator.models import build_model
from moeload_bench.generator.recipe import Recipe, list_recipes, load_recipe
from moeload_bench.generator.specialisation import entropy, specialisation
from moeload_bench.generator.training import Job, record_recipe
from moeload_bench.recording.routers import find_routers
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.generator.test_recording_core import assert_equal
from tests.support.recording.recipes import RECIPE, small_recipe, use_small_text

HELD_OUT = RECIPE.replace("vocabulary = 300", "vocabulary = 300\nheld_out = 4000")
IN_SEQUENCES = HELD_OUT.replace('method = "aux_loss"', 'method = "sequence_aux_loss"')
SHAPES = {
    "shape-gpt3-125m-w64": (6, 16, 1),
    "shape-gpt3-350m-w64": (12, 128, 1),
    "shape-olmoe-w64": (16, 64, 8),
    "shape-olmoe-4l-w64": (4, 64, 8),
    "shape-olmoe-w192": (16, 64, 8),
    "shape-mixtral-8x7b-w64": (32, 8, 2),
    "shape-gptoss-20b-w64": (24, 32, 4),
    "shape-deepseek-v2-lite-w64": (26, 64, 6),
    "shape-qwen3-30b-a3b-w64": (48, 128, 8),
}
"""MoE layers, experts and top-k, as the public models have them."""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    use_small_text(monkeypatch)
    monkeypatch.setattr(module, "EARLY", 6)
    return small_recipe(tmp_path, HELD_OUT)


def recorded(recipe: Recipe, out: Path) -> Trace:
    return read_trace(record_recipe(Job(recipe, 0, "test", 12, out)))


def test_specialisation_of_counts_made_by_hand() -> None:
    """A layer where each id has its own expert is at 0, one where ids say nothing at 1; rare ids are left out."""
    seen_V = np.array([4000, 4000, 99])
    own = np.array([[4000, 0], [0, 4000], [50, 49]])
    none = np.array([[2000, 2000], [2000, 2000], [50, 49]])
    assert specialisation(own[None], seen_V) == 0
    assert specialisation(none[None], seen_V) == pytest.approx(1, abs=1e-3)
    assert specialisation(np.stack([own, none]), seen_V) == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(RecordingError, match="no token id occurs 100 times in 99 held-out tokens"):
        specialisation(none[None, 2:], seen_V[2:])


def test_an_entropy_is_corrected_for_the_number_of_counts() -> None:
    """A hundred draws of 128 equal experts: the plain entropy is 14 % low, the corrected one 7 %."""
    draws = np.random.default_rng(0).multinomial(100, np.full(128, 1 / 128), size=200)
    share = draws / 100
    plain = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1).mean()
    assert plain == pytest.approx(0.86 * math.log(128), rel=0.01)
    assert entropy(draws).mean() == pytest.approx(0.93 * math.log(128), rel=0.01)
    assert entropy(np.array([[1, 1, 0]])) == pytest.approx(math.log(2) + 1 / 4)
    assert entropy(np.zeros((1, 3), dtype=np.int64)) == 0


def test_it_is_measured_early_and_at_the_end_and_disturbs_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts and losses are those of a training that is never measured; both values are in the metadata."""
    trace = recorded(recipe, tmp_path / "with")
    assert set(trace.meta.specialisation) == {"6", "12"}
    assert all(0.5 < value < 1.1 for value in trace.meta.specialisation.values())
    assert trace.meta.format_version == "1.3"
    monkeypatch.setattr(module.Specialisation, "measure", lambda *_: None)
    plain = recorded(recipe, tmp_path / "without")
    assert plain.meta.specialisation == {}
    assert_equal(trace, plain)


def test_a_resumed_recording_keeps_what_was_measured(recipe: Recipe, tmp_path: Path) -> None:
    """Broken off after the early measurement, it ends with the values and columns of an uninterrupted one."""
    straight_run = recorded(recipe, tmp_path / "whole")
    job = Job(recipe, 0, "test", 12, tmp_path / "broken")
    steps = iter(range(100))
    with pytest.raises(InterruptedRecordingError):
        record_recipe(job, stop=lambda: next(steps) == 8)
    resumed = read_trace(record_recipe(job, resume=True))
    assert resumed.meta.specialisation == straight_run.meta.specialisation
    assert_equal(resumed, straight_run)


def test_held_out_text_is_not_trained_on(recipe: Recipe) -> None:
    """Windows are taken evenly from each source; what is left is the rest of them, and too much is refused."""
    window_WN = np.arange(1600, dtype=np.uint16).reshape(100, 16)
    streams = {"prose": window_WN.reshape(-1), "code": window_WN.reshape(-1) + 2000}
    order = BatchOrder(recipe.model_copy(update={"data": recipe.data.model_copy(update={"held_out": 320})}), 0, streams)
    held = {tuple(row) for row in order.held_out_BN.tolist()}
    assert len(held) == 20
    assert sum(row[0] >= 2000 for row in held) == 10
    trained = {tuple(row) for step in range(12) for row in order.batch(step).token_BN.tolist()}
    assert not trained & held
    with pytest.raises(RecipeError, match=r"data\.held_out: 4000 tokens need 125 of the 100 sequences of prose"):
        BatchOrder(recipe, 0, streams)


def test_the_loss_within_sequences_needs_no_bias(recipe: Recipe, tmp_path: Path) -> None:
    """A method of its own, as DeepSeek-V2's: the metadata names the scope, and gradients are not those of the batch."""
    plain = recorded(recipe, tmp_path / "plain")
    trace = recorded(small_recipe(tmp_path, IN_SEQUENCES), tmp_path / "sequences")
    assert (trace.load_SLE.sum(axis=2) == 8 * 16 * 2).all()
    assert (trace.meta.balancing.method, trace.meta.balancing.scope) == ("aux_loss", "per_sequence")
    assert "expert_bias" not in trace.columns
    assert trace.columns["loss"][0] == plain.columns["loss"][0]
    assert trace.columns["grad_norm"][0] != plain.columns["grad_norm"][0]


def test_load_half_can_be_left_out(recipe: Recipe, tmp_path: Path) -> None:
    """A trace of many layers and experts takes half the space without it."""
    trace = recorded(recipe.model_copy(update={"load_half": False}), tmp_path)
    assert "load_half" not in trace.columns


def test_shapes_are_all_there() -> None:
    """Every recipe that names a public model is in the table above."""
    assert {name for name in list_recipes() if load_recipe(name).shape} == set(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_layers_and_experts_of_its_model(name: str) -> None:
    """MoE layers, experts and top-k are the public model's; the width is in the name, and said."""
    recipe = load_recipe(name)
    with torch.device("meta"):
        routers = find_routers(build_model(recipe, 0))
    config = recipe.model.config
    experts = next(config[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if key in config)
    assert (len(routers), experts, config["num_experts_per_tok"]) == SHAPES[name]
    assert name.endswith(f"-w{config['hidden_size']}")
    assert recipe.data.held_out == 200_000
    assert recipe.steps >= 2000
