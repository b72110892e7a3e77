"""Every reader of strangers' files, on files that hypothesis damages: each is read, or refused in words.

Ten seconds for each reader in the slow tests; `make fuzz` gives each a minute (`MOELOAD_FUZZ_S`).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from leaderboard.season.folder import SeasonFolder
from moeload_bench.errors import MoeloadError
from moeload_bench.generator.draws import draw_recipes, load_distribution, recipe_of
from moeload_bench.generator.recipe import load_recipe
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.ops.facts.following import Follower
from moeload_bench.ops.interchange import torch_child
from moeload_bench.ops.interchange.checkpoints import INDEX, permute_checkpoint
from moeload_bench.ops.interchange.expert_orders import read_orders
from moeload_bench.ops.interchange.optimizer_states import Parameters, permute_optimizer
from moeload_bench.ops.live.sinks import FAILURES, WAITING, sink
from moeload_bench.publishing.folder import check_weights, read_folder
from moeload_bench.publishing.requirements import _check_wheels, _unpack, parse_requirements
from moeload_bench.recording.parts import Parts, unfinished_trace
from moeload_bench.results.report import summary_json
from moeload_bench.results.results import load_results
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.lookup import find_run
from moeload_bench.traces.store import read_trace, write_trace
from tests.conftest import need, synthetic_trace
from tests.ops.interchange.test_checkpoints import SLOTS, TENSORS, checkpoint
from tests.support.foreign.formats import TORCH, WRITERS, imported, made
from tests.support.recording.recipes import RECIPE
from tests.support.submitted import make_world, wheel, write_folder

SECONDS = float(os.environ.get("MOELOAD_FUZZ_S", "10"))
NUMBERS = (
    b"-1",
    b"0",
    b"1e400",
    b"NaN",
    b"0.5",
    b"2147483648",
    b"9007199254740993",
    b"18446744073709551616",
    b"9" * 5000,
)
TOKENS = (
    *NUMBERS,
    b"[" * 3000,
    b"{",
    b'"',
    b"\n",
    b"\0",
    b"\xff\xfe",
    b"null",
    b"../",
    b"\x1b[2J",
    "é".encode("latin-1"),
)
KINDS = ("flip", "cut", "drop", "insert", "number")
Edit = tuple[int, str, int]
EDITS = st.lists(
    st.tuples(st.integers(0, 2**16 - 1), st.sampled_from(KINDS), st.integers(0, len(TOKENS) - 1)),
    min_size=1,
    max_size=3,
)
SEASON = Path("leaderboard/seasons/2027-02").resolve()


class Reader(NamedTuple):
    """Makes a sound file, or a folder of them, and reads it."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]


def damaged(content: bytes, edits: list[Edit]) -> bytes:
    """Return a file's content after some edits."""
    for where, kind, which in edits:
        at = where * (len(content) + 1) >> 16
        if kind == "flip":
            content = content[:at] + bytes(255 - byte for byte in content[at : at + 1]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + 1 + which * 10 :]
        elif kind == "insert":
            content = content[:at] + TOKENS[which] + content[at:]
        elif numbers := list(re.finditer(rb"\d+", content)):
            found = numbers[where % len(numbers)]
            content = content[: found.start()] + NUMBERS[which % len(NUMBERS)] + content[found.end() :]
    return content


def _season_records(root: Path) -> Path:
    for name in ("season.toml", "draw.json", "scores.json", "recordings.json"):
        place = root / SEASON.name / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SEASON / name, place)
    return root / SEASON.name


def _season(path: Path) -> object:
    folder = SeasonFolder(path)
    return folder.season, folder.draw, folder.scores, folder.recordings


def _distribution(root: Path) -> Path:
    return Path(shutil.copy(SEASON / "2027-new-families.toml", root / "families.toml"))


def _drawn(path: Path) -> object:
    known = load_distribution(path)
    return [recipe_of(known, one) for one in draw_recipes(known, 8, 1)]


def _weights(root: Path) -> Path:
    np.savez(root / "forecaster.npz", a=np.arange(9.0))
    return root / "forecaster.npz"


def _safetensors(root: Path) -> Path:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path = root / "forecaster.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return path


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (root / name).write_text(text)
        return root / name

    return write


def _results(name: str) -> Callable[[Path], Path]:
    def save(root: Path) -> Path:
        return evaluate(["uniform", "sw_avg"], synthetic_trace(400), level="none", shapes=()).save(root / name)

    return save


def _summaries(path: Path) -> object:
    results = load_results(path, layers=True)
    return results.summarize(["state", "horizon"]), results.failures, summary_json(results)


def _suite(root: Path) -> Path:
    make_world(root)
    return next(root.glob("*.toml"))


def _wheel(path: Path) -> None:
    _check_wheels([path])
    shutil.rmtree(path.parent / "unpacked", ignore_errors=True)
    _unpack(path, path.parent / "unpacked")


def _checkpoint(root: Path) -> Path:
    path = checkpoint(root / "model")
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(TENSORS, "model.safetensors")}))
    return path


