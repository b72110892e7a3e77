"""`python -m leaderboard studies`: measurements, each kept in a file that a page is made from."""

from __future__ import annotations

from moeload_bench.cli.lazy import CommandTable, lazy_app

COMMANDS = {
    "left-out": "Measure `gated` on unseen recipes: every cluster of related recipes is left out once.",
    "unseen": "Score `gated` once and for good on test runs of recipes that it was not fitted on.",
    "regimes": "Score every large, probe and summed run that has no score yet; about a minute of a core each.",
    "travel": "Measure forecasters on `train` runs that they have not learned from, and on other logs of them.",
    "reaction": "Measure what forecasting is worth in comparison with exact reaction, on suite v1's runs.",
    "oracle-window": "Measure the best fixed window in hindsight, a yardstick that no forecaster can know.",
    "screening": "Measure what forecasters and memorisers show on the screen of `verify`.",
    "drawn": "Measure how often the screen of `verify` finds memorisers that are drawn at random.",
}
ROOMS = {"screening": "verifying", "drawn": "verifying"}


def module_of(name: str) -> str:
    """Return the module of a study."""
    return f"leaderboard.{ROOMS.get(name, 'studies')}.{name.replace('-', '_')}"


app = lazy_app(
    "studies",
    "Measure what the reports rest on; the ladder of model sizes is measured by `pages ladder`.",
    CommandTable(COMMANDS, module_of),
)
