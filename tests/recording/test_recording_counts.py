"""Counts are exact for every family of routers, under every way of training that its class supports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from moeload_bench.errors import RecordingError, TraceError
from moeload_bench.recording.counting import RouterCounter, StepCounts, bincount_on_device
from moeload_bench.recording.recorder import Recorder, record
from moeload_bench.recording.routers import find_routers
from moeload_bench.recording.timing import FIRST
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need, synthetic_load_SLE
from tests.support.recording.families import CONFIGS, EXPERTS, tiny_batch, tiny_model
from tests.support.recording.pipelines import ADAPTERS, TinyModel, batch

torch.set_num_threads(1)

TOP_K = {
    "qwen3_moe": 2,
    "olmoe": 4,
    "mixtral": 2,
    "deepseek_v2": 2,
    "deepseek_v3": 2,
    "gpt_oss": 2,
    "granitemoe": 3,
    "jetmoe": 2,
    "llama4_text": 1,
    "switch_transformers": 1,
}
MODES = ("plain", "accumulation", "checkpointing", "reentrant checkpointing", "bfloat16")
UNSUPPORTED = {("jetmoe", "checkpointing"), ("jetmoe", "reentrant checkpointing")}
COMMON_CONTRACT = [family for family in CONFIGS if family not in ("jetmoe", "llama4_text", "switch_transformers")]


def checkpointed(model: nn.Module, reentrant: bool) -> nn.Module:
    enable: Any = model.activation_checkpointing_enable
    enable({"use_reentrant": reentrant})
    return model


def one_step(model: nn.Module, passes: int = 1, *, autocast: bool = False, sequences: int = 4) -> StepCounts:
    counter = RouterCounter(model)
    for number in range(passes):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(**tiny_batch(sequences, seed=number)).loss
        loss.backward()
    counts = counter.take()
    counter.close()
    return counts


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", CONFIGS)
def test_loads_sum_to_tokens_times_top_k(family: str, mode: str) -> None:
    """Conservation holds in every layer; a class that refuses a mode is in the table of refusals, and no other is."""
    passes = 3 if mode == "accumulation" else 1
    model = tiny_model(family)
    if "checkpointing" in mode:
        if (family, mode) in UNSUPPORTED:
            with pytest.raises(ValueError, match="does not support activation checkpointing"):
                checkpointed(model, reentrant=mode.startswith("reentrant"))
            return
        checkpointed(model, reentrant=mode.startswith("reentrant"))
    counts = one_step(model, passes, autocast=mode == "bfloat16")
    assert (counts.tokens_L == 64 * passes).all()
    assert (counts.load_LE.sum(axis=1) == 64 * passes * TOP_K[family]).all()
    assert (counts.load_half_LE.sum(axis=1) == 32 * passes * TOP_K[family]).all()
    assert counts.load_LE.dtype == np.int64


@pytest.mark.parametrize("family", CONFIGS)
def test_checkpointing_changes_no_count(family: str) -> None:
    """A recomputed forward is not a second pass: both kinds of checkpointing give the plain counts."""
    if (family, "checkpointing") in UNSUPPORTED:
        pytest.skip("the class refuses checkpointing, which the table of refusals asserts")
    plain = one_step(tiny_model(family), passes=2)
    for reentrant in (False, True):
        again = one_step(checkpointed(tiny_model(family), reentrant), passes=2)
        np.testing.assert_array_equal(plain.load_LE, again.load_LE)
        np.testing.assert_array_equal(plain.load_half_LE, again.load_half_LE)


@pytest.mark.parametrize("family", COMMON_CONTRACT)
def test_counts_are_what_the_experts_received(family: str) -> None:
    """The indices handed to the experts, seen by an independent hook, give the recorded counts."""
    model = tiny_model(family)
    received: list[torch.Tensor] = []
    for name, module in model.named_modules():
        if name.endswith(".experts"):
            module.register_forward_pre_hook(lambda m, args: received.append(args[1].detach().reshape(-1)))
    counts = one_step(model)
    expected = np.stack([torch.bincount(index, minlength=EXPERTS).numpy() for index in received])
    np.testing.assert_array_equal(counts.load_LE, expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_switch_counts_before_and_after_drops(autocast: bool) -> None:
    """Loads count before drops, in the precision of the router; without the dropped they are the mask it returned."""
    model = tiny_model("switch_transformers")
    indices: list[np.ndarray] = []
    for router in find_routers(model):
        router.module.register_forward_hook(
            lambda m, args, output: indices.append(output[0].reshape(-1, EXPERTS).sum(0).numpy())
        )
    counts = one_step(model, autocast=autocast, sequences=8)
    assert counts.dropped_LE is not None
    assert counts.dropped_LE.sum() > 0
    np.testing.assert_array_equal(counts.load_LE - counts.dropped_LE, np.stack(indices))


def test_jetmoe_counts_both_routers_of_a_layer() -> None:
    """JetMoe routes attention and MLP: each layer gives two rows, and sizes equal those the router returned."""
    model = tiny_model("jetmoe")
    sizes: list[list[int]] = []
    routers = find_routers(model)
    for router in routers:
        router.module.register_forward_hook(lambda m, args, output: sizes.append(output[3]))
    counts = one_step(model)
    assert [router.kind for router in routers] == ["mlp", "attention", "mlp", "attention"]
    assert [router.block for router in routers] == [0, 0, 1, 1]
    # modules are listed as they were made (MLP first), hooks fire as they run (attention first)
    np.testing.assert_array_equal(counts.load_LE, np.array(sizes)[[1, 0, 3, 2]])


def test_llama4_counts_the_scores_that_are_not_zero() -> None:
    """Llama 4 zeroes the scores of experts that were not chosen: what is left is what was counted."""
    model = tiny_model("llama4_text")
    chosen: list[np.ndarray] = []
    for router in find_routers(model):
        router.module.register_forward_hook(lambda m, args, output: chosen.append((output[0] > 0).sum(0).numpy()))
    np.testing.assert_array_equal(one_step(model).load_LE, np.stack(chosen))


@pytest.mark.parametrize("how", ["eval", "no_grad"])
def test_evaluation_passes_do_not_count(how: str) -> None:
    """Neither eval mode nor a pass without gradients adds to a step, wherever it falls between micro-batches."""
    model = tiny_model("qwen3_moe")
    alone = one_step(model, passes=2)
    counter = RouterCounter(model)
    for number in range(2):
        model(**tiny_batch(seed=number)).loss.backward()
        with torch.no_grad():
            (model.eval() if how == "eval" else model)(**tiny_batch(seed=9))
        model.train()
    np.testing.assert_array_equal(counter.take().load_LE, alone.load_LE)


def test_halves_alternate_over_the_passes_of_a_step() -> None:
    """Single-sequence passes are split too: every second one belongs to the second half."""
    model = tiny_model("qwen3_moe")
    counter = RouterCounter(model)
    by_pass = []
    for number in range(4):
        model(**tiny_batch(sequences=1, seed=number)).loss.backward()
        by_pass.append(one_step_of(model, number))
    counts = counter.take()
    np.testing.assert_array_equal(counts.load_half_LE, by_pass[1] + by_pass[3])
    np.testing.assert_array_equal(counts.load_LE, sum(by_pass))


def one_step_of(model: nn.Module, seed: int) -> np.ndarray:
    """Counts of one sequence, taken by eye: the arg-top-2 that the router returns in evaluation mode."""
    seen: list[np.ndarray] = []
    handles = [
        router.module.register_forward_hook(
            lambda m, args, output: seen.append(torch.bincount(output[2].reshape(-1), minlength=EXPERTS).numpy())
        )
        for router in find_routers(model)
    ]
    with torch.no_grad():
        model(**tiny_batch(sequences=1, seed=seed))
    for handle in handles:
        handle.remove()
    return np.stack(seen)


def test_halves_can_be_named() -> None:
    """A loop that knows its sources names the halves itself."""
    model = tiny_model("qwen3_moe")
    counter = RouterCounter(model)
    counter.halves.set(torch.tensor([1, 1, 1, 0]))
    model(**tiny_batch()).loss.backward()
    assert (counter.take().load_half_LE.sum(axis=1) == 3 * 16 * 2).all()


def test_a_step_without_a_training_pass_is_refused() -> None:
    """Closing a step in which nothing was trained names the first silent router."""
    counter = RouterCounter(tiny_model("qwen3_moe"))
    with pytest.raises(RecordingError, match=r"no training pass went through 2 of 2 routers.*layers\.0\.mlp\.gate"):
        counter.take()


def test_an_empty_batch_counts_nothing() -> None:
    """A pass without tokens adds zero to every expert and still closes."""
    model = tiny_model("qwen3_moe")
    counter = RouterCounter(model)
    for router in counter.routers:
        router.module(torch.zeros(0, 16))
    counts = counter.take()
    assert counts.tokens_L.tolist() == [0, 0]
    assert counts.load_LE.sum() == 0


def test_many_tokens_are_counted_before_the_step_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits to be counted is bounded: counting in the middle of passes gives the same counts."""
    for family in ("qwen3_moe", "switch_transformers"):
        at_the_close = one_step(tiny_model(family), passes=3)
        with monkeypatch.context() as patch:
            patch.setattr("moeload_bench.recording.counting._MOST_PENDING", 100)
            in_between = one_step(tiny_model(family), passes=3)
        np.testing.assert_array_equal(in_between.load_LE, at_the_close.load_LE)
        np.testing.assert_array_equal(in_between.load_half_LE, at_the_close.load_half_LE)
        np.testing.assert_array_equal(in_between.dropped_LE, at_the_close.dropped_LE)


