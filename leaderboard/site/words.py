"""How the site writes numbers, names and metrics; nothing is computed with them."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from leaderboard.committed import ROOT, SUBMISSIONS
from moeload_bench.results import formats
from moeload_bench.results.entry import Entry
from moeload_bench.results.render import NONE, number
from moeload_bench.scoring.catalogue import lower_is_better, plain_name

NOT_GIVEN = "n/a"
Facts = list[tuple[str, str]]
"""Names with what is said of them."""


def three_digits(value: float | None) -> str:
    """Format three significant digits with zeros at the end, so that columns line up; a dash for nothing."""
    return number(formats.three_digits(value, zeros=True))


def signed_skill(value: float) -> str:
    """Format a skill with three decimals and its sign; a dash for nothing."""
    return number(formats.signed_skill(value))


def interval_text(low: float, high: float) -> str:
    """Format a 95 % interval; `n/a` where there are too few recipes for one."""
    return NOT_GIVEN if math.isnan(low) else number(f"{formats.signed(low)} to {formats.signed(high)}")


def named(metric: str) -> str:
    """Return the plain name of a metric with its symbol: `misplaced tokens, as a fraction (window_tv)`."""
    plain = plain_name(metric)
    return metric if plain == metric else f"{plain} ({metric})"


def direction(metric: str) -> str:
    """Return which direction of a metric is better: `less is better`; empty for a description."""
    lower = lower_is_better(metric)
    return "" if lower is None else f"{'less' if lower else 'more'} is better"


def fact_text(value: object) -> str:
    """Return the text of a fact; a dash for nothing."""
    return NONE if value is None or value == "" else str(value)


def web_link(link: str | None) -> str | None:
    """Return a link to the web; None for any other link, which the site shows as text."""
    return link if link and re.fullmatch(r"https?://[^\s<>\"']+", link) else None


def arguments_text(kwargs: Mapping[str, Any]) -> str:
    """Return arguments of a forecaster as `key=value, ...`."""
    return ", ".join(f"{key}={_literal(value)}" for key, value in sorted(kwargs.items()))


def run_command(entry: Entry) -> str:
    """Return the command that scores a forecaster on its suite; a submission's code runs in the sandbox."""
    base, level = entry.target.partition("@")[0], entry.isolation
    if base.startswith("forecaster.py:"):
        base, level = f"{_folder_of(entry)}/{base}", "sandbox"
    given = ",".join(f"{key}={_literal(value)}" for key, value in sorted(entry.kwargs.items()))
    target = shlex.quote(f"{base}@{given}" if given else base)
    return f"moeload-bench run {target} --suite {entry.suite.name} --seed {entry.seed} --level {level} --fresh"


def verify_command(entry: Entry) -> str:
    """Return the command that maintainers run."""
    return f"python -m leaderboard verify {shlex.quote(_folder_of(entry))}"


def _folder_of(entry: Entry) -> str:
    return (SUBMISSIONS / entry.name).relative_to(ROOT).as_posix()


def _literal(value: Any) -> str:
    """Return a TOML literal, as targets take it: JSON's scalars and flat lists are TOML's."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