def _permuted(path: Path) -> None:
    out = path.parent / "after"
    shutil.rmtree(out, ignore_errors=True)
    permute_checkpoint(path, {0: SLOTS}, out)


def _plan(root: Path) -> Path:
    layers = [{"layer": m, "devices": [[0, 1], [3, 2]]} for m in (0, 3)]
    return _text("plan.json", json.dumps({"placement_version": 1, "layers": layers, "about": {}}))(root)


def _manifest(root: Path) -> Path:
    (root / "run.parquet.parts").mkdir()
    text = json.dumps({"shards": ["a.parquet"], "next_step": 10, "owner": "x", "state": {}, "checkpoint": None})
    return _text("run.parquet.parts/manifest.json", text)(root)


def _parts(root: Path) -> Path:
    parts = Parts(root / "seed0.parquet")
    parts.start(resume=False)
    parts.append(synthetic_trace(40))
    return parts.folder


def _format(name: str) -> Reader:
    def read(path: Path) -> object:
        out = path.parent.parent / "out.parquet" if path.is_dir() else path.parent / "out.parquet"
        out.unlink(missing_ok=True)
        return imported(name, path, out)

    return Reader(lambda root: made(name, root), read)


def _sglang(path: Path) -> object:
    """Read a file with the script that sglang's reader starts, in a fork of this process, which has torch already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", _forked)
        return imported("sglang", path, path.parent / "out.parquet")


def _forked(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    file, most, seconds = command[-3:]
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            torch_child.answer(file, int(most), int(seconds), os.fdopen(writing, "wb"))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    return subprocess.CompletedProcess(command, os.waitpid(child, 0)[1], said, b"")


def _made_sglang(root: Path) -> Path:
    import torch

    torch.set_num_threads(1)  # a fork has no other threads
    return made("sglang", root)


def _states(root: Path) -> Path:
    torch = need("torch", "pip install '.[torch]'")
    state = {name: {"step": torch.tensor(3.0), "exp_avg": torch.ones(shape)} for name, shape in SHAPES.items()}
    torch.save({"state": state, "param_groups": [{"lr": 0.1, "params": list(SHAPES)}]}, root / "optimizer.pt")
    return root / "optimizer.pt"


def _permuted_states(path: Path) -> int:
    return permute_optimizer(path, path.with_name("new.pt"), Parameters(SHAPES, [[*SHAPES], []]), {0: (1, 0)})


SHAPES = {"model.layers.0.mlp.gate.weight": (2, 4), "model.layers.0.mlp.experts.0.up_proj.weight": (3, 4)}
READERS = {
    "trace": Reader(lambda root: write_trace(synthetic_trace(60), root / "run.parquet"), read_trace),
    "results": Reader(_results("mine.parquet"), _summaries),
    "folder of results": Reader(_results("mine"), _summaries),
    "suite": Reader(_suite, lambda path: load_suite(str(path))),
    "recipe": Reader(_text("small.toml", RECIPE), lambda path: load_recipe(str(path))),
    "submission": Reader(lambda root: write_folder(root, make_world(root), requirements="a==1\n"), read_folder),
    "requirements": Reader(
        _text("requirements.txt", f"a==1.0 --hash=sha256:{'0' * 64}\nb==2 --hash=sha256:{'1' * 64}\n"),
        lambda path: parse_requirements(path.read_bytes().decode("utf-8", "replace")),
    ),
    "npz weights": Reader(_weights, check_weights),
    "safetensors weights": Reader(_safetensors, check_weights),
    "wheel": Reader(lambda root: wheel(root / "w", "a", "1.0", "X = 1\n", {"b/c.py": "1"}), _wheel),
    "checkpoint": Reader(_checkpoint, _permuted),
    "optimizer": Reader(_states, _permuted_states),
    "plan": Reader(_plan, read_orders),
    "season": Reader(_season_records, _season),
    "distribution": Reader(_distribution, _drawn),
    "manifest": Reader(_manifest, lambda path: list(Follower(find_run(path.parent)).poll())),
    "parts": Reader(_parts, unfinished_trace),
    **{f"import {name}": _format(name) for name in WRITERS if name not in TORCH},
    "import sglang": Reader(_made_sglang, _sglang),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_no_damage_of_a_file_gives_a_traceback(name: str, tmp_path: Path) -> None:
    """Whatever bytes are flipped, cut, dropped or put in, and whatever number stands in the place of another."""
    reader, end = READERS[name], time.monotonic() + SECONDS
    path = reader.make(tmp_path)
    files = files_of(path)
    reader_ok = name != "manifest"  # its shard is not there
    if reader_ok:
        reader.read(path)

    def tries(number: int) -> Callable[[], None]:
        @seed(number)
        @settings(
            max_examples=50,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(which=st.integers(0, len(files) - 1), edits=EDITS)
        def once(which: int, edits: list[Edit]) -> None:
            if time.monotonic() > end:
                return
            file = list(files)[which]
            file.write_bytes(damaged(files[file], edits))
            try:
                with contextlib.suppress(MoeloadError), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    reader.read(path)
            finally:
                file.write_bytes(files[file])

        made_test: Any = once
        return made_test

    number = 0
    while time.monotonic() < end:
        tries(number)()
        number += 1


def files_of(path: Path) -> dict[Path, bytes]:
    """Return the content of a file, or of every file in a folder."""
    there = [path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))
    return {file: file.read_bytes() for file in there}


JSON = (".json", ".jsonl")
NAME = re.compile(rb'\{\s*("[^"]+")\s*:')


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in READERS if name != "manifest"])  # waits for another; see "parts"
def test_a_name_twice_in_an_object_is_refused(name: str, tmp_path: Path) -> None:
    """In every JSON of a stranger: of two values the last would be taken without a word."""
    reader = READERS[name]
    path = reader.make(tmp_path)
    for file, content in files_of(path).items():
        if file.suffix not in JSON or not NAME.search(content):
            continue
        file.write_bytes(NAME.sub(rb"{\1: null, \1:", content, count=1))
        with pytest.raises(MoeloadError, match="twice in one object"):
            reader.read(path)
        file.write_bytes(content)


REPEATED = (b'\\"', b'"', b"\\", b"[", b"{", b"(", b'{"a":', b'"a":1,', b",", b":", b".", b"=", b"#", b"-", b"0",
            b"9.", b"a", b" ", b"\n", b"\0", b"\xff", b"a.a=1\n", b"[[a]]\n", b"\\u0022")  # fmt: skip
"""What a file may be full of, so that a reader begins its search again at each."""
LEAST_S, MOST_BYTES = 0.2, 1 << 19
"""CPU time below which two sizes are not compared, and the most bytes that are put in."""


def cpu_s(reader: Reader, path: Path) -> float:
    """Return the CPU seconds of this process and its children that one reading takes, LEAST_S at least."""
    before = os.times()
    with contextlib.suppress(MoeloadError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader.read(path)
    return max(LEAST_S, sum(after - begun for after, begun in zip(os.times()[:4], before[:4], strict=True)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_twice_the_bytes_take_at_most_two_and_a_half_times_the_cpu(name: str, tmp_path: Path) -> None:
    """One thing again and again, behind a quote, at the end or anywhere in a sound file, from 16 KiB to 512 KiB."""
    reader, end, draw = READERS[name], time.monotonic() + SECONDS, random.Random(name)
    path = reader.make(tmp_path)
    files = files_of(path)
    while time.monotonic() < end:
        file, what = draw.choice(list(files)), draw.choice(REPEATED)
        content = files[file]
        places = content.find(b'"') + 1, content.rfind(b'"') + 1, len(content), draw.randrange(len(content) + 1)
        at = draw.choice(places)

        def seconds(size: int, file: Path = file, what: bytes = what, content: bytes = content, at: int = at) -> float:
            file.write_bytes(content[:at] + what * (size // len(what)) + content[at:])
            return cpu_s(reader, path)

        size, half_s = 1 << 14, seconds(1 << 14)
        while 2 * size <= MOST_BYTES and half_s < 5 * LEAST_S:
            size, whole_s = 2 * size, seconds(2 * size)
            if whole_s > 2.5 * half_s:  # once more, since others use the machine, too
                half_s, whole_s = (min(seconds(each) for _ in range(2)) for each in (size // 2, size))
            assert whole_s <= 2.5 * half_s, f"{file.name}, byte {at}: {what!r} in {size} bytes takes {whole_s:.2f} s"
            half_s = whole_s
        file.write_bytes(content)


class UnprintableError(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError


NUMBERS_OF_ANY_SIZE = st.one_of(st.floats(), st.integers(-(10**30), 10**30))
ENDS = st.sampled_from([None, None, OSError("disk"), UnprintableError(), SystemExit(1), KeyboardInterrupt(), "slow"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=int(30 * SECONDS), deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(ends=st.lists(ENDS, min_size=1, max_size=WAITING), values=st.dictionaries(st.text(), NUMBERS_OF_ANY_SIZE))
def test_whatever_a_sink_does_each_snapshot_arrives_or_is_counted(
    ends: list[BaseException | str | None], values: dict[str, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It returns, takes its time, raises anything, or exits: handing over never raises and nothing is lost unsaid."""
    left, arrived = list(ends), list[int]()

    def log(given: dict[str, float], step: int) -> None:
        end = left.pop(0)
        if isinstance(end, BaseException):
            raise end
        if end is not None:
            time.sleep(1e-4)
        arrived.append(step)

    path = tmp_path_factory.getbasetemp() / "moe.jsonl"
    path.unlink(missing_ok=True)
    callers = [sink(given, lambda values, _: values) for given in (log, path)]
    for step in range(len(ends)):
        for caller in callers:
            caller.put(values, step)
    for caller in callers:
        caller.close()
    assert len(arrived) + callers[0].dropped == len(ends)
    assert (callers[0].failed is None) or callers[0].dropped >= FAILURES
    assert len(path.read_text().splitlines()) == len(ends)