def test_indices_that_an_engine_changes_in_place_are_counted_as_returned() -> None:
    """What happens to a router's output after the router has run changes no count."""
    model = tiny_model("qwen3_moe")
    counter = RouterCounter(model)
    returned = []
    for router in counter.routers:
        output = router.module(torch.randn(10, 16))
        returned.append(np.bincount(output[2].flatten(), minlength=EXPERTS))
        output[2].fill_(0)
    np.testing.assert_array_equal(counter.take().load_LE, returned)


def test_devices_count_like_the_cpu() -> None:
    """The count that no device has to be waited for equals numpy's; what is outside is left out, not counted."""
    cell_P = torch.randint(0, 16, (1000,), generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(bincount_on_device(cell_P, 16), np.bincount(cell_P, minlength=16))
    assert bincount_on_device(torch.tensor([-7, -1, 0, 2, 3, 99]), 3).tolist() == [1, 0, 1]


def test_counts_are_summed_by_one_call_per_step() -> None:
    """`reduce` sees one int64 vector per step, and what it returns is recorded: two equal ranks double the counts."""
    calls: list[int] = []

    def two_equal_ranks(vector: np.ndarray) -> np.ndarray:
        calls.append(len(vector))
        return vector * 2

    model = tiny_model("qwen3_moe")
    counter = RouterCounter(model, reduce=two_equal_ranks)
    model(**tiny_batch()).loss.backward()
    counts = counter.take()
    assert calls == [2 + 2 * 2 * EXPERTS]
    assert (counts.load_LE.sum(axis=1) == 256).all()
    assert (counts.tokens_L == 128).all()


def test_a_layer_that_two_backward_passes_run_again_counts_once() -> None:
    """Non-reentrant checkpointing computes it anew for each of them: two losses of one forward, or two `grad` calls."""
    plain = one_step(tiny_model("qwen3_moe"))
    model = checkpointed(tiny_model("qwen3_moe"), reentrant=False)
    counter = RouterCounter(model)
    loss = model(**tiny_batch(seed=0)).loss
    loss.backward(retain_graph=True)
    loss.backward()
    np.testing.assert_array_equal(counter.take().load_LE, plain.load_LE)


def test_a_step_that_the_scaler_skips_is_a_step(tmp_path: Path) -> None:
    """Infinite gradients in step 2: the scaler changes no weight, the batch was routed and has its row, and the next
    row holds the next batch only."""
    model = tiny_model("qwen3_moe")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    skipped = []
    with record(model, tmp_path, on_error="raise") as r:
        for step in range(5):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(**tiny_batch(sequences=2 + step, seed=step)).loss
            scaler.scale(loss * torch.inf if step == 2 else loss).backward()
            before = [p.detach().clone() for p in model.parameters()]
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            skipped.append(all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)))
            r.step()
    trace = read_trace(tmp_path / "own/test/seed0.parquet")
    assert skipped == [False, False, True, False, False]
    assert trace.tokens_SL[:, 0].tolist() == [16 * (2 + step) for step in range(5)]
    assert (trace.load_SLE.sum(axis=2) == 2 * trace.tokens_SL).all()


