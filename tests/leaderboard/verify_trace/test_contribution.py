"""What others recorded is published only when it is what it says, is free, names nobody, and is not there already."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from leaderboard.__main__ import app
from leaderboard.verify_trace.problems import contribution_problems
from moeload_bench.errors import TraceError
from moeload_bench.publishing import contribution
from moeload_bench.publishing.identifying import identifying_fields
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import list_traces, read_trace, write_trace
from moeload_bench.traces.trace import Trace, check_trace
from tests.conftest import synthetic_trace
from tests.support.synthetic import break_a_sum

FREE = {"licence": "CC-BY-4.0", "count_semantics": "pre_drop"}


def put(folder: Path, trace: Trace) -> Path:
    return write_trace(trace, folder / f"{trace.id}.parquet")


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """The traces that are published already."""
    put(tmp_path / "known", synthetic_trace(600, seed=1, recipe="theirs", **FREE))
    return tmp_path / "known"


def wrong(path: Path, known: Path) -> list[str]:
    return list(contribution_problems(path, list_traces(known), ["qwen3moe-16e-aux"]))


def test_a_sound_trace_is_taken(tmp_path: Path, known: Path) -> None:
    """One file or a folder of them, of a training that is not there yet."""
    mine = put(tmp_path / "mine", synthetic_trace(600, seed=2, recipe="mine", **FREE))
    put(tmp_path / "mine", synthetic_trace(600, seed=3, recipe="mine", run=1, **FREE))
    assert wrong(mine, known) == []
    assert wrong(tmp_path / "mine", known) == []


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"licence": "unknown"}, "licence is 'unknown', expected one of CC0-1.0, CC-BY-4.0"),
        ({"licence": "CC-BY-NC-4.0"}, "licence is 'CC-BY-NC-4.0'"),
        ({"count_semantics": "unknown"}, "say what the counts are"),
        ({"recipe": "qwen3moe-16e-aux"}, "which is taken"),
        (
            {"notes": ("trained in /home/jo/runs",)},
            "notes.0 holds '/home/jo/runs', which identifies a machine or a person",
        ),
        ({"config": {"path": "C:\\\\Users\\\\jo"}}, "config.path holds 'C:"),
        ({"hardware": {"node": "gpu7.cluster"}}, "hardware.node holds 'gpu7.cluster'"),
        ({"parallel": {"master": "tcp://10.0.3.7:29500"}}, "parallel.master holds '10.0.3.7'"),
        ({"optimizer": {"by": "jo@example.org"}}, "optimizer.by holds 'jo@example.org'"),
        ({"notes": ("see `/home/jo/run`",)}, "notes.0 holds '/home/jo/run`'"),
        ({"notes": ("cc -I/home/jo/x",)}, "notes.0 holds '/home/jo/x'"),
        ({"notes": ("a;/home/jo/x",)}, "notes.0 holds '/home/jo/x'"),
    ],
)
def test_what_its_metadata_says_decides(tmp_path: Path, known: Path, meta: dict[str, object], says: str) -> None:
    """No licence, no meaning of the counts, a name that is taken, a trace of a machine or person: each by name."""
    trace = synthetic_trace(600, seed=2, **{"recipe": "mine", **FREE, **meta})
    (line,) = wrong(put(tmp_path / "mine", trace), known)
    assert says in line


def test_versions_and_model_names_are_no_hosts() -> None:
    """What metadata is there for stays: versions, hashes, shapes, addresses of packages."""
    meta = TraceMeta(
        recipe="own", layers=(), experts=4, config={"model": "mistralai/Mixtral-8x7B-v0.1", "act": "silu/swish"},
        versions={"torch": "2.9.1+cu128", "python": "3.12.3"}, notes=("see https://example.org/run", "1/2 of tokens"),
        hardware={"cpu": "AMD EPYC 7763", "system": "Linux"},
    )  # fmt: skip
    assert identifying_fields(meta) == []


def test_counts_that_do_not_add_up_are_refused(tmp_path: Path, known: Path) -> None:
    """A file whose counts were edited after it was written is refused with step and layer, got and expected."""
    path = put(tmp_path / "mine", synthetic_trace(600, seed=2, recipe="mine", **FREE))
    break_a_sum(path)
    (line,) = wrong(path, known)
    assert "step 5" in line


def test_what_is_no_trace_is_not_opened(tmp_path: Path, known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executable beside the traces and a file of 10 GB are refused by name and size; nothing is unpacked or run."""
    folder = tmp_path / "mine"
    path = put(folder, synthetic_trace(600, seed=2, recipe="mine", **FREE))
    (folder / "setup.sh").write_text("#!/bin/sh\ntouch /tmp/ran\n")
    (folder / "setup.sh").chmod(0o755)
    (line,) = wrong(folder, known)
    assert line == f"{folder / 'setup.sh'}: not a trace; a contribution holds .parquet files and nothing else"
    (folder / "setup.sh").unlink()
    with path.open("r+b") as file:
        file.truncate(10 * 2**30)  # sparse: no byte of it is written
    monkeypatch.setattr(contribution, "read_trace", lambda *a, **k: pytest.fail("it was opened"))
    (line,) = wrong(path, known)
    assert line == f"{path}: 10,737,418,240 bytes, a contributed trace has at most 2,147,483,648"


