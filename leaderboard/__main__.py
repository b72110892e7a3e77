"""`python -m leaderboard COMMAND`: what needs a checkout of the repository, run from its root."""

from __future__ import annotations

from moeload_bench.__main__ import run_program
from moeload_bench.cli.lazy import CommandTable, lazy_app
from moeload_bench.errors import MoeloadError

COMMANDS = {
    "season": "Runs that nobody had: committed to by hash, drawn after the entries closed, recorded, scored, revealed.",
    "verify": "Verify a submission by running it again.",
    "verify-trace": "Check a trace that somebody else recorded, before it is published.",
    "reproduce": "Run the committed results of a suite again and compare.",
    "paper": "Redo the figures, the error table and the claims of arXiv 2404.16914, which named the two states.",
    "pages": "Make the generated parts of README.md, docs/ and the dataset's card, or check that they are what the "
    "code gives.",
    "results": "Print what docs/reports/results.md would say of one suite, from results in any folder; write nothing.",
    "site": "Build the leaderboard's static site from the committed results.",
    "runs": "Print the runs of a suite's plan for the recording script: RECIPE SEED SPLIT, in the order of recording.",
    "freeze": "Freeze a suite: write its traces by hash and its origins by the state rule into moeload_bench/suites/.",
    "facts": "Compute what depends only on a suite's traces, once it is frozen: "
    "moeload_bench/data/reference/SUITE.traces.json.",
    "freeze-code": "Freeze the code of committed results, those of seasons and pilots too, in leaderboard/frozen.",
    "submit-baselines": "Write the submissions of the package's baselines from their results on the suite that takes "
    "submissions.",
    "demonstration": "Write the memoriser of a public suite as a submission, which a season shows with its entries, "
    "without a rank.",
    "fit-gated": "Make the weights that `gated` ships with: fitted on the `train` runs of suite v1, as `evaluate` fits "
    "them.",
    "studies": "Measure what the reports rest on: each is kept in a file that a page is made from. The ladder of model "
    "sizes is measured by `pages ladder`.",
}
"""Each command with its line in the help of all: the first of its own help, here so that `--help` imports none."""
ROOMS = {
    "season": "season_tools.command",
    "verify": "verifying.command",
    "paper": "paper.command",
    "pages": "pages.command",
    "results": "pages.results",
    "site": "site.command",
    "runs": "suites.plan",
    "freeze": "suites.freeze",
    "facts": "suites.facts",
    "submit-baselines": "verifying.baselines",
    "demonstration": "verifying.demonstration",
    "studies": "studies.command",
}
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
    run_program("leaderboard", lambda: _run)


def _run() -> None:
    try:
        app()
    except ModuleNotFoundError as error:
        raise MoeloadError(f"{error.name} is not installed; in the checkout: pip install -e '.[all,dev]'") from None


if __name__ == "__main__":
    main()
