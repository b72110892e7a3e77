"""Recipes of every kind of balancing, precision and memory saving record, and go on where they were broken off."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moeload_bench.errors import RecordingError
from moeload_bench.generator.balancing import add_noise_to_gates, router_statistics, router_z_loss, sequence_aux_loss
from moeload_bench.generator.models import build_model
from moeload_bench.generator.recipe import PretrainingTable, Recipe, load_recipe
from moeload_bench.generator.training import Job, record_recipe
from moeload_bench.recording.routers import Routing, find_routers
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.support.recording.recipes import assert_equal, interrupt, use_small_text

torch.set_num_threads(1)
STEPS = 8
BIAS = "deepseekv3-32e-lossfree"
ZLOSS, NOISY, WITHIN = "olmoe-16e-zloss", "qwen3moe-16e-noisy", "deepseekv3-64e-seqaux"
RAMP, DRIFT, CONTINUED = "granitemoe-16e-ramp", "qwen3moe-16e-drift", "olmoe-32e-continued"
OPTIMIZERS = ("SGD", "NAdam")
KINDS = [
    CONTINUED,
    "deepseekv3-16e-quantile",
    "balancing-histogram",
    "balancing-aux-running",
    "qwen3moe-16e-hash",
    "NAdam",
]
MORE_KINDS = [
    *("deepseekv3-16e-shift", "switch-8e-drop", "gptoss-32e-top4", "gpt3-350m-128e-b16", ZLOSS, NOISY, RAMP, DRIFT),
    *("qwen2moe-128e-shared", "qwen3moe-16e-wsd", "qwen3moe-16e-microaux", "mixtral-8e-pooled", BIAS, WITHIN, "SGD"),
]
"""Those whose state is kept as that of one above, or is a part of it."""


@pytest.fixture(autouse=True)
def _small_text(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_text(monkeypatch)


def small(name: str, **model: Any) -> Recipe:
    """A shipped recipe with its own router, balancing, precision and checkpointing, on little text.

    The name of an optimizer stands for a recipe with it.
    """
    record = load_recipe("qwen3moe-16e-aux" if name in OPTIMIZERS else name).model_dump()
    if name in OPTIMIZERS:
        record["optimizer"]["kind"] = name
    count = len(record["data"]["stages"])
    stages = [{"start": (8 // count) * i, "sources": ("prose", "code")} for i in range(count)]
    data = {"sequence_length": 16, "sequences": 8, "vocabulary": 300, "tokenizer_sources": ("prose",), "stages": stages}
    if record["data"]["ramp"]:
        data["ramp"] = [{"start": 3, "sequences": 12}]
    if record["data"]["pretraining"]:
        data["pretraining"] = {"steps": 5, "sources": ("prose",)}
    if name == DRIFT:
        stages[1]["towards"] = stages[2]["sources"]
    record["data"].update(data)
    record["schedule"]["warmup"] = 2
    if record["schedule"]["decay"]:
        record["schedule"].update({"decay_start": 4, "decay": 4})
    record["model"].update(model)
    if name.startswith("balancing"):
        record["data"]["held_out"] = None
        record["model"]["config"].update({"num_hidden_layers": 3, "n_routed_experts": 16, "num_experts_per_tok": 2})
    if name.startswith("gpt3"):
        sizes = {"hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 8, "num_hidden_layers": 4}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
        record["model"]["config"].update(sizes | heads)
    return Recipe.model_validate({**record, "steps": STEPS})


def recorded(recipe: Recipe, out: Path) -> Trace:
    return read_trace(record_recipe(Job(recipe, 0, "test", STEPS, out)))


@pytest.mark.parametrize("name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_KINDS)])
def test_every_kind_of_recipe_records_and_goes_on(tmp_path: Path, name: str) -> None:
    """Counts are conserved, and broken off and resumed, each column is that of the uninterrupted recording."""
    recipe = small(name)
    straight_run = recorded(recipe, tmp_path / "whole")
    assert (straight_run.load_SLE.sum(axis=2) == straight_run.tokens_SL * straight_run.meta.top_k).all()
    job = Job(recipe, 0, "test", STEPS, tmp_path / "broken", shard_steps=3)
    interrupt(job, at_step=4)
    assert_equal(read_trace(record_recipe(dataclasses.replace(job, shard_steps=250), resume=True)), straight_run)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_trace_names_the_optimizer_that_trained_it(tmp_path: Path, kind: str) -> None:
    """Another kind takes other steps from the same weights; AdamW's name and arguments are as they were."""
    adamw, other = (recorded(small(name), tmp_path / name) for name in ("qwen3moe-16e-aux", kind))
    assert other.meta.optimizer == {**adamw.meta.optimizer, "name": kind}
    assert adamw.meta.optimizer["name"] == "AdamW"
    assert "kind" not in adamw.meta.optimizer
    loss, losses = adamw.columns["loss"], other.columns["loss"]
    assert loss[0] == losses[0]
    assert loss[-1] != losses[-1]


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


