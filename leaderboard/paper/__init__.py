"""`python -m leaderboard paper`: the founding paper's figures, table and claims, redone on recorded traces.

    facts      what the paper says, with citations (paper.toml)
    choice     which traces are close enough to its setup, and why the others are not
    study      the numbers, as records
    measuring  what is measured on a run
    claims     the paper's claims, and the rule that judges them
    verdicts   where the measured numbers agree with them
    page       all of it as Markdown
    files      the texts that are written
    forecasts  forecasts at one origin, for a figure
    figures    the counterparts of its figures

A module imports those above it only.
"""
