"""Placements, forecasts and series in the forms of other tools: the same numbers when their own readers read them."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import NotFoundError, PlacementError, TraceError
from moeload_bench.ops.interchange.counts import read_csv
from moeload_bench.ops.interchange.forecast_files import Ahead, forecast_ahead, write_forecast
from moeload_bench.ops.interchange.rows import Options, write_log
from moeload_bench.ops.interchange.series import ENDINGS, write_series
from moeload_bench.ops.planning import placements
from moeload_bench.ops.planning.placements import Placement, place_forecast, write_placement
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.traces.store import data_sha256, read_trace, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import need, synthetic_load_SLE, synthetic_trace
from tests.support.needs import PEERS

SHAPE = ClusterShape("test", 2, 6)


def sampled() -> Trace:
    """60 rows, one in ten steps; the layers are blocks 1 and 3 of a model, block 0 and 2 are dense."""
    load = synthetic_load_SLE(60)
    layers = [{"index": 1, "experts": 4, "top_k": 2}, {"index": 3, "experts": 4, "top_k": 2}]
    return Trace.from_arrays(load, 512, 2, step_S=20 + 10 * np.arange(60), layers=layers)


@pytest.fixture(scope="module")
def ahead() -> Ahead:
    return forecast_ahead(sampled(), "last_value", 200, level="none")


@pytest.fixture
def placed(ahead: Ahead) -> Placement:
    return place_forecast(ahead, SHAPE)


def test_the_forecast_is_made_from_the_whole_trace(ahead: Ahead) -> None:
    """Every step is observed, the window begins after the last one; weights are tokens of a step, and say whence."""
    trace = sampled()
    share_LE = trace.share_SLE()[-1]
    np.testing.assert_allclose(ahead.share_LE, share_LE, atol=1e-12)
    np.testing.assert_allclose(ahead.weight_LE, share_LE * 1024, atol=1e-9)
    assert (ahead.about["first_step"], ahead.about["horizon"]) == (620, 200)
    assert ahead.about["data_sha256"] == data_sha256(trace)
    with pytest.raises(PlacementError, match="--horizon is 15, expected a multiple of the trace's stride, 10"):
        forecast_ahead(trace, "sw_avg", 15, level="none")


def slots_of(kind: str, path: Path) -> np.ndarray:
    """[L, R] read back from a placement file."""
    if kind == "tensorrt-llm":
        rows = re.findall(r"^  \d+: \[(.*)\]$", path.read_text(), re.M)
        return np.array([[int(x) for x in row.split(",")] for row in rows])
    record = json.loads(path.read_text())
    if kind == "json":
        return np.array([layer["devices"] for layer in record["layers"]]).reshape(2, -1)
    if kind == "vllm":
        return np.array(record)
    if kind == "vllm-ascend":
        layers = record["layer_list"]
        return np.array([[d["device_expert"] for d in m["device_list"]] for m in layers]).reshape(2, -1)
    slots = np.array(record["physical_to_logical_map"])
    return slots[[1, 3]] if kind == "sglang" else slots


@pytest.mark.parametrize("kind", [name for name in placements.FORMATS if name != "megatron"])
def test_every_format_holds_the_plan(kind: str, ahead: Ahead, tmp_path: Path) -> None:
    """Each file gives back the planner's slots, and says what it was made from; vllm-ascend's a plan without replicas,
    since the engine keeps one slot of an expert on a device.
    """
    shape = replace(SHAPE, slots=4) if kind == "vllm-ascend" else SHAPE
    path = write_placement(place_forecast(ahead, shape), tmp_path / "p.json", kind)
    np.testing.assert_array_equal(slots_of(kind, path), plan(ahead.weight_LE, shape))
    beside = (
        json.loads(path.read_text())["about"] if kind == "json" else json.loads(Path(f"{path}.about.json").read_text())
    )
    assert beside["shape"] == {"devices": 2, "slots": shape.slots, "nodes": 1, "groups": 1}
    assert beside["forecaster"] == "last_value"


def test_eplb_maps_agree_with_one_another(placed: Placement, tmp_path: Path) -> None:
    """Fields of EPLB's result: the inverse map points back, its padding is -1, counts are those of the slots."""
    record = json.loads(write_placement(placed, tmp_path / "p.json", "eplb").read_text())
    slots, inverse = np.array(record["physical_to_logical_map"]), np.array(record["logical_to_physical_map"])
    count = np.array(record["expert_count"])
    assert count.sum(axis=1).tolist() == [6, 6]
    np.testing.assert_array_equal((inverse >= 0).sum(axis=2), count)
    for m, e, x in np.argwhere(inverse >= 0):
        assert slots[m, inverse[m, e, x]] == e


