"""The command line: which commands there are. Each is a module of `moeload_bench.cli`, imported when it is called."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import version as version_of
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

COMMANDS = {
    "traces": "See which traces there are and what is in them.",
    "validate": "Check traces against the format: shapes, conservation of counts, gaps, both hashes.",
    "check": "Does a forecaster keep the contract? Small synthetic runs, a few seconds for a fast forecaster.",
    "run": "Score forecasters on a suite, or on your own trace.",
    "rescore": "Score kept forecasts by another metric: nothing is run again.",
    "publish": "Publish a folder of traces on the Hugging Face Hub.",
    "submit": "Submit a forecaster to the leaderboard.",
    "verify": "Verify a submission by running it again.",
    "contribute": "Give a trace to the dataset: one pull request that adds it under community/.",
    "verify-trace": "Check a trace that somebody else recorded, before it is published.",
    "record": "Train a recipe and record the exact load of every expert in every step.",
    "recipes": "See the training configurations that can be recorded.",
    "corpora": "The training text of the recipes: pinned packages, checked by hash.",
    "season": "Runs that nobody had: committed to by hash, drawn after the entries closed, recorded, scored, revealed.",
    "plot": "Draw figures of traces and results as .svg, .png or .pdf (extra plot).",
    "plan": "How often should experts be re-placed, and what does it save? Simulated over a whole trace, "
    "migration charged.",
    "watch": "A run on the terminal while it trains, or after: states, heat map, dead experts, forecasts, advice.",
    "report": "A run on one page to send to a colleague: what it is, when it stabilised, and what to do.",
    "import": "Turn counts that somebody has already into a trace: logs of engines, arrays, tables.",
    "export": "Write forecasts and traces in the forms that other tools read.",
    "merge": "Put the traces of pipeline stages together: one trace with the layers of all, by their numbers in the "
    "model.",
    "reproduce": "Redo published work on recorded traces.",
}
"""Each command with its line in the help of all: the first of its own help, here so that `--help` imports none."""


_PLAIN_BRACKET = re.compile(r"(?<!\\)\[(?!/?bold\])")


class LazyCommands(TyperGroup):
    """The commands of `COMMANDS`: listed from there, imported only when one is resolved."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that holds a command's line of help; None for an unknown name."""
        about = COMMANDS.get(cmd_name)
        return about and TyperCommand(cmd_name, help=about, rich_markup_mode="rich")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself, for the arguments that name it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(str(name)), rest


def load_command(name: str) -> Any:
    """A command with its options, from its module: a group named ``app`` there, or a function named as the command."""
    module_name = name.replace("-", "_") if name != "import" else "import_"
    module = import_module(f"moeload_bench.cli.{module_name}")
    outer = typer.Typer(add_completion=False, rich_markup_mode="rich")
    if hasattr(module, "app"):
        outer.add_typer(module.app, name=name)
    else:
        outer.command(name)(getattr(module, module_name))
    return with_brackets(get_group(outer).commands[name])


def with_brackets(command: Any) -> Any:
    """The command, whose help shows `[steps, layers]` as it stands: only `[bold]` and `[/bold]` are markup in it."""
    for owner in (command, *command.params):
        if getattr(owner, "help", None):
            owner.help = _PLAIN_BRACKET.sub(r"\\[", owner.help)
    for below in getattr(command, "commands", {}).values():
        with_brackets(below)
    return command


app = typer.Typer(
    name="moeload-bench",
    cls=LazyCommands,
    help="Traces and a benchmark for forecasting expert load while Mixture-of-Experts models train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
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
