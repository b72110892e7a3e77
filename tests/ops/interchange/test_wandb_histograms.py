"""W&B's histograms of routing, written by W&B's own library offline, become traces; other histograms are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import TraceError
from moeload_bench.ops.interchange.importing import import_log
from moeload_bench.ops.interchange.wandb import read_wandb
from moeload_bench.traces.store import read_trace
from tests.conftest import need
from tests.support.foreign.wandb_offline import histogram, history

NAME = "train/router/layer_{}/routing_hist"
LOAD = np.random.default_rng(0).multinomial(4096 * 4, np.full(64, 1 / 64), (60, 3))
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The history of a run of 60 steps, 3 layers and 64 experts, with a loss; of float counts, as trainers have."""
    steps = [
        {NAME.format(m): histogram(load_E.astype(np.float32).tolist()) for m, load_E in enumerate(load_LE)}
        | {"train/loss": 2.5}
        for load_LE in LOAD
    ]
    return history(tmp_path_factory.mktemp("wandb") / "run", steps)


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


WRITERS: dict[str, Callable[[Path, Rows], Path]] = {"history.jsonl": lines, "history.parquet": parquet}


@pytest.mark.parametrize("name", WRITERS)
def test_histograms_that_wandb_wrote_are_read_back_equal(name: str, rows: Rows, tmp_path: Path) -> None:
    """Every count of every step, expert and layer, and tokens from top-k; rows of other logs are skipped."""
    file = WRITERS[name](tmp_path / name, [{"_step": 0, "train/loss": 9.0}, *rows])
    trace = import_log(file, tmp_path / "out.parquet", format="wandb", top_k=4, experts=64)
    np.testing.assert_array_equal(trace.load_SLE, LOAD)
    assert (trace.tokens_SL == 4096).all()
    assert trace.meta.count_semantics == "unknown"
    assert trace.meta.notes == (f"logged as {NAME.format('{l}')}, a histogram with one bin for each expert",)


def test_the_newer_name_is_found_and_another_one_can_be_given(rows: Rows, tmp_path: Path) -> None:
    """Marin's trainer now adds /histogram to the name; --pattern with {l} alone takes any other."""
    for suffix, pattern in (("/histogram", None), ("/mine", NAME.format("{l}") + "/mine")):
        renamed = [{k + suffix if "routing_hist" in k else k: v for k, v in row.items()} for row in rows]
        file = lines(tmp_path / f"{suffix[1:]}.jsonl", renamed)
        words = ["import", "wandb", str(file), "--top-k", "4", "--out", str(tmp_path / f"{suffix[1:]}.parquet")]
        done = CliRunner().invoke(app, [*words, *(["--pattern", pattern] if pattern else [])])
        assert "60 steps, 3 layers, 64 experts" in done.output, done.output
        np.testing.assert_array_equal(read_trace(tmp_path / f"{suffix[1:]}.parquet").load_SLE, LOAD)


def damaged(rows: Rows, **values: Any) -> Rows:
    """The rows with another histogram in layer 1 of step 7."""
    return [row | {NAME.format(1): row[NAME.format(1)] | values} if row["_step"] == 7 else row for row in rows]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: damaged(rows, values=[1] * 32, bins=list(range(33))), "has 32 bins, expected 64"),
        (lambda rows: damaged(rows, bins=np.linspace(0, 63, 65).tolist()), "64 bins with 65 edges from 0 to 63"),
        (lambda rows: damaged(rows, bins=list(range(1, 66))), "65 edges from 1 to 65, expected one bin of width 1"),
        (lambda rows: damaged(rows, values=[1] * 63), "63 bins with 65 edges"),
        (lambda rows: damaged(rows, values=[0.5] * 64), r"values\[0\] is 0\.5, expected a whole number"),
        (lambda rows: damaged(rows, values=[-1] * 64), r"values\[0\] is -1, expected a whole number"),
        (lambda rows: [*rows[:9], rows[9] | {NAME.format(1): None}], "empty, other layers have a value"),
        (lambda rows: [*rows[:9], rows[9] | {NAME.format(1): 3.5}], r"is 3\.5, expected a histogram"),
        (lambda rows: [*rows[:9], *rows[10:]], r"step 9 is missing.*run\.history\(\) gives 500 rows"),
        (lambda rows: [*rows[:9], rows[8]], "step 8 twice"),
        (lambda rows: damaged(rows, values=[5] * 64), "step 7: loads sum to"),
        (lambda rows: [row | {NAME.format("01"): row[NAME.format(1)]} for row in rows], "is layer 1 again"),
    ],
)
def test_what_does_not_count_experts_is_refused_with_line_and_name(
    change: Callable[[Rows], Rows], says: str, rows: Rows, tmp_path: Path
) -> None:
    """Other bins than one for each expert, fractions, values that are no histogram, steps that were sampled away."""
    file = lines(tmp_path / "history.jsonl", change(rows))
    with pytest.raises(TraceError, match=rf"history\.jsonl.*{says}"):
        import_log(file, tmp_path / "out.parquet", format="wandb", top_k=4)
    assert not (tmp_path / "out.parquet").exists()


