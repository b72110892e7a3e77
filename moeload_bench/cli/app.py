"""The command line: which commands there are. Each is a module of `moeload_bench.cli`, imported when it is called."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Annotated

import typer

from moeload_bench.cli.lazy import CommandTable, lazy_app

COMMANDS = {
    "traces": "See which traces there are and what is in them.",
    "inspect": "See whether a run is healthy: settled, balanced, which expert-parallel size, what to do.",
    "validate": "Check traces against the format: shapes, conservation of counts, gaps, both hashes.",
    "check": "Check that a forecaster keeps the contract, on small synthetic runs; a few seconds for a fast one.",
    "run": "Score forecasters on a suite, or on your own trace.",
    "rescore": "Score kept forecasts by another metric: nothing is run again.",
    "publish": (
        "Publish a folder of traces on the Hugging Face Hub, or with --as the weights of a forecaster or the site."
    ),
    "submit": "Submit a forecaster to the leaderboard.",
    "record": "Train a recipe and record the exact load of every expert in every step.",
    "recipes": "See the training configurations that can be recorded.",
    "corpora": "The training text of the recipes: pinned packages, checked by hash.",
    "plot": "Draw figures of traces and results as .svg, .png or .pdf (extra plot).",
    "plan": "Decide whether and how often to re-plan experts, with which forecaster, and what that saves.",
    "capacity": "Find the capacity factor and the memory that the next steps need, with the risk that they need more.",
    "watch": "Watch a run on the terminal, while it trains or later: states, heat map, dead experts, advice.",
    "report": "Write a run on one page to send to a colleague: what it is, when it stabilised, and what to do.",
    "import": "Turn existing counts into a trace: logs of engines, arrays, tables.",
    "export": "Write forecasts and traces in the forms that other tools read.",
    "permute": "Put the experts of a checkpoint in the order of a plan, for engines that place experts by number.",
    "merge": "Put the traces of pipeline stages together: one trace with the layers of all, by their numbers in the "
    "model.",
}
"""Each command with its line in the list of all. It repeats the command's own first line, so `--help` imports none."""


def module_of(name: str) -> str:
    """Return the module of a command."""
    return f"moeload_bench.cli.{name.replace('-', '_')}" + ("_" if name == "import" else "")


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
