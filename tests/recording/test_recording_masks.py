"""Which tokens and layers are counted, and how uneven single passes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moeload_bench.errors import RecordingError, TraceError
from moeload_bench.recording.counting import RouterCounter
from moeload_bench.recording.recorder import Recorder, record
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need, synthetic_load_SLE
from tests.support.recording.families import EXPERTS, tiny_batch, tiny_model
from tests.support.recording.pipelines import ADAPTERS, TinyModel, batch

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
