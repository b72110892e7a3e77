"""Options that do not fit a log are refused, or the result says what it took the log for: nothing is wrong in silence.

Damages of the files themselves: `test_damaged_logs.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.traces.store import read_trace
from tests.support.foreign import logs
from tests.support.foreign.formats import CHOSEN, FILES, made

RIGHT, SAID, REFUSED = "right", "said", "refused"
"""Counts equal what was routed; the result is of other counts, and says so; nothing is written."""
EP4_PP2 = "--expert-parallel 4 --pipeline-parallel 2 --stage-layers 2"
"""True layout of Megatron's logs here, as top-2 of 8 experts, 48 tokens a step and layers 0 to 3 are of all logs."""
NAMES = "train/TokensTotal/layer"
TABLE: dict[str, list[tuple[str, str, str]]] = {
    # format: options, what becomes of it, what the command says
    "npz": [
        ("--top-k 3", RIGHT, "32 tokens a step, top-3"),
        ("--top-k 4", REFUSED, "expert 1 has load 28, expected at most the 24 tokens"),
        ("--top-k 9", REFUSED, "top_k is 9, expected at most the layer's 8 experts"),
        ("", RIGHT, "top-k not known"),
        ("--top-k 2 --tokens 96", REFUSED, "loads sum to 96, expected tokens x top_k = 192"),
        ("--top-k 2 --counted post_drop", REFUSED, "tokens do not follow from loads after drops"),
        ("--top-k 2 --tokens 30 --counted post_drop", RIGHT, r"sum to 96, more than 30 tokens x top-k 2: padding"),
        ("--layers three", REFUSED, "expected numbers such as 3-60"),
        ("--top-k 2 --layers 3,5", REFUSED, "the numbers of 2 layers, expected 4"),
        ("--top-k 2 --layers 6,5,4,3", REFUSED, "expected 4, rising"),
        ("--top-k 2 --first-layer 3", RIGHT, r"4 layers \(numbers 3-6\)"),
    ],
    "csv": [
        ("--top-k 1", RIGHT, "96 tokens a step, top-1"),
        ("--top-k 5", REFUSED, "loads sum to 96 in layer 0, expected the same multiple of top-k = 5"),
        ("--top-k 2 --tokens 24", REFUSED, "loads sum to 96, expected tokens x top_k = 48"),
        ("--top-k 2 --counted post_drop", REFUSED, "tokens do not follow from loads after drops"),
        ("--top-k 2 --tokens 30 --counted post_drop", RIGHT, r"sum to 96, more than 30 tokens x top-k 2: padding"),
        ("--top-k 2 --first-layer 3 --layers 3-6", REFUSED, "--first-layer, --layers and --model: expected one"),
    ],
    "jsonl": [
        ("--top-k 1", REFUSED, "loads sum to 96, expected tokens x top_k = 48"),
        ("--top-k 2 --tokens 48", REFUSED, "tokens are in the log, but --tokens 48 was given too"),
        ("--top-k 2 --first-step 20 --last-step 10", REFUSED, "no step to import"),
        ("--top-k 2 --first-step 500", REFUSED, "no step to import"),
    ],
    "megatron-tokens": [
        ("--expert-parallel 4 --top-k 2", REFUSED, "expected --pipeline-parallel"),
        ("--pipeline-parallel 2 --stage-layers 2", REFUSED, "8 ranks.*expected --expert-parallel"),
        ("", REFUSED, "expected --expert-parallel and --pipeline-parallel"),
        ("--expert-parallel 4 --pipeline-parallel 1 --top-k 2", SAID, "2 layers, 8 experts(?s:.*)8 ranks = 1 stage x"),
        ("--expert-parallel 8 --pipeline-parallel 1", REFUSED, "--expert-parallel 4, with --pipeline"),
        ("--expert-parallel 2 --pipeline-parallel 2 --stage-layers 2 --top-k 2", REFUSED, "groups of 2 did not: they"),
        ("--expert-parallel 2 --pipeline-parallel 4 --stage-layers 2", REFUSED, "expected --expert-parallel 4"),
        ("--expert-parallel 1 --pipeline-parallel 1", REFUSED, "expected --expert-parallel 4"),
        ("--expert-parallel 1 --pipeline-parallel 8 --stage-layers 2", REFUSED, "expected --expert-parallel 4"),
        ("--expert-parallel 3 --pipeline-parallel 1", REFUSED, "got 8 ranks, expected a multiple of"),
        (
            "--expert-parallel 2 --expert-tensor-parallel 2 --pipeline-parallel 2 --stage-layers 2",
            REFUSED,
            "rank 1 counts other tokens than rank 0",
        ),
        ("--expert-parallel 4 --pipeline-parallel 2", REFUSED, "expected --stage-layers"),
        ("--expert-parallel 4 --pipeline-parallel 2 --stage-layers 1", REFUSED, "layer 1 of rank 0, expected 0 to 0"),
        ("--expert-parallel 4 --pipeline-parallel 2 --stage-layers 7 --top-k 2", RIGHT, r"4 layers \(numbers"),
        (f"{EP4_PP2} --top-k 4", REFUSED, "expert 1 has load 28, expected at most the 24 tokens"),
        (f"{EP4_PP2} --top-k 1", RIGHT, "96 tokens a step, top-1"),
    ],
    "megatron-routing": [
        ("--experts 8", REFUSED, "expected --pipeline-parallel"),
        ("--experts 8 --pipeline-parallel 1", SAID, r"2 layers(?s:.*)8 ranks = 1 stage x 8 copies"),
        ("--experts 8 --pipeline-parallel 4 --stage-layers 2", SAID, r"8 layers(?s:.*)8 ranks = 4 stages x 2 copies"),
        ("--experts 4 --pipeline-parallel 2 --stage-layers 2", REFUSED, "holds expert 7, expected 0"),
        ("--experts 16 --pipeline-parallel 2 --stage-layers 2", SAID, "experts 8 to 15 got no token in any layer and"),
        ("--experts 8 --pipeline-parallel 2 --stage-layers 2 --top-k 1", REFUSED, "top-k is 2 in the file, got"),
    ],
    "flame-moe": [
        ("--experts 16", SAID, "experts 8 to 15 got no token in any layer and step"),
        ("--experts 4", REFUSED, "expert 7, expected 0 to 3"),
        ("--experts 8 --column scores", REFUSED, "expected the same number of whole numbers"),
        ("--experts 8 --top-k 1", REFUSED, "top-k is 2 in the file"),
    ],
    "wandb": [
        ("--top-k 2 --tokens 48 --shares", REFUSED, "sum to 96, expected 1, 100 or 8"),
        (f"--pattern {NAMES}{{e}}/expert{{l}}", SAID, "are layers and experts swapped"),
        (f"--pattern {NAMES}{{l}}/expert0", REFUSED, "expected histograms in parquet or JSON Lines"),
        ("--step-column loss", REFUSED, "loss is nan, expected a whole number"),
        ("--experts 16", REFUSED, "has 8 experts, got --experts 16"),
    ],
    "tensorboard": [
        ("--pattern moe/layer_{e}/expert_{l}", SAID, "are layers and experts swapped"),
        ("--pattern moe/layer_{l}/expert_{e}{e}", REFUSED, "expected {l} and {e} once each"),
        ("--top-k 2 --tokens 48 --shares", REFUSED, "sum to 96, expected 1, 100 or 8"),
        ("--top-k 1", RIGHT, "96 tokens a step, top-1"),
    ],
}
ROWS = [(name, *row) for name, rows in TABLE.items() for row in rows]


