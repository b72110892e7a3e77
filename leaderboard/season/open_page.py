"""docs/reports/season-NAME.md of a season that is open: its terms, and how likely its tests are to pass."""

from __future__ import annotations

import math
from pathlib import Path

from leaderboard.committed import REPORTS
from leaderboard.season.claims import question
from leaderboard.season.contrast import window_words
from leaderboard.season.folder import SEASONS, SeasonFolder
from leaderboard.season.power import all_pass_at_least, powers
from leaderboard.season.records import RecipeSet, Season
from leaderboard.season.scored import ScoredSeason, scored_seasons
from leaderboard.templates import render_text
from moeload_bench.generator.distribution import Distribution
from moeload_bench.generator.draws import load_distribution
from moeload_bench.results.formats import signed_percent
from moeload_bench.results.render import markdown_table


def open_files(root: Path = SEASONS) -> dict[Path, str]:
    """Return the page of every season that is open and not scored."""
    folders = [SeasonFolder(path.parent) for path in sorted(root.glob("*/season.toml"))]
    waiting = [season for season in folders if season.scores is None]
    scored = scored_seasons(root) if waiting else []
    return {
        REPORTS / f"season-{folder.path.name}.md": open_page(
            folder, next((season for season in scored if season.season.opened < folder.season.opened), None)
        )
        for folder in waiting
    }


def open_page(folder: SeasonFolder, older: ScoredSeason | None) -> str:
    """Return the page of a season that is open and not scored; ``older``: the season whose variances it counts on."""
    season = folder.season
    files = {group.name: folder.path / group.distribution for group in season.sets if group.distribution}
    drawn = {name: load_distribution(file) for name, file in files.items()}
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        season=season,
        drawn=(folder.path / "draw.json").is_file(),
        tests=[question(test) for test in season.tests],
        windows=[window_words(season.paired, window) for window in season.paired.windows] if season.paired else [],
        sets=[set_words(group, drawn.get(group.name)) for group in season.sets],
        older=older.name if older else "",
        power=power_table(season, older, drawn) if older and season.families else "",
        known=markdown_table(
            ("file", "uploaded", "SHA-256"),
            [(r.file, f"{r.uploaded:%Y-%m-%d %H:%M:%S} UTC", r.sha256) for r in season.known_releases],
        ),
    )


def set_words(group: RecipeSet, drawn: Distribution | None) -> str:
    """Return what a set holds, in words."""
    if drawn is None:
        return f"Set {group.name}: {', '.join(group.recipes)}"
    minutes = max(drawn.strata[stratum].minutes for stratum in drawn.drawn_strata)
    cells = "; ".join(
        f"{len(cell.families)} families x {' and '.join(cell.methods)} x {cell.runs}" for cell in drawn.cells
    )
    each = f"at most {minutes:g} minutes of a core each by its formula"
    return f"Set {group.name}: {drawn.size} runs from `{group.distribution}`, {each}{cells and f': {cells}'}"


def power_table(season: Season, older: ScoredSeason, drawn: dict[str, Distribution]) -> str:
    """Return the chance of each test to pass, at the older season's effect and at half of it."""
    (tested,) = season.tested
    runs = drawn[tested.name].size // len(season.families)
    tests = list(powers(season, older, runs))
    rows: list[tuple[str, ...]] = [
        (
            question(power.test),
            signed_percent(1 - math.exp(power.effect)),
            f"{power.spread.between:.3f}",
            f"{power.spread.within:.3f}",
            f"{100 * power.chance:.0f}",
            f"{100 * power.chance_without_two:.0f}",
        )
        for power in tests
    ]
    for what, part in (("all of them, at least", tests[::2]), ("all of them at half, at least", tests[1::2])):
        chances = [(power.chance, power.chance_without_two) for power in part]
        least = [all_pass_at_least([pair[i] for pair in chances]) for i in (0, 1)]
        rows.append((what, "", "", "", *(f"{100 * chance:.0f}" for chance in least)))
    heads = ("test", "gain, %", "between families", "within", "passes, %", "passes with two families lacking, %")
    return markdown_table(heads, rows)
