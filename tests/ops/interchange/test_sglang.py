"""sglang's recorder: modes, ring buffers, maps of slots, and files that nobody should unpickle."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moeload_bench.errors import TraceError
from moeload_bench.ops.interchange.rows import Options, write_log
from moeload_bench.ops.interchange.sglang import read_sglang
from moeload_bench.ops.interchange.torch_arrays import load_arrays
from moeload_bench.traces.store import read_trace
from tests.conftest import need
from tests.support.foreign import logs
from tests.support.foreign.formats import CHOSEN


@pytest.mark.slow
def test_sglang_records_of_passes_are_added_over_ranks_and_replicas(tmp_path: Path) -> None:
    """Mode per_pass: one file per rank, counts of physical experts; replicas count for their expert."""
    need("torch", "pip install '.[torch]'")
    log = read_sglang([logs.sglang_per_pass(tmp_path / "pp", CHOSEN)])
    got = list(log.rows)
    np.testing.assert_array_equal(np.stack([row.load_LE for row in got]), logs.truth(CHOSEN))
    assert [row.step for row in got] == [7, 8, 9]


def recorded(monkeypatch: pytest.MonkeyPatch, folder: Path, **arrays_here: Any) -> Path:
    """A file of sglang's recorder that holds these arrays, without torch."""
    path = folder / "expert_distribution_recorder_1.0.pt"
    path.touch()
    plain = {name: np.asarray(array) for name, array in arrays_here.items()}
    monkeypatch.setattr("moeload_bench.ops.interchange.sglang.load_arrays", lambda *_: plain)
    return path


