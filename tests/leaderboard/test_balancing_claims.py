"""What decides each claim on balancing was fixed before the runs; the page says the same as the file."""

from __future__ import annotations

from pathlib import Path

from moeload_bench.generator.recipe import load_recipe
from moeload_bench.schema import load_toml

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = load_toml((ROOT / "leaderboard" / "balancing" / "claims.toml").read_text(encoding="utf-8"))


def test_windows_lie_within_the_recipes_and_about_their_switch() -> None:
    """Each claim has one metric, fixed windows that its runs have, and four seeds if it gets a verdict."""
    for claim in CLAIMS["claim"]:
        runs, against = load_recipe(claim["runs"]), load_recipe(claim["against"])
        for first, end in (claim["window"], claim.get("base", claim["window"])):
            assert 0 <= first < end <= min(runs.steps, against.steps), claim["name"]
        assert claim["factor"] > 1
        assert claim["metric"] in ("imbalance", "overflow")
        assert (len(claim.get("seeds", CLAIMS["seeds"])) == 4) == claim["verdict"]
        if claim["verdict"]:
            assert runs.data.stages == against.data.stages
            assert runs.data.stages[1].start == CLAIMS["switch"]
            assert claim["window"][0] - CLAIMS["switch"] in (0, 1)


def test_the_page_says_what_the_file_says() -> None:
    """Quotes, links, windows, thresholds, recipes and seeds of the page are those of the file."""
    page = (ROOT / "docs" / "reports" / "balancing.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith('| "')]
    assert len(rows) == len(CLAIMS["claim"])
    for row, claim in zip(rows, CLAIMS["claim"], strict=True):
        windows = [
            f"steps {first} to {end - 1}" for first, end in (claim["window"], claim.get("base", claim["window"]))
        ]
        words = (f'"{claim["quote"]}"', claim["source"], claim["author"], claim["metric"], windows[0])
        assert all(word in row for word in words), claim["name"]
        assert (windows[1] in row) == ("base" in claim) or windows[0] == windows[1]
        assert f"{claim['factor']:g} times" in row
        assert ("four seeds" in row) == claim["verdict"]
        seeds = ", ".join(map(str, claim.get("seeds", CLAIMS["seeds"])))
        for recipe in (claim["runs"], claim["against"]):
            assert any(f"| `{recipe}` |" in line and f"| {seeds} |" in line for line in page.splitlines()), recipe
