"""Claims on balancing were fixed before the runs; the page says what file and runs give."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leaderboard.balancing.claims import Claims, committed_claims, outcome
from leaderboard.balancing.forecasts import FORECASTERS, HORIZONS, ORIGINS, known_rows
from leaderboard.balancing.measuring import FACTORS, WINDOWS, measured
from leaderboard.balancing.page import PAGE, page_files, planned_runs
from leaderboard.committed import ROOT, TRACES
from moeload_bench.generator.recipe import load_recipe
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import needs_traces, synthetic_load_SLE

CLAIMS = committed_claims()
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
RUN = "balancing-quantile/test/seed502"


def test_windows_lie_within_the_recipes_and_about_their_switch() -> None:
    """Each claim has one metric, fixed windows that its runs have, and four seeds if it gets a verdict."""
    for claim in CLAIMS.claim:
        runs, against = load_recipe(claim.runs), load_recipe(claim.against)
        for first, end in (claim.window, claim.base or claim.window):
            assert 0 <= first < end <= min(runs.steps, against.steps), claim.name
        assert claim.factor > 1
        assert (len(CLAIMS.seeds_of(claim)) == 4) == claim.verdict
        if claim.verdict:
            assert runs.data.stages == against.data.stages
            assert runs.data.stages[1].start == CLAIMS.switch
            assert claim.window[0] - CLAIMS.switch in (0, 1)


def test_the_page_says_what_the_file_says() -> None:
    """Quotes, links, windows, thresholds, recipes and seeds of the page are those of the file."""
    rows = [line for line in TEXT.splitlines() if line.startswith('| "')]
    assert len(rows) == len(CLAIMS.claim)
    for row, claim in zip(rows, CLAIMS.claim, strict=True):
        windows = [f"steps {first} to {end - 1}" for first, end in (claim.window, claim.base or claim.window)]
        words = (f'"{claim.quote}"', claim.source, claim.author, claim.metric, windows[0])
        assert all(word in row for word in words), claim.name
        assert (windows[1] in row) == (claim.base is not None) or windows[0] == windows[1]
        assert f"{claim.factor:g} times" in row
        assert ("four seeds" in row) == claim.verdict
    for recipe, seeds in planned_runs().items():
        listed = f"| {', '.join(map(str, seeds))} |"
        assert any(line.startswith(f"| `{recipe}` |") and listed in line for line in TEXT.splitlines()), recipe
    assert sum(map(len, planned_runs().values())) == 14


@pytest.mark.parametrize(
    ("seeds", "values", "verdict"),
    [
        ((501, 502, 503, 504), (1.01, 1.02, 1.03, 1.02), "held"),
        ((501, 502, 503, 504), (1.21, 1.22, 1.23, 1.22), "contradicted"),
        ((501, 502, 503, 504), (1.05, 1.15, 1.12, 1.08), "cannot be told"),
        ((501, 502, 504), (1.01, 1.02, 1.03, 1.02), "cannot be told yet: 3 of 4 pairs"),
        ((), (1.01, 1.02, 1.03, 1.02), "cannot be told yet: 0 of 4 pairs"),
    ],
)
def test_a_verdict_is_an_interval_wholly_on_one_side(
    seeds: tuple[int, ...], values: tuple[float, ...], verdict: str
) -> None:
    """Of all four pairs, whose run of either recipe is recorded; with fewer nothing is decided."""
    claim = CLAIMS.claim[0]
    of_seed = dict(zip(CLAIMS.seeds, values, strict=True))

    def series(_: object, recipe: str, seed: int) -> np.ndarray:
        rise = of_seed[seed] if recipe == claim.runs else 2.0
        return np.where(np.arange(1500) < CLAIMS.switch, 1.3, 1.3 * rise)

    found = outcome(CLAIMS, claim, {claim.runs: CLAIMS.seeds, claim.against: seeds}, series)
    assert found.verdict == verdict
    assert np.exp(found.runs_N) == pytest.approx([of_seed[seed] for seed in seeds])
    if len(seeds) == 4:  # 3.1824: the 97.5 % quantile of t with three degrees of freedom
        half = 3.182446 * np.std(np.log(values), ddof=1) / 2
        assert found.interval == pytest.approx((np.log(values).mean() - half, np.log(values).mean() + half), abs=1e-6)
        assert found.contrast[0] == pytest.approx(found.interval[0] - math.log(2))
    else:
        assert np.isnan([*found.interval, *found.contrast]).all()


def test_runs_seen_once_get_no_verdict() -> None:
    """The claim on length is a ratio of one run to another."""
    claim = CLAIMS.claim[-1]
    recorded = {claim.runs: (505,), claim.against: (505,)}
    found = outcome(
        CLAIMS, claim, recorded, lambda _, recipe, seed: np.full(1000, 2.0 if recipe == claim.runs else 1.0)
    )
    assert (found.verdict, np.exp(found.runs_N).tolist()) == ("", [2.0])


def test_the_file_of_claims_takes_no_other_confidence() -> None:
    """Intervals are made at 95 %: a file that says otherwise is refused, not read as if it did not."""
    with pytest.raises(ValueError, match="confidence"):
        Claims.model_validate({**CLAIMS.model_dump(), "confidence": 0.9})


def _cells(row_of: str, column: str) -> list[str]:
    """Return the cells of a column in the rows that begin so, in the first table that has both."""
    lines = TEXT.splitlines()
    for place, line in enumerate(lines):
        heads = [head.strip() for head in line.strip("|").split("|")]
        if line.startswith("|") and column in heads and lines[place + 1].startswith("|--"):
            body = itertools.takewhile(bool, lines[place + 2 :])
            rows = (row.strip("|").split("|") for row in body if row.startswith(row_of))
            found = [row[heads.index(column)].strip() for row in rows]
            if found:
                return found
    raise AssertionError((row_of, column))


@needs_traces
def test_three_numbers_of_the_page_are_those_of_plain_numpy() -> None:
    """A claim's ratio, what the switch moves, and the tokens over a capacity factor, from the counts alone."""
    load = read_trace(TRACES / f"{RUN}.parquet").load_SLE.astype(float)
    mean = load.mean(axis=2)
    busiest = (load.max(axis=2) / mean).mean(axis=1)
    ratio = busiest[1000:1050].mean() / busiest[950:1000].mean()
    seeds = [int(seed) for seed in re.findall(r"`balancing-quantile/test/seed(\d+)` \| \d", TEXT)]
    both = [seed for seed in seeds if f"`balancing-aux/test/seed{seed}` |" in TEXT]
    (ratios,) = _cells("| robust ", "quantile bias")
    assert ratios.split(", ")[both.index(502)] == f"{ratio:.3f}"

    share = [
        load[rows].sum(axis=0) / load[rows].sum(axis=(0, 2))[:, None] for rows in (slice(990, 1000), slice(1000, 1010))
    ]
    moved = np.abs(share[1] - share[0]).sum(axis=1).mean() / 2
    assert _cells(f"| `{RUN}` ", "moved by the switch") == [f"{100 * moved:.1f} %"]

    runs = [read_trace(TRACES / f"balancing-quantile/test/seed{seed}.parquet").load_SLE[950:1000] for seed in seeds]
    over = [np.maximum(one - 1.25 * one.mean(axis=2, keepdims=True), 0).sum() / one.sum() for one in runs]
    found = next(cell for cell in _cells("| `balancing-quantile` (", "factor 1.25"))
    assert found.split(" to ")[0] == f"{100 * np.mean(over):.1f}"