# ---------------------------------------------------------------- which tokens and layers are counted, and how


torch.set_num_threads(1)
LENGTHS = (16, 10, 7, 13)
NAME = "own/test/seed0.parquet"


def padded() -> dict[str, torch.Tensor]:
    """Four sequences of different lengths, padded behind."""
    full = tiny_batch(4)
    mask = torch.arange(16) < torch.tensor(LENGTHS)[:, None]
    return {"input_ids": full["input_ids"] * mask, "labels": full["labels"], "attention_mask": mask.long()}


def recorded(out: Path, family: str, passes: list[dict[str, torch.Tensor]], **options: Any) -> Trace:
    """One step of several forward passes."""
    model = tiny_model(family)
    with record(model, out, on_error="raise", **options) as r:
        for inputs in passes:
            model(**inputs).loss.backward()
        r.step()
    return read_trace(out / NAME)


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "jetmoe", "llama4_text"])
def test_a_masked_recording_of_padded_batches_equals_the_unpadded_one(family: str, tmp_path: Path) -> None:
    """Counts of a padded batch under `attended` are those of its sequences alone, expert for expert, and conserved."""
    need("transformers", "pip install '.[record]'")
    ids = tiny_batch(4)["input_ids"]
    alone = [{"input_ids": ids[i : i + 1, :n], "labels": ids[i : i + 1, :n]} for i, n in enumerate(LENGTHS)]
    expected = recorded(tmp_path / "alone", family, alone)
    got = recorded(tmp_path / "masked", family, [padded()], count="attended")
    np.testing.assert_array_equal(got.load_SLE, expected.load_SLE)
    np.testing.assert_array_equal(got.columns["load_half"], expected.columns["load_half"])
    assert (got.tokens_SL == sum(LENGTHS)).all()
    everything = recorded(tmp_path / "all", family, [padded()])
    assert (everything.tokens_SL == 64).all()
    assert "padding tokens were routed" in everything.meta.notes[0]


