"""`python -m leaderboard paper`: the founding paper's figures, table and claims, redone on recorded traces.

    facts      what the paper says, and the runs it is redone on (paper.toml)
    measuring  a run to a row of runs.csv and its rows of errors.csv
    claims     both tables, and where they agree with the paper's claims
    page       all of it as Markdown
    figures    the counterparts of its figures

A module imports those above it only.
"""
