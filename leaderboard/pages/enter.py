"""docs/guide/enter.md: the three steps from a class to a pull request, with the one address of the repository."""

from __future__ import annotations

from pathlib import Path

from leaderboard.pages.inputs import newest_season
from leaderboard.pages.parts import page_of_parts
from leaderboard.season.folder import SEASONS, SeasonFolder
from leaderboard.site.inputs import score_command
from moeload_bench.suites.suite import default_suite
from moeload_bench.words import REPOSITORY

CLASS = """\
    import numpy as np

    class Mine:
        def __init__(self, info, seed):    # what is known before the run
            self.share_LE = np.full((info.num_layers, info.num_experts), 1 / info.num_experts)

        def observe(self, block):          # the steps that have just been trained
            load_LE = block.load_SLE[-1]
            total_L1 = load_LE.sum(axis=1, keepdims=True)
            self.share_LE = np.where(total_L1 > 0, load_LE / total_L1.clip(1), self.share_LE)

        def forecast(self, request):       # how the tokens of the steps to come will spread
            return self.share_LE
"""


INSTALL = "python3 -m venv .venv && . .venv/bin/activate && pip install -e ."


def steps() -> str:
    """Return what to write, what to run and what to open."""
    season = newest_season()
    closed = score_command(season.name).replace("mine.py", "my.py") if season else ""
    run = [
        "git clone --depth 1 YOUR_FORK moeload-bench && cd moeload-bench",
        INSTALL,
        "cp YOUR_FORECASTER my.py",
        "moeload-bench check my.py:Mine",
        "moeload-bench run my.py:Mine sw_avg --level sandbox --out mine.parquet",
        *([f"{closed} --level sandbox"] if closed else []),
    ]
    submit = 'moeload-bench submit my.py:Mine --name mine --author "A. Uthor" --licence MIT --results mine.parquet'
    send = [
        f"{submit} --dry-run",
        submit,
        "python -m leaderboard verify leaderboard/submissions/mine --check-only --incoming",
        'git switch -c submit-mine && git add leaderboard && git commit -m "Submission mine"',
        "git push -u origin submit-mine",
    ]
    return "\n".join(
        [
            "**1. Write** a class of three methods in one file ([tutorial](tutorial-forecasting.md)):",
            "",
            CLASS,
            f"**2. Run** it in your fork of {REPOSITORY}: the rules of the contract, the small suite, the last season "
            f"(`--suite {default_suite()}` is the suite to cite):",
            "",
            *(f"    {line}" for line in run),
            "",
            "**3. Open** a pull request of your code, its requirements and your own run of the small suite. `submit` "
            "says each rule that it checks, and each package that your code imports and no requirement pins "
            "(`--requirements FILE`).",
            "",
            *(f"    {line}" for line in send),
        ]
    )


def upcoming(root: Path = SEASONS) -> str:
    """Return whether a season takes entries, and when it closes: with the commit that opens it."""
    waiting = (SeasonFolder(path.parent) for path in sorted(root.glob("*/season.toml")))
    opened = [folder.season for folder in waiting if folder.scores is None]
    rule = "A season closes to entries with the commit that adds its `season.toml`, and that commit holds its terms"
    if not opened:
        return f"The next season takes every submission that is merged until it opens; no date is set. {rule}."
    season = opened[-1]
    return (
        f"Season {season.name} has its entries since {season.opened:%Y-%m-%d} and is not scored yet; what is merged "
        f"now enters the next one. {rule}: `leaderboard/seasons/{season.name}/season.toml`."
    )


ENTER = page_of_parts("docs/guide/enter.md", {"steps": steps, "next": upcoming})
