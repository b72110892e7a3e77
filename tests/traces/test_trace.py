"""A trace made from anybody's numbers obeys the format or is refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from moeload_bench.errors import TraceError
from moeload_bench.traces.lookup import TRACES_ENV, find_trace
from moeload_bench.traces.meta import MAX_BYTES
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import LayerMeta, Trace, TraceMeta, shares
from tests.conftest import synthetic_load_SLE, synthetic_trace


def test_tokens_are_derived_from_loads_and_top_k() -> None:
    """tokens x top_k = sum of loads."""
    trace = Trace.from_arrays(synthetic_load_SLE(10, tokens=100, top_k=4), top_k=4)
    assert (trace.tokens_SL == 100).all()
    assert trace.meta.top_k == 4


def test_no_expert_has_more_than_every_token() -> None:
    """A token's experts are different ones; after drops, or where top-k is not known, nothing follows of tokens."""
    load = [[[20, 30, 14]], [[2, 60, 2]]]
    with pytest.raises(TraceError, match=r"step 1, layer 0: expert 1 has load 60, expected at most the 32 tokens"):
        Trace.from_arrays(load, 32, 2)
    for known in ({"top_k": 2, "count_semantics": "post_drop"}, {"top_k": None}):
        Trace.from_arrays(load, 32, **known)  # type: ignore[arg-type]
    Trace.from_arrays([[[32, 30, 2]]], 32, 2)


def test_every_valid_name_can_be_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accented letter as one character is a letter to the metadata and to the search alike."""
    monkeypatch.setenv(TRACES_ENV, str(tmp_path))
    trace = Trace.from_arrays([[[1, 1]]], recipe="mod\u00e8le..2")
    path = write_trace(trace, tmp_path / f"{trace.id}.parquet")
    assert find_trace(trace.id) == path


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"load_SLE": [[[1, 2]], [[3]]]}, "load cannot be read as an array of numbers"),
        ({"load_SLE": [[1, 2]]}, r"load has shape \(1, 2\), expected 3 axes"),
        ({"load_SLE": [[["a"]]]}, "load must hold whole numbers, got dtype <U1"),
        ({"load_SLE": [[[1.0, 0.5]]]}, r"load must hold whole numbers of int64, got 0\.5 at \[0, 0, 1\]"),
        ({"load_SLE": [[[1.0, 1e300]]]}, r"load must hold whole numbers of int64, got 1e\+300 at \[0, 0, 1\]"),
        ({"load_SLE": [[[1.0, 2.0**63]]]}, r"got 9\.2\d+e\+18 at"),
        ({"load_SLE": [[[np.nan, 1]]]}, "got nan at"),
        ({"load_SLE": np.full((1, 1, 1), 2**63, dtype=np.uint64)}, "got 9223372036854775808 at"),
        ({"load_SLE": [[[1, 1]], [[2, -1]]]}, r"step 1, layer 0: expert 1 has load -1, expected 0 to 1,125,899"),
        ({"load_SLE": [[[1, 2**50 + 1]]]}, r"step 0, layer 0: expert 1 has load 1125899906842625, expected 0 to 1,1"),
        ({"tokens": [2, -1]}, r"step 1, layer 0: tokens are -1, expected 0 to 1,1"),
        ({"tokens": 2**50 + 1}, r"step 0, layer 0: tokens are 1125899906842625, expected 0 to 1,1"),
        ({"tokens": [1, 2, 3]}, r"tokens have shape \(3,\), expected a number, \(2,\) or \(2, 1\)"),
        ({"tokens": 1.5}, "tokens must hold whole numbers"),
        ({"tokens": "many"}, "tokens must hold whole numbers, got dtype"),
        ({"top_k": 0}, "top_k is 0, expected a whole number from 1, or None"),
        ({"top_k": 2.0}, r"top_k is 2\.0, expected"),
        ({"top_k": True}, "top_k is True, expected"),
        ({"step_S": [-1, 0]}, "the first step is -1, expected at least 0"),
        ({"step_S": [5]}, r"column step has shape \(1,\), expected \(2,\)"),
        ({"recipe": ""}, "metadata field recipe: expected a name of letters.*, got ''"),
        ({"recipe": "a b"}, "metadata field recipe: expected a name of letters.*, got 'a b'"),
        ({"recipe": "a\n"}, "metadata field recipe: expected a name of letters"),
        ({"recipe": "mode\u0300le"}, r"metadata field recipe: got 'mode\\u0300le', expected no '\\u0300' in it"),
        ({"split": "te\u0301"}, r"metadata field split: got 'te\\u0301', expected no '\\u0301' in it"),
        ({"top_k": 3}, r"metadata field layers\.0: top_k is 3, expected at most the layer's 2 experts"),
        ({"split": "te st"}, "metadata field split: expected a name of letters.*, got 'te st'"),
        ({"run": -1}, "metadata field run: .*greater than or equal to 0, got -1"),
        ({"colour": "red"}, "unknown metadata field colour; there is: .*recipe"),
        ({"columns": {"lose": [1, 2]}}, "unknown column 'lose'; there is: .*loss"),
        ({"columns": {"loss": ["a", "b"]}}, "column loss cannot be read as float32"),
        ({"columns": {"load_half": [[[0.5, 1]], [[1, 1]]]}}, r"column load_half must hold whole numbers .*, got 0\.5"),
        ({"columns": {"stage": [0, 2**31]}}, r"column stage must hold whole numbers of int32, got 2147483648 at \[1\]"),
    ],
)
def test_what_is_no_trace_is_refused_as_such(changed: dict[str, Any], says: str) -> None:
    """Whatever is wrong with the numbers or the metadata, it is a `TraceError` that says what was got and expected."""
    load = [[[1, 1]], [[2, 0]]]
    with pytest.raises(TraceError, match=says):
        Trace.from_arrays(**{"load_SLE": load, **changed})


def test_whole_numbers_of_any_type_are_taken_as_they_are() -> None:
    """numpy's integers for top-k, unsigned and small counts, a loss beyond float32 as infinity."""
    load = np.array([[[1, 1]]], dtype=np.uint8)
    trace = Trace.from_arrays(load, top_k=np.int64(2), columns={"loss": [1e300], "stage": [3.0]})
    assert trace.meta.top_k == 2
    assert trace.load_SLE.tolist() == [[[1, 1]]]
    assert trace.columns["stage"].dtype == np.int32
    assert np.isposinf(trace.columns["loss"]).all()
    assert Trace.from_arrays([[[2.0**50]]]).load_SLE[0, 0, 0] == 2**50


