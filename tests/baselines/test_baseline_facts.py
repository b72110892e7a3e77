"""What a baseline says of itself in its own file."""

from __future__ import annotations

from collections import Counter

from moeload_bench.baseline_facts import baseline_facts, ordered
from moeload_bench.isolation.targets import baseline_names, parse_target


def test_every_baseline_states_its_own_facts() -> None:
    """A file without facts would have no colour; a name must stand for something that can be parsed."""
    targets = {facts.target or name for name, facts in baseline_facts().items()}
    assert set(baseline_names()) <= targets
    for name in baseline_facts():
        parse_target(name)


def test_no_two_forecasters_share_a_place() -> None:
    """Neither a colour with its marker, nor a place among those that a command compares."""
    facts = baseline_facts().values()
    for field in ("place", "own_run", "plan"):
        places = Counter(getattr(each, field) for each in facts if getattr(each, field) is not None)
        assert max(places.values()) == 1, field
        assert set(ordered("plan")) <= set(ordered("own_run"))
