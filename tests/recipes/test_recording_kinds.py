"""Recipes of every kind of balancing, precision and memory saving record, and go on where they were broken off."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moeload_bench.recipes.recipe import Recipe, load_recipe
from moeload_bench.recipes.training import Job, record_recipe
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.support.recording.recipes import use_small_text

torch.set_num_threads(1)
STEPS = 8
BIAS = "deepseekv3-32e-lossfree"
KINDS = [BIAS, "deepseekv3-16e-shift", "mixtral-8e-pooled", "switch-8e-drop", "gptoss-32e-top4", "gpt3-350m-128e-b16"]


@pytest.fixture(autouse=True)
def _small_text(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_text(monkeypatch)


def small(name: str, **model: Any) -> Recipe:
    """A shipped recipe with its own router, balancing, precision and checkpointing, on little text."""
    record = load_recipe(name).model_dump()
    stages = [{"start": 4 * i, "sources": ("prose", "code")} for i in range(len(record["data"]["stages"]))]
    data = {"sequence_length": 16, "sequences": 8, "vocabulary": 300, "tokenizer_sources": ("prose",), "stages": stages}
    record["data"].update(data)
    record["schedule"]["warmup"] = 2
    record["model"].update(model)
    if name.startswith("gpt3"):
        sizes = {"hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 8, "num_hidden_layers": 4}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
        record["model"]["config"].update(sizes | heads)
    return Recipe.model_validate({**record, "steps": STEPS})


def recorded(recipe: Recipe, out: Path) -> Trace:
    return read_trace(record_recipe(Job(recipe, 0, "test", STEPS, out)))


def assert_equal(got: Trace, expected: Trace) -> None:
    np.testing.assert_array_equal(got.load_SLE, expected.load_SLE)
    assert got.columns.keys() == expected.columns.keys()
    for name in got.columns.keys() - {"step_time_s"}:
        np.testing.assert_array_equal(got.columns[name], expected.columns[name], err_msg=name)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_recipe_records_and_goes_on(tmp_path: Path, name: str) -> None:
    """Counts are conserved, and broken off and resumed, each column is that of the uninterrupted recording."""
    recipe = small(name)
    whole = recorded(recipe, tmp_path / "whole")
    assert (whole.load_SLE.sum(axis=2) == whole.tokens_SL * whole.meta.top_k).all()
    job = Job(recipe, 0, "test", STEPS, tmp_path / "broken", shard_steps=3)

    def break_off(step: int, row: dict[str, Any]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_recipe(job, progress=break_off)
    assert_equal(read_trace(record_recipe(dataclasses.replace(job, shard_steps=250), resume=True)), whole)


def test_the_bias_moves_by_the_sign_of_what_is_missing(tmp_path: Path) -> None:
    """Loss-free balancing: a step's bias is the last one plus rate x sign(mean load - load), and loads stay exact."""
    recipe = small(BIAS)
    trace = recorded(recipe, tmp_path)
    assert (trace.load_SLE.sum(axis=2) == 8 * 16 * recipe.model.config["num_experts_per_tok"]).all()
    load_SLE, bias_SLE = trace.load_SLE, trace.columns["expert_bias"]
    assert (bias_SLE[0] == 0).all()
    moved_SLE = np.sign(load_SLE.mean(axis=2, keepdims=True) - load_SLE) * recipe.balancing.coefficient
    np.testing.assert_allclose(bias_SLE[1:], np.cumsum(moved_SLE, axis=0)[:-1], atol=1e-6)
    assert (bias_SLE[-1] != 0).any(axis=1).all()


def test_checkpointing_changes_no_number_of_a_recipe(tmp_path: Path) -> None:
    """Layers that are computed twice are counted once, in every step of a recipe."""
    plain, saving = (recorded(small("qwen3moe-16e-aux", checkpointing=on), tmp_path / str(on)) for on in (False, True))
    np.testing.assert_array_equal(saving.load_SLE, plain.load_SLE)
    np.testing.assert_allclose(saving.columns["loss"], plain.columns["loss"], rtol=1e-6)
    np.testing.assert_allclose(saving.columns["grad_norm"], plain.columns["grad_norm"], rtol=1e-5)


def test_the_pooled_loss_is_the_librarys(tmp_path: Path) -> None:
    """The recorded loss is without auxiliary loss, which is the library's, pooled over layers, and labelled so."""
    trace = recorded(small("mixtral-8e-pooled"), tmp_path)
    assert (trace.meta.balancing.method, trace.meta.balancing.scope) == ("aux_loss", "pooled_over_layers")
    top_k = trace.meta.top_k
    assert top_k is not None
    # balanced, transformers' loss is top-k; an untrained router is close to it
    np.testing.assert_allclose(trace.columns["aux_loss"][0], top_k, rtol=0.1)
    np.testing.assert_allclose(trace.columns["loss"][0], np.log(300), rtol=0.1)
