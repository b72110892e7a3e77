"""Quantile balancing, hash routing and the auxiliary loss per micro-batch, or over those of a step so far, do what they
say, on models that train.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moeload_bench.errors import RecordingError
from moeload_bench.generator.balancing import (
    BINS,
    HashRouter,
    HistogramBias,
    QuantileBias,
    RunningShares,
    bias_histogram,
    expert_table,
    histogram_quantile,
    quantile_bias,
    route_by_token,
    router_statistics,
)
from moeload_bench.generator.batches import BatchOrder
from moeload_bench.generator.models import build_model
from moeload_bench.generator.processes import Ranks
from moeload_bench.generator.recipe import Recipe, list_recipes, load_recipe
from moeload_bench.generator.training import Job, TrainingRun
from moeload_bench.recording.routers import Routing, find_routers
from tests.generator.test_recording_kinds import recorded, small
from tests.support.recording.recipes import use_small_text

torch.set_num_threads(1)
QUANTILE, HASH, MICRO = "deepseekv3-16e-quantile", "qwen3moe-16e-hash", "qwen3moe-16e-microaux"
HISTOGRAM, RUNNING = "balancing-histogram", "balancing-aux-running"
SHAPES = [(256, 8, 2), (512, 16, 1), (384, 24, 8), (300, 7, 3)]


@pytest.fixture(autouse=True)
def _small_text(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_text(monkeypatch)


def changed(recipe: Recipe, **tables: dict[str, Any]) -> Recipe:
    """The recipe with some keys of its tables replaced."""
    record = recipe.model_dump()
    return Recipe.model_validate({**record, **{name: {**record[name], **keys} for name, keys in tables.items()}})


def skewed_scores(seed: int, tokens: int, experts: int) -> np.ndarray:
    """Sigmoids of normal logits, in which some experts are wanted much more than others."""
    random = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-random.normal(size=(tokens, experts)) - 2 * random.normal(size=experts)))


def new_bias(score_TE: np.ndarray, bias_E: np.ndarray, top_k: int) -> np.ndarray:
    return np.asarray(quantile_bias(torch.from_numpy(score_TE), torch.from_numpy(bias_E), top_k))


def max_over_mean(load_LE: np.ndarray) -> np.ndarray:
    return load_LE.max(axis=-1) / load_LE.mean(axis=-1)


# ---------------------------------------------------------------- quantile balancing


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(SHAPES))
def test_each_expert_is_wanted_by_its_share_of_tokens(seed: int, shape: tuple[int, int, int]) -> None:
    """By the cutoffs under the old bias, T k / E tokens, rounded down, want each expert under the new one.

    Tokens whose cutoff the expert itself was are indifferent when its bias stays: they may count or not.
    """
    tokens, experts, top_k = shape
    share = tokens * top_k // experts
    score_TE = skewed_scores(seed, tokens, experts)
    old_E = np.random.default_rng(seed + 1).normal(size=experts) / 10
    cutoff_T1 = np.sort(score_TE + old_E, axis=1)[:, -top_k - 1, None]
    margin_TE = score_TE - cutoff_T1 + new_bias(score_TE, old_E, top_k)
    assert ((margin_TE > 0).sum(axis=0) <= share).all()
    assert ((margin_TE >= 0).sum(axis=0) > share).all()
    indifferent_TE = margin_TE == 0
    clear_E = indifferent_TE.sum(axis=0) == 1
    assert clear_E.any()
    assert ((margin_TE > 0).sum(axis=0)[clear_E] == share).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_repeated_on_the_same_scores_loads_become_equal(shape: tuple[int, int, int]) -> None:
    """The top-k of scores with the bias goes to each expert about equally often, where it was very unequal."""
    tokens, experts, top_k = shape
    score_TE, bias_E = skewed_scores(0, tokens, experts), np.zeros(experts)
    ratios = []
    for _ in range(60):
        chosen_TK = np.argsort(-(score_TE + bias_E), axis=1)[:, :top_k]
        ratios.append(max_over_mean(np.bincount(chosen_TK.ravel(), minlength=experts)))
        bias_E = new_bias(score_TE, bias_E, top_k)
    assert ratios[0] > 1.8
    assert ratios[-1] < 1.1


@pytest.mark.parametrize(
    ("name", "kind", "passes"), [(QUANTILE, QuantileBias, 2), (HISTOGRAM, HistogramBias, 4)], ids=["mean", "histogram"]
)
def test_the_bias_of_a_step_is_that_of_the_last_steps_micro_batches(
    name: str, kind: type[QuantileBias], passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded bias is the centred mean of their quantiles under the bias before, or the quantile of one histogram
    of all of them.
    """
    run = TrainingRun(Job(changed(small(name), data={"micro_batches": passes}), 0, "test", 8, tmp_path), Ranks())
    seen: list[Any] = []
    see = kind.see

    def observe(self: QuantileBias, routings: Any) -> None:
        seen.append([routing.logits_TE.detach().sigmoid() for routing in routings])
        see(self, routings)

    monkeypatch.setattr(kind, "see", observe)
    first, second, third = run.step(0), run.step(1), run.step(2)
    assert (first["expert_bias"] == 0).all()
    assert np.abs(third["expert_bias"]).max() > 1e-3
    for before, after, of_step in ((first, second, seen[:passes]), (second, third, seen[passes : 2 * passes])):
        for layer, (old_E, got_E) in enumerate(zip(before["expert_bias"], after["expert_bias"], strict=True)):
            bias_E, scores = torch.from_numpy(old_E), [layers[layer] for layers in of_step]
            if kind is HistogramBias:
                expected_E = histogram_quantile(bias_histogram(torch.cat(scores), bias_E, 2), bias_E, 2)
            else:
                expected_E = torch.stack([quantile_bias(each, bias_E, 2) for each in scores]).mean(dim=0)
            np.testing.assert_allclose(got_E, expected_E - expected_E.mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "scope"), [(QUANTILE, "per_layer"), ("balancing-quantile", "per_micro_batch"), (HISTOGRAM, "per_layer")]
)
def test_quantile_balancing_says_so(tmp_path: Path, name: str, scope: str) -> None:
    """Metadata name the method, without a coefficient, and within what the quantile is taken."""
    meta = recorded(small(name), tmp_path).meta
    assert (meta.balancing.method, meta.balancing.coefficient, meta.balancing.scope) == ("quantile", 0.0, scope)
    assert any("one histogram over all micro-batches" in note for note in meta.notes) == (name == HISTOGRAM)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_histogram_gives_the_quantile_within_a_bin(shape: tuple[int, int, int]) -> None:
    """The bias is that of all scores at once, to the width of a bin; parts add up, and a factor changes nothing."""
    tokens, experts, top_k = shape
    score_TE = torch.from_numpy(skewed_scores(3, tokens, experts))
    bias_E = torch.from_numpy(np.random.default_rng(4).normal(size=experts) / 10)
    count_EH = bias_histogram(score_TE, bias_E, top_k)
    assert count_EH.shape == (experts, BINS)
    assert (count_EH.sum(dim=1) == tokens).all()
    parts = [bias_histogram(part_TE, bias_E, top_k) for part_TE in score_TE.split(100)]
    assert torch.equal(torch.stack(parts).sum(dim=0), count_EH)
    found_E = histogram_quantile(count_EH, bias_E, top_k)
    width = float(bias_E.max() - bias_E.min() + 2) / BINS
    asked_TE = (score_TE + bias_E).topk(top_k + 1, dim=1).values[:, -1:] - score_TE
    sorted_TE, rank = asked_TE.sort(dim=0).values, tokens * top_k / experts
    assert (found_E >= sorted_TE[int(np.ceil(rank)) - 1] - width).all()
    assert (found_E <= sorted_TE[int(np.ceil(rank)) - 1] + width).all()
    torch.testing.assert_close(histogram_quantile(count_EH.double() / 3, bias_E, top_k), found_E)


