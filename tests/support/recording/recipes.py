"""A recipe that trains in milliseconds on text made here, in place of a pinned download."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moeload_bench.generator import corpora
from moeload_bench.generator.corpora import Corpus
from moeload_bench.generator.recipe import Recipe
from moeload_bench.traces.trace import Trace

if TYPE_CHECKING:
    from moeload_bench.generator.training import Job


def use_small_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the pinned corpora by two small ones whose texts lie in the cache already."""
    made = []
    for name, words in (
        ("prose", "the sun also rises and sets over the sea "),
        ("code", "def f(x): return x + 1 # y\n"),
    ):
        text = "".join(f"{words}{i * 7919 % 1000} " + ("\n" if i % 9 == 0 else "") for i in range(4000))
        made.append(
            Corpus(
                name=name,
                kind=name,
                package="none",
                version="1",
                file_sha256="",
                text_sha256=hashlib.sha256(text.encode()).hexdigest(),
                text_bytes=len(text),
                licence="CC0-1.0",
                about="made by the tests",
            )
        )
        path = corpora.text_path(made[-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(corpora, "CORPORA", tuple(made))


RECIPE = """
name = "small"
version = 1
about = "for tests"
steps = 12

[model]
family = "qwen3_moe"

[model.config]
hidden_size = 16
intermediate_size = 16
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 2
head_dim = 8
num_experts = 4
num_experts_per_tok = 2
moe_intermediate_size = 8
max_position_embeddings = 16

[balancing]
method = "aux_loss"
coefficient = 0.01

[data]
sequence_length = 16
sequences = 8
micro_batches = 2
vocabulary = 300
tokenizer_sources = ["prose", "code"]

[[data.stages]]
start = 0
sources = ["prose", "code"]

[[data.stages]]
start = 6
sources = ["code"]

[optimizer]
lr = 1e-2

[schedule]
warmup = 3
"""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """The recipe as a file named after it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


def small_recipe(folder: Path, text: str = RECIPE) -> Recipe:
    """The recipe, read from a file."""
    from moeload_bench.generator.recipe import load_recipe

    return load_recipe(str(write_recipe(folder, text)))


def text_recipe(folder: Path, text: str = RECIPE) -> str:
    """The small recipe on folders of text, which other processes find as well."""
    for name, line in (("prose", "the sun also rises and sets over the sea"), ("code", "def f(x): return x + 1")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        lines = [f"{line} {i * 7919 % 1000}\n" for i in range(4000)]
        (folder / name / "text.txt").write_text("".join(lines), encoding="utf-8")
        text = text.replace(f'"{name}"', f'"folder:{folder / name}"')
    return text


def assert_equal(got: Trace, expected: Trace) -> None:
    """Every column but the wall time is the same."""
    np.testing.assert_array_equal(got.step_S, expected.step_S)
    np.testing.assert_array_equal(got.load_SLE, expected.load_SLE)
    assert got.columns.keys() == expected.columns.keys()
    for name in got.columns.keys() - {"step_time_s"}:
        np.testing.assert_array_equal(got.columns[name], expected.columns[name], err_msg=name)


def interrupt(job: Job, at_step: int) -> None:
    """Begin a recording and break it off by an exception before a step."""

    class BrokenOffError(Exception):
        pass

    def progress(step: int, row: dict[str, Any]) -> None:
        if step == at_step:
            raise BrokenOffError

    from moeload_bench.generator.training import record_recipe  # needs torch

    with pytest.raises(BrokenOffError):
        record_recipe(job, progress=progress)