def test_sglang_gets_a_row_for_every_layer_and_no_other_key(placed: Placement, ahead: Ahead, tmp_path: Path) -> None:
    """Dense layers hold the experts in order, as sglang's own trivial map; keys are arguments there."""
    record = json.loads(write_placement(place_forecast(ahead, SHAPE, 6), tmp_path / "p.json", "sglang").read_text())
    assert list(record) == ["physical_to_logical_map"]
    assert len(record["physical_to_logical_map"]) == 6
    assert record["physical_to_logical_map"][0] == [0, 1, 2, 3, 0, 1]
    with pytest.raises(PlacementError, match="--model-layers is 3, the trace has layer 3; expected 4 or more"):
        place_forecast(ahead, SHAPE, 3)
    with pytest.raises(PlacementError, match=r"p\.txt: .* expected a name that ends in \.json or \.pt"):
        write_placement(placed, tmp_path / "p.txt", "sglang")


def test_a_plan_for_fewer_layers_than_the_models_needs_to_know_which_they_are(ahead: Ahead, tmp_path: Path) -> None:
    """MoE layers that are only counted from 0 are not put into the rows of dense ones; stated, they are shifted."""
    counted = Ahead(ahead.share_LE, ahead.weight_LE, (0, 1), ahead.about)
    with pytest.raises(PlacementError, match=r"numbers its 2 MoE layers from 0 .* has 5 layers: expected"):
        place_forecast(counted, SHAPE, 5)
    with pytest.raises(PlacementError, match="expected --first-layer"):
        write_forecast(counted, tmp_path / "w.json", "sglang", 5)
    placed = place_forecast(counted, SHAPE, 5, 3)
    assert (placed.layers, placed.other_rows) == ((3, 4), (0, 1, 2))
    assert place_forecast(counted, SHAPE, 5, 0).layers == (0, 1), "dense layers that come last"
    assert place_forecast(counted, SHAPE, 2).layers == (0, 1), "a model of MoE layers only"
    with pytest.raises(PlacementError, match=r"--first-layer is 0, but the trace has its layers' numbers: \(1, 3\)"):
        place_forecast(ahead, SHAPE, 5, 0)


def test_the_command_names_the_rows_that_it_left_as_they_are(tmp_path: Path) -> None:
    """sglang's file has a row for each layer of the model."""
    load_SLE = np.ones((60, 2, 4), dtype=np.int64)
    trace = write_trace(Trace.from_arrays(load_SLE, top_k=1), tmp_path / "t.parquet")
    words = f"plan {trace} --devices 2 --slots 6 --write {tmp_path / 'p.json'} --level none --horizon 10".split()
    more = ["--format", "sglang", "--model-layers", "5", "--first-layer", "3"]
    done = CliRunner().invoke(app, [*words, *more])
    assert "layers without a plan, their experts in order: 0, 1, 2" in done.output
    rows = json.loads((tmp_path / "p.json").read_text())["physical_to_logical_map"]
    assert rows[:3] == [[0, 1, 2, 3, 0, 1]] * 3


@pytest.mark.parametrize("kind", ["sglang", "eplb"])
def test_tensors_are_read_by_torch_load(kind: str, placed: Placement, tmp_path: Path) -> None:
    """A name that ends in .pt holds tensors, which `torch.load(weights_only=True)` gives back."""
    torch = need("torch", "pip install '.[torch]'")
    path = write_placement(placed, tmp_path / "p.pt", kind)
    slots = torch.load(path, weights_only=True)["physical_to_logical_map"].numpy()
    np.testing.assert_array_equal(slots[[1, 3]] if kind == "sglang" else slots, placed.slot_expert_LR)


def test_megatron_holds_each_expert_once(ahead: Ahead, placed: Placement, tmp_path: Path) -> None:
    """Without spare slots the experts of each rank are listed; with them the format says what it cannot hold."""
    plain = place_forecast(ahead, ClusterShape("plain", 2, 4))
    record = json.loads(write_placement(plain, tmp_path / "p.json", "megatron").read_text())
    assert sorted(e for rank in record["experts_of_rank"]["3"] for e in rank) == [0, 1, 2, 3]
    with pytest.raises(PlacementError, match="got 6 slots for 4 experts; expected --slots 4"):
        write_placement(placed, tmp_path / "q.json", "megatron")
    with pytest.raises(NotFoundError, match="unknown placement format 'x'; there is: eplb, json"):
        write_placement(placed, tmp_path / "q.json", "x")
    assert not (tmp_path / "q.json").exists()


def test_forecasts_are_written_as_planners_take_them(ahead: Ahead, tmp_path: Path) -> None:
    """npz and JSON hold `weight`; sglang's counts are whole tokens of the window, at the indices of the layers."""
    npz = np.load(write_forecast(ahead, tmp_path / "w.npz", "npz"))
    np.testing.assert_array_equal(npz["weight"], ahead.weight_LE)
    record = json.loads(write_forecast(ahead, tmp_path / "w.json", "json").read_text())
    np.testing.assert_array_equal(record["weight"], ahead.weight_LE)
    counts = json.loads(write_forecast(ahead, tmp_path / "s.json", "sglang").read_text())["logical_count"]
    assert np.shape(counts) == (4, 4)
    np.testing.assert_allclose(np.array(counts)[[1, 3]], ahead.weight_LE * 200, atol=0.5)