def test_a_trace_s_file_holds_no_more_than_the_trace(tmp_path: Path, known: Path) -> None:
    """A sound trace with an executable beside its record is refused, by the key under which it lies."""
    path = put(tmp_path / "mine", synthetic_trace(600, seed=2, recipe="mine", **FREE))
    table = pq.read_table(path)
    more = {**table.schema.metadata, b"payload": b"\x7fELF of /home/jolanda/bin"}
    pq.write_table(table.replace_schema_metadata(more), path)
    (line,) = wrong(path, known)
    assert line.startswith(f"{path}: schema metadata holds the key 'payload' of 25 bytes, expected moeload and")
    write_trace(read_trace(path), path, overwrite=True)  # as `contribute` does
    assert wrong(path, known) == []


def test_another_s_trace_under_a_new_name_is_refused(tmp_path: Path, known: Path) -> None:
    """Renamed and permuted, or its half batches as if they were loads; and the same training twice in one folder."""
    theirs = synthetic_trace(600, seed=1, recipe="theirs")
    order = np.array([2, 0, 3, 1])
    copy = Trace.from_arrays(theirs.load_SLE[:, :, order].copy(), 512, 2, recipe="mine", **FREE)
    (line,) = wrong(put(tmp_path / "a", copy), known)
    assert "a copy of theirs/test/seed0: 100 % of its layer-steps" in line
    half = Trace.from_arrays(
        theirs.columns["load_half"].copy(), recipe="mine", licence="MIT", count_semantics="post_drop"
    )
    (line,) = wrong(put(tmp_path / "b", half), known)
    assert "a copy of theirs/test/seed0: its mean shares are those of" in line
    for run in (0, 1):
        put(tmp_path / "c", synthetic_trace(600, seed=5, recipe="mine", run=run, **FREE))
    (line,) = wrong(tmp_path / "c", known)
    assert "seed1.parquet: a copy of " in line
    assert "seed0.parquet" in line


def test_a_trace_is_no_copy_of_itself(tmp_path: Path, known: Path) -> None:
    """Whoever keeps his traces where known ones are found can give them; a second file of it is a copy."""
    mine = put(known, synthetic_trace(600, seed=2, recipe="mine", **FREE))
    assert wrong(mine, known) == []
    (line,) = wrong(put(tmp_path / "again", synthetic_trace(600, seed=2, recipe="new", **FREE)), known)
    assert "a copy of mine/test/seed0" in line


def test_a_known_trace_that_cannot_be_read_is_no_proof(tmp_path: Path, known: Path) -> None:
    """It might be what was copied: it is named, and the trace is not called sound."""
    mine = put(tmp_path / "mine", synthetic_trace(600, seed=2, recipe="mine", **FREE))
    path = next(known.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-100])
    (line,) = wrong(mine, known)
    assert line.startswith(f"{mine}: cannot be compared with theirs/test/seed0: ")


def test_traces_of_others_on_this_machine_are_known(
    tmp_path: Path, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those below `community` of the folders in which traces are found."""
    put(known / "community", synthetic_trace(600, seed=4, recipe="hers", **FREE))
    monkeypatch.setenv("MOELOAD_TRACES", str(known))
    assert {"theirs/test/seed0", "hers/test/seed0"} <= {ref.id for ref in contribution.known_traces()}


def test_a_trace_without_layers_is_refused(tmp_path: Path, known: Path) -> None:
    """Its hashes fit and nothing in it is wrong but that nothing is in it."""
    full = synthetic_trace(600, recipe="mine", **FREE)
    nothing_SLE, nothing_SL = np.zeros((600, 0, 4), np.int64), np.zeros((600, 0), np.int64)
    bare = full.meta.model_copy(update={"layers": ()})
    empty = replace(full, load_SLE=nothing_SLE, tokens_SL=nothing_SL, columns={}, meta=bare)
    with pytest.raises(TraceError, match="the trace has no layers"):
        check_trace(empty)


def test_the_command_says_why(tmp_path: Path, known: Path) -> None:
    """A line for each reason and exit status 1; `ok` and 0 when there is none; a list with --json."""
    bad = put(tmp_path / "bad", synthetic_trace(600, seed=1, recipe="mine", licence="none"))
    good = put(tmp_path / "good", synthetic_trace(600, seed=2, recipe="mine", **FREE))
    result = CliRunner().invoke(app, ["verify-trace", str(bad), "--against", str(known)])
    assert result.exit_code == 1
    assert result.output.count("refused ") == 2 + (synthetic_trace(20).meta.count_semantics == "unknown")
    result = CliRunner().invoke(app, ["verify-trace", str(good), "--against", str(known)])
    assert (result.exit_code, result.output) == (0, f"ok      {good}: compared with 1 traces\n")
    result = CliRunner().invoke(app, ["verify-trace", str(bad), "--against", str(known), "--json"])
    assert any("a copy of theirs" in line for line in json.loads(result.output))
    (tmp_path / "flat").mkdir()
    result = CliRunner().invoke(app, ["verify-trace", str(good), "--against", str(tmp_path / "flat")])
    assert "no trace is there to compare with; expected RECIPE/SPLIT/seedN.parquet" in str(result.exception)
