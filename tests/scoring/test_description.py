"""What `traces show` says of a trace in words, where states or loads are missing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from moeload_bench.cli.traces import layer_cells
from moeload_bench.scoring.description import answer, describe_layers
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE


@pytest.mark.parametrize("stride", [3, 50])
def test_a_layer_without_states_is_called_neither_stable_nor_transient(stride: int) -> None:
    """For a stride that the rule refuses the answer says that states are not defined, and the table has a dash."""
    trace = Trace.from_arrays(synthetic_load_SLE(400), 512, 2, step_S=np.arange(400) * stride)
    layers = describe_layers(trace)
    said = " ".join(answer(trace, layers))
    refused = f"States are not defined: states need a stride that divides 100 steps .*, got a stride of {stride}; "
    assert re.search(refused, said)
    assert "transient" not in said
    assert [layer.end_state for layer in layers] == [None, None]
    assert [layer_cells(layer)[1] for layer in layers] == ["-", "-"]


def test_layers_without_load_are_counted_and_not_called_healthy() -> None:
    """NaN is below no threshold: where one layer had no load that is said, and where none had, nothing of experts."""
    load_SLE = synthetic_load_SLE(400)
    load_SLE[:, 0] = 0
    one, none = (Trace.from_arrays(load) for load in (load_SLE, np.zeros_like(load_SLE)))
    settled = " ".join(answer(one, describe_layers(one)))
    assert re.search(r"Settled in 1 of 2 layers by step \d+; no expert is dead; 1 layer had no load;", settled)
    said = " ".join(answer(none, describe_layers(none)))
    assert "2 layers had no load" in said
    assert "dead" not in said


def test_the_end_state_is_that_of_the_last_span() -> None:
    """Whatever came before it."""
    trace = Trace.from_arrays(synthetic_load_SLE(700), 512, 2)
    for layer in describe_layers(trace):
        assert layer.end_state == "stable"
        assert layer.states.rpartition("; ")[2].startswith("stable ")
