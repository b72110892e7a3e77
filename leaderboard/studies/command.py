"""`python -m leaderboard studies`: measurements, each kept in a file that a page is made from."""

from __future__ import annotations

from moeload_bench.cli.lazy import CommandTable, lazy_app

COMMANDS = {
    "left-out": "Measure how `gated` does on recipes that it has not seen: every cluster of related recipes left out "
    "once.",
    "unseen": "Score `gated`, once and for good, on the test runs of recipes that it was not fitted on; say what is "
    "missing.",
    "reaction": "Measure what forecasting is worth in comparison with exact reaction: plans of several kinds on suite "
    "v1's runs.",
    "oracle-window": "Measure the best fixed window in hindsight on a suite, a yardstick that no forecaster can know.",
    "screening": "Measure what forecasters and memorisers show on the screen of `verify`: what its limits were set on.",
    "drawn": "Measure how often the screen of `verify` finds memorisers that are drawn at random.",
    "state-constants": "Choose the constants of the state rule on `train` runs, and print every candidate and by what "
    "it was chosen.",
}
ROOMS = {"screening": "verifying", "drawn": "verifying", "state-constants": "suites"}


def module_of(name: str) -> str:
    """Return the module of a study."""
    return f"leaderboard.{ROOMS.get(name, 'studies')}.{name.replace('-', '_')}"


app = lazy_app(
    "studies",
    "Measure what the reports rest on: each is kept in a file that a page is made from. The ladder of model sizes is "
    "measured by `pages ladder`.",
    CommandTable(COMMANDS, module_of),
)
