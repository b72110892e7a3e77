"""`export routing`: recorded routing is written as it was, any other has the recorded counts, and files say which."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moeload_bench import load_trace, routing, write_trace
from moeload_bench.arrays import Array
from moeload_bench.cli.app import app
from moeload_bench.errors import TraceError
from moeload_bench.ops.interchange import routing_export as module
from moeload_bench.ops.interchange.routing_export import plan_routing
from moeload_bench.ops.interchange.routing_files import ABOUT, ENDINGS, write_routing_export
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.routing import StepRouting, routing_folder, write_routing
from moeload_bench.traces.trace import Trace
from tests.conftest import needs_traces, synthetic_load_SLE

ROOT = Path(__file__).resolve().parents[3]
TOKENS, LAYERS = 128, ({"index": 1, "experts": 6, "top_k": 2}, {"index": 3, "experts": 6, "top_k": 2})


def kept_step(step: int, rank: int, weights: bool = True) -> StepRouting:
    """64 tokens of a rank in two layers."""
    rng = np.random.default_rng([step, rank])
    ids_LTK = np.argsort(rng.random((2, TOKENS // 2, 6)), axis=2)[..., :2].astype(np.int16)
    half_LTK = rng.random(ids_LTK.shape).astype(np.float16)
    return StepRouting(step, rank, np.array([1, 3]), np.array([64]), ids_LTK, half_LTK if weights else None)


def counted(*parts: StepRouting) -> Array:
    ids_LTK = np.concatenate([part.topk_ids_LTK for part in parts], axis=1)
    return np.stack([np.bincount(ids_TK.ravel(), minlength=6) for ids_TK in ids_LTK])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 10 to 14; the routing of 11 was kept by two ranks."""
    load_SLE = np.array(synthetic_load_SLE(5, experts=6, tokens=TOKENS))
    parts = [kept_step(11, rank) for rank in (0, 1)]
    load_SLE[1] = counted(*parts)
    trace = Trace.from_arrays(
        load_SLE, TOKENS, 2, step_S=np.arange(10, 15), layers=LAYERS, columns={"load_half": load_SLE // 2},
        sequence_length=16, licence="CC-BY-4.0",
    )  # fmt: skip
    path = write_trace(trace, tmp_path / "own/test/seed0.parquet")
    for part in parts:
        write_routing(routing_folder(path), part)
    return path


def read_back(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """A file's arrays by name, and what it says of itself."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return arrays, json.loads(str(arrays.pop("about")))
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[ABOUT])  # noqa: SIM118
    table = pq.read_table(path)
    dtypes = {"topk_ids": "int32", "rank_end": "int64", "weights": "float16"}
    arrays = {
        f"step{row['step']}.layer{row['layer']}.{name}": np.array(row[name], dtype=dtype)
        for row in table.to_pylist()
        for name, dtype in dtypes.items()
        if row[name] is not None
    }
    return arrays, json.loads(table.schema.metadata[ABOUT.encode()])


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_holds_the_routing_and_says_how_far_it_is_real(ending: str, run: Path, tmp_path: Path) -> None:
    """Arrays as `routing` gives them, a mark for each layer; the JSON beside it is in it; same seed, same bytes."""
    out = tmp_path / f"routing{ending}"
    write_routing_export(plan_routing(run, "10-11", layers="1,3", seed=5), out)
    arrays, about = read_back(out)
    expected = [layer for step in (10, 11) for layer in routing(run, step, seed=5).layers]
    for one in expected:
        begin = f"step{one.step}.layer{one.layer}"
        np.testing.assert_array_equal(arrays.pop(f"{begin}.topk_ids"), one.topk_ids_TK)
        np.testing.assert_array_equal(arrays.pop(f"{begin}.rank_end"), one.rank_end_R)
        assert (f"{begin}.weights" in arrays) == (one.mark == "recorded")
        if one.weights_TK is not None:
            np.testing.assert_array_equal(arrays.pop(f"{begin}.weights"), one.weights_TK)
    assert arrays == {}
    assert [layer["mark"] for layer in about["layers"]] == ["counts-only"] * 2 + ["recorded"] * 2
    assert {*about["marks"]} == {"counts-only", "recorded"}
    assert (about["run"], about["licence"]) == ("own/test/seed0", "CC-BY-4.0")
    assert "CITATION" in about["cite"]
    assert json.loads((tmp_path / f"routing{ending}.about.json").read_text()) == about
    before = out.read_bytes()
    write_routing_export(plan_routing(run, "10-11", seed=5), out)
    assert out.read_bytes() == before
    write_routing_export(plan_routing(run, "10-11", seed=6), out)
    assert out.read_bytes() != before


def test_counts_are_those_of_the_trace_step_by_step(run: Path) -> None:
    """Whatever is kept of a step or not."""
    trace = load_trace(run)
    for row, step in enumerate(trace.step_S.tolist()):
        for place, layer in enumerate(routing(run, step).layers):
            assert (np.diff(np.sort(layer.topk_ids_TK, axis=1), axis=1) > 0).all()
            load_E = np.bincount(layer.topk_ids_TK.ravel(), minlength=6)
            np.testing.assert_array_equal(load_E, trace.load_SLE[row, place])


def test_what_was_kept_is_written_with_its_ranks(run: Path) -> None:
    """Ids, weights and ranks as recorded; another number of tokens is made up from the counts, and says so."""
    found = routing(run, 11)
    assert found.mark == "recorded"
    for place, layer in enumerate(found.layers):
        parts = [kept_step(11, rank) for rank in (0, 1)]
        np.testing.assert_array_equal(layer.topk_ids_TK, np.concatenate([p.topk_ids_LTK[place] for p in parts]))
        assert layer.weights_TK is not None
        assert layer.topk_ids_TK.dtype == np.int32
        assert layer.rank_end_R.tolist() == [64, 128]
    assert routing(run, 11, ranks=4).layers[0].rank_end_R.tolist() == [32, 64, 96, 128]
    more = routing(run, 11, tokens=512, layers=[3])
    assert more.mark == "counts-only"
    assert more.layers[0].topk_ids_TK.shape == (512, 2)
    np.testing.assert_array_equal(
        np.bincount(more.layers[0].topk_ids_TK.ravel(), minlength=6), 4 * load_trace(run).load_SLE[1, 1]
    )
    assert more.about["layers"][0]["recorded_tokens"] == 128


def test_routing_of_another_recording_is_none_of_this_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the trace it is an error; found by the run's id it counts for the very same loads alone."""
    monkeypatch.chdir(tmp_path)
    trace = load_trace(run)
    assert routing(trace, 12).mark == "counts-only"
    write_routing(tmp_path / "routing/own/test/seed0.routing", kept_step(12, 0))
    assert routing(trace, 12).mark == "counts-only"
    write_routing(tmp_path / "routing/own/test/seed0.routing", kept_step(11, 0))
    assert routing(trace, 11).mark == "counts-only"
    write_routing(tmp_path / "routing/own/test/seed0.routing", kept_step(11, 1))
    assert routing(trace, 11).mark == "recorded"
    write_routing(routing_folder(run), kept_step(12, 0))
    with pytest.raises(TraceError, match=r"seed0\.routing/step000000012-rank0000\.npz: its tokens give other counts"):
        routing(run, 12)


HOSTILE: dict[str, tuple[Callable[[StepRouting], StepRouting], str]] = {
    "of another step": (lambda kept: kept._replace(step=12), "its tokens give other counts"),
    "of other layers": (lambda kept: kept._replace(layer_L=np.array([0, 1])), "its tokens give other counts"),
    "one choice of twice the tokens": (
        lambda kept: kept._replace(topk_ids_LTK=kept.topk_ids_LTK.reshape(2, -1, 1), end_M=2 * kept.end_M),
        "its tokens give other counts",
    ),
    "an expert twice in a token": (
        lambda kept: kept._replace(topk_ids_LTK=np.sort(kept.topk_ids_LTK.reshape(2, -1)).reshape(2, -1, 2)),
        "its tokens give other counts",
    ),
    "weights that are none": (
        lambda kept: kept._replace(weights_LTK=np.full(kept.topk_ids_LTK.shape, np.nan, np.float16)),
        "a weight is negative or not finite",
    ),
    "whole weights": (lambda kept: kept._replace(weights_LTK=kept.topk_ids_LTK), "got shapes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_lies_beside_a_trace_is_its_routing_or_refused(case: str, run: Path) -> None:
    """Of another step, layers or top-k, an expert twice, and weights that are none: counts alone may be the same."""
    change, words = HOSTILE[case]
    for rank in (0, 1):
        path = write_routing(routing_folder(run), change(kept_step(11, rank, weights=False)))
        path.rename(routing_folder(run) / f"step000000011-rank{rank:04d}.npz")
    with pytest.raises(TraceError, match=words):
        plan_routing(run, 11)


def test_a_pipe_beside_a_trace_is_not_waited_for(run: Path) -> None:
    path = routing_folder(run) / "step000000011-rank0000.npz"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TraceError, match="expected a file"):
        plan_routing(run, 11)


def test_steps_layers_ranks_and_counts_that_cannot_be_routed_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words: what was got and what there is."""
    for step in (9, "11-15", "14-11", "x", -1, "11-", True):
        with pytest.raises(TraceError, match=r"own/test/seed0: got step .*, expected one from 10 to 14"):
            routing(run, step)  # type: ignore[arg-type]
    for layers in ("2", "3-1", "1,", "1-", []):
        with pytest.raises(TraceError, match=r"got .*layer.*1, 3$"):
            plan_routing(run, 10, layers=layers)
    for ranks in (0, 129):
        with pytest.raises(TraceError, match=f"--ranks is {ranks}, expected 1 to the 128 tokens"):
            routing(run, 10, ranks=ranks)
    monkeypatch.setattr(module, "MAX_PAIRS", 1000)
    with pytest.raises(TraceError, match="more than 1,000 routed pairs, expected fewer steps"):
        plan_routing(run, "10-14")
    load_SLE = np.array([[[5, 3]], [[0, 0]]])
    with pytest.raises(TraceError, match="step 0, layer 0: top-k is not known or varies"):
        routing(Trace.from_arrays(load_SLE), 0)
    with pytest.raises(TraceError, match="step 1, layer 0: no token entered it"):
        routing(Trace.from_arrays(load_SLE, [4, 0], 2, count_semantics="post_drop"), 1)
    with pytest.raises(TraceError, match="expert 0 has load 5, expected at most the 4 tokens"):
        routing(Trace.from_arrays(load_SLE, [4, 0], 2, count_semantics="post_drop"), 0)


def test_the_command_prints_both_numbers_of_tokens_and_the_mark(run: Path, tmp_path: Path) -> None:
    """A line of size, then what each mark means; a name of no format is refused before anything is read."""

    def exported(*words: str) -> str:
        done = CliRunner().invoke(app, ["export", "routing", str(run), *words])
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    out = str(tmp_path / "r.npz")
    said = exported("--step", "11", "--out", out, "--ranks", "8")
    assert (
        "r.npz: 1 step, 2 layers, 6 experts, top-2, 128 tokens (128 recorded) recorded: counts, co-activation" in said
    )
    said = exported("--step", "10-12", "--layers", "3", "--tokens", "256", "--out", out)
    assert "3 steps, 1 layer, 6 experts, top-2, 256 tokens (128 recorded) counts-only: each expert's" in said
    done = CliRunner().invoke(app, ["export", "routing", str(run), "--step", "11", "--out", "r.csv"])
    assert isinstance(done.exception, TraceError)
    assert "expected a name that ends in .npz, .safetensors, .parquet" in str(done.exception)


@needs_traces
def test_the_routing_of_the_checkout_is_that_of_its_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step in ./routing gives the counts of its trace, in every layer; README's command writes one of them."""
    monkeypatch.chdir(ROOT)
    (command,) = re.findall(r"`moeload-bench (export routing .*?) --out routing\.npz`", Path("README.md").read_text())
    done = CliRunner().invoke(app, [*command.split(), "--out", str(tmp_path / "routing.npz")])
    assert "recorded: counts, co-activation" in done.output, done.output
    folders = sorted(Path("routing").glob("*/*/seed*.routing"))
    assert folders
    for folder in folders:
        own = folder.with_suffix(".parquet")
        trace = load_trace(own if own.is_file() else folder.relative_to("routing").with_suffix("").as_posix())
        steps = [int(path.name[4:13]) for path in sorted(folder.iterdir())]
        assert all(routing(trace, step).mark == "recorded" for step in steps), folder
    published = {ref.id for ref in list_traces("traces")}
    assert not published & {ref.id for ref in list_traces("routing")}, "a run would have two traces"
