"""Shares and ratios to the mean load become counts that sum to tokens x top-k; nothing is said about their noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import TraceError
from moeload_bench.ops.interchange.importing import import_log
from moeload_bench.ops.interchange.rows import counts_of_shares
from moeload_bench.scoring.description import describe_layers
from moeload_bench.scoring.floors import trace_floors
from tests.support.foreign import logs

LOAD = np.random.default_rng(1).multinomial(512 * 2, np.linspace(0.5, 1.5, 8) / 8, (60, 2))
NEMO = "moe_expert_utilization/layer_{}_expert_{}"


def history(path: Path, value_SLE: Any) -> Path:
    """JSON Lines of a W&B history with NeMo Automodel's names."""
    rows = [
        {"_step": s} | {NEMO.format(*at): float(value) for at, value in np.ndenumerate(value_LE)}
        for s, value_LE in enumerate(value_SLE)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=12), st.sampled_from([1.0, 100.0, None]), st.integers(1, 10**9)
)
def test_counts_sum_to_the_total_and_lie_within_one_of_the_shares(
    weights: list[int], scale: float | None, tokens: int
) -> None:
    """Largest remainder: floor or ceiling of the exact share, whatever the scale, and no count is lost."""
    exact = np.array(weights) / sum(weights) * tokens
    load = counts_of_shares(exact[None] / tokens * (scale or len(weights)), tokens, 1, "here")[0]
    assert load.sum() == tokens
    assert (np.abs(load - exact) < 1 + 1e-6 * exact).all()


def test_the_largest_remainders_get_what_is_left() -> None:
    """3.3, 3.3, 3.4 of ten: the third gets the tenth."""
    assert counts_of_shares(np.array([[0.33, 0.33, 0.34]]), 10, 1, "here").tolist() == [[3, 3, 4]]


def test_ratios_to_the_mean_give_the_counts_that_they_were_made_from(tmp_path: Path) -> None:
    """Utilisation as NeMo Automodel logs it: the same counts again, called derived, in the trace and by the command."""
    file, out = history(tmp_path / "h.jsonl", LOAD / LOAD.mean(axis=2, keepdims=True)), tmp_path / "out.parquet"
    trace = import_log(file, out, format="wandb", top_k=2, tokens=512, shares=True)
    np.testing.assert_array_equal(trace.load_SLE, LOAD)
    assert (trace.tokens_SL == 512).all()
    assert (trace.meta.count_semantics, trace.meta.format_version) == ("derived", "1.3")
    words = ["import", "wandb", str(file), "--shares", "--top-k", "2", "--tokens", "512"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "again.parquet")])
    assert "they say nothing about a batch's noise" in done.output


def test_scalars_of_tensorboard_may_be_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same option, of float32 values."""
    chosen = logs.choices()
    load = logs.truth(chosen)
    total = int(load[0, 0].sum())
    monkeypatch.setattr(logs, "truth", lambda _: load / total)
    folder = logs.tensorboard(tmp_path / "t", chosen)
    trace = import_log(folder, tmp_path / "a.parquet", format="tensorboard", top_k=2, tokens=total // 2, shares=True)
    np.testing.assert_array_equal(trace.load_SLE, load)
    assert trace.meta.count_semantics == "derived"


def test_no_noise_is_claimed_of_counts_that_were_made(tmp_path: Path) -> None:
    """Of a derived trace there is no floor of draws, no floor of half batches and no over-dispersion."""
    found = {}
    for name, value_SLE, more in (
        ("share", LOAD / LOAD.sum(axis=2, keepdims=True), {"shares": True}),
        ("count", LOAD, {}),
    ):
        file = history(tmp_path / f"{name}.jsonl", value_SLE)
        trace = import_log(file, tmp_path / f"{name}.parquet", format="wandb", top_k=2, tokens=512, **more)
        marks = trace_floors(trace, None, (10,), given={"all": [np.arange(20)]}).marks()
        found[name] = marks["floor_sampling"], marks["floor_batch"], describe_layers(trace)[0].over_dispersion
    assert found["share"] == ("not given", "not given", None)
    assert found["count"][0] != "not given"
    assert found["count"][2] is not None


@pytest.mark.parametrize(
    ("given", "change", "says"),
    [
        ({}, 1.0, r"expected a whole number from 0: shares \(--shares\)"),
        ({"shares": True}, 1.0, "expected --tokens and --top-k"),
        ({"shares": True, "top_k": 2}, 1.0, "expected --tokens and --top-k"),
        ({"shares": True, "top_k": 2, "tokens": 512, "counted": "pre_drop"}, 1.0, "and no --counted"),
        ({"shares": True, "top_k": 2, "tokens": 512}, 0.5, "sum to 0.5, expected 1, 100 or 8"),
        ({"shares": True, "top_k": 8, "tokens": 512}, 1.0, "at most 1 / top-k = 0.125"),
        ({"shares": True, "top_k": 2, "tokens": 512}, -1.0, "expected a share from 0"),
    ],
)
def test_shares_that_do_not_add_up_are_refused(given: dict[str, Any], change: float, says: str, tmp_path: Path) -> None:
    """Without the option or what it needs, with experts missing, with another top-k, and below 0."""
    file = history(tmp_path / "h.jsonl", change * LOAD / LOAD.sum(axis=2, keepdims=True))
    with pytest.raises(TraceError, match=says):
        import_log(file, tmp_path / "out.parquet", format="wandb", **given)


def test_the_top_and_bottom_experts_alone_are_refused(tmp_path: Path) -> None:
    """NeMo Automodel logs only those unless its own top_k covers all: the expert that is missing is named."""
    file = history(tmp_path / "h.jsonl", LOAD / LOAD.mean(axis=2, keepdims=True))
    file.write_text(file.read_text().replace("layer_1_expert_4", "other"))
    with pytest.raises(TraceError, match="expert 4 of layer 1 is missing, expected 8 experts"):
        import_log(file, tmp_path / "out.parquet", format="wandb", top_k=2, tokens=512, shares=True)
