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


def test_the_end_state_is_that_of_the_last_span() -> None:
    """Whatever came before it."""
    trace = Trace.from_arrays(synthetic_load_SLE(700), 512, 2)
    for layer in describe_layers(trace):
        assert layer.end_state == "stable"
        assert layer.states.rpartition("; ")[2].startswith("stable ")