def test_a_histogram_that_wandb_makes_of_values_is_refused(tmp_path: Path) -> None:
    """`wandb.Histogram(array)`: 64 bins between the least and the largest value, whatever the experts are."""
    wandb = need("wandb", "pip install -e '.[dev]'")
    chosen = wandb.Histogram(np.repeat(np.arange(8), 5))
    file = lines(tmp_path / "history.jsonl", [{"_step": 0, NAME.format(0): chosen.to_json()}])
    with pytest.raises(TraceError, match=r"64 bins with 65 edges from 0 to 7, .* does not count experts"):
        import_log(file, tmp_path / "out.parquet", format="wandb")
    with pytest.raises(ValueError, match="maximum length of a histogram is 512"):
        histogram([1.0] * 513)


def test_what_the_service_may_have_done_is_said(rows: Rows, tmp_path: Path) -> None:
    """One step in six, 64 bins (W&B's default) without --experts, and counts beyond float32: each is a note."""
    big = [damaged([row], values=[1 << 25] * 64)[0] if row["_step"] == 7 else row for row in rows]
    file = lines(tmp_path / "history.jsonl", [row for row in big if row["_step"] % 6 == 1])
    notes = " ".join(import_log(file, tmp_path / "out.parquet", format="wandb").meta.notes)
    for said in ("one step in 6", "run.history() gives 500 rows", "--experts 64", "counts above 16,777,216"):
        assert said in notes


def test_histograms_in_a_csv_table_are_refused(tmp_path: Path) -> None:
    """A table of text has no histograms, only what Python prints of them."""
    file = tmp_path / "history.csv"
    file.write_text(f"_step,{NAME.format(0)}\n0,\"{{'values': [1], 'bins': [0, 1]}}\"\n")
    with pytest.raises(TraceError, match="is text, expected histograms in parquet or JSON Lines"):
        import_log(file, tmp_path / "out.parquet", format="wandb")


def test_texts_of_a_history_are_not_decoded(tmp_path: Path) -> None:
    """One text of 100 MB as the kind of each histogram takes 4 kB in a file: kinds are left unread, others refused."""
    path, name = tmp_path / "history.parquet", "train/router/layer_0/routing_hist"
    kind = pa.array([b"\xff"] * 2).view(pa.string())  # not UTF-8: it fails where it is decoded
    values, bins = pa.array([[3, 1]] * 2), pa.array([[0.0, 1.0, 2.0]] * 2)
    for number, counts in enumerate((values, pa.array([["3", "1"]] * 2))):
        histogram = pa.StructArray.from_arrays([kind, counts, bins], ["_type", "values", "bins"])
        pq.write_table(pa.table({"_step": [0, 1], name: histogram}), path)
        if not number:
            assert [row.load_LE.tolist() for row in read_wandb([path]).rows] == [[[3, 1]]] * 2
    with pytest.raises(TraceError, match=rf"column {name}\.values\S* holds texts, expected numbers"):
        read_wandb([path])
