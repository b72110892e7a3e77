"""From Megatron-LM's logs to a scored table and a placement in the three commands of the guide."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import synthetic_load_SLE
from tests.support.foreign.logs import write_lines

ROOT = Path(__file__).resolve().parents[3]


def expert_parallel_logs(folder: Path, steps: int) -> None:
    """Two pipeline stages of two layers, four expert-parallel ranks with two experts each, one micro-batch a step."""
    load = synthetic_load_SLE(steps, layers=4, experts=8)
    folder.mkdir(parents=True)
    for rank in range(8):
        stage, own = divmod(rank, 4)
        lines = [
            {
                "iter": s + 1,
                "block": "decoder",
                "layer": m,
                "tpe": [load[s, 2 * stage + m, 2 * own : 2 * own + 2].tolist()],
            }
            for s in range(steps)
            for m in range(2)
        ]
        write_lines(folder / f"rank{rank}.jsonl", lines)


@pytest.mark.slow
def test_logs_become_a_table_and_a_placement(tmp_path: Path) -> None:
    """Import, run, plan as they stand in the guide, with two forecasters: a table, and every expert placed."""
    text = (ROOT / "docs" / "guide" / "interchange.md").read_text(encoding="utf-8")
    block = re.search(
        r"((?:    moeload-bench [^\n]*\n)*    moeload-bench import megatron-tokens(?:[^\n]+\n)+?)\n", text
    )
    assert block is not None
    commands = [shlex.split(line) for line in block[1].split("\n") if line.strip()]
    assert [words[1] for words in commands] == ["import", "run", "plan"]
    commands[1] += ["sw_avg", "uniform", "--level", "none"]
    expert_parallel_logs(tmp_path / "logs" / "tokens_per_expert", 1500)
    said = []
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "moeload_bench", *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "MOELOAD_CACHE": str(tmp_path / "cache")},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout)
    assert "1,500 steps, 4 layers, 8 experts" in said[0]
    assert "sw_avg" in said[1]
    record = json.loads((tmp_path / "placement.json").read_text())
    assert np.array(record["physical_to_logical_map"]).shape == (4, 10)
    assert (np.array(record["expert_count"]) >= 1).all()
