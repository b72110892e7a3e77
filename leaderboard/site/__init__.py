"""The leaderboard's static site, built from committed files only (docs/site.md)."""