@pytest.mark.parametrize("kind", [QuantileBias, HistogramBias])
def test_a_router_that_quantiles_cannot_balance_is_refused(kind: type[QuantileBias]) -> None:
    """Without a bias, with groups of experts, or with as many choices as experts: the error names it."""

    def bias(name: str, **config: int) -> QuantileBias:
        recipe = small(name)
        recipe = changed(recipe, model={"config": {**recipe.model.config, **config}})
        return kind(find_routers(build_model(recipe, 0)), "sigmoid", lambda value: value)

    with pytest.raises(RecordingError, match=r"e_score_correction_bias; .* is a Qwen3MoeTopKRouter without it"):
        bias(HASH)
    with pytest.raises(RecordingError, match=r"has 4 groups of them \(n_group\), expected 1"):
        bias(QUANTILE, n_group=4, topk_group=2)
    with pytest.raises(RecordingError, match="got 4 and top-4"):
        quantile_bias(torch.zeros(8, 4), torch.zeros(4), 4)


# ---------------------------------------------------------------- hash routing


def test_hashed_loads_are_the_table_applied_to_the_text(tmp_path: Path) -> None:
    """Every recorded count equals what the tables give for the step's token ids, while the model learns."""
    recipe = changed(small(HASH), data={"micro_batches": 2}, optimizer={"lr": 1e-2})
    trace = recorded(recipe, tmp_path)
    run = TrainingRun(Job(recipe, 0, "test", 8, tmp_path / "again"), Ranks())
    assert isinstance(run.order, BatchOrder)
    for layer in range(trace.load_SLE.shape[1]):
        table_VK = expert_table(0, layer, 300, 16, 2)
        assert (table_VK[:, 0] != table_VK[:, 1]).all()
        for step in range(8):
            batch = run.order.batch(step)
            for name, token_BN in (("load", batch.token_BN), ("load_half", batch.token_BN[batch.half_B == 1])):
                expected_E = np.bincount(table_VK[token_BN].ravel(), minlength=16)
                counted_SLE = trace.load_SLE if name == "load" else trace.columns[name]
                np.testing.assert_array_equal(counted_SLE[step, layer], expected_E)
    assert trace.columns["loss"][-1] < trace.columns["loss"][0] - 0.3
    np.testing.assert_allclose(trace.columns["router_entropy"], np.log(2), rtol=1e-6)
    assert (trace.meta.balancing.method, trace.meta.balancing.scope, trace.meta.gate) == ("hash", "none", "HashRouter")
    assert "each token id has its experts, drawn from the seed for each layer" in trace.meta.notes[0]


