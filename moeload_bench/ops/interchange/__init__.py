"""Logs of engines in, placements and series out: one module per foreign format (`formats` lists what can be read)."""
