"""A trace made from anybody's numbers obeys the format or is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from moeload_bench.errors import TraceError
from moeload_bench.trace import LayerMeta, Trace, TraceMeta, shares
from tests.conftest import synthetic_load_SLE


def test_tokens_are_derived_from_loads_and_top_k() -> None:
    """tokens x top_k = sum of loads."""
    trace = Trace.from_arrays(synthetic_load_SLE(10, tokens=100, top_k=4), top_k=4)
    assert (trace.tokens_SL == 100).all()
    assert trace.meta.top_k == 4


def test_loads_that_do_not_add_up_are_refused() -> None:
    """The message names step and layer, got and expected."""
    load = synthetic_load_SLE(10, tokens=100, top_k=2)
    load[3, 1, 0] += 1
    with pytest.raises(TraceError, match=r"step 3, layer 1: loads sum to 201, expected tokens x top_k = 200"):
        Trace.from_arrays(load, 100, 2)


def test_fractions_are_not_counts() -> None:
    """Shares given as loads are refused, whole floats are taken."""
    load = synthetic_load_SLE(5)
    with pytest.raises(TraceError, match="whole numbers"):
        Trace.from_arrays(load / load.sum(axis=2, keepdims=True))
    assert Trace.from_arrays(load.astype(np.float64)).load_SLE.dtype == np.int64


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


def test_metadata_refuses_unknown_fields() -> None:
    """A typo in a metadata field does not pass silently."""
    with pytest.raises(ValidationError, match="colour"):
        TraceMeta.model_validate({"recipe": "x", "layers": [], "experts": 2, "colour": "red"})
