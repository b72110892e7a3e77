"""The leaderboard's static site, built from committed files only (leaderboard/site/README.md)."""
