"""Which forecasters a test tells from one: a paired t test over recipes, corrected by Holm within each group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moeload_bench.errors import not_found
from moeload_bench.results import skill
from moeload_bench.results.averages import long
from moeload_bench.results.entry import late_names
from moeload_bench.results.results import Results, levels_of, ratio_of, tasks_of
from moeload_bench.scoring.catalogue import PRIMARY

if TYPE_CHECKING:
    import pandas as pd


def p_values_against(
    results: Results, against: str, by: Sequence[str] = ("state",), metric: str = PRIMARY
) -> pd.DataFrame:
    """Return every other forecaster against one: ``by``, forecaster, skill, p of a paired t test over recipes, and
    p_holm, corrected within each group. NaN with too few recipes. What was scored after a season had closed has
    and changes no p_holm. Raise `NotFoundError` for another forecaster, group or metric.
    """
    levels = levels_of(by)
    errors = tasks_of(results, ratio_of(metric), levels)
    if against not in errors:
        raise not_found("forecaster", against, [str(name) for name in errors])
    late = late_names(results.entries)
    others = [name for name in results.names if name != against]
    run_means = skill.run_means(skill.ratios_to(errors, against), levels)
    votes = skill.votes(run_means, levels, results.suite.twins)[others]
    p = skill.p_values(votes, levels)
    tested = p.copy()
    tested[others if against in late else late] = math.nan
    p_holm = tested.apply(lambda row: skill.holm(row.tolist()), axis=1, result_type="broadcast")
    return long({"skill": skill.skill_of(skill.centers(votes, levels)), "p": p, "p_holm": p_holm}, levels)
