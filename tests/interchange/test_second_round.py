"""Files that ended in a traceback: each is refused in one line that names the file and what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.import_ import app
from moeload_bench.errors import RecordingError, TraceError
from moeload_bench.inspection.following import Follower, Place
from moeload_bench.interchange.wandb import read_wandb
from moeload_bench.recording.parts import Parts

NAMES = [f"moe/layer_{layer}/expert_{expert}" for layer in range(2) for expert in range(4)]
DEEP = "[" * 100_000


def test_a_history_with_a_field_over_128_kib_is_read_or_refused(tmp_path: Path) -> None:
    """A long text beside the counts is no harm; a name so long is."""
    path = tmp_path / "history.csv"
    path.write_text(f"_step,{','.join(NAMES)},note\n0{',1' * 8},{'x' * 200_000}\n")
    assert [row.load_LE.sum() for row in read_wandb([path]).rows] == [8]
    path.write_text(f"_step,{','.join(NAMES)},{'x' * 200_000}\n0{',1' * 8},\n")
    with pytest.raises(TraceError, match=r"history\.csv, row 1: not a CSV table: field larger than field limit"):
        list(read_wandb([path]).rows)


@pytest.mark.parametrize("value", [np.int64(2**53 + 1), np.uint64(2**64 - 1)], ids=["above 2^53", "unsigned"])
@pytest.mark.parametrize("name", ["_step", NAMES[0]])
def test_integers_that_no_float_holds_are_refused(name: str, value: np.integer, tmp_path: Path) -> None:
    """By the column's name."""
    table = {column: np.array([0, 1]) for column in ("_step", *NAMES)} | {name: np.array([value, value])}
    pq.write_table(pa.table(table), tmp_path / "history.parquet")
    with pytest.raises(TraceError, match=f"column {name} holds a number of more than 53 bits"):
        list(read_wandb([tmp_path / "history.parquet"]).rows)


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        "5",
        '{"shards": 5}',
        '{"shards": [{}]}',
        '{"shards": ["../x"]}',
        '{"next_step": "x"}',
        '{"checkpoint": {}}',
        '{"checkpoint": "../x"}',
    ],
)
def test_a_manifest_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    """By `inspect --follow`, which follows a recording, and by a recording that goes on."""
    parts = tmp_path / "run.parts"
    parts.mkdir()
    (parts / "manifest.json").write_text(text)
    follower = Follower(Place.of(str(parts)))
    assert list(follower.poll()) == []
    assert "manifest.json: not a manifest" in str(follower.problem)
    with pytest.raises(RecordingError, match=r"manifest\.json: not a manifest"):
        Parts(tmp_path / "run.parquet").look()


@pytest.mark.parametrize("words", [["flame-moe"], ["wandb"]])
def test_experts_are_bounded(words: list[str], tmp_path: Path) -> None:
    """2^31 of them would take 16 GiB before a file is opened."""
    done = CliRunner().invoke(
        app, [*words, str(tmp_path), "--experts", "2147483648", "--out", str(tmp_path / "x.parquet")]
    )
    assert done.exit_code == 2
    assert "less than or equal to 65536" in done.output


def test_a_deep_line_of_json_is_refused(tmp_path: Path) -> None:
    """In a history of JSON Lines too."""
    (tmp_path / "history.jsonl").write_text(json.dumps({"_step": 0}) + "\n" + DEEP + "\n")
    with pytest.raises(TraceError, match=r"history\.jsonl, line 2: not JSON"):
        read_wandb([tmp_path / "history.jsonl"])