def test_a_hash_router_answers_as_the_router_it_replaces() -> None:
    """Shapes and dtypes are the same, weights are 1 / k, nothing is left to learn, other weights stay."""
    recipe = small(HASH)
    plain, hashed = build_model(recipe, 0), build_model(recipe, 0)
    route_by_token(hashed, 0)
    gates = [module for module in hashed.modules() if isinstance(module, HashRouter)]
    assert len(gates) == len(find_routers(plain)) == 4
    assert not [name for gate in gates for name, _ in gate.named_parameters()]
    observe = dict(hashed.named_parameters())
    assert {name for name, _ in plain.named_parameters()} - observe.keys() == {
        r.name + ".weight" for r in find_routers(plain)
    }
    assert all(torch.equal(observe[name], value) for name, value in plain.named_parameters() if name in observe)
    x_TD, gates[0].token_T = torch.randn(24, 64), torch.arange(24)
    expected, got = find_routers(plain)[0].module(x_TD), gates[0](x_TD)
    assert [(t.shape, t.dtype) for t in got] == [(t.shape, t.dtype) for t in expected]
    assert (got[1] == 0.5).all()
    torch.testing.assert_close(got[0].softmax(-1).gather(1, got[2]), got[1])


def test_a_model_that_cannot_be_hashed_is_refused() -> None:
    """Switch is an encoder-decoder whose router returns a mask; noise would go with the gate that is replaced."""
    with pytest.raises(RecordingError, match=r"hash routing needs a decoder .* is a SwitchTransformersTop1Router"):
        route_by_token(build_model(small("switch-8e-drop"), 0), 0)
    with pytest.raises(ValidationError, match=r"model.noisy_gate does not go with balancing.method 'hash'"):
        changed(small(HASH), model={"noisy_gate": True})


# ---------------------------------------------------------------- auxiliary loss per micro-batch