@needs_traces
def test_the_committed_page_is_what_the_runs_give() -> None:
    """No number was typed, and every recorded run has its forecasts in the file beside the claims."""
    for path, made in page_files().items():
        assert path.read_text(encoding="utf-8") == made, "run `python -m leaderboard pages balancing`"


def _planted(steps: int, switch: int, back: int) -> Trace:
    """Return even loads whose first expert takes 1.8 times its share from the switch on, for ``back`` steps."""
    load_SLE = np.full((steps, 2, 8), 100)
    load_SLE[switch : switch + back, :, 0] += 80
    load_SLE[switch : switch + back, :, 1] -= 80
    columns = {"loss": np.ones(steps, dtype=np.float32), "micro_max": load_SLE // 4, "load_half": load_SLE // 2}
    return Trace.from_arrays(load_SLE, top_k=2, recipe="balancing-quantile", columns=columns)


def test_what_was_planted_is_found() -> None:
    """A run's switch moves a tenth of the tokens; one of ten steps may be uneven when loads are back."""
    run = measured(_planted(1500, 1000, 30), 1000)
    assert run.switch is not None
    assert (run.switch.moved, run.switch.moved_before) == pytest.approx((0.1, 0))
    assert run.switch.back == 29
    assert run.imbalance == pytest.approx({"early": 1, "before": 1, "after": 1 + 0.8 * 30 / 50, "late": 1})
    assert run.overflow["after", 1.5][0] == pytest.approx(0.3 / 8 * 30 / 50)
    assert run.dead == {"early": 0, "before": 0, "after": 0, "late": 0}
    short = measured(_planted(1000, 500, 0), 1000)
    assert short.switch is None
    assert [*short.imbalance] == ["early", "before"]
    assert {factor for _, factor in short.overflow} == {*FACTORS}


def test_forecasts_are_replayed_only_for_runs_that_the_file_lacks(tmp_path: Path) -> None:
    """A run whose data are another's is made again; its rows hold every window, horizon and forecaster."""
    load_SLE = synthetic_load_SLE(1200, 1, 8)
    trace = Trace.from_arrays(load_SLE, top_k=2, recipe="balancing-quantile", columns={"load_half": load_SLE // 2})
    rows = known_rows([trace], tmp_path / "none.csv")
    assert len(rows) == 2 * len(HORIZONS) * len(FORECASTERS)
    assert (rows["reaction"] <= rows["imbalance"] + 1e-6)[rows["horizon"] == 1].all()
    path = tmp_path / "forecasts.csv"
    rows.assign(error=7.0).to_csv(path, index=False)
    assert (known_rows([trace], path)["error"] == 7.0).all()
    pd.read_csv(path).assign(data_sha256="0" * 64).to_csv(path, index=False)
    pd.testing.assert_frame_equal(known_rows([trace], path), rows)
    assert ORIGINS["before"][-1] + HORIZONS[-1] <= WINDOWS["before"][1]