def test_unequal_experts_are_refused_by_name() -> None:
    """Layers with unequal numbers of experts are not in the format."""
    layers = (LayerMeta(index=0, experts=4), LayerMeta(index=1, experts=8))
    with pytest.raises(TraceError, match="unequal numbers of experts"):
        Trace.from_arrays(synthetic_load_SLE(5), layers=layers)


def test_a_sampled_trace_keeps_its_stride() -> None:
    """step_S rising by 10 makes stride 10; a gap is refused."""
    load = synthetic_load_SLE(6)
    assert Trace.from_arrays(load, step_S=np.arange(1, 61, 10)).meta.stride == 10
    with pytest.raises(TraceError, match="gap after step 21"):
        Trace.from_arrays(load, step_S=[1, 11, 21, 41, 51, 61])


def test_shares_sum_to_one_and_a_layer_without_load_is_nan() -> None:
    """A layer-step without any load has no shares."""
    load = synthetic_load_SLE(4)
    load[2, 1] = 0
    share = shares(load)
    assert np.isnan(share[2, 1]).all()
    np.testing.assert_allclose(np.delete(share.reshape(-1, 4), 5, axis=0).sum(axis=1), 1)


def test_arrays_of_a_trace_are_read_only(trace: Trace) -> None:
    """A record is frozen, its arrays too."""
    with pytest.raises(ValueError, match="read-only"):
        trace.load_SLE[0, 0, 0] = 1


@given(mean=st.floats(width=32), most=st.floats(width=32))
@example(mean=0.5, most=0.25)
@example(mean=np.nan, most=0.5)
@example(mean=np.nan, most=np.nan)
def test_a_part_in_experts_is_a_part(mean: float, most: float) -> None:
    """It is 0 to 1, the mean over ranks at most the maximum, both or none; any other is refused with its step."""
    good = 0 <= mean <= most <= 1 or (np.isnan(mean) and np.isnan(most))
    columns = {"expert_fraction": [np.nan, mean], "expert_fraction_max": [np.nan, most]}
    refused = pytest.raises(TraceError, match=r"step 1: expert_fraction is .* expected 0 <= expert_fraction <= ")
    with contextlib.nullcontext() if good else refused:
        Trace.from_arrays([[[1, 1]], [[1, 1]]], columns=columns)
    with pytest.raises(TraceError, match="go together"):
        Trace.from_arrays([[[1, 1]]], columns={"expert_fraction": [0.5]})


@pytest.mark.parametrize(
    "expert", [{"weight_bytes": 0}, {"state_bytes": -1}, {"state_bytes": MAX_BYTES + 1}, {"not_timed": 301 * "x"}]
)
def test_an_expert_of_no_plausible_size_is_refused(expert: dict[str, Any]) -> None:
    """The message names the field."""
    with pytest.raises(TraceError, match=f"metadata field expert.{next(iter(expert))}"):
        Trace.from_arrays([[[1, 1]]], expert=expert)


@pytest.mark.parametrize("version", [1, "1.1", "1.2", "1.3", "1.4", "1.5"])
def test_one_reader_reads_every_version_of_the_format(version: Any) -> None:
    """A new trace is of the version that it needs; metadata of an earlier one keep their text, and so their hash."""
    known = {"recipe": "old", "layers": [{"index": 0, "experts": 4, "top_k": 1}], "experts": 4}
    stored = TraceMeta.model_validate({**known, "format_version": version})
    assert TraceMeta.model_validate(json.loads(stored.canonical_json())).sha256() == stored.sha256()
    assert not {"counted", "expert"} & json.loads(stored.canonical_json()).keys()
    assert TraceMeta.model_validate(known).format_version == "1.3"
    with pytest.raises(ValidationError, match="format_version"):
        TraceMeta.model_validate({**known, "format_version": "1.6"})


@pytest.mark.parametrize("name", ["tokens_SL", "load_SLE", "step_S"])
def test_arrays_of_a_record_fit_one_another(name: str) -> None:
    """A record that is made of arrays is held to its metadata, however it is made."""
    trace = synthetic_trace(20)
    with pytest.raises(TraceError):
        replace(trace, **{name: getattr(trace, name)[:-1]})
