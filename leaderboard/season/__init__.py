"""Seasons: entries are copied and fixed, then runs are drawn, recorded and scored, and anybody can score them again."""
