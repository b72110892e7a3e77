"""`python -m leaderboard shapes`: what layers do at the depth of models that people train.

    measuring  a run to its row of runs.csv, its layers to theirs of layers.csv
    page       both tables as docs/reports/shapes.md, with two figures

A module imports those above it only.
"""