def test_sglangs_counts_have_a_row_for_every_layer(ahead: Ahead, tmp_path: Path) -> None:
    """sglang goes by the layer's index in the model: dense layers hold ones, too few layers are refused."""
    path = write_forecast(ahead, tmp_path / "s.json", "sglang", 6)
    counts = np.array(json.loads(path.read_text())["logical_count"])
    assert counts.shape == (6, 4)
    assert (counts[[0, 2, 4, 5]] == 1).all()
    assert (counts[[1, 3]].sum(axis=1) > 100_000).all()
    trace = write_trace(sampled(), tmp_path / "t.parquet")
    words = ["--format", "sglang", "--model-layers", "5", "--level", "none", "--out", str(tmp_path / "u.json")]
    done = CliRunner().invoke(app, ["export", "forecast", str(trace), *words])
    assert done.exit_code == 0, done.output
    assert len(json.loads((tmp_path / "u.json").read_text())["logical_count"]) == 5


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "kind", "name"),
    [
        ("statsforecast", "nixtla", "t.csv"),
        ("statsforecast", "nixtla", "t.parquet"),
        ("fev", "fev", "t.parquet"),
        ("gluonts", "gluonts", "t.jsonl"),
    ],
)
def test_peers_read_the_same_numbers(tool: str, kind: str, name: str, tmp_path: Path) -> None:
    """Written here, read by the tool's own reader in an environment of its own: every series, every value."""
    trace = sampled()
    path = write_series(trace, tmp_path / name, kind)
    reader = Path(__file__).parents[2] / "support" / "foreign" / "peer_readers.py"
    done = subprocess.run([PEERS, reader, tool, path, tmp_path / "o.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    got = dict(np.load(tmp_path / "o.npz"))
    for m, index in enumerate((1, 3)):
        for e in range(4):
            series = f"layer{index}/expert{e}"
            np.testing.assert_array_equal(got[series], trace.load_SLE[:, m, e])
            if tool == "statsforecast":
                np.testing.assert_array_equal(got[f"last/{series}"], [trace.load_SLE[-1, m, e]] * 2)


def test_a_table_comes_back_as_the_same_trace(tmp_path: Path) -> None:
    """`export trace --format csv` and `import csv`: steps, layers, tokens and loads."""
    trace = sampled()
    log = read_csv(write_series(trace, tmp_path / "t.csv", "csv"))
    again = read_trace(write_log(log, tmp_path / "t.parquet", Options(top_k=2)).path)
    assert data_sha256(again) == data_sha256(trace)
    assert again.meta.layers == trace.meta.layers


def test_shares_of_an_empty_layer_step_are_missing(tmp_path: Path) -> None:
    """A layer-step without load has no shares: null, not 0."""
    trace = Trace.from_arrays(np.array([[[1, 3]], [[0, 0]]]), [4, 0], 1)
    lines = write_series(trace, tmp_path / "t.jsonl", "gluonts", "share").read_text().splitlines()
    assert json.loads(lines[0])["target"] == [0.25, None]


def test_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """The ending of a name decides what is written, so another is refused."""
    with pytest.raises(TraceError, match=r"t\.csv: expected a name that ends in \.parquet for fev"):
        write_series(synthetic_trace(20), tmp_path / "t.csv", "fev")
    with pytest.raises(NotFoundError, match=f"there is: {', '.join(sorted(ENDINGS))}"):
        write_series(synthetic_trace(20), tmp_path / "t.csv", "darts")


def test_the_commands_write_what_the_functions_do(tmp_path: Path) -> None:
    """`plan --write` for a horizon, whatever of the costs is stated; `export` of forecasts and series."""
    path = write_trace(synthetic_trace(300), tmp_path / "t.parquet")
    base = ["plan", str(path), "--devices", "2", "--slots", "6", "--level", "none"]
    done = CliRunner().invoke(app, [*base, "--write", str(tmp_path / "p.json"), "--format", "eplb", "--horizon", "50"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "p.json.about.json").read_text())["horizon"] == 50
    some = CliRunner().invoke(app, [*base, "--write", str(tmp_path / "q.json"), "--step-ms", "9"])
    assert some.exit_code == 0, some.output
    said = " ".join(some.output.split())
    assert "Stated: 2 devices with 6 slots (the spare ones take 400 MB more on a device), steps of 9 ms." in said
    out = ["--out", str(tmp_path / "w.json"), "--level", "none", "--horizon", "20"]
    assert CliRunner().invoke(app, ["export", "forecast", str(path), *out]).exit_code == 0
    words = ["export", "trace", str(path), "--format", "gluonts", "--out", str(tmp_path / "t.jsonl")]
    assert "8 series of 300 steps" in CliRunner().invoke(app, words).output
