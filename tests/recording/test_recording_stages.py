"""Pipeline stages that record their own layers, put together: the trace of one process, or a refusal that says why."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import RecordingError
from moeload_bench.recording.recorder import record
from moeload_bench.recording.stages import Stage, merge_stages, merge_when_complete
from moeload_bench.traces.store import read_trace, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE
from tests.support.recording.pipelines import ADAPTERS, LAYERS, TinyModel, batch, staged, without_stages
from tests.support.recording.ranks import run_ranks

torch.set_num_threads(1)
NAME = "own/test/seed0.parquet"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "copies", "schedule"),
    [(2, 1, "ScheduleGPipe"), (2, 1, "Schedule1F1B"), (4, 1, "Schedule1F1B"), (4, 2, "Schedule1F1B")],
)
def test_stages_of_a_real_schedule_equal_one_process(world: int, copies: int, schedule: str, tmp_path: Path) -> None:
    """Two and four gloo processes, learning rate 0: every count of every layer, halves and unevenness included."""
    run_ranks(world, staged, tmp_path / "ranks", tmp_path / "staged", 3, schedule, copies)
    without_stages(tmp_path / "whole", 3, imbalance_rank=True)
    got, expected = read_trace(tmp_path / "staged" / NAME), read_trace(tmp_path / "whole" / NAME)
    assert [path.name for path in (tmp_path / "staged/own/test").iterdir()] == ["seed0.parquet"]
    np.testing.assert_array_equal(got.load_SLE, expected.load_SLE)
    np.testing.assert_array_equal(got.tokens_SL, expected.tokens_SL)
    np.testing.assert_allclose(got.columns["imbalance_rank"], expected.columns["imbalance_rank"], rtol=1e-5)
    assert [layer.index for layer in got.meta.layers] == list(range(LAYERS))
    assert got.meta.parallel["pipeline"] == world // copies


def stage_traces(folder: Path, load: np.ndarray, **meta: object) -> list[Path]:
    """Two stages with two layers each, as recorders write them."""
    paths = []
    for index in range(2):
        part = load[:, 2 * index : 2 * index + 2]
        layers = [{"index": 2 * index + m, "experts": 4, "top_k": 2} for m in range(2)]
        columns = {"lr": np.full(len(load), 0.1), "load_half": part // 2}
        if index:
            columns["loss"] = np.arange(len(load))
        parallel = {"processes": 2, "stage": index, "stages": 2}
        given = {"layers": layers, "parallel": parallel, "columns": columns, **meta}
        trace = Trace.from_arrays(part, 512, 2, **given)  # type: ignore[arg-type]
        paths.append(write_trace(trace, Stage(index, 2).target(folder / "seed0.parquet")))
    return paths


def test_stages_are_put_together_by_layer(tmp_path: Path) -> None:
    """In any order, over chunk boundaries: layers by number, the loss of the stage that has it."""
    load = synthetic_load_SLE(1500, layers=4)
    paths = stage_traces(tmp_path, load)
    merged = read_trace(merge_stages(paths[::-1], tmp_path / "out.parquet"))
    np.testing.assert_array_equal(merged.load_SLE, load)
    np.testing.assert_array_equal(merged.columns["load_half"], load // 2)
    assert merged.columns["loss"][-1] == 1499
    assert merged.meta.parallel == {"processes": 2, "pipeline": 2}
    command = ["import", "merge", *map(str, paths), "--out", str(tmp_path / "again.parquet")]
    assert "1,500 steps, 4 layers, 4 experts" in CliRunner().invoke(app, command).output


def test_stages_are_merged_into_a_name_that_readers_look_for(tmp_path: Path) -> None:
    """A trace under another ending would be opened by no command: it is refused before anything is read."""
    with pytest.raises(RecordingError, match=r"m\.txt: expected a file name that ends in \.parquet"):
        merge_stages(stage_traces(tmp_path, synthetic_load_SLE(30, layers=4)), tmp_path / "m.txt")
    assert not (tmp_path / "m.txt").exists()


def test_the_last_stage_to_finish_merges(tmp_path: Path) -> None:
    """Nothing happens until all stages are there; then the whole stands and the parts are gone."""
    paths = stage_traces(tmp_path, synthetic_load_SLE(20, layers=4))
    away = paths[0].rename(tmp_path / "away.parquet")
    target = tmp_path / "seed0.parquet"
    assert merge_when_complete(target, 2) is None
    away.rename(paths[0])
    assert merge_when_complete(target, 2) == target
    assert [path.name for path in tmp_path.iterdir()] == ["seed0.parquet"]


def test_a_trace_that_is_there_is_refused_before_a_stage_trains(tmp_path: Path) -> None:
    """Not after the whole training; stages that are finished beside one say so and stay."""
    target = tmp_path / "own/test/seed0.parquet"
    paths = stage_traces(target.parent, synthetic_load_SLE(20, layers=4))
    write_trace(Trace.from_arrays(synthetic_load_SLE(20), 512, 2), target)
    with pytest.raises(RecordingError, match=r"seed0\.parquet: a trace is there already"):
        interrupted(TinyModel(), tmp_path, Stage(0, 2))
    with pytest.raises(RecordingError, match=r"seed0\.parquet: a trace is there already"):
        merge_when_complete(target, 2)
    assert all(path.exists() for path in paths)


def rewritten(path: Path, **change: object) -> None:
    """The same stage with other arrays or metadata."""
    old = read_trace(path)
    load, step = change.get("load", old.load_SLE), change.get("step", old.step_S)
    meta = {**old.meta.model_dump(mode="json"), **change.get("meta", {})}  # type: ignore[dict-item]
    path.unlink()
    layers = meta.pop("layers")
    trace = Trace.from_arrays(
        load, None, 2, step_S=step, layers=layers, **{k: meta[k] for k in ("recipe", "seed", "parallel", "run")}
    )
    write_trace(trace, path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (None, r"stage 1 is missing: got stages \[0\], expected 0 to 1"),
        ({"meta": {"recipe": "other"}}, r"recipe is 'other', .* has 'own': another run\?"),
        ({"meta": {"seed": 7}}, r"seed is 7, .* has None"),
        ({"step": np.arange(5, 25)}, r"stage1of2.*step 5 stands where .*stage0of2.* has 0"),
        ({"load": synthetic_load_SLE(15, layers=2), "step": np.arange(15)}, r"stage1of2.*ends before step 15"),
        ({"load": synthetic_load_SLE(20, layers=2, tokens=500)}, r"stage1of2.*: 500 tokens in step 0, .* has 512"),
        ({"meta": {"layers": [{"index": i, "experts": 4, "top_k": 2} for i in (1, 2)]}}, "layer 1 is in"),
        ({"meta": {"parallel": {"stage": 0, "stages": 2}}}, r"stage 1 is missing: got stages \[0, 0\]"),
    ],
)
def test_stages_that_do_not_fit_are_named(change: dict[str, object] | None, says: str, tmp_path: Path) -> None:
    """A missing stage, another run, other steps, other tokens, a layer twice: refused, and nothing is written."""
    paths = stage_traces(tmp_path, synthetic_load_SLE(20, layers=4))
    if change is None:
        paths.pop()
    else:
        rewritten(paths[1], **change)
    with pytest.raises(RecordingError, match=says):
        merge_stages(paths, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_stage_that_does_not_say_what_it_counts_counts_all(tmp_path: Path) -> None:
    """As a recording of format 1 that is gone on with: it fits stages that say "all", and no others."""
    load = synthetic_load_SLE(20, layers=4)
    for counted in ("all", "attended"):
        rewritten(stage_traces(tmp_path / counted, load, counted=counted)[1])  # which leaves the field out
    paths = {counted: sorted((tmp_path / counted).glob("*.parquet")) for counted in ("all", "attended")}
    assert [read_trace(path).meta.counted for path in paths["all"]] == ["all", None]
    merged = read_trace(merge_stages(paths["all"], tmp_path / "out.parquet"))
    np.testing.assert_array_equal(merged.load_SLE, load)
    with pytest.raises(RecordingError, match=r"stage1of2\.parquet: counted is 'all', .*stage0of2.* has 'attended'"):
        merge_stages(paths["attended"], tmp_path / "other.parquet")


def interrupted(model: TinyModel, out: Path, stage: Stage) -> None:
    """Three steps of a stage, then Ctrl-C."""
    with record(model, out, adapters=ADAPTERS, stage=stage, on_error="raise") as r:
        for step in range(3):
            model(batch(step)).sum().backward()
            r.step()
        raise KeyboardInterrupt


def test_parts_of_an_interrupted_pipeline_are_merged_by_hand(tmp_path: Path) -> None:
    """`merge A.parts B.parts`: what every stage has on disk, marked as cut short."""
    for index in range(2):
        model = TinyModel(2 * index, 2 * index + 2)
        with pytest.raises(KeyboardInterrupt):
            interrupted(model, tmp_path, Stage(index, 2))
    folders = sorted((tmp_path / "own/test").glob("*.parts"))
    assert [folder.name for folder in folders] == ["seed0.stage0of2.parts", "seed0.stage1of2.parts"]
    merged = read_trace(merge_stages(folders, tmp_path / "out.parquet"))
    assert merged.load_SLE.shape == (3, 4, 8)
    assert not merged.meta.complete
    shutil.rmtree(folders[1])
    folders[1].mkdir()
    with pytest.raises(RecordingError, match=r"no recording's manifest in it, expected a folder NAME\.parts"):
        merge_stages(folders, tmp_path / "again.parquet")


def test_blocks_numbered_inside_the_stage_are_moved(tmp_path: Path) -> None:
    """`layer_offset` makes the numbers those of the model; a stage that cannot be is refused."""
    model = TinyModel(0, 2)
    with record(model, tmp_path, adapters=ADAPTERS, stage=Stage(1, 2, layer_offset=2), on_error="raise") as r:
        model(batch(0)).sum().backward()
        r.step()
    trace = read_trace(tmp_path / "own/test/seed0.stage1of2.parquet")
    assert [layer.index for layer in trace.meta.layers] == [2, 3]
    with pytest.raises(RecordingError, match="expected an index from 0 to stages - 1"):
        Stage(2, 2)