@pytest.mark.slow
def test_the_new_kinds_say_what_they_did(tmp_path: Path) -> None:
    """What the format has no field for stands in the notes of the trace's metadata."""
    notes = {name: recorded(small(name), tmp_path / name).meta.notes for name in (ZLOSS, NOISY, WITHIN)}
    assert notes[ZLOSS] == ("router z-loss, coefficient 0.001",)
    assert notes[NOISY] == ("noisy top-k gating",)
    assert notes[WITHIN] == ("auxiliary loss within each sequence, coefficient 0.0001",)
    ramp, drift = recorded(small(RAMP), tmp_path / RAMP), recorded(small(DRIFT), tmp_path / DRIFT)
    assert ramp.meta.notes == ("sequences per step: 8 from step 0, 12 from step 3; the metadata's batch is the last",)
    assert ramp.tokens_SL[:, 0].tolist() == [128] * 3 + [192] * 5
    assert ramp.meta.global_batch_tokens == 192
    assert drift.meta.notes == ("in stage 1 the mixture drifts linearly towards prose, code",)
    assert drift.columns["stage"].tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert recorded(small("qwen3moe-16e-aux"), tmp_path).meta.notes == ()


@pytest.mark.slow
def test_continued_pretraining_begins_with_what_was_learnt(tmp_path: Path) -> None:
    """Step 0 is better than a fresh model's, is not the pretraining's own, and the metadata says what came before."""
    recipe = small(CONTINUED)
    fresh = recipe.model_copy(update={"data": recipe.data.model_copy(update={"pretraining": None})})
    longer = recipe.data.model_copy(update={"pretraining": PretrainingTable(steps=40, sources=("code",))})
    trace = recorded(recipe.model_copy(update={"data": longer}), tmp_path / "continued")
    assert trace.columns["loss"][0] < recorded(fresh, tmp_path / "fresh").columns["loss"][0] - 0.5
    assert trace.step_S.tolist() == list(range(STEPS))
    assert trace.columns["lr"][0] == pytest.approx(recipe.lr_at(0))
    assert trace.meta.notes == ("step 0 follows 40 steps that are not recorded, on code; the optimizer begins anew",)


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


def logits_of(routing: Routing) -> torch.Tensor:
    assert routing.logits_TE is not None
    return routing.logits_TE


def a_routing(seed: int, tokens: int = 24, experts: int = 6, top_k: int = 2) -> Routing:
    logits_TE = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    index_TK = logits_TE.detach().topk(top_k, dim=-1).indices
    return Routing(index_TK.reshape(-1), None, tokens, experts, top_k, None, logits_TE)


