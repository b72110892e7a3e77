"""How the site writes numbers, names and metrics; nothing here computes."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from leaderboard.committed import ROOT, SUBMISSIONS
from moeload_bench.results import tables
from moeload_bench.results.html import NONE, number
from moeload_bench.results.record import Result
from moeload_bench.scoring.catalogue import metric_spec, plain_name

NOT_GIVEN = "n/a"


def three_digits(value: float | None) -> str:
    """Format three significant digits, zeros kept, so that a column of them can be read down; a dash for nothing."""
    if value is not None and 1e-4 <= value < 99:
        return f"{value:#.3g}"  # nearly all of a page's millions
    if value is None or math.isnan(value):
        return NONE
    return number(tables.three_digits(value, zeros=True))


def signed_skill(value: float | None) -> str:
    """Skill: three decimals with its sign."""
    return number(tables.signed_skill(value))


def skill_text(skill: float, metric: str) -> str:
    """Skill in a metric; in one of plans with their imbalance against that of the reference's plans, in percent.

    Skill is a ratio of imbalances there, near 0 by nature.
    """
    percents = f" ({number(tables.signed_percent(-skill))} %)" if "@" in metric and math.isfinite(skill) else ""
    return signed_skill(skill) + percents


def percent(value: float | None) -> str:
    """Format a fraction as per cent."""
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"


def interval_text(low: float, high: float) -> str:
    """Format a 95 % interval; `n/a` where the suite is too small for one."""
    return NOT_GIVEN if math.isnan(low) else number(f"{tables.signed(low)} to {tables.signed(high)}")


def megabytes(size: int | None) -> str:
    """Bytes as MB."""
    return NONE if size is None else f"{size / 1e6:.0f} MB"


def named(metric: str) -> str:
    """Return a metric by what it is called, its symbol beside it; the symbol alone of one that has no other name."""
    plain = plain_name(metric)
    return metric if plain == metric else f"{plain} ({metric})"


def metric_unit(metric: str) -> str:
    """Return the unit of a metric; empty for one that the catalogue does not know."""
    spec = metric_spec(metric)
    return spec.unit if spec else ""


def web_link(link: str | None) -> str | None:
    """Return the link if it is one to the web, else None: nothing else becomes a link on the site."""
    return link if link and re.fullmatch(r"https?://[^\s<>\"']+", link) else None


def arguments_text(kwargs: Mapping[str, Any]) -> str:
    """Arguments of a forecaster as `key=value, ...`."""
    return ", ".join(f"{key}={_literal(value)}" for key, value in sorted(kwargs.items()))


def run_command(result: Result) -> str:
    """Return the command that scores the forecaster again on its suite; a stranger's code in the sandbox."""
    base, level = result.forecaster.target.partition("@")[0], result.isolation
    if base.startswith("forecaster.py:"):
        base, level = f"{_folder_of(result)}/{base}", "sandbox"
    given = ",".join(f"{key}={_literal(value)}" for key, value in sorted(result.forecaster.kwargs.items()))
    target = shlex.quote(f"{base}@{given}" if given else base)
    options = f"--suite {result.suite.name} --seed {result.seed} --level {level} --fresh"
    return f"moeload-bench run {target} {options}"


def verify_command(result: Result) -> str:
    """Return the command that maintainers run."""
    return f"python -m leaderboard verify {shlex.quote(_folder_of(result))}"


def _folder_of(result: Result) -> str:
    return (SUBMISSIONS / result.name).relative_to(ROOT).as_posix()


def _literal(value: Any) -> str:
    """Return a TOML literal, as targets take it: JSON's scalars and flat lists are TOML's."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