@pytest.mark.parametrize(
    ("micro_batches", "scope"), [pytest.param(1, "per_layer", marks=pytest.mark.slow), (8, "per_micro_batch")]
)
def test_the_scope_says_within_what_the_loss_is_taken(tmp_path: Path, micro_batches: int, scope: str) -> None:
    """The recorded loss is the mean of the micro-batches' own; its scope is named. One of the whole batch is less."""
    recipe = changed(small(MICRO), data={"micro_batches": micro_batches}, optimizer={"lr": 1e-30})
    trace = recorded(recipe, tmp_path)
    assert trace.meta.balancing.scope == scope
    single_batch = recorded(changed(recipe, data={"micro_batches": 1}), tmp_path / "whole")
    difference_S = trace.columns["aux_loss"] - single_batch.columns["aux_loss"]
    assert (difference_S > 1e-3).all() if micro_batches > 1 else (difference_S == 0).all()


def test_running_shares_are_means_over_the_micro_batches_so_far() -> None:
    """The loss of pass m is E sum_e f_e P_e with f_e over passes 1 to m of the step, and P_e of pass m alone."""
    random = np.random.default_rng(0)
    running = RunningShares(lambda value: value)
    for _ in range(2):
        running.start_step()
        counted_E = np.zeros(6)
        for _ in range(3):
            logits_TE = torch.from_numpy(random.normal(size=(32, 6))).float()
            expert_TK = logits_TE.topk(2, dim=1).indices
            routing = Routing(expert_TK.reshape(-1), None, 32, 6, 2, None, logits_TE)
            counted_E += np.bincount(expert_TK.numpy().ravel(), minlength=6)
            score_TE = logits_TE.sigmoid().numpy()
            prob_E = (score_TE / score_TE.sum(axis=1, keepdims=True)).mean(axis=0)
            expected = 6 * (counted_E / counted_E.sum() * prob_E).sum()
            assert float(router_statistics([routing], "sigmoid", running).aux_L) == pytest.approx(expected, rel=1e-5)


def test_the_running_loss_says_so_and_is_the_plain_one_of_a_single_pass(tmp_path: Path) -> None:
    """Its scope is a word of format 1.5; in one micro-batch it trains as `aux_loss` does, in four otherwise."""
    recipe = small(RUNNING)
    trace = recorded(recipe, tmp_path / "running")
    meta = trace.meta
    assert (meta.format_version, meta.balancing.method, meta.balancing.scope) == ("1.5", "aux_loss", "running_mean")
    for micro_batches, same in ((1, True), (4, False)):
        data = {"micro_batches": micro_batches}
        running = recorded(changed(recipe, data=data), tmp_path / f"running{micro_batches}")
        plain = recorded(
            changed(recipe, data=data, balancing={"method": "aux_loss"}), tmp_path / f"plain{micro_batches}"
        )
        assert np.array_equal(running.columns["aux_loss"], plain.columns["aux_loss"]) == same
        assert np.array_equal(running.columns["grad_norm"], plain.columns["grad_norm"]) == same


def test_recipes_that_are_compared_differ_in_the_balancing_alone() -> None:
    """Of one seed they have the same model, weights, text and order; those of two lengths train the same text."""
    names = [name for name in list_recipes() if name.startswith("balancing-") and "-n" not in name]
    assert len(names) == 6
    recipes = {name: load_recipe(name) for name in names}
    rest = [recipe.model_dump(exclude={"name", "about", "balancing"}) for recipe in recipes.values()]
    assert rest.count(rest[0]) == len(rest)
    short, long = (load_recipe(f"balancing-quantile-n{length}") for length in (32, 128))
    assert short.data.sequences * 32 == long.data.sequences * 128 == 4096
    assert (short.balancing, short.data.stages) == (long.balancing, long.data.stages)
    weights = [build_model(small(name), 7).state_dict() for name in names]
    for other in weights[1:]:
        assert other.keys() == weights[0].keys()
        assert all(torch.equal(other[name], value) for name, value in weights[0].items())
    text = {"prose": np.arange(4000, dtype=np.uint16), "code": np.arange(4000, dtype=np.uint16)}
    batches = [BatchOrder(small(name), 7, text).batch(5).token_BN for name in names]
    assert all(np.array_equal(batches[0], other) for other in batches[1:])
