"""Seasons: runs that nobody had when the entries closed, drawn, recorded, scored at once, then revealed and checked."""