@pytest.mark.parametrize(
    ("used", "says"),
    [
        ([1, 1, 1, 0, 0, 0, 0], r"^4 of 7 entries of the recorder's buffer were not used and are left out$"),
        ([0, 0, 1, 1, 0], r"^3 of 5 entries"),
        ([1, 1, 1], "^all 3 entries .* order of the passes is not known .*--expert-distribution-recorder-buffer-size"),
    ],
)
def test_unused_entries_of_sglangs_buffer_are_no_passes(
    used: list[int], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode stat dumps its whole buffer: what no pass has used is left out and counted, a full one may have wrapped."""
    load_SLE = np.reshape(used, (-1, 1, 1)) * np.array([3, 1])
    path = recorded(monkeypatch, tmp_path, logical_count=load_SLE)
    trace = read_trace(write_log(read_sglang([path]), tmp_path / "o.parquet", Options(top_k=1)).path)
    assert trace.step_S.tolist() == np.flatnonzero(used).tolist()
    assert (trace.load_SLE == [3, 1]).all()
    assert any(re.search(says, note) for note in trace.meta.notes)


@pytest.mark.parametrize(
    ("used", "says"),
    [
        ([1, 0, 0, 1], r"2 passes have no count \(the first is pass 1 of 4\)"),
        ([0, 0], "no count in any layer"),
    ],
)
def test_a_buffer_that_holds_no_row_of_passes_is_refused(
    used: list[int], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unused entries between others: the buffer began again at its start; nothing but unused ones: no pass."""
    load_SLE = np.reshape(used, (-1, 1, 1)) * np.array([3, 1])
    path = recorded(monkeypatch, tmp_path, logical_count=load_SLE)
    with pytest.raises(TraceError, match=rf"recorder_1\.0\.pt: {says}"):
        read_sglang([path])


def test_an_expert_beyond_the_slots_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode per_pass: every logical expert has a slot, so that the map holds no number from their count on."""
    counts = np.ones((1, 1, 3), dtype=np.int64)
    found = {"pass": [0], "rank": [0], "physical_count": counts, "physical_to_logical": [[0, 1, 2**40]]}
    path = recorded(monkeypatch, tmp_path, **found)
    with pytest.raises(TraceError, match=rf"logical_map\[0, 2\] is expert {2**40}, expected 0 to 2 in a map of 3"):
        read_sglang([path])
    found["physical_to_logical"] = [[0, 1, 0]]
    log = read_sglang([recorded(monkeypatch, tmp_path, **found)])
    assert [row.load_LE.tolist() for row in log.rows] == [[[2, 1]]]


@pytest.mark.slow
def test_a_tensor_that_repeats_one_number_is_refused_before_it_is_written(tmp_path: Path) -> None:
    """A stride of 0 shows gigabytes in a file of two kilobytes: in both modes, and before the child takes memory."""
    torch = need("torch", "pip install '.[torch]'")
    bomb = torch.ones(1, dtype=torch.int32).expand(1000, 500, 1000)
    path = tmp_path / "expert_distribution_recorder_1.pt"
    record = {"forward_pass_id": 0, "rank": 0, "global_physical_count": bomb[0]}
    passes = {"records": [record], "last_physical_to_logical_map": torch.zeros(500, 1000, dtype=torch.int64)}
    for data in ({"logical_count": bomb}, passes):
        torch.save(data, path)
        with pytest.raises(TraceError, match="in a storage that holds fewer"):
            load_arrays(path)


def test_a_pickle_with_an_archive_behind_it_is_refused(tmp_path: Path) -> None:
    """The archive would be checked, and torch would read the pickle."""
    torch = need("torch", "pip install '.[torch]'")
    path = tmp_path / "expert_distribution_recorder_1.pt"
    torch.save({"logical_count": torch.ones(2, 2, 2)}, path, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(TraceError, match=r"not an archive as torch\.save writes it"):
        load_arrays(path)


def test_the_reading_process_takes_the_callers_memory_limit_where_that_is_smaller(tmp_path: Path) -> None:
    """A hard limit of the caller's cannot be raised: the child runs below it."""
    torch = need("torch", "pip install '.[torch]'")
    path = tmp_path / "expert_distribution_recorder_1.pt"
    torch.save({"logical_count": torch.arange(8).reshape(2, 2, 2)}, path)
    lines = (
        "import resource; from pathlib import Path",
        "resource.setrlimit(resource.RLIMIT_AS, (7 << 30, 7 << 30))",
        "from moeload_bench.ops.interchange.torch_arrays import load_arrays",
        f"print(load_arrays(Path({str(path)!r}))['logical_count'].tolist())",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="not tested: only Linux tells a process of its parent's end")
def test_the_reading_process_ends_with_its_parent_and_leaves_nothing(tmp_path: Path) -> None:
    """Even where the parent is killed, and the child held: no process, and no file in the temporary folder."""
    torch = need("torch", "pip install '.[torch]'")
    path, scratch = tmp_path / "expert_distribution_recorder_1.pt", tmp_path / "tmp"
    scratch.mkdir()
    torch.save({"logical_count": torch.arange(8).reshape(2, 2, 2)}, path)
    code = (
        f"import pathlib, moeload_bench.ops.interchange.torch_arrays as s; s.load_arrays(pathlib.Path({str(path)!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(scratch)})
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    try:
        child = _soon(lambda: next(iter(children.read_text().split()), ""))
        _soon(lambda: "libtorch" in Path(f"/proc/{child}/maps").read_text())
        os.kill(int(child), signal.SIGSTOP)
    finally:
        parent.kill()
        parent.wait()
    try:
        _soon(lambda: not Path(f"/proc/{child}").exists() or ") Z " in Path(f"/proc/{child}/stat").read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
    assert not list(scratch.iterdir())


def _soon(find: Callable[[], Any]) -> Any:
    """Return what is found within a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            if found := find():
                return found
        time.sleep(0.005)
    raise AssertionError("not within a minute")


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_a_pickle_in_a_pt_file_runs_nothing(tmp_path: Path) -> None:
    """Tensors and plain values only: an object with a payload is refused, and the payload did not run."""
    torch = need("torch", "pip install '.[torch]'")
    trap = tmp_path / "expert_distribution_recorder_1.pt"
    torch.save({"logical_count": Evil(f"touch {tmp_path / 'ran'}")}, trap)
    with pytest.raises(TraceError, match=r"expected tensors: ValueError: holds an object"):
        load_arrays(trap)
    assert not (tmp_path / "ran").exists()