def test_the_record_says_which_tokens_count(tmp_path: Path) -> None:
    """`attended` carries no note of padding; by default all tokens count."""
    masked = recorded(tmp_path / "a", "qwen3_moe", [padded()], count="attended")
    assert (masked.meta.counted, masked.meta.notes) == ("attended", ())
    plain = recorded(tmp_path / "b", "qwen3_moe", [padded()])
    assert plain.meta.counted == "all"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda batch: batch.pop("attention_mask"), "needs attention_mask .* in every pass, got NoneType"),
        (lambda batch: batch.update(attention_mask=torch.ones(4, 1, 16, 16)), r"got \[4, 1, 16, 16\]"),
    ],
)
def test_a_batch_whose_mask_cannot_be_seen_stops_the_recording(change: Any, says: str, tmp_path: Path) -> None:
    """No mask, or one of another shape: a message that says what to do, never a silent count of padding."""
    inputs = padded()
    change(inputs)
    with pytest.raises(RecordingError, match=says):
        recorded(tmp_path, "qwen3_moe", [inputs], count="attended")


def test_a_mask_is_given_for_a_model_that_takes_none(tmp_path: Path) -> None:
    """`Recorder.attended(mask)` before the pass; one of another number of tokens, and one too many, are refused."""
    model = TinyModel()
    keep = torch.zeros(8, 6, dtype=torch.bool)
    keep[:, :4] = True
    with record(model, tmp_path, adapters=ADAPTERS, count="attended", on_error="raise") as r:
        r.attended(keep)
        model(batch(0)).sum().backward()
        r.step()
        r.attended(keep[:1])
        model(batch(1)).sum().backward()
        with pytest.raises(RecordingError, match=r"has 6 tokens, router layers\.0\.router gives 48 tokens"):
            r.step()
    assert (read_trace(tmp_path / NAME).tokens_SL == 32).all()
    everything = Recorder(TinyModel(), tmp_path / "b.parquet", adapters=ADAPTERS)
    with pytest.raises(RecordingError, match="this recording counts all tokens"):
        everything.attended(keep)


def test_layers_that_agree_are_recorded(tmp_path: Path) -> None:
    """Layers with other numbers of experts: the refusal names the choices, and each of them is recorded alone."""
    sizes = (8, 4, 8, 4)
    model = TinyModel(experts=sizes)
    counter = RouterCounter(model, ADAPTERS)
    model(batch(0)).sum().backward()
    with pytest.raises(RecordingError, match=r"layers=\[1, 3\] \(4 experts\); layers=\[0, 2\] \(8 experts\)"):
        counter.take()
    counter.close()
    with record(TinyModel(experts=sizes), tmp_path / "b", adapters=ADAPTERS, layers=[1, 3], on_error="raise") as r:
        r._model(batch(0)).sum().backward()
        r.step()
    trace = read_trace(tmp_path / "b" / NAME)
    assert [layer.index for layer in trace.meta.layers] == [1, 3]
    assert trace.num_experts == 4
    with pytest.raises(RecordingError, match=r"\[7\] is not an MoE layer; there is: \[0, 1, 2, 3\]"):
        record(model, tmp_path / "c", adapters=ADAPTERS, layers=[1, 7]).__enter__()


