"""`python -m leaderboard COMMAND`: what needs a checkout of the repository, run from its root."""

from __future__ import annotations

from moeload_bench.__main__ import run_program
from moeload_bench.cli.lazy import CommandTable, lazy_app
from moeload_bench.errors import MoeloadError

COMMANDS = {
    "season": "Evaluation on unseen runs: open, draw, record, score, suite, check.",
    "verify": "Verify a submission by running it.",
    "reproduce": "Run the committed results of a suite again and compare.",
    "cases": "Write the catalogue `routing-cases` into traces/.",
    "forks": "Measure how much of a future can be known, where runs were continued several times from one state.",
    "paper": "Redo the figures, the error table and the claims of arXiv 2404.16914, which named the two states.",
    "pages": "Make the generated parts of README.md, docs/ and the dataset's card, or check them.",
    "site": "Build the leaderboard's static site from the committed results.",
    "runs": "Print the runs of a suite's plan, in the order of recording: RECIPE SEED SPLIT.",
    "freeze": "Freeze a suite: its traces by hash, its origins by the state rule.",
    "facts": "Compute what depends only on a suite's traces, once it is frozen.",
    "submit-baselines": "Write the baselines' submissions from their results on the newest suite.",
    "dataset": "Write the folder of the dataset: the runs of traces/ and of the scored seasons, with its card.",
    "models": "Write a model repository for each entry, and the lines for the Hub's list of frameworks.",
}
"""Each command with its line in the help of all: the first of its own help, here so that `--help` imports none."""
ROOMS = {
    "runs": "suites.plan", "freeze": "suites.freeze", "facts": "suites.facts",
    "dataset": "hub.dataset", "models": "hub.models", "season": "season.command", "cases": "routing.command",
    "submit-baselines": "verifying.baselines", "verify": "verifying.command",
    **{name: f"{name}.command" for name in ("paper", "pages", "site")},
}  # fmt: skip
"""The module of a command, below this package, where it is not that of its name."""


def module_of(name: str) -> str:
    """Return the module of a command."""
    return f"leaderboard.{ROOMS.get(name, name.replace('-', '_'))}"


app = lazy_app(
    "leaderboard",
    "Make and check the leaderboard of moeload-bench: in a checkout of the repository, from its root.",
    CommandTable(COMMANDS, module_of),
)


def main() -> None:
    """Run a command; an error raised on purpose or by the system is one line on standard error and status 2."""
    run_program("leaderboard", _run)


def _run() -> None:
    try:
        app()
    except ModuleNotFoundError as error:
        raise MoeloadError(f"{error.name} is not installed; in the checkout: pip install -e '.[all,dev]'") from None


if __name__ == "__main__":
    main()
