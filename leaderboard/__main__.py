"""`python -m leaderboard COMMAND`: what needs a checkout of the repository, run from its root."""

from __future__ import annotations

from moeload_bench.__main__ import run_program
from moeload_bench.cli.lazy import CommandTable, lazy_app

COMMANDS = {
    "season": "Runs that nobody had: committed to by hash, drawn after the entries closed, recorded, scored, revealed.",
    "verify": "Verify a submission by running it again.",
    "verify-trace": "Check a trace that somebody else recorded, before it is published.",
    "paper": "Redo the figures, the error table and the claims of arXiv 2404.16914, which named the two states.",
}
"""Each command with its line in the help of all: the first of its own help, here so that `--help` imports none."""
ROOMS = {"season": "season_tools.command", "verify": "verifying.command", "paper": "paper.command"}
"""The module of a command, below this package, where it is not that of its name."""


def module_of(name: str) -> str:
    """Return the module of a command."""
    return f"leaderboard.{ROOMS.get(name, name.replace('-', '_'))}"


app = lazy_app(
    "leaderboard",
    "The leaderboard of moeload-bench, made and checked: for a checkout of the repository, run from its root.",
    CommandTable(COMMANDS, module_of),
)


if __name__ == "__main__":
    run_program("leaderboard", lambda: app)
