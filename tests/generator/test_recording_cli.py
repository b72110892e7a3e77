"""`moeload-bench record`, `recipes` and `corpora` as a user types them."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.errors import NotFoundError, RecordingError
from moeload_bench.generator.recipe import list_recipes
from moeload_bench.traces.store import read_trace
from tests.support.recording.recipes import use_small_text, write_recipe


def call(*words: object) -> str:
    """Standard output of a command; its own errors come through."""
    found = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_recipes_are_listed_with_what_they_are_for() -> None:
    """Every recipe has a line that says what it is for."""
    listed = json.loads(call("recipes", "list", "--json"))
    assert [entry["name"] for entry in listed] == list_recipes()
    assert all(entry["about"] for entry in listed)
    assert "olmoe-64e-top8" in json.dumps(listed)


def test_a_recipe_is_shown_with_its_defaults() -> None:
    """`show` prints what is read, also keys that the file leaves out."""
    assert json.loads(call("recipes", "show", "qwen3moe-tiny-8e", "--json"))["optimizer"]["beta2"] == 0.95
    assert "top" in call("recipes", "show", "qwen3moe-tiny-8e")


def test_corpora_are_listed_with_their_licences() -> None:
    """No corpus without a licence."""
    listed = json.loads(call("recipes", "corpora", "list", "--json"))
    assert all(entry["licence"] and "==" in entry["origin"] for entry in listed)


@pytest.mark.parametrize(("steps", "said"), [(3, True), (4, False)])
def test_a_trial_that_ends_within_the_warm_up_says_so(
    steps: int, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe warms up for 3 steps: as few are recorded all the same, with a line on it beside the trace's path."""
    use_small_text(monkeypatch)
    words = ["record", str(write_recipe(tmp_path)), "--steps", str(steps), "--out", str(tmp_path / "runs")]
    found = CliRunner().invoke(app, words, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert ("--steps 3 ends within the warm-up of 3 steps: the learning rate only rises" in found.stderr) == said
    assert not read_trace(tmp_path / "runs/small/test/seed0.parquet").meta.complete


@contextmanager
def heeded(number: signal.Signals) -> Iterator[None]:
    """Let no signal be ignored: a shell's `nohup make test &` hands that on, and a recording respects it."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_recording_that_is_told_to_stop_keeps_every_step(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, a scheduler's timeout, a closed session: all steps are on disk, the command to go on is said and works;
    without --resume or --fresh nothing begins where an unfinished recording lies."""
    use_small_text(monkeypatch)
    words = ["record", str(write_recipe(tmp_path)), "--steps", "6", "--out", str(tmp_path / "runs")]
    words += ["--shard-steps", "7"]

    @contextmanager
    def stopping(steps: int) -> Iterator[Any]:
        yield lambda step, row: signal.raise_signal(number) if step == 2 else None, lambda stage: None

    with monkeypatch.context() as patched, heeded(number):
        patched.setattr("moeload_bench.cli.record.step_progress", stopping)
        stopped = CliRunner().invoke(app, words)
    assert stopped.exit_code == 128 + number
    said = re.search(r"3 steps are on disk\. To go on: moeload-bench (.*)", stopped.stderr)
    assert said is not None
    assert shlex.split(said[1]) == [*words[:2], "--seed", "0", *words[2:], "--resume"]
    with pytest.raises(RecordingError, match="continue with --resume or start from the beginning with --fresh"):
        call(*words)
    if number == signal.SIGTERM:
        call(*words, "--fresh")
    else:
        call(*shlex.split(said[1]))
    assert read_trace(tmp_path / "runs/small/test/seed0.parquet").step_S.tolist() == list(range(6))


def test_what_is_no_recipe_is_answered_with_what_is() -> None:
    """An unknown recipe, corpus or unfinished recording is refused by name."""
    with pytest.raises(NotFoundError, match="unknown recipe 'nope'"):
        call("record", "nope")
    with pytest.raises(NotFoundError, match="unknown corpus 'nope'; there is: cloud-api, django-code"):
        call("recipes", "corpora", "fetch", "nope")
    with pytest.raises(RecordingError, match="no unfinished recording is there"):
        call("record", "nowhere/seed0.parts")


def test_record_without_torch_names_the_extra(tmp_path: Path) -> None:
    """Without torch, `record` says what to install; recipes are listed all the same."""

    def without_torch(*words: str) -> subprocess.CompletedProcess[str]:
        # in a process of its own: modules imported a second time are not those that other tests patch
        code = "import sys; sys.modules['torch'] = None; from moeload_bench.__main__ import main; main()"
        return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)

    refused = without_torch("record", str(write_recipe(tmp_path)), "--out", str(tmp_path / "out"))
    assert refused.returncode == 2
    assert re.search(r"needs the package 'torch'.*moeload-bench\[record\]", " ".join(refused.stderr.split()))
    assert json.loads(without_torch("recipes", "list", "--json").stdout)