@pytest.mark.parametrize("score_function", ["softmax", "sigmoid"])
def test_the_loss_within_sequences_is_the_layers_loss_of_each(score_function: str) -> None:
    """It is the mean over sequences of the auxiliary loss that each would have alone, whatever the order of pairs."""
    routing = a_routing(1)
    alone = []
    for at in range(0, 24, 8):
        part = routing._replace(
            expert_P=routing.expert_P[2 * at : 2 * at + 16], tokens=8, logits_TE=logits_of(routing)[at : at + 8]
        )
        alone.append(router_statistics([part], score_function).aux_L)
    within_L = sequence_aux_loss([routing], score_function, 3)
    torch.testing.assert_close(within_L, torch.stack(alone).mean(0))
    mixed_P = torch.randperm(48, generator=torch.Generator().manual_seed(2))
    token_P = torch.arange(24).repeat_interleave(2)[mixed_P]
    sorted_otherwise = routing._replace(expert_P=routing.expert_P[mixed_P], token_P=token_P)
    torch.testing.assert_close(sequence_aux_loss([sorted_otherwise], score_function, 3), within_L)
    torch.testing.assert_close(
        sequence_aux_loss([routing], score_function, 1), router_statistics([routing], score_function).aux_L
    )
    with pytest.raises(RecordingError, match="24 tokens of a router are not 5 sequences"):
        sequence_aux_loss([routing], score_function, 5)


def test_the_z_loss_shrinks_logits() -> None:
    """The mean squared log-sum-exp, by hand; a step along its gradient lowers the normaliser."""
    routing = a_routing(3)
    (loss,) = router_z_loss([routing])
    logits_TE = logits_of(routing)
    by_hand = np.log(np.exp(logits_TE.detach().double().numpy()).sum(axis=1))
    assert float(loss.detach()) == pytest.approx((by_hand**2).mean(), rel=1e-6)
    (gradient_TE,) = torch.autograd.grad(loss, logits_TE)
    (smaller,) = router_z_loss([routing._replace(logits_TE=(logits_TE - gradient_TE).detach())])
    assert float(smaller) < float(loss.detach())


def noisy_model() -> tuple[Any, list[Any]]:
    model: Any = build_model(small(NOISY), 0)
    routers = find_routers(model)
    add_noise_to_gates(routers)
    return model, [router.module for router in routers]


def test_a_noisy_gate_chooses_by_what_it_reports() -> None:
    """While training the choice is the top-k of noisy logits, weights sum to 1 and the noise learns; not in eval."""
    model, gates = noisy_model()
    x_TD = torch.randn(40, model.config.hidden_size)
    torch.manual_seed(0)
    logits_TE, weight_TK, index_TK = gates[0](x_TD)
    torch.testing.assert_close(logits_TE.topk(2, dim=-1).indices, index_TK)
    torch.testing.assert_close(weight_TK.sum(-1), torch.ones(40))
    noise_TE = logits_TE - x_TD @ gates[0].weight.T
    assert noise_TE.std().item() == pytest.approx(np.log(2), rel=0.15)  # softplus(0), as the noise begins
    weight_TK[:, 0].sum().backward()
    assert gates[0].noise_weight.grad.abs().sum() > 0
    gates[0].eval()
    torch.testing.assert_close(gates[0](x_TD)[0], x_TD @ gates[0].weight.T)


def test_only_a_gate_that_can_be_noisy_is_made_so() -> None:
    """DeepSeek's router chooses by sigmoids and a bias: the error names it."""
    with pytest.raises(RecordingError, match=r"noisy_gate needs a router .* is a DeepseekV3TopkRouter"):
        add_noise_to_gates(find_routers(build_model(small(BIAS), 0)))


def test_an_auxiliary_loss_is_switched_off(tmp_path: Path) -> None:
    """Until the step that the recipe names both trainings are one; from its gradient on they differ."""
    always = small("qwen3moe-16e-aux")
    balancing = always.balancing.model_copy(update={"until": 4})
    norm_S = []
    for number, recipe in enumerate((always, always.model_copy(update={"balancing": balancing}))):
        job = Job(recipe, 0, "test", STEPS, tmp_path / str(number))
        trace = read_trace(record_recipe(job))
        norm_S.append(trace.columns["grad_norm"])
        assert ("auxiliary loss off from step 4 on" in trace.meta.notes) == (recipe.balancing.until == 4)
    assert (norm_S[0] == norm_S[1]).tolist() == [True] * 4 + [False] * 4