@pytest.mark.parametrize(("name", "words", "end", "says"), ROWS, ids=[f"{n} {w}" for n, w, _, _ in ROWS])
def test_options_that_do_not_fit_are_never_wrong_in_silence(
    name: str, words: str, end: str, says: str, tmp_path: Path
) -> None:
    """Refused with the reason; or the counts are right and the tokens are named; or the result names what it took."""
    folder, out = made(name, tmp_path), tmp_path / "out.parquet"
    source = folder / FILES.get(name, "")
    done = CliRunner().invoke(app, ["import", name, str(source), *words.split(), "--out", str(out)])
    said = re.sub(r"\s+", " ", done.output if done.exception is None else f"{done.output} {done.exception}")
    assert re.search(says, said), said
    assert out.exists() == (end != REFUSED)
    if end != REFUSED:
        load_SLE = read_trace(out).load_SLE
        same = np.array_equal(load_SLE, logs.truth(CHOSEN))
        assert same == (end == RIGHT)


def test_loads_with_layers_and_experts_swapped_are_noted(tmp_path: Path) -> None:
    """Of an archive [steps, experts, layers]: every layer routes as many tokens, an expert gets what it gets."""
    out = tmp_path / "out.parquet"
    folder = logs.archive(tmp_path / "npz", CHOSEN, load=logs.truth(CHOSEN).transpose(0, 2, 1))
    done = CliRunner().invoke(app, ["import", "npz", str(folder / "counts.npz"), "--out", str(out)])
    assert "8 layers, 4 experts" in done.output
    assert "are layers and experts swapped" in done.output
    assert any("swapped" in note for note in read_trace(out).meta.notes)
