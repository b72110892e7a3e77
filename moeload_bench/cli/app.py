"""The command line: which commands there are. Each is a module of `moeload_bench.cli`, imported when it is called."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Annotated

import typer

from moeload_bench.cli.lazy import CommandTable, lazy_app

COMMANDS = {
    "traces": "See which traces there are and what is in them.",
    "inspect": "See whether a run is healthy: settled, balanced, what to do.",
    "plan": "Decide whether and how often to re-plan experts, and what that saves.",
    "run": "Score forecasters on a suite, or on your own trace.",
    "check": "Check that a forecaster keeps the contract, on small synthetic runs.",
    "record": "Train a recipe and record the load of every expert in every step.",
    "recipes": "See the training configurations that can be recorded.",
    "import": "Turn counts of engines, arrays and tables into a trace.",
    "export": "Write forecasts, traces, routing, figures, checkpoints for other tools.",
    "validate": "Check traces against the format, and both hashes.",
    "submit": "Submit a forecaster to the leaderboard.",
    "publish": "Publish a folder of traces on the Hugging Face Hub.",
}
"""Each command with its line in the list of all. It repeats the command's own first line, so `--help` imports none."""


_TOOLS = {"inspect": "inspect", "plan": "plan", "import": "import_", "export": "export"}
"""The commands of `moeload_bench.ops`, each with its module."""


def module_of(name: str) -> str:
    """Return the module of a command."""
    return f"moeload_bench.ops.commands.{_TOOLS[name]}" if name in _TOOLS else f"moeload_bench.cli.{name}"


app = lazy_app(
    "moeload-bench",
    "Traces and a benchmark for forecasting expert load while Mixture-of-Experts models train.",
    CommandTable(COMMANDS, module_of),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_of("moeload-bench"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass
