"""Weights of a submission: what is accepted, what is refused without loading it, and that the forecaster gets them."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leaderboard.verifying.verify import Request, verify
from moeload_bench.errors import SubmissionError
from moeload_bench.isolation.targets import parse_target, source_sha256
from moeload_bench.publishing import folder as module
from moeload_bench.publishing.folder import check_weights, read_folder
from moeload_bench.publishing.submit import Author, make_draft, prepare_submission
from tests.support.submitted import World, write_folder

WHO = Author(["A. Stranger"], "MIT", None, False, "a laptop")
CODE = '''"""A forecaster that says what its weights say."""

from pathlib import Path

import numpy as np

from moeload_bench.forecaster import Forecast


class Mine:
    def __init__(self, info, seed):
        with np.load(Path(__file__).with_suffix(".npz"), allow_pickle=False) as archive:
            weight = archive["weight"]
        self.mix = float(weight[0])
        self.share = np.full((info.num_layers, info.num_experts), 1 / info.num_experts)
        self.even = self.share

    def observe(self, block):
        total = block.load_SLE[-1].sum(axis=1, keepdims=True)
        self.share = np.where(total > 0, block.load_SLE[-1] / np.maximum(total, 1), self.share)

    def forecast(self, request):
        return Forecast.constant(self.mix * self.share + (1 - self.mix) * self.even, request.horizon)
'''


def npz(mix: float = 0.5, **more: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.array([mix], dtype=np.float32), **more)
    return file.getvalue()


def safetensors(header: dict[str, Any] | None = None, data: bytes = bytes(8)) -> bytes:
    """One tensor of two float32, or any other header."""
    text = json.dumps(header or {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(("name", "content"), [("w.npz", npz()), ("w.safetensors", safetensors())])
def test_plain_arrays_are_accepted_by_their_hash(name: str, content: bytes, tmp_path: Path) -> None:
    """The hash is that of the file."""
    (tmp_path / name).write_bytes(content)
    assert check_weights(tmp_path / name) == hashlib.sha256(content).hexdigest()


def _with_member(name: str, text: bytes) -> bytes:
    file = io.BytesIO(npz())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, text)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.npz", npz(bad=np.array([{"a": 1}], dtype=object)), "the type object, expected plain numbers"),
        ("w.npz", npz(bad=np.array(["text"])), "expected plain numbers"),
        ("w.npz", _with_member("code.py", b"print()"), "'code.py' is not an array"),
        ("w.npz", _with_member("a.npy", b"no header"), "not an npz archive: ValueError"),
        ("w.npz", b"no zip", "not an npz archive: BadZipFile"),
        ("w.npz", npz()[:100], "not an npz archive"),
        ("w.safetensors", b"", "not a safetensors file: a header of 0 bytes in a file of 0"),
        ("w.safetensors", b"\xff" * 8, "not a safetensors file: a header of"),
        ("w.safetensors", safetensors(data=bytes(9)), "9 bytes of data, its header describes 8"),
        ("w.safetensors", safetensors({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}), "expected 12 by"),
        ("w.safetensors", safetensors({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}), "a.shape.0: "),
        ("w.safetensors", safetensors({"a": {"dtype": "OBJ", "shape": [2], "data_offsets": [0, 8]}}), "dtype 'OBJ'"),
        ("w.safetensors", safetensors({"a": 3}), "a: Input should be"),
    ],
)
def test_anything_else_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """By name, with what is wrong; nothing of it is loaded."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SubmissionError, match=message):
        check_weights(tmp_path / name)


def test_sizes_are_bounded_packed_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large, and a small one that would grow too large."""
    monkeypatch.setattr(module, "MAX_WEIGHTS_BYTES", 2000)
    (tmp_path / "w.npz").write_bytes(npz(more=np.zeros(1000)))
    with pytest.raises(SubmissionError, match="at most 2000 are accepted; larger weights come in a pinned wheel"):
        check_weights(tmp_path / "w.npz")
    np.savez_compressed(tmp_path / "w.npz", more=np.zeros(1000))
    with pytest.raises(SubmissionError, match="more than 2000 bytes when unpacked"):
        check_weights(tmp_path / "w.npz")


def test_a_folder_holds_the_weights_that_its_record_names(world: World, tmp_path: Path) -> None:
    """By hash, one file at most, and none for a baseline; the source's hash is of code and weights."""
    sha256 = hashlib.sha256(npz()).hexdigest()
    path = write_folder(tmp_path, world, CODE, weights_sha256=sha256)
    with pytest.raises(SubmissionError, match=f"weights_sha256: got '{sha256[:12]}', expected none"):
        read_folder(path)
    (path / "forecaster.npz").write_bytes(npz())
    folder = read_folder(path)
    assert folder.source_sha256 == source_sha256(folder.target())
    (path / "forecaster.npz").write_bytes(npz(0.25))
    with pytest.raises(SubmissionError, match="weights_sha256: got"):
        read_folder(path)
    (path / "forecaster.safetensors").write_bytes(safetensors())
    with pytest.raises(SubmissionError, match="one file of weights at most"):
        read_folder(path)
    plain = write_folder(tmp_path, world, None, name="sw_avg", target="sw_avg")
    (plain / "forecaster.npz").write_bytes(npz())
    with pytest.raises(SubmissionError, match="the package's own code has none"):
        read_folder(plain)


def test_other_weights_are_another_source(tmp_path: Path) -> None:
    """What a result's cache key rests on changes with the weights, and not with files of other names."""
    (tmp_path / "my.py").write_text(CODE)
    target = parse_target(f"{tmp_path / 'my.py'}:Mine")
    (tmp_path / "other.npz").write_bytes(npz())
    assert source_sha256(target) == hashlib.sha256(CODE.encode()).hexdigest()
    found = set()
    for mix in (0.1, 0.2):
        (tmp_path / "my.npz").write_bytes(npz(mix))
        found.add(source_sha256(target))
    assert len(found | {hashlib.sha256(CODE.encode()).hexdigest()}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("level", ["process", pytest.param("sandbox", marks=pytest.mark.sandbox)])
def test_a_forecaster_with_weights_is_submitted(level: Any, world: World, tmp_path: Path) -> None:
    """Its weights travel with its code, and are read at both levels; other weights give other forecasts."""
    (tmp_path / "my.py").write_text(CODE)
    hashes = set()
    for mix in (0.1, 0.9):
        (tmp_path / "my.npz").write_bytes(npz(mix))
        draft = make_draft(parse_target(f"{tmp_path / 'my.py'}:Mine"), "mine", WHO, world.suite)
        prepared = prepare_submission(draft, level=level)
        assert prepared.files()["submissions/mine/forecaster.npz"] == npz(mix)
        folder = read_folder(prepared.write(tmp_path / "board"))
        assert folder.record.weights_sha256 is not None
        made = verify(Request(folder, world.suite, world.paths, level=level))
        assert made.results is not None
        hashes.add(made.results.table["forecasts_sha256"].iloc[0])
    assert len(hashes) == 2
