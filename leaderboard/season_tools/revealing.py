"""The end of a season: its secret, its traces and its secret recipes become public."""

from __future__ import annotations

import shutil

from leaderboard.season_tools.drawing import all_drawn
from leaderboard.season_tools.folder import SeasonFolder, logged_attempt
from leaderboard.season_tools.records import Reveal
from moeload_bench.errors import SeasonError


def reveal_season(folder: SeasonFolder) -> Reveal:
    """Publish the secret, what follows from it, the traces and the secret recipes; only after the scores.

    Raises `SeasonError` before them.
    """
    plan, draw = folder.plan(), folder.draw()
    if draw is None or folder.scores() is None:
        raise SeasonError(f"season {plan.name} has no scores yet: the secret is revealed after them")
    with logged_attempt(folder, "reveal"):
        secret = folder.secret()
        made = Reveal(season=plan.name, secret=secret, runs=all_drawn(plan, secret, draw.value))
        if folder.recordings != folder.traces:
            unfinished = shutil.ignore_patterns("*.parts")
            shutil.copytree(folder.recordings, folder.traces, dirs_exist_ok=True, ignore=unfinished)
        for recipe in plan.recipes:
            if recipe.secret:
                shutil.copyfile(folder.private / f"{recipe.name}.toml", folder.path / f"{recipe.name}.toml")
        folder.write(made, "reveal.json")
    return made