def together_and_alone(out: Path, **options: Any) -> Trace:
    """A step of four passes, then each of them as a step of its own."""
    model = TinyModel()
    with record(model, out, adapters=ADAPTERS, on_error="raise", **options) as r:
        for parts in (batch(0).chunk(4), *([part] for part in batch(0).chunk(4))):
            for part in parts:
                model(part).sum().backward()
            r.step()
    return read_trace(out / NAME)


def test_unevenness_of_single_passes_is_a_mean_over_them(tmp_path: Path) -> None:
    """`imbalance_rank`: max / mean load in each pass, as recorded one pass a step; never below that of their sum."""
    trace = together_and_alone(tmp_path, imbalance_rank=True)
    got_SL, load_SLE = trace.columns["imbalance_rank"], trace.load_SLE
    whole_L, *alone_SL = load_SLE.max(axis=2) * EXPERTS / load_SLE.sum(axis=2)
    np.testing.assert_allclose(got_SL[0], np.mean(alone_SL, axis=0), rtol=1e-5)
    np.testing.assert_allclose(got_SL[1:], alone_SL, rtol=1e-5)
    assert (got_SL[0] >= whole_L - 1e-5).all()


def test_the_largest_load_of_a_pass_is_kept(tmp_path: Path) -> None:
    """`micro_max`: each expert's largest load in one pass of a step, as recorded one pass a step; and the most passes.

    The passes stand beside what the user says of the layout.
    """
    trace = together_and_alone(tmp_path / "a", micro_max=True, meta={"parallel": {"expert": 2}})
    assert trace.meta.parallel == {"expert": 2, "passes": 4}
    np.testing.assert_array_equal(trace.columns["micro_max"][0], trace.load_SLE[1:].max(axis=0))
    np.testing.assert_array_equal(trace.columns["micro_max"][1:], trace.load_SLE[1:])
    with pytest.raises(RecordingError, match="micro_max is a maximum over ranks"):
        record(TinyModel(), tmp_path / "b", adapters=ADAPTERS, micro_max=True, reduce=lambda v: v).__enter__()


def test_no_pass_holds_more_of_an_expert_than_the_step(tmp_path: Path) -> None:
    """`micro_max` above the load is refused, by step and layer."""
    load = synthetic_load_SLE(5)
    with pytest.raises(TraceError, match=r"step 0, layer 0: expert 0 has micro_max"):
        Trace.from_arrays(load, 512, 2, columns={"micro_max": load + 1})


# ---------------------------------------------------------------- a model compiled by `torch.compile` is recorded


torch.set_num_threads(1)
STEPS = FIRST + 2


def accumulated(out: Path, backend: str | None, passes: int) -> Trace:
    """Steps of so many passes; from the second step on nothing may be compiled again."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []
    model = tiny_model("qwen3_moe")
    with record(model, out, on_error="raise") as r:
        running = model if backend is None else torch.compile(model, backend=backend)
        for step in range(STEPS):
            with torch._dynamo.config.patch(error_on_recompile=step > 0):
                for part in range(passes):
                    running(**tiny_batch(seed=passes * step + part)).loss.backward()
            r.step()
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs == graphs[:1] * STEPS
    assert (graphs[0] > 0) == (backend is not None)
    return read_trace(out / "own/test/seed0.parquet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "passes"), [("eager", 1), ("eager", 4), pytest.param("inductor", 2, marks=pytest.mark.compiler)]
)  # inductor writes C++
def test_gradient_accumulation_compiles_nothing_again(backend: str, passes: int, tmp_path: Path) -> None:
    """The number of passes is no guard of the compiled code, and what is counted is what an uncompiled model counts."""
    compiled, plain = (
        accumulated(tmp_path / name, one, passes) for name, one in (("compiled", backend), ("plain", None))
    )
    assert compiled.steps == STEPS
    for column in ("tokens_SL", "load_SLE"):
        assert np.array_equal(getattr(compiled, column), getattr(plain, column))
    assert np.array_equal(compiled.columns["load_half"], plain.columns["load_half"])
    assert np.isnan(compiled.columns["expert_fraction"]).all()
    assert compiled.meta.expert is not None
    assert compiled.meta.expert.not_timed.startswith("no expert module was called in a measured step")
    assert plain.columns["expert_fraction"][FIRST] > 0
