"""The part of docs/guide/live.md that shows which kind of balancing wins on two runs, as the command says it."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator

from typer.testing import CliRunner

from moeload_bench.cli.app import app

RUNS = ("qwen3moe-tiny-8e-aux0/test/seed1", "qwen3moe-tiny-8e/test/seed1")
"""Of the package: the loads of the first move, those of the second hardly do."""
OPTIONS = "--forecaster sw_avg --devices 4 --step-ms 10 --expert-mb 200 --bandwidth 25 --steps-left 100000"
WIDTH = 116


def kinds() -> str:
    """Return each command with the lines on which kind wins, as code."""
    lines = "\n".join(line for run in RUNS for line in _shown(run))
    return f"Of the first run loads differ much, of the second little; both are in the package.\n\n{lines}"


def _shown(run: str) -> Iterator[str]:
    command = f"plan {run} {OPTIONS}"
    output = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False).output
    match = re.search(r"^Best at .*?(?=\n\n)", output, re.MULTILINE | re.DOTALL)
    assert match is not None, output
    yield f"    moeload-bench {command}"
    for sentence in re.split(r"(?=Within the step, each)", " ".join(match[0].split())):
        yield from textwrap.wrap(sentence, WIDTH, initial_indent="    ", subsequent_indent="    ")
    yield ""
